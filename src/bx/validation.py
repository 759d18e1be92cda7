"""A Converse request against what a text-only model accepts, with the service's own texts.

Amazon Bedrock checks its own requests; the engines that run here call `check` first, so that a request which the
service would refuse is refused here too. Nothing is loaded for it: botocore's shapes are not needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bx.converse import error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from botocore.exceptions import ClientError

_MEMBERS = [
    "modelId", "messages", "system", "inferenceConfig", "toolConfig", "guardrailConfig", "promptVariables",
    "additionalModelRequestFields", "additionalModelResponseFieldPaths", "requestMetadata", "performanceConfig",
    "serviceTier", "outputConfig",
]  # fmt: skip
# Served as they are, or without any effect on the answer.
_ACCEPTED = {"modelId", "messages", "system", "inferenceConfig", "outputConfig", "requestMetadata"}
_LIMITS = {"maxTokens": (1, None), "temperature": (0, 1), "topP": (0, 1)}


def check(request: dict[str, Any], *, fields: Iterable[str] = ()) -> None:
    """Refuse a request that a text-only model cannot answer as it stands.

    Args:
        request: the members of Converse's request.
        fields: the names that the model knows in `additionalModelRequestFields`.

    Raises:
        ClientError: `ValidationException`, with the text that the service uses where it is known.
    """
    for name in request:
        if name not in _MEMBERS:
            known = ", ".join(_MEMBERS)
            raise _refuse(f'Unknown parameter in input: "{name}", must be one of: {known}')
    if "toolConfig" in request:
        raise _refuse("This model doesn't support tool use.")
    for name, value in request.items():
        if name not in _ACCEPTED and name != "additionalModelRequestFields" and value:
            raise _unsupported(name)
    _check_known("additionalModelRequestFields", request.get("additionalModelRequestFields", {}), fields)
    _check_known("outputConfig", request.get("outputConfig", {}), ["textFormat"])
    _check_inference(request.get("inferenceConfig", {}))
    for index, block in enumerate(_list(request.get("system", []), "system")):
        _check_text(block, f"system.{index}", "system prompts")
    _check_messages(_list(request.get("messages", []), "messages"))


def _check_messages(messages: list[Any]) -> None:
    if not all(isinstance(message, dict) for message in messages):
        raise _refuse("messages must be a list of structures with a role and content.")
    if not messages or messages[0].get("role") == "assistant":
        advice = "Try again with a conversation that starts with a user message."
        raise _refuse(f"A conversation must start with a user message. {advice}")
    for index, message in enumerate(messages):
        role = message.get("role")
        if role not in ("user", "assistant"):
            where = f"messages.{index + 1}.member.role"
            rule = "Member must satisfy enum value set: [user, assistant]"
            raise _constraint(f"Value '{role}' at '{where}' failed to satisfy constraint: {rule}")
        if index and role == messages[index - 1]["role"]:
            advice = "Make sure the conversation alternates between user and assistant roles and try again."
            raise _refuse(f"A conversation must alternate between user and assistant roles. {advice}")
        content = _list(message.get("content", []), f"messages.{index}.content")
        if not content:
            where = f"The content field in the Message object at messages.{index} is empty."
            raise _refuse(f"{where} Add a ContentBlock object to the content field and try again.")
        for position, block in enumerate(content):
            _check_text(block, f"messages.{index}.content.{position}", f"{role} messages")


def _check_text(block: Any, where: str, kind: str) -> None:
    """Refuse a block that is not one of text which can be encoded."""
    if not isinstance(block, dict) or len(block) != 1:
        raise _refuse(f"The ContentBlock object at {where} must set exactly one of its fields.")
    ((name, text),) = block.items()
    if name != "text":
        raise _refuse(f"This model doesn't support the {name} field for {kind}. Remove {name} and try again.")
    if not isinstance(text, str):
        raise _refuse(f"The text field in the ContentBlock object at {where} must be a string.")
    if not text.strip():
        at = f"The text field in the ContentBlock object at {where} is blank."
        raise _refuse(f"{at} Add text to the text field, and try again.")
    try:
        text.encode()
    except UnicodeEncodeError as cause:
        at = f"The text field in the ContentBlock object at {where}"
        raise _refuse(f"{at} has a lone surrogate at index {cause.start}, which is no character.") from None


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


def _unsupported(name: str) -> ClientError:
    return _refuse(f"This model doesn't support the {name} field. Remove {name} and try again.")


def _constraint(violation: str) -> ClientError:
    return _refuse(f"1 validation error detected: {violation}")


def _refuse(message: str) -> ClientError:
    return error("ValidationException", message)
