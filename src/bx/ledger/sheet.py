"""What the ledger holds, as other programs read it: records for JSON and lines of CSV, in a form that stays."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bx.ledger import report

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from decimal import Decimal

    from bx.ledger.report import Cost, Key, Row, Sum

COUNTS = ("calls", "failed", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
COLUMNS = (
    "time",
    "source",
    "alias",
    "model_id",
    "region",
    "engine",
    "operation",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "latency_ms",
    "first_token_ms",
    "stop_reason",
    "outcome",
    "error_code",
    "request_id",
    "attempts",
    "service_tier",
    "rung",
    "tag",
    "cost",
)
_UNKNOWN = "unknown"
_FORMULA = tuple("=+-@\t\r")  # a spreadsheet would compute a cell that begins with one of these


def record(found: Sum) -> dict[str, Any]:
    """Name the parts of a sum; `cost` is None where no price is known."""
    cost = None if report.is_unknown(found) else found.cost
    return {**{name: getattr(found, name) for name in COUNTS}, "cost": cost, "unpriced_calls": found.unpriced}


def stamp(at: float) -> str:
    """Write a moment in ISO 8601, with the offset of the local time zone."""
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(timespec="seconds")


def sums(names: Sequence[str], found: Mapping[Key, Sum]) -> Iterator[str]:
    """Write sums as lines of CSV, after a line with the names of the columns."""
    yield line([*names, *record(report.Sum())])
    for key, each in found.items():
        known = record(each)
        yield line([*key, *{**known, "cost": _cost(known["cost"])}.values()])


def calls(rows: Iterable[Row], cost: Cost) -> Iterator[str]:
    """Write every call as a line of CSV, after a line with the names of the columns."""
    yield line(COLUMNS)
    for row in rows:
        known = {**row, "time": stamp(row["at"]), "cost": _cost(cost(row))}
        yield line([known.get(name) for name in COLUMNS])


def line(cells: Sequence[Any]) -> str:
    """Write one line of CSV."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerow([_cell(cell) for cell in cells])
    return written.getvalue()


def _cost(cost: Decimal | None) -> str:
    return _UNKNOWN if cost is None else f"{cost:f}"


def _cell(value: Any) -> Any:
    """Keep a text, which may come from whoever called bx serve, from being a formula, or a line of its own."""
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULA) else "") + value.replace("\r", " ")
