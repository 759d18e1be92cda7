"""A Converse request against what a model of text accepts, with tools or without, in the service's own texts.

Amazon Bedrock checks its own requests; the engines that run here call `check` first, so that a request which the
service would refuse is refused here too. Nothing is loaded for it: botocore's shapes are not needed. The rules that
hold for every model are functions of their own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bx.converse import error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from botocore.exceptions import ClientError

    _Checks = dict[tuple[str, str], Callable[[Any, str], None]]

_MEMBERS = [
    "modelId", "messages", "system", "inferenceConfig", "toolConfig", "guardrailConfig", "promptVariables",
    "additionalModelRequestFields", "additionalModelResponseFieldPaths", "requestMetadata", "performanceConfig",
    "serviceTier", "outputConfig",
]  # fmt: skip
# Served as they are, or without any effect on the answer.
_ACCEPTED = {"modelId", "messages", "system", "inferenceConfig", "outputConfig", "requestMetadata"}
_COUNTED = ["messages", "system", "toolConfig", "additionalModelRequestFields"]  # what CountTokens takes of Converse
_LIMITS = {"maxTokens": (1, None), "temperature": (0, 1), "topP": (0, 1)}


_NAME = "[a-zA-Z0-9_-]+"
_ID = "[a-zA-Z0-9_.:-]+"
_LONGEST_NAME = 64  # characters, of a tool's name and of a call's id


def check(request: dict[str, Any], *, fields: Iterable[str] = (), tools: bool = False) -> None:
    """Refuse a request that a model of text cannot answer as it stands.

    Args:
        request: the members of Converse's request.
        fields: the names that the model knows in `additionalModelRequestFields`.
        tools: whether the model can use tools.

    Raises:
        ClientError: `ValidationException`, with the text that the service uses where it is known.
    """
    for name in request:
        if name not in _MEMBERS:
            known = ", ".join(_MEMBERS)
            raise _refuse(f'Unknown parameter in input: "{name}", must be one of: {known}')
    if "toolConfig" in request:
        if not tools:
            raise _refuse("This model doesn't support tool use.")
        _check_tools(request["toolConfig"])
    for name, value in request.items():
        if name not in _ACCEPTED and name not in ("additionalModelRequestFields", "toolConfig") and value:
            raise _unsupported(name)
    _check_known("additionalModelRequestFields", request.get("additionalModelRequestFields", {}), fields)
    _check_known("outputConfig", request.get("outputConfig", {}), ["textFormat"])
    _check_inference(request.get("inferenceConfig", {}))
    for index, block in enumerate(_list(request.get("system", []), "system")):
        _check_text_block(block, f"system.{index}", "system prompts")
    messages = _list(request.get("messages", []), "messages")
    _check_messages(messages, _TOOL_BLOCKS if tools else {})
    if tools:
        check_calls(messages, defined="toolConfig" in request)


def counted(request: dict[str, Any]) -> dict[str, Any]:
    """Read the Converse request whose tokens CountTokens is to count.

    Raises:
        ClientError: `ValidationException` when there is none: the body of an InvokeModel has to be translated first.
    """
    given, problem = request.get("input"), None
    if unknown := request.keys() - {"modelId", "input"}:
        problem = f'Unknown parameter in input: "{min(map(str, unknown))}", must be one of: modelId, input'
    elif not isinstance(given, dict) or len(given) != 1:
        problem = "The CountTokensInput object at input must set exactly one of its fields."
    elif not isinstance(asked := given.get("converse"), dict):
        problem = "This model counts the tokens of Converse requests only. Give one in input.converse and try again."
    elif unknown := asked.keys() - set(_COUNTED):
        known, first = ", ".join(_COUNTED), min(map(str, unknown))
        problem = f'Unknown parameter in input.converse: "{first}", must be one of: {known}'
    else:
        return {**asked, **{name: value for name, value in request.items() if name == "modelId"}}
    raise error("ValidationException", problem, operation="CountTokens")


def check_turns(messages: list[Any], roles: Sequence[str] = ("user", "assistant")) -> None:
    """Refuse a conversation whose turns are out of order, or one of which has no content.

    Args:
        messages: Converse's; a message of the role `system` stands outside the order of the others.
        roles: those that there may be.

    Raises:
        ClientError: `ValidationException`, in the service's words.
    """
    if not all(isinstance(message, dict) for message in messages):
        raise _refuse("messages must be a list of structures with a role and content.")
    for index, message in enumerate(messages, 1):
        if (role := message.get("role")) not in roles:
            where = f"Value '{role}' at 'messages.{index}.member.role' failed to satisfy constraint"
            raise _constraint(f"{where}: Member must satisfy enum value set: [{', '.join(roles)}]")
    speakers = [message["role"] for message in messages if message["role"] != "system"]
    if speakers[:1] != ["user"]:
        advice = "Try again with a conversation that starts with a user message."
        raise _refuse(f"A conversation must start with a user message. {advice}")
    if any(before == after for before, after in pairwise(speakers)):
        advice = "Make sure the conversation alternates between user and assistant roles and try again."
        raise _refuse(f"A conversation must alternate between user and assistant roles. {advice}")
    for index, message in enumerate(messages):
        if not _list(message.get("content", []), f"messages.{index}.content"):
            where = f"The content field in the Message object at messages.{index} is empty."
            raise _refuse(f"{where} Add a ContentBlock object to the content field and try again.")


def _check_messages(messages: list[Any], blocks: _Checks) -> None:
    """Refuse turns or blocks out of place; `blocks` are those beside text: role and name -> their check."""
    check_turns(messages)
    for index, message in enumerate(messages):
        role = message["role"]
        for position, block in enumerate(message["content"]):
            where = f"messages.{index}.content.{position}"
            name = next(iter(block), "") if isinstance(block, dict) and len(block) == 1 else ""
            if (role, name) in blocks:
                blocks[role, name](block[name], where)
            else:
                _check_text_block(block, where, f"{role} messages")


def _check_text_block(block: Any, where: str, kind: str) -> None:
    """Refuse a block that is not one of text which can be encoded."""
    if not isinstance(block, dict) or len(block) != 1:
        raise _refuse(f"The ContentBlock object at {where} must set exactly one of its fields.")
    ((name, text),) = block.items()
    if name != "text":
        raise misplaced(name, kind)
    if not isinstance(text, str):
        raise _refuse(f"The text field in the ContentBlock object at {where} must be a string.")
    check_text(text, where)


def check_text(text: str, where: str) -> None:
    """Refuse the text of a block that is blank or cannot be encoded; `where` is the block's path."""
    if not text.strip():
        at = f"The text field in the ContentBlock object at {where} is blank."
        raise _refuse(f"{at} Add text to the text field, and try again.")
    try:
        text.encode()
    except UnicodeEncodeError as cause:
        at = f"The text field in the ContentBlock object at {where}"
        raise _refuse(f"{at} has a lone surrogate at index {cause.start}, which is no character.") from None


