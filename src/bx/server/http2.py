"""HTTP/2, by uvicorn and zttp: what they leave to do so that a client that does not read fills no memory."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.zttp_h2_impl import ZttpH2Protocol

if TYPE_CHECKING:
    import zttp

_BEHIND = 64 * 1024  # bytes that a stream may hold for its client
_PROTOCOL_ERROR = 1  # of HTTP/2's codes


class Http2(ZttpH2Protocol):
    """uvicorn's HTTP/2, which tells the application the transport, and lets it wait for its client."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Begin, as asyncio calls it."""
        super().connection_made(transport)
        self._application = self.app
        self._moved = asyncio.Event()  # set, and replaced, when the client may have taken something
        self._deadline: asyncio.TimerHandle | None = None
        self._rearm()

    def data_received(self, data: bytes) -> None:
        """Read frames; what they grant may let streams go on."""
        super().data_received(data)
        self._wake()
        self._rearm()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, as asyncio calls it."""
        super().connection_lost(exc)
        self._wake()
        if self._deadline:
            self._deadline.cancel()

    def on_stream_closed(self) -> None:
        """Go on, as uvicorn calls it, with one stream less."""
        super().on_stream_closed()
        self._rearm()

    def handle_request(self, event: zttp.Request) -> None:
        """Have a request answered, at the pace of its client."""
        stream = self.conn.stream(event.stream_id)
        if not event.target.isascii():  # which uvicorn takes for granted, for the whole connection's life
            stream.reset(_PROTOCOL_ERROR)
            return
        self.app = functools.partial(self._paced, stream)
        super().handle_request(event)
        if event.end_stream:  # a request without a body, whose end zttp tells here alone, where uvicorn does not look
            cycle = self.cycles[event.stream_id]
            cycle.more_body = False
            cycle.message_event.set()

    async def _paced(self, stream: zttp.Stream, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            last = not message.get("more_body") and message["type"] == "http.response.body"
            await send({**message, "more_body": True} if last else message)
            # A client grants each stream a window; what is sent beyond it, zttp keeps, however much it is.
            while not self.transport.is_closing() and (stream.pending_bytes or 0) > (0 if last else _BEHIND):
                await self._moved.wait()
            if last:
                await send({**message, "body": b""})

        await self._application(scope, receive, sent, transport=self.transport)

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _rearm(self) -> None:
        """Wait for the next request only so long, whatever else comes: a head can be sent drop by drop."""
        if self.cycles and self._deadline:
            self._deadline.cancel()
            self._deadline = None
        elif not self.cycles and self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.timeout_keep_alive, self._close_connection)
