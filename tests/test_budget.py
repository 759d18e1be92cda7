"""Budgets: nothing is sent that could cost more than may be spent, whoever else is spending at that moment."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from decimal import Decimal

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from bx import config, prices
from bx.config import ConfigError
from bx.converse import request
from bx.diagnosis import explain
from bx.engines.bedrock import Bedrock
from bx.engines.echo import Echo
from bx.ledger.budget import Budget, OverBudget, money
from bx.ledger.meter import Metered, around
from bx.ledger.store import Store
from scripted import RESET, Scripted, answer, broken, connected, failure

CLAUDE = "global.anthropic.claude-sonnet-4-6"  # 3 USD in and 15 USD out for a million tokens
NOVA = "global.amazon.nova-2-lite-v1:0"
TEN_CENTS = {"day": 0.10}
USAGE = {"inputTokens": 1000, "outputTokens": 1000, "totalTokens": 2000}  # 1.8 cents


@pytest.fixture
def limited(endpoint, store):
    """Make an engine with limits."""
    engine = Bedrock(endpoint_url=endpoint.url)

    def make(limits, **more):
        return Metered(engine, store, labels={"source": "python"}, budget=Budget(store, limits, **more))

    yield make
    engine.close()


def asked(prompt="Hi there", model=CLAUDE, **inference):
    return request(prompt, model=model, **{"maxTokens": 1000, **inference})


def conversed(endpoint):
    """How many requests were for an answer; counting tokens costs nothing."""
    return sum(not each.path.endswith("/count-tokens") for each in endpoint.requests)


def ordinary(reply):
    """No fault: what is answered to the counting of tokens."""
    return reply


def refused(call):
    with pytest.raises(ClientError) as raised:
        call()
    assert isinstance(raised.value.__cause__, OverBudget)
    assert raised.value.response["Error"]["Code"] == "ServiceQuotaExceededException"
    found = explain(raised.value)
    assert found.exit_code == 9
    return found


def held(store):
    with store.connection() as connection:
        return connection.execute("SELECT amount, until FROM held").fetchall()


def test_calls_are_answered_until_the_next_one_could_cost_too_much(limited, endpoint):
    engine = limited(TEN_CENTS)
    endpoint.respond = lambda _: answer("Yes", usage=USAGE)
    for _ in range(5):  # 9 cents, and 1.5 more for the next answer
        engine.converse(**asked())
    found = refused(lambda: engine.converse(**asked()))
    assert "This call may cost $0.015" in found.what
    assert "$0.09 was spent today, and the limit is $0.10" in found.what
    assert "budget.day" in found.fix
    assert conversed(endpoint) == 5
    engine.converse(**asked(maxTokens=100))


def test_a_month_has_a_limit_of_its_own(limited, store):
    month = time.localtime()
    first = time.mktime((month.tm_year, month.tm_mon, 1, 0, 0, 0, 0, 0, -1))
    spent = {"model_id": CLAUDE, "engine": "bedrock", "input_tokens": 0, "output_tokens": 1_000_000}
    store.write({"at": first, **spent})
    store.write({"at": first - 1, **spent})
    found = refused(lambda: limited({"month": 15}).converse(**asked()))
    assert "$15.00 was spent this month" in found.what
    limited({"month": 16}).converse(**asked())


def test_what_was_spent_yesterday_does_not_count_today(limited, store):
    spent = {"model_id": CLAUDE, "engine": "bedrock", "input_tokens": 0, "output_tokens": 1_000_000}
    store.write({"at": time.time() - 90_000, **spent})
    limited(TEN_CENTS).converse(**asked())


@pytest.mark.parametrize("forgotten", ["rows", "file"])
def test_what_is_spent_after_older_rows_were_forgotten_counts(forgotten, limited, store):
    spent = {"model_id": CLAUDE, "engine": "bedrock", "input_tokens": 0, "output_tokens": 1}
    for _ in range(3):
        store.write({"at": time.time(), **spent})
    engine = limited({"day": 15})
    engine.converse(**asked())
    if forgotten == "rows":
        store.prune(time.time() + 1)
    else:
        store.close()
        store.path.unlink()
    store.write({"at": time.time(), **spent, "output_tokens": 1_000_000})
    refused(lambda: engine.converse(**asked()))


def test_an_unusable_price_is_told_before_anything_is_sent(bx, endpoint, monkeypatch):
    monkeypatch.setenv("BX_PRICES", '{"anthropic.claude-sonnet-4-6": {"inputs": 1}}')
    done = bx("Hi", "-u", "--model", "claude", "--endpoint-url", endpoint.url)
    assert (done.returncode, done.stdout) == (2, "")
    assert "inputs" in done.stderr
    assert not endpoint.requests


def test_the_limit_of_a_call_needs_no_ledger(endpoint):
    engine = Bedrock(endpoint_url=endpoint.url)
    store = Store(None)
    budget = Budget(store, {"call": 0.01})
    metered = Metered(engine, store, labels={}, budget=budget)
    assert "--max-cost" in refused(lambda: metered.converse(**asked())).fix
    for _ in range(5):
        metered.converse(**asked(maxTokens=500))
    assert conversed(endpoint) == 5


def test_the_limit_of_an_answer_is_for_all_its_calls(limited, endpoint):
    endpoint.respond = lambda _: answer("Yes", usage=USAGE)
    engine = limited({"call": 0.03}, together=True)
    engine.converse(**asked())
    found = refused(lambda: engine.converse(**asked()))
    assert "$0.018 was spent on this answer" in found.what
    engine.renew()
    engine.converse(**asked())


def test_without_a_limit_the_model_s_longest_answer_counts(limited):
    refusal = refused(lambda: limited(TEN_CENTS).converse(**request("Hi", model=CLAUDE)))
    assert "out, the model's most" in refusal.what
    assert "--max-tokens" in refusal.fix


def test_models_of_this_machine_are_free_and_need_no_price(store):
    engine = Metered(Echo(), store, labels={}, budget=Budget(store, {"day": 0, "call": 0}))
    engine.converse(**asked(model="echo"))


def test_a_model_without_a_price_is_refused_with_the_remedy(limited, endpoint):
    engine = limited(TEN_CENTS)
    found = refused(lambda: engine.converse(**asked(model="acme.one-v1:0")))
    assert "the price of acme.one-v1:0 is unknown" in found.what
    assert '[prices."acme.one-v1:0"]' in found.fix
    assert not conversed(endpoint)
    overrides = {"acme.one-v1:0": {"input": 1, "output": 1}}
    limited(TEN_CENTS, overrides=overrides, region="us-east-1").converse(**asked(model="acme.one-v1:0"))


def test_the_service_counts_what_goes_in_where_it_can(limited, store, endpoint):
    counted = "anthropic.claude-sonnet-4-5-20250929-v1:0"
    found = refused(lambda: limited({"call": 0}).converse(**asked("word " * 90, model=f"global.{counted}")))
    assert "tokens in (counted)" in found.what
    assert [(each.model, each.path.rpartition("/")[2]) for each in endpoint.requests] == [(counted, "count-tokens")]
    assert [row["operation"] for row in store.rows()] == ["CountTokens"]


def test_what_cannot_be_counted_is_estimated_and_said_to_be(limited, endpoint):
    counted = "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
    endpoint.script.append(failure(403, "AccessDeniedException", "no"))
    for model in (NOVA, counted):
        found = refused(lambda model=model: limited({"call": 0}).converse(**asked("word " * 90, model=model)))
        assert "tokens in (estimated from their length, which may be off by half)" in found.what


def test_images_and_what_is_stored_elsewhere_are_not_free(limited):
    image = {"image": {"format": "png", "source": {"bytes": b"x" * 10}}}
    stored = {"document": {"format": "pdf", "name": "a", "source": {"s3Location": {"uri": "s3://b/a.pdf"}}}}
    for block, least in ((image, 5000), (stored, 1_000_000)):
        messages = [{"role": "user", "content": [{"text": "What is it?"}, block]}]
        found = refused(lambda messages=messages: limited({"call": 0}).converse(**asked(messages, model=NOVA)))
        assert int(re.search(r"\((\d+) tokens in", found.what)[1]) >= least


def test_what_is_to_be_cached_is_priced_as_a_cache_write(limited):
    def cost(ttl=None):
        point = {"cachePoint": {"type": "default", **({"ttl": ttl} if ttl else {})}}
        content = [{"text": "word " * 3000}, *([point] if ttl != "none" else [])]
        budget = limited({"call": 0})._budget
        return budget._estimate(asked([{"role": "user", "content": content}]), None).amount

    assert cost("none") < cost() < cost("1h")


# ---- what is held ---------------------------------------------------------------------------------------------


def test_what_is_held_for_a_call_is_released_when_it_ends(limited, store, endpoint):
    engine = limited({"day": 1})
    events = engine.converse_stream(**asked())["stream"]
    assert [amount for amount, _ in held(store)] == [pytest.approx(0.015e12, rel=0.1)]
    list(events)
    assert held(store) == []
    endpoint.script += [ordinary, failure(400, "ValidationException", "No.")]
    with pytest.raises(ClientError):
        engine.converse(**asked())
    assert held(store) == []


def test_what_a_call_of_unknown_cost_was_held_for_stays_spent(limited, store, endpoint):
    engine = limited({"day": 0.04})
    events = engine.converse_stream(**asked())["stream"]
    next(events)
    events.close()
    endpoint.script += [ordinary, broken(2, RESET)]
    with pytest.raises(ClientError):
        list(engine.converse_stream(**asked())["stream"])
    assert [until for _, until in held(store)] == [None, None]
    found = refused(lambda: engine.converse(**asked()))
    assert "$0.03" in found.what


def test_what_a_dead_process_held_expires(limited, store):
    engine = limited({"day": 0.02})
    budget = engine._budget
    budget.hold(asked(), None)
    refused(lambda: engine.converse(**asked()))
    with store.connection() as connection:
        connection.execute("UPDATE held SET until = ?", (time.time() - 1,))
    engine.converse(**asked())
    assert held(store) == []


RACER = """
import sys
from pathlib import Path
from bx.converse import request
from bx.ledger.budget import Budget
from bx.ledger.store import Store
from botocore.exceptions import ClientError