def _check_tools(config: Any) -> None:
    _check_known("toolConfig", config, ["tools", "toolChoice"])
    tools = _list(config.get("tools"), "toolConfig.tools")
    if not tools:
        raise _violated("toolConfig.tools", "Member must have length greater than or equal to 1")
    names: dict[str, int] = {}
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or len(tool) != 1:
            raise _refuse(f"The Tool object at toolConfig.tools.{index} must set exactly one of its fields.")
        if "toolSpec" not in tool:
            raise _unsupported(next(iter(tool)))
        _check_spec(tool["toolSpec"], index)
        name = tool["toolSpec"]["name"]
        if names.setdefault(name, index) != index:
            raise _refuse(f"The tool names in toolConfig.tools must be unique: {name} is there twice.")
    _check_json(config, "toolConfig")
    choice = config.get("toolChoice", {"auto": {}})
    if not isinstance(choice, dict) or len(choice) != 1:
        raise _refuse("The ToolChoice object at toolConfig.toolChoice must set exactly one of its fields.")
    ((kind, value),) = choice.items()
    _check_known("toolConfig.toolChoice", choice, ["auto", "any", "tool"])
    _check_known(f"toolConfig.toolChoice.{kind}", value, ["name"] if kind == "tool" else [])
    if kind == "tool" and value.get("name") not in [*names]:
        known = ", ".join(names)
        raise _refuse(
            f"toolConfig.toolChoice.tool.name is {value.get('name')!r}, which is none of the tools: {known}"
        )


