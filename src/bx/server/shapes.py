"""Values against the shapes of botocore's service models: JSON into members, and each constraint of a model.

Nothing here knows an operation: what a value may be is read from its `botocore.model.Shape`. The texts are those
of the framework that Amazon's services share.
"""

from __future__ import annotations

import binascii
import json
import math
import re
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from bx.converse import error
from bx.instances import checker

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

    from botocore.exceptions import ClientError
    from botocore.model import Shape

_MOST_VIOLATIONS = 10  # that are told, so that a hostile body cannot ask for a huge answer
_LONGEST_SHOWN = 200  # characters of what a client sent that are repeated to it
_JAVA_SPACE = " \t\n\x0b\f\r"  # what \s is to the service; here it would also be Unicode's spaces
_BITS = {"integer": 31, "long": 63}


# ---- JSON -> members ------------------------------------------------------------------------------------------


def decoded(shape: Shape, value: Any, skip: Container[str] = ()) -> dict[str, Any]:
    """Read the JSON of a body as the members of a structure, in boto3's spelling.

    Blobs become bytes, timestamps datetimes; a member that is null is absent; a document stays as it is.

    Args:
        shape: a structure.
        value: what was read from JSON.
        skip: members that travel elsewhere; in the body they mean nothing.

    Raises:
        ClientError: `SerializationException` where a value is of another type than its shape,
            `ValidationException` where the shape has no such member.
    """
    try:
        return {} if value is None else _read_members(shape, value, "", skip)
    except RecursionError:
        raise error("SerializationException", "The request body is nested too deeply") from None


def _read(shape: Shape, value: Any, path: str) -> Any:
    return _READERS[shape.type_name](shape, value, path)


def _read_structure(shape: Shape, value: Any, path: str) -> Any:
    return _read_document(value, path) if shape.is_document_type else _read_members(shape, value, path)


