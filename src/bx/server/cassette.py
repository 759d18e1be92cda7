"""One exchange as a file: what of it is kept, and how it is found again.

A recording is found by its key, a hash of what the request means: the operation and its members, whatever the order
of keys and the white space that they were sent with. The response is kept to the byte, each piece in the most
readable of three forms that give the very same bytes back: `json`, `text`, `base64`. The request is kept for people
to read: without what looks like a secret, of long texts the beginning, and of blobs the hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.eventstream import EventStreamBuffer, ParserError

from bx.diagnosis import redacted
from bx.instances import canonical
from bx.server import frames, wire
from bx.server.exchange import Reply

if TYPE_CHECKING:
    from pathlib import Path

    from bx.server.exchange import Call

    Timed = list[tuple[float, bytes]]  # seconds since the request, and what was sent then

_FORMAT = 1
_MARK = "bx_recording"  # says that a file is one of ours, and in which format
_NOTES = ("model", "code", "stop_reason", "input_tokens", "output_tokens")
_HEADERS = re.compile(r"content-type|accept|x-amzn-bedrock-.*")  # of a request; others may hold secrets
_USUAL = {"contentType": ("application/json",), "accept": ("application/json", "*/*")}  # said by some SDKs only


class RecordingError(ValueError):
    """Recordings cannot be kept or used; the message names the file, `fix` what to do."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Recording(NamedTuple):
    """An exchange that can be played back. `request` is what is shown of it; `pieces` is the reply's body, timed."""

    key: str
    operation: str
    request: dict[str, Any]
    notes: dict[str, Any]
    reply: Reply
    pieces: Timed


# ---- requests -------------------------------------------------------------------------------------------------


def meaning(call: Call) -> dict[str, Any]:
    """Return what a request means, as JSON: nothing that an SDK makes up for each call.

    Raises:
        RecursionError: it is nested too deeply.
    """
    made_up = wire.operation(call.operation).idempotent_members
    members = {
        name: value
        for name, value in call.request.items()
        if name not in made_up and value not in _USUAL.get(name, ())
    }
    return {"operation": call.operation, "request": _plain(members)}


def key(meant: dict[str, Any]) -> str:
    """Return the hash by which a recording is found; equal numbers are equal, however they are spelled."""
    return hashlib.sha256(canonical(meant).encode()).hexdigest()


