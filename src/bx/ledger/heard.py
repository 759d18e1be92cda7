"""An engine that hears what was answered, also where an answer was cut off."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from bx.converse import Stream, collect

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from bx.converse import Engine, Event, Response

CUT = "interrupted"  # the stop reason of an answer that did not arrive to its end


class Heard:
    """An engine around an engine that keeps its last answer: `last` is the response, None where nothing came.

    Of a stream that was closed or broke it is the text that had arrived, with the stop reason `interrupted`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.last: Response | None = None

    def converse(self, **request: Any) -> Response:
        """Answer in one piece: see `bx.converse.Engine`."""
        self.last = None
        self.last = self._engine.converse(**request)
        return self.last

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events: see `bx.converse.Engine`."""
        self.last = None
        response = self._engine.converse_stream(**request)
        events = response["stream"]
        return {**response, "stream": Stream(self._events(events), getattr(events, "close", lambda: None))}

    def _events(self, events: Iterable[Event]) -> Generator[Event]:
        kept: list[Event] = []
        try:
            for event in events:
                if "messageStart" in event:  # where tools are run, the last turn is the answer
                    kept.clear()
                kept.append(event)
                yield event
        finally:
            self.last = _folded(kept)


def _folded(events: list[Event]) -> Response | None:
    """Fold what arrived of a stream into a response; None where there is nothing to read."""
    if any("messageStop" in event for event in events):
        with contextlib.suppress(Exception):  # who reads the stream is told; what can be read of it is kept
            return collect(events)
    pieces = (event.get("contentBlockDelta", {}).get("delta", {}).get("text") for event in events)
    written = "".join(piece for piece in pieces if isinstance(piece, str))
    message = {"role": "assistant", "content": [{"text": written}]}
    return {"output": {"message": message}, "stopReason": CUT} if written.strip() else None
