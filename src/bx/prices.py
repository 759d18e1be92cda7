"""Tokens -> money, when somebody asks: what a model costs, and what a call did.

The prices are data: `prices.toml`, and what the user's settings say instead. What is not known is None, never 0. This
module knows no engine and sends nothing.
"""

from __future__ import annotations

import fnmatch
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from bx import foundation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RATES = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
_TOKENS = [f"{name}_tokens" for name in RATES]  # the columns of a call, in the order of RATES
_PER_MILLION = Decimal(1_000_000)
_ORDINARY = "default"  # the service tier whose price is the price
_PRICED_BY_PLACE = (foundation.FOUNDATION_MODEL, foundation.INFERENCE_PROFILE)
_LIBRARY = "aws"  # Amazon Bedrock's name in genai-prices
_IN_US = ("us", "us-east-*", "us-west-*")


class PriceError(ValueError):
    """A price in the user's settings is unusable; `fix` says what to write."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Price(NamedTuple):
    """USD per million tokens of each kind; None is not known.

    `since` is the day from which it holds, `source` who says so: prices.toml, genai-prices or settings. A request
    whose input has more than `above` tokens, cached ones included, costs what `long` says.
    """

    input: Decimal | None = None
    output: Decimal | None = None
    cache_read: Decimal | None = None
    cache_write_5m: Decimal | None = None
    cache_write_1h: Decimal | None = None
    since: date | None = None
    source: str = "prices.toml"
    above: int = 0
    long: Price | None = None


def updated() -> date:
    """Return the day on which the shipped prices were last compared with their sources."""
    day: date = _table()["updated"]
    return day


def price(
    model_id: str,
    *,
    at: float | None = None,
    tier: str | None = None,
    region: str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Price | None:
    """Return what a model costs, or None where that is not known.

    Args:
        model_id: the id that is sent: a base id, a profile's id or an ARN.
        at: the time of the call, in Unix seconds; now by default.
        tier: the service tier, or `batch`.
        region: the region that is called; the price of a base id is that of its region.
        overrides: the setting `prices`: tables of USD per million tokens, by model id.

    Raises:
        PriceError: an override is unusable.
    """
    if _is_free_model(model_id):
        return _price([Decimal(0)] * len(RATES))
    day = (datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)).date()
    tier = tier or _ORDINARY
    found = _listed(model_id, region or "", day, tier) or _from_library(model_id, region or "", day, tier)
    own = _override(model_id, overrides or {})
    return found if own is None else _with(own, found, _factor(model_id, day, tier))


def cost(row: Mapping[str, Any], overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Decimal | None:
    """Return what a call has cost in USD, or None where that is not known.

    Args:
        row: a row of the ledger's table `calls`, or as much of one as is known: `model_id`, `region`, `service_tier`,
            and the tokens of each kind.
        overrides: the setting `prices`.

    Raises:
        PriceError: an override is unusable.
    """
    if _is_free(row):
        return Decimal(0)
    found = price(
        str(row.get("model_id") or ""),
        at=row.get("at"),
        tier=row.get("service_tier"),
        region=row.get("region"),
        overrides=overrides,
    )
    counts = [row.get(column) for column in _TOKENS]
    if found is None or None in counts[:2]:
        return None
    return _charged(found, [count or 0 for count in counts])


def check(overrides: Mapping[str, Any]) -> None:
    """Check the setting `prices`: tables by model id, with the names in `RATES`.

    Raises:
        PriceError: it is unusable; the message names the place.
    """
    for model_id, table in overrides.items():
        if "." not in model_id and ":" not in model_id:
            fix = 'Write [prices."ID"] with the id that is sent, as bx models tells it'
            raise PriceError(f"prices.{model_id} is no model's id", fix)
        if not isinstance(table, dict) or not table:
            raise PriceError(f"prices.{model_id} is {table!r}", "Write a table: input = 3.00, output = 15.00")
        for name, value in table.items():
            if name not in RATES:
                raise PriceError(f"prices.{model_id}: unknown key {name!r}", f"Use: {', '.join(RATES)}")
            _number(f"prices.{model_id}.{name}", value)


# ---- what is free -----------------------------------------------------------------------------------------------


def _is_free(row: Mapping[str, Any]) -> bool:
    free = _table()["free"]
    if row.get("operation") in free["operations"] or row.get("engine") in free["engines"]:
        return True
    return row.get("input_tokens") is None and row.get("error_code") in free["errors"]


def _is_free_model(model_id: str) -> bool:
    return model_id.partition(":")[0] in _table()["free"]["engines"]


# ---- the shipped table --------------------------------------------------------------------------------------------


def _charged(found: Price, counts: Sequence[int]) -> Decimal | None:
    """Multiply; a kind of tokens without a price matters only where there were such tokens."""
    sent = sum(counts) - counts[RATES.index("output")]
    rates = found.long if found.long and sent > found.above else found
    charged = Decimal(0)
    for rate, count in zip(rates[: len(RATES)], counts, strict=True):
        if count and not isinstance(rate, Decimal):
            return None
        charged += rate * count if isinstance(rate, Decimal) else 0
    return charged / _PER_MILLION


@lru_cache(maxsize=4096)
def _listed(model_id: str, region: str, day: date, tier: str) -> Price | None:
    """Look a price up in `prices.toml`."""
    named = foundation.name(model_id)
    entry = _entry(model_id, day)
    factor = _factor(model_id, day, tier)
    if named is None or entry is None or factor is None:
        return None
    place = named.geo or region
    rates = _rates(entry["rates"], place)
    if not rates:
        return None
    long = _rates(entry.get("long", {}), place)
    above = _price(_times(long, factor)) if long else None
    return _price(_times(rates, factor), since=entry.get("from"), above=entry.get("above", 0), long=above)


def _entry(model_id: str, day: date) -> dict[str, Any] | None:
    """Return the latest entry that holds for a model on a day."""
    named = foundation.name(model_id)
    if named is None or named.kind not in _PRICED_BY_PLACE:
        return None
    entries = [entry for entry in _by_model().get(named.base, []) if entry.get("from", date.min) <= day]
    return max(entries, key=lambda entry: entry.get("from", date.min), default=None)


def _factor(model_id: str, day: date, tier: str) -> Decimal | None:
    """Return what a tier makes of a model's price, or None where that is not known."""
    if tier == _ORDINARY:
        return Decimal(1)
    entry = _entry(model_id, day)
    if entry is None or tier not in entry.get("tiers", ()):
        return None
    factor: Decimal = _table()["factors"][tier]
    return factor


