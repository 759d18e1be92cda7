"""What `import bx` promises."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib.metadata import version

import pytest
from botocore.exceptions import ClientError

import bx
from scripted import answer


def test_the_public_names_are_listed_in_order_and_exist():
    assert list(bx.__all__) == sorted(bx.__all__)
    assert all(hasattr(bx, name) for name in bx.__all__)


def test_every_public_name_says_what_it_is():
    assert all(getattr(bx, name).__doc__ for name in bx.__all__)


def test_the_version_is_the_distribution_s():
    assert bx.__version__ == version("bedrock-bx")


def test_ask_returns_the_text():
    assert bx.ask("Hello there", model="echo") == "Hello there"


def test_ask_takes_a_conversation_and_inference_settings():
    turns = [{"role": "user", "content": [{"text": "one two three"}]}]
    assert bx.ask(turns, model="echo", maxTokens=2, system="Be brief") == "one two"


def test_stream_yields_the_pieces_as_they_come():
    assert list(bx.stream("Hello there", model="echo")) == ["Hello", " there"]


def test_ask_json_returns_the_parsed_answer():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert bx.ask_json('{"a": 1}', schema, model="echo") == {"a": 1}


def test_ask_json_raises_what_arrived_when_it_breaks_the_schema():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    with pytest.raises(bx.InvalidAnswer, match=r"\$\.a") as invalid:
        bx.ask_json('{"a": 1}', schema, model="echo")
    assert invalid.value.text == '{"a": 1}'


def test_an_unknown_name_is_an_error_that_lists_the_names():
    with pytest.raises(ValueError, match="nvoa") as unknown:
        bx.ask("hi", model="nvoa")
    assert "nova" in unknown.value.fix


def test_an_engine_takes_the_settings_of_the_environment(endpoint, monkeypatch):
    monkeypatch.setenv("BX_ENDPOINT_URL", endpoint.url)
    monkeypatch.setenv("BX_GEO", "eu")
    engine = bx.engine()
    reply = engine.converse(**bx.request("Hello", model="nova"))
    engine.close()
    assert bx.text(reply) == "Hello"
    assert endpoint.requests[0].model == "eu.amazon.nova-2-lite-v1:0"


def test_what_is_given_beats_the_settings(endpoint, monkeypatch):
    monkeypatch.setenv("BX_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("BX_GEO", "eu")
    engine = bx.engine(endpoint_url=endpoint.url, geo="us")
    engine.converse(**bx.request("Hello", model="nova"))
    engine.close()
    assert endpoint.requests[0].model == "us.amazon.nova-2-lite-v1:0"


def test_all_calls_share_one_engine():
    code = "import bx; bx.ask('a', model='echo'); engine = bx._default(); assert engine is bx._default()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_invalid_schema_is_refused_before_anything_is_sent(endpoint, monkeypatch):
    monkeypatch.setenv("BX_ENDPOINT_URL", endpoint.url)
    with pytest.raises(ValueError, match="cannot be used as a JSON Schema"):
        bx.ask_json("hi", {"type": "strng"}, model="claude")
    assert not endpoint.requests


def test_a_schema_may_be_in_words_or_a_type():
    @dataclasses.dataclass
    class Incident:
        minutes: int

    for schema in ("minutes int", Incident):
        assert bx.ask_json('{"minutes": 47}', schema, model="echo") == {"minutes": 47}
    with pytest.raises(ValueError, match="unknown type"):
        bx.ask_json("Hi", "minutes integr", model="echo")


def test_json_is_given_as_it_grows_and_judged_in_the_end():
    seen = list(bx.stream_json('{"service": "check out", "minutes": 47}', "service, minutes int", model="echo"))
    assert seen[0] == {}
    assert {"service": "check out"} in seen
    assert seen[-1] == {"service": "check out", "minutes": 47}
    growing = bx.stream_json('{"minutes": "47", "x": {}}', "minutes int", model="echo")
    assert next(growing) == {}
    with pytest.raises(bx.InvalidAnswer):
        list(growing)
    for text in ("no JSON at all", '{"minutes" 47}', "{", ""):
        with pytest.raises((bx.InvalidAnswer, ClientError)):
            list(bx.stream_json(text or " ", "minutes int", model="echo"))


def test_closing_growing_json_stops_the_model(endpoint, monkeypatch):
    engine = bx.engine(endpoint_url=endpoint.url)
    monkeypatch.setattr(bx, "_default", lambda _=None: engine)
    growing = bx.stream_json("{} " * 2000, {"type": "object"}, model="claude")
    next(growing)
    growing.close()
    assert list(growing) == []
    engine.close()


def test_the_guarantee_is_a_matter_of_the_engine_or_the_call(endpoint):
    engine = bx.engine(endpoint_url=endpoint.url, guarantee="enforced")
    with pytest.raises(ValueError, match="No grammar"):
        engine.converse(**bx.request("Hi", model="nova", schema={"type": "object"}))
    with pytest.raises(ValueError, match="No grammar"):
        bx.ask_json("Hi", "name", model="nova", guarantee="enforced")
    assert not endpoint.requests
    engine.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_typed_function_is_a_tool(endpoint, monkeypatch, stream):
    def minutes_down(service: str) -> int:
        """Look up for how long a service was down."""
        return {"checkout": 47}[service]

    call = {"toolUse": {"toolUseId": "tooluse_1", "name": "minutes_down", "input": {"service": "checkout"}}}
    endpoint.script.extend([answer(call, stop="tool_use"), answer("47 minutes")])
    engine = bx.engine(endpoint_url=endpoint.url)
    monkeypatch.setattr(bx, "_default", lambda _=None: engine)
    asked = {"model": "claude", "tools": [minutes_down]}
    said = "".join(bx.stream("How long?", **asked)) if stream else bx.ask("How long?", **asked)
    assert said == "47 minutes"
    told = endpoint.requests[1].body["messages"][-1]["content"][0]["toolResult"]
    assert told["content"] == [{"text": "47"}]
    engine.close()
