"""A JSON Schema from wherever it is: a file, a text, standard input, `module:Name`, a Python type or function.

Whether it is a valid JSON Schema is not judged here. This module knows no models and no terminal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import math
import os
import re
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bx.schema import concise, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FORMS = "Give a schema file, a JSON object, fields as in 'service, minutes int', module:Name, or - for stdin"
_OBJECT = 'A schema looks like {"type": "object", "properties": {...}}'
_TYPES = "Use a Pydantic model, a dataclass, a TypedDict, an Enum, a plain type or a typed function"
_PLACE = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")  # module:Name
_IN_FILE = re.compile(r"([^\s:]+)\.py:([\w.]+)")
_FILE_NAME = re.compile(r"[\w$-][\w.$-]*\.[a-zA-Z]\w*")  # one word with an ending: rather a file than a lone field
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # Converse's rule
_ARGUMENT = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")  # a line of a docstring's Args


class SchemaError(ValueError):
    """The schema cannot be read, or there is none."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


# ---- text -----------------------------------------------------------------------------------------------------


def read(given: str, stdin: Callable[[], str]) -> dict[str, Any]:
    """Read the schema that a command line names.

    Args:
        given: `-` for standard input, a JSON object, a file, `module:Name`, or the concise form; what could be
            several of these is the first.
        stdin: reads standard input.

    Raises:
        SchemaError: it cannot be read.
        ConciseError: the concise form on the command line has a mistake.
    """
    if given.strip() == "-":
        return _text(stdin(), "The schema on standard input")
    if _is_json(given):
        return _json(given, "The schema")
    if not given.strip():
        raise SchemaError("The schema cannot be read: it is empty", _FORMS)
    if place := _IN_FILE.fullmatch(given.strip()):
        module = place[1].replace("\\", "/").removeprefix("./").replace("/", ".")
        raise SchemaError(f"{given} is a file and a name, and not a module and a name", f"Write {module}:{place[2]}")
    if _is_path(given):
        return _file(given)
    if (place := _PLACE.fullmatch(given.strip())) and not concise.is_type(place[2]):
        return _of_named(place[1], place[2])
    return concise.parse(given)


def _is_path(given: str) -> bool:
    """Whether a file is meant: one is there, or what is given looks like its name."""
    with contextlib.suppress(OSError, ValueError):  # too long for a name, or with a null character
        if Path(given).expanduser().exists():
            return True
    has_folder = any(separator in given for separator in ("/", os.sep)) and not {'"', "\n"} & {*given}
    names_file = given.lower().endswith(".json") or _FILE_NAME.fullmatch(given) is not None
    return names_file or has_folder


def _file(given: str) -> dict[str, Any]:
    try:
        text = Path(given).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SchemaError(f"The schema file {given} is not UTF-8 text", "Save it as UTF-8") from None
    except (OSError, ValueError, RuntimeError) as cause:  # a null character; a ~user who is not there
        if isinstance(cause, IsADirectoryError):
            advice = (
                f"Give a file in it; a field of that name is written with its type: {Path(given).name or 'name'} str"
            )
            raise SchemaError(f"{given} is a folder", advice) from None
        why = getattr(cause, "strerror", None) or cause
        raise SchemaError(f"The schema file {given} cannot be read: {why}", _FORMS) from None
    where = f"The schema in {given}"
    return _json(text, where) if given.lower().endswith(".json") else _text(text, where)


def _text(text: str, where: str) -> dict[str, Any]:
    """Read JSON, or else the concise form."""
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise SchemaError(f"{where} is empty", _OBJECT)
    if _is_json(text):
        return _json(text, where)
    try:
        return concise.parse(text)
    except concise.ConciseError as cause:
        raise SchemaError(f"{where} cannot be read: {cause}", cause.fix) from None


def _is_json(text: str) -> bool:
    """Whether JSON is meant: an object, be it with a mistake, or any other value."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text.removeprefix("\ufeff")) is not text
    return text.lstrip("\ufeff \t\r\n").startswith("{")


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        text = text.removeprefix("\ufeff")
        schema = json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise SchemaError(f"{where} is nested too deeply to be read", "Use fewer levels") from None
    except LookupError as cause:
        raise SchemaError(f"{where} has the key {cause} twice in one object", "Remove one of the two") from None
    except ValueError as cause:
        raise SchemaError(f"{where} is not JSON: {cause}", "Correct it at that place") from None
    if not isinstance(schema, dict):
        raise SchemaError(f"{where} is not a JSON object, and a schema is needed", _OBJECT)
    return _bounded(schema, where)


def _bounded(schema: dict[str, Any], where: str) -> dict[str, Any]:
    if walk.depth(schema) > walk.DEEPEST:
        why = f"it has more than {walk.DEEPEST} levels"
        raise SchemaError(f"{where} is nested too deeply to be used: {why}", "Use fewer levels, or $ref and $defs")
    return schema


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise LookupError(json.dumps(name))
        found[name] = value
    return found


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:40]} is {'too large a number' if digits[-1].isdigit() else 'not a JSON value'}")
    return number


def _of_named(module: str, name: str) -> dict[str, Any]:
    """Make the schema of a thing in a module, whose code shall neither end this process nor write to stdout."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return of(_imported(module, name))
    except (SchemaError, KeyboardInterrupt):
        raise
    except BaseException as cause:  # noqa: BLE001 # such as SystemExit in a hook of Pydantic's
        why = f"{module}:{name} has no JSON Schema: {type(cause).__name__}: {_first_line(cause)}"
        raise SchemaError(why, _TYPES) from None


