"""An answer on the terminal: asked for, printed whole or as it arrives, and held to its schema."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from bx import converse, instances
from bx.cli import UsageError, heed_signals, naming
from bx.diagnosis import redacted
from bx.engines import Router

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from bx.cli.terminal import Terminal
    from bx.converse import Engine, Event, Request, Response
    from bx.tools import Tool

Schema = dict[str, Any]

_OF_THE_WHOLE = ("minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains")


def engine(schema: Schema | None, tools: Sequence[Tool], options: argparse.Namespace, terminal: Terminal) -> Engine:
    """Make the engine over all models, with the ladder around it where a schema or tools need that.

    Raises:
        ConfigError, PriceError: a budget or a price in the settings is unusable.
    """
    listen(terminal, verbose=options.verbose)
    made: Engine = Router(
        {"region": options.region, "profile": options.profile, "endpoint_url": options.endpoint_url}
    )
    if not options.dry_run:  # nothing is sent: there is nothing to count
        from bx.ledger.meter import around

        if options.prices:  # which must not turn out to be unusable when the answer is there
            from bx import prices

            prices.check(options.prices)
        heed_signals()
        made = options.meter = around(made, vars(options), source="cli", names=lambda: _names(options), later=True)
        made = naming.profiled(made, options, terminal)
    if schema is not None or tools:
        from bx.aws import scope
        from bx.catalogue import Catalogue
        from bx.structured import Structured

        made = Structured(
            made,
            options.guarantee or "validated",
            scope=scope(vars(options)),
            relearn=options.relearn,
            names=Catalogue(options.models).ids(),
        )
    return made


def _names(options: argparse.Namespace) -> dict[str, str]:
    """Return the name that was given, if it is one, and its id; both may change in a chat."""
    from bx.catalogue import DEFAULT

    name = options.model or DEFAULT
    return {} if "." in name or ":" in name else {name: options.model_id}


def equipped(engine: Engine, tools: Sequence[Tool], options: argparse.Namespace, terminal: Terminal) -> Engine:
    """Run the tools that the model calls, where they can be run."""
    if not any(tool.runs for tool in tools):
        return engine
    from bx.turns import MAX_TURNS, Equipped

    turns = MAX_TURNS if options.max_turns is None else options.max_turns
    return Equipped(engine, tools, allow=_permission(options, terminal), max_turns=turns)


def show(
    engine: Engine, request: Request, schema: Schema | None, options: argparse.Namespace, terminal: Terminal
) -> None:
    """Send a request and print its answer."""
    if options.jsonl and options.raw:
        raise UsageError("--jsonl prints elements, and --raw prints Converse's events", "Choose one of them")
    if options.stream is None:
        options.stream = options.jsonl or (terminal.answers_on_terminal and schema is None and not options.raw)
    if schema is not None and any(tool.runs for tool in options.tools):
        options.stream = False  # what is said between the calls is no part of the JSON
    if options.stream:
        _stream(asked(lambda: engine.converse_stream(**request), options, terminal), schema, options, terminal)
    else:
        _print(asked(lambda: engine.converse(**request), options, terminal), schema, options, terminal)


def _permission(options: argparse.Namespace, terminal: Terminal) -> Callable[[Tool, dict[str, Any]], bool]:
    """Make the question whether a command may be run."""

    def allow(tool: Tool, given: dict[str, Any]) -> bool:
        import shlex

        command = shlex.join(tool.command)
        if options.yes:
            terminal.note(f"running {tool.name}: {command}")
            return True
        if terminal.interactive:
            question = f"Run {tool.name} ({command}) with {_json(given, None)}?"
            return terminal.confirm(question, default=False)
        terminal.note(f"The model called {tool.name}; nobody can be asked, so it was not run", "Allow it with --yes")
        return False

    return allow


def asked(call: Callable[[], Response], options: argparse.Namespace, terminal: Terminal) -> Response:
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
        called = _calls(response)
        value = None if schema is None or called else _data(response, schema, options, terminal)
        if not options.raw:
            _write(response, value, schema, options, terminal)
        if schema is None:
            _warn(response["stopReason"], written=bool(called or converse.text(response)), terminal=terminal)
    finally:
        if options.usage:
            _usage(response, options, terminal)


def _write(
    response: Response, value: Any, schema: Schema | None, options: argparse.Namespace, terminal: Terminal
) -> None:
    """Print the calls of tools that are not run here, or else the answer."""
    indent = 2 if terminal.answers_on_terminal else None
    text = converse.text(response).rstrip("\n")
    if called := _calls(response):
        if text:
            terminal.aside(text + "\n")
        _write_calls(called, options, terminal)
    elif schema is None:
        terminal.line(text)
    elif options.jsonl:
        for item in value:
            terminal.line(_json(item, None))
    else:
        terminal.line(_json(value, indent))


def _write_calls(called: list[dict[str, Any]], options: argparse.Namespace, terminal: Terminal) -> None:
    """Print calls as JSON; the input of each has to satisfy its tool's schema."""
    schemas = {tool.name: tool.schema for tool in options.tools}
    for call in called:
        text = _json({"name": call["name"], "input": call["input"]}, 2 if terminal.answers_on_terminal else None)
        if problem := instances.violation(call["input"], schemas.get(call["name"], {})):
            fix = "Ask again, or describe the tool and its input in more words"
            raise converse.InvalidAnswer(
                f"The call of {call['name']} does not satisfy its schema: {problem}", fix, text
            )
        terminal.line(text)


def _calls(response: Response) -> list[dict[str, Any]]:
    blocks = (block["toolUse"] for block in response["output"]["message"]["content"] if "toolUse" in block)
    return [call for call in blocks if call.get("type") != "server_tool_use"]