def _check_spec(spec: Any, index: int) -> None:
    where = f"toolConfig.tools.{index}.toolSpec"
    _check_known(where, spec, ["name", "description", "inputSchema", "strict"])
    _check_name(spec.get("name"), f"toolConfig.tools.{index + 1}.member.toolSpec.name", _NAME)
    if not isinstance(spec.get("strict", False), bool):
        raise _refuse(f"{where}.strict must be true or false.")
    about = spec.get("description", "-")
    if not isinstance(about, str) or not about:
        raise _refuse(f"{where}.description must be a string of at least one character.")
    schema = spec.get("inputSchema")
    if not isinstance(schema, dict) or [*schema] != ["json"] or not isinstance(schema["json"], dict):
        raise _refuse(f"{where}.inputSchema must be a structure with a JSON Schema in its field json.")
    if schema["json"].get("type") != "object":
        raise _refuse(f"The value at {where}.inputSchema.json.type must be one of the following: object.")


def _check_use(call: Any, where: str) -> None:
    _check_known(f"{where}.toolUse", call, ["toolUseId", "name", "input", "type"])
    _check_name(call.get("toolUseId"), f"{where}.toolUse.toolUseId", _ID)
    _check_name(call.get("name"), f"{where}.toolUse.name", _NAME)
    if not isinstance(call.get("input"), dict):
        raise _refuse(f"The value at {where}.toolUse.input must be a JSON object.")
    _check_json(call["input"], f"{where}.toolUse.input")


def _check_result(result: Any, where: str) -> None:
    where = f"{where}.toolResult"
    _check_known(where, result, ["toolUseId", "content", "status", "type"])
    _check_name(result.get("toolUseId"), f"{where}.toolUseId", _ID)
    if result.get("status", "success") not in ("success", "error"):
        raise _violated(f"{where}.status", "Member must satisfy enum value set: [success, error]")
    for index, part in enumerate(_list(result.get("content"), f"{where}.content")):
        if not isinstance(part, dict) or len(part) != 1:
            raise _refuse(f"The ContentBlock object at {where}.content.{index} must set exactly one of its fields.")
        ((name, value),) = part.items()
        if name not in ("text", "json"):
            raise misplaced(name, "tool results")
        if name == "text" and not isinstance(value, str):
            raise _refuse(f"The text field in the ContentBlock object at {where}.content.{index} must be a string.")
        _check_json(value, f"{where}.content.{index}.{name}")


_TOOL_BLOCKS: _Checks = {("assistant", "toolUse"): _check_use, ("user", "toolResult"): _check_result}


