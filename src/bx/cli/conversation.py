"""The conversation that a command takes part in: continued from the history, and kept there where that is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bx.catalogue import DEFAULT
from bx.cli import UsageError, answer

if TYPE_CHECKING:
    import argparse

    from bx.cli.terminal import Terminal
    from bx.converse import Engine, Request, Response
    from bx.ledger.history import Turn
    from bx.ledger.store import Store

_NOT_KEPT = "Add --history all to keep what scripts and pipes ask, too"


class Conversation:
    """What was said so far, and where the next turn is kept.

    Args:
        options: those of the command; a conversation that is continued sets its model and its system prompt there,
            where no flag gives them.
        terminal: who is told.
        lasting: whether more turns than one follow, so that each has to know those before it.

    Raises:
        UsageError, UnknownConversation: there is nothing to continue.
    """

    def __init__(self, options: argparse.Namespace, terminal: Terminal, *, lasting: bool = False) -> None:
        self.number: int | None = None
        self.messages: list[dict[str, Any]] = []
        self._options = options
        self._terminal = terminal
        self._lasting = lasting
        self._kept = _is_kept(options, terminal)
        self._store: Store | None = None
        self._waiting: list[Turn] = []
        self._told = False
        self._names: dict[str, str] = {}  # an id that a conversation brought along -> how it was called
        if options.cid is not None or options.resume:
            self._resume()

    def asking(self, prompt: str) -> str | list[dict[str, Any]]:
        """Return what `bx.converse.request` takes for a prompt: all messages, or the text that begins them."""
        if not self.messages:
            return prompt
        return [*self.messages, {"role": "user", "content": [{"text": prompt}]}]

    def show(self, engine: Engine, request: Request, schema: dict[str, Any] | None) -> Response | None:
        """Send a request, print its answer, and keep it; returns the response where the conversation goes on."""
        if not (self._kept or self._lasting):
            answer.show(engine, request, schema, self._options, self._terminal)
            return None
        from bx.ledger.heard import Heard

        heard = Heard(engine)
        try:
            answer.show(heard, request, schema, self._options, self._terminal)
        finally:
            if heard.last is not None:
                self._add(request, heard.last)
        return heard.last

    def _add(self, request: Request, response: Response) -> None:
        from bx.ledger import history

        messages = [*request["messages"][len(self.messages) :], response["output"]["message"]]
        self.messages += history.sendable(messages)
        if not self._kept:
            return
        name = str(self._options.model or DEFAULT)
        turn = history.Turn(
            self._names.get(name, name),
            request["modelId"],
            messages,
            self._options.system or None,
            response["stopReason"],
            response.get("usage"),
        )
        self._waiting.append(turn)
        self._store = self._store or store(self._options)
        kept = history.keep(self._store, self._waiting, self.number, quietly=self._told)
        if kept is None:  # the next turn tries again, for both
            self._told = True
        else:
            self.number, self._waiting = kept, []

    def _resume(self) -> None:
        from bx.ledger import history

        options = self._options
        if options.cid is not None and options.resume:
            raise UsageError("--continue is the last conversation, and --cid another one", "Choose one of them")
        self._store = store(options)
        found = history.conversation(self._store, None if options.cid is None else number(options.cid))
        self.number, self.messages, last = found.id, found.messages(), found.turns[-1]
        if "model" not in options.flags:
            # The id that was sent, so that no setting since then moves what was said to another geography.
            options.model = last.model if "geo" in options.flags else last.model_id
            self._names = {last.model_id: last.model}
        if "system" not in options.flags:
            options.system = last.system
        told = f"continuing conversation {found.id} with {self._names.get(options.model, options.model)}"
        if self._kept or options.no_log:
            self._terminal.note(told)
        else:
            self._terminal.note(f"{told}; what is asked now is not kept", _NOT_KEPT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a command that takes part in conversations."""
    add = parser.add_argument
    add("-c", "--continue", dest="resume", action="store_true", help="go on with the last conversation")
    add("--cid", metavar="ID", help="go on with this conversation of bx log")
    kept = add("--history", metavar="WHAT", help="what is kept for bx log: off, terminal (the default) or all")
    kept.completer = lambda **_: ["off", "terminal", "all"]  # type: ignore[attr-defined] # argcomplete's protocol
    add("-n", "--no-log", action="store_true", help="keep nothing of this")


def store(options: argparse.Namespace) -> Store:
    """Return the file that the history is in, which need not be there yet."""
    from bx import config
    from bx.ledger.store import Store

    return Store(config.ledger(vars(options)))


def number(text: str) -> int:
    """Read the number of a conversation.

    Raises:
        UsageError: it is none.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 18:  # noqa: PLR2004 # what fits into SQLite's integers
        raise UsageError(f"{text!r} is no number of a conversation", "See bx log")
    return int(text)


def _is_kept(options: argparse.Namespace, terminal: Terminal) -> bool:
    """Whether what is asked and answered is kept: by default where a person types, and reads."""
    chosen = options.history or "terminal"
    if options.no_log or options.ledger == "off":
        return False
    return bool(chosen == "all" or (chosen == "terminal" and terminal.typed and terminal.answers_on_terminal))