def _read_members(shape: Shape, value: Any, path: str, skip: Container[str] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _mistyped(shape, value, path)
    known, members = _in_body(shape), {}
    for key, item in value.items():
        if key in skip:
            continue
        if key not in known:
            where, names = _shown(path) or "input", ", ".join(known)
            raise _invalid(f'Unknown parameter in {where}: "{_shown(key)}", must be one of: {names}')
        if item is not None:
            name, member = known[key]
            members[name] = _read(member, item, f"{path}.{name}" if path else name)
    return members


@cache
def _in_body(shape: Shape) -> dict[str, tuple[str, Shape]]:
    """Return the members of a structure that travel in a body: key in JSON -> name and shape."""
    members = [(name, each, each.serialization) for name, each in shape.members.items()]
    return {wired.get("name", name): (name, each) for name, each, wired in members if "location" not in wired}


def _read_document(value: Any, path: str) -> Any:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as cause:
        raise _unreadable(f"The document{_at(path)} is no JSON: {cause}") from None
    return value


def _read_list(shape: Shape, value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise _mistyped(shape, value, path)
    member = shape.member
    return [
        None if item is None else _read(member, item, f"{path}.{index}.member") for index, item in enumerate(value, 1)
    ]


def _read_map(shape: Shape, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _mistyped(shape, value, path)
    inner = shape.value
    return {
        _read_string(shape.key, key, path): None if item is None else _read(inner, item, f"{path}.{key}.member")
        for key, item in value.items()
    }


def _read_string(shape: Shape, value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _mistyped(shape, value, path)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as cause:
            half = f"has a lone surrogate at index {cause.start}, which is no character"
            raise _unreadable(f"The string{_at(path)} {half}") from None
    return value


def _read_blob(shape: Shape, value: Any, path: str) -> bytes:
    if not isinstance(value, str):
        raise _mistyped(shape, value, path)
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError as cause:
        raise _unreadable(f"The blob{_at(path)} is no base64: {cause}") from None


def _read_boolean(shape: Shape, value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise _mistyped(shape, value, path)
    return value


def _read_integer(shape: Shape, value: Any, path: str) -> int:
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(whole, int) or isinstance(whole, bool) or not _fits(shape, whole):
        raise _mistyped(shape, value, path)
    return whole


def _fits(shape: Shape, value: int) -> bool:
    most: int = 2 ** _BITS[shape.type_name]
    return -most <= value < most


def _read_float(shape: Shape, value: Any, path: str) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value
    except OverflowError:  # an integer beyond all floats
        pass
    raise _mistyped(shape, value, path)


def _read_timestamp(shape: Shape, value: Any, path: str) -> datetime:
    try:
        if isinstance(value, str):
            return _moment(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):  # the latter two where a number is no moment
        pass
    raise _mistyped(shape, value, path)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_READERS: dict[str, Callable[[Shape, Any, str], Any]] = {
    "structure": _read_structure,
    "list": _read_list,
    "map": _read_map,
    "string": _read_string,
    "blob": _read_blob,
    "boolean": _read_boolean,
    "integer": _read_integer,
    "long": _read_integer,
    "float": _read_float,
    "double": _read_float,
    "timestamp": _read_timestamp,
}


def _mistyped(shape: Shape, value: Any, path: str) -> ClientError:
    if isinstance(value, dict):
        return _unreadable(f"Start of structure or map found where not expected{_at(path)}")
    if isinstance(value, list):
        return _unreadable(f"Start of list found where not expected{_at(path)}")
    if isinstance(value, bool):
        found = "TRUE_VALUE" if value else "FALSE_VALUE"
    else:
        found = "STRING_VALUE" if isinstance(value, str) else "NUMBER_VALUE"
    return _unreadable(f"{found} cannot be converted to {shape.type_name.title()}{_at(path)}")


def _at(path: str) -> str:
    return f" at '{_shown(path)}'" if path else " in place of the request's members"


def _shown(text: str) -> str:
    """Shorten what a client sent, and make halves of characters visible."""
    shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
    return shown.encode(errors="backslashreplace").decode()


def _unreadable(message: str) -> ClientError:
    return error("SerializationException", message)


def _invalid(message: str) -> ClientError:
    return error("ValidationException", message)


# ---- a query string -> members --------------------------------------------------------------------------------


def from_text(shape: Shape, text: str, name: str) -> Any:
    """Read a value of a query string: text, a whole number, `true` or `false`, or a moment in ISO 8601.

    Raises:
        ClientError: `ValidationException` where the text is no value of the shape.
    """
    kind = shape.type_name
    if kind == "list":
        return [from_text(shape.member, text, name)]
    if kind not in _FROM_TEXT:
        return text
    rule, read = _FROM_TEXT[kind]
    try:
        value = read(text)
    except ValueError:
        value = None
    if value is None or (kind in _BITS and not _fits(shape, value)):
        raise _failed([_told(name, rule, text)])
    return value


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,20}", text):  # `int` also reads spaces, underscores and other scripts' digits
        raise ValueError(text)
    return int(text)


_FROM_TEXT: dict[str, tuple[str, Callable[[str], Any]]] = {
    "integer": ("Member must be a whole number", _whole),
    "long": ("Member must be a whole number", _whole),
    "boolean": ("Member must be true or false", {"true": True, "false": False}.get),
    "timestamp": ("Member must be a timestamp in ISO 8601", _moment),
}


# ---- constraints ----------------------------------------------------------------------------------------------


def check(shape: Shape, members: Mapping[str, Any]) -> None:
    """Hold the members of a structure, as `decoded` gives them, against every constraint of its model.

    Raises:
        ClientError: one `ValidationException` that names the first ten violations.
    """
    try:
        violations = list(islice(_violations(shape, members, ""), _MOST_VIOLATIONS))
    except RecursionError:
        raise _invalid("The request is nested too deeply") from None
    if violations:
        raise _failed(violations)


def _failed(violations: list[str]) -> ClientError:
    errors = "validation error" if len(violations) == 1 else "validation errors"
    return _invalid(f"{len(violations)} {errors} detected: {'; '.join(violations)}")


def _violations(shape: Shape, value: Any, path: str) -> Iterator[str]:
    inside = _INSIDE.get(shape.type_name)
    if inside is not None:
        yield from inside(shape, value, path)
    elif shape.metadata:
        for rule in _broken(shape, value):
            # One of a few was meant: to see which came helps. Other values may be private.
            yield _told(path, rule, value if "enum" in shape.metadata else None)


def _told(path: str, rule: str, value: Any = None) -> str:
    shown = "Value" if value is None else f"Value '{_shown(str(value))}'"
    return f"{shown} at '{_shown(path)}' failed to satisfy constraint: {rule}"


def _in_structure(shape: Shape, value: Any, path: str) -> Iterator[str]:
    if shape.is_document_type or "eventstream" in shape.serialization:
        return
    if not isinstance(value, dict):
        yield _told(path, "Member must be a structure")
        return
    prefix = f"{path}." if path else ""
    for name in shape.required_members:
        if value.get(name) is None:
            yield _told(f"{prefix}{name}", "Member must not be null")
    members = shape.members
    if shape.is_tagged_union and len(value) != 1:
        found = f"it sets [{', '.join(value)}]" if value else "it sets none"
        rule = f"Member must set exactly one of the following keys: [{', '.join(members)}], but {found}"
        yield _told(path, rule)
    for name, item in value.items():
        if name in members and item is not None:
            yield from _violations(members[name], item, f"{prefix}{name}")


def _in_list(shape: Shape, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield _told(path, "Member must be a list")
        return
    for rule in _out_of_bounds(shape.metadata, len(value), "length"):
        yield _told(path, rule)
    member = shape.member
    for index, item in enumerate(value, 1):
        where = f"{path}.{index}.member"
        if item is None:
            yield _told(where, "Member must not be null")
        else:
            yield from _violations(member, item, where)


def _in_map(shape: Shape, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _told(path, "Member must be a map")
        return
    for rule in _out_of_bounds(shape.metadata, len(value), "length"):
        yield _told(path, rule)
    for key, item in value.items():
        if rules := list(_broken(shape.key, key)):
            yield _told(path, f"Map keys must satisfy constraint: [{', '.join(rules)}]")
        where = f"{path}.{key}.member"
        if item is None:
            yield _told(where, "Member must not be null")
        else:
            yield from _violations(shape.value, item, where)


_INSIDE: dict[str, Callable[[Shape, Any, str], Iterator[str]]] = {
    "structure": _in_structure,
    "list": _in_list,
    "map": _in_map,
}


def _broken(shape: Shape, value: Any) -> Iterator[str]:
    """Name the rules that a value without members breaks."""
    kind, rules = shape.type_name, shape.metadata
    if kind == "string":
        yield from _broken_by_text(rules, value)
    elif kind == "blob":
        yield from _out_of_bounds(rules, len(value), "length")
    elif kind in ("integer", "long", "float", "double"):
        yield from _out_of_bounds(rules, value, "value")


def _broken_by_text(rules: Mapping[str, Any], value: Any) -> Iterator[str]:
    if not isinstance(value, str):
        yield "Member must be a string"
        return
    yield from _out_of_bounds(rules, len(value), "length")
    if "enum" in rules and value not in rules["enum"]:
        yield f"Member must satisfy enum value set: [{', '.join(rules['enum'])}]"
    if "pattern" in rules and _pattern(rules["pattern"])(value):
        yield f"Member must satisfy regular expression pattern: {rules['pattern']}"


def _out_of_bounds(rules: Mapping[str, Any], measure: float, what: str) -> Iterator[str]:
    if "min" in rules and measure < rules["min"]:
        yield f"Member must have {what} greater than or equal to {rules['min']}"
    if "max" in rules and measure > rules["max"]:
        yield f"Member must have {what} less than or equal to {rules['max']}"


@cache
def _pattern(pattern: str) -> Callable[[Any], str | None]:
    """Make the function that says whether a whole text breaks a pattern.

    It takes linear time: with Python's own `re`, some of the models' patterns take years for a text of 60 characters.
    """
    if "[" not in pattern:
        pattern = pattern.replace(r"\S", f"[^{_JAVA_SPACE}]")
    elif r"\S" not in pattern:
        pattern = pattern.replace(r"\s", _JAVA_SPACE)
    return checker({"pattern": f"^(?:{pattern})$"})
