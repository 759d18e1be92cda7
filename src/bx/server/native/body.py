"""What native bodies of InvokeModel have in common on their way in: they are read key by key, and nothing is lost.

A key that nobody took is refused by name, so what a body says is either translated or refused. The texts are those of
the service's own check of native bodies; a `#` stands for the body, `#/messages/0` for a part of it.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Self

from bx.converse import error

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from botocore.exceptions import ClientError

# The service's names of JSON's types. A float stands for any number.
_NAMES: dict[type, str] = {
    dict: "JSONObject",
    list: "JSONArray",
    str: "String",
    bool: "Boolean",
    int: "Integer",
    float: "Number",
    type(None): "Null",
}
_LONGEST = 100  # characters of a wrong value that are shown
NO_CALLS: dict[str, Any] = {"none": {}}  # the tool choice that Converse does not have


class Body:
    """One JSON object of a body, whose keys are taken one by one; the end of its `with` block refuses what is left.

    A key whose value is null is one that is not there.
    """

    def __init__(self, value: Any, path: str = "#") -> None:
        self._left = dict(typed(value, path, dict))
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self._left:
            raise malformed(self.path, f"extraneous key [{next(iter(self._left))[:_LONGEST]}] is not permitted")

    def at(self, name: str) -> str:
        """Return the path of one of the keys."""
        return f"{self.path}/{name}"

    def take(self, name: str, *kinds: type) -> Any:
        """Take a value of one of some types (any, where none is named); None if it is not there."""
        value = self._left.pop(name, None)
        return value if value is None or not kinds else typed(value, self.at(name), *kinds)

    def need(self, name: str, *kinds: type) -> Any:
        """Take a value that must be there."""
        value = self.take(name, *kinds)
        if value is None:
            raise malformed(self.path, f"required key [{name}] not found")
        return value

    def choice(self, name: str, values: Collection[str]) -> str:
        """Take a string that must be there, one of some values."""
        return one_of(self.need(name, str), self.at(name), values)

    def neutral(self, name: str, *values: Any) -> None:
        """Take a value that changes nothing; refuse any other than these."""
        value = self.take(name)
        if value is not None and not any(type(value) is type(other) and value == other for other in values):
            shown = json.dumps(value)[:_LONGEST] if not isinstance(value, (dict, list)) else f"this {_name(value)}"
            raise malformed(self.at(name), f"{shown} cannot be served here")

    def renamed(self, names: Iterable[tuple[str, str, type]]) -> dict[str, Any]:
        """Take what is there of some (name, new name, type), under the new names; lists are those of strings."""
        found: dict[str, Any] = {}
        for name, new, kind in names:
            value = self.strings(name) if kind is list else self.take(name, kind)
            if value is not None and new in found:
                raise malformed(self.path, f"extraneous key [{name}] is not permitted")
            if value is not None:
                found[new] = value
        return found

    def strings(self, name: str, *, alone: bool = False) -> list[str] | None:
        """Take a list of strings, or a string that may stand alone for one."""
        values = self.take(name, str, list) if alone else self.take(name, list)
        if values is None or isinstance(values, str):
            return None if values is None else [values]
        return [typed(value, f"{self.at(name)}/{index}", str) for index, value in enumerate(values)]

    def part(self, name: str) -> Body | None:
        """Take an object."""
        value = self.take(name, dict)
        return None if value is None else Body(value, self.at(name))

    def parts(self, name: str, *, needed: bool = False) -> list[Body]:
        """Take a list of objects; an empty one if it is not there, and need not be."""
        values = self.need(name, list) if needed else self.take(name, list) or []
        return [Body(value, f"{self.at(name)}/{index}") for index, value in enumerate(values)]

    def blob(self, name: str) -> bytes:
        """Take bytes that must be there, in base64."""
        return decoded(self.need(name, str), self.at(name))


def typed(value: Any, path: str, *kinds: type) -> Any:
    """Return a value that is of one of some types; a bool is no number, an int is a float.

    Raises:
        ClientError: `ValidationException`: it is of none of them.
    """
    if type(value) in kinds or (type(value) is int and float in kinds):
        return value
    expected = " or ".join(_NAMES[kind] for kind in kinds)
    raise malformed(path, f"expected type: {expected}, found: {_name(value)}")


def one_of(value: str, path: str, values: Collection[str]) -> str:
    """Return a string that is one of some values.

    Raises:
        ClientError: `ValidationException`: it is none of them.
    """
    if value not in values:
        raise malformed(path, f"{value[:_LONGEST]} is not a valid enum value")
    return value


def decoded(text: str, path: str) -> bytes:
    """Read base64.

    Raises:
        ClientError: `ValidationException`: it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise malformed(path, "the string is not base64") from None


def malformed(path: str, what: str) -> ClientError:
    """Make the error of a body that is not as its model reads it."""
    text = f"Malformed input request: {path}: {what}, please reformat your input and try again."
    return error("ValidationException", text, operation="InvokeModel")


def merged(turns: Iterable[tuple[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return Converse's messages; turns of one role in a row, which native bodies may have, become one."""
    messages: list[dict[str, Any]] = []
    for role, content in turns:
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"].extend(content)
        else:
            messages.append({"role": role, "content": [*content]})
    return messages


def text_format(schema: dict[str, Any], path: str, **about: Any) -> dict[str, Any]:
    """Return the `outputConfig` for a JSON Schema; `about` may hold its name and description."""
    try:
        text = json.dumps(schema, ensure_ascii=False)
    except RecursionError:
        raise malformed(path, "the schema is nested too deeply") from None
    definition = {"schema": text, **{name: value for name, value in about.items() if value is not None}}
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": definition}}}


def tool_config(
    tools: Sequence[dict[str, Any]], choice: dict[str, Any] | None, request: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the `toolConfig` of a request, or nothing.

    Converse has no choice of "none"; leaving out the tools says the same, unless they were called before.
    """
    blocks = (block for message in request["messages"] for block in message["content"])
    if choice == NO_CALLS and any("toolUse" in block or "toolResult" in block for block in blocks):
        what = "none cannot be served in a conversation that has called tools; use auto"
        raise malformed("#/tool_choice", what)
    if not tools and choice not in (None, NO_CALLS, {"auto": {}}):
        raise malformed("#/tool_choice", "there are no tools to choose from")
    if not tools or choice == NO_CALLS:
        return {}
    return {"toolConfig": {"tools": [*tools], **({"toolChoice": choice} if choice else {})}}


def present(**members: Any) -> dict[str, Any]:
    """Return the members that say something: not None, and no empty object."""
    return {name: value for name, value in members.items() if value is not None and value != {}}


def _name(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)
