"""A server, put together: who may ask, what is answered, what goes wrong on purpose; started and stopped.

    with Endpoint([Route("*", engine)]) as endpoint:
        boto3.client("bedrock-runtime", endpoint_url=endpoint.url)

It knows no engine; who makes one gives it the routes.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import http.client
import ipaddress
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from botocore.exceptions import ClientError

from bx import foundation
from bx.converse import error
from bx.server import recording, signatures, tls, wire
from bx.server.admin import administered
from bx.server.faults import Faults
from bx.server.guard import HEALTH, LOOPBACK, Guard
from bx.server.http import Application, Limits
from bx.server.running import Running
from bx.server.service import Route, Service
from bx.server.stats import Stats

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from bx.server.exchange import Answer, Call, Perform, Received, Reply

__all__ = ["PATHS", "Asked", "CannotServe", "Endpoint", "Limits", "Options", "Route", "options"]

PATHS = ("auth", "certificate", "key", "self_signed", "record", "replay")
_MOST = 10_000  # bytes that are read of what it says
_PATIENCE = 1  # seconds that the owner of a port has to say who it is


class CannotServe(ValueError):
    """The server cannot be started as it was asked for; `fix` says what to do."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Options(NamedTuple):
    """How a server is run.

    Args:
        host: the name or address to listen on; one that others can reach needs `auth`.
        port: 0 takes a free one.
        auth: a file of keys, in the form of `~/.aws/credentials`; see `bx.server.signatures`.
        certificate: with `key`, files in PEM: then the server speaks https.
        key: the certificate's private key.
        self_signed: a folder for a certificate that is made for this server, and its authority.
        faults: what goes wrong, as in `ThrottlingException,nth=3`; see `bx.server.faults`.
        seed: what the chance of faults is drawn from.
        record: a folder in which each exchange is stored.
        replay: a folder of stored exchanges that are answered with.
        realtime: whether a replay is as slow as its recording.
        limits: what a client may ask.
        grace: seconds that running exchanges have to finish when the server stops.
        keep: how many of the latest requests `Endpoint.requests` tells of.
    """

    host: str = "127.0.0.1"
    port: int = 0
    auth: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    self_signed: Path | None = None
    faults: Sequence[Any] = ()
    seed: int = 0
    record: Path | None = None
    replay: Path | None = None
    realtime: bool = False
    limits: Limits = Limits()
    grace: float = 5
    keep: int = 1000


def options(**given: Any) -> Options:
    """Make options as they are written in a program: a path may be a text, and one fault stands for a list of it.

    Raises:
        CannotServe: there is no such option.
    """
    for name in given.keys() - set(Options._fields):
        raise CannotServe(f"There is no option {name!r}", f"There are: {', '.join(Options._fields)}")
    for name in given.keys() & set(PATHS):
        given[name] = None if given[name] is None else Path(given[name]).expanduser()
    if isinstance(given.get("faults"), (str, dict)):
        given["faults"] = [given["faults"]]
    return Options(**given)


class Asked(NamedTuple):
    """A request that was understood: its operation, such as `Converse`, and its members as boto3 takes them."""

    operation: str
    request: dict[str, Any]


