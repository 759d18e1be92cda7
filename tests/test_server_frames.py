"""Frames of the event stream, read back by botocore's own decoder."""

from __future__ import annotations

import json

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from bx.server import frames

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
HEADERS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60), TEXTS, max_size=5
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def decoded(pieces):
    buffer, messages = EventStreamBuffer(), []
    for piece in pieces:
        buffer.add_data(piece)
        messages += buffer
    return messages


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=300)), max_size=4), st.data())
def test_any_headers_and_payloads_are_read_back_however_their_bytes_are_split(written, data):
    whole = b"".join(frames.frame(headers, payload) for headers, payload in written)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert [(message.headers, message.payload) for message in decoded(pieces)] == written


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_json_is_written_as_it_is_read(body):
    assert json.loads(frames.dumped(body)) == body
    (message,) = decoded([frames.event("contentBlockDelta", body)])
    assert json.loads(message.payload) == body


def test_json_is_compact_and_in_utf_8_and_halves_of_characters_are_escaped():
    assert frames.dumped({"a": ["é", 1, 2**70, b"ab"]}) == '{"a":["é",1,1180591620717411303424,"YWI="]}'.encode()
    assert frames.dumped({"é": "\ud800"}) == b'{"\\u00e9":"\\ud800"}'


def test_an_event_and_an_exception_have_the_headers_that_the_service_sends():
    (event,) = decoded([frames.event("messageStart", {"role": "assistant"})])
    assert event.headers == {
        ":event-type": "messageStart",
        ":content-type": "application/json",
        ":message-type": "event",
    }
    (exception,) = decoded([frames.exception("throttlingException", {"message": "Slow down"})])
    assert exception.headers == {
        ":message-type": "exception",
        ":exception-type": "throttlingException",
        ":content-type": "application/json",
    }
    assert json.loads(exception.payload) == {"message": "Slow down"}


def test_a_header_that_is_too_long_is_no_frame():
    for headers in ({"a" * 256: ""}, {"a": "b" * 2**16}):
        with pytest.raises(ValueError, match="does not fit into a frame"):
            frames.frame(headers, b"")


def test_a_corrupted_frame_fails_its_checksum():
    with pytest.raises(ChecksumMismatch):
        decoded([frames.corrupted(frames.event("messageStop", {"stopReason": "end_turn"}))])
