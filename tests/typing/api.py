"""The public interface as a user types it: checked by mypy --strict, never run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

import bx

schema: dict[str, Any] = {"type": "object"}

assert_type(bx.ask("hello"), str)
assert_type(bx.ask([{"role": "user", "content": [{"text": "hello"}]}], model="local", maxTokens=10), str)
assert_type(bx.request("hello", model="nova", system="Be brief", temperature=0), dict[str, Any])
pieces: Iterator[str] = bx.stream("hello", model="claude")
value: Any = bx.ask_json("hello", schema, model="local")


def answer(engine: bx.Engine) -> str:
    return bx.text(engine.converse(**bx.request("hello", model="nova")))


answer(bx.engine(geo="eu", region="eu-west-1"))
