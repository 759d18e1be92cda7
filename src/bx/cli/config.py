"""`bx config`: the settings in force, where each comes from, and where the user's own file is."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any

from bx import config
from bx.catalogue import DEFAULT, FILE
from bx.cli import UsageError, telling_arguments
from bx.diagnosis import redacted
from bx.turns import MAX_TURNS

if TYPE_CHECKING:
    from bx.cli.terminal import Terminal

_EPILOG = """\
examples:
  bx config show             the settings in force, as a bx.toml has them
  bx config show --origin    also where each comes from
  bx config path             where your own config.toml is, or would be

An option of bx PROMPT that is a setting can be given too, such as --model, and counts.
"""
_ACTIONS = ("show", "path")
_DEFAULT = "default"
_FORMS: dict[type, Any] = {bool: {"action": argparse.BooleanOptionalAction}, list: {"action": "append"}}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Show the settings in force, and where they come from. Secrets are not among them."
    parser.epilog = _EPILOG
    add = parser.add_argument
    action = add("action", choices=_ACTIONS, metavar="ACTION", help="show or path")
    action.completer = lambda **_: list(_ACTIONS)  # type: ignore[attr-defined] # argcomplete's protocol
    add("--origin", action="store_true", help="with show: where each setting comes from")
    for name, kind in config.KINDS.items():
        if name not in ("quiet", "verbose"):
            add(_flag(name), help=argparse.SUPPRESS, **_FORMS.get(kind, {}))
    telling_arguments(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Show the settings or the path.

    Raises:
        UsageError: the options do not go together.
        config.ConfigError: a file or a variable holds something that cannot be used.
    """
    if options.action == "path":
        if options.origin:
            raise UsageError("--origin goes with show", "bx config show --origin")
        file = config.user_file()
        terminal.line(str(file))
        if not file.exists():
            terminal.note("there is no such file yet")
        return 0
    _show(options, terminal)
    return 0


def _show(options: argparse.Namespace, terminal: Terminal) -> None:
    values, models = _traced()
    for name in options.flags:
        values.place, values[name] = _flag(name), vars(options)[name]
    places = {name: found if config.KINDS[name] is dict else found[-1:] for name, found in values.places.items()}
    for name, value in _defaults().items():
        if name not in values:
            values[name], places[name] = value, [_DEFAULT]
    rows = [(f"{name} = {_toml(values[name])}", places[name]) for name in config.KINDS if name in values]
    for name, entry in models.items():
        rows += [("", []), (f"[models.{_key(name)}]", models.places[name])]
        rows += [(f"{_key(key)} = {_toml(value)}", []) for key, value in entry.items() if key != FILE]
    for line, where in rows:
        terminal.line(redacted(f"{line}  # {', '.join(where)}" if options.origin and where else line))
    if options.origin:
        terminal.line(f"\n# not set: {', '.join(name for name in config.KINDS if name not in values)}")


def _traced() -> tuple[_Traced, _Traced]:
    """Read the settings and the entries of `models` again, with the places where they stand."""
    values, models = _Traced(), _Traced()
    settings = config.Settings(values, models, [])
    for place, add in config.sources():
        values.place = models.place = place
        add(settings)
    return values, models


def _defaults() -> dict[str, Any]:
    """Return what holds where nothing is set, of the settings that then have a value at all."""
    return {"model": DEFAULT, "guarantee": "validated", "max_turns": MAX_TURNS, "history": "terminal"}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {_toml(part)}' for key, part in value.items())} }}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which TOML wants escaped too


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


class _Traced(dict[str, Any]):
    """Settings that remember the places where each was set."""

    def __init__(self) -> None:
        super().__init__()
        self.place = ""
        self.places: dict[str, list[str]] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self.places.setdefault(name, []).append(self.place)
