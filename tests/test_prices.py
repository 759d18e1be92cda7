"""Tokens -> money: worked examples, and what is not known stays unknown."""

from __future__ import annotations

import builtins
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bx import foundation, prices

NOVA = "us.amazon.nova-2-lite-v1:0"
CLAUDE = "anthropic.claude-sonnet-4-6"
MILLION = 1_000_000


def moment(day):
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


def call(model_id, **columns):
    row = {"at": moment("2026-11-20"), "model_id": model_id, "region": "us-east-1", "engine": "bedrock"}
    row |= {"operation": "Converse", "outcome": "answered", "input_tokens": 0, "output_tokens": 0}
    return {**row, **columns}


# ---- worked examples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "columns", "expected"),
    [
        # 1,000 in and 500 out of Nova 2 Lite: (1,000 x 0.33 + 500 x 2.75) / 1,000,000
        (NOVA, {"input_tokens": 1000, "output_tokens": 500}, "0.001705"),
        # ... through the global profile, which has no surcharge: 0.30 and 2.50
        ("global.amazon.nova-2-lite-v1:0", {"input_tokens": 1000, "output_tokens": 500}, "0.00155"),
        # ... with flex (0.165 for the input) and priority (0.5775)
        (NOVA, {"input_tokens": MILLION, "service_tier": "flex"}, "0.165"),
        (NOVA, {"input_tokens": MILLION, "service_tier": "priority"}, "0.5775"),
        (NOVA, {"input_tokens": MILLION, "service_tier": "default"}, "0.33"),
        # A batch is half of that.
        (NOVA, {"input_tokens": MILLION, "output_tokens": MILLION, "service_tier": "batch"}, "1.54"),
        # Claude: a geography's profile costs 10 % more than the global one.
        (f"global.{CLAUDE}", {"input_tokens": MILLION, "output_tokens": MILLION}, "18"),
        (f"us.{CLAUDE}", {"input_tokens": MILLION, "output_tokens": MILLION}, "19.8"),
        (f"jp.{CLAUDE}", {"input_tokens": MILLION, "output_tokens": MILLION}, "19.8"),
        # Cached tokens are not among the input's: a read costs 0.1, a write 1.25 (5 minutes) or 2 times (1 hour) it.
        (f"us.{CLAUDE}", {"cache_read_tokens": MILLION}, "0.33"),
        (f"us.{CLAUDE}", {"cache_write_5m_tokens": MILLION}, "4.125"),
        (f"us.{CLAUDE}", {"cache_write_1h_tokens": MILLION}, "6.6"),
        (
            f"us.{CLAUDE}",
            {"input_tokens": 200, "output_tokens": 1000, "cache_read_tokens": 9000, "cache_write_1h_tokens": 3000},
            "0.03993",
        ),
        # Haiku 5.5 has another price for long prompts; what was cached counts.
        ("us.anthropic.claude-haiku-5-5", {"input_tokens": 100_000}, "0.011"),
        ("us.anthropic.claude-haiku-5-5", {"input_tokens": 100_001}, "0.05500055"),
        ("us.anthropic.claude-haiku-5-5", {"input_tokens": 1, "cache_read_tokens": 100_000}, "0.00550055"),
        # The same by an ARN.
        (
            f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{CLAUDE}",
            {"input_tokens": MILLION},
            "3.3",
        ),
        # A base id has the price of the region that is called.
        ("openai.gpt-oss-120b-1:0", {"input_tokens": MILLION, "output_tokens": MILLION}, "0.75"),
        ("openai.gpt-oss-120b-1:0", {"input_tokens": MILLION, "region": "us-gov-west-1"}, "0.18"),
        ("minimax.minimax-m2.5", {"input_tokens": MILLION, "region": "eu-west-2"}, "0.47"),
    ],
)
def test_a_call_costs_what_its_tokens_do(model_id, columns, expected):
    assert prices.cost(call(model_id, **columns)) == Decimal(expected)


