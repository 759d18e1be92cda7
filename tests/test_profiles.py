"""A model that needs an inference profile: the refusal names those that there are, and where it may, bx mends it."""

from __future__ import annotations

import time

import pytest
from botocore.exceptions import ClientError

import bx
from bx import converse
from bx.account import APPLICATION, SYSTEM_DEFINED, Account, Profile
from bx.diagnosis import INFERENCE_PROFILES, explain
from bx.engines.bedrock import Bedrock
from bx.engines.echo import Echo
from bx.profiles import Profiled

NOVA, SONNET, LLAMA = "amazon.nova-2-lite-v1:0", "anthropic.claude-sonnet-4-6", "meta.llama4-scout-17b-instruct-v1:0"
OWN = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/a1b2c3d4e5f6"
METHODS = ["converse", "converse_stream"]


@pytest.fixture(scope="module")
def server():
    with bx.serve(model="echo") as running:
        yield running


@pytest.fixture
def bedrock(server):
    """The engine of Amazon Bedrock, in a region, noting what it is asked."""
    made = []

    def make(region="us-east-1"):
        made.append(Asked(region, endpoint_url=server.url))
        return made[-1]

    yield make
    server.faults.clear()
    for engine in made:
        engine.close()


class Asked(Bedrock):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.models = []

    def converse(self, **request):
        self.models.append(request["modelId"])
        return super().converse(**request)

    def converse_stream(self, **request):
        self.models.append(request["modelId"])
        return super().converse_stream(**request)


def called(engine, method, model):
    answer = getattr(engine, method)(**converse.request("Hello", model=model))
    return converse.text(converse.collect(answer["stream"]) if "stream" in answer else answer)


def refused(engine, model, method="converse"):
    with pytest.raises(ClientError) as caught:
        called(engine, method, model)
    return caught.value


def knowing(*profiles):
    known = {each.id: each for each in profiles}
    return lambda: Account(time.time(), "us-east-1", {}, known, {}, {})


def profile(model_id, kind=SYSTEM_DEFINED, leads_to=NOVA):
    return Profile(model_id, OWN, "", kind, (leads_to,))


# ---- named ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("region", "model", "there"),
    [
        ("us-east-1", NOVA, ["global", "us"]),
        ("eu-west-1", NOVA, ["global", "eu"]),
        ("ap-northeast-1", SONNET, ["global", "jp"]),
        ("us-east-1", LLAMA, ["us"]),
        ("eu-west-1", "amazon.nova-pro-v1:0", ["eu"]),
    ],
)
def test_the_refusal_names_the_profiles_of_the_region(bedrock, method, region, model, there):
    engine = bedrock(region)
    failure = refused(Profiled(engine), model, method)
    assert failure.response[INFERENCE_PROFILES] == [f"{geo}.{model}" for geo in there]
    assert engine.models == [model], "it was not sent again"
    told = explain(failure, model=model)
    assert (told.name, told.exit_code) == ("on-demand-throughput", 4)
    assert f"{region} has: {', '.join(f'{geo}.{model}' for geo in there)}" in told.why
    assert told.fix == f"Name the profile: bx --model {there[0]}.{model} ... (--auto-profile does so by itself)"


def test_the_profile_of_the_chosen_geography_is_named_first(bedrock):
    told = explain(refused(Profiled(bedrock("eu-west-1")), NOVA), model=NOVA, geo="eu")
    assert f"bx --model eu.{NOVA} ..." in told.fix


def test_the_accounts_own_list_is_named_where_it_was_asked(bedrock):
    known = knowing(profile(f"us.{NOVA}"), profile("team", APPLICATION))
    failure = refused(Profiled(bedrock(), account=known), NOVA)
    assert failure.response[INFERENCE_PROFILES] == [f"us.{NOVA}", OWN]


def test_a_profile_of_another_geography_is_refused_with_those_that_fit(server, bedrock):
    server.faults.add("ValidationException,message=The provided model identifier is invalid.")
    engine = bedrock("us-east-1")
    failure = refused(Profiled(engine, auto=True), f"eu.{SONNET}")
    assert engine.models == [f"eu.{SONNET}"], "who names a geography means it"
    told = explain(failure, model=f"eu.{SONNET}")
    assert told.name == "wrong-geography"
    assert f"us-east-1 has: global.{SONNET}, us.{SONNET}" in told.why
    assert f"bx --model global.{SONNET} ..." in told.fix


