"""What was asked and answered: conversations in the ledger's file, for people to find, and to go on with.

A turn is what was asked and what was answered to it. Texts that look like keys are kept as `***`; an image is kept
once, whichever turns show it. `keep` never fails: an answer is worth more than its record. This module knows no
terminal, no engine, and not who wants a history.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bx.converse import text
from bx.ledger.redaction import without_secrets

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from bx.ledger.store import Store

Message = dict[str, Any]
Place = tuple[str | int, ...]

_log = logging.getLogger("bx.ledger")
_PATIENCE = 2000  # milliseconds that an answer's end waits for other processes that write
_EXCERPT = 60  # characters of the text around a word that was found
_INDEX = """
CREATE VIRTUAL TABLE IF NOT EXISTS turns_search USING fts5(
    prompt, answer, content = 'turns', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
)
"""
_TURN = "id, conversation, at, model, model_id, system, prompt, answer, messages, stop_reason, usage"


class UnknownConversation(ValueError):
    """There is no such conversation; `fix` says where the others are listed."""

    exit_code = 2
    fix = "See bx log"


class Turn(NamedTuple):
    """What was asked and answered.

    `messages` are those that were added to the conversation, in Converse's spelling, the answer last. `model` is the
    name that was given, `model_id` what was sent; `at` is in Unix seconds, `usage` in tokens.
    """

    model: str
    model_id: str
    messages: list[Message]
    system: str | None = None
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None
    at: float = 0

    @property
    def prompt(self) -> str:
        """The text that was asked."""
        return "\n\n".join(filter(None, map(_text, self.messages[:-1])))

    @property
    def answer(self) -> str:
        """The text that was answered."""
        return _text(self.messages[-1])


class Conversation(NamedTuple):
    """A conversation and its turns, the first one first."""

    id: int
    turns: list[Turn]

    def messages(self) -> list[Message]:
        """Return all messages, as they can be sent in a request that goes on with them."""
        return [message for turn in self.turns for message in sendable(turn.messages)]


class Summary(NamedTuple):
    """A conversation in a list.

    `started` and `changed` are in Unix seconds. `prompt` is the first one, `answer` the last; `found` the text around
    the words that were searched for. The model and the system prompt are those of the last turn.
    """

    id: int
    started: float
    changed: float
    turns: int
    model: str
    model_id: str
    system: str | None
    prompt: str
    answer: str
    found: str


def sendable(messages: Sequence[Message]) -> list[Message]:
    """Return a turn's messages as a later request may have them; none where the answer has no text.

    Reasoning is left out, which is signed for its own turn only, and so are calls of tools, whose results would have
    to follow; blank texts are refused on their way back.
    """
    *asked, answer = messages
    content = [{"text": block["text"]} for block in answer["content"] if block.get("text", "").strip()]
    return [*asked, {**answer, "content": content}] if content else []


# ---- keeping --------------------------------------------------------------------------------------------------


def keep(store: Store, turns: Sequence[Turn], number: int | None = None, *, quietly: bool = False) -> int | None:
    """Keep turns as the next ones of a conversation, or as the first of a new one; never raises.

    Returns:
        The conversation, or None where nothing could be kept; why is logged, unless that is to be done `quietly`.
    """
    try:
        with store.connection() as db:
            db.execute(f"PRAGMA busy_timeout = {_PATIENCE}")
            with _writing(db):
                for turn in turns:
                    number = _insert(db, turn, number)
    except Exception as failure:  # noqa: BLE001 # whatever it is, the answer was given
        _log.log(logging.DEBUG if quietly else logging.WARNING, "The history was not kept: %s", failure)
        return None
    return number


def _insert(db: sqlite3.Connection, turn: Turn, conversation: int | None) -> int:
    at = turn.at or time.time()
    db.execute("INSERT OR IGNORE INTO conversations (id, at) VALUES (?, ?)", (conversation, at))
    if conversation is None:
        (conversation,) = db.execute("SELECT last_insert_rowid()").fetchone()
    parts: dict[Place, bytes] = {}
    messages = _clean(turn.messages, (), parts)
    clean = turn._replace(messages=messages)
    prompt, answer = _storable(clean.prompt), _storable(clean.answer)
    plain = not parts and messages == _plain(prompt, answer)
    row = {
        "conversation": conversation,
        "at": at,
        "model": turn.model,
        "model_id": turn.model_id,
        "system": turn.system and _storable(without_secrets(turn.system)),
        "prompt": prompt,
        "answer": answer,
        "messages": None if plain else json.dumps(messages),
        "stop_reason": turn.stop_reason,
        "usage": turn.usage and json.dumps(turn.usage),
    }
    values = ", ".join(f":{name}" for name in row)
    kept = db.execute(f"INSERT INTO turns ({', '.join(row)}) VALUES ({values})", row).lastrowid  # noqa: S608 # names of columns
    for place, data in parts.items():
        digest = hashlib.sha256(data).hexdigest()
        db.execute("INSERT OR IGNORE INTO blobs (sha256, data) VALUES (?, ?)", (digest, data))
        db.execute("INSERT INTO parts (turn, place, sha256) VALUES (?, ?, ?)", (kept, json.dumps(place), digest))
    return int(conversation or 0)


def _clean(value: Any, place: Place, parts: dict[Place, bytes]) -> Any:
    """Copy a value without what looks like a secret; bytes go to `parts`, and None stands where they were."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, bytes | bytearray):
        parts[place] = bytes(value)
        return None
    if isinstance(value, dict):
        return {key: _clean(item, (*place, key), parts) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item, (*place, index), parts) for index, item in enumerate(value)]
    return value


