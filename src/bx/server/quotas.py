"""Quotas: requests and tokens per minute, tokens per day, reserved and settled as Amazon Bedrock does.

A request reserves its input and all the output that it allows when it starts. When it has ended, it has cost its
input, what it wrote to the cache, and its output times the model's burndown rate. An answer that fails or is
abandoned gives back the tokens that it had reserved; its request stays counted, one that was throttled is not.

A minute, or a day, begins with the first request after the last one is over. AWS does not say how it counts; this
way a script of requests always meets the same throttling, whatever the time, and the memory stays flat.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from bx.converse import Stream, error
from bx.server import bodies

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from bx.server.exchange import Act, Call, Perform, Reply

# Quota -> its seconds, whether it counts tokens, and the service's text for one that is used up.
_QUOTAS = {
    "rpm": (60, False, "Too many requests, please wait before trying again."),
    "tpm": (60, True, "Too many tokens, please wait before trying again."),
    "tpd": (86_400, True, "Too many tokens per day, please wait before trying again."),
}
_LETTERS = 4  # of a text, to a token
_SUCCESS = 200
_MOST = 10_000  # windows until those that are over are forgotten: a client may make up model ids


def estimated(call: Call) -> int:
    """Estimate the tokens of a request's input, from its length."""
    document = {name: value for name, value in bodies.asked(call).items() if name != "modelId"}
    return len(json.dumps(document, default=lambda _: "", ensure_ascii=False)) // _LETTERS


class Measures(NamedTuple):
    """How tokens and time are measured.

    `count` tells the tokens of a request's input; `burndown` what a token of a model's output counts, by the model's
    id; `max_output` the tokens that a model's answer may have where the request does not say; `clock` the time, in
    seconds.
    """

    count: Callable[[Call], int] = estimated
    burndown: Callable[[str], int] = lambda _: 1
    max_output: Callable[[str], int] = lambda _: 4096
    clock: Callable[[], float] = time.monotonic


@dataclass
class _Window:
    """A minute, or a day, of one model."""

    start: float
    used: int = 0


@dataclass
class _Reservation:
    tokens: int
    windows: list[_Window] = field(default_factory=list)
    settled: bool = False


class Quota:
    """The quotas of each model id, as it stands in the request: a profile's are its own.

    Args:
        limits: `rpm`, `tpm`, `tpd`, or some of them.
        measures: how tokens and time are measured.
    """

    def __init__(self, limits: Mapping[str, int], measures: Measures) -> None:
        self._limits = dict(limits)
        self._measures = measures
        self._windows: dict[tuple[str, str], _Window] = {}
        self._lock = threading.Lock()

    def perform(self, call: Call, perform: Perform, strike: Callable[[], None]) -> Reply:
        """Answer within the quotas; `strike` is called where the request is throttled instead.

        Raises:
            ClientError: `ThrottlingException`, or `perform`'s own.
        """
        reserved = self._reserve(call)
        if isinstance(reserved, str):
            strike()
            raise error("ThrottlingException", reserved, operation=call.operation)
        try:
            reply = perform(call)
        except BaseException:
            self._settle(reserved, 0)
            raise
        if not isinstance(reply.body, bytes):
            return self._watched(reply, reserved, call)
        spent = bodies.usage(reply.body)
        if spent or reply.status != _SUCCESS:
            self._settle(reserved, self._cost(call, spent))
        return reply

    def _reserve(self, call: Call) -> _Reservation | str:
        """Reserve what a request may take; or return the text of the quota that it would exceed."""
        model = _model(call)
        limit = bodies.max_tokens(call)
        tokens = self._measures.count(call) + (self._measures.max_output(model) if limit is None else limit)
        reservation = _Reservation(tokens)
        with self._lock:
            windows = {name: self._window(model, name) for name in self._limits}
            for name, window in windows.items():
                _, of_tokens, text = _QUOTAS[name]
                if window.used + (tokens if of_tokens else 1) > self._limits[name]:
                    return text
            for name, window in windows.items():
                if _QUOTAS[name][1]:
                    window.used += tokens
                    reservation.windows.append(window)
                else:
                    window.used += 1
        return reservation

    def _window(self, model: str, name: str) -> _Window:
        """Return the window that is open now."""
        now, window = self._measures.clock(), self._windows.get((model, name))
        if window is None or now - window.start >= _QUOTAS[name][0]:
            window = self._windows[model, name] = _Window(now)
            if len(self._windows) > _MOST and not len(self._windows) % _MOST:
                over = [key for key, each in self._windows.items() if now - each.start >= _QUOTAS[key[1]][0]]
                for key in over:
                    del self._windows[key]
        return window

    def _settle(self, reservation: _Reservation, tokens: int) -> None:
        """Replace what was reserved by what was spent, once. A window that is over is nobody's any more."""
        with self._lock:
            if not reservation.settled:
                reservation.settled = True
                for window in reservation.windows:
                    window.used += tokens - reservation.tokens

    def _cost(self, call: Call, spent: bodies.Usage | None) -> int:
        if spent is None:
            return 0
        return spent.input + spent.cache_writes + spent.output * self._measures.burndown(_model(call))

    def _watched(self, reply: Reply, reserved: _Reservation, call: Call) -> Reply:
        body: Any = reply.body
        below: Callable[[], None] = getattr(body, "close", lambda: None)

        def close() -> None:
            self._settle(reserved, 0)  # does nothing where the answer has told what it took
            below()

        return reply._replace(body=Stream(self._pieces(body, reserved, call, close), close))

    def _pieces(
        self, body: Iterable[bytes | Act], reserved: _Reservation, call: Call, close: Callable[[], None]
    ) -> Generator[bytes | Act]:
        try:
            for piece in body:
                if isinstance(piece, bytes) and (spent := bodies.streamed_usage(piece)):
                    self._settle(reserved, self._cost(call, spent))
                yield piece
        finally:
            close()


def _model(call: Call) -> str:
    return str(call.request.get("modelId", ""))