@pytest.mark.parametrize(
    ("day", "expected"), [("2026-07-29", "1.10"), ("2026-07-30", "0.22"), ("2026-11-26", "0.22")]
)
def test_a_past_call_keeps_the_price_of_its_day(day, expected):
    row = call("us.openai.gpt-5.6-luna", input_tokens=MILLION // 10)
    assert prices.cost({**row, "at": moment(day)}) == Decimal(expected) / 10


# ---- what is not known, and what is free --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "columns"),
    [
        ("us.acme.unheard-of-v1:0", {}),
        ("acme.unheard-of-v1:0", {}),
        ("", {}),
        ("not an id", {}),
        ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123", {}),
        ("arn:aws:bedrock:us-east-1:123456789012:provisioned-model/abcdefghijkl", {}),
        (f"arn:aws:bedrock:us-east-1:123456789012:custom-model/{CLAUDE}/abcdefghijkl", {}),
        ("us.anthropic.claude-opus-5-5", {"service_tier": "batch"}),
        (f"us.{CLAUDE}", {"service_tier": "flex"}),
        (NOVA, {"service_tier": "reserved"}),
        (f"us-gov.{CLAUDE}", {}),
        ("openai.gpt-oss-120b-1:0", {"region": "eu-central-1"}),
        ("openai.gpt-oss-120b-1:0", {"region": None}),
    ],
)
def test_an_unknown_price_is_none_and_never_0(model_id, columns):
    row = call(model_id, **{"input_tokens": 1, **columns})
    assert prices.cost(row) is None
    assert prices.price(model_id, region=row["region"], tier=row.get("service_tier")) is None


@pytest.mark.parametrize(
    "columns",
    [
        {"input_tokens": None, "output_tokens": None, "outcome": "abandoned"},
        {"output_tokens": None, "outcome": "interrupted"},
        {"input_tokens": None, "output_tokens": None, "outcome": "failed", "error_code": "ReadTimeoutError"},
        {"input_tokens": None, "output_tokens": None, "outcome": "failed", "error_code": "ModelStreamErrorException"},
        {"cache_write_5m_tokens": 1},  # which Nova 2 Lite has no price for
    ],
)
def test_tokens_that_are_not_known_have_no_price(columns):
    assert prices.cost(call(NOVA, **columns)) is None


@pytest.mark.parametrize(
    "columns",
    [
        {"engine": "local", "model_id": "local:qwen", "input_tokens": 10, "output_tokens": 10},
        {"engine": "echo", "model_id": "echo"},
        {"operation": "CountTokens", "input_tokens": 10},
        {"input_tokens": None, "output_tokens": None, "outcome": "failed", "error_code": "ThrottlingException"},
        {"input_tokens": None, "output_tokens": None, "outcome": "failed", "error_code": "EndpointConnectionError"},
    ],
)
def test_what_nobody_charges_costs_nothing(columns):
    assert prices.cost(call(**{"model_id": "acme.unheard-of", **columns})) == 0


@pytest.mark.parametrize("model_id", ["local", "local:qwen", "echo"])
def test_embedded_models_are_free(model_id):
    assert prices.price(model_id).input == 0


# ---- the user's own prices ----------------------------------------------------------------------------------------

PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"


@pytest.mark.parametrize(
    ("model_id", "overrides", "expected"),
    [
        (PROFILE, {PROFILE: {"input": 1, "output": 2}}, "3"),
        (f"us.{CLAUDE}", {CLAUDE: {"input": 1.5, "output": 7.25}}, "8.75"),
        (f"us.{CLAUDE}", {CLAUDE: {"input": 1}, f"us.{CLAUDE}": {"input": 2}}, "18.5"),
        (f"eu.{CLAUDE}", {f"us.{CLAUDE}": {"input": 2}}, "19.8"),
        (f"us.{CLAUDE}", {CLAUDE: {"output": 0}}, "3.3"),
        ("acme.unheard-of-v1:0", {"acme.unheard-of-v1:0": {"input": 1, "output": 1}}, "2"),
        ("acme.unheard-of-v1:0", {"acme.unheard-of-v1:0": {"input": 1}}, None),
    ],
)
def test_the_users_price_holds_over_ours(model_id, overrides, expected):
    row = call(model_id, input_tokens=MILLION, output_tokens=MILLION)
    assert prices.cost(row, overrides) == (None if expected is None else Decimal(expected))
    assert prices.price(model_id, region="us-east-1", overrides={"x.y": {"input": 1}}) == prices.price(
        model_id, region="us-east-1"
    )