def _imported(module: str, name: str) -> Any:
    """Import a module as `python -m` finds it, and take a thing from it."""
    import importlib

    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
        for step in name.split("."):
            found = getattr(found, step)
    except AttributeError as cause:
        raise SchemaError(f"{module} has no {name}: {_first_line(cause)}", _TYPES) from None
    except (Exception, SystemExit, GeneratorExit) as cause:
        fix = f"Make sure that `python -c 'import {module}'` works here; a field is written as in: {module}: int"
        raise SchemaError(
            f"{module} cannot be imported: {type(cause).__name__}: {_first_line(cause)}", fix
        ) from cause
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(Path.cwd()))
    return found


# ---- Python types ---------------------------------------------------------------------------------------------


def of(thing: Any) -> dict[str, Any]:
    """Make the JSON Schema of a Python thing.

    Args:
        thing: a Pydantic model, a dataclass, a TypedDict, a msgspec Struct, an Enum, any other type that msgspec
            understands, a typed function (the schema of its parameters), or a schema, which is returned as it is.

    Returns:
        A schema whose root is the type itself, unless it is recursive. An object admits no other properties, unless
        the type says that it does (`extra="allow"` of Pydantic).

    Raises:
        SchemaError: names the type, or the field of it, that has no schema.
    """
    if isinstance(thing, dict):
        return _bounded(thing, "The schema")
    if inspect.isroutine(thing):
        return dict(of_function(thing)["inputSchema"]["json"])
    return _bounded(_ordered(walk.rooted(_generated(thing)), thing), f"The schema of {_named(thing)}")


def _ordered(schema: dict[str, Any], thing: Any) -> dict[str, Any]:
    """Put the properties of a TypedDict, which msgspec sorts, into the order of their definition."""
    if typing.is_typeddict(thing) and "properties" in schema:
        names = [*typing.get_type_hints(thing)]
        schema["properties"] = {name: schema["properties"][name] for name in names}
        schema["required"] = [name for name in names if name in schema["required"]]
    return schema


def _generated(thing: Any) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    try:
        schema = _from_pydantic(thing, definitions) if _is_pydantic(thing) else _from_msgspec(thing, definitions)
    except SchemaError:
        raise
    except Exception as cause:
        why = "JSON has no such type" if "custom types" in _first_line(cause) else _first_line(cause)
        raise SchemaError(f"{_named(thing)} has no JSON Schema{_culprit(thing)}: {why}", _TYPES) from cause
    for name, definition in schema.get("$defs", {}).items():
        if definitions.setdefault(name, definition) != definition:
            raise SchemaError(f"Two types inside {_named(thing)} are called {name}", "Rename one of the two")
    if definitions:
        schema["$defs"] = definitions
    for _, node in walk.nodes(schema):
        if "properties" in node and node.get("type") == "object":
            node.setdefault("additionalProperties", False)
    return schema


