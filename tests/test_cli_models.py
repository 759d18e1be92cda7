"""`bx models`: what it lists, what it asks the account, which names it gives; and --auto-profile."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bx as api
from bx import amend, aws, capabilities, cards, config, foundation
from bx.account import APPLICATION, Account, Model, Profile
from bx.catalogue import Catalogue
from bx.cli.models import _COLUMNS, _short
from test_cli_ask import bx
from test_terminal import on_terminal

posix = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals and modes of files are a matter of POSIX")
SONNET, NOVA, OPUS = "anthropic.claude-sonnet-4-6", "amazon.nova-2-lite-v1:0", "anthropic.claude-opus-5-5"
OWN = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/a1b2c3d4e5f6"


@pytest.fixture(scope="module")
def server():
    with api.serve(model="echo") as running:
        yield running


@pytest.fixture
def account(server, monkeypatch):
    """An account of AWS, which the server plays."""
    for name, value in aws.pointed(server.url).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    yield server
    server.faults.clear()


def listed(*arguments):
    outcome = bx("models", "-q", "--format", "json", *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    return json.loads(outcome.out)


def one(name, *arguments):
    return listed(name, *arguments)


def user_file():
    return config.user_file()


# ---- the list ---------------------------------------------------------------------------------------------------


def test_it_lists_every_alias_and_every_known_model_without_a_network():
    found = listed()
    named = [each["name"] for each in found if each["name"]]
    assert named == [*Catalogue().models]
    bases = [each["base"] for each in found]
    assert {model.id for model in foundation.models()} <= {*bases}
    assert len(bases) == len(set(bases))


def test_what_is_told_of_a_model_is_what_the_facts_say():
    nova = one("nova")
    model = foundation.find(NOVA)
    assert (nova["id"], nova["base"]) == (f"global.{NOVA}", NOVA)
    assert (nova["context"], nova["max_output"]) == (model.context, model.max_output)
    assert nova["input"] == [*model.input]
    assert (nova["structured"], nova["enforced"]) == (capabilities.plan(NOVA).rung, False)
    assert (nova["tools"], nova["streaming"], nova["documents"]) == (True, True, True)
    assert nova["profiles"] == [f"global.{NOVA}", f"us.{NOVA}"]
    assert (nova["here"], nova["why"]) == (None, "not asked")


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (["claude"], f"global.{SONNET}"),
        (["claude", "--geo", "eu"], f"eu.{SONNET}"),
        ([OPUS], f"global.{OPUS}"),
        ([OPUS, "--geo", "us"], f"us.{OPUS}"),
        ([f"eu.{SONNET}"], f"eu.{SONNET}"),
        (["deepseek.v3.2"], "deepseek.v3.2"),
        (["arn:aws:bedrock:us-east-1:111122223333:inference-profile/us." + SONNET],) * 2,
        ([OWN], OWN),
        (["acme.model-v1:0"], "acme.model-v1:0"),
    ],
)
def test_a_model_is_shown_by_any_name_that_can_be_sent(arguments, sent):
    assert one(*arguments)["id"] == (sent[0] if isinstance(sent, list) else sent)


def test_what_is_not_known_is_null_and_not_made_up():
    unknown = one("acme.model-v1:0")
    for key in ("context", "max_output", "tools", "streaming", "cache", "lifecycle", "here"):
        assert unknown[key] is None, key
    assert set(unknown["price"].values()) == {None}
    assert "unknown" in bx("models", "acme.model-v1:0").out


def test_an_unknown_name_is_an_error_with_the_list():
    outcome = bx("models", "novva")
    assert (outcome.code, outcome.out) == (2, "")
    assert "Did you mean nova?" in outcome.err


def test_a_geography_that_a_model_does_not_have_is_told_in_the_list():
    llama = next(each for each in listed("--geo", "eu") if each["name"] == "llama")
    assert llama["here"] is False
    assert "no inference profile in the geography 'eu'" in llama["why"]


def test_the_price_is_that_of_the_profile():
    at_large, here = one("claude")["price"], one("claude", "--geo", "us")["price"]
    assert (at_large["input"], at_large["output"]) == (3.0, 15.0)
    assert (here["input"], here["output"]) == (3.3, 16.5)
    assert set(one("echo")["price"].values()) == {0.0}


def test_the_users_own_price_holds():
    user_file().parent.mkdir(parents=True)
    user_file().write_text(f'[prices."{SONNET}"]\ninput = 1.5\n')
    assert one("claude")["price"]["input"] == 1.5
    assert one("claude")["price_source"] == "settings"


def test_a_model_of_this_machine_answers_where_its_file_is(private_home):
    absent = one("local")
    assert (absent["here"], absent["why"]) == (False, "not fetched: bx pull smollm2-135m-instruct")
    gguf = private_home / "mine.gguf"
    gguf.write_bytes(b"GGUF" + bytes(100))
    assert one(f"local:{gguf}")["here"] is True
    assert one("echo")["here"] is True


# ---- filters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cards.ABILITIES)
def test_each_ability_chooses_some_models_and_not_all(name):
    found = {each["id"] for each in listed("--can", name)}
    everything = {each["id"] for each in listed()}
    assert found < everything
    assert found


def test_filters_keep_what_fits_all_of_them():
    found = listed("--provider", "anthropic", "--can", "tools, json,images", "--max-price", "5")
    assert [each["name"] for each in found] == ["haiku"]
    assert listed("--provider", "Mistral AI") == listed("--provider", "mistral")


def test_a_price_that_is_not_known_is_not_taken_for_a_low_one():
    outcome = bx("models", "--max-price", "1", "--format", "json", "--region", "xx-moon-1")
    found = json.loads(outcome.out)
    assert found
    assert all(each["price"]["input"] <= 1 and (each["price"]["output"] or 0) <= 1 for each in found)
    assert all(each["price"]["output"] is not None for each in found if "TEXT" in each["output"])
    assert "more may fit: their prices are not known" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--can", "fly"], "--can does not know 'fly'"),
        (["--provider", "nobody"], "No model is of 'nobody'"),
        (["--max-price", "cheap"], "--max-price is 'cheap'"),
        (["--max-price", "-1"], "--max-price is '-1'"),
        (["--max-price", "nan"], "--max-price is 'nan'"),
        (["nova", "--can", "tools"], "Leave out the name"),
        (["nova", "claude"], "bx models shows one model"),
        (["--option", "note=x"], "bx models set NAME ID"),
        (["--format", "xml"], "invalid choice"),
        (["set", "nova"], "bx models set takes 2 words"),
        (["unset"], "bx models unset takes 1 words"),
    ],
)
def test_a_command_line_that_cannot_be_understood_is_told(arguments, told):
    outcome = bx("models", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert told in outcome.err


def test_nothing_that_fits_is_no_failure():
    outcome = bx("models", "--can", "audio", "--provider", "anthropic")
    assert outcome.code == 0
    assert "no model fits" in outcome.err


# ---- formats ----------------------------------------------------------------------------------------------------


def test_a_table_that_goes_elsewhere_is_whole():
    lines = bx("models", "-q").out.splitlines()
    assert lines[0].split("  ")[0] == "NAME"
    assert [name for name in _COLUMNS if name not in lines[0]] == []
    assert len(lines) == 1 + len(listed())


@posix
@pytest.mark.parametrize("columns", [80, 100, 200])
def test_a_terminal_gets_as_many_columns_as_it_has_room_for_and_is_told_of_the_others(columns):
    shown = on_terminal("models", COLUMNS=str(columns))
    assert shown.code == 0
    head, *rows = shown.out.splitlines()
    assert all(len(row) <= columns for row in [head, *rows])
    assert f"global.{SONNET}" in shown.out, "ids can be copied"
    left = [name for name in _COLUMNS if name not in head]
    assert bool(left) == (columns < 200)
    assert not left or f"left out for want of room: {', '.join(left)}" in shown.err


def test_a_model_that_is_old_is_seen_in_the_list():
    lines = {line.split()[-1] for line in bx("models", "-q", "--provider", "amazon").out.splitlines()[1:]}
    assert lines == {"?", "ended"}
    assert bx("models", "-q", "--provider", "anthropic").out.splitlines()[-1].endswith("legacy")


def test_csv_has_what_json_has():
    rows = list(csv.DictReader(io.StringIO(bx("models", "-q", "--format", "csv").out)))
    for row, card in zip(rows, listed(), strict=True):
        assert (row["name"], row["id"]) == (card["name"], card["id"])
        assert row["context"] == str(card["context"] or "")
        assert row["enforced"] == json.dumps(card["enforced"])
        assert row["input"].split() == card["input"]
        assert row["price_output"] == str("" if card["price"]["output"] is None else card["price"]["output"])


def test_one_model_in_full_tells_its_sources_and_their_dates():
    outcome = bx("models", "claude")
    assert outcome.code == 0
    for told in ("1,000,000", "native: a grammar holds", "USD per million tokens", "October 2026", "prices.toml"):
        assert told in outcome.out
    assert set(one("claude")["sources"]) == {"models", "limits", "structured", "price"}
    assert one("local")["sources"] == {"models": "this machine"}


@given(st.integers(1, 20_000_000))
def test_a_number_of_tokens_is_short_and_about_right(tokens):
    text = _short(tokens)
    assert len(text) <= 5
    assert float(text[:-1]) * {"K": 1000, "M": 1_000_000}[text[-1]] == pytest.approx(tokens, abs=500, rel=0.005)


# ---- the account ------------------------------------------------------------------------------------------------


def test_live_asks_the_account_and_merges(account, monkeypatch):
    found = {each["id"]: each for each in listed("--live", "--region", "eu-west-1")}
    assert (found[f"global.{SONNET}"]["here"], found[f"global.{SONNET}"]["why"]) == (True, "")
    assert found[f"global.{SONNET}"]["profiles"] == [f"eu.{SONNET}", f"global.{SONNET}"]
    assert (found["google.gemma-3-4b-it"]["here"], found["google.gemma-3-4b-it"]["why"]) == (None, "listed")
    llama = next(each for each in found.values() if each["name"] == "llama")
    assert (llama["here"], llama["why"]) == (False, "not listed in eu-west-1")
    assert "claude" in one("claude", "--region", "eu-west-1")["name"]
    assert "account" in one("claude", "--region", "eu-west-1")["sources"]


def test_the_answer_is_kept_for_that_part_of_aws_and_used_without_asking(account, server):
    listed("--live")
    asked = len(server.requests)
    assert one("claude")["here"] is True
    assert one("claude", "--region", "eu-west-1")["here"] is None
    assert len(server.requests) == asked


@posix
def test_what_is_kept_is_private(account, private_home):
    listed("--live")
    (file,) = private_home.rglob("account.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_may_not_be_seen_is_told_once_and_the_rest_is_shown(account):
    account.faults.add("AccessDeniedException,operation=GetFoundationModelAvailability")
    outcome = bx("models", "--live", "--format", "json")
    assert outcome.code == 0
    (told,) = [line for line in outcome.err.splitlines() if "GetFoundationModelAvailability" in line]
    assert f"failed {len(set(cards.bases(Catalogue())))} times, the first time because: " in told
    sonnet = next(each for each in json.loads(outcome.out) if each["name"] == "claude")
    assert (sonnet["here"], sonnet["why"]) == (None, "listed")


def test_where_the_account_cannot_be_asked_at_all_the_failure_is_explained(account, monkeypatch):
    account.faults.add("AccessDeniedException,operation=*")
    assert bx("models", "--live").code == 4
    account.faults.clear()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    outcome = bx("models", "--live")
    assert (outcome.code, outcome.out) == (3, "")


def test_a_private_address_of_the_runtime_is_not_asked_for_lists(account):
    url = "https://vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com"
    assert listed("--live", "--endpoint-url", url)
    assert one("claude", "--endpoint-url", url)["here"] is True


def test_models_and_profiles_that_only_the_account_knows_are_listed():
    newest = Model("acme.new-v1:0", "New", "Acme", ("TEXT",), ("TEXT",), True, ("ON_DEMAND",), "ACTIVE")
    own = Profile("team", OWN, "Team", APPLICATION, (SONNET,))
    known = Account(0, "us-east-1", {newest.id: newest}, {own.id: own}, {}, {})
    found = cards.cards(cards.Known(Catalogue(account=lambda: known), account=known))
    new = next(card for card in found if card.id == "acme.new-v1:0")
    assert (new.title, new.provider, new.why, new.context) == ("New", "Acme", "listed", None)
    team = next(card for card in found if card.id == OWN)
    assert (team.title, team.base, team.enforced, team.context) == ("Team", SONNET, True, 1_000_000)


def test_what_the_account_was_told_decides_what_a_name_means(account):
    outcome = bx("--dry-run", "hi", "--model", OPUS)
    assert json.loads(outcome.out)["modelId"] == OPUS
    listed("--live")
    outcome = bx("--dry-run", "hi", "--model", OPUS)
    assert json.loads(outcome.out)["modelId"] == f"global.{OPUS}"
    assert "using global" in outcome.err


# ---- names ------------------------------------------------------------------------------------------------------


def test_a_name_is_given_and_taken_away_and_comments_stay():
    user_file().parent.mkdir(parents=True)
    user_file().write_text('# mine\nmodel = "nova"  # for now\n\n[models.other]\nid = "a.b"  # keep\n')
    before = user_file().read_text()
    outcome = bx("models", "set", "fast", f"us.{NOVA}")
    assert (outcome.code, outcome.out) == (0, f"fast = us.{NOVA}\n")
    assert "# mine" in user_file().read_text()
    assert "# for now" in user_file().read_text()
    assert json.loads(bx("--dry-run", "hi", "-m", "fast").out)["modelId"] == f"us.{NOVA}"
    assert bx("models", "unset", "fast").code == 0
    assert user_file().read_text().strip() == before.strip()
    assert bx("models", "unset", "fast").code == 2


@posix
def test_a_new_file_is_private_and_an_old_one_keeps_its_mode_and_its_link(tmp_path):
    bx("models", "set", "fast", f"us.{NOVA}")
    assert stat.S_IMODE(user_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(user_file().parent.stat().st_mode) == 0o700
    elsewhere = tmp_path / "dotfiles.toml"
    user_file().rename(elsewhere)
    elsewhere.chmod(0o640)
    user_file().symlink_to(elsewhere)
    bx("models", "set", "slow", f"eu.{NOVA}")
    assert user_file().is_symlink()
    assert "slow" in elsewhere.read_text()
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("arguments", "entry"),
    [
        ([f"us.{NOVA}"], {"id": f"us.{NOVA}"}),
        ([NOVA], {"id": NOVA, "geos": ["global", "us", "eu", "jp"], "in_region": False}),
        (["nova-pro"], {"id": "amazon.nova-pro-v1:0", "geos": ["us", "eu", "apac"]}),
        (["claude", "--option", "geos=eu, us"], {"id": SONNET, "geos": ["eu", "us"], "in_region": False}),
        (["deepseek.v3.2", "--option", "note=a=b"], {"id": "deepseek.v3.2", "note": "a=b"}),
        (["acme.x", "--option", "in_region=yes"], {"id": "acme.x", "in_region": True}),
        ([OWN], {"id": OWN}),
    ],
)
def test_an_id_an_alias_and_options_make_an_entry(arguments, entry):
    assert bx("models", "set", "mine", *arguments).code == 0
    assert tomllib.loads(user_file().read_text()) == {"models": {"mine": entry}}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mine", "novva"], "Unknown model 'novva'"),
        (["my model", NOVA], "'my model' is no name"),
        (["set", NOVA], "'set' is no name"),
        (["mine", NOVA, "--option", "colour=red"], "'colour=red' is no key"),
        (["mine", NOVA, "--option", "id=a.b"], "'id=a.b' is no key"),
        (["mine", NOVA, "--option", "geos"], "'geos' is no key"),
        (["mine", "a.b", "--option", "in_region=maybe"], "in_region is 'maybe'"),
        (["mine", "a.b", "--option", "in_region=no"], "neither in_region nor in any geography"),
    ],
)
def test_what_would_be_no_entry_is_not_written(arguments, told):
    outcome = bx("models", "set", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert told in outcome.err
    assert not user_file().exists()


def test_a_file_that_is_broken_is_left_alone():
    user_file().parent.mkdir(parents=True)
    user_file().write_text("model = ")
    outcome = bx("models", "set", "fast", f"us.{NOVA}")
    assert outcome.code == 2
    assert "not valid TOML" in outcome.err
    assert user_file().read_text() == "model = "


NAMES = st.sampled_from(["a", "b", "x-1", "gpt-5.6"])
ENTRIES = st.fixed_dictionaries(
    {"id": st.sampled_from(["a.b", "c.d", "us.e.f"])},
    optional={"geos": st.lists(st.sampled_from(["us", "eu"])), "in_region": st.booleans(), "note": st.text()},
)
STARTS = st.sampled_from(
    [
        "",
        "# top\n",
        'model = "x"\n\n[option]\ntop_k = 3\n',
        '[models.a]\nid = "a.b" # keep\n[prices."x.y"]\ninput = 1\n# z\n[models.b]\nid = "c.d"\ngeos=["us"]\n',
        'models.a.id = "x.y"\n',
        'models = {a = {id = "q.r"}}\n',
        "models = {}\n",
        '[models]\n[models.a]\nid="a.b"\n[models."gpt-5.6"]\nid="o.g"\n',
        '[models]\na.id = "b.c"\nb = {id="q.r", geos=["eu"]}\n',
        'model = "x"\r\n# c\r\n[models.a]\r\nid = "x.y"\r\n',
    ]
)


@given(STARTS, st.lists(st.tuples(NAMES, st.none() | ENTRIES), max_size=4))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_is_set_and_unset_the_file_says_that_and_nothing_else_has_changed(tmp_path, start, changes):
    file = tmp_path / "config.toml"
    file.write_bytes(start.encode())
    expected = tomllib.loads(start)
    for name, entry in changes:
        before = file.read_bytes()
        try:
            amend.unset_model(file, name) if entry is None else amend.set_model(file, name, entry)
        except amend.AmendError:
            assert file.read_bytes() == before
            assert start.startswith("models.a.id"), "tables are no trouble"
            return
        models = expected.setdefault("models", {})
        if entry is None:
            models.pop(name, None)
        else:
            old = models.get(name, {})
            models[name] = {**(old if old.get("id") == entry["id"] else {}), **entry}
    written = tomllib.loads(file.read_bytes().decode())
    assert {**written, "models": written.get("models", {})} == {**expected, "models": expected.get("models", {})}


# ---- --auto-profile -----------------------------------------------------------------------------------------------


def test_the_refusal_names_the_profiles_and_the_flag(account):
    outcome = bx("Hello", "--model", OPUS)
    assert (outcome.code, outcome.out) == (4, "")
    assert f"us-east-1 has: global.{OPUS}, us.{OPUS}" in outcome.err
    assert f"bx --model global.{OPUS} ... (--auto-profile does so by itself)" in outcome.err


@pytest.mark.parametrize("more", [[], ["--stream"], ["--json", "{}", "--guarantee", "any"]])
def test_auto_profile_sends_it_again_and_says_so(account, more):
    prompt = '{"a": 1}'
    outcome = bx(prompt, "--model", OPUS, "--auto-profile", *more)
    assert outcome.code == 0
    assert json.loads(outcome.out) == {"a": 1}
    assert f"sent again through global.{OPUS}" in outcome.err
    assert f"bx models set NAME global.{OPUS}" in outcome.err
    assert not user_file().exists()


def test_auto_profile_keeps_to_the_geography_that_was_chosen(account):
    outcome = bx("Hello", "--model", OPUS, "--auto-profile", "--geo", "us")
    assert (outcome.code, outcome.out) == (0, "Hello\n")
    assert f"through us.{OPUS}" in outcome.err
    assert bx("Hello", "--model", OPUS, "--auto-profile", "--geo", "eu").code == 4


@posix
@pytest.mark.parametrize(("keys", "remembered"), [(b"y\n", True), (b"\n", True), (b"n\n", False)])
def test_at_a_terminal_the_profile_is_offered_to_be_remembered(account, keys, remembered):
    shown = on_terminal("Hello", "--model", OPUS, "--auto-profile", keys=keys, BX_REGION="us-east-1")
    assert (shown.code, shown.out) == (0, "Hello\n")
    assert f"Remember that for {OPUS}, under the name claude-opus-5-5" in shown.err
    assert user_file().exists() == remembered
    if remembered:
        entry = {"id": OPUS, "geos": ["global", "us"], "in_region": False}
        assert tomllib.loads(user_file().read_text()) == {"models": {"claude-opus-5-5": entry}}
        for name in (OPUS, "claude-opus-5-5"):
            assert json.loads(bx("--dry-run", "hi", "--model", name).out)["modelId"] == f"global.{OPUS}"
