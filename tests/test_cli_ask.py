"""`bx PROMPT`: what it sends, what it prints where, and how it ends."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from bx import config, converse
from bx.cli import COMMANDS, main, parser
from bx.cli.terminal import Terminal
from bx.server.frames import frame
from scripted import Scripted, answer, broken, failure

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
SCHEMA = json.dumps(PERSON)
ADA = '{"name": "Ada", "age": 36}'
CLAUDE = "global.anthropic.claude-sonnet-4-6"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def bx(*arguments, stdin=None):
    """Run `bx` in this process; `stdin` is what a pipe holds, None is no pipe."""
    out, err = io.StringIO(), io.StringIO()
    with Path(os.devnull).open() as nothing:  # a real file, which is no pipe
        code = main(arguments, Terminal(nothing if stdin is None else io.StringIO(stdin), out, err))
    return Outcome(code, out.getvalue(), err.getvalue())


def ask(*arguments, **streams):
    return bx(*arguments, "--model", "echo", **streams)


def sent(*arguments, **streams):
    """The request that would be sent."""
    outcome = bx(*arguments, "--dry-run", **streams)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def prompt(*arguments, **streams):
    return sent(*arguments, **streams)["messages"][0]["content"][0]["text"]


class Model:
    """An engine that gives one answer, whole or in the given pieces."""

    def __init__(self, *pieces, stop="end_turn", reasoning=(), **usage):
        self.pieces, self.stop, self.reasoning = pieces, stop, reasoning
        self.usage = {"inputTokens": 5, "outputTokens": 7, "totalTokens": 12, **usage}

    def converse(self, **request):
        return converse.collect(self.events())

    def converse_stream(self, **request):
        return {"stream": self.events()}

    def events(self):
        yield {"messageStart": {"role": "assistant"}}
        blocks = [[{"reasoningContent": {"text": thought}} for thought in self.reasoning]] if self.reasoning else []
        for index, block in enumerate([*blocks, [{"text": piece} for piece in self.pieces]]):
            for delta in block:
                yield {"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}}
            yield {"contentBlockStop": {"contentBlockIndex": index}}
        yield {"messageStop": {"stopReason": self.stop}}
        yield {"metadata": {"usage": self.usage, "metrics": {"latencyMs": 42}}}


def answered_by(model, *arguments, **streams):
    """Ask an engine through a real client and HTTP."""
    with Scripted(model) as endpoint:
        return bx("Hi", "--model", "claude", "--endpoint-url", endpoint.url, *arguments, **streams)


# ---- the prompt -----------------------------------------------------------------------------------------------


def test_the_answer_and_nothing_else_is_on_stdout():
    assert ask("Hello there") == (0, "Hello there\n", "")


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [
        (["Hi"], None, "Hi"),
        (["Hi"], "", "Hi"),
        (["Hi"], " \n", "Hi"),
        (["Hi"], "from the pipe\n", "Hi\n\nfrom the pipe"),
        ([], "from the pipe\n", "from the pipe"),
        (["-"], "from the pipe\n", "from the pipe"),
        (["Hi", "-"], "from the pipe\n", "Hi\n\nfrom the pipe"),
        (["-", "Hi"], "from the pipe\n", "Hi\n\nfrom the pipe"),
        (["Hi", "--geo", "eu", "-"], "from the pipe\n", "Hi\n\nfrom the pipe"),
        (["--", "-5 degrees"], None, "-5 degrees"),
        (["- a list"], None, "- a list"),
        ([], "  indented\n\n  text\n\n", "  indented\n\n  text"),
    ],
)
def test_standard_input_joins_the_prompt(arguments, stdin, expected):
    assert prompt(*arguments, stdin=stdin) == expected


@pytest.mark.parametrize(
    ("arguments", "stdin"), [([], None), ([""], None), ([], ""), (["-"], " \n"), ([" "], "\n"), (["-"], None)]
)
def test_an_empty_prompt_is_a_usage_error(arguments, stdin):
    outcome = ask(*arguments, stdin=stdin)
    assert (outcome.code, outcome.out) == (2, "")
    assert "The prompt is empty" in outcome.err


def test_several_arguments_are_no_prompt():
    outcome = ask("Three", "uses", "of a brick")
    assert outcome.code == 2
    assert 'bx "Three uses of a brick"' in outcome.err


def test_standard_input_cannot_be_both_prompt_and_schema():
    outcome = ask("-", "--json", "-", stdin=SCHEMA)
    assert outcome.code == 2
    assert "both the prompt and the schema" in outcome.err


def test_bytes_that_are_no_text_are_refused_before_they_are_sent(endpoint):
    for arguments in (["\udcff"], ["Hi", "--system", "\udcff"], ["Hi", "--stop", "\udcff"]):
        outcome = bx(*arguments, "--endpoint-url", endpoint.url)
        assert outcome.code == 2
        assert "UTF-8" in outcome.err
    assert not endpoint.requests


@pytest.mark.parametrize("command", COMMANDS)
def test_a_prompt_may_be_the_name_of_a_command(command):
    assert ask("ask", command) == (0, f"{command}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_after_options_is_not_sent_as_a_prompt(command):
    outcome = ask("--verbose", command)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"bx ask {command}" in outcome.err


def test_a_prompt_that_begins_with_a_command_is_a_prompt():
    assert ask("pull the plug").out == "pull the plug\n"


# ---- the request ----------------------------------------------------------------------------------------------


def test_each_option_has_its_place_in_the_request():
    options = ["--system", "Be brief", "--max-tokens", "50", "--temperature", "0.5", "--top-p", "1"]
    assert sent("Hi", *options, "--stop", "END", "--stop", "FIN", "--model", "haiku", "--geo", "jp") == {
        "modelId": "jp.anthropic.claude-haiku-4-5-20251001-v1:0",
        "messages": [{"role": "user", "content": [{"text": "Hi"}]}],
        "system": [{"text": "Be brief"}],
        "inferenceConfig": {"maxTokens": 50, "temperature": 0.5, "topP": 1.0, "stopSequences": ["END", "FIN"]},
    }


def test_what_is_not_asked_for_is_not_in_the_request():
    plain = {"modelId": "global.amazon.nova-2-lite-v1:0", "messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
    assert sent("Hi") == plain
    assert sent("Hi", "--system", "") == plain


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["top_k", "40"], {"top_k": 40}),
        (["a.b.c", "true"], {"a": {"b": {"c": True}}}),
        (["a.b", "1", "a.c", "text"], {"a": {"b": 1, "c": "text"}}),
        (["a", '{"b": [1, "x"]}', "a.c", "null"], {"a": {"b": [1, "x"], "c": None}}),
        (["a", '"40"'], {"a": "40"}),
        (["a", ""], {"a": ""}),
        (["a", "-1"], {"a": -1}),
        (["a", "NaN"], {"a": "NaN"}),
        (["a", "{not json"], {"a": "{not json"}),
        (["ä ö", "ü"], {"ä ö": "ü"}),
    ],
)
def test_options_of_the_models_own_nest_and_are_json_or_text(arguments, expected):
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    flags = [word for pair in pairs for word in ("-o", *pair)]
    assert sent("Hi", *flags)["additionalModelRequestFields"] == expected


@pytest.mark.parametrize(
    "arguments",
    [["a..b", "1"], [".a", "1"], ["", "1"], ["a", "1", "a.b", "2"], ["a.b", "2", "a", "1"], ["a", "1e999"]],
)
def test_options_that_contradict_or_cannot_be_sent_are_refused(arguments):
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    outcome = ask("Hi", *[word for pair in pairs for word in ("-o", *pair)])
    assert outcome.code == 2
    assert "option" in outcome.err


@pytest.mark.parametrize(
    ("flag", "value", "needs"),
    [
        ("--max-tokens", "many", "a whole number"),
        ("--max-tokens", "1.5", "a whole number"),
        ("--temperature", "hot", "a number"),
        ("--top-p", "nan", "a number"),
        ("--temperature", "inf", "a number"),
    ],
)
def test_a_number_that_is_none_is_named(flag, value, needs):
    outcome = ask("Hi", flag, value)
    assert outcome.code == 2
    assert f"{flag} is {value!r}" in outcome.err
    assert needs in outcome.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--colour"], "--colour"), (["--mod", "nova"], "--mod"), (["--model"], "--model"), (["-o", "a"], "-o")],
)
def test_an_option_that_is_unknown_or_incomplete_is_named(arguments, named):
    outcome = ask("Hi", *arguments) if arguments[0] != "--model" else bx("Hi", *arguments)
    assert outcome.code == 2
    assert named in outcome.err
    assert "--help" in outcome.err


def test_a_dry_run_sends_nothing_and_shows_exactly_what_would_be_sent(endpoint, tmp_path):
    (tmp_path / "person.json").write_text(SCHEMA)
    question = ["Who is “Ada”?", "--system", "Be brief", "--temperature", "0", "--max-tokens", "99", "--stop", "END"]
    question += ["-o", "reasoningConfig.type", "enabled", "--json", str(tmp_path / "person.json")]
    for model, model_id in (("nova", "global.amazon.nova-2-lite-v1:0"), ("claude", CLAUDE)):
        endpoint.requests.clear()
        here = [*question, "--model", model, "--endpoint-url", endpoint.url, "--relearn"]
        shown = sent(*here)
        assert not endpoint.requests
        for flag, operation in (("--no-stream", "converse"), ("--stream", "converse-stream")):
            bx(*here, flag)
            received = endpoint.requests[0]
            endpoint.requests.clear()
            assert {"modelId": received.model, **received.body} == shown
            assert received.path == f"/model/{model_id.replace(':', '%3A')}/{operation}"
    assert received.body == {
        "messages": [{"role": "user", "content": [{"text": "Who is “Ada”?"}]}],
        "system": [{"text": "Be brief"}],
        "inferenceConfig": {"maxTokens": 99, "temperature": 0.0, "stopSequences": ["END"]},
        "additionalModelRequestFields": {"reasoningConfig": {"type": "enabled"}},
        "outputConfig": {
            "textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": SCHEMA}}},
        },
    }


def test_region_and_endpoint_lead_to_the_client(endpoint):
    bx("Hi", "--region", "ap-northeast-1", "--endpoint-url", endpoint.url)
    assert "/ap-northeast-1/bedrock/" in endpoint.requests[0].headers["authorization"]


def test_a_profile_of_the_aws_configuration_is_used(endpoint, private_home, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    (private_home / ".aws").mkdir()
    keys = "aws_access_key_id=WORKKEY\naws_secret_access_key=secret\nregion=eu-west-3\n"
    (private_home / ".aws" / "config").write_text(f"[profile work]\n{keys}")
    assert bx("Hi", "--profile", "work", "--endpoint-url", endpoint.url).code == 0
    signed = endpoint.requests[0].headers["authorization"]
    assert "WORKKEY" in signed
    assert "/eu-west-3/" in signed
    assert bx("Hi", "--profile", "play", "--endpoint-url", endpoint.url).code == 2


# ---- settings -------------------------------------------------------------------------------------------------

VALUES = {
    "model": ("haiku", "modelId", "global.anthropic.claude-haiku-4-5-20251001-v1:0"),
    "geo": ("eu", "modelId", "eu.amazon.nova-2-lite-v1:0"),
    "system": ("Be brief", "system", [{"text": "Be brief"}]),
    "max_tokens": ("7", "inferenceConfig", {"maxTokens": 7}),
    "temperature": ("0.25", "inferenceConfig", {"temperature": 0.25}),
    "top_p": ("0.5", "inferenceConfig", {"topP": 0.5}),
    "stop": ('["a", "b"]', "inferenceConfig", {"stopSequences": ["a", "b"]}),
    "option": ('{"top_k": 4}', "additionalModelRequestFields", {"top_k": 4}),
    "json": (SCHEMA, "outputConfig", converse.request("", model="", schema=PERSON)["outputConfig"]),
}
EFFECTS = {
    "stream": lambda run: "[tokens: 4]" in run().err,
    "usage": lambda run: "input 2" in run().err,
    "dry_run": lambda run: json.loads(run().out)["modelId"] == "echo",
    "raw": lambda run: json.loads(run().out)["stopReason"] == "end_turn",
    "quiet": lambda run: "tokens" not in run("--stream").err,
    "verbose": lambda run: "UnknownModel: " in run("--model", "novva").err,
    "guarantee": lambda run: "BX_GUARANTEE is '1'" in run().err,
}
# They need a network, a terminal or a model to show, and have tests of their own here and in test_terminal.
ELSEWHERE = {"max_turns", "region", "profile", "endpoint_url", "offline", "yes", "raw_output"}
# Theirs are test_ledger.py, test_budget.py, test_prices.py, test_history.py and test_profiles.py.
ELSEWHERE |= {"ledger", "tag", "max_cost", "budget", "prices", "history", "auto_profile"}
WITHOUT_FLAG = {"offline", "ledger", "tag", "budget", "prices"}


def test_every_option_is_a_setting_and_every_setting_an_option():
    actions = parser("ask")._actions
    options = {action.dest for action in actions if action.option_strings} - {"help", "version"}
    # What is nothing to say once, and what is nothing to say for good: a file or variable must not name a command.
    assert options == config.KINDS.keys() - WITHOUT_FLAG | {"jsonl", "relearn", "tool", "resume", "cid", "no_log"}
    for action in actions:
        assert action.help
        assert action.dest not in config.KINDS or "--" + action.dest.replace("_", "-") in action.option_strings


def test_every_setting_has_a_test_of_its_variable():
    assert VALUES.keys() | EFFECTS.keys() | ELSEWHERE == config.KINDS.keys()


@pytest.mark.parametrize("name", VALUES)
def test_a_variable_stands_for_its_option(name, monkeypatch):
    value, member, expected = VALUES[name]
    monkeypatch.setenv(f"BX_{name.upper()}", value)
    assert sent("Hi", *(["--model", "claude"] if name == "json" else []))[member] == expected


@pytest.mark.parametrize("name", EFFECTS)
def test_a_variable_stands_for_its_flag(name, monkeypatch):
    def run(*arguments):
        return bx("Hi there", "--model", "echo", *arguments)

    assert not shows(EFFECTS[name], run)
    monkeypatch.setenv(f"BX_{name.upper()}", "1")
    assert shows(EFFECTS[name], run)
    monkeypatch.setenv(f"BX_{name.upper()}", "0")
    assert not shows(EFFECTS[name], run)


def shows(effect, run):
    try:
        return effect(run)
    except ValueError:  # what was printed is no JSON
        return False


def test_variables_name_region_profile_and_endpoint(endpoint, monkeypatch, private_home):
    (private_home / ".aws").mkdir()
    keys = "aws_access_key_id=WORKKEY\naws_secret_access_key=secret\n"
    (private_home / ".aws" / "credentials").write_text(f"[work]\n{keys}")
    for name, value in {"region": "eu-north-1", "profile": "work", "endpoint_url": endpoint.url}.items():
        monkeypatch.setenv(f"BX_{name.upper()}", value)
    assert bx("Hi").code == 0
    assert "WORKKEY/" in endpoint.requests[0].headers["authorization"]
    assert "/eu-north-1/" in endpoint.requests[0].headers["authorization"]


@pytest.mark.parametrize("name", ["max_tokens", "temperature", "stream", "option"])
def test_a_variable_that_cannot_be_used_is_named(name, monkeypatch):
    monkeypatch.setenv(f"BX_{name.upper()}", "perhaps")
    outcome = ask("Hi")
    assert outcome.code == 2
    assert f"BX_{name.upper()} is 'perhaps'" in outcome.err


def test_a_flag_beats_a_variable_beats_the_project_beats_the_user(tmp_path, private_home, monkeypatch):
    monkeypatch.chdir(tmp_path)
    user = private_home / ".config" / "bx"
    user.mkdir(parents=True)
    seen = []
    (user / "config.toml").write_text('system = "user"\nstop = ["user"]\n[option]\na = "user"\nb.c = "user"\n')
    seen.append(sent("Hi"))
    (tmp_path / "bx.toml").write_text('system = "project"\nstop = ["project"]\n[option]\na = "project"\nb.d = 1\n')
    seen.append(sent("Hi"))
    for name, value in {"system": "variable", "stop": "variable", "option": '{"a": "variable"}'}.items():
        monkeypatch.setenv(f"BX_{name.upper()}", value)
    seen.append(sent("Hi"))
    seen.append(sent("Hi", "--system", "flag", "--stop", "flag", "-o", "a", "flag"))
    places = ["user", "project", "variable", "flag"]
    assert [request["system"][0]["text"] for request in seen] == places
    assert [request["inferenceConfig"]["stopSequences"] for request in seen] == [[place] for place in places]
    # Each key of --option is a setting of its own.
    fields = [request["additionalModelRequestFields"] for request in seen]
    assert fields == [
        {"a": "user", "b": {"c": "user"}},
        *({"a": place, "b": {"c": "user", "d": 1}} for place in places[1:]),
    ]


def test_a_broken_settings_file_is_named_but_help_and_version_still_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bx.toml").write_text("model = ")
    outcome = ask("Hi")
    assert outcome.code == 2
    assert "bx.toml is not valid TOML" in outcome.err
    for flag in ("--help", "--version"):
        assert bx(flag).code == 0


def test_a_project_cannot_redirect_silence_or_agree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bx.toml").write_text('endpoint_url = "http://127.0.0.1:9"\nquiet = true\nyes = true\ngeo = "eu"\n')
    outcome = bx("Hi", "--dry-run")
    assert json.loads(outcome.out)["modelId"].startswith("eu.")
    for name in ("endpoint_url", "quiet", "yes"):
        assert f"{name} was passed over" in outcome.err
    assert "bx.toml sets geo to eu" in outcome.err


def test_a_model_is_added_by_one_entry_in_a_file(endpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bx("Hi", "--model", "newest").code == 2
    (tmp_path / "bx.toml").write_text('[models.newest]\nid = "acme.newest-v1:0"\ngeos = ["us"]\nin_region = false\n')
    outcome = bx("Hi", "--model", "newest", "--endpoint-url", endpoint.url)
    assert outcome.out == "Hi\n"
    assert [request.model for request in endpoint.requests] == ["us.acme.newest-v1:0"]


# ---- names ----------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_an_error_and_nothing_is_sent(endpoint):
    outcome = bx("Hi", "--model", "novva", "--endpoint-url", endpoint.url)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Did you mean nova?" in outcome.err
    assert "claude, deepseek, echo" in outcome.err
    assert not endpoint.requests


def test_an_empty_name_is_not_the_default():
    assert bx("Hi", "--model", "", "--dry-run").code == 2


def test_a_geography_that_a_model_does_not_have_is_an_error_and_nothing_is_sent(endpoint):
    outcome = bx("Hi", "--model", "llama", "--geo", "eu", "--endpoint-url", endpoint.url)
    assert outcome.code == 2
    assert "--geo us" in outcome.err
    assert not endpoint.requests


def test_a_geography_that_was_not_chosen_is_told():
    outcome = bx("Hi", "--model", "llama", "--dry-run")
    assert json.loads(outcome.out)["modelId"].startswith("us.")
    assert "llama has no global inference profile: using us" in outcome.err
    assert bx("Hi", "--model", "llama", "--dry-run", "--quiet").err == ""


# ---- usage and reasoning --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ""),
        (["--stream"], "[tokens: 12]\n"),
        (["--stream", "-q"], ""),
        (["-u"], "[tokens: 12 | input 5, output 7, cache read 3, cache write 0 | $0.00012 | 42 ms]\n"),
        (["-u", "--stream"], "[tokens: 12 | input 5, output 7, cache read 3, cache write 0 | $0.00012 | 42 ms]\n"),
        (
            ["-u", "-q", "--stream"],
            "[tokens: 12 | input 5, output 7, cache read 3, cache write 0 | $0.00012 | 42 ms]\n",
        ),
        (["-u", "-q"], "[tokens: 12 | input 5, output 7, cache read 3, cache write 0 | $0.00012 | 42 ms]\n"),
    ],
)
def test_tokens_are_told_on_stderr(flags, expected):
    model = Model("Good ", "day", cacheReadInputTokens=3)
    assert answered_by(model, *flags) == (0, "Good day\n", expected)


def test_usage_is_told_for_an_answer_that_fails_its_schema():
    for flag in ("--stream", "--no-stream"):
        outcome = answered_by(Model("nonsense"), "--json", SCHEMA, "-u", flag)
        assert outcome.code == 8
        assert f"[tokens: {12 if flag == '--stream' else 36} | input" in outcome.err


def test_a_stream_that_does_not_tell_its_tokens_is_no_failure():
    class Untold(Model):
        def events(self):
            return (event for event in super().events() if "metadata" not in event)

    assert answered_by(Untold("Hi"), "--stream") == (0, "Hi\n", "[tokens: unknown]\n")


@pytest.mark.parametrize("flag", ["--stream", "--no-stream"])
def test_reasoning_is_told_on_stderr_and_only_when_asked_for(flag):
    model = Model("Four", reasoning=["Two and ", "two"])
    told = answered_by(model, flag, "-v")
    assert told.out == "Four\n"
    assert told.err.startswith("Two and two\n")
    untold = answered_by(model, flag)
    assert untold.out == "Four\n"
    assert "Two" not in untold.err


@pytest.mark.parametrize("flag", ["--stream", "--no-stream"])
def test_an_answer_that_was_cut_off_is_printed_and_told(flag):
    outcome = answered_by(Model("Once upon a", stop="max_tokens"), flag)
    assert (outcome.code, outcome.out) == (0, "Once upon a\n")
    assert "cut off at the token limit" in outcome.err
    assert "--max-tokens" in outcome.err


# ---- JSON -----------------------------------------------------------------------------------------------------


def test_json_prints_the_parsed_object():
    outcome = answered_by(Model('\n{"age":36,\n"name":"Ada \\u00c4 \\ud83d\\ude00"}'), "--json", SCHEMA)
    assert outcome == (0, '{"age": 36, "name": "Ada Ä 😀"}\n', "")


@pytest.mark.parametrize(
    ("text", "stop", "told"),
    [
        (ADA[:12], "max_tokens", "cut off at the token limit"),
        (ADA, "model_context_window_exceeded", "context window"),
        ("I cannot", "refusal", "refused"),
        ("", "content_filtered", "content filter"),
        ("Blocked", "guardrail_intervened", "guardrail"),
        ("Sure! " + ADA[:-1], "end_turn", "not JSON"),
        ("", "end_turn", "not JSON"),
        ('{"name": "Ada", "age": NaN}', "end_turn", "not JSON"),
        ('{"name": "Ada", "age": -0.5}', "end_turn", "$.age"),
        ('{"name": "Ada"}', "end_turn", "$: "),
        ("[" * 9999, "end_turn", "not JSON"),
    ],
)
def test_json_that_is_none_or_breaks_the_schema_ends_with_8(text, stop, told):
    whole = answered_by(Model(text, stop=stop), "--json", SCHEMA)
    assert (whole.code, whole.out) == (8, "")
    assert told in whole.err
    assert "-> " in whole.err
    assert not text or f"What arrived:\n{text}\n" in whole.err
    stream = answered_by(Model(text[:4], text[4:], stop=stop), "--json", SCHEMA, "--stream")
    assert stream.code == 8
    shown = text[max(text.find("{"), 0) :]  # prose before the JSON is no part of it
    assert stream.out == (shown + "\n" if shown else "")
    assert told in stream.err
    assert "What arrived" not in stream.err


def test_json_with_stream_prints_the_text_as_it_is_and_ends_with_0_when_it_is_valid():
    outcome = answered_by(Model(ADA[:9], ADA[9:]), "--json", SCHEMA, "--stream")
    assert outcome == (0, ADA + "\n", "[tokens: 12]\n")


def test_the_schema_may_be_a_path_an_object_or_standard_input(tmp_path, monkeypatch):
    (tmp_path / "person.json").write_text("\ufeff" + SCHEMA, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BX_MODEL", "claude")
    expected = sent("Hi", "--json", SCHEMA)["outputConfig"]
    assert json.loads(expected["textFormat"]["structure"]["jsonSchema"]["schema"]) == PERSON
    assert sent("Hi", "--json", "person.json")["outputConfig"] == expected
    assert sent("Hi", "--json", f"\n  {SCHEMA}")["outputConfig"] == expected
    taken = sent("Hi", "--json", "-", stdin=SCHEMA)
    assert taken["outputConfig"] == expected
    assert taken["messages"][0]["content"] == [{"text": "Hi"}]


def test_the_schema_keeps_the_order_of_its_fields_and_its_letters():
    schema = '{"type": "object", "properties": {"z": {"type": "string"}, "ä": {"const": "é😀"}, "a": {}}}'
    asked = sent("Hi", "--json", schema, "--model", "local")
    assert asked["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"] == schema


def test_a_large_schema_is_sent_whole(tmp_path):
    large = {"type": "object", "properties": {f"field_{n}": {"type": "string"} for n in range(5000)}}
    (tmp_path / "large.json").write_text(json.dumps(large))
    tools = sent("Hi", "--json", str(tmp_path / "large.json"))["toolConfig"]["tools"]
    assert tools[0]["toolSpec"]["inputSchema"]["json"] == large


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ("missing.json", "missing.json cannot be read: No such file"),
        ("", "cannot be read"),
        (".", "is a folder"),
        ("{", "is not JSON"),
        ('{"type": "strin"}', "$.type"),
        ('{"type": "string", "pattern": "("}', "$.pattern"),
        ('{"$ref": "#/$defs/missing"}', "missing"),
        ('{"$ref": "https://example.org/schema.json"}', "example.org"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"items":' * 400 + "{}" + "}" * 400, "nested too deeply"),
        (b"[]", "not a JSON object"),
        (b"true", "not a JSON object"),
        (b"\xff", "not UTF-8"),
        (b"", "is not JSON"),
    ],
)
def test_a_schema_that_cannot_be_used_is_told_and_nothing_is_sent(schema, told, endpoint, tmp_path):
    if isinstance(schema, bytes):
        (tmp_path / "schema.json").write_bytes(schema)
        schema = str(tmp_path / "schema.json")
    outcome = bx("Hi", "--json", schema, "--endpoint-url", endpoint.url)
    assert (outcome.code, outcome.out) == (2, "")
    assert told in outcome.err
    assert not endpoint.requests


def test_the_schema_may_be_fields_in_words_or_a_python_type(tmp_path, monkeypatch):
    (tmp_path / "people_types.py").write_text("import typing\n\n\nclass Person(typing.TypedDict):\n    name: str\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BX_MODEL", "claude")
    words, named = (sent("Hi", "--json", schema)["outputConfig"] for schema in ("name", "people_types:Person"))
    assert {"title": "Person", **sent_schema(words)} == sent_schema(named)
    wrong = bx("Hi", "--json", "name, age integr")
    assert wrong.code == 2
    line, caret = wrong.err.splitlines()[1:3]
    assert line[caret.index("^") :] == "integr"


def sent_schema(config):
    return json.loads(config["textFormat"]["structure"]["jsonSchema"]["schema"])


def test_a_project_s_file_may_hold_fields_in_words_but_names_no_python_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "bx.toml").write_text('json = "name, age int"\n')
    assert "age" in str(sent("Hi")["toolConfig"])
    (tmp_path / "bx.toml").write_text('json = "evil:Name"\n')
    outcome = bx("Hi", "--dry-run")
    assert outcome.code == 2
    assert "cannot be read" in outcome.err


ROWS = '[{"n": 1}, {"n": 2},\n {"n": 3}]'


@pytest.mark.parametrize("flags", [[], ["--no-stream"], ["--stream"]])
def test_each_element_of_an_array_is_a_line(flags):
    outcome = answered_by(Model(ROWS[:5], ROWS[5:11], ROWS[11:]), "--json", "[n int]", "--jsonl", *flags)
    assert (outcome.code, outcome.out) == (0, '{"n": 1}\n{"n": 2}\n{"n": 3}\n')


def test_an_element_is_a_line_before_the_answer_is_whole(endpoint):
    endpoint.engine = Model('[{"n": 1},', ' {"n": 2}, ', '{"n": 3}]')
    endpoint.script.append(broken(3))
    taken = ["--model", "claude", "--endpoint-url", endpoint.url]
    outcome = bx("Hi", "--json", "[n int]", "--jsonl", *taken)
    assert (outcome.code, outcome.out) == (7, '{"n": 1}\n{"n": 2}\n')


@pytest.mark.parametrize("wrong", ['{"n": "2"}', "{}", "2"])
def test_a_wrong_element_ends_the_lines_with_8(wrong):
    outcome = answered_by(Model(f'[{{"n": 1}}, {wrong}, {{"n": 3}}]'), "--json", "[n int]", "--jsonl")
    assert (outcome.code, outcome.out) == (8, '{"n": 1}\n')
    assert "An element does not satisfy the schema: $[1]" in outcome.err


def test_too_few_elements_end_with_8_after_the_last_line():
    schema = '{"type": "array", "items": {"type": "integer"}, "minItems": 3}'
    outcome = answered_by(Model("[1, 2]"), "--json", schema, "--jsonl")
    assert (outcome.code, outcome.out) == (8, "1\n2\n")


@pytest.mark.parametrize("arguments", [["--jsonl"], ["--jsonl", "--json", "a, b"]])
def test_lines_need_the_schema_of_an_array(arguments):
    outcome = bx("Hi", *arguments)
    assert outcome.code == 2
    assert "[name, age int]" in outcome.err


def test_the_guarantee_any_prints_what_is_json_and_tells_what_is_wrong():
    for flag in ("--stream", "--no-stream"):
        outcome = answered_by(Model('{"name": 1}'), "--json", "name", "--guarantee", "any", flag)
        assert (outcome.code, outcome.out) == (0, '{"name": 1}\n')
        assert "$.name" in outcome.err
    lines = answered_by(Model('[{"name": 1}]'), "--json", "[name]", "--guarantee", "any", "--jsonl")
    assert (lines.code, lines.out) == (0, '{"name": 1}\n')
    assert "$[0].name" in lines.err


def test_how_the_json_came_about_is_in_the_usage_and_in_raw(endpoint):
    taken = ["--model", "nova", "--endpoint-url", endpoint.url, "--json", "name"]
    endpoint.respond = lambda _: answer(CALL, stop="tool_use")
    outcome = bx("Hi", *taken, "-u")
    assert outcome.out == '{"name": "Ada"}\n'
    assert "bx: JSON through a tool that must be called: checked, not enforced by a grammar\n" in outcome.err
    assert "| rung tool (checked), attempts 1]" in outcome.err
    told = {"Rung": "tool", "Enforced": False}
    whole = json.loads(bx("Hi", *taken, "--raw").out)
    assert whole["ResponseMetadata"]["StructuredOutput"] == {**told, "Attempts": 1}
    first, *events = bx("Hi", *taken, "--raw", "--stream").out.splitlines()
    assert json.loads(first)["ResponseMetadata"]["StructuredOutput"] == told
    assert all(len(json.loads(event)) == 1 for event in events)


# ---- tools ----------------------------------------------------------------------------------------------------

CALL = {"toolUse": {"toolUseId": "tooluse_1", "name": "answer", "input": {"name": "Ada"}}}
LOOK_UP = {"toolUse": {"toolUseId": "tooluse_1", "name": "look_up", "input": {"name": "Ada"}}}


@pytest.fixture
def look_up(tmp_path):
    """Write the file of a tool, with a command or none, and return its path."""

    def write(**more):
        schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        file = tmp_path / "look_up.json"
        file.write_text(json.dumps({"name": "look_up", "inputSchema": {"json": schema}, **more}))
        return str(file)

    return write


@pytest.mark.parametrize("flag", ["--stream", "--no-stream"])
def test_a_call_is_printed_as_json_and_an_answer_as_it_is(endpoint, look_up, flag):
    taken = ["--model", "claude", "--endpoint-url", endpoint.url, "--tool", look_up(), flag, "-q"]
    endpoint.script.append(answer(LOOK_UP, stop="tool_use"))
    assert bx("Who is Ada?", *taken) == (0, '{"name": "look_up", "input": {"name": "Ada"}}\n', "")
    endpoint.script.append(answer("I do not know."))
    assert bx("Who is Ada?", *taken) == (0, "I do not know.\n", "")


@pytest.mark.parametrize("flag", ["--stream", "--no-stream"])
def test_a_command_is_run_where_it_was_allowed_and_the_model_goes_on(endpoint, look_up, flag):
    script = "import json, sys; print('Countess of', json.load(sys.stdin)['name'])"
    file = look_up(command=[sys.executable, "-c", script])
    taken = ["--model", "claude", "--endpoint-url", endpoint.url, "-T", file, flag]
    endpoint.script.extend([answer(LOOK_UP, stop="tool_use"), answer("A countess.")])
    allowed = bx("Who is Ada?", *taken, "--yes", "-u")
    assert (allowed.code, allowed.out) == (0, "A countess.\n")
    assert "tokens: 24" in allowed.err
    result = endpoint.requests[1].body["messages"][-1]["content"][0]["toolResult"]
    assert result["content"] == [{"text": "Countess of Ada\n"}]
    endpoint.requests.clear()
    endpoint.script.extend([answer(LOOK_UP, stop="tool_use"), answer("I may not look.")])
    denied = bx("Who is Ada?", *taken)
    assert (denied.code, denied.out) == (0, "I may not look.\n")
    assert "--yes" in denied.err
    assert endpoint.requests[1].body["messages"][-1]["content"][0]["toolResult"]["status"] == "error"


def test_a_model_that_does_not_stop_calling_is_stopped(endpoint, look_up):
    endpoint.respond = lambda _: answer(LOOK_UP, stop="tool_use")
    file = look_up(command=[sys.executable, "-c", "print(1)"])
    outcome = bx("Hi", "--model", "claude", "--endpoint-url", endpoint.url, "-T", file, "--yes", "--max-turns", "2")
    assert outcome.code == 9
    assert "--max-turns" in outcome.err
    assert len(endpoint.requests) == 2


def test_a_call_that_breaks_its_tool_s_schema_is_no_answer(endpoint, look_up):
    wrong = {"toolUse": {**LOOK_UP["toolUse"], "input": {"name": 1}}}
    endpoint.respond = lambda _: answer(wrong, stop="tool_use")
    for flag in ("--stream", "--no-stream"):
        outcome = bx("Hi", "--model", "claude", "--endpoint-url", endpoint.url, "--tool", look_up(), flag)
        assert (outcome.code, outcome.out) == (8, "")
        assert "The call of look_up does not satisfy its schema: $.name" in outcome.err


def test_with_a_schema_and_tools_stdout_is_the_json_alone(endpoint, look_up):
    file = look_up(command=[sys.executable, "-c", "print(1)"])
    endpoint.script.extend([answer("Looking.", LOOK_UP, stop="tool_use"), answer(CALL, stop="tool_use")])
    taken = ["--model", "nova", "--endpoint-url", endpoint.url, "-T", file, "--yes", "--json", "name", "--stream"]
    outcome = bx("Hi", *taken)
    assert (outcome.code, outcome.out) == (0, '{"name": "Ada"}\n')
    assert "bx: running look_up: " in outcome.err


@pytest.mark.parametrize("value", ["0", "-4", "x"])
def test_a_number_of_turns_that_is_none_is_named(value, monkeypatch):
    assert "--max-turns is" in bx("Hi", "--max-turns", value, "--model", "echo").err
    monkeypatch.setenv("BX_MAX_TURNS", value)
    outcome = ask("Hi")
    assert outcome.code == 2
    assert "BX_MAX_TURNS is" in outcome.err


def test_lines_and_raw_do_not_go_together():
    assert ask("[]", "--json", "[a]", "--jsonl", "--raw").code == 2


def test_a_dry_run_shows_the_tools(look_up):
    assert (
        sent("Hi", "--tool", look_up(), "--model", "claude")["toolConfig"]["tools"][0]["toolSpec"]["strict"] is True
    )


def test_a_tool_that_cannot_be_used_is_told(tmp_path):
    outcome = bx("Hi", "--tool", str(tmp_path / "missing.json"))
    assert (outcome.code, outcome.out) == (2, "")
    assert "missing.json" in outcome.err


# ---- raw ------------------------------------------------------------------------------------------------------


def test_raw_prints_the_whole_response():
    outcome = answered_by(Model("Hi"), "--raw")
    response = json.loads(outcome.out)
    assert response["output"] == {"message": {"role": "assistant", "content": [{"text": "Hi"}]}}
    assert response["usage"]["totalTokens"] == 12
    assert response["ResponseMetadata"]["RequestId"]


def test_raw_with_stream_prints_an_event_a_line():
    model = Model("One ", "😀\n", reasoning=["Hm"])
    outcome = answered_by(model, "--raw", "--stream")
    assert [json.loads(line) for line in outcome.out.splitlines()] == list(model.events())


@pytest.mark.parametrize(("flags", "expected"), [([], "Smile 😀!\n"), (["--raw"], None)])
def test_a_character_may_arrive_in_halves(endpoint, flags, expected):
    events = list(Model("Smile \ud83d", "\ude00!").events())
    endpoint.script.append(lambda reply: reply._replace(body=[*map(escaped, events)]))
    outcome = bx("Hi", "--stream", *flags, "--endpoint-url", endpoint.url)
    assert outcome.code == 0
    if expected:
        assert outcome.out == expected
    else:
        assert [json.loads(line) for line in outcome.out.splitlines()] == events


def escaped(event):
    """A frame whose JSON is ASCII, so that it may hold half a character."""
    ((kind, body),) = event.items()
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, json.dumps(body).encode())


def test_raw_prints_what_was_redacted_as_the_wire_spells_it():
    class Redacted(Model):
        def events(self):
            hidden = {"contentBlockIndex": 0, "delta": {"reasoningContent": {"redactedContent": b"\x00\xff"}}}
            yield from [{"contentBlockDelta": hidden}, {"messageStop": {"stopReason": "end_turn"}}]

    outcome = answered_by(Redacted(), "--raw", "--stream")
    delta = json.loads(outcome.out.splitlines()[0])["contentBlockDelta"]["delta"]
    assert delta == {"reasoningContent": {"redactedContent": "AP8="}}


def test_raw_with_a_schema_prints_the_response_and_still_judges_it():
    outcome = answered_by(Model("nonsense"), "--raw", "--json", SCHEMA)
    assert outcome.code == 8
    response = json.loads(outcome.out)
    assert converse.text(response) == "nonsense"
    assert response["ResponseMetadata"]["StructuredOutput"] == {"Rung": "native", "Enforced": True, "Attempts": 3}


# ---- failures -------------------------------------------------------------------------------------------------


def test_a_stream_that_breaks_keeps_what_arrived_and_ends_with_7(endpoint):
    endpoint.script.append(broken(3))
    outcome = bx("one two three four", "--stream", "--endpoint-url", endpoint.url)
    assert (outcome.code, outcome.out) == (7, "one two\n")
    assert "[tokens" not in outcome.err


def test_verbose_tells_the_attempts_and_awss_own_words(endpoint):
    endpoint.script += [failure(429, "ThrottlingException", "Slow down, please")] * 3
    outcome = bx("Hi", "-v", "--endpoint-url", endpoint.url)
    assert outcome.code == 5
    assert "Attempt 1 of 3 failed" in outcome.err
    assert "ThrottlingException: Slow down, please" in outcome.err
    assert "request id: " in outcome.err


def test_an_error_of_bedrock_that_names_a_resource_is_no_missing_model(endpoint):
    endpoint.script.append(failure(424, "ModelErrorException", "It failed", resourceName="arn:aws:bedrock:x"))
    outcome = bx("Hi", "--endpoint-url", endpoint.url)
    assert outcome.code == 7
    assert "It failed" in outcome.err


def test_quiet_still_tells_a_failure():
    assert "Unknown model" in bx("Hi", "-q", "--model", "novva").err


# ---- help and version -----------------------------------------------------------------------------------------


def test_version_is_told():
    from bx import __version__

    for arguments in (["--version"], ["-V"], ["ask", "--version"], ["-q", "--version"]):
        assert bx(*arguments) == (0, f"bx {__version__}\n", "")


def test_help_has_every_option_and_examples():
    outcome = bx("--help")
    assert (outcome.code, outcome.err) == (0, "")
    for action in parser("ask")._actions:
        assert all(option in outcome.out for option in action.option_strings)
    assert "examples:" in outcome.out
    assert bx("-h") == bx("ask", "--help") == bx("hello", "--model", "echo", "-h") == outcome


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    outcome = bx(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("usage: bx")
