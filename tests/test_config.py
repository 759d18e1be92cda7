"""The settings: where they are read, which of them wins, and what a project's file may not do."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bx import config

posix = pytest.mark.skipif(os.name != "posix", reason="owners of files are a matter of POSIX")


@pytest.fixture
def user(private_home):
    """Write the user's own file."""

    def write(text):
        file = private_home / ".config" / "bx" / "config.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


@pytest.fixture
def project(tmp_path):
    """Write the project's file."""
    return (tmp_path / "bx.toml").write_text


def values(directory, **environ):
    return config.load({"HOME": os.environ["HOME"], **environ}, directory).values


def test_without_files_and_variables_nothing_is_set(tmp_path):
    assert config.load({}, tmp_path) == ({}, {}, [])


def test_every_kind_of_setting_is_read_from_a_file_and_from_a_variable(tmp_path, user):
    examples = {
        str: ("text", '"text"', "text"),
        int: ("12", "12", 12),
        float: ("0.5", "0.5", 0.5),
        bool: ("yes", "true", True),
        list: ('["a", "b"]', '["a", "b"]', ["a", "b"]),
        dict: ('{"a": {"b": 1}}', "{ a = { b = 1 } }", {"a": {"b": 1}}),
    }
    for name, kind in config.KINDS.items():
        in_a_variable, in_a_file, expected = examples[kind]
        if name == "json":
            expected = "{}"
            in_a_variable, in_a_file = "{}", '"{}"'
        if name == "guarantee":
            in_a_variable, in_a_file, expected = "any", '"any"', "any"
        if name == "history":
            in_a_variable, in_a_file, expected = "all", '"all"', "all"
        if name == "budget":
            in_a_variable, in_a_file, expected = '{"day": 1}', "{ day = 1 }", {"day": 1}
        assert values(tmp_path, **{f"BX_{name.upper()}": in_a_variable}) == {name: expected}
        user(f"{name} = {in_a_file}")
        if name == "ledger":  # a file's path is beside the file
            expected = str(config.user_file(os.environ).parent / expected)
        assert values(tmp_path) == {name: expected}
        user("")


def test_a_variable_beats_the_project_which_beats_the_user(tmp_path, user, project):
    user('model = "one"\ntemperature = 1')
    assert values(tmp_path) == {"model": "one", "temperature": 1.0}
    project('model = "two"')
    assert values(tmp_path) == {"model": "two", "temperature": 1.0}
    assert values(tmp_path, BX_MODEL="three") == {"model": "three", "temperature": 1.0}


def test_an_empty_variable_is_no_setting(tmp_path):
    assert values(tmp_path, BX_MODEL="", BX_STREAM="", BX_STOP="") == {}


def test_aws_region_is_honoured_below_bx_region(tmp_path, user):
    user('region = "eu-west-1"')
    assert values(tmp_path)["region"] == "eu-west-1"
    assert values(tmp_path, AWS_REGION="eu-west-2")["region"] == "eu-west-2"
    assert values(tmp_path, AWS_REGION="eu-west-2", BX_REGION="eu-west-3")["region"] == "eu-west-3"
    assert "AWS_DEFAULT_REGION" not in values(tmp_path, AWS_DEFAULT_REGION="eu-west-1")  # boto3 reads that one


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((word, True) for word in ("1", "true", "YES", "On")),
        *((word, False) for word in ("0", "False", "no", "off")),
    ],
)
def test_a_switch_has_several_words(tmp_path, text, expected):
    assert values(tmp_path, BX_STREAM=text) == {"stream": expected}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("END", ["END"]), ("[END]", ["[END]"]), ('["a", "b"]', ["a", "b"]), ("[1]", ["[1]"]), ('"a"', ['"a"'])],
)
def test_a_list_in_a_variable_is_json_or_one_text(tmp_path, text, expected):
    assert values(tmp_path, BX_STOP=text) == {"stop": expected}


