"""The command line: (arguments, terminal) -> exit code.

Finds the command, merges its flags with the settings, and turns every failure into a message and an exit code. A
command is a file beside this one, imported when it is called; whatever is no command's name is a prompt.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from bx.cli.terminal import Terminal, use_utf8

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bx.config import Settings

COMMANDS = {
    "ask": "ask a model (the default: bx PROMPT)",
    "chat": "talk with a model, turn by turn",
    "log": "what was asked and answered: list, search, show, delete",
    "models": "list the models, their prices, and what your account can call",
    "usage": "what was used and what it cost",
    "doctor": "why does it not work? From credentials to each model",
    "schema": "check, fix, infer, exemplify and warm up JSON Schemas",
    "serve": "a Bedrock on localhost, for any AWS SDK",
    "pull": "fetch, list, verify and remove the weights of embedded models",
    "config": "show the settings in force, and where each comes from",
    "completion": "print the completion script of a shell",
}
_DEFAULT = "ask"


class UsageError(ValueError):
    """The command line cannot be understood; `fix` says what to type instead."""

    exit_code = 2

    def __init__(self, message: str, fix: str = "See bx --help") -> None:
        super().__init__(message)
        self.fix = fix


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: what Ctrl-C ends is ended, and the exit code tells by what."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def heed_signals() -> None:
    """Have SIGTERM and SIGHUP end a call as Ctrl-C does, so that it stands in the ledger."""
    import signal
    import threading

    def end(number: int, _: object) -> NoReturn:
        raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        return
    for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")):
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


def run() -> NoReturn:
    """Be the `bx` program: answer, flush, and leave without tearing the interpreter down, which takes a while."""
    if "_ARGCOMPLETE" in os.environ:
        from bx.cli import completion

        completion.complete(os.environ)
    gc.set_threshold(100_000)  # starting makes objects that all stay: looking for garbage among them takes 10 ms
    use_utf8()
    os._exit(main(sys.argv[1:], Terminal()))


def main(arguments: Sequence[str], terminal: Terminal) -> int:
    """Carry out a command line and return the exit code, as listed in docs/errors.md."""
    options = argparse.Namespace(verbose=None)
    try:
        return _command(list(arguments), options, terminal)
    except KeyboardInterrupt as ended:
        return getattr(ended, "exit_code", 130)
    except BrokenPipeError:
        return 141
    except Exception as failure:  # noqa: BLE001 # every failure is explained, never shown as a traceback
        return explained(failure, options, terminal)
    finally:
        if meter := getattr(options, "meter", None):  # the answer is there: now for the books
            with contextlib.suppress(KeyboardInterrupt):
                meter.renew()


def parser(name: str) -> argparse.ArgumentParser:
    """Make the parser of a command."""
    from importlib import import_module

    program = "bx" if name == _DEFAULT else f"bx {name}"
    made = _Parser(prog=program, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    if sys.version_info >= (3, 14):
        made.color = False  # the terminal decides about colours
    import_module(f"bx.cli.{name}").arguments(made)
    return made


def place_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where and as whom Amazon Bedrock is asked."""
    add = parser.add_argument
    about = "where prompts may be processed: global, us, eu, jp, ... (default: global)"
    add("--geo", metavar="GEO", help=about).completer = _geographies  # type: ignore[attr-defined] # argcomplete's protocol
    add("--region", help="the AWS region")
    add("--profile", metavar="NAME", help="the profile of the AWS configuration")
    add("--endpoint-url", metavar="URL", help="another endpoint for Amazon Bedrock")


def telling_arguments(parser: argparse.ArgumentParser, verbose: str = "print more about a failure") -> None:
    """Add the arguments that say how much goes to stderr."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing to stderr but failures")
    parser.add_argument("-v", "--verbose", action="store_true", help=verbose)


def _geographies(**_: object) -> list[str]:
    from bx.cli.ask import known_models

    return sorted({geo for model in known_models().values() for geo in model.get("geos", [])})


def _command(arguments: list[str], options: argparse.Namespace, terminal: Terminal) -> int:
    if terminal.stdout is None:
        raise UsageError("Standard output is closed", "Redirect it: > FILE, or > /dev/null")
    if arguments in (["--version"], ["-V"]):
        return _version(terminal)
    named = bool(arguments) and arguments[0] in COMMANDS
    name, rest = (arguments[0], arguments[1:]) if named else (_DEFAULT, arguments)
    try:
        _parse(name, rest, options)
    except _HelpAsked as asked:
        terminal.line(str(asked))
        return 0
    if getattr(options, "version", False):
        return _version(terminal)
    if not named and "--" not in arguments and options.words in [[command] for command in COMMANDS]:
        word = options.words[0]
        raise UsageError(f"The command {word} comes first", f"bx {word} ..., or as a prompt: bx ask {word} ...")
    return _run(name, options, terminal)


def _run(name: str, options: argparse.Namespace, terminal: Terminal) -> int:
    from importlib import import_module

    from bx import config

    settings = config.load()
    _merge(settings, options)
    terminal.quiet, terminal.raw_output = bool(options.quiet), bool(options.raw_output)
    for note in settings.notes:
        terminal.note(f"{note}")
    code: int = import_module(f"bx.cli.{name}").run(options, terminal)
    return code


def _version(terminal: Terminal) -> int:
    from bx import __version__

    terminal.line(f"bx {__version__}")
    return 0


def _parse(name: str, arguments: list[str], options: argparse.Namespace) -> None:
    """Read the flags of a command; a setting that no flag names is None."""
    from bx import config

    made = parser(name)
    made.set_defaults(**dict.fromkeys(config.KINDS))
    made.parse_intermixed_args(arguments, namespace=options)
    for setting in config.KINDS:
        text = getattr(options, setting)
        if isinstance(text, str):
            setattr(options, setting, config.parsed(text, setting, "--" + setting.replace("_", "-")))


def _merge(settings: Settings, options: argparse.Namespace) -> None:
    """Fill in what the flags leave open; the parts of --option join, key by key. `flags` names what they gave."""
    from bx import config

    options.flags = {name for name in config.KINDS if getattr(options, name) is not None}
    for name, value in settings.values.items():
        given = getattr(options, name)
        if given is None:
            setattr(options, name, value)
        elif isinstance(given, dict):
            setattr(options, name, config.merged(value, given))
    options.models = settings.models


def explained(failure: Exception, options: argparse.Namespace, terminal: Terminal) -> int:
    """Say what happened, why, and the one thing to do; with --verbose also AWS's own words."""
    from bx.catalogue import DEFAULT_GEO
    from bx.converse import InvalidAnswer
    from bx.diagnosis import explain

    known = {name: str(getattr(options, name, None) or "") for name in ("region", "profile")}
    model = getattr(options, "model_id", "")
    geo = getattr(options, "geo", None) or DEFAULT_GEO
    found = explain(failure, model=model, geo=geo, **known)
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
    if isinstance(failure, InvalidAnswer) and failure.text:
        terminal.complain(f"What arrived:\n{failure.text}")
    return found.exit_code


class _HelpAsked(Exception):
    """The help was asked for; its text is the message."""


class _Parser(argparse.ArgumentParser):
    """argparse, with our way of saying what is wrong, and no printing of its own."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message[0].upper() + message[1:], f"See {self.prog} --help")

    def print_help(self, file: object = None) -> None:  # noqa: ARG002 # argparse's signature
        raise _HelpAsked(self.format_help().rstrip())