class Endpoint:
    """A Bedrock on this machine; it runs while its context does.

    Args:
        routes: which engine answers which model ids.
        options: how it is run.
        log: is told the notes of each exchange when it is over: `operation`, `model`, `status`, `code`,
            `input_tokens`, `output_tokens`, `request_id`, and `started`, `first` and `ended` by `time.monotonic()`.

    Raises:
        CannotServe: the options do not go together, or the port cannot be had.
        ValueError: a file or a fault among them is unusable; its `fix` says what to do.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        options: Options = Options(),  # noqa: B008 # it cannot be changed
        log: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._options = options
        self._log = log
        self.faults = Faults(
            options.faults,
            seed=options.seed,
            burndown=foundation.burndown,
            max_output=foundation.max_output,
        )
        perform: Perform = Service(routes)
        if options.replay:
            perform = recording.replayed(options.replay, realtime=options.realtime)
        if options.record:
            perform = recording.recorded(perform, options.record)
        self._asked: collections.deque[Asked] = collections.deque(maxlen=options.keep)
        self._lock = threading.Lock()
        answer = answering(functools.partial(self._perform, perform=perform))
        self.stats = Stats(lambda: self.active)
        self.authority, context = _secured(options)
        self.keys = signatures.load(options.auth) if options.auth else None
        listener = listening(options)
        host = f"[{options.host}]" if ":" in options.host else options.host
        self.url = f"{'https' if context else 'http'}://{host}:{listener.getsockname()[1]}"
        guard = Guard(self.keys, options.host)
        application = Application(
            guard.around(administered(answer, self.stats, self.faults)),
            options.limits,
            done=self._done,
            refuses=guard.refuses,
        )
        self._running = Running(application, listener, tls=context)

    @property
    def requests(self) -> list[Asked]:
        """The latest requests, in the order they came; those too that a fault has hit or the model has refused.

        What is not understood, and is refused for its form or its signature, is not among them.
        """
        with self._lock:
            return list(self._asked)

    @property
    def active(self) -> int:
        """How many requests are under way."""
        return len(self._running.application.exchanges)

    def start(self) -> Self:
        """Begin to serve."""
        self._running.start()
        return self

    def stop(self, grace: float | None = None) -> None:
        """Let running exchanges finish for some seconds, end the rest, and return."""
        self._running.stop(self._options.grace if grace is None else grace)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop(grace=0)

    def _perform(self, call: Call, perform: Perform) -> Reply:
        with self._lock:
            self._asked.append(Asked(call.operation, call.request))
        return self.faults.perform(call, perform)

    def _done(self, notes: dict[str, Any]) -> None:
        notes["ended"] = time.monotonic()
        self.stats.count(notes)
        if self._log:
            self._log(notes)


def answering(perform: Perform) -> Answer:
    """Make an `Answer` of a `Perform`: read the operation, and turn its errors into replies."""

    def answer(received: Received) -> Reply:
        try:
            call: Call | None = wire.parse(received)
            if call is None:
                return wire.UNKNOWN
            received.notes["operation"] = call.operation
            return perform(call)
        except ClientError as failed:
            return wire.failure(failed)
        except RecursionError:
            return wire.failure(error("ValidationException", "The request is nested too deeply"))

    return answer


def _secured(options: Options) -> tuple[Path | None, ssl.SSLContext | None]:
    """Return the authority to be trusted, where one was made, and what makes the server speak https."""
    if options.self_signed:
        hosts = list(dict.fromkeys([options.host, *LOOPBACK]))
        certificate, key, authority = tls.self_signed(options.self_signed, hosts)
        return authority, tls.context(certificate, key)
    if bool(options.certificate) != bool(options.key):
        given, missing = ("--cert", "--key") if options.certificate else ("--key", "--cert")
        raise CannotServe(f"{given} was given without {missing}", f"Add {missing} FILE, or use --self-signed")
    if options.certificate and options.key:
        return None, tls.context(options.certificate, options.key)
    return None, None


def listening(options: Options) -> socket.socket:
    """Return a socket that listens where the options say.

    Raises:
        CannotServe: it cannot, or must not without keys.
    """
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError, OverflowError) as cause:
        message = f"--host {options.host!r} is no address of this machine: {cause}"
        raise CannotServe(message, "Leave --host out, or choose 127.0.0.1") from None
    family, _, _, _, address = found[0]
    if not options.auth and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        message = f"--host {options.host} lets others on the network call this server"
        raise CannotServe(message, "Add --auth FILE with the keys that may, or leave --host out")
    # With its protocol named: else asyncio leaves Nagle's algorithm on, and answers on a kept connection take 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
    except OSError as cause:
        listener.close()
        raise _unbound(options, cause) from None
    return listener


def _unbound(options: Options, cause: OSError) -> CannotServe:
    if cause.errno == errno.EADDRINUSE:
        if pid := _owner(options):
            message = f"Port {options.port} is in use by another bx serve, process {pid}"
            return CannotServe(message, f"Use that one, stop it (kill {pid}), or choose another --port")
        fix = "Stop the program that listens there, or choose another --port"
        return CannotServe(f"Port {options.port} is in use", fix)
    if cause.errno == errno.EACCES:
        return CannotServe(f"Port {options.port} may not be used by you", "Choose a --port above 1023")
    return CannotServe(f"Cannot listen on {options.host}: {cause.strerror}", "Try --host 127.0.0.1")


def _owner(options: Options) -> int | None:
    """Ask who listens on the port; returns the process id of another server of bx, else None."""
    for scheme in (http.client.HTTPConnection, _unverified):
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, TypeError, KeyError):
            with contextlib.closing(scheme(options.host, options.port, timeout=_PATIENCE)) as connection:
                connection.request("GET", HEALTH)
                told = json.loads(connection.getresponse().read(_MOST))
            if told["server"] == "bx":
                return int(told["pid"])
    return None


def _unverified(host: str, port: int, timeout: float) -> http.client.HTTPSConnection:
    """Connect over https with whoever is there: nothing is told but that we ask."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
