"""Does every operation answer? Each is asked once, by real clients of botocore."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bx import capabilities, foundation
from bx.converse import collect, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVICES = ("bedrock-runtime", "bedrock")
_MESSAGES = [{"role": "user", "content": [{"text": "Say hi."}]}]
_NATIVE = {
    "anthropic_version": "bedrock-2023-05-31",
    "max_tokens": 8,
    "messages": [{"role": "user", "content": "Say hi."}],
}
_SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
_STRUCTURE = {"jsonSchema": {"schema": json.dumps(_SCHEMA)}}
_JSON = {"textFormat": {"type": "json_schema", "structure": _STRUCTURE}}
_FILLED = [{"role": "user", "content": [{"text": '{"a": 1}'}]}]  # an echo answers it, too


class Outcome(NamedTuple):
    """What came of asking an operation; `problem` is empty where it answered."""

    name: str
    milliseconds: float
    problem: str


def outcomes(runtime: Any, control: Any) -> Iterator[Outcome]:
    """Ask each operation once.

    Args:
        runtime: a `bedrock-runtime` client that is pointed at the server.
        control: a `bedrock` client, likewise.
    """
    for name, ask in _questions(runtime, control).items():
        started = time.monotonic()
        problem = ""
        try:
            ask()
        except Exception as cause:  # noqa: BLE001 # a broken answer can surprise a client in any way
            problem = f"{type(cause).__name__}: {cause}"
        yield Outcome(name, (time.monotonic() - started) * 1000, problem)


def _questions(runtime: Any, control: Any) -> dict[str, Callable[[], Any]]:
    structured = _profile()
    asked = {"modelId": structured, "messages": _MESSAGES, "inferenceConfig": {"maxTokens": 8}}
    native = {"modelId": structured, "body": json.dumps(_NATIVE)}
    return {
        "Converse": lambda: runtime.converse(**asked)["output"],
        "Converse with a JSON Schema": lambda: _answers_json(
            runtime.converse(**{**asked, "messages": _FILLED}, outputConfig=_JSON)
        ),
        "ConverseStream": lambda: collect(runtime.converse_stream(**asked)["stream"])["usage"],
        "InvokeModel": lambda: json.loads(runtime.invoke_model(**native)["body"].read())["content"],
        "InvokeModelWithResponseStream": lambda: _ends(runtime.invoke_model_with_response_stream(**native)["body"]),
        "CountTokens": lambda: runtime.count_tokens(
            modelId=_countable(), input={"converse": {"messages": _MESSAGES}}
        )["inputTokens"],
        "ListFoundationModels": lambda: control.list_foundation_models()["modelSummaries"][0],
        "GetFoundationModel": lambda: control.get_foundation_model(modelIdentifier=_countable())["modelDetails"],
        "GetFoundationModelAvailability": lambda: control.get_foundation_model_availability(modelId=_countable())[
            "regionAvailability"
        ],
        "ListInferenceProfiles": lambda: control.list_inference_profiles()["inferenceProfileSummaries"][0],
        "GetInferenceProfile": lambda: control.get_inference_profile(inferenceProfileIdentifier=structured)["status"],
    }


def _profile() -> str:
    """Return a profile that every server answers for: Claude's, of a model that takes schemas."""
    return next(
        each.id
        for each in foundation.profiles()
        if each.model.provider == "Anthropic" and capabilities.plan(each.model.id).rung == "native"
    )


def _countable() -> str:
    return next(model.id for model in foundation.models() if model.count_tokens)


def _answers_json(response: dict[str, Any]) -> None:
    if response["stopReason"] != "max_tokens":
        json.loads(text(response))


def _ends(body: Any) -> None:
    kinds = [json.loads(event["chunk"]["bytes"])["type"] for event in body]
    if kinds[-1:] != ["message_stop"]:
        raise ValueError(f"the stream ends with {kinds[-1:]}")
