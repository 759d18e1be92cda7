"""The router: an engine that passes each request to the engine which the model id names.

It imports an engine when the first request for it comes, and knows none of them by more than a dotted name.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bx.converse import count_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bx.converse import Engine, Response

# The part of a model id before its first colon -> module and class. Any other id is Amazon Bedrock's.
_ENGINES = {
    "echo": ("bx.engines.echo", "Echo"),
    "local": ("bx.engines.local", "Local"),
}
_BEDROCK = ("bx.engines.bedrock", "Bedrock")


def is_ours(model_id: str) -> bool:
    """Whether an engine that runs here answers for a model id; else Amazon Bedrock does."""
    return _scheme(model_id) in _ENGINES


class Router:
    """An engine over all engines, made and kept as they are needed.

    Args:
        bedrock: the keyword arguments of `bx.engines.bedrock.Bedrock`.
    """

    def __init__(self, bedrock: Mapping[str, Any] | None = None) -> None:
        self._arguments = {_BEDROCK: dict(bedrock or {})}
        self._engines: dict[tuple[str, str], Engine] = {}
        self._lock = threading.Lock()

    def converse(self, **request: Any) -> Response:
        """Answer by the engine that `modelId` names: see `bx.converse.Engine`."""
        return self._engine(request).converse(**request)

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events by the engine that `modelId` names: see `bx.converse.Engine`."""
        return self._engine(request).converse_stream(**request)

    def count_tokens(self, **request: Any) -> dict[str, Any]:
        """Count tokens by the engine that `modelId` names: see `bx.converse.Engine`."""
        return count_tokens(self._engine(request), request)

    def close(self) -> None:
        """Free what the engines hold: loaded models, open connections."""
        with self._lock:
            engines, self._engines = self._engines, {}
        for engine in engines.values():
            if close := getattr(engine, "close", None):
                close()

    def _engine(self, request: dict[str, Any]) -> Engine:
        module, name = key = _ENGINES.get(_scheme(str(request.get("modelId", ""))), _BEDROCK)
        with self._lock:
            if key not in self._engines:
                made = getattr(import_module(module), name)(**self._arguments.get(key, {}))
                self._engines[key] = made
            return self._engines[key]


def _scheme(model_id: str) -> str:
    return model_id.partition(":")[0]
