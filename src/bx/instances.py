"""JSON values: read strictly, and held against a JSON Schema.

This module knows nothing of Converse, and imports nothing of bx.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TYPES = "object, array, string, number, integer, boolean and null"
_LONGEST = 80  # characters of a wrong value that are shown
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def loads(text: str) -> Any:
    """Read JSON, and nothing that Python takes for it: NaN, Infinity, a number beyond all floats.

    Raises:
        ValueError: it is none, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def violation(value: Any, schema: dict[str, Any]) -> str | None:
    """Name the first place where a value breaks a JSON Schema, such as `$.severity: ...`, or None.

    Formats count. Nothing is fetched: a reference to another document is an error.

    Raises:
        ValueError: the schema itself is no valid JSON Schema.
    """
    return checker(schema)(value)


def checker(schema: dict[str, Any]) -> Callable[[Any], str | None]:
    """Make the function that is `violation` for one schema, for many values.

    Raises:
        ValueError: the schema is no valid JSON Schema.
    """
    import jsonschema_rs

    try:
        validator = _validator(schema)
    except jsonschema_rs.ValidationError as cause:
        where = json_path([*cause.instance_path])
        raise ValueError(f"not a valid JSON Schema: {where}: {cause.message}") from None
    except jsonschema_rs.ReferencingError as cause:
        raise ValueError(f"not a self-contained JSON Schema: {cause}") from None
    except ValueError as cause:
        raise ValueError(f"not a valid JSON Schema: {cause}") from None

    def broken(value: Any) -> str | None:
        try:
            validator.validate(value)  # up to the first violation: each of all quotes the value, which is quadratic
        except jsonschema_rs.ValidationError as first:
            return f"{json_path([*first.instance_path])}: {first.message}"
        except UnicodeEncodeError:
            return "$: it holds half of a character (a lone surrogate), which is no text"
        return None

    return broken


def invalid_schema(schema: Any) -> str | None:
    """Say where and why a value is no JSON Schema, by the meta-schema that its `$schema` names, or return None.

    Takes linear time, follows no reference and fetches nothing. The default is Draft 2020-12.
    """
    import jsonschema_rs

    named = schema.get("$schema", _DRAFT) if isinstance(schema, dict) else _DRAFT
    try:
        meta = _meta(named or "nothing")
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, TypeError, ValueError):
        return f"{json_path(['$schema'])}: {named!r} is no draft that is known"
    try:
        first = next(iter(meta.iter_errors(schema)), None)
    except ValueError as cause:
        return f"$: {cause}"
    if first is None:
        return None
    path = [*first.instance_path]
    is_type = path[-1:] == ["type"] and path[-2:-1] != ["dependencies"] and "anyOf" in first.message
    return f"{json_path(path)}: {_no_type(first.instance) if is_type else first.message}"


def _no_type(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    missed = "a list of different types" if isinstance(value, list) else "a type"
    return f"{shown} is not {missed}; the types are {_TYPES}"


def json_path(steps: Iterable[str | int]) -> str:
    """Spell a path as JSONPath does: `$.items[0].name`, `$['odd name']`."""
    spelled = "$"
    for step in steps:
        if isinstance(step, int):
            spelled += f"[{step}]"
        else:
            spelled += f".{step}" if step.replace("$", "_").isidentifier() else f"[{step!r}]"
    return spelled


def canonical(value: Any) -> str:
    """Spell a JSON value so that equal values are spelled alike: 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(name)}:{canonical(value[name])}' for name in sorted(value))}}}"
    return json.dumps(value)


def _validator(schema: dict[str, Any]) -> Any:
    import jsonschema_rs

    made = partial(jsonschema_rs.validator_for, schema, validate_formats=True, offline=True)
    try:
        # The linear-time engine for `pattern`: a hostile schema must not be able to hang us. It knows neither
        # look-around nor back-references, so those few patterns go to the backtracking one, which has a limit.
        return made(pattern_options=jsonschema_rs.RegexOptions())
    except jsonschema_rs.ValidationError:
        return made(pattern_options=jsonschema_rs.FancyRegexOptions())


@lru_cache(maxsize=8)
def _meta(draft: str) -> Any:
    import jsonschema_rs

    return jsonschema_rs.validator_for({"$schema": draft, "$ref": draft}, validate_formats=True, offline=True)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError(f"{digits} is too large a number")
    return number