def _price(rates: Iterable[Decimal | None], **known: Any) -> Price:
    named: dict[str, Any] = dict(zip(RATES, rates, strict=False))  # what is left out at the end is not known
    return Price(**named, **known)


def _rates(places: Mapping[str, list[Decimal]], place: str) -> list[Decimal]:
    """Return the rates of the first place that fits."""
    fitting = (rates for patterns, rates in places.items() if _fits(place, patterns.split()))
    return next(fitting, [])


def _fits(place: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(place, pattern) for pattern in patterns)


def _times(rates: Iterable[Decimal], factor: Decimal) -> list[Decimal]:
    return [Decimal(rate) * factor for rate in rates]


@cache
def _by_model() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in _table()["price"]:
        for model in entry["models"]:
            found.setdefault(model, []).append(entry)
    return found


@cache
def _table() -> dict[str, Any]:
    import tomllib
    from pathlib import Path

    return tomllib.loads(Path(__file__).with_name("prices.toml").read_text("utf-8"), parse_float=Decimal)


# ---- the user's own prices ----------------------------------------------------------------------------------------


def _override(model_id: str, overrides: Mapping[str, Mapping[str, Any]]) -> dict[str, Decimal] | None:
    """Find the user's price of a model: by the id as it is sent, by its profile's id, or by its base id."""
    if not overrides:
        return None
    check(overrides)
    named = foundation.name(model_id)
    ids = [model_id]
    if named and named.kind in _PRICED_BY_PLACE:
        ids += [f"{named.geo}.{named.base}", named.base]
    table = next((overrides[each] for each in ids if each in overrides), None)
    return None if table is None else {name: _number(name, value) for name, value in table.items()}


def _with(own: dict[str, Decimal], found: Price | None, factor: Decimal | None) -> Price | None:
    """Put the user's rates above what is known otherwise; they hold for requests of every length."""
    if factor is None:
        return None
    mine: dict[str, Any] = {name: rate * factor for name, rate in own.items()}
    return (found or Price())._replace(**mine, source="settings", above=0, long=None)


def _number(where: str, value: Any) -> Decimal:
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        number = Decimal(str(value))
        if number.is_finite() and number >= 0:
            return number
    raise PriceError(f"{where} is {value!r}", "It must be a number of USD per million tokens, not below 0")


# ---- genai-prices, where it is installed --------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _from_library(model_id: str, region: str, day: date, tier: str) -> Price | None:
    """Look a model that `prices.toml` does not have up in the data inside genai-prices; nothing is fetched."""
    named = foundation.name(model_id)
    if named is None or named.kind not in _PRICED_BY_PLACE or named.base in _by_model() or tier != _ORDINARY:
        return None
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return None
    provider = next((each for each in get_snapshot().providers if each.id == _LIBRARY), None)
    in_us = _fits(named.geo or region, _IN_US)
    profile = f"{named.geo}.{named.base}".lstrip(".")
    for model in provider.models if provider else ():
        scope, _, rest = model.id.partition(".")
        told_apart = scope in ("global", "regional")  # other entries have the price of the US, for everywhere
        # Its patterns are loose: a later model's id may hold an earlier one's.
        same = _versioned(rest if told_apart else model.id) == _versioned(named.base)
        if same and (told_apart or in_us) and model.is_match(profile):
            return _converted(model.get_prices(datetime(day.year, day.month, day.day, tzinfo=UTC)))
    return None


def _versioned(base: str) -> str:
    """Spell an id with its version: the library has `-v1:0` where Amazon Bedrock has none, or the other way round."""
    stem = re.sub(r":\d+$", "", base)
    return stem if re.search(r"-v\d+$", stem) else f"{stem}-v1"


def _converted(prices: Any) -> Price | None:
    """Turn a price of genai-prices into ours; None where it has more steps than ours can have."""
    rates = [getattr(prices, f"{name.removesuffix('_5m')}_mtok", None) for name in RATES]
    steps = [list(getattr(rate, "tiers", ())) for rate in rates]
    starts = {step.start for each in steps for step in each}
    if len(starts) > 1 or any(len(each) > 1 for each in steps):
        return None
    usual = [getattr(rate, "base", rate) for rate in rates]
    long = [each[0].price if each else rate for each, rate in zip(steps, usual, strict=True)]
    above = max(starts, default=0)
    return _price(usual, source="genai-prices", above=above, long=_price(long) if starts else None)
