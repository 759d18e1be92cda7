"""The stream of a rung, unfolded into the stream of an answer in text, event by event as they come.

A tool's input becomes text, a document is cut out of prose, what was wrapped is unwrapped. What no longer fits into a
stream of text is kept back until it is known what it was. This module sends nothing and judges no answer.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from bx import partial, rungs
from bx.converse import Stream
from bx.instances import loads

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from bx.converse import Event, Response
    from bx.rungs import Asked

_LONGEST_BLANK = 500  # characters of white space in a row, after which a model is lost in it
_METADATA = ("usage", "metrics", "trace", "performanceConfig", "serviceTier")
_ENDING = ("stopReason", "additionalModelResponseFields")

_log = logging.getLogger("bx.structured")


def begun(response: Response) -> Response:
    """Wait for a stream's first event: a refusal may come as one."""
    stream = response["stream"]
    events = iter(stream)
    first = list(itertools.islice(events, 1))
    return {**response, "stream": Stream(_chained(first, events), getattr(stream, "close", lambda: None))}


def events(asked: Asked, stream: Iterable[Event]) -> Generator[Event]:
    """Turn the events of a rung into those of an answer in text."""
    answer = _Answer(asked, stream)
    pieces = answer.pieces()
    cut: Iterable[str] = partial.document(pieces) if asked.cut else pieces
    if asked.wrapped and (asked.cut or asked.tool):
        cut = partial.member(cut, rungs.NAME)
    for piece in itertools.chain(cut, ("" for _ in pieces)):
        yield from answer.waiting()
        if piece:
            yield answer.shown(piece)
    yield from answer.waiting()
    yield from answer.ending()


def from_response(response: Response) -> Generator[Event]:
    """Give a whole response as the events of a stream."""
    message = response["output"]["message"]
    yield {"messageStart": {"role": message["role"]}}
    for index, block in enumerate(message["content"]):
        place = {"contentBlockIndex": index}
        if call := block.get("toolUse"):
            start = {name: part for name, part in call.items() if name != "input"}
            yield {"contentBlockStart": {**place, "start": {"toolUse": start}}}
        for delta in _deltas(block):
            yield {"contentBlockDelta": {**place, "delta": delta}}
        yield _stop(index)
    yield {"messageStop": {name: response[name] for name in _ENDING if name in response}}
    yield {"metadata": {name: response[name] for name in _METADATA if name in response}}


def _chained(first: list[Event], events: Iterator[Event]) -> Generator[Event]:
    yield from first
    yield from events


