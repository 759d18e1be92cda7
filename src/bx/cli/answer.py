"""An answer on the terminal: asked for, printed whole or as it arrives, and held to its schema."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from bx import converse
from bx.diagnosis import redacted
from bx.engines import Router

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from bx.cli.terminal import Terminal
    from bx.converse import Event, Request, Response

Schema = dict[str, Any]


def show(request: Request, schema: Schema | None, options: argparse.Namespace, terminal: Terminal) -> None:
    """Send a request and print its answer."""
    _listen(terminal, verbose=options.verbose)
    engine = Router({"region": options.region, "profile": options.profile, "endpoint_url": options.endpoint_url})
    if options.stream is None:
        options.stream = terminal.answers_on_terminal and schema is None and not options.raw
    if options.stream:
        _stream(_asked(lambda: engine.converse_stream(**request), options, terminal), schema, options, terminal)
    else:
        _print(_asked(lambda: engine.converse(**request), options, terminal), schema, options, terminal)


def _asked(call: Callable[[], Response], options: argparse.Namespace, terminal: Terminal) -> Response:
    """Call; where the model's weights are missing, offer to fetch them and call again."""
    try:
        return call()
    except Exception as failure:
        response = getattr(failure, "response", None) or {"Error": {}}
        # Amazon Bedrock has this member too, in another error.
        if response["Error"].get("Code") != "ModelNotReadyException" or "resourceName" not in response:
            raise
        from bx.cli import pull

        if not pull.offer(response["resourceName"], terminal, options):
            raise
    return call()


def _print(response: Response, schema: Schema | None, options: argparse.Namespace, terminal: Terminal) -> None:
    if options.verbose and (thoughts := converse.reasoning(response)):
        terminal.aside(thoughts.rstrip("\n") + "\n")
    indent = 2 if terminal.answers_on_terminal else None
    try:
        if options.raw:
            terminal.line(_json(response, indent))
        value = None if schema is None else converse.data(response, schema)
        if not options.raw:
            terminal.line(converse.text(response).rstrip("\n") if schema is None else _json(value, indent))
        if schema is None:
            _warn(response["stopReason"], written=bool(converse.text(response)), terminal=terminal)
    finally:
        if options.usage:
            _usage(response, options, terminal)


def _stream(response: Response, schema: Schema | None, options: argparse.Namespace, terminal: Terminal) -> None:
    stream = response["stream"]
    kept: list[Event] = []
    ending: dict[str, Any] = {}
    written = False
    try:
        for event in _printed(stream, options, terminal):
            if schema is not None:
                kept.append(event)
            written = written or "text" in event.get("contentBlockDelta", {}).get("delta", {})
            if "messageStop" in event or "metadata" in event:
                ending |= event.get("messageStop") or event["metadata"]
    finally:
        stream.close()
    if options.usage or not options.quiet:
        _usage(ending, options, terminal)
    if schema is None:
        _warn(ending["stopReason"], written=written, terminal=terminal)
        return
    try:
        converse.data(converse.collect(kept), schema)
    except converse.InvalidAnswer as invalid:
        invalid.text = ""  # it has been printed already
        raise


def _printed(stream: Any, options: argparse.Namespace, terminal: Terminal) -> Iterator[Event]:
    """Print the events of a stream as they arrive and pass them on; ends each last line however it ends."""
    last = thought = "\n"
    try:
        for event in stream:
            piece = event.get("contentBlockDelta", {}).get("delta", {})
            if options.raw:
                terminal.line(_json(event, None))
            elif text := piece.get("text"):
                terminal.answer(text)
                last = text
            elif options.verbose and (text := piece.get("reasoningContent", {}).get("text")):
                terminal.aside(text)
                thought = text
            if "contentBlockStop" in event and not thought.endswith("\n"):
                terminal.aside(thought := "\n")
            yield event
    finally:
        if not last.endswith("\n"):
            terminal.line()


def _usage(response: dict[str, Any], options: argparse.Namespace, terminal: Terminal) -> None:
    """Print `[tokens: N]`, and with --usage what they were."""
    usage = response.get("usage")
    if usage is None:
        terminal.complain("[tokens: unknown]")
        return
    line = f"tokens: {usage.get('totalTokens', 'unknown')}"
    if options.usage:
        parts = ("inputTokens", "input"), ("outputTokens", "output"), ("cacheReadInputTokens", "cache read")
        counts = [f"{name} {usage.get(key, 0)}" for key, name in (*parts, ("cacheWriteInputTokens", "cache write"))]
        latency = response.get("metrics", {}).get("latencyMs")
        line += f" | {', '.join(counts)} | {latency} ms"
    terminal.complain(f"[{line}]")


def _warn(stop: str, *, written: bool, terminal: Terminal) -> None:
    """Say so where an answer did not end by itself, or holds nothing to print."""
    if stop in converse.UNFINISHED:
        what, fix = converse.UNFINISHED[stop]
        terminal.note(what, fix)
    elif not written:
        terminal.note(f"The answer holds no text (stop reason: {stop})", "See all of it with --raw")


def _listen(terminal: Terminal, *, verbose: bool) -> None:
    """Show what the engines log: warnings always, each attempt with --verbose."""
    handler = logging.Handler()
    handler.emit = lambda record: terminal.note(redacted(record.getMessage()))  # type: ignore[method-assign]
    log = logging.getLogger("bx")
    log.handlers = [handler]
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.propagate = False


def _json(value: Any, indent: int | None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, as a delta may hold: it must stay an escape
        return json.dumps(value, indent=indent, default=_plain)
    return text


def _plain(value: Any) -> str:
    """Spell bytes as the wire does, and anything else as text."""
    import base64

    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
