"""The bodies of InvokeModel: each family of models has its own form, which is translated to Converse and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from bx.capabilities import base
from bx.server.native import anthropic, nova, openai

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bx.converse import Event, Request, Response, Stream

# The providers whose models take chat completions.
_OPENAI = {
    "deepseek", "google", "minimax", "mistral", "moonshot", "moonshotai", "nvidia", "openai", "qwen", "xai", "zai"
}  # fmt: skip


class Family(Protocol):
    """What the modules here have in common; see each for what it raises."""

    def request(self, body: Any, model_id: str) -> Request:
        """Read a native body as a Converse request."""

    def response(self, answer: Response, model_id: str) -> dict[str, Any]:
        """Write a Converse response as a native body."""

    def events(self, stream: Iterable[Event], model_id: str) -> Stream[dict[str, Any]]:
        """Write Converse's events as the JSON objects of a native stream, each as it comes."""


def family(model_id: str, body: Any) -> Family:
    """Return the module for a model, by its id, profile id or ARN; where these tell no provider, by a body."""
    name = base(model_id)
    provider = name.partition(".")[0] if "." in name else ""
    if provider == "anthropic":
        return anthropic
    if name.startswith("amazon.nova"):
        return nova
    if provider in _OPENAI:
        return openai
    return _by_its_look(body)


def _by_its_look(body: Any) -> Family:
    if not isinstance(body, dict):
        return openai
    if "anthropic_version" in body:
        return anthropic
    if "inferenceConfig" in body or "schemaVersion" in body or _has_bare_text(body.get("messages")):
        return nova
    return openai


def _has_bare_text(messages: Any) -> bool:
    """Whether a message holds a block without a type, as Nova has them."""
    turns = messages if isinstance(messages, list) else []
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    return any(isinstance(block, dict) and "text" in block and "type" not in block for block in blocks)