# ---- mended -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("model", "sent"), [(NOVA, "global"), (LLAMA, "us")])
def test_where_it_may_the_request_is_sent_again_through_a_profile(bedrock, method, model, sent, caplog):
    engine = bedrock("us-west-2")
    assert called(Profiled(engine, auto=True), method, model) == "Hello"
    assert engine.models == [model, f"{sent}.{model}"]
    assert f"sent again through {sent}.{model}" in caplog.text


def test_a_chosen_geography_is_kept_to_or_nothing_is_sent(bedrock):
    engine = bedrock("eu-west-1")
    assert called(Profiled(engine, auto=True, geo="eu"), "converse", NOVA) == "Hello"
    assert engine.models == [NOVA, f"eu.{NOVA}"]
    failure = refused(Profiled(engine, auto=True, geo="jp"), NOVA)
    assert engine.models[2:] == [NOVA]
    assert failure.response[INFERENCE_PROFILES] == [f"global.{NOVA}", f"eu.{NOVA}"]


def test_a_profile_of_an_applications_own_is_never_taken_unasked(bedrock):
    known = knowing(profile("team", APPLICATION), profile(f"us.{LLAMA}", leads_to=LLAMA))
    engine = bedrock()
    refused(Profiled(engine, auto=True, account=known), NOVA)
    assert engine.models == [NOVA]


def test_it_is_sent_again_once_and_what_is_found_then_holds(bedrock):
    engine = bedrock()
    profiled = Profiled(engine, auto=True)
    assert [called(profiled, "converse", NOVA) for _ in range(3)] == ["Hello"] * 3
    assert engine.models == [NOVA, *[f"global.{NOVA}"] * 3]


def test_a_profile_that_is_refused_too_is_not_tried_again_nor_remembered(server, bedrock):
    server.faults.add("ThrottlingException,model=global.*")
    kept = []
    engine = bedrock()
    failure = refused(Profiled(engine, auto=True, offer=lambda *_: lambda: kept.append(1)), NOVA)
    assert failure.response["Error"]["Code"] == "ThrottlingException"
    assert (engine.models, kept) == ([NOVA, f"global.{NOVA}"], [])


def test_what_to_remember_is_offered_before_and_done_after_the_answer(bedrock):
    order = []
    engine = bedrock("eu-west-1")

    def offer(model, profiles):
        order.append((model, profiles, [*engine.models]))
        return lambda: order.append([*engine.models])

    called(Profiled(engine, auto=True, offer=offer), "converse", NOVA)
    profiles = [f"global.{NOVA}", f"eu.{NOVA}"]
    assert order == [(NOVA, profiles, [NOVA]), [NOVA, f"global.{NOVA}"]]


# ---- left alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        "ThrottlingException",
        "AccessDeniedException",
        "ValidationException,message=This model doesn't support the outputConfig field.",
    ],
)
def test_other_failures_pass_as_they_are(server, bedrock, fault):
    server.faults.add(fault)
    engine = bedrock()
    failure = refused(Profiled(engine, auto=True), f"us.{NOVA}")
    assert INFERENCE_PROFILES not in failure.response
    assert set(engine.models) == {f"us.{NOVA}"}


def test_what_is_no_clients_error_passes_as_it_is():
    class Broken(Echo):
        def converse(self, **_):
            raise KeyError("boom")

    with pytest.raises(KeyError, match="boom"):
        called(Profiled(Broken(), auto=True), "converse", NOVA)


def test_answers_tokens_and_closing_pass_through():
    class Closed(Echo):
        closed = False

        def close(self):
            self.closed = True

    engine = Closed()
    profiled = Profiled(engine, auto=True)
    request = converse.request("Hello there", model="echo")
    assert profiled.converse(**request) == engine.converse(**request)
    asked = {"modelId": "echo", "input": {"converse": {"messages": request["messages"]}}}
    assert profiled.count_tokens(**asked) == engine.count_tokens(**asked)
    profiled.close()
    assert engine.closed
    Profiled(Echo()).close()


def test_a_python_program_has_it_too(server, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    newest = "anthropic.claude-opus-5-5"
    engine = bx.engine(endpoint_url=server.url)
    assert refused(engine, newest).response[INFERENCE_PROFILES] == [f"global.{newest}", f"eu.{newest}"]
    engine.close()
    monkeypatch.setenv("BX_AUTO_PROFILE", "1")
    engine = bx.engine(endpoint_url=server.url)
    assert called(engine, "converse", newest) == "Hello"
    engine.close()
