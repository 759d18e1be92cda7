"""Budgets: what a call may cost at most is held before it is sent, and what it did cost is counted when it ended.

All processes hold in one ledger, one at a time, so that no two spend the last cent. What was spent is read from the
rows, at the prices of today's table; a call of which nobody will know what it cost stays counted with what was held.
"""

from __future__ import annotations

import threading
import time
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from bx import foundation, prices
from bx.converse import error
from bx.ledger.store import StoreError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from botocore.exceptions import ClientError

    from bx.converse import Request
    from bx.ledger.store import Statement, Store

_UNIT = Decimal(1_000_000_000_000)  # of `held.amount`, to the dollar
_LONGEST = 2 * 3600  # seconds, after which a call's process is taken for dead
_BYTES = 3  # of text to a token: English has 4, other languages and code fewer
_IMAGE = 5000  # tokens; the largest image of the models that look most closely
_USUAL_CONTEXT = 200_000  # tokens
_IN_WORDS = {"day": "today", "month": "this month"}
_COUNTED = ("messages", "system", "toolConfig", "additionalModelRequestFields")


class OverBudget(ValueError):
    """A call could cost more than may be spent; it was not sent. `fix` says what to do."""

    exit_code = 9

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Estimate(NamedTuple):
    """What a call may cost at most, in USD, and how that was found."""

    amount: Decimal
    how: str


class Held(NamedTuple):
    """Money that is held for a call: where in the ledger, if there, and how much."""

    id: int | None
    amount: Decimal


class Budget:
    """What may be spent; threads may share it.

    Args:
        store: the ledger.
        limits: USD a `day` and a `month` of local time, and a `call`.
        region: the region that is called, where it is known.
        overrides: the setting `prices`.
        together: whether the limit of a call is for all calls up to `renew`.
    """

    def __init__(
        self,
        store: Store,
        limits: Mapping[str, float],
        *,
        region: str = "",
        overrides: Mapping[str, Any] | None = None,
        together: bool = False,
    ) -> None:
        self._store = store
        self._limits = {period: Decimal(str(limit)) for period, limit in limits.items()}
        self._region = region
        self._overrides = overrides
        self._together = together
        self._here = Decimal(0)
        self._known: dict[str, _Spent] = {}
        self._lock = threading.Lock()

    def hold(self, request: Request, count: Callable[..., dict[str, Any]]) -> Held:
        """Hold what a request may cost.

        Args:
            request: a request of Converse.
            count: `count_tokens` of who would answer it.

        Raises:
            ClientError: `ServiceQuotaExceededException`, caused by `OverBudget`.
        """
        try:
            return self._held(self._estimate(request, count))
        except OverBudget as over:
            raise _refused(over) from over
        except StoreError as cause:
            unchecked = OverBudget(f"The budget cannot be checked: {cause}", cause.fix)
            raise _refused(unchecked) from unchecked

    def settled(self, held: Held, row: Mapping[str, Any]) -> list[Statement]:
        """Return what releases held money when a call's row is written; unless its cost is unknown."""
        cost = prices.cost(row, self._overrides)
        if self._together:
            with self._lock:
                self._here += held.amount if cost is None else cost
        if held.id is None:
            return []
        if cost is None:
            return [("UPDATE held SET until = NULL WHERE id = ?", (held.id,))]
        return [("DELETE FROM held WHERE id = ?", (held.id,))]

    def renew(self) -> None:
        """Begin to count anew what calls cost together."""
        with self._lock:
            self._here = Decimal(0)

    def _estimate(self, request: Request, count: Callable[..., dict[str, Any]]) -> Estimate:
        """Work out what a request may cost at most.

        Raises:
            OverBudget: its price is unknown.
        """
        model_id = str(request.get("modelId"))
        tokens, how = _input(model_id, request, count)
        most = (request.get("inferenceConfig") or {}).get("maxTokens")
        output = most if isinstance(most, int) else foundation.max_output(model_id)
        tier = (request.get("serviceTier") or {}).get("type")
        row = {"at": time.time(), "model_id": model_id, "region": self._region, "service_tier": tier}
        row |= {"engine": "bedrock", "input_tokens": 0, "output_tokens": output, _kind(request): tokens}
        amount = prices.cost(row, self._overrides)
        if amount is None:
            message = f"A budget is set, and the price of {model_id} is unknown: it was not called"
            table = f'[prices."{model_id}"] with input = ... and output = ... (USD per million tokens)'
            place = "" if self._region else "Name the region, whose price it is: --region; or "
            raise OverBudget(message, f"{place}Add to config.toml {table}, or call it without a budget")
        told = "" if isinstance(most, int) else ", the model's most"
        return Estimate(amount, f"{tokens} tokens in ({how}), up to {output} out{told}")

    def _held(self, estimate: Estimate) -> Held:
        here = self._here
        if "call" in self._limits and here + estimate.amount > self._limits["call"]:
            raise _over("call", estimate, f"{money(here)} was spent on this answer", self._limits["call"])
        if not self._limits.keys() - {"call"}:
            return Held(None, estimate.amount)
        with self._lock, self._store.connection() as connection:
            self._sums(connection, time.time())  # most of the reading, while others may write
            connection.execute("BEGIN IMMEDIATE")
            now = time.time()
            for period, sums in self._sums(connection, now).items():
                held = _held_since(connection, sums.since, now)
                if sums.amount + held + estimate.amount > self._limits[period]:
                    least = "at least " if sums.unknown else ""
                    told = f"{least}{money(sums.amount)} was spent {_IN_WORDS[period]}"
                    more = f", {money(held)} is held for other calls" if held else ""
                    raise _over(period, estimate, told + more, self._limits[period])
            amount = int((estimate.amount * _UNIT).to_integral_value(ROUND_CEILING))
            cursor = connection.execute(
                "INSERT INTO held (at, until, amount) VALUES (?, ?, ?)", (now, now + _LONGEST, amount)
            )
            connection.execute("DELETE FROM held WHERE until <= ?", (now,))
            connection.execute("COMMIT")
        return Held(cursor.lastrowid, estimate.amount)

    def _sums(self, connection: sqlite3.Connection, now: float) -> dict[str, _Spent]:
        """Add up what was spent in each period that has a limit; what was read once is not read again."""
        newest = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'calls'").fetchone() or (0,)
        for period in self._limits.keys() - {"call"}:
            since = _start(period, now)
            known = self._known.get(period)
            if known is None or known.since != since or known.last > newest[0]:  # the last: in another file
                known = self._known[period] = _Spent(since)
            found = connection.execute(
                "SELECT * FROM calls WHERE at >= ? AND id > ? ORDER BY id", (since, known.last)
            )
            names = [column[0] for column in found.description]
            for values in found:
                known.add(dict(zip(names, values, strict=True)), self._overrides)
        return {period: self._known[period] for period in sorted(self._limits.keys() - {"call"})}


