"""`bx log`: what was asked and answered, to list, search, show and delete."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

from bx.cli import UsageError, telling_arguments
from bx.cli.conversation import number, store
from bx.cli.terminal import visible
from bx.ledger import history
from bx.ledger.heard import CUT

if TYPE_CHECKING:
    import argparse

    from bx.cli.terminal import Terminal
    from bx.ledger.history import Conversation, Summary, Turn

_EPILOG = """\
examples:
  bx log                        the conversations that you last took part in
  bx log brick house            those with these words, or words that begin with them
  bx log -n 5 --format json     the last five, for a program
  bx log show 12                one from its beginning
  bx log rm 12 15               delete two for good; --all deletes every one
  bx -c "And in French?"        go on with the last one; with --cid 12 with that one

Kept is what you type and read on a terminal, unless `history` says otherwise: docs/history.md.
"""
_COUNT = 10
_WIDTH = 80  # columns, where a terminal does not say how many it has
_LONGEST = 1000  # characters of a prompt in the list
_ACTIONS = ("show", "rm")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "bx log [OPTIONS] [WORD ...]\n       bx log show ID\n       bx log rm ID ... | --all"
    parser.description = "List, search, show and delete the conversations that were kept on this machine."
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("words", nargs="*", metavar="WORD", help="words to search for; or show ID, or rm ID ...")
    add("-n", "--number", metavar="N", help=f"how many are listed, at most (default: {_COUNT})")
    add("--format", choices=("text", "json"), metavar="text|json", help="how they are printed (default: text)")
    add("--all", action="store_true", help="delete all, with rm")
    add("--ledger", metavar="FILE", help="the file of another ledger")
    add("-y", "--yes", action="store_true", help="delete without asking")
    telling_arguments(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Do it; what was asked for goes to stdout.

    Raises:
        UsageError: the options do not go together.
        UnknownConversation: there is none of that number.
        StoreError: the file cannot be used.
    """
    action = options.words[0] if options.words and options.words[0] in _ACTIONS else "list"
    if options.all and action != "rm":
        raise UsageError("--all is for bx log rm", "Leave it out, or list more: bx log -n 1000")
    if options.number is not None and action != "list":
        raise UsageError("-n is for the list", "Leave it out")
    {"show": _show, "rm": _remove, "list": _list}[action](options, terminal)
    return 0


# ---- the list -------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace, terminal: Terminal) -> None:
    words = " ".join(options.words)
    found = history.listed(store(options), _count(options.number), words)
    if options.format == "json":
        terminal.line(_json([_summary(each) for each in found]))
        return
    for line in _table(found, _columns(terminal)):
        terminal.line(line)
    if not found:
        terminal.note(f"no conversation has {words!r}" if words else "there is no conversation yet")


def _count(given: str | None) -> int:
    if given is None:
        return _COUNT
    count = number(given) if given.isdigit() else 0
    if not count:
        raise UsageError(f"-n is {given!r}", "Give a whole number, of at least 1")
    return count


def _table(found: list[Summary], columns: int | None) -> list[str]:
    """Write a line for each conversation, cut to the width of a terminal."""
    rows = [
        (str(each.id), _when(each.changed), each.model, f"{each.turns} turn{'s'[: each.turns - 1]}") for each in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, each in zip(rows, found, strict=True):
        number, *cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        said = visible(" ".join((each.found or each.prompt)[:_LONGEST].split()))
        line = "  ".join((f"{number.strip():>{widths[0]}}", *cells, said))
        lines.append(line if columns is None or len(line) <= columns else f"{line[: columns - 1]}…")
    return lines


def _summary(each: Summary) -> dict[str, Any]:
    return {**each._asdict(), "started": _stamp(each.started), "changed": _stamp(each.changed)}


# ---- one ------------------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace, terminal: Terminal) -> None:
    _, *ids = options.words
    if len(ids) != 1:
        raise UsageError("bx log show takes one number", "See bx log")
    found = history.conversation(store(options), number(ids[0]))
    if options.format == "json":
        terminal.line(_json({"id": found.id, "turns": [_turn(turn) for turn in found.turns]}))
    else:
        for line in _told(found):
            terminal.line(line)


def _told(found: Conversation) -> list[str]:
    """Write a conversation for people: each turn's prompt behind `>`, and what changes from one to the next."""
    lines = [f"conversation {found.id}, {_when(found.turns[0].at)}"]
    model, system = "", None
    for turn in found.turns:
        if turn.model_id != model:
            lines.append(f"model: {turn.model}" + (f" ({turn.model_id})" if turn.model != turn.model_id else ""))
        if turn.system != system:
            lines.append(f"system: {turn.system or '(none)'}")
        model, system = turn.model_id, turn.system
        lines += ["", *(f"> {line}" for line in turn.prompt.split("\n"))]
        lines += [f"> ({kind})" for message in turn.messages[:-1] for kind in _kinds(message)]
        lines += ["", turn.answer.rstrip("\n") or f"({', '.join(_kinds(turn.messages[-1])) or 'no text'})"]
        if turn.stop_reason == CUT:
            lines.append("(interrupted)")
    return lines


def _kinds(message: dict[str, Any]) -> list[str]:
    return [kind for block in message["content"] for kind in block if kind != "text"]


def _turn(turn: Turn) -> dict[str, Any]:
    return {"at": _stamp(turn.at), "prompt": turn.prompt, "answer": turn.answer} | {
        name: value for name, value in turn._asdict().items() if name != "at"
    }


# ---- away with them -------------------------------------------------------------------------------------------


def _remove(options: argparse.Namespace, terminal: Terminal) -> None:
    _, *ids = options.words
    if options.all == bool(ids):
        raise UsageError("bx log rm takes numbers, or --all", "See bx log")
    numbers = None if options.all else [number(each) for each in ids]
    what = "all conversations" if options.all else f"conversation{'s'[: len(ids) - 1]} {', '.join(ids)}"
    if not options.yes:
        if not terminal.interactive:
            raise UsageError(f"Deleting {what} is for good, and nobody can be asked", "Add --yes")
        if not terminal.confirm(f"Delete {what} for good?", default=False):
            return
    count = history.remove(store(options), numbers)
    terminal.note(f"deleted {count} conversation{'s' if count != 1 else ''}")


# ---- words ----------------------------------------------------------------------------------------------------


def _columns(terminal: Terminal) -> int | None:
    return shutil.get_terminal_size((_WIDTH, 24)).columns if terminal.answers_on_terminal else None


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _json(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_hashed)
    # Half a character has no UTF-8: it is written as a mark.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _hashed(data: bytes) -> dict[str, Any]:
    """Stand in for bytes, such as an image's, in JSON."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
