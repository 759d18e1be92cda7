"""Amazon Bedrock's protocol (rest-json): HTTP <-> the operations of botocore's own service models.

Routes, where each member of a request travels, and the shapes of answers are read from the models that AWS ships with
botocore; nothing about an operation is written down here twice.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import urllib.parse
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError, EventStreamError
from botocore.loaders import Loader
from botocore.model import ServiceModel

from bx.converse import error, status_of
from bx.server import frames, shapes
from bx.server.exchange import Call, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from botocore.model import OperationModel, Shape

    from bx.server.exchange import Received

_SERVICES = ("bedrock-runtime", "bedrock")
_JSON = {"Content-Type": "application/json"}
_CORAL = "http://internal.amazon.com/coral/com.amazon.bedrock/"  # what follows an error's name in its header
_PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
# The live service's answer where there is no operation.
UNKNOWN = Reply(
    404,
    {**_JSON, "x-amzn-errortype": "UnknownOperationException"},
    frames.dumped({"Output": {"__type": "com.amazon.coral.service#UnknownOperationException"}, "Version": "1.0"}),
)


# ---- in -------------------------------------------------------------------------------------------------------


class _Route(NamedTuple):
    method: str
    path: re.Pattern[str]
    operation: str


def parse(received: Received) -> Call | None:
    """Read a request as an operation with its members; None where there is no such operation.

    The path is decoded after it was matched, so an ARN keeps its slashes.

    Raises:
        ClientError: the body is no JSON, a value is of another type than its shape, or breaks a constraint of it.
    """
    found = _found(received.method, received.path)
    if found is None:
        return None
    name, labels = found
    model = operation(name)
    members = _members(model, labels, received)
    shapes.check(model.input_shape, members)
    return Call(name, members, received)


@lru_cache(maxsize=64)  # a path may be as long as a request's head
def _found(method: str, path: str) -> tuple[str, Mapping[str, str]] | None:
    """Return the operation that a request line asks for, and the labels of its path, still encoded."""
    for route in _routes():
        labels = route.path.fullmatch(path) if route.method == method else None
        if labels:
            return route.operation, labels.groupdict()
    return None


def _members(model: OperationModel, labels: Mapping[str, str], received: Received) -> dict[str, Any]:
    shape = model.input_shape
    members: dict[str, Any] = {}
    query = urllib.parse.parse_qs(received.query, keep_blank_values=True)
    in_body = {}
    for name, member in shape.members.items():
        location, key = member.serialization.get("location"), member.serialization.get("name", name)
        if location == "uri":
            members[name] = urllib.parse.unquote(labels[key])
        elif location == "querystring" and key in query:
            members[name] = shapes.from_text(member, query[key][0], name)
        elif location == "header" and key.lower() in received.headers:
            members[name] = received.headers[key.lower()]
        elif location is None:
            in_body[name] = member
    if payload := shape.serialization.get("payload"):
        return {**members, payload: received.body}
    if in_body:
        members |= shapes.decoded(shape, _json(received.body), skip=members)
    return members


def _json(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}", parse_constant=_no_number)
    except (ValueError, RecursionError) as cause:
        raise error("SerializationException", f"The request body is not valid JSON: {cause}") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


# ---- out ------------------------------------------------------------------------------------------------------


def reply(name: str, response: Mapping[str, Any]) -> Reply:
    """Encode the response of an operation, a dict in boto3's spelling."""
    model = operation(name)
    shape = model.output_shape
    headers, rest = _outgoing(shape, response)
    status = int(model.http.get("responseCode", 200))
    payload = shape.serialization.get("payload")
    if payload:
        return Reply(status, headers, response[payload])
    return Reply(status, {**_JSON, **headers}, frames.dumped(encoded(shape, rest)))


def stream(name: str, events: Iterable[Mapping[str, Any]], **response: Any) -> Reply:
    """Encode the events of an operation's stream, each as a frame, one by one as they come.

    `response` holds the members that travel beside the stream, in headers. Closing the body closes the events. An
    error that comes among them ends the stream as a modelled exception.
    """
    shape = operation(name).output_shape
    headers, _ = _outgoing(shape, response)
    body = _Frames(_frames(shape.members[shape.serialization["payload"]].members, events), events)
    return Reply(200, {"Content-Type": frames.CONTENT_TYPE, **headers}, body)


