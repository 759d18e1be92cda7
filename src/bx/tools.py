"""Tools: what a model may call, read from a file or made of a Python function, in Converse's terms.

This module knows no model and runs nothing: `bx.turns` does.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bx.instances import violation
from bx.schema import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_TIMEOUT = 60  # seconds
_SPECIFICATION = ("name", "description", "inputSchema", "strict")
_OURS = ("command", "timeout")


class Tool(NamedTuple):
    """What a model may call.

    `specification` is Converse's `toolSpec`. A tool with neither a `command` (an argument list) nor a `function` is
    not run: its call is the answer. `timeout` is a command's, in seconds. `source` is the file it was read from.
    """

    specification: dict[str, Any]
    command: tuple[str, ...] = ()
    function: Callable[..., Any] | None = None
    timeout: float = _TIMEOUT
    source: str = ""

    @property
    def name(self) -> str:
        """The name by which the model calls it."""
        return str(self.specification["name"])

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its input."""
        schema: dict[str, Any] = self.specification["inputSchema"]["json"]
        return schema

    @property
    def runs(self) -> bool:
        """Whether it can be run here."""
        return bool(self.command) or self.function is not None


class ToolError(ValueError):
    """A tool's specification is unusable; `fix` says what to do."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def read(path: str | Path) -> Tool:
    """Read a tool from a JSON file: docs/tools.md has its members.

    Raises:
        ToolError: there is no such file, or it is no tool; names the file and the key.
    """
    source = str(path)
    written = _object(source)
    wrapped = written.pop("toolSpec", None)
    if wrapped is not None and not isinstance(wrapped, dict):
        raise _unusable(source, "toolSpec is no object", "Put name, description and inputSchema in it")
    specification = written if wrapped is None else wrapped
    ours = {key: written.pop(key) for key in _OURS if key in written}
    _known(
        source, specification, _SPECIFICATION if wrapped is not None else (*_SPECIFICATION, *_OURS), _SPECIFICATION
    )
    if wrapped is not None:
        _known(source, written, ("toolSpec", *_OURS), ())
    argv, timeout = ours.get("command"), ours.get("timeout", _TIMEOUT)
    if "command" in ours:
        _check_command(source, argv)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise _unusable(source, "timeout is no positive number", "Give the seconds that the command may take")
    return Tool(_specification(source, specification), tuple(argv or ()), timeout=timeout, source=source)


def of(function: Callable[..., Any]) -> Tool:
    """Make a tool of a typed Python function: its name, its docstring and its annotations are the specification.

    Raises:
        ToolError: the function's name cannot be a tool's.
        ValueError: the annotations cannot be put into a JSON Schema.
    """
    from bx.schema import source

    name = getattr(function, "__qualname__", repr(function))
    return Tool(_specification(name, source.of_function(function)), function=function, source=name)


def config(tools: Sequence[Tool], choice: dict[str, Any] | None = None, *, strict: bool = True) -> dict[str, Any]:
    """Build Converse's `toolConfig`.

    Args:
        tools: at least one.
        choice: Converse's `toolChoice`, such as `{"any": {}}`; else the model decides.
        strict: False leaves the member `strict` out, for models that do not take it.

    Raises:
        ToolError: two tools have the same name.
    """
    sources: dict[str, str] = {}
    for tool in tools:
        if tool.name in sources:
            both = f"{sources[tool.name] or 'one'} and {tool.source or 'another'}"
            raise ToolError(f"Two tools are named {tool.name}: {both}", "Rename one of them")
        sources[tool.name] = tool.source
    unsent = () if strict else ("strict",)
    sent = [{key: part for key, part in tool.specification.items() if key not in unsent} for tool in tools]
    return {"tools": [{"toolSpec": part} for part in sent], **({"toolChoice": choice} if choice else {})}


def _object(source: str) -> dict[str, Any]:
    try:
        text = Path(source).read_bytes().decode("utf-8-sig")
    except OSError as cause:
        raise _unusable(source, cause.strerror or str(cause), "Give the path of a tool's JSON file") from None
    except UnicodeDecodeError as cause:
        raise _unusable(source, f"not UTF-8 text ({cause.reason})", "Save the file as UTF-8") from None
    try:
        written = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as cause:
        raise _unusable(source, f"not JSON ({cause})", "Correct the file: docs/tools.md shows one") from None
    if not isinstance(written, dict):
        raise _unusable(source, "a tool is a JSON object", "Start from the example in docs/tools.md")
    if walk.depth(written, walk.DEEPEST) > walk.DEEPEST:
        raise _unusable(source, f"more than {walk.DEEPEST} levels of nesting", "Make the schema flatter")
    return written


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _known(source: str, written: dict[str, Any], shown: Iterable[str], known: Iterable[str]) -> None:
    if unknown := [key for key in written if key not in known]:
        raise _unusable(source, f"unknown key {json.dumps(unknown[0])}", f"The keys are {', '.join(shown)}")


def _check_command(source: str, argv: Any) -> None:
    if isinstance(argv, str):
        fix = 'Write ["program", "argument"], or ["sh", "-c", "..."] where a shell is meant'
        raise _unusable(source, "command is a text: a command is a list of arguments, never a shell line", fix)
    if not isinstance(argv, list) or not argv or not argv[0]:
        raise _unusable(source, "command is no list of arguments", 'Write it as ["program", "argument"]')
    if not all(isinstance(part, str) and "\0" not in part for part in argv):
        raise _unusable(source, "command has an argument that is no text", "Put each argument in quotation marks")


def _specification(source: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return a checked `toolSpec`."""
    name, description, strict = given.get("name"), given.get("description", ""), given.get("strict", True)
    if not isinstance(name, str) or not re.fullmatch("[a-zA-Z0-9_-]{1,64}", name):
        fix = "Use 1 to 64 letters, digits, _ and -"
        raise _unusable(source, f"name must be a tool's name, not {json.dumps(name)[:80]}", fix)
    if not isinstance(description, str):
        raise _unusable(source, "description is no text", "Say in a sentence when to call the tool")
    if not isinstance(strict, bool):
        raise _unusable(source, "strict is neither true nor false", "Leave it out: true is the default")
    schema = {"inputSchema": {"json": _schema(source, given.get("inputSchema"))}}
    return {"name": name, **({"description": description} if description.strip() else {}), **schema, "strict": strict}


def _schema(source: str, given: Any) -> dict[str, Any]:
    schema = given["json"] if isinstance(given, dict) and given.keys() == {"json"} else given
    if not isinstance(schema, dict) or schema.get("type") != "object":
        fix = 'Write {"type": "object", "properties": {...}}: a tool\'s input is an object'
        raise _unusable(source, "inputSchema is no JSON Schema of an object", fix)
    try:
        violation(None, schema)
    except ValueError as cause:
        raise _unusable(source, f"inputSchema is {cause}", "Correct the schema") from None
    return schema


def _unusable(source: str, what: str, fix: str) -> ToolError:
    return ToolError(f"The tool {source} is unusable: {what}", fix)