@pytest.mark.parametrize(
    ("name", "text", "needs"),
    [
        ("STREAM", "perhaps", "true or false"),
        ("MAX_TOKENS", "1.5", "a whole number"),
        ("MAX_TOKENS", "9" * 5000, "a whole number"),
        ("TEMPERATURE", "warm", "a number"),
        ("TEMPERATURE", "nan", "a number"),
        ("TOP_P", "1e999", "a number"),
        ("OPTION", "[1]", "a table"),
        ("OPTION", "a=1", "a table"),
        ("MAX_COST", "-1", "at least 0"),
        ("BUDGET", '{"day": -1}', "dollars"),
    ],
)
def test_a_variable_of_another_kind_is_named(tmp_path, name, text, needs):
    with pytest.raises(config.ConfigError, match=f"BX_{name} is ") as caught:
        values(tmp_path, **{f"BX_{name}": text})
    assert needs in caught.value.fix
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model = ", "not valid TOML"),
        ("model = 1", "model is 1"),
        ("max_tokens = true", "max_tokens is True"),
        ("temperature = nan", "temperature is nan"),
        ("stop = [1]", r"stop is \[1\]"),
        ("option = 1", "option is 1"),
        ('colour = "red"', "unknown setting 'colour'"),
        ("models = 1", "models must be tables"),
        ("[models]\nx = 1", r"models\.x must be a table"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, project, text, told):
    project(text)
    with pytest.raises(config.ConfigError, match=told) as caught:
        values(tmp_path)
    assert "bx.toml" in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "bx.toml").write_bytes(b"\xff")
    with pytest.raises(config.ConfigError, match="not valid TOML"):
        values(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="needs a user whom permissions bind")
def test_a_file_that_cannot_be_read_is_named(tmp_path, project):
    project("")
    (tmp_path / "bx.toml").chmod(0)
    with pytest.raises(config.ConfigError, match="cannot be read: Permission denied"):
        values(tmp_path)


# ---- where files are looked for -------------------------------------------------------------------------------


def test_the_users_file_is_found_in_xdg_config_home_or_in_config(tmp_path, user):
    user('model = "one"')
    assert values(tmp_path) == {"model": "one"}
    (tmp_path / "bx").mkdir()
    (tmp_path / "bx" / "config.toml").write_text('model = "two"')
    assert values(tmp_path / "bx", XDG_CONFIG_HOME=str(tmp_path)) == {"model": "two"}


def test_the_nearest_project_file_upwards_is_read_alone(tmp_path, project):
    project('model = "outer"\nsystem = "outer"')
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert values(inner) == {"model": "outer", "system": "outer"}
    (tmp_path / "a" / "bx.toml").write_text('model = "inner"')
    assert values(inner) == {"model": "inner"}


def test_above_the_home_directory_nothing_is_read(tmp_path, project):
    project('model = "above"')
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    assert config.load({"HOME": str(home)}, home / "work").values == {}
    (tmp_path / "link").symlink_to(home)
    assert config.load({"HOME": str(tmp_path / "link")}, home / "work").values == {}
    (home / "bx.toml").write_text('model = "home"')
    assert config.load({"HOME": str(home)}, home / "work").values == {"model": "home"}


