"""`bx schema`: what it reports, what it prints, and how it ends."""

from __future__ import annotations

import json

import pytest

from scripted import answer
from test_cli_ask import bx

pytestmark = pytest.mark.usefixtures("private_home")

LOOSE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name"],
}


@pytest.fixture
def loose(tmp_path):
    (tmp_path / "loose.json").write_text(json.dumps(LOOSE))
    return str(tmp_path / "loose.json")


def test_check_names_place_reason_and_remedy_and_ends_with_8(loose):
    outcome = bx("schema", "check", loose)
    assert outcome.code == 8
    assert "$.properties.name.maxLength\n" in outcome.out
    assert "'additionalProperties' must be explicitly set to false" in outcome.out
    assert outcome.out.count("    -> ") == 2
    assert "Refused by Claude on Amazon Bedrock, for 2 reasons" in outcome.out
    assert outcome.err == ""


def test_check_of_what_is_taken_ends_with_0():
    outcome = bx("schema", "check", "name, age int")
    assert (outcome.code, outcome.out) == (0, "Taken by Claude on Amazon Bedrock\n")


@pytest.mark.parametrize(
    ("model", "code", "told"),
    [
        ("claude", 8, "Claude"),
        ("nova", 0, "a tool"),
        ("deepseek", 8, "open-weight"),
        ("local", 0, "embedded"),
        ("us.meta.llama4-scout-17b-instruct-v1:0", 0, "a tool"),
    ],
)
def test_check_is_for_the_model_that_is_named(loose, model, code, told):
    outcome = bx("schema", "check", loose, "--for", model)
    assert outcome.code == code
    assert told in outcome.out.splitlines()[-1]


def test_check_reports_to_machines(loose):
    report = json.loads(bx("schema", "check", loose, "--format", "json").out)
    assert report["family"] == "claude"
    assert report["counts"] == {"optional": 1, "union": 0}
    assert {finding["path"] for finding in report["findings"]} == {"$", "$.properties.name.maxLength"}
    assert all(finding["source"] and finding["date"] for finding in report["findings"])


def test_what_is_no_schema_is_told_apart_and_ends_with_2():
    outcome = bx("schema", "check", '{"type": "objct"}')
    assert (outcome.code, outcome.out) == (2, "")
    assert "cannot be used as a JSON Schema: $.type" in outcome.err


def test_fix_prints_the_schema_and_tells_each_change(loose):
    outcome = bx("schema", "fix", loose)
    assert outcome.code == 0
    fixed = json.loads(outcome.out)
    assert fixed["additionalProperties"] is False
    assert "maxLength" not in fixed["properties"]["name"]
    assert "$.properties.name.maxLength" in outcome.err
    again = bx("schema", "fix", "-", stdin=outcome.out)
    assert json.loads(again.out) == fixed
    assert "nothing had to be changed" in again.err
    assert bx("schema", "check", "-", stdin=outcome.out).code == 0


def test_fix_refuses_with_a_reason_what_has_no_equal():
    outcome = bx("schema", "fix", '{"type": "array", "prefixItems": [{"type": "string"}]}')
    assert (outcome.code, outcome.out) == (8, "")
    assert "prefixItems" in outcome.err
    assert "-> " in outcome.err


def test_infer_takes_files_lines_and_standard_input(tmp_path):
    (tmp_path / "one.json").write_text('{"a": 1}')
    (tmp_path / "more.jsonl").write_text('{"a": 2, "b": "x"}\n\n{"a": 3}\n')
    outcome = bx("schema", "infer", str(tmp_path / "one.json"), str(tmp_path / "more.jsonl"), "-", stdin='{"a": 4.5}')
    assert outcome.code == 0
    schema = json.loads(outcome.out)
    assert schema["properties"] == {"a": {"type": "number"}, "b": {"type": "string"}}
    assert schema["required"] == ["a"]


@pytest.mark.parametrize(
    ("content", "told"), [(b"{", "is not JSON"), (b"\xff", "not UTF-8"), (None, "cannot be read")]
)
def test_an_example_that_cannot_be_used_is_named(tmp_path, content, told):
    file = tmp_path / "example.json"
    if content is not None:
        file.write_bytes(content)
    outcome = bx("schema", "infer", str(file))
    assert outcome.code == 2
    assert str(file) in outcome.err
    assert told in outcome.err


def test_a_line_that_is_no_json_is_named_by_its_number(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n{"a": \n')
    assert "rows.jsonl, line 3," in bx("schema", "infer", str(tmp_path / "rows.jsonl")).err


def test_example_prints_a_minimal_instance(loose):
    outcome = bx("schema", "example", loose)
    assert (outcome.code, json.loads(outcome.out)) == (0, {"name": ""})


def test_warm_sends_the_shortest_request_with_the_schema_that_asking_sends(endpoint, loose):
    endpoint.respond = lambda _: answer("{", stop="max_tokens")
    taken = ["--model", "claude", "--endpoint-url", endpoint.url]
    outcome = bx("schema", "warm", "name, age int", *taken)
    assert outcome.code == 0
    assert bx("schema", "warm", loose, *taken).code == 0  # what it only checks is no obstacle
    endpoint.requests.pop()
    assert "claude is ready for the schema after" in outcome.out
    assert "tokens: 12" in outcome.out
    assert endpoint.requests[0].body["inferenceConfig"] == {"maxTokens": 1}
    bx("Hi", "--json", "name, age int", *taken)
    assert endpoint.requests[1].body["outputConfig"] == endpoint.requests[0].body["outputConfig"]


def test_warm_has_nothing_to_prepare_without_a_grammar(endpoint):
    outcome = bx("schema", "warm", "name", "--model", "nova", "--endpoint-url", endpoint.url)
    assert outcome.code == 2
    assert "claude" in outcome.err
    assert not endpoint.requests


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["infer", "{}", "--for", "nova"],
        ["fix", "a", "--format", "json"],
        ["check"],
        ["mend", "a"],
        ["check", "a", "b"],
        ["check", "a", "--format", "xml"],
        ["check", "a", "--for", "x"],
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_to_type(arguments):
    outcome = bx("schema", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "-> " in outcome.err


def test_a_python_type_is_a_schema_too(tmp_path, monkeypatch):
    (tmp_path / "order_types.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Order:\n    item: str\n    count: int = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    outcome = bx("schema", "example", "order_types:Order")
    assert (outcome.code, json.loads(outcome.out)) == (0, {"item": ""})
