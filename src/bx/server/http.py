"""Incoming HTTP: an `Answer` as an ASGI application, each exchange in a thread of its own.

It reads a request within its limits, has it answered in a thread, and sends what comes; it tells the thread when the
client has hung up, and lets it wait while the client does not read.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import re
import socket
import struct
import threading
import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from bx.converse import error
from bx.server import frames, wire
from bx.server.exchange import OWN, Act, Received, Reply
from bx.server.feed import End, Feed, work
from bx.server.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from bx.server.exchange import Answer

    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Done = Callable[[dict[str, Any]], None]

_HEARD_OUT = 4  # times the limit that a body may have until the connection is dropped
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_TOO_LONG = "Input is too long for requested model."
_TOO_MANY = "Too many requests, please wait before trying again."
_NO_THREADS = "The server cannot start another thread. Try again later."
_STOPPING = "The server is stopping. Try again later."


class Limits(NamedTuple):
    """What a client may ask of the server; sizes in bytes, times in seconds."""

    body: int = 32 * 1024 * 1024  # the service's own limit is near it
    head: int = 64 * 1024
    concurrent: int = 256  # exchanges that are answered at once
    queue: int = 256  # more that wait for their turn; the next ones are throttled
    idle: float = 60  # without a byte from the client, or while it takes none
    total: float = 3600  # for one exchange


# ---- one exchange ---------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Exchange:
    """An exchange under way, as the event loop sees it."""

    send: Send
    transport: asyncio.Transport
    received: Received
    feed: Feed
    gone: asyncio.Event
    idle: float

    @property
    def own(self) -> bool:
        """Whether it asks for health or the like, which is told however much there is to do."""
        return self.received.path.startswith(OWN)

    async def deliver(self) -> None:
        """Send the reply and the pieces of its body, as they come."""
        reply: Reply | None = None
        while True:
            joined: list[bytes] = []
            last: Act | End | None = None
            for piece in await self.feed.take():
                if isinstance(piece, Reply):
                    reply = piece
                    await self.start(reply)
                    if isinstance(reply.body, bytes):
                        return
                elif isinstance(piece, bytes):
                    joined.append(piece)
                else:
                    last = last or piece
            if joined:
                await self._body(b"".join(joined))
            if last:
                await (self._act(last) if isinstance(last, Act) else self._end(last, reply))
                return

    async def start(self, reply: Reply) -> None:
        """Send the head of a reply, and its body where that is one piece."""
        known = reply.headers.get("x-amzn-RequestId") or self.received.notes.get("request_id")
        request_id = known or str(uuid.uuid4())
        self.received.notes.update(status=reply.status, request_id=request_id)
        if code := reply.headers.get("x-amzn-errortype", "").partition(":")[0]:
            self.received.notes.setdefault("code", code)
        if not reply.status:
            return
        headers = {"x-amzn-RequestId": request_id, **reply.headers}
        if isinstance(reply.body, bytes):
            headers["Content-Length"] = str(len(reply.body))
        raw = [(name.encode(), _UNPRINTABLE.sub("?", value).encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": reply.status, "headers": raw})
        if isinstance(reply.body, bytes):
            await self._body(reply.body, more=False)

    async def watch(self, receive: Receive) -> None:
        """Wait for the client to hang up, and then let nobody work for it any more."""
        await _disconnected(receive)
        self.gone.set()
        self.leave(End.GONE)

    def leave(self, end: End) -> None:
        """Stop the work on this exchange."""
        self.feed.close(end)
        try:
            threading.Thread(target=self.received.hangup.happen, daemon=True).start()  # closing may take a while
        except RuntimeError:  # no more threads
            self.received.hangup.happen()

    async def _body(self, data: bytes, *, more: bool = True) -> None:
        self.received.notes.setdefault("first", time.monotonic())
        async with asyncio.timeout(self.idle):
            await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def _end(self, end: End, reply: Reply | None) -> None:
        """End the body; where the server stops, with an exception that says so."""
        if end is End.GONE:
            return
        if end is End.STOPPED and reply is None:
            await self.start(_stopping())
            return
        cut = end is End.STOPPED and reply and reply.headers.get("Content-Type") == frames.CONTENT_TYPE
        last = frames.exception("serviceUnavailableException", {"message": _STOPPING}) if cut else b""
        await self._body(last, more=False)

    async def _act(self, act: Act) -> None:
        if act is Act.RESET:
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        elif act is Act.HANGUP:
            self.transport.close()
        await self.gone.wait()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _stopping() -> Reply:
    return wire.failure(error("ServiceUnavailableException", _STOPPING))


def _throttled() -> Reply:
    return wire.failure(error("ThrottlingException", _TOO_MANY))


def _closing(message: str) -> Reply:
    """Refuse a request of which not all may have been read, so that no other can follow on its connection."""
    refused = wire.failure(error("ValidationException", message))
    return refused._replace(headers={**refused.headers, "Connection": "close"})


class _Turns:
    """Who is answered at once, and who waits for it, in the order of arrival."""

    def __init__(self, free: int, queue: int) -> None:
        self._free = free
        self._queue = queue
        self._waiting: collections.deque[asyncio.Future[bool]] = collections.deque()

    async def taken(self, gone: asyncio.Event) -> bool:
        """Wait for a turn; False where too many wait already, the server stops, or the client has gone."""
        if self._free:
            self._free -= 1
            return True
        if len(self._waiting) >= self._queue:
            return False
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        leaving = asyncio.create_task(gone.wait())
        used = False
        try:
            await asyncio.wait((turn, leaving), return_when=asyncio.FIRST_COMPLETED)
            used = turn.done() and turn.result() and not gone.is_set()
        finally:
            leaving.cancel()
            if not turn.done():
                self._waiting.remove(turn)  # who has left takes no place in the queue
            elif turn.result() and not used:
                self.free()
        return used

    def free(self) -> None:
        """Give a turn to the next one."""
        if self._waiting:
            self._waiting.popleft().set_result(True)
        else:
            self._free += 1

    def refuse(self) -> None:
        """Let nobody wait any more."""
        self._queue = 0
        while self._waiting:
            self._waiting.popleft().set_result(False)


# ---- the application ------------------------------------------------------------------------------------------


class Application:
    """An `Answer` as an ASGI application, which is also told each connection's transport.

    Args:
        answer: what answers.
        limits: what a client may ask.
        done: is told the notes of each exchange when it is over, in the event loop.
        refuses: gives the reply to a request that is refused for its head alone.
    """

    def __init__(
        self,
        answer: Answer,
        limits: Limits,
        *,
        done: Done = lambda _: None,
        refuses: Callable[[Received], Reply | None] = lambda _: None,
    ) -> None:
        self.exchanges: set[_Exchange] = set()
        self._answer = answer
        self.limits = limits
        self._done = done
        self._refuses = refuses
        self._turns = _Turns(limits.concurrent, limits.queue)
        self._workers = Workers()
        self._stopping = False

    async def __call__(self, scope: Message, receive: Receive, send: Send, *, transport: asyncio.Transport) -> None:
        """Answer one request."""
        received = Received(
            method=scope["method"],
            path=scope["raw_path"].decode("ascii"),
            query=scope["query_string"].decode("ascii"),
            headers=_joined(scope["headers"]),
            body=b"",
            scheme=scope["scheme"],
        )
        received.notes.update(method=received.method, path=received.path, started=time.monotonic())
        feed, gone = Feed(asyncio.get_running_loop()), asyncio.Event()
        exchange = _Exchange(send, transport, received, feed, gone, self.limits.idle)
        self.exchanges.add(exchange)
        try:
            async with asyncio.timeout(self.limits.total):
                await self._exchange(exchange, receive)
        except TimeoutError:
            received.notes["code"] = "Timeout"
            transport.abort()
            await _disconnected(receive)  # before that, uvicorn would miss the rest of a reply, and say so
        finally:
            self.exchanges.discard(exchange)
            self._done(dict(received.notes))  # a thread that still works for a client who has left may add to them

    def stop(self, grace: float) -> None:
        """Refuse what comes from now on; what runs has some seconds to finish, and is then ended."""
        self._stopping = True
        self._turns.refuse()
        self._workers.dismiss()
        asyncio.get_running_loop().call_later(grace, self._leave_all)

    def _leave_all(self) -> None:
        for exchange in self.exchanges:
            exchange.leave(End.STOPPED)

    async def _exchange(self, exchange: _Exchange, receive: Receive) -> None:
        refused = await self._read(exchange, receive)
        if refused:
            await exchange.start(refused)
        if refused or exchange.gone.is_set():
            return
        watching = asyncio.create_task(exchange.watch(receive))
        delivered = False
        try:
            if exchange.own or await self._turns.taken(exchange.gone):
                self._start(exchange, done=_nothing if exchange.own else self._turns.free)
                await exchange.deliver()
            elif not exchange.gone.is_set():
                await exchange.start(_stopping() if self._stopping else _throttled())
            delivered = True
        finally:
            watching.cancel()
            if not delivered and not exchange.gone.is_set():
                exchange.leave(End.GONE)

    async def _read(self, exchange: _Exchange, receive: Receive) -> Reply | None:
        """Read the body into the exchange; returns the reply where it cannot be taken."""
        if self._stopping:
            return _stopping()
        if sum(len(name) + len(value) for name, value in exchange.received.headers.items()) > self.limits.head:
            return _closing("The headers of the request are too long.")
        pieces: list[bytes] = []
        size, most = 0, self.limits.body
        refused = self._refuses(exchange.received)
        if not (refused or exchange.own or len(self.exchanges) <= self.limits.concurrent + self.limits.queue):
            refused = _throttled()
        async with asyncio.timeout(self.limits.idle) as patience:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    exchange.gone.set()
                    return None
                patience.reschedule(asyncio.get_running_loop().time() + self.limits.idle)
                size += len(message["body"])
                if size <= most and not refused:  # what cannot be answered must not fill the memory
                    pieces.append(message["body"])
                # A client that is still sending would not read a reply: it is heard out for a while.
                if not message["more_body"] or size > _HEARD_OUT * most:
                    break
        if size > most:
            return _closing(_TOO_LONG)
        if refused:
            return refused
        exchange.received = replace(exchange.received, body=b"".join(pieces))
        return None

    def _start(self, exchange: _Exchange, *, done: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()

        def run() -> None:
            try:
                work(self._answer, exchange.received, exchange.feed)
            finally:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(done)

        try:
            self._workers.start(run)
        except RuntimeError:
            done()
            exchange.feed.put(wire.failure(error("ServiceUnavailableException", _NO_THREADS)))


def _nothing() -> None:
    """Give back what was not taken."""


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined
