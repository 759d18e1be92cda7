"""The public interface as a user types it: checked by mypy --strict, never run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

import bx
from bx.server.endpoint import Endpoint

schema: dict[str, Any] = {"type": "object"}

assert_type(bx.ask("hello"), str)
assert_type(bx.ask([{"role": "user", "content": [{"text": "hello"}]}], model="local", maxTokens=10), str)
assert_type(bx.request("hello", model="nova", system="Be brief", temperature=0), dict[str, Any])
pieces: Iterator[str] = bx.stream("hello", model="claude")
value: Any = bx.ask_json("hello", schema, model="local")


def answer(engine: bx.Engine) -> str:
    return bx.text(engine.converse(**bx.request("hello", model="nova")))


answer(bx.engine(geo="eu", region="eu-west-1"))


class Mine:
    """An engine of a user: the two methods, and no more."""

    def converse(self, **request: Any) -> dict[str, Any]:
        return {}

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        return {"stream": iter(())}


with bx.serve(Mine()) as own, bx.serve(model="echo", strict=False, faults=["ThrottlingException,nth=1"]) as endpoint:
    assert_type(own.url, str)
    endpoint.faults.add("ThrottlingException,nth=1", {"fault": "latency", "seconds": 1})
    operation, asked = endpoint.requests[0]
    assert_type(operation, str)
    assert_type(asked, dict[str, Any])
    assert_type(endpoint.stats.summary(), dict[str, Any])


def test_of_a_user(bx_bedrock: Endpoint) -> None:
    assert_type(bx_bedrock.requests[0].request, dict[str, Any])