def _storable(text: str) -> str:
    """Replace halves of characters, which a file of UTF-8 cannot hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plain(prompt: str, answer: str) -> list[Message]:
    """Return the messages of a turn that is text alone."""
    sides = (("user", prompt), ("assistant", answer))
    return [{"role": role, "content": [{"text": said}]} for role, said in sides]


def _text(message: Message) -> str:
    return text({"output": {"message": message}})


# ---- finding --------------------------------------------------------------------------------------------------


def conversation(store: Store, number: int | None = None) -> Conversation:
    """Read a conversation, or the one that was last taken part in.

    Raises:
        UnknownConversation: there is none.
        StoreError: the file cannot be used.
    """
    with store.connection() as db:
        if number is None:
            last = db.execute("SELECT conversation FROM turns ORDER BY id DESC LIMIT 1").fetchone()
            if last is None:
                raise UnknownConversation("There is no conversation yet")
            number = int(last[0])
        rows = db.execute(f"SELECT {_TURN} FROM turns WHERE conversation = ? ORDER BY id", (number,)).fetchall()  # noqa: S608 # names of columns
        if not rows:
            raise UnknownConversation(f"There is no conversation {number}")
        return Conversation(number, [_turn(db, row) for row in rows])


def listed(store: Store, count: int, words: str = "") -> list[Summary]:
    """List the conversations that were last taken part in, the last one first.

    Args:
        store: the ledger's file.
        count: how many, at most.
        words: only those with a turn that has all these words, or words that begin with them, or else parts of words.

    Raises:
        StoreError: the file cannot be used.
    """
    wanted = words.split()
    with store.connection() as db:
        return [_summary(db, turn, wanted) for turn in _found(db, wanted, count)]


def _found(db: sqlite3.Connection, words: Sequence[str], count: int) -> list[int]:
    if not words:
        return _newest(db, "", [], count)
    found = _newest(db, *_indexed(words), count) if _index(db) else []
    return found or _newest(db, *_contained(words), count)


def _newest(db: sqlite3.Connection, where: str, values: list[str], count: int) -> list[int]:
    """Return of each conversation the last turn that fits."""
    query = f"SELECT max(id) FROM turns {where and f'WHERE {where}'} GROUP BY conversation ORDER BY 1 DESC LIMIT ?"  # noqa: S608 # our own clauses
    return [row[0] for row in db.execute(query, (*values, count))]


def _indexed(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the clause that finds words, or their beginnings, by the index."""
    query = " ".join('"{}"*'.format(word.replace('"', '""')) for word in words)
    return "id IN (SELECT rowid FROM turns_search WHERE turns_search MATCH ?)", [query]


