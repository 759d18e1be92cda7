"""`bx config`: the settings in force, where each comes from, and no secret among them."""

from __future__ import annotations

import os
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bx import config
from bx.cli.config import _toml
from test_cli_ask import bx


@pytest.fixture
def user(private_home):
    """Write the user's own file."""

    def write(text):
        file = config.user_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return str(file)

    return write


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write the project's file, and be in its folder."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        file = tmp_path / "bx.toml"
        file.write_text(text)
        return str(file)

    return write


def shown(*arguments):
    outcome = bx("config", "show", "-q", *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out


def origins(*arguments):
    """Setting -> where it comes from."""
    lines = [line.split("  # ") for line in shown("--origin", *arguments).splitlines() if "  # " in line]
    return {line.split(" = ")[0]: where for line, where in lines}


def test_what_is_shown_are_the_settings_that_hold(user, project, monkeypatch):
    user('model = "one"\ntemperature = 1\nstop = ["END", "ÄÖ\\n"]\n')
    project('model = "two"\n[option]\ntop_k = 3\n[models.house]\nid = "a.b"\ngeos = ["eu"]\n')
    monkeypatch.setenv("BX_STREAM", "yes")
    monkeypatch.setenv("BX_OPTION", '{"a": {"b.c": [1, null]}}'.replace("null", '"x"'))
    found = tomllib.loads(shown())
    assert found.pop("models") == {"house": {"id": "a.b", "geos": ["eu"]}}
    loaded = config.load().values
    assert {name: found[name] for name in loaded} == loaded
    assert tomllib.loads(shown("--origin")) == tomllib.loads(shown())


def test_each_setting_is_told_with_its_origin(user, project, monkeypatch):
    own = user('model = "one"\ntemperature = 1\n[option]\na = 1\n[models.mine]\nid = "a.b"\n')
    theirs = project('model = "two"\nmax_tokens = 5\n[option]\nb = 1\n[models.house]\nid = "a.b"\n')
    monkeypatch.setenv("BX_MAX_TOKENS", "7")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert origins("--top-p", "0.5") == {
        "model": theirs,
        "temperature": own,
        "max_tokens": "BX_MAX_TOKENS",
        "region": "AWS_REGION",
        "top_p": "--top-p",
        "quiet": "--quiet",
        "option": f"{own}, {theirs}",
        "guarantee": "default",
        "max_turns": "default",
        "history": "default",
        "[models.mine]": own,
        "[models.house]": theirs,
    }


def test_a_setting_that_is_the_same_in_two_places_comes_from_the_one_that_decides(user, project):
    user("temperature = 1.0\nstream = true\n")
    theirs = project("temperature = 1.0\nstream = true\n")
    assert {origins()[name] for name in ("temperature", "stream")} == {theirs}


def test_a_project_may_not_set_everything_and_what_it_may_not_is_not_shown(user, project):
    own = user('profile = "mine"\n')
    project('profile = "theirs"\n')
    assert origins()["profile"] == own
    assert "theirs" not in shown()
    assert "passed over" in bx("config", "show").err


def test_flags_of_every_kind_count(monkeypatch):
    monkeypatch.setenv("BX_GEO", "us")
    flags = ["--geo", "eu", "--no-stream", "--stop", "A", "--stop", "B", "--max-tokens", "9", "--offline"]
    found = tomllib.loads(shown(*flags))
    assert (found["geo"], found["stream"], found["stop"], found["max_tokens"]) == ("eu", False, ["A", "B"], 9)
    assert found["offline"] is True
    told = origins(*flags)
    assert [told[name] for name in ("geo", "stream", "stop", "max_tokens")] == [
        "--geo", "--stream", "--stop", "--max-tokens",
    ]  # fmt: skip


def test_what_is_not_set_is_listed_with_the_origins_only():
    assert "# not set: geo, region" in shown("--origin")
    assert "#" not in shown()
    assert origins()["model"] == "default"


@pytest.mark.parametrize(
    ("variable", "text", "secret"),
    [
        ("BX_ENDPOINT_URL", "https://me:hunter2@example.com", "hunter2"),
        ("BX_SYSTEM", "Use AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("BX_OPTION", '{"session_token": "abcdefghijklmnop"}', "abcdefghijklmnop"),
    ],
)
def test_a_secret_in_a_setting_is_not_shown(monkeypatch, variable, text, secret):
    monkeypatch.setenv(variable, text)
    for arguments in ([], ["--origin"]):
        assert secret not in shown(*arguments)
        assert "***" in shown(*arguments)


def test_no_variable_of_awss_is_shown(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "hunter3")
    assert "hunter" not in shown("--origin")


def test_the_path_is_told_whether_the_file_is_there_or_not(user):
    outcome = bx("config", "path")
    assert (outcome.code, outcome.out) == (0, f"{config.user_file()}\n")
    assert "no such file yet" in outcome.err
    file = user("")
    assert bx("config", "path") == (0, f"{file}\n", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [([], "ACTION"), (["shoe"], "invalid choice"), (["path", "--origin"], "--origin goes with show")],
)
def test_a_command_line_that_cannot_be_understood_is_told(arguments, told):
    outcome = bx("config", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert told in outcome.err


def test_a_broken_file_is_named(user):
    file = user("model = ")
    outcome = bx("config", "show")
    assert outcome.code == 2
    assert file in outcome.err


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
WORDS = st.text(st.characters(categories=["L"]), min_size=1)
SAID = st.tuples(st.sampled_from(["user", "project", "variable"]), st.sampled_from(["geo", "model"]), WORDS)
PLAIN = TEXTS | st.integers(-(2**60), 2**60) | st.booleans()
VALUES = st.recursive(
    PLAIN | st.floats(allow_nan=False, allow_infinity=False),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXTS, parts),
    max_leaves=8,
)


@given(VALUES)
def test_any_value_is_written_as_toml(value):
    assert tomllib.loads(f"value = {_toml(value)}") == {"value": value}


@given(st.lists(SAID, max_size=4))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_last_of_the_sources_holds_and_is_the_one_that_is_named(tmp_path, places):
    home, folder = tmp_path / "home", tmp_path / "home" / "project"
    (home / ".config" / "bx").mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    said = {"user": {}, "project": {}, "variable": {}}
    for place, name, value in places:
        said[place][name] = value
    files = {"user": home / ".config" / "bx" / "config.toml", "project": folder / "bx.toml"}
    for place, file in files.items():
        file.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in said[place].items()))
    environ = {"HOME": str(home)} | {f"BX_{name.upper()}": value for name, value in said["variable"].items()}
    loaded = config.load(environ, folder).values
    assert loaded == {**said["user"], **said["project"], **said["variable"]}
    collected = config.Settings({}, {}, [])
    for _, add in config.sources(environ, folder):
        add(collected)
    assert collected.values == loaded
    assert next(place for place, _ in config.sources(environ, folder)) == os.fspath(files["user"])
