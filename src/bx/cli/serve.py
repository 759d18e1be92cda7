"""`bx serve`: a Bedrock on localhost, which any AWS SDK can be pointed at."""

from __future__ import annotations

import contextlib
import json
import queue
import shlex
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bx.cli import UsageError
from bx.cli.ask import model_names

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from bx.cli.terminal import Terminal
    from bx.converse import Engine
    from bx.engines import Router
    from bx.server.endpoint import Endpoint, Options, Route

_PORT = 4567
_ANY_KEYS = (
    "export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1"
)
_EPILOG = f"""\
examples:
  bx serve                                             every model id is answered by the embedded model
  bx serve --model echo                                ... by an echo: at once, and the same each time
  bx serve --map 'us.anthropic.*=local:/models/x.gguf' some ids by another model
  bx serve --upstream bedrock --record DIR             by Amazon Bedrock; every exchange is stored
  bx serve --replay DIR                                by what was stored: no account, no model, no cost
  bx serve --fault ThrottlingException,share=0.2       with what production does; --fault list tells what there is
  bx serve --check                                     does every operation answer?

Point an SDK at it; it wants some keys and a region, and any will do:
  export AWS_ENDPOINT_URL_BEDROCK_RUNTIME=http://127.0.0.1:{_PORT} AWS_ENDPOINT_URL_BEDROCK=http://127.0.0.1:{_PORT}
  {_ANY_KEYS}
"""
_ANYONE = ("bx", "bx", "")  # a server without keys looks at no signature
_WARMING = "Say hi."
_MOST_LINES = 10_000  # of the log that may wait for a reader who does not read
_READING = 1  # seconds that its reader has for the rest of it, when the server has stopped
_BEARER = (
    "An API key is only sent over https: AWS's SDKs refuse this http address while AWS_BEARER_TOKEN_BEDROCK is set"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Serve a Bedrock on localhost: any engine behind Amazon Bedrock's own wire protocol."
    parser.epilog = _EPILOG
    add = parser.add_argument_group("what answers").add_argument
    model = add("-m", "--model", dest="answers", metavar="NAME", help="the model for all ids (default: local)")
    model.completer = model_names  # type: ignore[attr-defined] # argcomplete's protocol
    add("--map", action="append", metavar="ID=NAME", help="another model for ids like us.anthropic.* (repeatable)")
    add("--upstream", choices=("bedrock",), metavar="bedrock", help="forward to Amazon Bedrock instead")
    add("--replay", metavar="DIR", help="answer from recordings only")
    add("--realtime", action="store_true", help="with --replay: as slowly as it was recorded")
    add("--record", metavar="DIR", help="store each exchange, without secrets")
    add = parser.add_argument_group("how true to the service").add_argument
    add("--strict", action="store_true", help="refuse what the model would that is named (the default)")
    add("--lenient", action="store_true", help="answer also what that model would refuse")
    add("--fault", action="append", metavar="FAULT", help="what goes wrong; list tells the names (repeatable)")
    add("--seed", type=int, metavar="N", help="what the chance of faults is drawn from (default: 0)")
    add = parser.add_argument_group("who may ask").add_argument
    add("--host", metavar="HOST", help="where to listen (default: 127.0.0.1); others than this machine need --auth")
    add("--port", type=int, metavar="N", help=f"the port (default: {_PORT}); 0 takes a free one")
    add("--auth", metavar="FILE", help="let in these keys only; a file like ~/.aws/credentials")
    add("--cert", metavar="FILE", help="speak https with this certificate (PEM)")
    add("--key", metavar="FILE", help="the certificate's key (PEM)")
    add("--self-signed", metavar="DIR", help="speak https with a certificate that is made and kept in DIR")
    add = parser.add_argument_group("limits").add_argument
    add("--max-body", type=int, metavar="BYTES", help="the longest request (default: 33554432)")
    add("--max-concurrent", type=int, metavar="N", help="requests that are answered at once (default: 256)")
    add("--max-queue", type=int, metavar="N", help="more that wait, before one is throttled (default: 256)")
    add("--idle-timeout", type=float, metavar="S", help="seconds without a byte from or to a client (default: 60)")
    add("--timeout", type=float, metavar="S", help="seconds for one request in all (default: 3600)")
    add("--grace", type=float, metavar="S", help="seconds that streams may finish in when stopped (default: 5)")
    add = parser.add_argument_group("what is told, and the upstream").add_argument
    forms = ("text", "json", "off")
    add("--log", choices=forms, metavar="|".join(forms), help="the access log, on stderr (default: text)")
    add("--check", action="store_true", help="ask every operation once by a real client, and leave")
    add("--geo", metavar="GEO", help="of the upstream: where prompts may be processed")
    add("--region", help="of the upstream: the AWS region")
    add("--profile", metavar="NAME", help="of the upstream: the profile of the AWS configuration")
    add("--endpoint-url", metavar="URL", help="of the upstream: another endpoint")
    add("-y", "--yes", action="store_true", help="fetch missing weights without asking")
    add("-q", "--quiet", action="store_true", help="print nothing to stderr but failures")
    add("-v", "--verbose", action="store_true", help="print more about failures")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Serve until a signal comes.

    Raises:
        UsageError: the options do not go together.
        ValueError: a file, a name or a fault is unusable, or the port is taken; the exception says what to do.
    """
    if options.fault == ["list"]:
        return _list_faults(terminal)
    from bx.server import check_installed

    check_installed()
    _check(options)
    from bx.catalogue import Catalogue
    from bx.cli import answer
    from bx.engines import Router
    from bx.ledger.meter import around
    from bx.server.endpoint import Endpoint

    answer.listen(terminal, verbose=options.verbose)
    router = Router({"region": options.region, "profile": options.profile, "endpoint_url": options.endpoint_url})
    meter = around(router, vars(options), source="serve", names=Catalogue(options.models).ids)
    routes = [] if options.replay else _routes(options, meter)
    log = _log(options, terminal)
    endpoint = Endpoint(routes, _options(options), log)
    try:
        _check_upstream(endpoint, routes, options)
        for name in dict.fromkeys(route.model for route in routes if route.model and not route.forward):
            _warm(router, name, options, terminal)
        if options.check:
            return _prove(endpoint.start(), terminal)
        with _stopping() as stopped:
            endpoint.start()
            _announce(endpoint, options, terminal)
            while not stopped.wait(0.5):  # a signal just before a wait without an end would be heard after it
                pass
            if endpoint.active:
                terminal.note("stopping: running requests may finish; Ctrl-C ends them at once")
    except KeyboardInterrupt:  # the second one, before the first was heeded
        endpoint.stop(grace=0)
        raise
    finally:
        endpoint.stop()
        meter.close()
        if log:
            log.close()
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other, so that none is ignored."""
    pairs = (
        ("--strict", options.strict, "--lenient", options.lenient),
        ("--replay", options.replay, "--upstream", options.upstream),
        ("--replay", options.replay, "--model", options.answers),
        ("--replay", options.replay, "--map", options.map),
        ("--replay", options.replay, "--record", options.record),
        ("--upstream", options.upstream, "--model", options.answers),
        ("--replay", options.replay, "--strict", options.strict),
        ("--replay", options.replay, "--lenient", options.lenient),
        ("--upstream", options.upstream, "--strict", options.strict),
        ("--self-signed", options.self_signed, "--cert", options.cert),
        ("--self-signed", options.self_signed, "--key", options.key),
    )
    for one, given, other, too in pairs:
        if given and too:
            raise UsageError(f"{one} and {other} do not go together", "Leave one of them out")
    if options.realtime and not options.replay:
        raise UsageError("--realtime is for --replay", "Add --replay DIR, or leave it out")
    for name in ("max_body", "max_concurrent", "idle_timeout", "timeout"):
        if (value := getattr(options, name)) is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')} is {value}", "It must be above 0")
    for name in ("max_queue", "grace"):
        if (value := getattr(options, name)) is not None and not value >= 0:
            raise UsageError(f"--{name.replace('_', '-')} is {value}", "It must be at least 0")


def _routes(options: argparse.Namespace, engine: Engine) -> list[Route]:
    """Return which model answers which ids: those of --map first, in their order, and then the one for all."""
    made = []
    for pair in options.map or ():
        pattern, equals, name = pair.partition("=")
        if not equals or not pattern or not name:
            raise UsageError(f"--map {pair!r} is no ID=NAME", "Write it as --map 'us.anthropic.*=local'")
        made.append(_route(pattern, name, options, engine))
    return [*made, _route("*", options.upstream or options.answers or "local", options, engine)]


def _route(pattern: str, name: str, options: argparse.Namespace, engine: Engine) -> Route:
    from bx.catalogue import Catalogue
    from bx.engines import is_ours
    from bx.server.endpoint import Route

    if name == "bedrock":
        return Route(pattern, engine, strict=False, forward=True)
    model_id = Catalogue(options.models, options.geo).resolve(name).id
    if not is_ours(model_id):  # it is the service itself that knows what it takes
        return Route(pattern, engine, model_id, strict=False, forward=True)
    return Route(pattern, engine, model_id, strict=not options.lenient)


def _options(options: argparse.Namespace) -> Options:
    from bx.server.endpoint import Limits
    from bx.server.endpoint import Options as Made

    limits = {
        "body": options.max_body,
        "concurrent": options.max_concurrent,
        "queue": options.max_queue,
        "idle": options.idle_timeout,
        "total": options.timeout,
    }
    files = {
        "auth": options.auth,
        "certificate": options.cert,
        "key": options.key,
        "self_signed": options.self_signed,
        "record": options.record,
        "replay": options.replay,
    }
    given = {
        **{name: Path(path).expanduser() for name, path in files.items() if path},
        "host": options.host,
        "port": _port(options),
        "faults": options.fault or (),
        "seed": options.seed,
        "realtime": options.realtime,
        "grace": options.grace,
        "keep": 0,  # nobody asks for them, and they may be large
        "limits": Limits(**{name: value for name, value in limits.items() if value is not None}),
    }
    return Made(**{name: value for name, value in given.items() if value is not None})


def _port(options: argparse.Namespace) -> int:
    port = options.port if options.port is not None else 0 if options.check else _PORT
    if not 0 <= port < 2**16:
        raise UsageError(f"--port is {port}", "It must be from 0 to 65535")
    return int(port)


def _check_upstream(endpoint: Endpoint, routes: list[Route], options: argparse.Namespace) -> None:
    """Refuse to forward requests to ourselves: the variables that point SDKs here are read by the upstream's, too."""
    from urllib.parse import urlsplit

    from bx import aws
    from bx.server.guard import LOOPBACK

    upstream = urlsplit(aws.endpoint(vars(options)))
    ours = urlsplit(endpoint.url)
    same = upstream.port == ours.port and upstream.hostname in (ours.hostname, *LOOPBACK)
    if same and any(route.forward for route in routes):
        fix = "Unset AWS_ENDPOINT_URL_BEDROCK_RUNTIME and AWS_ENDPOINT_URL here, or name the upstream: --endpoint-url"
        raise UsageError(f"The upstream is this server itself ({endpoint.url})", fix)


def _warm(router: Router, model_id: str, options: argparse.Namespace, terminal: Terminal) -> None:
    """Load a model before the first request waits for it, fetching what is missing where that is allowed."""
    from bx.cli import answer
    from bx.converse import request

    asked = request(_WARMING, model=model_id, maxTokens=1)
    answer.asked(lambda: router.converse(**asked), options, terminal)


def _announce(endpoint: Endpoint, options: argparse.Namespace, terminal: Terminal) -> None:
    """Say where the server is, and how an SDK is pointed at it."""
    from bx import aws

    what = "recordings" if options.replay else options.upstream or options.answers or "local"
    url = endpoint.url
    lines = [f"serving {what} on {url} (Ctrl-C stops it). Point an SDK at it:"]
    lines.append(f"export AWS_ENDPOINT_URL_BEDROCK_RUNTIME={url} AWS_ENDPOINT_URL_BEDROCK={url}")
    if not endpoint.keys:  # an SDK signs whatever it sends: it wants some keys and a region
        lines.append(_ANY_KEYS)
    if endpoint.authority:
        trusted = shlex.quote(str(endpoint.authority.absolute()))  # the SDK may run in another folder
        lines.append(f"export AWS_CA_BUNDLE={trusted} NODE_EXTRA_CA_CERTS={trusted}")
    terminal.note("\n    ".join(lines))
    if url.startswith("https"):
        return
    if endpoint.keys and endpoint.keys.has_bearers:
        terminal.note(_BEARER, "Add --self-signed DIR")
    elif aws.has_api_key():
        terminal.note(_BEARER, "Unset it where the SDK runs, or add --self-signed DIR")


def _prove(endpoint: Endpoint, terminal: Terminal) -> int:
    """Ask every operation by a real client, and tell on stdout what came of it."""
    from bx.engines.bedrock import client
    from bx.server import check

    keys = endpoint.keys.one() if endpoint.keys else _ANYONE
    authority = str(endpoint.authority) if endpoint.authority else None
    made = (client(each, endpoint_url=endpoint.url, keys=keys, verify=authority) for each in check.SERVICES)
    outcomes = []
    for outcome in check.outcomes(*made):
        outcomes.append(outcome)
        told = "failed" if outcome.problem else "ok"
        why = f": {' '.join(outcome.problem.split())}" if outcome.problem else ""
        terminal.line(f"{told:<6} {outcome.milliseconds:>9.1f} ms  {outcome.name}{why}")
    if failed := sum(bool(outcome.problem) for outcome in outcomes):
        terminal.complain(f"bx: {failed} of {len(outcomes)} did not answer")
        return 7
    terminal.note(f"all {len(outcomes)} answered")
    return 0


def _list_faults(terminal: Terminal) -> int:
    from bx.server.faults import described

    for fault in described():
        terminal.line(f"{fault['name']:<30} {fault['says']}")
    return 0


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Yield what is set by the first SIGINT or SIGTERM; the second one interrupts as usual."""
    stopped = threading.Event()
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    def stop(*_: Any) -> None:
        stopped.set()
        restore()

    for each in before:
        signal.signal(each, stop)
    try:
        yield stopped
    finally:
        restore()


def _log(options: argparse.Namespace, terminal: Terminal) -> _Log | None:
    """Make the log that is asked for; without a word on it, there is none where nothing is to be told."""
    form = options.log or ("off" if options.quiet or options.check else "text")
    return None if form == "off" else _Log(form, terminal)


class _Log:
    """The access log, written by a thread of its own: a reader that does not read holds up no request."""

    def __init__(self, form: str, terminal: Terminal) -> None:
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(_MOST_LINES)
        self._form = _as_json if form == "json" else _as_text
        self._terminal = terminal
        self._thread = threading.Thread(target=self._write, daemon=True, name="bx-log")
        self._thread.start()

    def __call__(self, notes: dict[str, Any]) -> None:
        """Write the line of an exchange, if there is room for it."""
        try:
            self._lines.put_nowait(notes)
        except queue.Full:
            return

    def close(self) -> None:
        """Write the lines that wait, as far as their reader reads."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
            self._thread.join(_READING)

    def _write(self) -> None:
        while notes := self._lines.get():
            self._terminal.complain(self._form(notes))


def _as_json(notes: dict[str, Any]) -> str:
    told = {name: value for name, value in notes.items() if name not in ("started", "first", "ended")}
    return json.dumps({"time": _now("milliseconds"), **told, **_times(notes)}, ensure_ascii=False)


def _as_text(notes: dict[str, Any]) -> str:
    asked = notes.get("operation", f"{notes['method']} {notes['path']}")
    words = [_now("seconds").partition("T")[2][:8], asked, notes.get("model", "")]
    words += [str(notes.get("status", "gone")), notes.get("code", "")]
    words.append(f"{_times(notes)['latencyMs']} ms")
    if "output_tokens" in notes:
        words.append(f"{notes['input_tokens']}+{notes['output_tokens']} tokens")
    words.append(notes.get("stop_reason", ""))
    if faults := notes.get("faults"):
        words.append(f"fault {', '.join(faults)}")
    if ignored := notes.get("ignored"):
        words.append(f"without effect: {', '.join(ignored)}")
    return " ".join(word for word in words if word)


def _times(notes: dict[str, Any]) -> dict[str, float]:
    first = notes.get("first", notes["ended"])
    return {
        "firstByteMs": round((first - notes["started"]) * 1000, 1),
        "latencyMs": round((notes["ended"] - notes["started"]) * 1000, 1),
    }


def _now(precision: str) -> str:
    import datetime as dt

    return dt.datetime.now().astimezone().isoformat(timespec=precision)