def test_a_current_directory_that_was_deleted_is_no_project(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert config.load({}).values == {}


def test_a_schema_named_in_a_file_is_found_beside_it(tmp_path, project):
    inner = tmp_path / "inner"
    inner.mkdir()
    project('json = "person.json"')
    assert values(inner) == {"json": str(tmp_path / "person.json")}
    assert values(inner, BX_JSON="person.json") == {"json": "person.json"}
    project('json = " {}"')
    assert values(inner) == {"json": " {}"}


# ---- what a project may not do --------------------------------------------------------------------------------


def test_a_project_does_not_decide_where_things_go_nor_agree(tmp_path, project, user):
    forbidden = {
        "endpoint_url": '"http://127.0.0.1:9"', "profile": '"work"', "offline": "false", "yes": "true",
        "raw_output": "true", "quiet": "true",
    }  # fmt: skip
    text = "\n".join(f"{name} = {value}" for name, value in forbidden.items())
    project(text)
    settings = config.load({"HOME": os.environ["HOME"]}, tmp_path)
    assert settings.values == {}
    assert [name for name in forbidden if any(f": {name} was passed over" in note for note in settings.notes)] == [
        *forbidden
    ]
    project("")
    user(text)
    assert values(tmp_path).keys() == forbidden.keys()


@pytest.mark.parametrize("model", ["local:model.gguf", "local:./x", "local:~/x.GGUF", "local:..\\x"])
def test_a_project_cannot_have_a_model_file_of_its_own_loaded(tmp_path, project, user, model):
    text = f"model = '{model}'\n[models.local]\nid = '{model}'\n"
    project(text)
    settings = config.load({"HOME": os.environ["HOME"]}, tmp_path)
    assert (settings.values, settings.models) == ({}, {})
    assert ["passed over" in note for note in settings.notes] == [True, True]
    user(text)
    project("model = 'local:smollm2'")
    settings = config.load({"HOME": os.environ["HOME"]}, tmp_path)
    assert (settings.values, settings.models) == ({"model": "local:smollm2"}, {"local": {"id": model}})


def test_a_project_that_says_where_prompts_are_processed_is_told(tmp_path, project, user):
    project('geo = "eu"\nregion = "eu-west-1"\nmodel = "claude"')
    settings = config.load({}, tmp_path)
    assert settings.values == {"geo": "eu", "region": "eu-west-1", "model": "claude"}
    file = tmp_path / "bx.toml"
    assert settings.notes == [f"{file} sets geo to eu", f"{file} sets region to eu-west-1"]
    project("")
    user('geo = "eu"')
    assert config.load({"HOME": os.environ["HOME"]}, tmp_path).notes == []


@posix
@pytest.mark.skipif(os.name == "posix" and os.getuid() != 0, reason="only root can give a file away")
def test_a_project_file_of_another_user_is_passed_over(tmp_path, project):
    project('model = "theirs"')
    os.chown(tmp_path / "bx.toml", 54321, -1)
    settings = config.load({}, tmp_path)
    assert settings.values == {}
    assert "belongs to another user" in settings.notes[0]


@posix
def test_a_project_file_that_is_no_file_is_none(tmp_path):
    os.mkfifo(tmp_path / "bx.toml")
    assert stat.S_ISFIFO((tmp_path / "bx.toml").stat().st_mode)
    assert values(tmp_path) == {}


# ---- models and tables ----------------------------------------------------------------------------------------


def test_models_of_the_project_add_to_those_of_the_user(tmp_path, project, user):
    user('[models.mine]\nid = "acme.one"\ngeos = ["us"]\n[models.claude]\ngeos = ["eu"]')
    project('[models.mine]\nnote = "ours"\n[models.other]\nid = "acme.two"')
    file = str(tmp_path / "bx.toml")
    assert config.load({"HOME": os.environ["HOME"]}, tmp_path).models == {
        "mine": {"id": "acme.one", "geos": ["us"], "note": "ours", "file": file},
        "claude": {"geos": ["eu"]},
        "other": {"id": "acme.two", "file": file},
    }


def test_a_model_with_another_id_inherits_nothing(tmp_path, project, user):
    user('[models.mine]\nid = "acme.one"\ngeos = ["us"]')
    project('[models.mine]\nid = "acme.two"')
    assert config.load({"HOME": os.environ["HOME"]}, tmp_path).models["mine"].keys() == {"id", "file"}


@pytest.mark.parametrize("value", ["evil:S ", " evil:S", "../my secrets/x.json", "/a b/c", "..\\\\a, b", "a b.json"])
def test_no_disguise_makes_a_project_s_schema_python_code_or_another_folder_s(tmp_path, project, value):
    project(f'json = "{value}"')
    found = config.load({"HOME": os.environ["HOME"]}, tmp_path).values.get("json")
    assert found is None or found.startswith(str(tmp_path))


def test_a_project_does_not_let_any_answer_pass(tmp_path, project):
    project('guarantee = "any"')
    settings = config.load({"HOME": os.environ["HOME"]}, tmp_path)
    assert "guarantee" not in settings.values
    assert "guarantee = 'any' was passed over" in settings.notes[0]
    project('guarantee = "enforced"')
    assert config.load({"HOME": os.environ["HOME"]}, tmp_path).values["guarantee"] == "enforced"


def test_a_schema_outside_the_project_s_folder_is_not_read_for_it(tmp_path, project):
    for path in ("../secret.json", "/etc/passwd", "~/secret.json"):
        project(f'json = "{path}"')
        settings = config.load({"HOME": os.environ["HOME"]}, tmp_path)
        assert "json" not in settings.values
        assert "was passed over" in settings.notes[0]


def test_the_key_that_marks_a_project_s_model_cannot_be_written_in_a_file(tmp_path, user):
    user('[models.mine]\nid = "acme.one"\nfile = "x"')
    with pytest.raises(config.ConfigError, match="unknown key 'file'"):
        config.load({"HOME": os.environ["HOME"]}, tmp_path)


def test_a_variable_that_is_no_setting_is_told():
    notes = config.load({"HOME": os.environ["HOME"], "BX_MODLE": "echo", "BX_MODEL": "echo"}).notes
    assert notes == ["BX_MODLE is no setting of bx"]


def test_the_page_tells_each_setting_its_variable_and_who_may_set_it():
    page = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text("utf-8")
    for name in config.KINDS:
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` | `BX_{name.upper()}`")]
        assert ("your own file only" in line) == (name in config._USER_ONLY)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("", "max_cost = 0.5"), {"max_cost": 0.5}),
        (("max_cost = 1", "max_cost = 0.5"), {"max_cost": 0.5}),
        (("max_cost = 1", "max_cost = 2"), {"max_cost": 1.0}),
        (("budget = { day = 1 }", "budget = { day = 2, month = 3 }"), {"budget": {"day": 1, "month": 3}}),
        (("budget = { day = 1, month = 9 }", "budget = { day = 0.5 }"), {"budget": {"day": 0.5, "month": 9}}),
    ],
)
def test_a_project_may_lower_what_may_be_spent_and_not_raise_it(tmp_path, user, project, files, expected):
    user(files[0])
    project(files[1])
    settings = config.load({"HOME": os.environ["HOME"]}, tmp_path)
    assert settings.values == expected
    assert bool(settings.notes) == ("2" in files[1])
    assert all("above your own limit" in note for note in settings.notes)


@pytest.mark.parametrize("text", ["{ week = 1 }", "{ day = -1 }", '{ day = "1" }', "{ day = true }", "{ day = inf }"])
def test_a_budget_that_is_none_is_an_error(tmp_path, user, text):
    user(f"budget = {text}")
    with pytest.raises(config.ConfigError) as raised:
        values(tmp_path)
    assert "{ day = 5, month = 50.0 }" in raised.value.fix


def test_a_project_cannot_choose_or_hide_the_ledger(tmp_path, project):
    project('ledger = "off"\ntag = "house"')
    settings = config.load({"HOME": os.environ["HOME"]}, tmp_path)
    assert settings.values == {"tag": "house"}
    assert "ledger was passed over" in settings.notes[0]


TABLES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(), min_size=1),
    lambda inner: st.dictionaries(st.sampled_from("abc"), st.integers() | inner, min_size=1),
    max_leaves=8,
)


def leaves(table, path=()):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


@given(TABLES, TABLES)
def test_joined_tables_hold_all_of_the_upper_and_what_it_does_not_cover_of_the_lower(below, above):
    before = json.dumps([below, above])
    joined = dict(leaves(config.merged(below, above)))
    upper, lower = dict(leaves(above)), dict(leaves(below))
    assert upper.items() <= joined.items()
    assert joined.items() <= {**lower, **upper}.items()
    for path, value in lower.items():
        covered = any(path[: len(other)] == other[: len(path)] for other in upper)
        assert covered or joined[path] == value
    assert json.dumps([below, above]) == before
