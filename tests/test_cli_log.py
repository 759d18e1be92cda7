"""`bx log`, and the options that keep and continue conversations."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import pytest

from bx import config
from bx.cli import main
from bx.cli.terminal import Terminal
from bx.ledger import history
from bx.ledger.store import Store
from scripted import STALL, answer, broken, failure
from test_cli_ask import SCHEMA, bx, sent
from test_terminal import Screen, interrupted, on_terminal, running

posix = pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")
ALL = ["--history", "all"]


def ledger():
    return Store(config.ledger({}))


def kept():
    """All turns, conversation by conversation, the oldest first."""
    numbers = [found.id for found in history.listed(ledger(), 1000)][::-1]
    return {number: history.conversation(ledger(), number).turns for number in numbers}


def asked(prompt, *arguments, **streams):
    outcome = bx(prompt, *arguments, **streams)
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.fixture
def two():
    """Two conversations, 1 and 2."""
    asked("What is a monad?", *ALL, "--model", "echo", "--system", "Be brief.")
    asked("And a comonad?", *ALL, "-c")
    asked("Crème brûlée", *ALL, "--model", "echo")


# ---- what is kept ---------------------------------------------------------------------------------------------


@posix
def test_what_is_typed_and_read_on_a_terminal_is_kept_and_nothing_else():
    on_terminal("typed", "--model", "echo")
    on_terminal("typed", "--model", "echo", stderr="pipe")
    on_terminal("into a pipe", "--model", "echo", stdout="pipe")
    assert main(["--model", "echo"], Terminal(io.StringIO("from a pipe"), Screen(), Screen())) == 0
    on_terminal("not this one", "--model", "echo", "-n")
    on_terminal("nor this one", "--model", "echo", "--no-log")
    on_terminal("nor this one", "--model", "echo", BX_HISTORY="off")
    on_terminal("nor this one", "--model", "echo", "--dry-run")
    on_terminal("nor this one", "--model", "echo", BX_LEDGER="off")
    assert [turn.prompt for turns in kept().values() for turn in turns] == ["typed", "typed"]


def test_scripts_are_kept_where_that_is_chosen():
    asked("not kept", "--model", "echo")
    assert kept() == {}
    asked("kept", "--model", "echo", *ALL)
    asked("not kept", "--model", "echo", *ALL, "-n")
    ((turn,),) = kept().values()
    assert (turn.prompt, turn.answer, turn.model, turn.model_id) == ("kept", "kept", "echo", "echo")
    assert turn.usage == {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}


def test_a_project_may_turn_it_off_and_not_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("bx.toml").write_text('history = "all"')
    outcome = asked("Hi", "--model", "echo")
    assert "only your own config.toml may set that" in outcome.err
    assert kept() == {}
    Path("bx.toml").write_text('history = "off"')
    user = tmp_path / "home" / ".config" / "bx" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('history = "all"')
    asked("Hi", "--model", "echo")
    assert kept() == {}
    Path("bx.toml").unlink()
    asked("Hi", "--model", "echo")
    assert len(kept()) == 1


@pytest.mark.parametrize("flag", ["--stream", "--no-stream"])
def test_an_answer_is_kept_however_it_arrives(flag, endpoint):
    endpoint.script.append(answer("Four", {"toolUse": {"toolUseId": "t", "name": "add", "input": {"a": 1}}}))
    asked("Two and two?", *ALL, flag, "--endpoint-url", endpoint.url, "--raw")
    ((turn,),) = kept().values()
    assert turn.messages[1]["content"][1]["toolUse"]["input"] == {"a": 1}
    assert turn.answer == "Four"


@posix
def test_of_an_interrupted_answer_what_had_arrived_is_kept(endpoint):
    endpoint.script.append(broken(3, STALL))
    with running("one two three", *ALL, "--stream", "--endpoint-url", endpoint.url) as process:
        assert process.stdout.read(7) == b"one two"
        interrupted(process)
        assert process.returncode == 130
    ((turn,),) = kept().values()
    assert (turn.answer, turn.stop_reason) == ("one two", "interrupted")


def test_a_failed_call_is_not_kept(endpoint):
    endpoint.script.append(failure(400, "ValidationException", "No"))
    assert bx("Hi", *ALL, "--endpoint-url", endpoint.url).code == 2
    assert kept() == {}


def test_a_history_that_cannot_be_written_costs_a_note_and_not_the_answer(tmp_path, monkeypatch):
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 1000)
    monkeypatch.setenv("BX_LEDGER", str(tmp_path / "ledger.db" / "below"))
    outcome = bx("Hi", "--model", "echo", *ALL)
    assert (outcome.code, outcome.out) == (0, "Hi\n")
    assert outcome.err.count("The history was not kept") == 1


# ---- going on -------------------------------------------------------------------------------------------------


def messages(request):
    return [block["text"] for message in request["messages"] for block in message["content"]]


def test_the_last_conversation_goes_on_with_its_model_and_system_prompt(two):
    outcome = asked("And a monoid?", "--cid", "1", *ALL)
    assert outcome.err == "bx: continuing conversation 1 with echo\n"
    asked("More", "-c", *ALL)
    prompts = ["What is a monad?", "And a comonad?", "And a monoid?", "More"]
    assert [turn.prompt for turn in kept()[1]] == prompts
    request = sent("Last", "--continue")
    assert request["modelId"] == "echo"
    assert request["system"] == [{"text": "Be brief."}]
    assert messages(request) == [text for prompt in prompts for text in (prompt, prompt)] + ["Last"]
    assert "system" not in sent("Last", "--cid", "2")


def test_what_a_flag_gives_anew_holds_and_a_setting_does_not(two, monkeypatch):
    monkeypatch.setenv("BX_MODEL", "nova")
    monkeypatch.setenv("BX_SYSTEM", "From the environment")
    assert sent("Hi", "--cid", "1")["modelId"] == "echo"
    assert sent("Hi", "--cid", "1")["system"] == [{"text": "Be brief."}]
    assert "system" not in sent("Hi", "--cid", "2")
    request = sent("Hi", "--cid", "1", "--model", "claude", "--system", "Be long.")
    assert request["modelId"] == "global.anthropic.claude-sonnet-4-6"
    assert request["system"] == [{"text": "Be long."}]
    asked("Hi", "--cid", "1", *ALL, "--system", "Be long.")
    assert sent("Hi", "--cid", "1")["system"] == [{"text": "Be long."}]


def test_a_conversation_stays_in_its_geography_unless_another_is_chosen(endpoint, monkeypatch):
    asked("Hi", *ALL, "--model", "claude", "--geo", "eu", "--endpoint-url", endpoint.url)
    assert sent("More", "-c")["modelId"] == "eu.anthropic.claude-sonnet-4-6"
    assert sent("More", "-c", "--geo", "us")["modelId"] == "us.anthropic.claude-sonnet-4-6"
    outcome = asked("More", "-c", *ALL, "--endpoint-url", endpoint.url)
    assert "with claude\n" in outcome.err
    assert {turn.model for turn in kept()[1]} == {"claude"}
    monkeypatch.setenv("BX_GEO", "us")
    assert bx("More", "-c").code == 2


def test_json_and_streams_go_on_too(two):
    asked('{"name": "Ada", "age": 36}', "--cid", "1", "--json", SCHEMA, *ALL)
    asked("More", "--cid", "1", "--stream", *ALL)
    assert kept()[1][2].answer == '{"name": "Ada", "age": 36}'
    assert "outputConfig" in sent("More", "--cid", "1", "--json", SCHEMA, "--model", "claude")


def test_that_a_pipe_continues_without_being_kept_is_told(two):
    outcome = asked("More", "-c")
    assert (
        "continuing conversation 2 with echo; what is asked now is not kept\n    -> Add --history all" in outcome.err
    )
    assert "not kept" not in asked("More", "-c", "--no-log").err
    assert len(kept()[2]) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-c", "--cid", "1"], "Choose one of them"),
        (["--cid", "7"], "There is no conversation 7"),
        (["--cid", "one"], "'one' is no number of a conversation"),
        (["--cid", "9" * 30], "is no number of a conversation"),
    ],
)
def test_there_has_to_be_something_to_continue(arguments, told, two):
    outcome = bx("Hi", *arguments, "--model", "echo")
    assert (outcome.code, outcome.out) == (2, "")
    assert told in outcome.err


def test_without_a_file_there_is_no_history(monkeypatch):
    monkeypatch.setenv("BX_LEDGER", "off")
    for arguments in (["Hi", "-c"], ["log"], ["log", "rm", "1", "-y"]):
        outcome = bx(*arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert "No ledger is kept" in outcome.err


def test_without_a_history_there_is_nothing_to_continue():
    outcome = bx("Hi", "-c")
    assert outcome.code == 2
    assert "There is no conversation yet" in outcome.err


# ---- the list -------------------------------------------------------------------------------------------------


def test_the_list_has_a_line_for_each_conversation_the_last_one_first(two):
    first, second = bx("log").out.splitlines()
    assert first.startswith("2  20")
    assert first.endswith("  echo  1 turn   Crème brûlée")
    assert second.endswith("  echo  2 turns  What is a monad?")
    assert bx("log", "-n", "1").out.splitlines() == [first.replace("turn   ", "turn  ")]
    assert bx("log", "monad").out.splitlines() == [second]
    assert bx("log", "brulee").out.startswith("2 ")


def test_the_list_in_json_is_for_programs(two):
    (found,) = json.loads(bx("log", "comonad", "--format", "json", "-n", "5").out)
    assert found.pop("started") <= found.pop("changed")
    assert found == {
        "id": 1,
        "turns": 2,
        "model": "echo",
        "model_id": "echo",
        "system": "Be brief.",
        "prompt": "What is a monad?",
        "answer": "And a comonad?",
        "found": "And a comonad?",
    }
    assert json.loads(bx("log", "nothing", "--format", "json").out) == []


def test_an_empty_list_is_told():
    assert bx("log") == (0, "", "bx: there is no conversation yet\n")
    assert bx("log", "no", "such") == (0, "", "bx: no conversation has 'no such'\n")


@posix
def test_a_line_fits_the_terminal_and_cannot_drive_it():
    asked("\x1b[2J" + "word " * 100, "--model", "echo", *ALL)
    shown = on_terminal("log").out
    assert "\x1b" not in shown
    assert r"\x1b[2J" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in on_terminal("log", "show", "1").out


# ---- one ------------------------------------------------------------------------------------------------------


def test_a_conversation_is_shown_for_people(two):
    asked("Two\nlines", "--cid", "1", *ALL, "--system", "Be long.")
    heading, *lines = bx("log", "show", "1").out.splitlines()
    assert heading.startswith("conversation 1, 20")
    assert lines == [
        "model: echo",
        "system: Be brief.",
        *("", "> What is a monad?", "", "What is a monad?"),
        *("", "> And a comonad?", "", "And a comonad?"),
        "system: Be long.",
        *("", "> Two", "> lines", "", "Two", "lines"),
    ]


def test_what_is_no_text_is_named_and_an_interrupted_answer_is_marked():
    image = {"image": {"format": "png", "source": {"bytes": b"pixel"}}}
    call = {"toolUse": {"toolUseId": "t", "name": "add", "input": {}}}
    said = [{"role": "user", "content": [{"text": "Look"}, image]}, {"role": "assistant", "content": [call]}]
    number = history.keep(ledger(), [history.Turn("claude", "the.id", said, stop_reason="interrupted")])
    shown = bx("log", "show", str(number)).out
    assert "model: claude (the.id)\n\n> Look\n> (image)\n\n(toolUse)\n(interrupted)\n" in shown
    (turn,) = json.loads(bx("log", "show", str(number), "--format", "json").out)["turns"]
    source = {"bytes": {"sha256": hashlib.sha256(b"pixel").hexdigest(), "bytes": 5}}
    assert turn["messages"][0]["content"][1]["image"]["source"] == source
    assert (turn["prompt"], turn["stop_reason"]) == ("Look", "interrupted")


# ---- away with them -------------------------------------------------------------------------------------------


def test_conversations_are_deleted_by_number_or_all(two):
    outcome = bx("log", "rm", "1")
    assert outcome.code == 2
    assert "Add --yes" in outcome.err
    assert bx("log", "rm", "1", "--yes").err == "bx: deleted 1 conversation\n"
    assert list(kept()) == [2]
    assert "There is no conversation 1" in bx("log", "rm", "2", "1", "-y").err
    assert list(kept()) == [2]
    assert bx("log", "rm", "--all", "-y").err == "bx: deleted 1 conversation\n"
    assert kept() == {}


@posix
@pytest.mark.parametrize(("keys", "left"), [(b"y\n", [2]), (b"n\n", [1, 2]), (b"\n", [1, 2])])
def test_who_deletes_on_a_terminal_is_asked(keys, left, two):
    outcome = on_terminal("log", "rm", "1", keys=keys)
    assert outcome.code == 0
    assert "Delete conversation 1 for good? [y/N]" in outcome.err
    assert list(kept()) == left


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show"], "takes one number"),
        (["show", "1", "2"], "takes one number"),
        (["show", "x"], "is no number"),
        (["show", "7"], "There is no conversation 7"),
        (["show", "1", "-n", "2"], "-n is for the list"),
        (["rm"], "takes numbers, or --all"),
        (["rm", "1", "--all"], "takes numbers, or --all"),
        (["--all"], "--all is for bx log rm"),
        (["-n", "0"], "at least 1"),
        (["-n", "-3"], "at least 1"),
        (["-n", "many"], "at least 1"),
        (["--format", "xml"], "xml"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments, told, two):
    outcome = bx("log", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert told in outcome.err


def test_a_word_that_is_an_action_can_be_searched_for():
    asked("How do I rm a folder?", "--model", "echo", *ALL)
    assert bx("log", '"rm"').out.startswith("1 ")
