"""What was used and what it cost: rows of the ledger -> sums by model, day, tag, region.

Pure functions on the rows of the table `calls`; who asks brings the rows, and the function that prices one. Days and
months are those of the local time zone.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    Row = Mapping[str, Any]
    Cost = Callable[[Row], Decimal | None]
    Key = tuple[str | None, ...]

_NOT_USED = ("CountTokens",)  # operations that are free and use no model: they would only blur the sums
_ANSWERED = "answered"
_UNITS = {"d": 1, "w": 7}  # days
_DURATION = re.compile(r"(\d{1,5})([dw])")


class PeriodError(ValueError):
    """A text names no day and no number of days; `fix` says how to write one."""

    exit_code = 2
    fix = "Write a day (2026-11-01), a number of days or weeks (7d, 4w), or today, week, month, all"


class Sum(NamedTuple):
    """Calls added up: how many, their tokens of each kind, and what they cost in USD.

    `failed` are those without a whole answer. `cost` is that of the calls whose price is known, `unpriced` counts the
    others: where there are any, the cost is at least that.
    """

    calls: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost: Decimal = Decimal(0)
    unpriced: int = 0


def gather(rows: Iterable[Row], groupings: Sequence[Sequence[str]], cost: Cost) -> list[dict[Key, Sum]]:
    """Add rows up, once for each grouping.

    Args:
        rows: rows of the ledger.
        groupings: what to tell apart: names of `GROUPS`; an empty grouping is the sum of all.
        cost: prices a row in USD; None is not known.

    Returns:
        For each grouping the sums by its values: in order of time where that comes first, else the dearest first.
    """
    gathered: list[dict[Key, Sum]] = [{} for _ in groupings]
    for row, one in _each(rows, cost):
        for sums, grouping in zip(gathered, groupings, strict=True):
            key = tuple(GROUPS[name](row) for name in grouping)
            sums[key] = _added(sums[key], one) if key in sums else one
    return [_ordered(sums, grouping) for sums, grouping in zip(gathered, groupings, strict=True)]


def since(rows: Iterable[Row], starts: Mapping[str, float], cost: Cost) -> dict[Key, Sum]:
    """Add rows up from several moments on, by the names of these."""
    found: dict[Key, Sum] = {(name,): Sum() for name in starts}
    for row, one in _each(rows, cost):
        for name, start in starts.items():
            if row["at"] >= start:
                found[name,] = _added(found[name,], one)
    return found


def total(sums: Iterable[Sum]) -> Sum:
    """Add sums up."""
    found = Sum()
    for each in sums:
        found = _added(found, each)
    return found


def days(sums: Mapping[Key, Sum]) -> dict[Key, Sum]:
    """Fill in the days between the first and the last of sums by day."""
    known = sorted(key[0] for key in sums if key[0])
    if not known:
        return {}
    first, last = date.fromisoformat(known[0]), date.fromisoformat(known[-1])
    every = (str(first + timedelta(days=number)) for number in range((last - first).days + 1))
    return {(day,): sums.get((day,), Sum()) for day in every}


def months(sums: Mapping[Key, Sum]) -> dict[Key, Sum]:
    """Join sums by day into sums by month."""
    joined: dict[Key, Sum] = {}
    for (day, *_), found in sums.items():
        key = ((day or "")[:7],)
        joined[key] = _added(joined.get(key, Sum()), found)
    return joined


# ---- times ------------------------------------------------------------------------------------------------------


def periods(now: float) -> dict[str, float]:
    """Return when today, this week (from Monday) and this month began, in Unix seconds."""
    today = _local(now).date()
    return {
        "today": midnight(today),
        "week": midnight(today - timedelta(days=today.weekday())),
        "month": midnight(today.replace(day=1)),
    }


def begin(text: str, now: float) -> float:
    """Return the beginning of a time that is given in words: a day, `7d` (today and the six days before), `month`.

    Raises:
        PeriodError: the text is none of these.
    """
    if text == "all":
        return 0.0
    if text in (known := periods(now)):
        return known[text]
    return midnight(_day(text, now))


def end(text: str, now: float) -> float:
    """Return the end of a day, which is the beginning of the next.

    Raises:
        PeriodError: the text is no day.
    """
    return midnight(_day("1d" if text == "today" else text, now) + timedelta(days=1))


def midnight(day: date) -> float:
    """Return when a day begins here, in Unix seconds."""
    return datetime(day.year, day.month, day.day).astimezone().timestamp()


def day_of(at: float) -> date:
    """Return the day of a moment, here."""
    return _local(at).date()


def _day(text: str, now: float) -> date:
    try:
        if found := _DURATION.fullmatch(text):
            return day_of(now) - timedelta(days=max(int(found[1]) * _UNITS[found[2]] - 1, 0))
        day = date.fromisoformat(text)
        midnight(day)
    except (ValueError, OverflowError):
        raise PeriodError(f"{text!r} is no day and no number of days") from None
    return day


def _local(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).astimezone()


# ---- sums -------------------------------------------------------------------------------------------------------


def _day_name(row: Row) -> str:
    return str(day_of(row["at"]))


def _month_name(row: Row) -> str:
    return str(day_of(row["at"]))[:7]


def _column(name: str) -> Callable[[Row], str | None]:
    return lambda row: row.get(name)


GROUPS: dict[str, Callable[[Row], str | None]] = {
    "model": _column("model_id"),
    "day": _day_name,
    "month": _month_name,
    "tag": _column("tag"),
    "region": _column("region"),
    "source": _column("source"),
}
_TIMES = ("day", "month")
_LARGE = 100  # USD, from which on nobody asks for fractions of a cent


def _each(rows: Iterable[Row], cost: Cost) -> Iterator[tuple[Row, Sum]]:
    for row in rows:
        if row.get("operation") not in _NOT_USED:
            yield row, _one(row, cost(row))


def _one(row: Row, cost: Decimal | None) -> Sum:
    return Sum(
        1,
        int(row.get("outcome") != _ANSWERED),
        row.get("input_tokens") or 0,
        row.get("output_tokens") or 0,
        row.get("cache_read_tokens") or 0,
        (row.get("cache_write_5m_tokens") or 0) + (row.get("cache_write_1h_tokens") or 0),
        cost or Decimal(0),
        int(cost is None),
    )


def _added(one: Sum, other: Sum) -> Sum:
    numbers: tuple[Any, ...] = one
    return Sum(*(mine + theirs for mine, theirs in zip(numbers, other, strict=True)))


def _ordered(sums: dict[Key, Sum], grouping: Sequence[str]) -> dict[Key, Sum]:
    by_time = bool(grouping) and grouping[0] in _TIMES

    def place(item: tuple[Key, Sum]) -> tuple[Any, ...]:
        key, found = item
        names = tuple(value or "" for value in key)
        dearest = (-found.cost, -found.calls)
        return (names[0], *dearest, names) if by_time else (*dearest, names)

    return dict(sorted(sums.items(), key=place))


# ---- words ------------------------------------------------------------------------------------------------------


def money(amount: Decimal, digits: int = 4) -> str:
    """Write an amount in USD; one that is not nothing is never written as 0."""
    least = Decimal(1).scaleb(-digits)
    if 0 < amount < least:
        return f"<${least:f}"
    return f"${amount.quantize(least, ROUND_HALF_UP):,f}"


def spent(found: Sum, digits: int = 4) -> str:
    """Write what calls have cost: `unknown` where no price is known, `at least` where some are not."""
    if is_unknown(found):
        return "unknown"
    return f"at least {money(found.cost, digits)}" if found.unpriced else money(found.cost, digits)


def digits(sums: Iterable[Sum]) -> int:
    """Return how many decimals amounts that stand together need."""
    return 2 if max((found.cost for found in sums), default=Decimal(0)) >= _LARGE else 4


def is_unknown(found: Sum) -> bool:
    """Whether nothing is known of what calls have cost: `at least $0` would say no more."""
    return bool(found.unpriced) and not found.cost


def incomplete(row: Row) -> bool:
    """Whether a call ended before its tokens were told, so that no price helps."""
    return row.get("input_tokens") is None or row.get("output_tokens") is None