def test_a_tier_applies_to_the_users_price_where_its_factor_is_known():
    assert prices.price(NOVA, tier="flex", overrides={NOVA: {"input": 0.2}}).input == Decimal("0.1")
    assert prices.price(PROFILE, tier="flex", overrides={PROFILE: {"input": 0.2}}) is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"claude": {"input": 1}}, "prices.claude is no model's id"),
        ({"a.b": 3}, "prices.a.b is 3"),
        ({"a.b": {}}, "prices.a.b is {}"),
        ({"a.b": {"inputs": 3}}, "prices.a.b: unknown key 'inputs'"),
        ({"a.b": {"input": "3"}}, "prices.a.b.input is '3'"),
        ({"a.b": {"input": True}}, "prices.a.b.input is True"),
        ({"a.b": {"input": -1}}, "prices.a.b.input is -1"),
        ({"a.b": {"input": float("nan")}}, "prices.a.b.input is nan"),
    ],
)
def test_an_unusable_price_of_the_users_is_named(overrides, message):
    with pytest.raises(prices.PriceError, match="prices") as caught:
        prices.cost(call("a.b"), overrides)
    assert str(caught.value) == message
    assert (caught.value.exit_code, bool(caught.value.fix)) == (2, True)


# ---- genai-prices -------------------------------------------------------------------------------------------------


@pytest.fixture
def forgotten():
    prices._from_library.cache_clear()
    yield
    prices._from_library.cache_clear()


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [
        ("global.moonshotai.kimi-k3.1", "4"),
        ("us.moonshotai.kimi-k3.1", "4.4"),
        ("us.anthropic.claude-fable-5-2", "8.8"),
        ("amazon.nova-lite-v9:0", None),  # whose id begins like one that it has
        ("us.moonshotai.kimi-k3.1-mini", None),
    ],
)
@pytest.mark.usefixtures("forgotten")
def test_a_model_that_is_new_to_us_is_looked_up_in_the_price_library(model_id, expected):
    pytest.importorskip("genai_prices")
    found = prices.price(model_id, region="us-east-1")
    assert (found and found.input) == (None if expected is None else Decimal(expected))
    assert found is None or found.source == "genai-prices"


@pytest.mark.usefixtures("forgotten")
def test_steps_of_the_price_library_are_kept():
    pytest.importorskip("genai_prices")
    found = prices.price("us.openai.gpt-6-sol")
    assert (found.above, found.long.input) == (272_000, found.input * 2)


@pytest.mark.usefixtures("forgotten")
def test_without_the_price_library_such_a_model_is_unknown(monkeypatch):
    def missing(name, *details, ordinary=builtins.__import__):
        if name.startswith("genai_prices"):
            raise ImportError(name)
        return ordinary(name, *details)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert prices.price("us.moonshotai.kimi-k3.1") is None


# ---- the table ----------------------------------------------------------------------------------------------------


def test_every_listed_model_of_bedrock_has_its_entry():
    assert {model.id for model in foundation.models()} == prices._by_model().keys()


def test_every_tier_has_its_factor():
    table = prices._table()
    assert {tier for entry in table["price"] for tier in entry.get("tiers", [])} == table["factors"].keys()


def test_every_place_can_be_called():
    known = {*foundation.geographies(), "*"}
    regions = {region for model in foundation.models() for region in model.regions}
    for entry in prices._table()["price"]:
        for place in " ".join(entry["rates"]).split():
            region = place.replace("*", "1")
            assert place in known or region in regions or foundation._is_known(region), place
        assert entry.get("long", entry["rates"]).keys() == entry["rates"].keys()
        assert ("above" in entry) == ("long" in entry)


counts = st.integers(0, 10**7)


@given(counts, counts, counts, counts, st.sampled_from([f"us.{CLAUDE}", "global.anthropic.claude-haiku-5-5"]))
def test_more_tokens_never_cost_less(sent, received, read, written, model_id):
    less = call(model_id, input_tokens=sent, output_tokens=received, cache_read_tokens=read)
    more = {**less, "output_tokens": received + 1, "cache_write_1h_tokens": written}
    assert 0 <= prices.cost(less) < prices.cost(more)
