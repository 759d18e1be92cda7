"""Sums over the ledger: by model, day, tag and region, over local days, and never 0 for what is not known."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bx.ledger import report, sheet

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()


def call(at=NOON, cost="0.1", **columns):
    row = {"at": at, "model_id": "m", "outcome": "answered", "operation": "Converse"}
    row |= {"input_tokens": 10, "output_tokens": 5, "cost": cost}
    return {**row, **columns}


def cost(row):
    return None if row["cost"] is None else Decimal(row["cost"])


def gathered(rows, *names):
    return report.gather(rows, [names], cost)[0]


@pytest.fixture
def zone(monkeypatch):
    """Choose the local time zone."""

    def choose(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield choose
    monkeypatch.delenv("TZ", raising=False)
    time.tzset()


needs_zones = pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone of a process is POSIX's")


def test_calls_are_added_up_by_what_is_asked_for_the_dearest_first():
    rows = [call(model_id="a"), call(model_id="b", cost="0.5"), call(model_id="a", cost="0.2"), call(model_id=None)]
    sums = gathered(rows, "model")
    assert list(sums) == [("b",), ("a",), (None,)]
    assert sums["a",] == report.Sum(2, 0, 20, 10, 0, 0, Decimal("0.3"), 0)
    assert report.total(sums.values()).cost == Decimal("0.9")


def test_several_names_tell_apart_together():
    rows = [
        call(tag="x", region="r1"),
        call(tag="x", region="r2"),
        call(tag="y", region="r1"),
        call(tag="x", region="r1"),
    ]
    assert {key: each.calls for key, each in gathered(rows, "tag", "region").items()} == {
        ("x", "r1"): 2,
        ("x", "r2"): 1,
        ("y", "r1"): 1,
    }


def test_days_come_in_order_and_without_gaps_where_a_chart_needs_them():
    rows = [call(NOON, cost="1"), call(NOON - 3 * 86400, cost="2")]
    sums = gathered(rows, "day")
    assert [each.calls for each in sums.values()] == [1, 1]
    filled = report.days(sums)
    assert [each.calls for each in filled.values()] == [1, 0, 0, 1]
    assert [each.calls for each in report.months(filled).values()] == [2]
    assert report.days({}) == {}


def test_both_kinds_of_cache_writes_are_one_sum():
    row = call(cache_read_tokens=3, cache_write_5m_tokens=4, cache_write_1h_tokens=5)
    (found,) = gathered([row]).values()
    assert (found.cache_read_tokens, found.cache_write_tokens) == (3, 9)


@pytest.mark.parametrize("outcome", ["failed", "interrupted", "abandoned", None])
def test_a_call_without_a_whole_answer_counts_as_failed(outcome):
    (found,) = gathered([call(outcome=outcome), call()]).values()
    assert (found.calls, found.failed) == (2, 1)


def test_counting_tokens_is_no_use_of_a_model():
    assert gathered([call(operation="CountTokens")], "model") == {}


# ---- what is not known ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([], "$0.0000"),
        (["0"], "$0.0000"),
        (["0.25", "1"], "$1.2500"),
        (["0.25", None], "at least $0.2500"),
        ([None, None], "unknown"),
        (["0", None], "unknown"),
        (["0.00001"], "<$0.0001"),
        (["0.00001", None], "at least <$0.0001"),
        (["1234.5"], "$1,234.5000"),
        (["0.00045"], "$0.0005"),
    ],
)
def test_what_was_spent_is_told_as_far_as_it_is_known(costs, expected):
    assert report.spent(report.total(gathered([call(cost=each) for each in costs]).values())) == expected


def test_large_amounts_need_no_fractions_of_a_cent():
    assert report.digits(gathered([call(cost="123")]).values()) == 2
    assert report.digits(gathered([call(cost="12")]).values()) == 4
    assert report.digits([]) == 4
    assert report.money(Decimal("0.004"), 2) == "<$0.01"


maybe = st.none() | st.decimals(0, 1000, places=8).map(str)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), maybe)))
def test_sums_add_up_however_they_are_told_apart(calls):
    rows = [call(model_id=model, tag=tag, cost=each) for model, tag, each in calls]
    totals = {report.total(gathered(rows, *names).values()) for names in [(), ("model",), ("tag", "model"), ("day",)]}
    assert len(totals) == 1
    (total,) = totals
    assert total.calls == len(rows)
    assert total.unpriced == sum(each is None for _, _, each in calls)
    assert ("0" in report.spent(total) or report.spent(total) == "unknown") or total.cost > 0


# ---- times ------------------------------------------------------------------------------------------------------


@needs_zones
@pytest.mark.parametrize(
    ("name", "day"), [("UTC", "2026-11-01"), ("America/New_York", "2026-10-31"), ("Asia/Tokyo", "2026-11-01")]
)
def test_a_day_is_the_local_one(zone, name, day):
    zone(name)
    at = datetime(2026, 11, 1, 2, tzinfo=UTC).timestamp()
    assert list(gathered([call(at)], "day", "month")) == [(day, day[:7])]


@needs_zones
def test_weeks_begin_on_monday_and_days_at_local_midnight(zone):
    zone("Europe/Berlin")
    starts = report.periods(datetime(2026, 10, 29, 12, tzinfo=UTC).timestamp())
    local = {name: datetime.fromtimestamp(start).isoformat() for name, start in starts.items()}  # noqa: DTZ006 # local
    assert local == {"today": "2026-10-29T00:00:00", "week": "2026-10-26T00:00:00", "month": "2026-10-01T00:00:00"}
    # The clock was set back between the two: a difference of seconds would be an hour off.
    assert starts["today"] - starts["month"] == 28 * 86400 + 3600


@given(st.floats(0, 4e9))
def test_a_period_begins_before_now_and_holds_it(now):
    starts = report.periods(now)
    assert all(start <= now for start in starts.values())
    assert starts["today"] > now - 2 * 86400
    assert report.day_of(starts["week"]).weekday() == 0


@pytest.mark.parametrize(
    ("text", "back"), [("today", 0), ("1d", 0), ("0d", 0), ("7d", 6), ("2w", 13), ("2026-11-01", 25), ("week", 3)]
)
def test_a_time_is_given_in_words(text, back):
    day = report.day_of(NOON) - timedelta(days=back)
    assert report.begin(text, NOON) == report.midnight(day)


def test_the_end_of_a_day_is_the_beginning_of_the_next():
    assert report.end("2026-10-31", NOON) == report.begin("2026-11-01", NOON)
    assert report.end("today", NOON) == report.midnight(report.day_of(NOON) + timedelta(days=1))
    assert report.begin("all", NOON) == 0


@pytest.mark.parametrize("text", ["", "yesterday", "7", "d", "-7d", "7h", "2026-13-01", "999999d", "0001-01-01x"])
def test_what_is_no_time_is_said(text):
    with pytest.raises(report.PeriodError, match="is no day") as caught:
        report.begin(text, 0.0)
    assert caught.value.exit_code == 2


@given(st.text())
def test_any_text_is_a_time_or_is_refused(text):
    with contextlib.suppress(report.PeriodError):
        assert isinstance(report.begin(text, NOON), float)


@given(st.dates(date(1971, 1, 1), date(2200, 1, 1)))
def test_a_day_is_that_of_its_midnight(day):
    assert report.day_of(report.midnight(day)) == day


# ---- for other programs -----------------------------------------------------------------------------------------


def read(lines):
    return list(csv.DictReader(io.StringIO("".join(lines))))


def test_every_call_is_a_line_with_its_cost():
    rows = [call(tag='a,b\n"c"', cost="0.00000012"), call(cost=None, input_tokens=None)]
    first, second = read(sheet.calls(rows, cost))
    assert first.keys() == set(sheet.COLUMNS)
    assert (first["tag"], first["cost"], first["input_tokens"]) == ('a,b\n"c"', "0.00000012", "10")
    assert (second["tag"], second["cost"], second["input_tokens"]) == ("", "unknown", "")
    assert datetime.fromisoformat(first["time"]).timestamp() == NOON


def test_sums_are_lines_too():
    (line,) = read(sheet.sums(["model"], gathered([call(), call(cost=None)], "model")))
    assert line == {
        "model": "m",
        "calls": "2",
        "failed": "0",
        "input_tokens": "20",
        "output_tokens": "10",
        "cache_read_tokens": "0",
        "cache_write_tokens": "0",
        "cost": "0.1",
        "unpriced_calls": "1",
    }


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_text_of_a_call_is_a_formula_in_a_spreadsheet(text):
    (line,) = read(sheet.calls([call(model_id=text, tag=text)], cost))
    assert line["model_id"] == line["tag"] == "'" + text.replace("\r", " ")
