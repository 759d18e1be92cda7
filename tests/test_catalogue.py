"""Names of models: which id each one becomes, and when that is an error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bx.account import SYSTEM_DEFINED, Account, Model, Profile
from bx.catalogue import Catalogue, Named, UnknownModel
from bx.converse import request, text
from bx.engines.echo import Echo

ALIASES = [
    "nova", "nova-pro", "nova-micro", "claude", "haiku", "opus", "llama", "deepseek", "mistral", "qwen", "gpt-oss",
    "local",
]  # fmt: skip
SHIPPED = Catalogue().models
PROFILE_ONLY = [alias for alias, entry in SHIPPED.items() if not entry.get("in_region", True)]


@pytest.mark.parametrize(
    ("name", "geo", "expected"),
    [
        ("nova", None, "global.amazon.nova-2-lite-v1:0"),
        ("nova", "us", "us.amazon.nova-2-lite-v1:0"),
        ("amazon.nova-2-lite-v1:0", None, "global.amazon.nova-2-lite-v1:0"),
        ("amazon.nova-2-lite-v1:0", "jp", "jp.amazon.nova-2-lite-v1:0"),
        ("claude", None, "global.anthropic.claude-sonnet-4-6"),
        ("claude", "eu", "eu.anthropic.claude-sonnet-4-6"),
        ("nova-pro", None, "amazon.nova-pro-v1:0"),
        ("nova-pro", "eu", "eu.amazon.nova-pro-v1:0"),
        ("deepseek", None, "deepseek.v3.2"),
        ("local", None, "local:smollm2-135m-instruct"),
        ("local", "eu", "local:smollm2-135m-instruct"),
        ("echo", "eu", "echo"),
    ],
)
def test_a_name_becomes_an_id_without_a_word(name, geo, expected):
    assert Catalogue(geo=geo).resolve(name) == (expected, "")


@pytest.mark.parametrize("model_id", ["us.amazon.nova-2-lite-v1:0", "arn:aws:bedrock:r::inference-profile/us.a.b"])
def test_a_profile_of_another_geography_is_refused(model_id):
    assert Catalogue().resolve(model_id) == (model_id, "")
    assert Catalogue(geo="us").resolve(model_id) == (model_id, "")
    with pytest.raises(UnknownModel, match="geography 'us', not 'eu'"):
        Catalogue(geo="eu").resolve(model_id)
    with pytest.raises(UnknownModel, match="geography 'us', not 'eu'"):
        Catalogue({"mine": {"id": model_id}}, "eu").resolve("mine")


def test_a_project_that_gives_a_name_another_meaning_is_not_followed_silently():
    entry = {"id": "eu.acme.model-v1:0", "file": "bx.toml"}
    assert Catalogue({"claude": entry}).resolve("claude") == (
        "eu.acme.model-v1:0",
        "bx.toml gives claude another meaning: eu.acme.model-v1:0",
    )
    assert Catalogue({"house": entry}).resolve("house") == ("eu.acme.model-v1:0", "")


def test_a_project_cannot_make_the_local_model_a_remote_one():
    remote = Catalogue({"local": {"id": "amazon.nova-micro-v1:0", "file": "bx.toml"}})
    with pytest.raises(UnknownModel, match=r"bx\.toml makes 'local' leave this machine"):
        remote.resolve("local")
    assert Catalogue({"local": {"id": "amazon.nova-micro-v1:0"}}).resolve("local").id == "amazon.nova-micro-v1:0"


@pytest.mark.parametrize("wrong", [None, 7])
def test_an_engine_with_names_leaves_it_to_the_engine_to_refuse_what_is_no_name(wrong):
    engine = Named(Echo(), Catalogue())
    assert text(engine.converse(**{**request("hi", model="echo"), "modelId": wrong})) == "hi"


def test_a_python_program_is_told_what_the_command_line_would_print(caplog):
    Named(Echo(), Catalogue()).converse(**request("hi", model="llama"))
    assert "using us" in caplog.text


@pytest.mark.parametrize("geo", [None, "eu"])
@pytest.mark.parametrize(
    "model_id",
    [
        "eu.amazon.nova-2-lite-v1:0",
        "acme.model-v1:0",
        "anthropic.claude-opus-5-5",
        "arn:aws:bedrock:eu-west-1:111122223333:application-inference-profile/abc123",
        "arn:aws:bedrock:us-east-1:111122223333:prompt/ABCDEFGHIJ:1",
        "local:/models/qwen.gguf",
        "local:qwen",
        "local:C:\\models\\qwen.gguf",
    ],
)
def test_what_is_no_alias_passes_through(model_id, geo):
    assert Catalogue(geo=geo).resolve(model_id) == (model_id, "")


@pytest.mark.parametrize("alias", ALIASES)
def test_the_names_that_were_promised_are_there(alias):
    assert alias in SHIPPED


@pytest.mark.parametrize("alias", SHIPPED)
def test_each_shipped_entry_is_whole(alias):
    entry = SHIPPED[alias]
    Catalogue({"copy": entry})
    assert entry["note"]
    assert Catalogue().resolve(entry["id"]) == Catalogue().resolve(alias)._replace(
        note=Catalogue().resolve(alias).note.replace(alias, entry["id"], 1)
    )
    if "global" in entry.get("geos", []):
        assert entry["geos"][0] == "global"


@pytest.mark.parametrize("alias", PROFILE_ONLY)
def test_a_profile_only_model_is_never_called_by_its_base_id(alias):
    base = SHIPPED[alias]["id"]
    for geo in (None, *SHIPPED[alias]["geos"]):
        for name in (alias, base):
            assert re.fullmatch(rf"[a-z]+\.{re.escape(base)}", Catalogue(geo=geo).resolve(name).id)


def test_the_facts_about_profiles_are_kept():
    assert set(PROFILE_ONLY) == {
        "nova", "claude", "haiku", "opus", "sonnet-4-5", "opus-4-5", "sonnet-5", "opus-5", "haiku-5-5",
        "llama", "llama-scout",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "geo"), [("llama", "eu"), ("nova", "au"), ("nova-pro", "global"), ("claude", "")])
def test_a_geography_that_a_model_does_not_have_is_an_error(name, geo):
    with pytest.raises(UnknownModel, match=f"no inference profile in the geography '{geo}'") as caught:
        Catalogue(geo=geo).resolve(name)
    assert all(f"--geo {had}" in caught.value.fix for had in SHIPPED[name]["geos"])


def test_a_geography_that_was_not_chosen_is_told():
    resolved = Catalogue().resolve("llama")
    assert resolved.id == "us.meta.llama4-maverick-17b-instruct-v1:0"
    assert "using us" in resolved.note


def test_a_geography_without_effect_is_told():
    resolved = Catalogue(geo="eu").resolve("deepseek")
    assert resolved.id == "deepseek.v3.2"
    assert "no inference profiles" in resolved.note
    mine = Catalogue({"mine": {"id": "eu.acme.model"}}, geo="eu")
    assert mine.resolve("mine") == ("eu.acme.model", "")


@pytest.mark.parametrize(
    ("name", "meant"), [("novva", "nova"), ("Claude", "claude"), ("OPUS", "opus"), ("gptoss", "gpt-oss"), ("x", None)]
)
def test_an_unknown_name_is_an_error_with_the_list(name, meant):
    with pytest.raises(UnknownModel, match=name) as caught:
        Catalogue().resolve(name)
    assert caught.value.exit_code == 2
    assert ("Did you mean" in caught.value.fix) == (meant is not None)
    assert not meant or f"Did you mean {meant}?" in caught.value.fix
    assert all(alias in caught.value.fix for alias in SHIPPED)


def test_an_entry_adds_a_model():
    added = Catalogue({"newest": {"id": "acme.newest-v1:0", "geos": ["us", "eu"], "in_region": False}})
    assert added.resolve("newest").id == "us.acme.newest-v1:0"
    assert added.resolve("acme.newest-v1:0").id == "us.acme.newest-v1:0"
    assert added.resolve("nova") == Catalogue().resolve("nova")


def test_an_entry_overrides_a_model():
    assert Catalogue({"claude": {"geos": ["eu"]}}).resolve("claude").id == "eu.anthropic.claude-sonnet-4-6"
    arn = "arn:aws:bedrock:eu-west-1:111122223333:application-inference-profile/abc123"
    assert Catalogue({"claude": {"id": arn}}).resolve("claude") == (arn, "")
    assert Catalogue({"claude": {"id": arn}}, geo="eu").resolve("claude") == (arn, "")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({}, "has no id"),
        ({"id": 1}, "id is 1"),
        ({"id": "a.b", "geos": "eu"}, "geos is 'eu'"),
        ({"id": "a.b", "geos": [1]}, r"geos is \[1\]"),
        ({"id": "a.b", "colour": "red"}, "unknown key 'colour'"),
        ({"id": "a.b", "in_region": False}, "nor in any geography"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(entry, told):
    with pytest.raises(UnknownModel, match=rf"models\.mine.*{told}"):
        Catalogue({"mine": entry})


def test_no_other_file_knows_a_model_of_bedrock():
    source = Path(__file__).parent.parent / "src" / "bx"
    texts = {path: path.read_text() for path in source.rglob("*.py")}
    for entry in SHIPPED.values():
        if "." in entry["id"].partition(":")[0]:
            assert [path.name for path, text in texts.items() if entry["id"] in text] == []


def test_an_engine_takes_names():
    class Asked(Echo):
        def converse_stream(self, **request):
            self.model = request["modelId"]
            return super().converse_stream(**request)

        def close(self):
            self.model = None

    engine = Asked()
    named = Named(engine, Catalogue(geo="eu"))
    request = {"modelId": "claude", "messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
    named.converse(**request)
    assert engine.model == "eu.anthropic.claude-sonnet-4-6"
    assert request["modelId"] == "claude"
    list(named.converse_stream(**{**request, "modelId": "echo"})["stream"])
    assert engine.model == "echo"
    named.close()
    assert engine.model is None
    Named(Echo(), Catalogue()).close()


# ---- what the account is known to have ----------------------------------------------------------------------------

SONNET, NEWER = "anthropic.claude-sonnet-4-6", "anthropic.claude-opus-5-5"


def asked(*profiles, models=()):
    """What an account that was asked can call: system-defined profiles, and models by their id and types."""
    known = {each: Profile(each, "", "", SYSTEM_DEFINED, (each.partition(".")[2],)) for each in profiles}
    listed = {each: Model(each, "", "", (), (), True, types, "ACTIVE") for each, *types in models}
    account = Account(0, "eu-west-1", listed, known, {}, {})
    return lambda: account


def test_an_alias_takes_the_first_profile_that_the_account_has():
    known = asked(f"eu.{SONNET}", f"jp.{SONNET}")
    resolved = Catalogue(account=known).resolve("claude")
    assert resolved.id == f"eu.{SONNET}"
    assert "using eu" in resolved.note
    assert Catalogue(account=asked(f"global.{SONNET}")).resolve("claude") == (f"global.{SONNET}", "")
    assert Catalogue(geo="us", account=known).resolve("claude") == (f"us.{SONNET}", ""), "what was chosen is kept to"


def test_a_model_without_a_profile_in_the_region_is_told():
    resolved = Catalogue(account=asked(f"eu.{SONNET}")).resolve("llama")
    assert resolved.id == "us.meta.llama4-maverick-17b-instruct-v1:0"
    assert resolved.note == "llama has no inference profile in eu-west-1"


def test_the_geographies_of_the_users_own_entry_are_kept_to():
    mine = Catalogue({"claude": {"geos": ["eu"]}}, account=asked(f"global.{SONNET}", f"eu.{SONNET}"))
    assert mine.resolve("claude").id == f"eu.{SONNET}"


@pytest.mark.parametrize(
    ("geo", "expected", "told"),
    [(None, f"global.{NEWER}", "using global"), ("eu", f"eu.{NEWER}", ""), ("us", None, "--geo global or --geo eu")],
)
def test_a_base_id_that_needs_a_profile_gets_one_of_the_accounts(geo, expected, told):
    known = asked(f"eu.{NEWER}", f"global.{NEWER}", models=[(NEWER, "INFERENCE_PROFILE")])
    catalogue = Catalogue(geo=geo, account=known)
    if expected:
        for name in (NEWER, f"arn:aws:bedrock:eu-west-1::foundation-model/{NEWER}"):
            resolved = catalogue.resolve(name)
            assert resolved.id == expected
            assert (told in resolved.note) if told else resolved.note == ""
    else:
        with pytest.raises(UnknownModel, match="no inference profile in the geography"):
            catalogue.resolve(NEWER)


@pytest.mark.parametrize(
    "known",
    [
        asked(),
        asked(f"eu.{NEWER}", models=[(NEWER, "ON_DEMAND", "INFERENCE_PROFILE")]),
        asked(f"eu.{NEWER}"),
        asked(models=[(NEWER, "INFERENCE_PROFILE")]),
        lambda: None,
    ],
)
def test_a_base_id_is_sent_as_it_is_where_nobody_says_that_it_needs_a_profile(known):
    assert Catalogue(account=known).resolve(NEWER) == (NEWER, "")


def test_the_arn_of_a_foundation_model_is_another_name_of_its_base_id():
    arn = "arn:aws:bedrock:us-east-1::foundation-model/"
    assert Catalogue().resolve(arn + SONNET) == (f"global.{SONNET}", "")
    assert Catalogue().resolve(arn + "amazon.nova-pro-v1:0") == (arn + "amazon.nova-pro-v1:0", "")


def test_a_model_whose_base_id_works_elsewhere_gets_a_profile_here():
    pro = "amazon.nova-pro-v1:0"
    known = asked(f"eu.{pro}", models=[(pro, "INFERENCE_PROFILE")])
    for name in ("nova-pro", pro):
        resolved = Catalogue(account=known).resolve(name)
        assert resolved.id == f"eu.{pro}"
        assert "using eu" in resolved.note
    assert Catalogue(account=asked(models=[(pro, "ON_DEMAND")])).resolve("nova-pro") == (pro, "")
    mine = Catalogue({"nova-pro": {"geos": ["us"]}}, account=known)
    assert mine.resolve("nova-pro") == (pro, ""), "the geographies of one's own entry are kept to"


def test_what_speaks_against_a_call_is_a_note_and_no_refusal():
    resolved = Catalogue(region="us-east-1").resolve("amazon.nova-premier-v1:0")
    assert resolved.id == "amazon.nova-premier-v1:0"
    assert "end of its life" in resolved.note
    assert "not from us-east-1" in Catalogue(region="us-east-1").resolve(f"eu.{SONNET}").note
    mine = Catalogue({"old": {"id": "amazon.nova-premier-v1:0"}})
    assert "end of its life" in mine.resolve("old").note


def test_the_account_is_not_looked_up_for_models_of_this_machine():
    def never():
        raise AssertionError("nobody needs it")

    for name in ("local", "echo", "local:qwen"):
        Catalogue(account=never).resolve(name)