def _contained(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the clause that finds texts anywhere, by reading all turns."""
    patterns = ["%{}%".format(re.sub(r"([\\%_])", r"\\\1", word)) for word in words]
    clause = r"(prompt LIKE ? ESCAPE '\' OR answer LIKE ? ESCAPE '\')"
    return " AND ".join([clause] * len(words)), [pattern for pattern in patterns for _ in range(2)]


def _index(db: sqlite3.Connection) -> bool:
    """Bring the index up to date, which is done before a search only; return whether there is one."""
    import sqlite3

    try:
        with _writing(db):
            db.execute(_INDEX)
            db.execute(
                "INSERT INTO turns_search (rowid, prompt, answer) SELECT id, prompt, answer FROM turns "
                "WHERE id NOT IN (SELECT id FROM turns_search_docsize)"
            )
    except sqlite3.Error:  # this Python's SQLite has no FTS5, or the file is read-only or busy
        return False
    return True


def _summary(db: sqlite3.Connection, last: int, words: Sequence[str]) -> Summary:
    def first(query: str, value: int) -> Any:
        return db.execute(query, (value,)).fetchone()

    number, prompt, answer = first("SELECT conversation, prompt, answer FROM turns WHERE id = ?", last)
    found = _excerpt(prompt, words) or _excerpt(answer, words) if words else ""
    of = "FROM turns WHERE conversation = ?"
    started, changed, turns, newest = first(f"SELECT min(at), max(at), count(*), max(id) {of}", number)
    (prompt,) = first(f"SELECT prompt {of} ORDER BY id LIMIT 1", number)
    model, model_id, system, answer = first("SELECT model, model_id, system, answer FROM turns WHERE id = ?", newest)
    return Summary(number, started, changed, turns, model, model_id, system, prompt, answer, found)


def _excerpt(text: str, words: Sequence[str]) -> str:
    """Return the text around the first of the words that it has, in one line."""
    places = (text.lower().find(word.lower().strip('"')) for word in words)
    at = min((place for place in places if place >= 0), default=-1)
    if at < 0:
        return ""
    start = max(at - _EXCERPT // 2, 0)
    end = start + 2 * _EXCERPT
    shown = " ".join(text[start:end].split())
    return f"{'…' if start else ''}{shown}{'…' if end < len(text) else ''}"


def _turn(db: sqlite3.Connection, row: Sequence[Any]) -> Turn:
    number, _, at, model, model_id, system, prompt, answer, messages, stop_reason, usage = row
    said = _plain(prompt, answer) if messages is None else json.loads(messages)
    if messages is not None:
        for place, data in _parts(db, number):
            *way, last = place
            holder: Any = said
            for step in way:
                holder = holder[step]
            holder[last] = data
    return Turn(model, model_id, said, system, stop_reason, usage and json.loads(usage), at)


def _parts(db: sqlite3.Connection, turn: int) -> Iterator[tuple[list[Any], bytes]]:
    query = "SELECT place, data FROM parts JOIN blobs USING (sha256) WHERE turn = ?"
    for place, data in db.execute(query, (turn,)):
        yield json.loads(place), data


# ---- forgetting -----------------------------------------------------------------------------------------------


def remove(store: Store, numbers: Sequence[int] | None = None) -> int:
    """Delete conversations, or all of them, so that nothing of them stays in the file; return how many there were.

    Raises:
        UnknownConversation: one of them does not exist; then none is deleted.
        StoreError: the file cannot be used.
    """
    with store.connection() as db:
        db.execute("PRAGMA secure_delete = ON")  # overwritten with zeros, not only given free
        with _writing(db):
            known = {row[0] for row in db.execute("SELECT id FROM conversations")}
            gone = sorted(known if numbers is None else set(numbers))
            if unknown := [number for number in gone if number not in known]:
                raise UnknownConversation(f"There is no conversation {unknown[0]}")
            _delete(db, gone)
        (busy, *_) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # older pages have the texts still
        if busy:
            _log.warning("Another bx reads the history: what was deleted leaves the disk when that one has ended")
    return len(gone)


def _delete(db: sqlite3.Connection, numbers: Sequence[int]) -> None:
    ids = [(number,) for number in numbers]
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'turns_search'").fetchone():
        # Of single turns it would keep the words for a while. The next search builds it anew.
        db.execute("INSERT INTO turns_search (turns_search) VALUES ('delete-all')")
    db.executemany("DELETE FROM parts WHERE turn IN (SELECT id FROM turns WHERE conversation = ?)", ids)
    db.executemany("DELETE FROM turns WHERE conversation = ?", ids)
    db.executemany("DELETE FROM conversations WHERE id = ?", ids)
    db.execute("DELETE FROM blobs WHERE sha256 NOT IN (SELECT sha256 FROM parts)")


@contextlib.contextmanager
def _writing(db: sqlite3.Connection) -> Iterator[None]:
    """Do what follows as a whole or not at all, waiting for other processes before and not in the middle."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.rollback()
        raise
    db.commit()
