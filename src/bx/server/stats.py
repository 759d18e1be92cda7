"""What a server has done so far: counters for people (JSON) and for Prometheus.

The counters are those of `prometheus_client`, in a registry of the server's own.
"""

from __future__ import annotations

import collections
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable

_KEPT = 1000  # exchanges of each operation whose times are kept for the percentiles
_MODELS = 200  # different model ids that are told apart; a client may make up as many as it likes
_PERCENTILES = 100


class Stats:
    """The counters of one server. Threads may share it.

    Args:
        active: how many exchanges are under way.
    """

    def __init__(self, active: Callable[[], int]) -> None:
        self._started = time.time()
        self._active = active
        self._lock = threading.Lock()
        self._models: set[str] = set()
        self._times: dict[str, collections.deque[tuple[float, float]]] = {}
        self._counts: collections.Counter[tuple[str, ...]] = collections.Counter()
        self._registry = registry = CollectorRegistry()
        labels = ["operation", "model", "status", "code"]
        self._requests = Counter("bx_requests", "Requests that were answered", labels, registry=registry)
        self._tokens = Counter("bx_tokens", "Tokens", ["model", "kind"], registry=registry)
        self._faults = Counter("bx_faults", "Faults that hit a request", ["fault"], registry=registry)
        self._latency = Histogram("bx_latency_seconds", "Until the last byte", ["operation"], registry=registry)
        self._first = Histogram("bx_first_byte_seconds", "Until the first byte", ["operation"], registry=registry)
        Gauge("bx_active_requests", "Requests under way", registry=registry).set_function(active)

    def count(self, notes: dict[str, Any]) -> None:
        """Count an exchange that is over, by its notes."""
        operation, model = notes.get("operation", "other"), self._known(notes.get("model", ""))
        status = str(notes.get("status", 0))
        self._requests.labels(operation, model, status, notes.get("code", "")).inc()
        for kind in ("input", "output"):
            self._tokens.labels(model, kind).inc(notes.get(f"{kind}_tokens", 0))
        for fault in notes.get("faults", ()):
            self._faults.labels(fault).inc()
        started, ended = notes["started"], notes["ended"]
        whole, first = ended - started, notes.get("first", ended) - started
        self._latency.labels(operation).observe(whole)
        self._first.labels(operation).observe(first)
        with self._lock:
            self._times.setdefault(operation, collections.deque(maxlen=_KEPT)).append((first, whole))
            self._counts["requests", operation] += 1
            self._counts["status", status] += 1
            self._counts["tokens", "input"] += notes.get("input_tokens", 0)
            self._counts["tokens", "output"] += notes.get("output_tokens", 0)

    def text(self) -> bytes:
        """Return all counters in the text form of Prometheus."""
        return generate_latest(self._registry)

    def summary(self) -> dict[str, Any]:
        """Return the figures for people: counts, tokens, and times in ms over the last 1000 of each kind."""
        with self._lock:
            times = {operation: list(kept) for operation, kept in self._times.items()}
            counts = dict(self._counts)
        parts: dict[str, dict[str, int]] = {"requests": {}, "status": {}, "tokens": {"input": 0, "output": 0}}
        for (part, name), count in counts.items():
            parts[part][name] = count
        return {
            "uptimeSeconds": round(time.time() - self._started, 1),
            "active": self._active(),
            **parts,
            "latencyMs": {name: _percentiles([whole for _, whole in kept]) for name, kept in times.items()},
            "firstByteMs": {name: _percentiles([first for first, _ in kept]) for name, kept in times.items()},
        }

    def _known(self, model: str) -> str:
        with self._lock:
            if model in self._models or len(self._models) < _MODELS:
                self._models.add(model)
                return model
        return "other"


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if len(seconds) == 1:
        seconds = seconds * 2
    cuts = statistics.quantiles(seconds, n=_PERCENTILES, method="inclusive")
    return {f"p{part}": round(cuts[part - 1] * 1000, 1) for part in (50, 95, 99)}