def failure(failed: ClientError) -> Reply:
    """Encode an error as the service does: a status, its name in a header, its text in a body."""
    told = failed.response["Error"]
    code = told.get("Code", "InternalServerException")
    if isinstance(failed, EventStreamError):
        code = code[:1].upper() + code[1:]
    metadata = failed.response.get("ResponseMetadata", {})
    headers = {**_JSON, "x-amzn-errortype": f"{code}:{_CORAL}"}
    if request_id := metadata.get("RequestId"):  # of the service, where the request was forwarded to it
        headers["x-amzn-RequestId"] = request_id
    status = metadata.get("HTTPStatusCode") or status_of(code)
    return Reply(status, headers, frames.dumped({"message": told.get("Message", ""), **_more(failed)}))


def encoded(shape: Shape, value: Any) -> Any:
    """Copy a value into JSON: blobs in base64, moments in ISO 8601; members that the shape does not know stay."""
    kind = shape.type_name
    if kind == "blob":
        return base64.b64encode(value).decode()
    if kind == "timestamp" and not isinstance(value, str):
        return value.isoformat()
    if kind == "list":
        return [encoded(shape.member, item) for item in value]
    if kind == "map":
        return {name: encoded(shape.value, item) for name, item in value.items()}
    if kind == "structure" and not shape.is_document_type:
        known = shape.members
        return {name: encoded(known[name], item) if name in known else item for name, item in value.items()}
    return value


class _Frames:
    """The frames of a stream; unlike a generator's, its `close` works from any thread, and before the start."""

    def __init__(self, pieces: Generator[bytes], events: Any) -> None:
        self._pieces = pieces
        self.close: Callable[[], None] = getattr(events, "close", pieces.close)

    def __iter__(self) -> Generator[bytes]:
        return self._pieces


def _frames(kinds: Mapping[str, Shape], events: Iterable[Mapping[str, Any]]) -> Generator[bytes]:
    lengths = itertools.cycle(range(0, len(_PADDING), 7))
    try:
        for each in events:
            ((kind, body),) = each.items()
            padded = {**encoded(kinds[kind], body), "p": _PADDING[: next(lengths)]}
            yield frames.event(kind, padded)
    except ClientError as failed:
        yield exception(failed, kinds)
    finally:
        if close := getattr(events, "close", None):
            close()


def exception(failed: ClientError, kinds: Mapping[str, Any]) -> bytes:
    """Encode an error as the frame that ends a stream; one that the stream does not have becomes an internal one."""
    told = failed.response["Error"]
    code = told["Code"][:1].lower() + told["Code"][1:]
    kind = code if code in kinds else "internalServerException"
    return frames.exception(kind, {"message": told["Message"], **_more(failed)})


def _more(failed: ClientError) -> dict[str, Any]:
    """Return the members of an error beside its message, which are spelled as the service has them."""
    return {name: value for name, value in failed.response.items() if name[:1].islower()}


def _outgoing(shape: Shape, response: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Split a response into what travels in headers, and the rest."""
    headers, rest = dict[str, str](), dict[str, Any]()
    for name, value in response.items():
        serialization = shape.members[name].serialization if name in shape.members else {}
        if serialization.get("location") == "header":
            headers[serialization["name"]] = str(value)
        elif name != "ResponseMetadata":
            rest[name] = value
    return headers, rest


# ---- the models -----------------------------------------------------------------------------------------------


@cache
def operation(name: str) -> OperationModel:
    """Return botocore's model of an operation of either service."""
    service = next(each for each in _services() if name in each.operation_names)
    return service.operation_model(name)


def streams(name: str) -> bool:
    """Whether an operation answers in events."""
    return bool(operation(name).has_event_stream_output)


@cache
def _routes() -> list[_Route]:
    """Return all routes, those with the fewest labels first: `/a/b` before `/a/{c}`."""
    found = []
    for service in _services():
        for name in service.operation_names:
            http = service.operation_model(name).http
            path, _, _ = http["requestUri"].partition("?")
            parts = re.split(r"\{(\w+)\+?\}", path)
            pattern = "".join(f"(?P<{part}>[^/]+)" if odd % 2 else re.escape(part) for odd, part in enumerate(parts))
            found.append((len(parts), _Route(http["method"], re.compile(f"{pattern}/?"), name)))
    return [route for _, route in sorted(found, key=lambda each: each[0])]


@cache
def _services() -> list[ServiceModel]:
    loader = Loader()
    return [ServiceModel(loader.load_service_model(name, "service-2"), name) for name in _SERVICES]