class _Answer:
    """Where the answer is in a stream: the first call of our tool, or the text."""

    def __init__(self, asked: Asked, stream: Iterable[Event]) -> None:
        self._asked = asked
        self._stream = stream
        self._passed: deque[Event] = deque()  # what is no part of the answer, on its way
        self._tail: list[Event] = []  # from messageStop on
        self._index: int | None = None  # of the answer's block
        self._hidden: set[int] = set()  # blocks of which nothing is passed on
        self._taken: list[str] = []  # the answer as it was written
        self._prose: list[str] = []  # text before a call, which is the answer where no call comes
        self._open = False  # whether a part of the answer was shown
        self._others = False  # whether another tool was called first
        self._blanks = _Blanks()

    def pieces(self) -> Iterator[str]:
        """Yield the answer's pieces, at least one an event."""
        for event in self._stream:
            if self._tail or "messageStop" in event:
                self._tail.append(event)
                yield ""
                continue
            yield self._piece(event)
            if self._blanks.run > _LONGEST_BLANK:
                self._end_early()
                return

    def waiting(self) -> Iterator[Event]:
        """Yield the events that have been passed by."""
        while self._passed:
            yield self._passed.popleft()

    def shown(self, piece: str) -> Event:
        """Make a piece of the answer an event."""
        self._open = True
        return _text(self._index or 0, piece)

    def ending(self) -> Iterator[Event]:
        """Yield the end of the answer, and of the stream."""
        if not self._others:
            if not self._open and (whole := self._whole()):
                yield self.shown(whole)
            if self._open:
                yield _stop(self._index or 0)
        for event in self._tail:
            stop = event.get("messageStop", {})
            ours = self._asked.tool and self._index is not None and not self._others
            if ours and stop.get("stopReason") == "tool_use":
                yield {"messageStop": {**stop, "stopReason": "end_turn"}}
            else:
                yield event

    def _piece(self, event: Event) -> str:
        """Take an event in; returns its part of the answer."""
        ((_, body),) = event.items()
        at, delta = body.get("contentBlockIndex"), body.get("delta", {})
        name = body["start"]["toolUse"].get("name") if rungs.is_call(body.get("start", {})) else None
        if name is not None and name == self._asked.tool and not self._others:
            self._hidden.add(at)
            self._index = at if self._index is None else self._index
        elif name is not None and self._asked.tool and self._index is not None:
            self._hidden.add(at)  # called beside the answer, which is enough
        elif "text" in delta and not self._others and not (self._asked.tool and self._index is not None):
            return self._spoken(at, delta["text"])
        elif at in self._hidden:
            return self._taken_in(delta.get("toolUse", {}).get("input", "")) if at == self._index else ""
        else:
            if name is not None:
                self._another()
            self._passed.append(event)
        return ""

    def _spoken(self, at: int, piece: str) -> str:
        if not self._asked.tool:
            self._index = at if self._index is None else self._index
            self._hidden.add(at)
            return self._taken_in(piece)
        self._hidden.add(at)
        self._prose.append(piece)
        return ""

    def _taken_in(self, piece: str) -> str:
        self._taken.append(piece)
        self._blanks.feed(piece)
        return piece

    def _another(self) -> None:
        """Another tool is called: what was written before is no answer, but may be shown."""
        if not self._others and not self._open:
            if said := "".join(self._prose or self._taken):
                self._passed.append(_text(min(self._hidden), said))
                self._passed.append(_stop(min(self._hidden)))
        elif not self._others:
            self._passed.append(_stop(self._index or 0))
        self._others = True

    def _whole(self) -> str:
        """Return an answer of which nothing could be shown as it came."""
        said = "".join(self._taken or self._prose)
        try:
            return json.dumps(rungs.values(self._asked, said)[0], ensure_ascii=False)
        except ValueError:
            return said

    def _end_early(self) -> None:
        getattr(self._stream, "close", lambda: None)()
        try:
            loads("".join(self._taken))
            stop = "end_turn"
        except ValueError:
            stop = "malformed_model_output"
        _log.warning("The model wrote nothing but white space any more and was stopped; what it wrote is billed")
        self._tail.append({"messageStop": {"stopReason": stop}})


class _Blanks:
    """How much white space stands at the end of a JSON text, outside of its strings."""

    def __init__(self) -> None:
        self.run = 0
        self._inside = self._escaped = False

    def feed(self, piece: str) -> None:
        for character in piece:
            if self._escaped:
                self._escaped = False
            elif character == "\\" and self._inside:
                self._escaped = True
            elif character == '"':
                self._inside = not self._inside
            self.run = self.run + 1 if character.isspace() and not self._inside else 0


def _deltas(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if call := block.get("toolUse"):
        yield {"toolUse": {"input": json.dumps(call["input"])}}
    elif thought := block.get("reasoningContent"):
        for name, part in {**thought, **thought.get("reasoningText", {})}.items():
            if name != "reasoningText":
                yield {"reasoningContent": {name: part}}
    elif cited := block.get("citationsContent"):
        yield from ({"citation": citation} for citation in cited.get("citations", ()))
        yield from ({"text": part["text"]} for part in cited.get("content", ()))
    elif "text" in block:
        yield {"text": block["text"]}


def _text(index: int, piece: str) -> Event:
    return {"contentBlockDelta": {"contentBlockIndex": index, "delta": {"text": piece}}}


def _stop(index: int) -> Event:
    return {"contentBlockStop": {"contentBlockIndex": index}}
