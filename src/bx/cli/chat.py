"""`bx chat`: a conversation at the terminal, turn by turn."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bx import converse
from bx.cli import Terminated, UsageError, answer, conversation, explained, place_arguments
from bx.cli.ask import chosen_model, model_names

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from prompt_toolkit import PromptSession

    from bx.cli.terminal import Terminal
    from bx.converse import Engine

_EPILOG = """\
examples:
  bx chat                            with the default model
  bx chat -m local                   on this machine: no account, no network
  bx chat -c                         go on with the last conversation; see bx log for the others

Enter sends; Esc and then Enter, or a \\ at the end of a line, begin another line, and so does what is pasted.
Ctrl-C stops an answer, Ctrl-D leaves. /help lists the commands.
"""
_HELP = """\
/model [NAME]    the model, or another one from now on
/system [TEXT]   the system prompt, or another one; - for none
/save FILE       write the conversation: as Markdown, or for .json as a Converse request
/usage           the tokens so far
/help            this
/exit            leave (Ctrl-D too)
Enter sends; Esc Enter, or \\ at the end of a line, begin another line. Ctrl-C stops an answer."""
# A command is a word of letters on a line of its own; a path such as /etc/hosts begins a prompt, and so may what is
# pasted. A system prompt may have several lines.
_COMMAND = re.compile(r"/([a-z]+)(?: +(.*))?\s*|/(system)\s+((?s:.+))")


class _Left(Exception):
    """The chat is over."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Talk with a model, turn by turn. It needs a terminal."
    parser.epilog = _EPILOG
    add = parser.add_argument
    model = add("-m", "--model", metavar="NAME", help="an alias, a model id, a profile id or an ARN (default: nova)")
    model.completer = model_names  # type: ignore[attr-defined] # argcomplete's protocol
    add("-s", "--system", metavar="TEXT", help="the system prompt")
    conversation.add_arguments(parser)
    add("--max-tokens", metavar="N", help="the longest answer, in tokens")
    add("--temperature", metavar="X", help="0 for the likeliest words, up to 1 for more variety")
    add("--top-p", metavar="X", help="choose among the likeliest words that make up this share, 0 to 1")
    place_arguments(parser)
    add("--max-cost", metavar="USD", help="send nothing that could bring the cost of an answer above this")
    add("-u", "--usage", action="store_true", help="print tokens, cost and latency after each answer")
    add("--raw-output", action="store_true", help="let the answers' control characters through to the terminal")
    add("-y", "--yes", action="store_true", help="fetch a model that is missing without asking")
    add("-q", "--quiet", action="store_true", help="print nothing to stderr but failures and what is typed")
    add("-v", "--verbose", action="store_true", help="print reasoning, attempts and AWS's own words to stderr")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Chat until the person leaves.

    Raises:
        UsageError: there is no terminal, or nothing to continue.
        UnknownModel: the model's name is none.
    """
    if not terminal.interactive:
        raise UsageError("bx chat needs a terminal to type at", 'Ask once: bx "PROMPT", and go on: bx -c "PROMPT"')
    if options.dry_run:
        raise UsageError("bx chat sends what is typed, and the setting dry_run forbids that", "Unset it (BX_DRY_RUN)")
    options.jsonl = options.raw = False
    options.stream, options.tools = True, []
    chat = _Chat(options, terminal)
    while True:
        try:
            chat.turn()
        except Terminated:
            raise
        except KeyboardInterrupt:  # at the prompt, or in a command
            terminal.note("Ctrl-D leaves")
        except _Left:
            return 0


class _Chat:
    """A chat under way: who is asked, what was said, and what that took."""

    def __init__(self, options: argparse.Namespace, terminal: Terminal) -> None:
        self._options = options
        self._terminal = terminal
        self._talk = conversation.Conversation(options, terminal, lasting=True)
        options.model_id = chosen_model(options, terminal)
        self._engine: Engine = answer.engine(None, [], options, terminal)
        self._rows: list[Mapping[str, Any]] = []  # of the ledger, one for each call
        self._commands: dict[str, Callable[[str], None]] = {
            "model": self._model,
            "system": self._system,
            "save": self._save,
            "usage": self._usage,
            "help": lambda _: self._say(_HELP),
            "exit": self._leave,
            "quit": self._leave,
        }
        self._editor = _editor(terminal, [f"/{name}" for name in self._commands])
        self._terminal.note(f"chatting with {options.model_id}; /help lists the commands, Ctrl-D leaves")

    def turn(self) -> None:
        """Read what is typed, and answer it; a failure is told, and ends nothing.

        Raises:
            _Left: the chat is over.
        """
        try:
            self._answer(_read(self._editor))
        except EOFError:
            raise _Left from None
        except (_Left, BrokenPipeError):
            raise
        except Exception as failure:  # noqa: BLE001 # every failure is explained, and the chat goes on
            explained(failure, self._options, self._terminal)

    def _answer(self, typed: str) -> None:
        if not typed.strip():
            return
        if command := _COMMAND.fullmatch(typed):
            name, rest = command[1] or command[3], (command[2] or command[4] or "").strip()
            if name not in self._commands:
                raise UsageError(f"There is no command /{name}", "See /help; a space before it makes it a prompt")
            self._commands[name](rest)
            return
        try:
            self._ask(typed)
        except Terminated:
            raise
        except KeyboardInterrupt:
            self._terminal.note("stopped; what had arrived stays in the conversation")

    def _ask(self, prompt: str) -> None:
        options = self._options
        request = converse.request(
            self._talk.asking(prompt),
            model=options.model_id,
            system=options.system,
            fields=options.option,
            maxTokens=options.max_tokens,
            temperature=options.temperature,
            topP=options.top_p,
            stopSequences=options.stop,
        )
        before, meter = len(self._talk.messages), options.meter
        try:
            response = self._talk.show(self._engine, request, None)
        finally:
            self._rows += [row for row, _ in meter.store.waiting]
            meter.renew()
        if response is not None and len(self._talk.messages) == before:
            self._terminal.note("the conversation goes on without this turn, whose answer has no text")

    # ---- commands: what they print goes to stderr, for stdout has the answers -------------------------------

    def _say(self, text: str) -> None:
        self._terminal.complain(text)

    def _model(self, name: str) -> None:
        options = self._options
        if name:
            before = options.model
            options.model = name
            try:
                options.model_id = chosen_model(options, self._terminal)
            except ValueError:
                options.model = before
                raise
        self._say(f"model: {options.model_id}")

    def _system(self, text: str) -> None:
        if text:
            self._options.system = None if text == "-" else text
        self._say(f"system: {self._options.system or '(none)'}")

    def _usage(self, _: str) -> None:
        if not self._rows:
            self._say("nothing was asked yet")
            return
        names = {"input_tokens": "input", "output_tokens": "output"}
        counts = {name: [row.get(column) for row in self._rows] for column, name in names.items()}
        sums = [f"{name} {_sum(told)}" for name, told in counts.items()]
        self._say(f"tokens: {', '.join(sums)} | {answer.cost(self._rows, self._options)} | calls {len(self._rows)}")

    def _save(self, name: str) -> None:
        if not name:
            raise UsageError("/save needs the name of a file", "/save talk.md, or /save talk.json")
        path = Path(name).expanduser()
        messages, system = self._talk.messages, self._options.system
        if path.suffix.lower() == ".json":
            request = converse.request(messages, model=self._options.model_id, system=system)
            text = json.dumps(request, indent=2, ensure_ascii=False, default=_base64) + "\n"
        else:
            text = _markdown(messages, system)
        if path.exists() and not self._terminal.confirm(f"{path} exists. Write over it?", default=False):
            return
        _write(path, text)
        self._terminal.note(f"saved {path}")

    def _leave(self, _: str) -> None:
        raise _Left


def _sum(counts: list[int | None]) -> str:
    """Add up what is known; the rest is told."""
    known = [count for count in counts if count is not None]
    return f"{'at least ' if len(known) < len(counts) else ''}{sum(known)}"


# ---- typing ---------------------------------------------------------------------------------------------------


def _editor(terminal: Terminal, commands: list[str]) -> PromptSession[str]:
    """Make what reads lines; it draws on stderr, so that stdout may go elsewhere."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import create_output

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("escape", "c-j")  # the same key, where it was pressed before we were ready
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return PromptSession(
        "> ",
        multiline=True,
        prompt_continuation=". ",
        key_bindings=keys,
        history=InMemoryHistory(),
        completer=WordCompleter(commands, sentence=True),
        complete_while_typing=False,
        output=create_output(stdout=terminal.stderr),
    )


def _read(editor: PromptSession[str]) -> str:
    """Read what is typed; bytes that are no text become marks."""
    # While keys are read, Ctrl-C is one of them: a signal can only come before and after, amid the editor's own work.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return editor.prompt().encode("utf-8", "replace").decode()
    finally:
        signal.signal(signal.SIGINT, before)


# ---- saving ---------------------------------------------------------------------------------------------------


def _markdown(messages: list[dict[str, Any]], system: str | None) -> str:
    parts = [f"**System**\n\n{system}"] if system else []
    for message in messages:
        said = "".join(block.get("text", "") for block in message["content"])
        parts.append(f"**{'You' if message['role'] == 'user' else 'Model'}**\n\n{said.strip()}")
    return "\n\n".join(parts) + "\n"


def _write(path: Path, text: str) -> None:
    """Write a file that only the user can read."""
    with open(path, "w", encoding="utf-8", errors="replace", opener=_private) as file:
        file.write(text)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
