"""uvicorn: a server that runs in a thread of its own until it is stopped.

It speaks HTTP/1.1 by h11, which bounds a request's head, and HTTP/2, in the clear as well, by zttp.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import h11
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from bx.server import frames

if TYPE_CHECKING:
    import socket
    import ssl

    from bx.server.http import Application

_log = logging.getLogger("bx.server")

_USED_UP = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PATIENCE = 10  # seconds that stopping may take beyond what was granted
_TICK = 0.002  # seconds
_LINGER = 1  # seconds that a client has to take what its exchange ended with


class _Http1(H11Protocol):
    """uvicorn's HTTP/1.1, which tells the application the transport, and gives a request's head a deadline."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self.app = functools.partial(self.app, transport=transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._rearm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._rearm()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._rearm()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._deadline:
            self._deadline.cancel()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, with a request id as every reply has one."""
        headers = [
            ("Content-Type", "application/json"),
            ("x-amzn-errortype", "ValidationException"),
            ("x-amzn-RequestId", str(uuid.uuid4())),
            ("Connection", "close"),
        ]
        head = h11.Response(status_code=400, reason=b"Bad Request", headers=headers)
        for event in (head, h11.Data(data=frames.dumped({"message": msg})), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _rearm(self) -> None:
        """Wait for the next head, however slowly it comes, only so long."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy and self._deadline:
            self._deadline.cancel()
            self._deadline = None
        elif not busy and self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)


def _protocol() -> type[asyncio.Protocol]:
    """Return what speaks to clients: HTTP/2 too, which the JavaScript SDK begins with, where its library is there."""
    try:
        from uvicorn.protocols.http.auto_zttp_impl import AutoZttpProtocol

        from bx.server.http2 import Http2
    except ImportError:
        return _Http1

    class Either(AutoZttpProtocol):
        """The one that a client's first bytes, or its TLS handshake, choose."""

        def _switch(self, http2: bool, initial_data: bytes = b"") -> None:  # noqa: FBT001 # as uvicorn has it
            kind = Http2 if http2 else _Http1
            chosen = kind(self.config, self.server_state, self.app_state, self.loop)
            self.transport.set_protocol(chosen)
            chosen.connection_made(self.transport)
            if initial_data:
                chosen.data_received(initial_data)

    return Either


class Running:
    """A server that runs in a thread of its own, until it is stopped.

    Args:
        application: what answers.
        listener: a listening socket; the server closes it.
        tls: what makes it https.
    """

    def __init__(
        self, application: Application, listener: socket.socket, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.application = application
        config = Config(
            self.application,
            http=_protocol(),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            interface="asgi3",
            timeout_keep_alive=application.limits.idle,  # type: ignore[arg-type] # seconds of any kind will do
            h11_max_incomplete_event_size=application.limits.head,
        )
        config.load()
        config.ssl = tls
        if tls:
            tls.set_alpn_protocols(getattr(config.http_protocol_class, "alpn_protocols", ["http/1.1"]))
        self._server = _Server(config)
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="bx-server")
        self._failure: BaseException | None = None
        self._crowded = False

    def start(self) -> None:
        """Begin to serve; returns when connections are taken."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(_TICK)
        if self._failure:
            raise self._failure

    def stop(self, grace: float) -> None:
        """Take nothing new, let what runs finish for some seconds, end the rest, and return."""
        if self._thread.ident is None:  # it was never started
            self._listener.close()
            return
        if self._loop and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has ended in this moment
                self._loop.call_soon_threadsafe(self._stop, grace)
        self._thread.join(grace + _PATIENCE)

    def _stop(self, grace: float) -> None:
        self.application.stop(grace)
        self._server.leave()
        asyncio.get_running_loop().call_later(grace + _LINGER, self._server.drop)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:  # noqa: BLE001 # it is raised again in the thread that started this one
            self._failure = failure

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of what clients do wrong
        self._loop.set_exception_handler(self._surprised)
        await self._server.serve(sockets=[self._listener])

    def _surprised(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Say once that connections have to wait; asyncio would, with tracebacks, two thousand times a second."""
        failure = context.get("exception")
        if (
            self._crowded and self._server.should_exit
        ):  # asyncio would listen again, where the server has just stopped
            return
        if not isinstance(failure, OSError) or failure.errno not in _USED_UP:
            loop.default_exception_handler(context)
        elif not self._crowded:
            self._crowded = True
            _log.warning("There are more connections than this process may open: new ones wait for others to end")


class _Server(Server):
    """uvicorn's server, which leaves signals to the program, and stops at once: it has pauses of 0.1 seconds."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Stop; for the event loop's own thread."""
        self.should_exit = True
        self._leaving.set()

    def drop(self) -> None:
        """End the connections of clients that do not take what is sent to them."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # it sets the date that replies have
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), 1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 # uvicorn tells of no end
            await asyncio.sleep(_TICK)
        for server in self.servers:
            await server.wait_closed()

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override] # it yields nothing
        return contextlib.nullcontext()