def shown(value: Any, name: str = "") -> Any:
    """Copy JSON without what looks like a secret, by itself or by the name that it goes under."""
    if isinstance(value, dict):
        return {redacted(key): shown(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [shown(item, name) for item in value]
    if isinstance(value, float) and not math.isfinite(value):  # 1e999 is one, and JSON has no word for it
        return str(value)
    if not isinstance(value, str):
        return value
    label = f"{name}="
    whole = redacted(label + value)
    return whole[len(label) :] if whole.startswith(label) else redacted(value)


def _plain(value: Any, name: str = "") -> Any:
    """Copy a value into JSON; a native body as the JSON that it is, another blob as its hash."""
    if isinstance(value, dict):
        return {key: _plain(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        body = _loaded(value) if name == "body" else None
        return {"sha256": hashlib.sha256(value).hexdigest(), "bytes": len(value)} if body is None else body
    return value if value is None or isinstance(value, str | int | float) else str(value)  # a moment


def _loaded(data: bytes) -> Any:
    """Read JSON of the strict kind, or return None."""
    try:
        return json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None


def _no_number(name: str) -> None:
    raise ValueError(name)


# ---- files ----------------------------------------------------------------------------------------------------


def written(call: Call, reply: Reply, pieces: Timed) -> tuple[str, bytes]:
    """Write an exchange that is over as a file's content; returns also what its name begins with.

    Raises:
        RecursionError: it is nested too deeply.
    """
    meant, received = meaning(call), call.received
    found = key(meant)
    head = {
        _MARK: _FORMAT,
        "operation": call.operation,
        "key": found,
        "headers": {name: redacted(text) for name, text in received.headers.items() if _HEADERS.fullmatch(name)},
        "request": shown(meant["request"]),
        "notes": {name: received.notes[name] for name in _NOTES if name in received.notes},
        "status": reply.status,
        "response_headers": dict(reply.headers),
        "streamed": not isinstance(reply.body, bytes),
    }
    lines = [[round(seconds * 1000, 1), _opened(piece)] for seconds, piece in pieces]
    return f"{call.operation}-{found[:12]}", _dumped(head, lines)


def read(path: Path, content: bytes) -> Recording:
    """Read the content of a file that `written` made.

    Raises:
        RecordingError: it is none, damaged, or of a newer format.
    """
    document = _loaded(content)
    mark = document.get(_MARK) if isinstance(document, dict) else None
    if isinstance(mark, int) and mark > _FORMAT:
        raise RecordingError(f"{path} was recorded by a newer bx", "Update bx: pip install --upgrade bedrock-bx")
    if mark != _FORMAT:
        raise RecordingError(f"{path} is no recording of bx, or it is damaged", "Move it out of the folder")
    try:
        return _recording(document)
    except (KeyError, TypeError, ValueError, AttributeError, struct.error) as cause:
        text = f"{path} is damaged: {type(cause).__name__}: {cause}"
        raise RecordingError(text, "Delete it, and record the exchange again") from None


def _recording(document: dict[str, Any]) -> Recording:
    pieces = [(float(after) / 1000, _closed(form)) for after, form in document["pieces"]]
    if document["streamed"]:
        body: bytes | list[bytes] = [piece for _, piece in pieces]
    else:
        ((_, body),) = pieces
    return Recording(
        str(document["key"]),
        str(document["operation"]),
        dict(document["request"]),
        dict(document["notes"]),
        Reply(int(document["status"]), dict(document["response_headers"]), body),
        pieces,
    )


def _dumped(head: dict[str, Any], lines: list[Any], *, ascii_only: bool = False) -> bytes:
    """Write JSON, with a line for each piece of the response."""
    top = json.dumps(head, ensure_ascii=ascii_only, indent=1).removesuffix("\n}")
    rows = ",\n".join("  " + json.dumps(line, ensure_ascii=ascii_only) for line in lines)
    try:
        return f'{top},\n "pieces": [\n{rows}\n ]\n}}\n'.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates has an escape, but no UTF-8
        return _dumped(head, lines, ascii_only=True)


# ---- bytes ----------------------------------------------------------------------------------------------------


def _opened(piece: bytes) -> dict[str, Any]:
    """Write a piece of a response: a frame as its headers and payload, anything else as its bytes."""
    try:
        buffer = EventStreamBuffer()
        buffer.add_data(piece)
        ((headers, payload),) = ((message.headers, message.payload) for message in buffer)
        texts = all(isinstance(text, str) for text in headers.values())
        if texts and frames.frame(headers, payload) == piece:
            return {"headers": headers, **_spelled(payload)}
    except (ParserError, ValueError, KeyError, struct.error):  # no frame
        pass
    return _spelled(piece)


def _closed(form: dict[str, Any]) -> bytes:
    rest = {kind: value for kind, value in form.items() if kind != "headers"}
    return frames.frame(form["headers"], _unspelled(rest)) if "headers" in form else _unspelled(rest)


def _spelled(data: bytes) -> dict[str, Any]:
    """Write bytes in the most readable form that gives them back."""
    parsed = _loaded(data)
    if parsed is not None and frames.dumped(parsed) == data:
        return {"json": parsed}
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _unspelled(form: dict[str, Any]) -> bytes:
    ((kind, value),) = form.items()
    if kind == "json":
        return frames.dumped(value)
    return str(value).encode() if kind == "text" else base64.b64decode(form["base64"], validate=True)
