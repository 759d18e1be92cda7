"""The operations of Amazon Bedrock over an engine: a `Perform`.

A request is held to the rules that its shapes do not tell, and to what the model that it names takes; then the engine
of its route answers it. Native bodies (InvokeModel) are answered as the Converse requests that they mean.
"""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from bx.converse import Stream, collect, count_tokens, error
from bx.instances import loads
from bx.server import content, control, emulation, frames, native, shapes, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from bx.converse import Engine, Event, Request, Response
    from bx.server.exchange import Call, Reply

_NO_GUARDRAIL = "The guardrail identifier or version provided in the request does not exist."
_MALFORMED = "Malformed input request, please reformat your input and try again."
_TOLD = 50  # places that the header x-bx-ignored names


class Route(NamedTuple):
    """Which engine answers for model ids.

    `pattern` is one of `fnmatch`, over the id as it was sent; `model` is the id that the engine is given instead.
    `strict` is whether a request is held to what the model takes that it names. `forward` passes the request on as it
    is; else the engine stands in for that model: what only that one would understand is taken out.
    """

    pattern: str
    engine: Engine
    model: str | None = None
    strict: bool = True
    forward: bool = False


class Service:
    """What answers calls; threads may share it.

    Args:
        routes: the first one whose pattern fits a model id answers.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes
        self._operations: dict[str, Callable[[Call], Reply]] = {
            "Converse": self._converse,
            "ConverseStream": self._converse_stream,
            "InvokeModel": self._invoke,
            "InvokeModelWithResponseStream": self._invoke_stream,
            "CountTokens": self._count,
            "ApplyGuardrail": _without_guardrail,
            **dict.fromkeys(control.OPERATIONS, _controlled),
        }

    def __call__(self, call: Call) -> Reply:
        """Answer a call.

        Raises:
            ClientError: the request cannot be answered as it stands, or the engine failed.
        """
        operation = self._operations.get(call.operation)
        if operation is None:
            return wire.UNKNOWN
        try:
            return operation(call)
        except BotoCoreError as cause:  # the engine could not ask; as an error that no client asks again after
            raise error("ModelErrorException", f"The engine could not be asked: {cause}") from cause
        except ValueError as cause:  # of ours: it explains itself
            if not hasattr(cause, "fix"):
                raise
            raise error("ValidationException", f"{cause}. {cause.fix}") from cause

    # ---- Converse ------------------------------------------------------------------------------------------------

    def _converse(self, call: Call) -> Reply:
        response, ignored = self._whole(call, call.request)
        return _told(wire.reply(call.operation, response), ignored)

    def _converse_stream(self, call: Call) -> Reply:
        events, ignored = self._events(call, call.request)
        return _told(wire.stream(call.operation, events), ignored)

    def _whole(self, call: Call, request: Request) -> tuple[Response, list[str]]:
        """Answer in one piece; where one of our engines stands in, in a way that stops when the client hangs up."""
        route, prepared, ignored = self._prepared(call, request, stream=False)
        if route.forward:
            response = route.engine.converse(**prepared)
            _note_id(call, response)
        else:
            events = route.engine.converse_stream(**prepared)["stream"]
            with call.received.hangup.closes(getattr(events, "close", _nothing)):
                response = collect(events)
        response = emulation.accounted(request, response)
        _note(call, response)
        return response, ignored

    def _events(self, call: Call, request: Request) -> tuple[Stream[Event], list[str]]:
        route, prepared, ignored = self._prepared(call, request, stream=True)
        response = route.engine.converse_stream(**prepared)
        _note_id(call, response)
        events = response["stream"]
        close = getattr(events, "close", _nothing)
        return Stream(_noted(events, call, request), close), ignored

    def _prepared(self, call: Call, request: Request, *, stream: bool) -> tuple[Route, Request, list[str]]:
        """Check a Converse request, and fit it to the engine that answers it."""
        notes = call.received.notes
        notes["model"] = request["modelId"]
        content.check(request)
        route = self._route(request["modelId"])
        if route.strict:
            emulation.check(request, stream=stream, region=notes.get("region", ""))
        renamed = {"modelId": route.model or request["modelId"]}
        if route.forward:
            return route, {**request, **renamed}, []
        if "guardrailConfig" in request:
            raise error("ValidationException", _NO_GUARDRAIL)
        adapted, ignored = emulation.adapted(request)
        if ignored:
            notes["ignored"] = ignored
        return route, {**adapted, **renamed}, ignored

    def _route(self, model_id: str) -> Route:
        for route in self._routes:
            if fnmatch.fnmatchcase(model_id, route.pattern):
                return route
        raise error("ValidationException", emulation.INVALID)

    # ---- InvokeModel ---------------------------------------------------------------------------------------------

    def _invoke(self, call: Call) -> Reply:
        family, request = _translated(call, call.request["modelId"], call.request["body"])
        response, ignored = self._whole(call, request)
        body = frames.dumped(family.response(response, request["modelId"]))
        usage = response.get("usage", {})
        counted = {
            "X-Amzn-Bedrock-Input-Token-Count": str(usage.get("inputTokens", 0)),
            "X-Amzn-Bedrock-Output-Token-Count": str(usage.get("outputTokens", 0)),
            "X-Amzn-Bedrock-Invocation-Latency": str(response.get("metrics", {}).get("latencyMs", 0)),
        }
        reply = wire.reply(call.operation, {"body": body, "contentType": "application/json"})
        return _told(reply._replace(headers={**reply.headers, **counted}), ignored)

    def _invoke_stream(self, call: Call) -> Reply:
        family, request = _translated(call, call.request["modelId"], call.request["body"])
        events, ignored = self._events(call, request)
        chunks = ({"chunk": {"bytes": frames.dumped(chunk)}} for chunk in family.events(events, request["modelId"]))
        reply = wire.stream(call.operation, Stream(chunks, events.close), contentType="application/json")
        return _told(reply, ignored)

    # ---- the others ----------------------------------------------------------------------------------------------

    def _count(self, call: Call) -> Reply:
        model_id, asked = call.request["modelId"], call.request["input"]
        call.received.notes["model"] = model_id
        route = self._route(model_id)
        if route.strict:
            emulation.check_count(model_id, call.received.notes.get("region", ""))
        if not route.forward:
            request = {**asked.get("converse", {}), "modelId": model_id}
            if "invokeModel" in asked:
                _, request = _translated(call, model_id, asked["invokeModel"]["body"])
            content.check(request)
            request, _ = emulation.adapted(request)
            costly = ("messages", "system", "toolConfig", "additionalModelRequestFields")
            asked = {"converse": {name: request[name] for name in costly if name in request}}
        counted = count_tokens(route.engine, {"modelId": route.model or model_id, "input": asked})
        return wire.reply(call.operation, counted)


def _translated(call: Call, model_id: str, body: bytes) -> tuple[Any, Request]:
    """Read a native body as the Converse request that it means; returns also the family that it is of."""
    call.received.notes["model"] = model_id
    if "guardrailIdentifier" in call.request:
        raise error("ValidationException", _NO_GUARDRAIL)
    try:
        parsed = loads(body.decode())
    except ValueError:
        raise error("ValidationException", _MALFORMED) from None
    family = native.family(model_id, parsed)
    request = family.request(parsed, model_id)
    shapes.check(wire.operation("Converse").input_shape, request)
    return family, request


def _noted(events: Iterable[Event], call: Call, request: Request) -> Generator[Event]:
    """Pass events on, and note what the answer took."""
    ending: dict[str, Any] = {}
    try:
        for event in events:
            for kind in ("messageStop", "metadata"):
                ending |= event.get(kind, {})
            if "metadata" in event:
                accounted = emulation.accounted(request, event["metadata"])
                _note(call, {**ending, **accounted})
                yield {"metadata": accounted}
            else:
                yield event
    except ClientError as failed:
        call.received.notes["code"] = failed.response["Error"]["Code"]
        raise
    finally:
        getattr(events, "close", _nothing)()


def _note(call: Call, response: Response) -> None:
    usage = response.get("usage", {})
    call.received.notes.update(
        stop_reason=response.get("stopReason", ""),
        input_tokens=usage.get("inputTokens", 0),
        output_tokens=usage.get("outputTokens", 0),
    )


def _note_id(call: Call, response: Response) -> None:
    """Keep the request id that the service gave, where a request was forwarded to it: it is the reply's, too."""
    if request_id := response.get("ResponseMetadata", {}).get("RequestId"):
        call.received.notes["request_id"] = request_id


def _told(reply: Reply, ignored: Sequence[str]) -> Reply:
    """Say in a header what of the request had no effect."""
    more = [f"and {len(ignored) - _TOLD} more"] if len(ignored) > _TOLD else []  # clients take no long headers
    told = ", ".join([*ignored[:_TOLD], *more])
    return reply._replace(headers={**reply.headers, "x-bx-ignored": told}) if ignored else reply


def _controlled(call: Call) -> Reply:
    region = call.received.notes.get("region") or control.DEFAULT_REGION
    return wire.reply(call.operation, control.OPERATIONS[call.operation](call.request, region))


def _without_guardrail(_: Call) -> Reply:
    raise error("ResourceNotFoundException", _NO_GUARDRAIL)


def _nothing() -> None:
    """Close what needs no closing."""