budget = Budget(Store(Path(sys.argv[1])), {"day": 0.10})
print("ready", flush=True)
sys.stdin.readline()
won = 0
for _ in range(10):
    try:
        budget.hold(request("Hi", model="global.anthropic.claude-sonnet-4-6", maxTokens=1000), None)
        won += 1
    except ClientError:
        pass
print(won)
"""


def test_processes_that_race_do_not_spend_the_last_cent_twice(store):
    command = [sys.executable, "-c", RACER, str(store.path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(6)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = sum(int(racer.communicate(timeout=60)[0]) for racer in racers)
    assert won == 6  # of 1.5 cents each
    assert sum(amount for amount, _ in held(store)) <= 0.10e12


def test_a_ledger_that_cannot_be_read_refuses_what_has_a_budget(limited, store, endpoint):
    store.path.write_bytes(b"no database" * 1000)
    settings = {"ledger": str(store.path), "budget": TEN_CENTS, "endpoint_url": endpoint.url}
    engine = around(Bedrock(endpoint_url=endpoint.url), settings, source="cli", names=dict)
    found = refused(lambda: engine.converse(**asked()))
    engine.close()
    assert "The budget cannot be checked" in found.what
    assert "Move it away" in found.fix
    assert not conversed(endpoint)


def test_a_budget_without_a_ledger_is_an_error():
    with pytest.raises(ConfigError, match="no ledger is kept"):
        around(Echo(), {"ledger": "off", "budget": {"day": 1}}, source="cli", names=dict)
    around(Echo(), {"ledger": "off", "max_cost": 1.0}, source="cli", names=dict)
    assert config.KINDS["budget"] is dict


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=5))
def test_the_sum_of_a_day_is_that_of_its_rows(tokens):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder, "ledger.db"))
        rows = [
            {"at": time.time(), "model_id": CLAUDE, "engine": "bedrock", "input_tokens": sent, "output_tokens": got}
            for sent, got in tokens
        ]
        for row in rows:
            store.write(row)
        budget = Budget(store, {"day": 1})
        with store.connection() as connection:
            for _ in range(2):
                found = budget._sums(connection, time.time())["day"]
        store.close()
        assert found.amount == sum(map(prices.cost, rows), Decimal(0))
        assert not found.unknown


def test_the_server_passes_the_refusal_on_as_the_service_s_own(limited):
    with Scripted(limited({"call": 0})) as served:
        client = connected(served.url)
        with pytest.raises(ClientError, match="This call may cost") as raised:
            client.converse(**asked())
        client.close()
    assert raised.value.response["Error"]["Code"] == "ServiceQuotaExceededException"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


# ---- at the terminal ------------------------------------------------------------------------------------------


def test_the_command_ends_with_nine_and_names_the_figures(bx, endpoint):
    to = ["--model", "claude", "--endpoint-url", endpoint.url]
    done = bx("Hi", *to, "--max-cost", "0.001")
    assert (done.returncode, done.stdout) == (9, "")
    assert "This call may cost $" in done.stderr
    assert "the limit is $0.001" in done.stderr
    assert "--max-cost" in done.stderr
    assert not conversed(endpoint)
    assert bx("Hi", *to, "--max-cost", "0.1", "--max-tokens", "100").returncode == 0


def test_the_budget_of_the_settings_holds_for_the_command_and_for_python(bx, endpoint, monkeypatch):
    import bx as python

    monkeypatch.setenv("BX_BUDGET", '{"day": 0.02}')
    monkeypatch.setenv("BX_ENDPOINT_URL", endpoint.url)
    endpoint.respond = lambda _: answer("Yes", usage=USAGE)
    assert bx("Hi", "--model", "claude", "--max-tokens", "1000").returncode == 0
    assert bx("Hi", "--model", "claude", "--max-tokens", "1000").returncode == 9
    engine = python.engine()
    refused(lambda: engine.converse(**asked(model="claude")))
    engine.close()
    assert conversed(endpoint) == 1


def test_the_cost_is_in_the_line_of_usage(bx, endpoint):
    endpoint.respond = lambda _: answer("Yes", usage=USAGE)
    to = ["--endpoint-url", endpoint.url, "-u"]
    assert "| $0.018 |" in bx("Hi", "--model", "claude", *to).stderr
    assert "| cost unknown |" in bx("Hi", "--model", "acme.one-v1:0", *to).stderr
    assert "| $0.00 |" in bx("Hi", "--model", "echo", "-u", BX_LEDGER="off").stderr


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        ("0", "$0.00"),
        ("0.000012", "$0.000012"),
        ("0.0156", "$0.016"),
        ("0.5", "$0.50"),
        ("12.346", "$12.35"),
        ("10", "$10.00"),
    ],
)
def test_money_is_written_to_the_cent_or_with_two_digits_that_matter(amount, written):
    assert money(Decimal(amount)) == written
