"""Frames of the AWS event stream, encoded: `application/vnd.amazon.eventstream`.

A frame is the total length, the length of its headers, a checksum of both, the headers, the payload, and a checksum
of all of it; numbers are unsigned and big-endian. Every header is a string (type 7), as Amazon Bedrock has them.
"""

from __future__ import annotations

import binascii
import json
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_STRING = 7
_OVERHEAD = 16  # bytes: the two lengths and the two checksums


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Encode one frame.

    Args:
        headers: names of 1 to 255 bytes of UTF-8, values of at most 65,535.
        payload: the body.

    Raises:
        ValueError: a header is too long.
    """
    return _frame(_head(headers), payload)


def event(kind: str, body: dict[str, Any]) -> bytes:
    """Encode an event, such as `contentBlockDelta`, with its JSON body."""
    return _frame(_event_head(kind), dumped(body))


def exception(kind: str, body: dict[str, Any]) -> bytes:
    """Encode a modelled exception, named in lowerCamelCase, such as `throttlingException`."""
    headers = {":message-type": "exception", ":exception-type": kind, ":content-type": "application/json"}
    return frame(headers, dumped(body))


def corrupted(whole: bytes) -> bytes:
    """Return a frame with its last checksum wrong."""
    return whole[:-1] + bytes([whole[-1] ^ 0xFF])


def dumped(value: Any) -> bytes:
    """Write JSON as the service does: compact, in UTF-8."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # half of a pair of surrogates has an escape, but no UTF-8
        return json.dumps(value, separators=(",", ":")).encode()


def _frame(head: bytes, payload: bytes) -> bytes:
    prelude = struct.pack("!II", _OVERHEAD + len(head) + len(payload), len(head))
    start = b"".join((prelude, struct.pack("!I", binascii.crc32(prelude)), head, payload))
    return start + struct.pack("!I", binascii.crc32(start))


@lru_cache(maxsize=100)  # every piece of an answer has the same one
def _event_head(kind: str) -> bytes:
    return _head({":event-type": kind, ":content-type": "application/json", ":message-type": "event"})


def _head(headers: Mapping[str, str]) -> bytes:
    return b"".join(_header(name.encode(), value.encode()) for name, value in headers.items())


def _header(name: bytes, value: bytes) -> bytes:
    try:
        return struct.pack(f"!B{len(name)}sBH", len(name), name, _STRING, len(value)) + value
    except struct.error as cause:
        raise ValueError(f"The header {name!r} does not fit into a frame: {cause}") from None