class _Spent:
    """What was spent since the start of a period."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.last = 0  # the id of the last row that was read
        self.amount = Decimal(0)
        self.unknown = False

    def add(self, row: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> None:
        cost = prices.cost(row, overrides)
        self.amount += cost or 0
        self.unknown = self.unknown or cost is None
        self.last = max(self.last, row["id"])


def _input(model_id: str, request: Request, count: Callable[..., dict[str, Any]]) -> tuple[int, str]:
    """Return the tokens that go in, and how they were found: by the service, which costs nothing, or by length."""
    model = foundation.find(model_id)
    if model and model.count_tokens:
        asked = {name: request[name] for name in _COUNTED if name in request}
        try:
            counted: int = count(modelId=model.id, input={"converse": asked})["inputTokens"]
        except Exception:  # noqa: BLE001 # the call itself will tell what is wrong
            return _guessed(model, request)
        return counted + _size(request.get("outputConfig")), "counted"
    return _guessed(model, request)


def _guessed(model: foundation.Model | None, request: Request) -> tuple[int, str]:
    parts = {name: part for name, part in request.items() if name != "modelId"}
    most = (model.context if model else 0) or _USUAL_CONTEXT
    return min(_size(parts), most), "estimated from their length, which may be off by half"


def _size(part: Any) -> int:
    """Estimate the tokens of a part of a request; of what is stored elsewhere, all that a model can take."""
    if isinstance(part, dict):
        if "s3Location" in part:
            return _USUAL_CONTEXT * 10
        return sum(_IMAGE if name == "image" else _size(name) + _size(inner) for name, inner in part.items())
    if isinstance(part, (list, tuple)):
        return sum(map(_size, part))
    return -(-len(part if isinstance(part, bytes) else str(part).encode("utf-8", "replace")) // _BYTES)


def _kind(request: Request) -> str:
    """Return the column of the tokens that go in: what is to be cached costs more."""
    points = list(_points(request))
    if not points:
        return "input_tokens"
    return "cache_write_1h_tokens" if "1h" in points else "cache_write_5m_tokens"


def _points(part: Any) -> Any:
    if isinstance(part, dict):
        if isinstance(point := part.get("cachePoint"), dict):
            yield point.get("ttl", "5m")
        for inner in part.values():
            yield from _points(inner)
    elif isinstance(part, (list, tuple)):
        for inner in part:
            yield from _points(inner)


def _held_since(connection: sqlite3.Connection, since: float, now: float) -> Decimal:
    found = connection.execute(
        "SELECT coalesce(sum(amount), 0) FROM held WHERE at >= ? AND (until IS NULL OR until > ?)", (since, now)
    )
    return int(found.fetchone()[0]) / _UNIT


def _start(period: str, now: float) -> float:
    """Return when a day or a month of local time began."""
    today = time.localtime(now)
    day = 1 if period == "month" else today.tm_mday
    return time.mktime((today.tm_year, today.tm_mon, day, 0, 0, 0, 0, 0, -1))


def _over(period: str, estimate: Estimate, spent: str, limit: Decimal) -> OverBudget:
    message = (
        f"This call may cost {money(estimate.amount)} ({estimate.how}): {spent}, and the limit is {money(limit)}"
    )
    where = "--max-cost" if period == "call" else f"budget.{period} in config.toml"
    return OverBudget(message, f"Lower --max-tokens, shorten the prompt, or raise {where}")


def money(amount: Decimal | int) -> str:
    """Write an amount of USD to the cent, or with two digits that matter."""
    digits = max(2, 1 - Decimal(amount).adjusted()) if amount else 2
    whole, _, cents = f"{amount:.{digits}f}".partition(".")
    return f"${whole}.{cents.rstrip('0'):0<2}"


def _refused(over: OverBudget) -> ClientError:
    """Make the error that engines raise; who explains it finds the reason in its cause."""
    return error("ServiceQuotaExceededException", f"{over}. {over.fix}")
