"""Foundation models and inference profiles: what an id means, and whether the data agrees with itself."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bx import capabilities, foundation
from bx.catalogue import Catalogue
from bx.foundation import Model, Name

LISTED = foundation.models()
PROVIDERS = {
    "Amazon", "Anthropic", "Cohere", "DeepSeek", "Google", "Meta", "MiniMax", "Mistral AI", "Moonshot AI", "NVIDIA",
    "OpenAI", "Qwen", "Writer", "Z.AI",
}  # fmt: skip
OF_BEDROCK = [entry for entry in Catalogue().models.values() if not entry["id"].startswith(("local", "echo"))]
SONNET = "anthropic.claude-sonnet-4-6"
ARN = "arn:aws:bedrock:eu-west-1"


# ---- the data -------------------------------------------------------------------------------------------------


def test_ids_are_unique():
    ids = [model.id for model in LISTED]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("entry", OF_BEDROCK, ids=lambda entry: entry["id"])
def test_the_catalogue_and_the_foundation_models_say_the_same(entry):
    model = foundation.find(entry["id"])
    assert model.listed
    assert sorted(model.geos) == sorted(entry.get("geos", []))
    assert model.in_region == entry.get("in_region", True)


@pytest.mark.parametrize("model", LISTED, ids=lambda model: model.id)
def test_each_model_is_told_in_words_that_are_known(model):
    assert model.provider in PROVIDERS
    assert model.name
    assert {*model.input, *model.output} <= {"TEXT", "IMAGE", "VIDEO", "AUDIO", "EMBEDDING"}
    assert {*model.geos} <= {*foundation.geographies()}
    assert model.lifecycle in ("ACTIVE", "LEGACY")
    assert {*model.choices} <= {"any", "tool"}
    assert model.sampling in ("both", "one", "none")
    assert model.thinking in ("", "asked", "default", "always")
    assert model.burndown in (1, 5, 10, 15)
    assert model.in_region or model.geos, "nobody could call it"
    assert model.max_output <= (model.context or model.max_output)


def test_every_key_of_the_file_is_one_of_a_model():
    facts = foundation._facts()
    for table in [*facts["family"], *facts["model"]]:
        assert table.keys() <= {*Model._fields, "ids"}
    assert all(table.keys() == {"ids"} | (table.keys() - {"id", "name"}) for table in facts["family"])


def test_every_pattern_of_a_family_fits_a_model_or_begins_with_a_provider():
    for family in foundation._facts()["family"]:
        for pattern in family["ids"]:
            of_all = pattern.partition(".")[2] == "*" or pattern.startswith("*")
            assert of_all or any(foundation._matches(model.id, (pattern,)) for model in LISTED), pattern


def test_the_geographies_are_those_by_which_capabilities_reads_an_id():
    assert {*foundation.geographies()} == {*capabilities._facts()["geographies"]}


def test_a_model_that_refuses_forced_tools_is_not_asked_to_begin_with_one():
    for model in LISTED:
        plan = capabilities.plan(model.id)
        if model.provider == "Anthropic" and not model.choices:
            assert plan.rung == "prompt", model.id
        if not model.tools:
            assert plan.rung == "prompt", model.id
        assert plan.unary is not model.tools_stream, model.id


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [
        ("anthropic.claude-opus-5-5", {"burndown": 10, "cache_minimum": 512, "thinking": "always", "choices": ()}),
        ("anthropic.claude-sonnet-5", {"burndown": 10, "cache_minimum": 1024, "sampling": "none"}),
        ("anthropic.claude-sonnet-5-5", {"burndown": 5, "thinking": "default"}),
        ("anthropic.claude-opus-4-8", {"burndown": 15, "cache_minimum": 1024, "thinking": "asked"}),
        ("anthropic.claude-opus-4-7", {"burndown": 5, "cache_minimum": 4096, "sampling": "none"}),
        (
            "anthropic.claude-haiku-4-5-20251001-v1:0",
            {"cache_minimum": 4096, "sampling": "one", "max_output": 64_000},
        ),
        ("anthropic.claude-fable-5-1", {"burndown": 10, "cache_minimum": 512, "max_output": 128_000}),
        ("amazon.nova-2-lite-v1:0", {"burndown": 1, "choices": ("any", "tool"), "in_region": False}),
        ("meta.llama4-scout-17b-instruct-v1:0", {"tools_stream": False, "choices": ()}),
        ("openai.gpt-5.6-sol", {"burndown": 10, "documents": False}),
        ("openai.gpt-oss-120b-1:0", {"burndown": 1, "choices": ("any",), "sampling": "both"}),
        ("amazon.titan-embed-text-v2:0", {"converse": False, "output": ("EMBEDDING",)}),
    ],
)
def test_later_families_say_more_of_a_model_than_earlier_ones(model_id, expected):
    known = foundation.find(model_id)._asdict()
    assert {key: known[key] for key in expected} == expected


# ---- ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [
        (SONNET, Name("foundation-model", "", SONNET)),
        (f"eu.{SONNET}", Name("inference-profile", "eu", SONNET)),
        (f"{ARN}::foundation-model/{SONNET}", Name("foundation-model", "", SONNET)),
        (f"{ARN}:123456789012:inference-profile/eu.{SONNET}", Name("inference-profile", "eu", SONNET)),
        ("deepseek.v3.2", Name("foundation-model", "", "deepseek.v3.2")),
        ("global.zai.glm-5.3", Name("inference-profile", "global", "zai.glm-5.3")),
        ("us-gov.amazon.nova-pro-v1:0", Name("inference-profile", "us-gov", "amazon.nova-pro-v1:0")),
        ("amazon.nova-lite-v1:0:24k", Name("foundation-model", "", "amazon.nova-lite-v1:0:24k")),
        ("acme.new-model", Name("foundation-model", "", "acme.new-model")),
        (
            f"{ARN}:123456789012:custom-model/amazon.nova-micro-v1:0/abcdefghijkl",
            Name("custom-model", "", "amazon.nova-micro-v1:0"),
        ),
        (f"{ARN}:123456789012:imported-model/abcdefghijkl", Name("imported-model", "", "")),
        (f"{ARN}:123456789012:application-inference-profile/abc", Name("application-inference-profile", "", "")),
        (f"{ARN}:123456789012:prompt/ABCDEFGHIJ:1", Name("prompt", "", "")),
        (f"{ARN}:123456789012:default-prompt-router/anthropic.claude:1", Name("default-prompt-router", "", "")),
        ("arn:aws:sagemaker:us-east-1:123456789012:endpoint/mine", Name("endpoint", "", "")),
    ],
)
def test_each_form_of_an_id_is_read(model_id, expected):
    assert foundation.name(model_id) == expected


@pytest.mark.parametrize(
    "model_id",
    [
        "", "local", "echo", "gpt-4o", "xx.anthropic.claude-sonnet-4-6", "us.nova", "us.", "Anthropic.Claude",
        "anthropic/claude", "arn:aws:bedrock:us-east-1::foundation-model/claude", "arn:aws:s3:::bucket",
        f"{ARN}::foundation-model/eu.{SONNET}", f"{ARN}:123456789012:inference-profile/{SONNET}",
        f"{ARN}:123456789012:provisioned-model/short", f"{ARN}:123456789012:nonsense/abcdefghijkl",
        f"{SONNET}\n",
    ],
)  # fmt: skip
def test_what_is_no_id_of_bedrock_is_told_apart(model_id):
    assert foundation.name(model_id) is None
    assert foundation.find(model_id) is None


@given(st.text() | st.from_regex(r"\A(arn:aws:bedrock:[a-z0-9-]*:[0-9]*:[a-z-]*/)?[a-z0-9.:/-]*\Z"))
def test_any_text_can_be_asked_for(text):
    named = foundation.name(text)
    assert named is None or re.fullmatch(r"[a-z-]+", named.kind)
    found = foundation.find(text)
    assert found is None or found.id == named.base


def test_an_id_that_is_not_listed_has_what_its_family_has():
    found = foundation.find("us.anthropic.claude-opus-5-5-20270101-v1:0")
    assert (found.provider, found.thinking, found.choices, found.listed) == ("Anthropic", "always", (), False)
    assert foundation.find("acme.new-model") is None


def test_the_data_cannot_be_changed_by_who_asks_for_it():
    foundation.models().clear()
    assert foundation.models() == LISTED
    assert hash(foundation.find(SONNET))


# ---- regions --------------------------------------------------------------------------------------------------


def test_profiles_are_those_that_a_region_can_call():
    ids = {profile.id for profile in foundation.profiles("ap-northeast-1")}
    assert {f"jp.{SONNET}", f"global.{SONNET}", "apac.amazon.nova-pro-v1:0"} <= ids
    assert not {f"us.{SONNET}", f"eu.{SONNET}", f"au.{SONNET}"} & ids
    assert len(foundation.profiles()) == sum(len(model.geos) for model in LISTED)


@pytest.mark.parametrize(
    ("geo", "region", "expected"),
    [
        ("us", "us-east-1", True), ("us", "eu-west-1", False), ("eu", "eu-central-1", True),
        ("eu", "us-east-1", False), ("global", "sa-east-1", True), ("us-gov", "us-east-1", False),
        ("us", "us-gov-west-1", False), ("global", "us-gov-west-1", False), ("jp", "ap-southeast-2", False),
        ("eu", "", True), ("eu", "moon-1", True),
    ],
)  # fmt: skip
def test_a_geography_answers_its_own_regions_and_those_that_are_not_known(geo, region, expected):
    assert foundation.reaches(geo, region) is expected


@pytest.mark.parametrize(
    ("model_id", "region", "expected"),
    [
        ("amazon.nova-pro-v1:0", "us-east-1", True), ("amazon.nova-pro-v1:0", "eu-west-1", False),
        ("amazon.nova-pro-v1:0", "", True), (SONNET, "eu-west-2", True), (SONNET, "us-east-1", False),
        (SONNET, "", False), ("deepseek.v3.2", "us-east-1", True), ("amazon.nova-2-lite-v1:0", "us-east-1", False),
    ],
)  # fmt: skip
def test_a_base_id_can_be_called_where_the_model_runs(model_id, region, expected):
    assert foundation.on_demand(foundation.find(model_id), region) is expected


def test_a_model_is_offered_where_its_base_id_or_a_profile_can_be_called():
    assert foundation.offered(foundation.find(SONNET), "ap-south-1")
    assert not foundation.offered(foundation.find("amazon.nova-pro-v1:0"), "sa-east-1")


def test_quotas_know_what_output_counts_and_how_long_it_may_be():
    assert (foundation.burndown("us.anthropic.claude-opus-4-8"), foundation.burndown("acme.model")) == (15, 1)
    assert (foundation.max_output(f"{ARN}::foundation-model/{SONNET}"), foundation.max_output("local")) == (
        64_000,
        4096,
    )
