"""One exchange with a client, as plain values: what came in, and what goes out.

Everything between the socket and the engine has one of two shapes, and a wrapper of either has the same shape:

    Answer    Received -> Reply    HTTP in, HTTP out
    Perform   Call -> Reply        an operation in, HTTP out
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


OWN = "/_bx/"  # what the paths of the server itself begin with: no operation of Amazon Bedrock's does


class Act(Enum):
    """What a body can do besides sending bytes."""

    STALL = "send nothing more until the client hangs up"
    HANGUP = "close the connection without the end of the body"
    RESET = "reset the connection"


class Hangup:
    """Whether the client has hung up, or the server stops; and what has to be closed then. Threads may share it."""

    def __init__(self) -> None:
        self._happened = threading.Event()
        self._closers: set[Callable[[], None]] = set()
        self._lock = threading.Lock()

    def happen(self) -> None:
        """Close what is to be closed, from now on at once."""
        with self._lock:
            self._happened.set()
            closers = list(self._closers)
        for close in closers:
            with contextlib.suppress(Exception):  # what cannot be closed must not keep the others open
                close()

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep, at most until it happens; returns whether it has."""
        return self._happened.wait(seconds)

    @contextlib.contextmanager
    def closes(self, close: Callable[[], None]) -> Iterator[None]:
        """Call `close`, from another thread, when it happens while this context lasts."""
        with self._lock:
            self._closers.add(close)
        try:
            if self._happened.is_set():
                close()
            yield
        finally:
            with self._lock:
                self._closers.discard(close)


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived.

    `path` is as it stood in the request line, percent-encoded and without the query; the names of `headers` are in
    lower case; `scheme` is http or https. `notes` is what the access log and the counters will tell of the exchange:
    each part that answers it adds what it knows.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    scheme: str = "http"
    hangup: Hangup = field(default_factory=Hangup)
    notes: dict[str, Any] = field(default_factory=dict)


class Reply(NamedTuple):
    """An HTTP response. A `body` of bytes has a length; one of pieces is sent in chunks, each as it comes.

    Status 0 sends no status line and no headers: the body's acts are all that happens. A body with a `close` method
    is closed when nobody waits for it any more.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | Iterable[bytes | Act]


class Call(NamedTuple):
    """An operation that is asked for: its members in boto3's spelling, blobs as bytes; and how it arrived."""

    operation: str
    request: dict[str, Any]
    received: Received


Answer = Callable[[Received], Reply]
Perform = Callable[[Call], Reply]
