"""The meter: an engine around an engine that writes a row of the ledger for each call, however it ends.

It stands directly around the engines, below the ladder: a row is what was sent once and is paid for once. Where there
are budgets it holds the money before it sends. This module opens no file and knows no price.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from bx.converse import Stream, count_tokens, rung
from bx.ledger.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from bx.converse import Engine, Event, Request, Response
    from bx.ledger.budget import Budget

    Names = Callable[[], Mapping[str, str]]

_log = logging.getLogger("bx.ledger")

_EMBEDDED = ("local", "echo")  # what a model id of this machine begins with


def around(engine: Engine, settings: Mapping[str, Any], *, source: str, names: Names, later: bool = False) -> Metered:
    """Put a meter around an engine, as the settings say.

    Args:
        engine: the engine.
        settings: values by the names in `bx.config.KINDS`.
        source: who asks: cli, python or serve.
        names: gives the names of models, with their ids.
        later: whether the calls up to `Metered.renew` make one answer: their rows wait till then, and `max_cost` is
            for them all.

    Raises:
        ConfigError: there is a budget and no ledger to know from what was spent.
    """
    from bx import aws, config

    periods, region = settings.get("budget") or {}, aws.region(settings)
    limits = {**periods, "call": settings.get("max_cost")}
    limits = {period: limit for period, limit in limits.items() if limit is not None}
    # A new file would know nothing of what was spent.
    store = Store(config.ledger(settings), later=later, replace=not periods)
    if store.path is None and periods:
        fix = 'Remove ledger = "off" (BX_LEDGER), or the setting budget'
        raise config.ConfigError("A budget is set, and no ledger is kept that knows what was spent", fix)
    budget = None
    if limits:
        from bx.ledger.budget import Budget

        budget = Budget(store, limits, region=region, overrides=settings.get("prices"), together=later)
    labels = {"source": source, "region": region or None, "tag": settings.get("tag")}
    return Metered(engine, store, labels=labels, names=names, budget=budget)


class Metered:
    """An engine whose calls are counted; the answers are the inner engine's own.

    Args:
        engine: the engine that is asked.
        store: where the rows go.
        labels: columns that are the same in each row: `source`, `tag`, and `region` where no answer tells it.
        names: gives the names of models, with their ids.
        budget: what may be spent; a call that could cost more is refused before it is sent.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        *,
        labels: Mapping[str, Any],
        names: Names = dict,
        budget: Budget | None = None,
    ) -> None:
        self.store = store
        self._engine = engine
        self._labels = labels
        self._names = names
        self._budget = budget

    def converse(self, **request: Any) -> Response:
        """Answer in one piece: see `bx.converse.Engine`."""
        call = self._begin("Converse", request)
        try:
            response = self._engine.converse(**request)
        except BaseException as failure:
            call.fail(failure)
            raise
        call.answer(response)
        return response

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events: see `bx.converse.Engine`."""
        call = self._begin("ConverseStream", request)
        try:
            response = self._engine.converse_stream(**request)
        except BaseException as failure:
            call.fail(failure)
            raise
        call.learn(response)
        events = response["stream"]

        def close() -> None:
            call.leave()
            if inner := getattr(events, "close", None):
                inner()
            call.end()

        return {**response, "stream": Stream(_watched(events, call), close)}

    def count_tokens(self, **request: Any) -> dict[str, Any]:
        """Count tokens, which is a call that costs nothing: see `bx.converse.Engine`."""
        call = _Call(self._row("CountTokens", request), self.store.write)
        try:
            response = count_tokens(self._engine, request)
        except BaseException as failure:
            call.fail(failure)
            raise
        call.answer({"ResponseMetadata": response.get("ResponseMetadata")})
        return response

    def renew(self) -> None:
        """Write the rows that wait: what follows is another answer. Never raises."""
        self.store.flush()
        if self._budget:
            self._budget.renew()

    def close(self) -> None:
        """Write the rows that wait, and free what the engine holds."""
        self.store.close()
        if close := getattr(self._engine, "close", None):
            close()

    def _begin(self, operation: str, request: Request) -> _Call:
        row = self._row(operation, request)
        budget = self._budget
        if budget is None or row["engine"] in _EMBEDDED:
            return _Call(row, self.store.write)
        held = budget.hold(request, self.count_tokens)

        def write(row: Mapping[str, Any]) -> None:
            self.store.write(row, *budget.settled(held, row))

        return _Call(row, write)

    def _row(self, operation: str, request: Request) -> dict[str, Any]:
        model_id = str(request.get("modelId"))
        scheme = model_id.partition(":")[0]
        row = {"at": time.time(), **self._labels, "operation": operation, "model_id": model_id, "rung": rung.get()}
        row |= {"alias": self._alias(model_id), "engine": "bedrock", "service_tier": _tier(request)}
        return row | {"engine": scheme, "region": None} if scheme in _EMBEDDED else row

    def _alias(self, model_id: str) -> str | None:
        """Return the name of a model: its id may have a profile's geography, or an ARN, before it."""
        for name, known in self._names().items():
            if model_id == known or model_id.endswith((f".{known}", f"/{known}")):
                return name
        return None


