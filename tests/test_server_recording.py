"""Recordings: answers come back byte for byte, for what means the same request, and never in part."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from botocore.exceptions import ClientError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bx import diagnosis
from bx.converse import broken_stream, error
from bx.server import cassette, frames, recording, wire
from bx.server.exchange import Act, Call, Received, Reply

NOVA = "us.amazon.nova-2-lite-v1:0"


def call(operation="Converse", *, headers=None, **members):
    said = {"modelId": NOVA, "messages": [{"role": "user", "content": [{"text": "hello"}]}]}
    if operation.startswith("Invoke"):
        said = {"modelId": NOVA, "body": b'{"prompt": "hello"}'}
    return Call(operation, {**said, **members}, Received("POST", "/", "", headers or {}, b""))


def saying(text, **changes):
    return call(messages=[{"role": "user", "content": [{"text": text}]}], **changes)


def answering(*replies):
    """A `Perform` that gives these replies one after the other; an exception is raised."""
    left = list(replies)

    def perform(_):
        reply = left.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    return perform


def unary(text="hello"):
    return Reply(200, {"Content-Type": "application/json"}, frames.dumped({"text": text}))


def events(*texts):
    yield {"messageStart": {"role": "assistant"}}
    for text in texts:
        yield {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": text}}}
    yield {"messageStop": {"stopReason": "end_turn"}}


def whole(reply):
    """A reply whose body has been read to its end, and closed as a server does."""
    if isinstance(reply.body, bytes):
        return reply
    pieces = list(reply.body)
    getattr(reply.body, "close", lambda: None)()
    return reply._replace(body=pieces)


def asked(perform, *calls):
    return [whole(perform(each)) for each in calls]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def kept(folder):
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


# ---- byte for byte --------------------------------------------------------------------------------------------

HEADERS = st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
BYTES = (
    st.binary(max_size=80)
    | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace"))
    | JSON.map(frames.dumped)
    | JSON.map(lambda value: json.dumps(value, indent=1).encode())
    | st.sampled_from([b"null", b"1e5", b'"\\ud800"', b"1e999", b'{"a":1,"a":2}', b"9" * 5000, b"[" * 100_000])
)
FRAMES = st.builds(frames.frame, HEADERS, BYTES)
PIECES = st.lists(FRAMES | BYTES | FRAMES.map(frames.corrupted) | st.tuples(FRAMES, FRAMES).map(b"".join), max_size=4)
REPLIES = st.builds(
    Reply,
    st.integers(200, 599),
    st.dictionaries(st.text("abc-XYZ", min_size=1), st.text(max_size=8), max_size=3),
    BYTES | PIECES,
)


@settings(max_examples=150)
@given(REPLIES)
def test_any_reply_comes_back_byte_for_byte(reply):
    with TemporaryDirectory() as folder:
        asked(recording.recorded(answering(reply), Path(folder)), call())
        assert asked(recording.replayed(Path(folder)), call()) == [reply]


@settings(max_examples=50)
@given(JSON)
@example(float("inf"))
@example({"half": "\ud800", "\udfff": [1e300, -0.0, 10**400]})
def test_any_document_in_a_request_is_found_again(document):
    fields = call(additionalModelRequestFields={"odd": document})
    with TemporaryDirectory() as folder:
        asked(recording.recorded(answering(unary()), Path(folder)), fields)
        assert asked(recording.replayed(Path(folder)), fields) == [unary()]


def test_a_stream_of_events_is_kept_readably_with_its_pace(tmp_path):
    def slow():
        for event in events("one", "two"):
            time.sleep(0.02)
            yield event

    stream = call("ConverseStream")
    (reply,) = asked(recording.recorded(answering(wire.stream("ConverseStream", slow())), tmp_path), stream)
    (document,) = kept(tmp_path)
    assert [form[":event-type"] for form in (piece["headers"] for _, piece in document["pieces"])] == [
        "messageStart",
        "contentBlockDelta",
        "contentBlockDelta",
        "messageStop",
    ]
    assert document["pieces"][1][1]["json"]["delta"] == {"text": "one"}
    moments = [after for after, _ in document["pieces"]]
    assert moments == sorted(moments)
    assert moments[0] >= 20
    assert moments[-1] >= 80
    assert asked(recording.replayed(tmp_path), stream) == [reply]


def test_an_error_is_kept_as_its_reply(tmp_path):
    failed = error("ThrottlingException", "Too many requests, please wait before trying again.")
    (reply,) = asked(recording.recorded(answering(failed), tmp_path), call())
    assert reply == wire.failure(failed)
    again = call()
    assert asked(recording.replayed(tmp_path), again) == [reply]
    assert again.received.notes["code"] == "ThrottlingException"


def test_an_exception_that_ends_a_stream_is_kept_as_its_frame(tmp_path):
    def failing():
        yield from list(events("one"))[:2]
        raise broken_stream("throttlingException", "slow down")

    stream = call("ConverseStream")
    (reply,) = asked(recording.recorded(answering(wire.stream("ConverseStream", failing())), tmp_path), stream)
    assert reply.body[-1] == frames.exception("throttlingException", {"message": "slow down"})
    assert asked(recording.replayed(tmp_path), stream) == [reply]


# ---- only whole answers ---------------------------------------------------------------------------------------


def streamed(folder, source):
    reply = wire.stream("ConverseStream", source)
    return recording.recorded(answering(reply), folder)(call("ConverseStream"))


def test_an_answer_that_nobody_waits_for_is_not_stored(tmp_path):
    reply = streamed(tmp_path, events("one", "two"))
    with closing(reply.body):
        next(iter(reply.body))
    assert files(tmp_path) == []


def test_a_stream_that_ends_because_it_was_closed_is_not_stored(tmp_path):
    closed = threading.Event()

    class Source:
        def __iter__(self):
            for event in events("one", "two"):
                if closed.is_set():
                    return
                yield event

        def close(self):
            closed.set()

    reply = streamed(tmp_path, Source())
    pieces = iter(reply.body)
    next(pieces)
    reply.body.close()
    list(pieces)
    assert closed.is_set()
    assert files(tmp_path) == []


def test_an_answer_whose_client_has_hung_up_is_not_stored(tmp_path):
    for reply in (unary(), wire.stream("ConverseStream", events("one"))):
        gone = call("ConverseStream")
        gone.received.hangup.happen()
        asked(recording.recorded(answering(reply), tmp_path), gone)
    assert files(tmp_path) == []


def test_an_answer_that_breaks_is_not_stored(tmp_path):
    def breaking():
        yield from list(events("one"))[:2]
        raise OSError("the network is gone")

    with pytest.raises(OSError, match="the network is gone"):
        whole(streamed(tmp_path, breaking()))
    with pytest.raises(RuntimeError):
        recording.recorded(answering(RuntimeError("a bug")), tmp_path)(call())
    assert files(tmp_path) == []


@pytest.mark.parametrize("act", list(Act))
def test_an_answer_that_is_broken_off_on_purpose_is_not_stored(tmp_path, act):
    pieces = [frames.event("messageStart", {"role": "assistant"}), act]
    (reply,) = asked(recording.recorded(answering(Reply(200, {}, pieces)), tmp_path), call("ConverseStream"))
    assert reply.body == pieces
    assert files(tmp_path) == []


# ---- what is the same request ---------------------------------------------------------------------------------

IMAGE = [{"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": b"\x89PNG one"}}}]}]
OTHER = [{"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": b"\x89PNG two"}}}]}]


def same(one, other):
    return cassette.key(cassette.meaning(one)) == cassette.key(cassette.meaning(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (call(), call(headers={"user-agent": "another", "authorization": "another"})),
        (
            call(inferenceConfig={"maxTokens": 1, "temperature": 1.0}),
            call(inferenceConfig={"temperature": 1, "maxTokens": 1}),
        ),
        (call("InvokeModel", body=b'{"a": 1, "b": [2]}'), call("InvokeModel", body=b'{"b":[2],\n"a":1.0}')),
        (call("InvokeModel"), call("InvokeModel", contentType="application/json", accept="*/*")),
        (call(messages=IMAGE), call(messages=IMAGE)),
    ],
)
def test_requests_that_mean_the_same_are_the_same(one, other):
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (call(), call("ConverseStream")),
        (call(), call(modelId="amazon.nova-2-lite-v1:0")),
        (saying("hello"), saying("hello ")),
        (call(inferenceConfig={"maxTokens": 1}), call(inferenceConfig={"maxTokens": 2})),
        (call(additionalModelRequestFields={"a": 1}), call(additionalModelRequestFields={"a": True})),
        (call("InvokeModel", body=b'{"a": 1}'), call("InvokeModel", body=b'{"a": 2}')),
        (call("InvokeModel", body=b"no json"), call("InvokeModel", body=b"no  json")),
        (call("InvokeModel"), call("InvokeModel", accept="image/png")),
        (call(messages=IMAGE), call(messages=OTHER)),
    ],
)
def test_requests_that_do_not_mean_the_same_are_different(one, other):
    assert not same(one, other)


def test_a_token_that_an_sdk_makes_up_for_each_call_makes_no_difference():
    one, other = (
        Call("StartAsyncInvoke", {"modelId": NOVA, "clientRequestToken": token}, call().received) for token in "ab"
    )
    assert same(one, other)


def test_a_repeated_request_gets_its_answers_in_order_and_then_the_last_one(tmp_path):
    replies = [unary(str(number)) for number in range(12)]
    asked(recording.recorded(answering(*replies), tmp_path), *[call()] * 12)
    assert asked(recording.replayed(tmp_path), *[call()] * 14) == [*replies, replies[-1], replies[-1]]


def test_another_server_adds_to_a_folder(tmp_path):
    for text in ("one", "two"):
        asked(recording.recorded(answering(unary(text)), tmp_path), call())
    key = cassette.key(cassette.meaning(call()))
    assert files(tmp_path) == [f"Converse-{key[:12]}-1.json", f"Converse-{key[:12]}-2.json"]
    assert asked(recording.replayed(tmp_path), call(), call()) == [unary("one"), unary("two")]


def test_many_threads_and_processes_lose_nothing(tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from test_server_recording import *\n"
        "perform = recording.recorded(lambda _: unary(), Path(sys.argv[1]))\n"
        "[perform(call()) for _ in range(30)]"
    )
    arguments = [sys.executable, "-c", program, tmp_path, Path(__file__).parent]
    processes = [subprocess.Popen(arguments) for _ in range(2)]
    perform = recording.recorded(lambda each: unary(each.request["messages"][0]["content"][0]["text"]), tmp_path)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(perform, [saying(str(number % 5)) for number in range(100)]))
    assert [process.wait() for process in processes] == [0, 0]
    assert len(list(tmp_path.glob("[!.]*.json"))) == 160
    assert len(files(tmp_path)) == 160
    replay = recording.replayed(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: replay(saying(str(number % 5))), range(100)))
    assert found == [unary(str(number % 5)) for number in range(100)]


# ---- pace -----------------------------------------------------------------------------------------------------


def paced(tmp_path):
    def slow():
        for event in events("one"):
            time.sleep(0.1)
            yield event

    asked(recording.recorded(answering(wire.stream("ConverseStream", slow())), tmp_path), call("ConverseStream"))

    def late(_):
        time.sleep(0.1)
        return unary()

    asked(recording.recorded(late, tmp_path), call())


def test_a_replay_is_as_slow_as_the_recording_only_if_asked(tmp_path):
    paced(tmp_path)
    took = {}
    for realtime in (False, True):
        replay = recording.replayed(tmp_path, realtime=realtime)
        began = time.monotonic()
        asked(replay, call(), call("ConverseStream"))
        took[realtime] = time.monotonic() - began
    assert took[False] < 0.1
    assert 0.4 <= took[True] < 0.8


def test_a_slow_replay_stops_when_the_client_hangs_up(tmp_path):
    paced(tmp_path)
    gone = call("ConverseStream")
    pieces = iter(recording.replayed(tmp_path, realtime=True)(gone).body)
    next(pieces)
    gone.received.hangup.happen()
    began = time.monotonic()
    assert list(pieces) == []
    assert time.monotonic() - began < 0.05


# ---- what is stored -------------------------------------------------------------------------------------------

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def test_no_secret_of_a_request_is_stored_and_the_request_is_found_all_the_same(tmp_path):
    headers = {
        "authorization": f"Bearer {SECRET}",
        "x-amz-security-token": SECRET,
        "cookie": SECRET,
        "content-type": "application/json",
        "x-amzn-bedrock-trace": "ENABLED",
    }
    secretive = saying(f"why is {SECRET} refused?", headers=headers, requestMetadata={"session_token": "short-one"})
    other = saying("why is AKIAIOSFODNN7EXAMPLE refused?")
    native = call("InvokeModel", body=json.dumps({"prompt": f"use {SECRET}"}).encode())
    calls = (secretive, other, native)
    asked(recording.recorded(answering(*map(unary, "abc")), tmp_path), *calls)
    stored = "".join(path.read_text() for path in tmp_path.iterdir())
    for secret in (SECRET, "AKIAIOSFODNN7EXAMPLE", "short-one"):
        assert secret not in stored
    assert "why is *** refused?" in stored
    headers_kept = [document["headers"] for document in kept(tmp_path)]
    assert {"content-type": "application/json", "x-amzn-bedrock-trace": "ENABLED"} in headers_kept
    assert asked(recording.replayed(tmp_path), *calls) == [unary(text) for text in "abc"]


def test_a_blob_is_stored_as_its_hash(tmp_path):
    asked(recording.recorded(answering(unary()), tmp_path), call(messages=IMAGE))
    (document,) = kept(tmp_path)
    source = document["request"]["messages"][0]["content"][0]["image"]["source"]
    assert source["bytes"]["bytes"] == len(b"\x89PNG one")
    assert base64.b64encode(b"\x89PNG one").decode() not in json.dumps(document)


def test_what_the_counters_tell_of_an_exchange_comes_back_with_it(tmp_path):
    def perform(each):
        each.received.notes.update(model=NOVA, input_tokens=3, output_tokens=5, region="eu-west-1", faults=["x"])
        return unary()

    asked(recording.recorded(perform, tmp_path), call())
    again = call()
    asked(recording.replayed(tmp_path), again)
    assert again.received.notes == {"model": NOVA, "input_tokens": 3, "output_tokens": 5}


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_recordings_are_the_users_alone(tmp_path):
    folder = tmp_path / "made" / "here"
    asked(recording.recorded(answering(unary()), folder), call())
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_gone_costs_a_warning_and_no_answer(tmp_path, caplog):
    folder = tmp_path / "recordings"
    perform = recording.recorded(answering(unary("one"), unary("two"), unary("three")), folder)
    shutil.rmtree(folder)
    with caplog.at_level(logging.WARNING, logger="bx.server"):
        assert asked(perform, call(), call()) == [unary("one"), unary("two")]
    (warning,) = caplog.messages
    assert warning.startswith(f"An exchange was not recorded in {folder}: No such file")
    folder.mkdir()
    asked(perform, call())
    assert len(files(folder)) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_a_full_disk_leaves_nothing_behind(tmp_path, caplog):
    resource = pytest.importorskip("resource")
    program = (
        "import sys, resource, signal; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from test_server_recording import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "perform = recording.recorded(lambda _: unary(), Path(sys.argv[1]))\n"
        "assert [perform(call()) for _ in range(2)] == [unary()] * 2"
    )
    assert resource
    arguments = [sys.executable, "-c", program, tmp_path / "here", Path(__file__).parent]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "was not recorded" in done.stderr
    assert files(tmp_path / "here") == []


def test_a_request_that_is_nested_too_deeply_costs_a_warning_and_no_answer(tmp_path, caplog):
    document = {}
    for _ in range(5000):
        document = {"a": document}
    deep = call(additionalModelRequestFields=document)
    assert asked(recording.recorded(answering(unary(), unary()), tmp_path), deep, call()) == [unary()] * 2
    assert "nested too deeply" in caplog.text
    with pytest.raises(ClientError, match="nested too deeply"):
        recording.replayed(tmp_path)(deep)


def test_a_folder_that_cannot_be_made_is_told_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(cassette.RecordingError, match="cannot be kept") as failed:
            recording.recorded(answering(), folder)
        assert diagnosis.explain(failed.value).exit_code == 2


# ---- folders that are no use ----------------------------------------------------------------------------------


def refused(folder):
    with pytest.raises(cassette.RecordingError) as failed:
        recording.replayed(folder)
    told = diagnosis.explain(failed.value)
    assert told.exit_code == 2
    assert told.fix
    return told.what


def test_a_folder_without_recordings_is_told_at_the_start(tmp_path):
    assert "cannot be read" in refused(tmp_path / "none")
    assert "no recording in" in refused(tmp_path)
    (tmp_path / "README.md").write_text("not one either")
    (tmp_path / "Converse-0123456789ab-1.json").touch()  # claimed by a process that was killed
    assert "no recording in" in refused(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"bx_recording": "1"}', "\ud800", "null", "[" * 100_000])
def test_a_foreign_file_is_named_at_the_start(tmp_path, content):
    asked(recording.recorded(answering(unary()), tmp_path), call())
    (tmp_path / "foreign.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert f"{tmp_path / 'foreign.json'} is no recording of bx" in refused(tmp_path)


def test_a_recording_of_a_newer_bx_is_told(tmp_path):
    (tmp_path / "new.json").write_text('{"bx_recording": 2}')
    assert "newer bx" in refused(tmp_path)


def test_a_damaged_recording_is_named_at_the_start(tmp_path):
    stream = wire.stream("ConverseStream", events("one"))
    perform = recording.recorded(answering(unary(), stream), tmp_path)
    asked(perform, call(), call("ConverseStream"))
    for path in list(tmp_path.iterdir()):
        sound = json.loads(path.read_text())
        broken = [{name: part for name, part in sound.items() if name != gone} for gone in sound if gone != "headers"]
        broken += [{**sound, "pieces": odd} for odd in (None, [1], [[1, {}]], [[1, {"base64": "!"}]], [["x", {}]])]
        for document in broken:
            path.write_text(json.dumps(document))
            assert path.name in refused(tmp_path)
        path.write_text(json.dumps(sound))
    assert asked(recording.replayed(tmp_path), call()) == [unary()]


# ---- misses ---------------------------------------------------------------------------------------------------


def missed(folder, request):
    with pytest.raises(ClientError) as failed:
        recording.replayed(folder)(request)
    assert failed.value.response["Error"]["Code"] == "ResourceNotFoundException"
    return failed.value.response["Error"]["Message"]


@pytest.fixture
def library(tmp_path):
    calls = [
        saying("hello", inferenceConfig={"maxTokens": 10}),
        saying("goodbye", inferenceConfig={"maxTokens": 10, "temperature": 0.5}),
        saying("hello", modelId="anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ]
    asked(recording.recorded(lambda _: unary(), tmp_path), *calls)
    return tmp_path


def name_of(request):
    return f"Converse-{cassette.key(cassette.meaning(request))[:12]}-1.json"


def test_a_miss_names_the_nearest_recordings_first_and_what_differs(library):
    near, far = (
        name_of(saying("hello", inferenceConfig={"maxTokens": 10})),
        name_of(saying("goodbye", inferenceConfig={"maxTokens": 10, "temperature": 0.5})),
    )
    text = missed(library, saying("a private question", inferenceConfig={"maxTokens": 10}))
    assert text == (
        f"No recording matches this Converse request for {NOVA}; "
        f"{near} differs at $.messages[0].content[0].text; "
        f"{far} differs at $.inferenceConfig.temperature, $.messages[0].content[0].text"
    )


def test_a_miss_tells_which_models_and_operations_were_recorded(library):
    text = missed(library, saying("hello", modelId="meta.llama4-scout-17b-instruct-v1:0"))
    assert text.endswith(f"; it was recorded for anthropic.claude-sonnet-4-5-20250929-v1:0, {NOVA}")
    assert missed(library, call("ConverseStream")).endswith("; the operation was not recorded")
    models = Call("ListFoundationModels", {}, call().received)
    assert missed(library, models) == (
        "No recording matches this ListFoundationModels request; the operation was not recorded"
    )


def test_a_miss_in_what_is_not_shown_says_so(tmp_path):
    asked(recording.recorded(answering(unary()), tmp_path), saying("key AKIAIOSFODNN7EXAMPLE"))
    text = missed(tmp_path, saying("key AKIAIOSFODNN7OTHERONE"))
    assert text.endswith("differs in what is not shown of it")
    assert "AKIA" not in text


def test_many_differences_are_cut_short(tmp_path):
    asked(recording.recorded(answering(unary()), tmp_path), call(additionalModelRequestFields={}))
    text = missed(tmp_path, call(additionalModelRequestFields=dict.fromkeys("abcdef", 1)))
    assert text.endswith("$.additionalModelRequestFields.c and 3 more")
