"""What `import bx` promises."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import bx


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