def _data(response: Response, schema: Schema, options: argparse.Namespace, terminal: Terminal) -> Any:
    """Read the answer as JSON; with the guarantee `any` it may break the schema, which is told."""
    if options.guarantee != "any":
        return converse.data(response, schema)
    value = converse.data(response, {})
    if options.stream and (problem := instances.violation(value, schema)):
        terminal.note(f"The answer does not satisfy the schema: {problem}")
    return value


def _stream(response: Response, schema: Schema | None, options: argparse.Namespace, terminal: Terminal) -> None:
    stream = response["stream"]
    if options.raw and schema is not None:
        terminal.line(_json({"ResponseMetadata": response.get("ResponseMetadata", {})}, None))
    events = _printed(stream, options, terminal)
    if schema is not None and options.jsonl:
        events = _lined(stream, schema, options, terminal)
    try:
        turn, written = _last_turn(events, with_text=schema is not None)
    finally:
        stream.close()
    whole = converse.collect(turn)
    if options.usage or not options.quiet:
        _usage({**response, **whole}, options, terminal)
    called = _calls(whole)
    if called and not options.raw:
        _write_calls(called, options, terminal)
    if schema is None:
        _warn(whole["stopReason"], written=bool(called or written), terminal=terminal)
    if schema is None or called:
        return
    try:
        _data(whole, schema, options, terminal)
    except converse.InvalidAnswer as invalid:
        invalid.text = ""  # it has been printed already
        raise


def _last_turn(events: Iterator[Event], *, with_text: bool) -> tuple[list[Event], bool]:
    """Take all events and keep the last turn's, its text only on demand; also tells whether there was any."""
    turn: list[Event] = []
    written = False
    for event in events:
        if "messageStart" in event:  # where tools are run, an answer has several turns
            turn.clear()
        is_text = "text" in event.get("contentBlockDelta", {}).get("delta", {})
        written = written or is_text
        if with_text or not is_text:
            turn.append(event)
    return turn, written


def _printed(stream: Any, options: argparse.Namespace, terminal: Terminal) -> Iterator[Event]:
    """Print the events of a stream as they arrive and pass them on; ends each last line however it ends."""
    last = thought = "\n"
    try:
        for event in stream:
            piece = event.get("contentBlockDelta", {}).get("delta", {})
            if "messageStart" in event and not last.endswith("\n"):  # the next turn, after tools were run
                terminal.line()
                last = "\n"
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


def _lined(stream: Any, schema: Schema, options: argparse.Namespace, terminal: Terminal) -> Iterator[Event]:
    """Print each element of an array as a line once it is complete, and pass the events on."""
    from bx import partial

    taken: list[Event] = []

    def pieces() -> Iterator[str]:
        for event in stream:
            taken.append(event)
            yield event.get("contentBlockDelta", {}).get("delta", {}).get("text", "")

    broken = instances.checker({name: part for name, part in schema.items() if name not in _OF_THE_WHOLE})
    for index, text in enumerate(partial.elements(pieces())):
        try:
            element = instances.loads(text)
            problem = None if options.guarantee == "any" else broken([element])
        except ValueError as cause:
            problem = f"it is not JSON ({cause})"
        if problem:
            fix = "Ask again, or describe the fields in the prompt or in the schema"
            if options.usage:
                _usage({}, options, terminal)
            at = problem.replace("$[0]", f"$[{index}]", 1)
            raise converse.InvalidAnswer(f"An element does not satisfy the schema: {at}", fix, text)
        terminal.line(_json(element, None))
    yield from taken


def _usage(response: dict[str, Any], options: argparse.Namespace, terminal: Terminal) -> None:
    """Print `[tokens: N]`, and with --usage what they were, and how a schema was held to."""
    usage = response.get("usage")
    if usage is None:
        terminal.complain("[tokens: unknown]")
        return
    line = f"tokens: {usage.get('totalTokens', 'unknown')}"
    if options.usage:
        parts = ("inputTokens", "input"), ("outputTokens", "output"), ("cacheReadInputTokens", "cache read")
        counts = [f"{name} {usage.get(key, 0)}" for key, name in (*parts, ("cacheWriteInputTokens", "cache write"))]
        latency = response.get("metrics", {}).get("latencyMs")
        rows = [row for row, _ in options.meter.store.waiting]
        line += f" | {', '.join(counts)} | {cost(rows, options)} | {latency} ms"
        metadata = response.get("ResponseMetadata", {})
        if turns := metadata.get("Turns"):
            line += f" | turns {turns}"
        if told := metadata.get("StructuredOutput"):
            strength = "enforced" if told["Enforced"] else "checked"
            line += f" | rung {told['Rung']} ({strength}), attempts {told.get('Attempts', 1)}"
    terminal.complain(f"[{line}]")


def cost(rows: Iterable[Mapping[str, Any]], options: argparse.Namespace) -> str:
    """Write what calls have cost, given as rows of the ledger, each at its own price."""
    from bx import prices
    from bx.ledger.budget import money

    costs = [prices.cost(row, options.prices) for row in rows]
    known = [each for each in costs if each is not None]
    if not known:
        return "cost unknown"
    return f"{'at least ' if len(known) < len(costs) else ''}{money(sum(known))}"


def _warn(stop: str, *, written: bool, terminal: Terminal) -> None:
    """Say so where an answer did not end by itself, or holds nothing to print."""
    if stop in converse.UNFINISHED:
        what, fix = converse.UNFINISHED[stop]
        terminal.note(what, fix)
    elif not written:
        terminal.note(f"The answer holds no text (stop reason: {stop})", "See all of it with --raw")


def listen(terminal: Terminal, *, verbose: bool) -> None:
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
