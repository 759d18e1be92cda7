"""The turns of an answer: what a model calls is run, and the model is asked again, until there is an answer.

`Equipped` is an engine around an engine. This module knows no terminal (whoever makes one says what is allowed), no
model, and not how a process is run (`bx.command`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
import threading
from typing import TYPE_CHECKING, Any

from bx import command
from bx.command import Failed
from bx.converse import Stream, broken_stream, collect, complete, total
from bx.instances import violation
from bx.schema import walk
from bx.tools import Tool, config, of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from bx.converse import Engine, Event, Request, Response

_log = logging.getLogger("bx.tools")

MAX_TURNS = 10
_LONGEST = 1000  # characters of a broken rule that the model is told: it may quote the whole input


class TooManyTurns(RuntimeError):
    """The model still calls tools in the last turn that it was given. `last` is that turn's response."""

    exit_code = 9  # a budget would be exceeded: each turn is paid for
    fix = "Raise --max-turns (max_turns in Python)"

    def __init__(self, message: str, last: Response) -> None:
        super().__init__(message)
        self.last = last


class Equipped:
    """An engine with tools: it runs what the model calls, gives it the results, and asks again.

    Calls are run one after the other, in the model's order. A turn that calls a tool which is not run here is the
    answer, and nothing of it is run. What goes wrong with a call is told to the model and logged, never raised.

    Args:
        engine: who is asked.
        tools: what the model may call; a typed function stands for its tool. Sent as `toolConfig`, unless the
            request has one; inputs are held to the schemas given here all the same.
        allow: asked before each run with the tool and its input. Without it, functions are run and commands are not.
        max_turns: how often the model is asked, at most.
    """

    def __init__(
        self,
        engine: Engine,
        tools: Iterable[Tool | Callable[..., Any]],
        *,
        allow: Callable[[Tool, dict[str, Any]], bool] | None = None,
        max_turns: int = MAX_TURNS,
    ) -> None:
        made = [tool if isinstance(tool, Tool) else of(tool) for tool in tools]
        self._engine = engine
        self._tools = {tool.name: tool for tool in made}
        self._defaults: Request = {"toolConfig": config(made)} if made else {}
        self._allow = allow or (lambda tool, _: tool.function is not None)
        self._max_turns = max_turns
        self._without_status: set[str] = set()  # models that refuse the `status` of a result

    def converse(self, **request: Any) -> Response:
        """Answer in one piece: the last turn's response, with the `usage` and `metrics` of all turns.

        `ResponseMetadata.Turns` counts them. See `bx.converse.Engine`.

        Raises:
            TooManyTurns: the model calls tools in the last turn too.
        """
        request = {**self._defaults, **request}
        never, summed = threading.Event(), dict[str, Any]()
        for turn in itertools.count(1):
            response = self._ask(self._engine.converse, request, turn, summed)
            metadata = {**response.get("ResponseMetadata", {}), "Turns": turn}
            summed = {**_summed(summed, response), "ResponseMetadata": metadata}
            calls = self._calls(summed, request, turn)
            if not calls:
                break
            request = self._next(request, summed, calls, never)
        return summed

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events: those of every turn as they come, each turn from `messageStart` to `metadata`.

        A turn's `metadata` counts the turns before it too, so that the last one has the sums. Closing the stream
        stops the model and a running command. See `bx.converse.Engine`; the iterator may raise `TooManyTurns`.
        """
        request = {**self._defaults, **request}
        response = self._ask(self._engine.converse_stream, request, 1, {})
        live = _Live(response["stream"])
        return {**response, "stream": Stream(self._events(request, live), live.close)}

    def close(self) -> None:
        """Close the engine."""
        if close := getattr(self._engine, "close", None):
            close()

    def _events(self, request: Request, live: _Live) -> Generator[Event]:
        summed: dict[str, Any] = {}
        for turn in itertools.count(1):
            kept = []
            with contextlib.closing(complete(live.events)) as events:
                for event in events:
                    if "metadata" in event:
                        summed = _summed(summed, event["metadata"])
                    kept.append({"metadata": summed} if "metadata" in event else event)
                    yield kept[-1]
            response = _calling(kept)
            calls = self._calls(response, request, turn) if response else []
            if not response or not calls:
                return
            request = self._next(request, response, calls, live.stopped)
            if live.stopped.is_set():
                return
            live.follow(self._ask(self._engine.converse_stream, request, turn + 1, summed)["stream"])
            if live.stopped.is_set():
                return

    def _ask(self, call: Callable[..., Response], request: Request, turn: int, summed: dict[str, Any]) -> Response:
        """Ask for a turn; once more without `status` where the model refuses that (which costs nothing)."""
        model = str(request.get("modelId"))
        try:
            try:
                return call(**(_bare(request) if model in self._without_status else request))
            except Exception as failure:
                if turn == 1 or model in self._without_status or not _refuses_status(failure):
                    raise
                self._without_status.add(model)
            return call(**_bare(request))
        except Exception:
            if spent := summed.get("usage", {}).get("totalTokens"):
                _log.warning("Turn %d failed; the turns before it took %d tokens", turn, spent)
            raise

    def _calls(self, response: Response, request: Request, turn: int) -> list[dict[str, Any]]:
        """Return the calls that are to be run: all of a response, or none.

        Raises:
            TooManyTurns: nobody would read their results.
        """
        if response["stopReason"] != "tool_use" or not self._tools:
            return []
        blocks = response["output"]["message"]["content"]
        called = [block["toolUse"] for block in blocks if "toolUse" in block]
        calls = [call for call in called if call.get("type") != "server_tool_use"]  # those the service runs
        declared = {tool.get("toolSpec", {}).get("name") for tool in request["toolConfig"]["tools"]}
        for name in (call["name"] for call in calls):
            if not (self._tools[name].runs if name in self._tools else name not in declared):
                return []
        if calls and turn >= self._max_turns:
            raise TooManyTurns(
                f"The model still calls tools after {turn} turn{'s'[: turn - 1]} ({calls[0]['name']})", response
            )
        return calls

    def _next(
        self, request: Request, response: Response, calls: list[dict[str, Any]], stopped: threading.Event
    ) -> Request:
        """Run the calls and build the next turn's request."""
        said = response["output"]["message"]
        # As it came, for reasoning is signed; but a blank text, which some models write, is refused on its way back.
        content = [block for block in said["content"] if block.get("text", "some").strip()]
        results = [self._result(call, stopped) for call in calls if not stopped.is_set()]
        messages = [*request.get("messages", []), {**said, "content": content}, {"role": "user", "content": results}]
        # A choice that forces a call would force one in every turn.
        free = {key: part for key, part in request["toolConfig"].items() if key != "toolChoice"}
        return {**request, "messages": messages, "toolConfig": free}

    def _result(self, call: dict[str, Any], stopped: threading.Event) -> dict[str, Any]:
        name = call["name"]
        try:
            content, status = self._run(name, call["input"], stopped), "success"
        except Failed as failure:
            first_line = str(failure).partition("\n")[0]
            _log.warning("Tool %s: %s", name, first_line, exc_info=failure.__cause__)
            content, status = {"text": str(failure)}, "error"
        else:
            _log.info("Tool %s: done", name)
        return {"toolResult": {"toolUseId": call["toolUseId"], "content": [content], "status": status}}

    def _run(self, name: str, given: Any, stopped: threading.Event) -> dict[str, Any]:
        """Run one call and return the content block of its result.

        Raises:
            Failed: it was not run, or gave no result.
        """
        tool = self._tools.get(name)
        if tool is None:
            raise Failed(f"There is no tool of this name; the tools are {', '.join(self._tools)}")
        if broken := violation(given, tool.schema):
            raise Failed(f"The tool was not run: its input does not satisfy the schema: {broken[:_LONGEST]}")
        if not self._allow(tool, given):
            raise Failed("The tool was not run: the call was not allowed")
        if tool.function is not None:
            return _content(_returned(tool.function, given))
        written = json.dumps(given).encode() + b"\n"
        return _content(command.run(tool.command, written, seconds=tool.timeout, stopped=stopped))