def check_calls(messages: list[Any], *, defined: bool) -> None:
    """Refuse results without calls and calls without results; each turn's belong to the one before it.

    The calls of the service's own tools are no concern of the user's turns.

    Args:
        messages: Converse's, as `check_turns` and the shapes of tool blocks accept them.
        defined: whether the request has a `toolConfig`.

    Raises:
        ClientError: `ValidationException`, in the service's words.
    """
    expected: dict[str, None] = {}
    turns = [(index, message) for index, message in enumerate(messages) if message["role"] != "system"]
    for index, message in [*turns, (len(messages), {"role": "user", "content": []})]:
        where = f"messages.{index}.content"
        results = _ids(message, "toolResult", where)
        if missing := [call for call in expected if call not in results]:
            raise _refuse(f"Expected toolResult blocks at {where} for the following Ids: {', '.join(missing)}")
        if len(results) > len(expected):
            more = "exceeds the number of toolUse blocks of previous turn"
            raise _refuse(f"The number of toolResult blocks at {where} {more}.")
        expected = _ids(message, "toolUse", where)
        if (results or expected) and not defined:
            raise _refuse("The toolConfig field must be defined when using toolUse and toolResult content blocks.")


def _ids(message: dict[str, Any], kind: str, where: str) -> dict[str, None]:
    blocks = [block[kind] for block in message["content"] if kind in block]
    if message["role"] == "assistant":  # in whose turns the service's own tools are called, and answer
        blocks = [block for block in blocks if kind == "toolUse" and block.get("type") != "server_tool_use"]
    ids = [block["toolUseId"] for block in blocks]
    if twice := [one for one, count in Counter(ids).items() if count > 1]:
        raise _refuse(f"The {kind} blocks at {where} contain duplicate Ids: {', '.join(twice)}")
    return dict.fromkeys(ids)


def _check_name(name: Any, where: str, pattern: str) -> None:
    if not isinstance(name, str):
        raise _violated(where, "Member must not be null" if name is None else "Member must be a string")
    if len(name) > _LONGEST_NAME:
        raise _violated(where, f"Member must have length less than or equal to {_LONGEST_NAME}")
    if not re.fullmatch(pattern, name):
        raise _violated(where, f"Member must satisfy regular expression pattern: {pattern}")


def _check_json(value: Any, where: str) -> None:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as cause:
        raise _refuse(f"The value at {where} is no JSON: {cause}") from None


def _check_inference(config: dict[str, Any]) -> None:
    _check_known("inferenceConfig", config, [*_LIMITS, "stopSequences"])
    for name, (least, most) in _LIMITS.items():
        value = config.get(name, least)
        number = isinstance(value, int if name == "maxTokens" else (int, float))
        if isinstance(value, bool) or not number:
            raise _refuse(f"inferenceConfig.{name} must be a number, not {value!r}.")
        if not value >= least or (most is not None and value > most):  # the "not" is for NaN
            rule = f"less than or equal to {most}" if value > least else f"greater than or equal to {least}"
            where = f"Value at 'inferenceConfig.{name}' failed to satisfy constraint"
            raise _constraint(f"{where}: Member must have value {rule}")
    for stop in _list(config.get("stopSequences", []), "inferenceConfig.stopSequences"):
        if not isinstance(stop, str) or not stop:
            raise _refuse("inferenceConfig.stopSequences must be strings of at least one character.")


def _check_known(where: str, given: Any, known: Iterable[str]) -> None:
    if not isinstance(given, dict):
        raise _refuse(f"{where} must be a structure, not {type(given).__name__}.")
    for name in given:
        if name not in known:
            raise _unsupported(f"{where}.{name}")


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _refuse(f"{where} must be a list, not {type(value).__name__}.")
    return value


def misplaced(name: str, kind: str) -> ClientError:
    """Make the error for a block where there can be none of its kind, such as an image in assistant messages."""
    return _refuse(f"This model doesn't support the {name} field for {kind}. Remove {name} and try again.")


def _unsupported(name: str) -> ClientError:
    return _refuse(f"This model doesn't support the {name} field. Remove {name} and try again.")


def _constraint(violation: str) -> ClientError:
    return _refuse(f"1 validation error detected: {violation}")


def _violated(where: str, rule: str) -> ClientError:
    return _constraint(f"Value at '{where}' failed to satisfy constraint: {rule}")


def _refuse(message: str) -> ClientError:
    return error("ValidationException", message)
