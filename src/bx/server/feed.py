"""From the thread that answers an exchange to the event loop that sends: pieces, in their order, and not too many."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from enum import Enum
from typing import TYPE_CHECKING, Any

from bx.converse import error
from bx.server import wire
from bx.server.exchange import Act, Reply

if TYPE_CHECKING:
    from bx.server.exchange import Answer, Received

_log = logging.getLogger("bx.server")

_AHEAD = 32  # pieces of a body that a thread may be ahead of its client


class End(Enum):
    """How a body ends, for its feed."""

    WHOLE = "all of it was sent"
    GONE = "the client has hung up"
    STOPPED = "the server stops"


class Feed:
    """What an exchange's thread has to send; the thread waits while its client is too far behind."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: list[Any] = []
        self._changed = threading.Condition()
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, piece: Reply | bytes | Act | End) -> bool:
        """Pass a piece on; returns whether anybody still wants more. Called by the thread."""
        with self._changed:
            while len(self._pieces) >= _AHEAD and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self._pieces.append(piece)
            wake = len(self._pieces) == 1
        if wake:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._ready.set)
        return True

    async def take(self) -> list[Any]:
        """Wait for pieces and take all there are."""
        await self._ready.wait()
        self._ready.clear()
        with self._changed:
            taken, self._pieces = self._pieces, []
            self._changed.notify_all()
        return taken

    def close(self, end: End) -> None:
        """Let this be the end, and take nothing more. Called by the event loop."""
        with self._changed:
            if not self._closed:
                self._closed = True
                self._pieces.append(end)
            self._changed.notify_all()
        self._ready.set()


def work(answer: Answer, received: Received, feed: Feed) -> None:
    """Answer in a thread, and pass the reply on, and then the pieces of its body."""
    try:
        reply = answer(received)
    except Exception:  # noqa: BLE001 # whatever it is, the client is told, and the log
        _log.exception("An exchange failed")
        message = "The server failed unexpectedly; its log tells more"
        reply = wire.failure(error("InternalServerException", message))
    wanted = feed.put(reply)
    if isinstance(reply.body, bytes):
        return
    close = getattr(reply.body, "close", lambda: None)
    try:
        with received.hangup.closes(close):  # a body may be waiting for its next piece for long
            for piece in reply.body if wanted else ():
                if not feed.put(piece):
                    break
        feed.put(End.WHOLE)
    except Exception:  # noqa: BLE001 # what was sent cannot be taken back
        if not received.hangup.wait(0):
            _log.exception("The body of an exchange failed")
        feed.put(Act.HANGUP)
    finally:
        close()