class _Live:
    """The stream of the turn that is under way; closing it ends that turn, what it runs, and all later ones."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.stopped = threading.Event()
        self.events = events

    def follow(self, events: Iterable[Event]) -> None:
        self.events = events
        if self.stopped.is_set():  # closed by another thread in this very moment
            self.close()

    def close(self) -> None:
        self.stopped.set()
        if close := getattr(self.events, "close", None):
            with contextlib.suppress(ValueError):  # a generator that another thread is in
                close()


def _summed(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return what a turn gave, with its `usage` and `metrics` added to those before."""
    if not before:
        return now
    rest = {name: part for name, part in now.items() if name not in ("usage", "metrics")}
    return {**rest, **total([before, now])}


def _calling(events: list[Event]) -> Response | None:
    """Fold a turn's events into its response, if it calls tools."""
    if not any(event.get("messageStop", {}).get("stopReason") == "tool_use" for event in events):
        return None
    try:
        return collect(events)
    except (ValueError, RecursionError) as cause:
        message = f"The input of a tool call is not JSON: {cause}"
        raise broken_stream("modelStreamErrorException", message) from None


def _returned(function: Callable[..., Any], given: dict[str, Any]) -> bytes:
    """Call a function and return its result as text or JSON."""
    import msgspec

    from bx.schema import source

    try:
        converted = source.arguments(function, given)
    except ValueError as cause:
        raise Failed(f"The tool was not run: its input does not fit: {str(cause)[:_LONGEST]}") from None
    try:
        value = function(**converted)
        if value is None or isinstance(value, str):
            return (value or "").encode("utf-8", "replace")
        value = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        plain = msgspec.to_builtins(value, str_keys=True)
        return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    except Exception as failure:
        raise Failed(f"The tool failed: {type(failure).__name__}: {failure}"[: command.LIMIT]) from failure


def _content(output: bytes) -> dict[str, Any]:
    """Return the content block for what a tool gave: JSON where it is an object, else text.

    Raises:
        Failed: it is too long.
    """
    if len(output) > command.LIMIT:
        raise command.flood(output, len(output))
    text = output.decode("utf-8", "replace")
    try:
        value = json.loads(text)
        # What could not be sent as JSON goes as the text that it is: numbers out of range, halves of characters,
        # and what is nested more deeply than an SDK can write.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and walk.depth(value, walk.DEEPEST) <= walk.DEEPEST:
        return {"json": value}
    return {"text": text if text.strip() else "(no output)"}


def _refuses_status(failure: Exception) -> bool:
    # AWS documents a result's `status` for Claude and Nova only.
    error = (getattr(failure, "response", None) or {}).get("Error", {})
    refused = re.search(r"doesn't support the (\S+\.)?status field", error.get("Message", ""))
    return error.get("Code") == "ValidationException" and refused is not None


def _bare(request: Request) -> Request:
    """Copy a request without the `status` of its tool results."""

    def block(given: dict[str, Any]) -> dict[str, Any]:
        result = given.get("toolResult")
        return {"toolResult": {k: v for k, v in result.items() if k != "status"}} if result else given

    messages = [
        {**said, "content": [block(part) for part in said["content"]]} for said in request.get("messages", [])
    ]
    return {**request, "messages": messages}
