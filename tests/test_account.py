"""What an account can call: asked of a server on loopback by a real client, kept for a day, said before a call."""

from __future__ import annotations

import json
import os
import stat
import time

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bx
from bx import account, foundation
from bx.account import Account, Model, Profile
from bx.engines.bedrock import user_client

SONNET, NOVA = "anthropic.claude-sonnet-4-6", "amazon.nova-2-lite-v1:0"
OWN = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/a1b2c3d4e5f6"
DENIED = "AccessDeniedException,operation="


@pytest.fixture(scope="module")
def server():
    with bx.serve(model="echo") as running:
        yield running


@pytest.fixture
def asking(server):
    """Ask the account of a region, with faults of the server."""

    def ask(region="us-east-1", models=(SONNET,), faults=()):
        server.faults.add(*faults)
        client = user_client("bedrock", region=region, endpoint_url=server.url)
        try:
            return account.ask(client, models, lambda failure: failure.response["Error"]["Code"])
        finally:
            client.close()
            server.faults.clear()

    return ask


def made(**members):
    empty = Account(time.time(), "us-east-1", {}, {}, {}, {})
    return empty._replace(**members)


def profile(model_id, *models, kind=account.SYSTEM_DEFINED, arn=""):
    return Profile(model_id, arn, "", kind, models or (model_id.partition(".")[2],))


def listed(model_id, *types, lifecycle="ACTIVE", ends=""):
    return Model(model_id, "", "", ("TEXT",), ("TEXT",), True, types, lifecycle, ends)


def by_id(*each):
    return {one.id: one for one in each}


# ---- asking -----------------------------------------------------------------------------------------------------


def test_the_account_tells_models_profiles_and_availability(asking):
    found = asking("eu-west-1")
    assert found.region == "eu-west-1"
    assert found.models[SONNET] == Model(
        SONNET, "Claude Sonnet 4.6", "Anthropic", ("TEXT", "IMAGE"), ("TEXT",), True, ("INFERENCE_PROFILE",), "ACTIVE"
    )
    assert found.profiles[f"eu.{SONNET}"].models == (SONNET,)
    assert f"us.{SONNET}" not in found.profiles
    assert found.availability == {SONNET: ""}
    assert found.failures == {}
    assert found.tells_profiles


def test_all_pages_of_the_profiles_are_read(asking, monkeypatch):
    monkeypatch.setattr("bx.server.control._MOST", 7)
    assert [*asking().profiles] == [each.id for each in foundation.profiles("us-east-1") if not ended(each.model)]


def ended(model):
    return model.end_of_life is not None and str(model.end_of_life) <= time.strftime("%Y-%m-%d", time.gmtime())


@pytest.mark.parametrize(
    ("operation", "failed"),
    [
        ("ListFoundationModels", {"ListFoundationModels"}),
        ("ListInferenceProfiles", {"ListInferenceProfiles SYSTEM_DEFINED", "ListInferenceProfiles APPLICATION"}),
        ("GetFoundationModelAvailability", {f"GetFoundationModelAvailability {SONNET}"}),
    ],
)
def test_what_may_not_be_seen_is_told_and_the_rest_counts(asking, operation, failed):
    found = asking(faults=[DENIED + operation])
    assert found.failures == dict.fromkeys(failed, "AccessDeniedException")
    assert bool(found.models) == (operation != "ListFoundationModels")
    assert found.tells_profiles == (operation != "ListInferenceProfiles")
    assert bool(found.availability) == (operation != "GetFoundationModelAvailability")


def test_where_nothing_may_be_seen_the_failure_is_the_clients(asking):
    with pytest.raises(ClientError, match="ListFoundationModels"):
        asking(faults=[DENIED + "*"])


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, ""),
        ({"regionAvailability": "NOT_AVAILABLE"}, "not in this region"),
        ({"entitlementAvailability": "NOT_AVAILABLE"}, "not enabled for this account"),
        ({"authorizationStatus": "NOT_AUTHORIZED"}, "not authorized"),
        ({"agreementAvailability": {"status": "NOT_AVAILABLE"}}, "agreement not available"),
        ({"agreementAvailability": {"status": "PENDING", "errorMessage": "x"}}, "agreement pending"),
    ],
)
def test_an_obstacle_is_told_in_words(told, words):
    whole = {
        "agreementAvailability": {"status": "AVAILABLE"},
        "authorizationStatus": "AUTHORIZED",
        "entitlementAvailability": "AVAILABLE",
        "regionAvailability": "AVAILABLE",
    }
    assert account._availability({**whole, **told}) == words


# ---- keeping ------------------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=8)
SEVERAL = st.lists(TEXTS, max_size=3).map(tuple)
MODELS = st.builds(Model, TEXTS, TEXTS, TEXTS, SEVERAL, SEVERAL, st.booleans(), SEVERAL, TEXTS, TEXTS)
PROFILES = st.builds(Profile, TEXTS, TEXTS, TEXTS, TEXTS, SEVERAL)


