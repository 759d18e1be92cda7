"""JSON that is still being written: cut out of a text, unwrapped, and read before its end, all in linear time.

Every function takes the pieces of a text as they arrive and yields as early as it can. None judges whether the JSON
is valid: the whole answer is checked in the end. This module knows no schema, no model and nothing of bx.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BEGIN = re.compile(r'\{\s{0,99}["}]')  # of an object in the midst of prose; a lone brace there is none
_LONGEST_BEGINNING = 100  # characters of it, without the last
_IN_STRING = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)
_OUTSIDE = re.compile(r'\s+|[{}\[\],:"]|[^\s{}\[\],:"]+')
_MARKS = ("{", "}", "[", "]", ",", ":", '"')
_OPENING, _CLOSING = ("{", "["), ("}", "]")
DEEPEST = 200  # levels of nesting; what is deeper is no answer


class Token(NamedTuple):
    """A part of a JSON text.

    `kind` is the character itself for `{}[],:`, and else `"` for a part of a string, `w` for a part of a number or a
    word, a blank for white space. `whole` says that the string or word ends here. A token of no kind stands for the
    end of each piece.
    """

    kind: str
    text: str
    whole: bool = True


def tokens(pieces: Iterable[str]) -> Iterator[Token]:
    """Split JSON that arrives in pieces; the texts of all tokens are the text that came."""
    inside, backslash = "", False
    for piece in pieces:
        at = 0
        while at < len(piece):
            if inside == '"':
                start, (at, inside, backslash) = at, _string(piece, at, backslash=backslash)
                yield Token('"', piece[start:at], not inside)
                continue
            found = _OUTSIDE.match(piece, at)
            text = found[0] if found else piece[at:]
            kind = text if text in _MARKS else " " if text.isspace() else "w"
            if inside == "w" and kind != "w":
                yield Token("w", "")
            inside = kind if kind in ('"', "w") else ""
            yield Token(kind, text, not inside)
            at += len(text)
        yield Token("", "")
    if inside == "w":
        yield Token("w", "")
        yield Token("", "")


def _string(piece: str, at: int, *, backslash: bool) -> tuple[int, str, bool]:
    """Go on in a string; returns where it was left, what is being read then, and whether a backslash is pending."""
    if backslash:
        at += 1
    found = _IN_STRING.match(piece, at)
    at = found.end() if found else at
    if at < len(piece) and piece[at] == '"':
        return at + 1, "", False
    return len(piece), '"', at < len(piece)


def document(pieces: Iterable[str]) -> Iterator[str]:
    """Cut the first JSON object out of a text: prose and code fences around it are left out.

    Every piece that comes gives at least one that goes, perhaps an empty one.
    """
    depth = 0
    for token in tokens(_from_its_beginning(pieces)):
        yield token.text
        depth += _levels(token)
        if depth == 0 and token.kind in _CLOSING:
            return


def _from_its_beginning(pieces: Iterable[str]) -> Iterator[str]:
    before: str | None = ""
    for piece in pieces:
        if before is None:
            yield piece
        elif found := _BEGIN.search(before := before + piece):
            yield before[found.start() :]
            before = None
        else:  # only a brace and the white space behind it may still be a beginning
            yield ""
            at = before.rfind("{")
            short = len(before) - at <= _LONGEST_BEGINNING
            before = before[at:] if at >= 0 and short and not before[at + 1 :].strip() else ""


def member(pieces: Iterable[str], name: str) -> Iterator[str]:
    """Take the value of one member out of an object as it is written.

    Every piece that comes gives at least one that goes, perhaps an empty one.
    """
    depth, key, inside = 0, list[str](), False
    for token in tokens(pieces):
        if inside and depth == 1 and token.kind in (",", "}"):
            return
        yield token.text if inside else ""
        if depth == 1 and not inside:
            if token.kind == ",":
                key.clear()
            elif token.kind == '"':
                key.append(token.text)
            inside = token.kind == ":" and _loaded("".join(key)) == name
        depth += _levels(token)


def elements(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the text of each element of an array once it is complete."""
    depth, written = 0, list[str]()
    for token in tokens(pieces):
        if token.kind in _CLOSING:
            depth -= 1
        if (depth == 0 and token.kind == "]") or (depth == 1 and token.kind == ","):
            if text := "".join(written).strip():
                yield text
            written.clear()
        elif depth > 0:
            written.append(token.text)
        if token.kind in _OPENING:
            depth += 1


def snapshots(pieces: Iterable[str]) -> Iterator[Any]:
    """Yield what an object or array holds so far, after each piece that completes something in it.

    A string, a number or a word appears once it is complete; an object or array inside appears when it begins, and
    grows. A value that was yielded does not change any more.
    """
    reader = _Reader()
    for token in tokens(pieces):
        if token.kind:
            reader.take(token)
        elif reader.changed:
            reader.changed = False
            yield reader.snapshot()
        if reader.broken:
            return


class _Reader:
    """What was read of a JSON text, and the containers that are still open."""

    def __init__(self) -> None:
        self.changed = self.broken = False
        self._root: Any = None
        self._open: list[Any] = []
        self._keys: list[str | None] = []  # of each open container: the key that waits for its value
        self._places: list[Any] = []  # of each open container: its key or index in the one around it
        self._text: list[str] = []

    def take(self, token: Token) -> None:
        if token.kind in _OPENING:
            self._put({} if token.kind == "{" else [], opens=True)
        elif token.kind in _CLOSING:
            self.broken = not self._open
            if self._open:
                self._open.pop()
                self._keys.pop()
                self._places.pop()
        elif token.kind in ('"', "w"):
            self._text.append(token.text)
            if token.whole:
                text = "".join(self._text)
                self._text.clear()
                self._word(text)

    def _word(self, text: str) -> None:
        try:
            value = json.loads(text)
        except ValueError:
            self.broken = True
            return
        if self._open and isinstance(self._open[-1], dict) and self._keys[-1] is None:
            self.broken = not isinstance(value, str)
            self._keys[-1] = str(value)
        else:
            self._put(value, opens=False)

    def _put(self, value: Any, *, opens: bool) -> None:
        place: Any = None
        if not self._open:
            self.broken = self._root is not None
            self._root = value if self._root is None else self._root
        elif isinstance(self._open[-1], list):
            place = len(self._open[-1])
            self._open[-1].append(value)
        elif (place := self._keys[-1]) is None:
            self.broken = True
        else:
            self._open[-1][place] = value
            self._keys[-1] = None
        if opens:
            self._open.append(value)
            self._keys.append(None)
            self._places.append(place)
        self.broken = self.broken or len(self._open) > DEEPEST
        self.changed = True

    def snapshot(self) -> Any:
        """Copy the containers that are still open; whatever is closed does not change any more."""
        copy, inner = self._root, None
        place: Any = None
        for container, where in zip(reversed(self._open), reversed(self._places), strict=True):
            copy = container.copy()
            if inner is not None:
                copy[place] = inner
            inner, place = copy, where
        return copy


def _levels(token: Token) -> int:
    return (token.kind in _OPENING) - (token.kind in _CLOSING)


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
