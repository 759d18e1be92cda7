"""The command line: (arguments, terminal) -> exit code.

Finds the command, merges its flags with the settings, and turns every failure into a message and an exit code. A
command is a file beside this one, imported when it is called; whatever is no command's name is a prompt.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from bx.cli.terminal import Terminal, use_utf8

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "ask": "ask a model (the default: bx PROMPT)",
    "pull": "fetch, list, verify and remove the weights of embedded models",
    "completion": "print the completion script of a shell",
}
_DEFAULT = "ask"


class UsageError(ValueError):
    """The command line cannot be understood; `fix` says what to type instead."""

    exit_code = 2

    def __init__(self, message: str, fix: str = "See bx --help") -> None:
        super().__init__(message)
        self.fix = fix


def run() -> NoReturn:
    """Be the `bx` program: answer, flush, and leave without tearing the interpreter down, which takes a while."""
    if "_ARGCOMPLETE" in os.environ:
        from bx.cli import completion

        completion.complete()
    use_utf8()
    code = main(sys.argv[1:], Terminal())
    sys.stderr.flush()
    os._exit(code)


def main(arguments: Sequence[str], terminal: Terminal) -> int:
    """Carry out a command line and return the exit code, as listed in docs/errors.md."""
    options = argparse.Namespace(verbose=False)
    try:
        return _command(list(arguments), options, terminal)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141
    except SystemExit as left:  # argparse after --help
        return int(left.code or 0)
    except Exception as failure:  # noqa: BLE001 # every failure is explained, never shown as a traceback
        return _explain(failure, options, terminal)


def parser(name: str) -> argparse.ArgumentParser:
    """Make the parser of a command."""
    from importlib import import_module

    program = "bx" if name == _DEFAULT else f"bx {name}"
    made = _Parser(prog=program, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    import_module(f"bx.cli.{name}").arguments(made)
    return made


def _command(arguments: list[str], options: argparse.Namespace, terminal: Terminal) -> int:
    if arguments in (["--version"], ["-V"]):
        from bx import __version__

        terminal.line(f"bx {__version__}")
        return 0
    from importlib import import_module

    from bx import config

    name, rest = (
        (arguments[0], arguments[1:]) if arguments[:1] and arguments[0] in COMMANDS else (_DEFAULT, arguments)
    )
    settings = config.load()
    vars(options).update(dict.fromkeys(config.KINDS), **settings.values, models=settings.models, command=name)
    parser(name).parse_args(rest, namespace=options)
    terminal.quiet, terminal.raw_output = bool(options.quiet), bool(options.raw_output)
    for note in settings.notes:
        terminal.note(f"bx: {note}")
    code: int = import_module(f"bx.cli.{name}").run(options, terminal)
    return code


def _explain(failure: Exception, options: argparse.Namespace, terminal: Terminal) -> int:
    """Say what happened, why, and the one thing to do; with --verbose also AWS's own words."""
    from bx.diagnosis import explain

    known = {name: str(getattr(options, name, None) or "") for name in ("region", "profile")}
    model = getattr(options, "model_id", "")
    stream = bool(getattr(options, "stream", False))
    found = explain(failure, model=model, geo=getattr(options, "geo", None) or "global", stream=stream, **known)
    terminal.complain(f"bx: {found.what}")
    if found.why:
        terminal.complain(f"    {found.why}")
    if found.fix:
        terminal.complain(f"    -> {found.fix}")
    if options.verbose:
        terminal.complain(f"    {found.detail}")
        if found.request_id:
            terminal.complain(f"    request id: {found.request_id}")
    if found.exit_code == 1:
        import traceback

        terminal.complain("".join(traceback.format_exception(failure)) if options.verbose else "    (-v shows more)")
    if unsaid := getattr(failure, "text", ""):
        terminal.complain(f"What arrived:\n{unsaid}")
    return found.exit_code


class _Parser(argparse.ArgumentParser):
    """argparse, with our way of saying what is wrong."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message[0].upper() + message[1:], f"See {self.prog} --help")