def test_what_is_kept_is_what_was_learned(asking):
    found = asking()
    account.keep("here", found)
    assert account.kept("here") == found
    assert account.kept("elsewhere") is None


@given(st.lists(MODELS, max_size=3), st.lists(PROFILES, max_size=3), st.dictionaries(TEXTS, TEXTS, max_size=3))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_is_kept_comes_back(models, profiles, words):
    found = made(models=by_id(*models), profiles=by_id(*profiles), availability=words, failures=words)
    account.keep("here", found)
    assert account.kept("here") == found


@pytest.mark.skipif(os.name != "posix", reason="modes of files are a matter of POSIX")
def test_what_is_kept_is_private(private_home):
    account.keep("here", made())
    (file,) = private_home.rglob("account.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "fact", ["[]", '{"a": 1}', '{"models": [[1]], "profiles": []}', '{"models": [], "profiles": []}', "7", '"x"']
)
def test_what_another_version_has_kept_is_nothing(private_home, fact):
    account.keep("here", made())
    (file,) = private_home.rglob("account.json")
    file.write_text(f'{{"here": [{time.time() + 60}, {fact}]}}')
    assert account.kept("here") is None


def test_it_is_kept_for_a_day(private_home):
    account.keep("here", made())
    (file,) = private_home.rglob("account.json")
    for left, known in ((account.DAY - 60, True), (account.DAY + 60, False), (-1, False)):
        (fact,) = [kept for _, kept in json.loads(file.read_text()).values()]
        file.write_text(json.dumps({"here": [time.time() + left, fact]}))
        assert (account.kept("here") is not None) == known


# ---- profiles -----------------------------------------------------------------------------------------------------


def test_profiles_are_those_that_the_region_is_known_to_have():
    assert account.profiles(SONNET, "eu-west-1") == [f"global.{SONNET}", f"eu.{SONNET}"]
    assert account.profiles("deepseek.v3.2", "eu-west-1") == []


def test_the_accounts_profiles_hold_and_its_own_come_last():
    known = made(
        profiles=by_id(
            profile("team", SONNET, kind=account.APPLICATION, arn=OWN), profile(f"us.{SONNET}"), profile(f"us.{NOVA}")
        )
    )
    assert account.profiles(SONNET, "eu-west-1", known) == [f"us.{SONNET}", OWN]
    assert account.profiles("acme.model", "eu-west-1", known) == []


def test_without_the_profiles_of_aws_what_is_known_holds():
    known = made(profiles=by_id(profile("team", SONNET, kind=account.APPLICATION, arn=OWN)))
    assert account.profiles(SONNET, "eu-west-1", known) == [f"global.{SONNET}", f"eu.{SONNET}"]


# ---- what speaks against a call -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "region", "told"),
    [
        (f"eu.{SONNET}", "eu-west-1", ""),
        (f"eu.{SONNET}", "", ""),
        (f"eu.{SONNET}", "xx-moon-1", ""),
        (f"eu.{SONNET}", "us-east-1", "from eu-*, il-* only, and not from us-east-1"),
        (f"arn:aws:bedrock:us-east-1:1:inference-profile/eu.{SONNET}", "us-east-1", ""),
        ("amazon.titan-embed-text-v2:0", "", "no model for Converse (embedding)"),
        ("amazon.nova-premier-v1:0", "", "reached the end of its life on 2026-09-14"),
        ("us.amazon.nova-premier-v1:0", "us-east-1", "reached the end of its life"),
        ("anthropic.claude-opus-4-1-20250805-v1:0", "", "marked as Legacy"),
        ("acme.model", "us-east-1", ""),
        (OWN, "us-east-1", ""),
        ("nonsense", "", ""),
    ],
)
def test_what_is_known_to_speak_against_a_call_is_said(model_id, region, told):
    remark = account.remark(model_id, region)
    assert told in remark
    assert bool(told) == bool(remark)


def test_what_the_account_says_of_a_model_holds():
    known = made(models=by_id(listed(SONNET, lifecycle="LEGACY", ends="2099-01-01")))
    assert "marked as Legacy" in account.remark(SONNET, "us-east-1", known)
    assert "until 2099-01-01" in account.remark(SONNET, "us-east-1", known)
    over = made(models=by_id(listed(SONNET, ends="2026-01-01")))
    assert "end of its life on 2026-01-01" in account.remark(SONNET, "us-east-1", over)
    opus = "anthropic.claude-opus-4-1-20250805-v1:0"
    assert account.remark(opus, "us-east-1", made(models=by_id(listed(opus)))) == ""
    somewhere = made(profiles=by_id(profile(f"us.{SONNET}")))
    assert "not among this account's inference profiles" in account.remark(f"eu.{SONNET}", "us-east-1", somewhere)
    assert account.remark(f"us.{SONNET}", "us-east-1", somewhere) == ""