class _Call:
    """A call under way: its row, which is written once, when the call has ended."""

    def __init__(self, row: dict[str, Any], write: Callable[[dict[str, Any]], None]) -> None:
        self._row = row
        self._write = write
        self._started = time.monotonic()
        self._process = os.getpid()  # a child that was forked meanwhile has a copy of this
        self._lock = threading.Lock()
        self._ended = False
        self._left = ""  # the outcome, where somebody has closed the stream
        self._speaks = False

    def see(self, event: Event) -> None:
        """Take note of an event; never raises."""
        if "contentBlockDelta" in event:
            if not self._speaks:
                self._speaks = True
                self._row["first_token_ms"] = self._elapsed()
        elif "messageStop" in event or "metadata" in event:
            for part in event.values():
                self.learn(part)

    def learn(self, response: Any) -> None:
        """Take note of what a response, or a part of one, tells; never raises."""
        try:
            self._row.update(_told(response))
        except Exception as cause:  # noqa: BLE001 # an answer that others can use must not fail here
            _log.warning("An answer could not be counted: %s", cause)

    def answer(self, response: Response) -> None:
        """End with a whole response."""
        self.learn(response)
        self.end("answered")

    def fail(self, failure: BaseException) -> None:
        """End with what went wrong."""
        if isinstance(failure, KeyboardInterrupt):
            self.end("interrupted")
            return
        response = getattr(failure, "response", None)
        response = response if isinstance(response, dict) else {}
        self.learn(response)
        code = (response.get("Error") or {}).get("Code") or type(failure).__name__
        self.end("failed", error_code=str(code))

    def leave(self) -> None:
        """Know that the stream is being closed before its end, if it is."""
        self._left = "interrupted" if isinstance(sys.exc_info()[1], KeyboardInterrupt) else "abandoned"

    def end(self, outcome: str = "failed", **more: Any) -> None:
        """Write the row, unless it has been written."""
        with self._lock:
            if self._ended or self._process != os.getpid():
                return
            self._ended = True
        if self._left and outcome == "failed":
            whole = {"stop_reason", "input_tokens"} <= self._row.keys()
            outcome, more = ("answered" if whole else self._left), {}
        try:
            self._write({**self._row, **more, "outcome": outcome, "latency_ms": self._elapsed()})
        except Exception as cause:  # noqa: BLE001 # see above
            _log.warning("A call could not be counted: %s", cause)

    def __del__(self) -> None:
        # Of a stream that nobody has begun to read, nor closed, this is the only sign.
        self._left = self._left or "abandoned"
        self.end()

    def _elapsed(self) -> int:
        return round((time.monotonic() - self._started) * 1000)


def _watched(events: Any, call: _Call) -> Generator[Event]:
    """Pass the events of a stream through."""
    stopped = False
    try:
        for event in events:
            call.see(event)
            stopped = stopped or "messageStop" in event
            yield event
    except GeneratorExit:
        call.leave()
        raise
    except BaseException as failure:
        call.fail(failure)
        raise
    else:
        if stopped:
            call.end("answered")
        else:
            call.end("failed", error_code="modelStreamErrorException")
    finally:
        if close := getattr(events, "close", None):
            close()
        call.end()


def _told(response: Any) -> dict[str, Any]:
    """Return the columns that a response fills, or a part of one, or the `response` of an error."""
    row: dict[str, Any] = {}
    if stop := response.get("stopReason"):
        row["stop_reason"] = stop
    if tier := _tier(response):
        row["service_tier"] = tier
    if usage := response.get("usage"):
        row |= _tokens(usage)
    metadata = response.get("ResponseMetadata") or {}
    request_id = metadata.get("RequestId") or metadata.get("HTTPHeaders", {}).get("x-amzn-requestid")
    attempts = metadata["RetryAttempts"] + 1 if "RetryAttempts" in metadata else None
    found = {"request_id": request_id, "attempts": attempts, "region": metadata.get("Region")}
    return row | {name: value for name, value in found.items() if value is not None}


def _tokens(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokens by kind; the answer of a model without a cache does not mention it."""
    written = usage.get("cacheWriteInputTokens") or 0
    details = usage.get("cacheDetails") or ()
    for_an_hour = sum(detail.get("inputTokens", 0) for detail in details if detail.get("ttl") == "1h")
    return {
        "input_tokens": usage.get("inputTokens"),
        "output_tokens": usage.get("outputTokens"),
        "cache_read_tokens": usage.get("cacheReadInputTokens") or 0,
        "cache_write_5m_tokens": max(written - for_an_hour, 0),
        "cache_write_1h_tokens": for_an_hour,
    }


def _tier(told: Mapping[str, Any]) -> str | None:
    tier = told.get("serviceTier")
    return tier.get("type") if isinstance(tier, dict) else None