def _from_msgspec(thing: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Let msgspec make a schema; the definitions of Pydantic models inside are collected."""
    import msgspec

    return msgspec.json.schema(thing, schema_hook=lambda inner: _from_pydantic(inner, definitions))


def _is_pydantic(thing: Any) -> bool:
    return isinstance(thing, type) and (
        hasattr(thing, "model_json_schema") or hasattr(thing, "__pydantic_core_schema__")
    )


def _from_pydantic(thing: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Let Pydantic make a schema; `definitions` receives its `$defs`.

    What is none of Pydantic's is a NotImplementedError: msgspec's protocol.
    """
    if not _is_pydantic(thing):
        raise NotImplementedError
    import pydantic

    try:
        schema = pydantic.TypeAdapter(thing).json_schema()
    except Exception as cause:
        raise SchemaError(f"{_named(thing)} has no JSON Schema: {_first_line(cause)}", _TYPES) from cause
    definitions.update(schema.pop("$defs", {}))
    return schema


def _culprit(thing: Any, seen: frozenset[int] = frozenset()) -> str:
    """Find the field of a type that has no schema, as ` at .owner.cat (Cat)`, or nothing."""
    for name, annotation in _fields(thing):
        try:
            _from_msgspec(annotation, {})
        except Exception:  # noqa: BLE001 # whatever it was, this is the field that cannot be used
            inner = "" if id(annotation) in seen else _culprit(annotation, seen | {id(thing), id(annotation)})
            at = inner.removeprefix(" at ")
            return f" at .{name}{at}" if at else f" at .{name} ({_named(annotation)})"
    return ""


def _fields(thing: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(thing) or typing.is_typeddict(thing) or hasattr(thing, "__struct_fields__"):
        with contextlib.suppress(Exception):  # an annotation that cannot be resolved, which msgspec has told already
            yield from typing.get_type_hints(thing, include_extras=True).items()


def _named(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", None) or repr(thing)[:80])


def _first_line(cause: BaseException) -> str:
    with contextlib.suppress(Exception):  # what another's code raises may fail to say why
        return (str(cause) or type(cause).__name__).partition("\n")[0]
    return type(cause).__name__


# ---- functions ------------------------------------------------------------------------------------------------


def of_function(function: Callable[..., Any]) -> dict[str, Any]:
    """Describe a typed function as a Converse tool specification.

    Returns:
        `{"name": ..., "description": ..., "inputSchema": {"json": schema}}`; the description is the docstring's first
        paragraph, and is left out where there is none. The lines of its `Args:` describe the properties.

    Raises:
        SchemaError: names the parameter, or the function, that cannot be described.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if not _TOOL_NAME.fullmatch(name):
        raise SchemaError(f"{name} is no name for a tool", "Use 1 to 64 letters of a to z, digits, _ and -")
    schema = of(_parameters(function))
    schema.pop("title", None)
    about, described = _documented(inspect.getdoc(function) or "")
    for parameter, about_it in schema["properties"].items():
        if parameter in described:
            schema["properties"][parameter] = {**about_it, "description": described[parameter]}
    return {"name": name, **({"description": about} if about else {}), "inputSchema": {"json": schema}}


def arguments(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Convert JSON values to what a function's parameters are annotated with.

    Returns:
        The keyword arguments; a parameter that is not given is left to its default.

    Raises:
        ValueError: says what does not fit, and where: `Expected int, got str - at $.minutes`.
        SchemaError: the function has a parameter that cannot be described.
    """
    import msgspec

    parameters: Any = _parameters(function)
    for name in given:
        if name not in parameters.__annotations__:
            raise ValueError(f"There is no parameter {name} - at $")
    try:
        converted: dict[str, Any] = msgspec.convert(given, parameters, dec_hook=_model)
    except msgspec.ValidationError as cause:
        told = str(cause).replace("`", "")
        raise ValueError(told if " - at $" in told else f"{told} - at $") from cause
    return converted


def _model(kind: Any, value: Any) -> Any:
    """Make an instance of a Pydantic type (msgspec's protocol)."""
    if not _is_pydantic(kind):
        raise NotImplementedError
    import pydantic

    try:
        return pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError as cause:
        first = cause.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from cause


def _parameters(function: Callable[..., Any]) -> Any:
    """Make the TypedDict of a function's parameters: its properties are required where there is no default."""
    name = _named(function)
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as cause:
        raise SchemaError(f"The types of {name} cannot be read: {_first_line(cause)}", _TYPES) from cause
    fields = {}
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise SchemaError(f"{name} takes {parameter}, which cannot be passed by name", "Name each parameter")
        if parameter.name not in hints:
            raise SchemaError(f"The parameter {parameter.name} of {name} has no type", f"Write {parameter.name}: str")
        hint = hints[parameter.name]
        fields[parameter.name] = hint if parameter.default is parameter.empty else typing.NotRequired[hint]
    return typing.TypedDict(name, fields)  # type: ignore[operator] # made from data, which no checker can follow


def _documented(text: str) -> tuple[str, dict[str, str]]:
    """Read a docstring: its first paragraph, and the parameters that its `Args:` section describes."""
    about = " ".join(re.split(r"\n\s*\n|^Args:", text, maxsplit=1, flags=re.MULTILINE)[0].split())
    described: dict[str, str] = {}
    section = re.search(r"^Args:[ ]*\n((?:[ \t]+.*\n?|[ \t]*\n)*)", text + "\n", re.MULTILINE)
    name, indent = "", None
    for line in section[1].splitlines() if section else ():
        width = len(line) - len(line.lstrip())
        indent = width if indent is None else indent
        entry = _ARGUMENT.fullmatch(line.strip()) if width == indent else None
        if entry:
            name = entry[1]
        if name and line.strip():
            described[name] = f"{described.get(name, '')} {entry[2] if entry else line.strip()}".strip()
    return about, described
