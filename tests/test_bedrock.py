"""The Bedrock engine over real HTTP: what is sent, what is sent again, and what counts as broken."""

from __future__ import annotations

import json
import logging
import threading
import time

import pytest
from botocore.exceptions import BotoCoreError, ClientError, EventStreamError, ReadTimeoutError

import bx.engines.bedrock
from bx.converse import collect, deltas, request, text
from bx.engines.bedrock import Bedrock
from bx.server.frames import corrupted, frame
from scripted import (
    CLOSED,
    HANGUP,
    REFUSED,
    RESET,
    SILENCE,
    STALL,
    Scripted,
    broken,
    closed_port,
    exception,
    failure,
    reply,
)

MODEL = "global.anthropic.claude-sonnet-4-6"
THROTTLED = failure(429, "ThrottlingException", "Too many requests, please wait before trying again.")
MODELLED = [
    "internalServerException",
    "modelStreamErrorException",
    "validationException",
    "throttlingException",
    "serviceUnavailableException",
]


@pytest.fixture
def engine(endpoint):
    made = Bedrock(endpoint_url=endpoint.url)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    monkeypatch.setattr(bx.engines.bedrock, "_LONGEST_DELAY", 0.02)


def test_a_throttled_request_is_sent_again(engine, endpoint):
    endpoint.script += [THROTTLED, THROTTLED]
    response = engine.converse(**request("hello", model=MODEL))
    assert text(response) == "hello"
    assert response["ResponseMetadata"]["RetryAttempts"] == 2
    assert len(endpoint.requests) == 3


def test_three_attempts_are_made_and_no_more(engine, endpoint):
    endpoint.script += [THROTTLED] * 9
    with pytest.raises(ClientError) as failed:
        engine.converse(**request("hello", model=MODEL))
    assert failed.value.response["ResponseMetadata"]["RetryAttempts"] == 2
    assert len(endpoint.requests) == 3


def test_the_number_of_attempts_is_the_one_that_aws_tools_read(endpoint, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    endpoint.script += [THROTTLED] * 4
    engine = Bedrock(endpoint_url=endpoint.url)
    assert text(engine.converse(**request("hello", model=MODEL))) == "hello"
    engine.close()


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_fault_of_the_server_is_sent_again(engine, endpoint, status):
    endpoint.script.append(failure(status, "InternalServerException", "Try again"))
    assert text(engine.converse(**request("hello", model=MODEL))) == "hello"


def test_a_stream_is_asked_for_again_only_before_it_begins(engine, endpoint):
    endpoint.script += [THROTTLED, broken(2, exception("throttlingException", "Too many tokens"))]
    with pytest.raises(EventStreamError):
        list(engine.converse_stream(**request("one two three", model=MODEL))["stream"])
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    "final",
    [
        failure(400, "ValidationException", "no"),
        failure(403, "AccessDeniedException", "no"),
        failure(404, "ResourceNotFoundException", "no"),
        failure(408, "ModelTimeoutException", "no"),
        failure(424, "ModelErrorException", "no"),
        failure(429, "ThrottlingException", "Too many tokens per day, please wait before trying again."),
    ],
)
def test_what_another_attempt_cannot_heal_is_sent_once(engine, endpoint, final):
    endpoint.script.append(final)
    with pytest.raises(ClientError):
        engine.converse(**request("hello", model=MODEL))
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("ending", [CLOSED, REFUSED, reply(body=[b'{"output": ', HANGUP])])
def test_a_request_is_not_sent_again_when_the_connection_closes_after_it(engine, endpoint, ending):
    """It may have been answered, and billed."""
    endpoint.script.append(ending)
    with pytest.raises((BotoCoreError, ClientError)):
        engine.converse(**request("hello", model=MODEL))
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("chosen", ["0", "-1", "many"])
def test_a_number_of_attempts_that_is_none_is_refused(monkeypatch, chosen):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", chosen)
    with pytest.raises(ClientError, match="AWS_MAX_ATTEMPTS"):
        Bedrock()


def test_a_broken_stream_carries_the_request_id(engine, endpoint):
    endpoint.script += [broken(2), broken(2, RESET), broken(2, exception("throttlingException", "wait"))]
    for _ in range(3):
        response = engine.converse_stream(**request("one two three", model=MODEL))
        with pytest.raises(EventStreamError) as failed:
            collect(response["stream"])
        assert failed.value.response["ResponseMetadata"]["RequestId"]


def test_a_request_is_never_sent_again_after_a_read_timeout(endpoint, monkeypatch):
    monkeypatch.setattr(bx.engines.bedrock, "_READ_TIMEOUT", 0.2)
    engine = Bedrock(endpoint_url=endpoint.url)
    endpoint.script.append(SILENCE)
    with pytest.raises(ReadTimeoutError):
        engine.converse(**request("hello", model=MODEL))
    assert len(endpoint.requests) == 1
    engine.close()


def test_each_attempt_is_logged(engine, endpoint, caplog):
    endpoint.script.append(THROTTLED)
    with caplog.at_level(logging.INFO, "bx"):
        engine.converse(**request("hello", model=MODEL))
    assert "Attempt 1 of 3 failed" in caplog.text
    assert "ThrottlingException" in caplog.text


def test_the_service_s_wish_for_a_longer_wait_is_granted(engine, endpoint):
    endpoint.script.append(THROTTLED._replace(headers={**THROTTLED.headers, "x-amz-retry-after": "300"}))
    started = time.monotonic()
    engine.converse(**request("hello", model=MODEL))
    assert 0.3 <= time.monotonic() - started < 3


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_stream_that_ends_before_its_message_does_is_an_error(engine, endpoint, after):
    endpoint.script.append(broken(after))
    with pytest.raises(EventStreamError, match=r"ended before"):
        list(engine.converse_stream(**request("one two three", model=MODEL))["stream"])


@pytest.mark.parametrize("ending", [HANGUP, RESET, b"\x00\x00\x00\x50half a frame"])
def test_a_stream_that_breaks_is_an_error_and_keeps_what_arrived(engine, endpoint, ending):
    endpoint.script.append(broken(3, ending))
    pieces = []
    with pytest.raises(EventStreamError):
        pieces.extend(deltas(engine.converse_stream(**request("one two three", model=MODEL))))
    assert pieces == ["one", " two"]


def test_a_corrupted_frame_is_the_error_of_a_broken_stream(engine, endpoint):
    whole = frame({":event-type": "contentBlockDelta", ":message-type": "event"}, b"{}")
    endpoint.script.append(broken(2, corrupted(whole)))
    with pytest.raises(EventStreamError, match=r"[Cc]hecksum"):
        list(engine.converse_stream(**request("one two three", model=MODEL))["stream"])


def test_a_stalled_stream_is_an_error_after_the_read_timeout(endpoint, monkeypatch):
    monkeypatch.setattr(bx.engines.bedrock, "_READ_TIMEOUT", 0.2)
    engine = Bedrock(endpoint_url=endpoint.url)
    endpoint.script.append(broken(2, STALL))
    with pytest.raises(EventStreamError, match="timed out"):
        list(engine.converse_stream(**request("one two three", model=MODEL))["stream"])
    engine.close()


@pytest.mark.parametrize("kind", MODELLED)
def test_an_exception_inside_a_stream_keeps_its_name(engine, endpoint, kind):
    endpoint.script.append(broken(2, exception(kind, "what happened")))
    with pytest.raises(EventStreamError, match="what happened") as failed:
        collect(engine.converse_stream(**request("one two three", model=MODEL))["stream"])
    assert failed.value.response["Error"]["Code"] == kind


@pytest.mark.parametrize("body", [b"", b"{}", b'{"output": {"message": {"ro'])
def test_a_truncated_answer_is_an_error_and_no_answer(engine, endpoint, body):
    endpoint.script.append(reply(body=body))
    with pytest.raises(ClientError, match=r"ended before"):
        engine.converse(**request("hello", model=MODEL))
    assert len(endpoint.requests) == 1


def test_a_closed_stream_closes_the_connection(engine, endpoint):
    words = "word " * 20000
    stream = engine.converse_stream(**request(words, model=MODEL))["stream"]
    next(iter(stream))
    stream.close()
    assert text(engine.converse(**request("hello", model=MODEL))) == "hello"


@pytest.mark.parametrize("after", [1, 2])
def test_a_stalled_stream_that_another_thread_closes_ends_at_once(engine, endpoint, after):
    endpoint.script.append(broken(after, STALL))
    stream = engine.converse_stream(**request("one two three", model=MODEL))["stream"]
    arrived, failed = [], []

    def read():
        try:
            arrived.extend(stream)
        except EventStreamError as failure:
            failed.append(failure)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while len(arrived) < after:
        time.sleep(0.005)
    time.sleep(0.05)  # by now it waits for the network
    started = time.monotonic()
    closer = threading.Thread(target=stream.close, daemon=True)
    closer.start()
    closer.join(3)
    reader.join(3)
    assert not closer.is_alive()
    assert not reader.is_alive()
    assert time.monotonic() - started < 1
    assert failed
    assert text(engine.converse(**request("hello", model=MODEL))) == "hello"


def test_closing_a_stream_that_was_read_leaves_its_connection_to_others(engine, endpoint):
    for _ in range(3):
        stream = engine.converse_stream(**request("hello", model=MODEL))["stream"]
        collect(stream)
        stream.close()
        stream.close()
    assert text(engine.converse(**request("hello", model=MODEL))) == "hello"


COUNTED = {"converse": {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}}


def test_tokens_are_counted_by_the_service_and_asked_for_again(engine, endpoint):
    endpoint.script += [THROTTLED, reply(body=b'{"inputTokens": 9}')]
    response = engine.count_tokens(modelId=MODEL, input=COUNTED)
    assert response["inputTokens"] == 9
    assert response["ResponseMetadata"]["RetryAttempts"] == 1
    assert endpoint.requests[-1].path == "/model/global.anthropic.claude-sonnet-4-6/count-tokens"
    assert endpoint.requests[-1].body == {"input": COUNTED}


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"[]", b'{"inputTokens": null}', b'{"inputTok', b"\xff\xfe"])
def test_a_damaged_count_is_an_error_and_no_number(engine, endpoint, body):
    endpoint.script.append(reply(body=body))
    with pytest.raises(ClientError, match=r"CountTokens operation: .*damaged"):
        engine.count_tokens(modelId=MODEL, input=COUNTED)


@pytest.mark.parametrize(
    ("environ", "region", "expected"),
    [
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, None, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "ap-northeast-1", "ap-northeast-1"),
        ({}, None, "us-east-1"),
    ],
)
def test_the_region_is_the_one_that_is_asked_for(monkeypatch, environ, region, expected, caplog):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with Scripted() as endpoint:
        engine = Bedrock(region=region, endpoint_url=endpoint.url)
        engine.converse(**request("hello", model=MODEL))
        engine.close()
        assert f"/{expected}/bedrock/" in endpoint.requests[0].headers["Authorization"]
    assert ("No region is configured" in caplog.text) == (expected == "us-east-1")


def test_the_region_of_a_profile_is_used(monkeypatch, private_home):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    folder = private_home / ".aws"
    folder.mkdir()
    keys = "aws_access_key_id = profile-key\naws_secret_access_key = secret"
    (folder / "config").write_text(f"[profile work]\nregion = eu-central-1\n{keys}\n")
    with Scripted() as endpoint:
        engine = Bedrock(profile="work", endpoint_url=endpoint.url)
        engine.converse(**request("hello", model=MODEL))
        engine.close()
        assert "Credential=profile-key/" in endpoint.requests[0].headers["Authorization"]
        assert "/eu-central-1/bedrock/" in endpoint.requests[0].headers["Authorization"]


@pytest.mark.parametrize(
    ("region", "environ"),
    [
        ("us-east-1", {}),
        ("eu-west-3", {"AWS_USE_FIPS_ENDPOINT": "true"}),
        ("us-west-2", {"AWS_USE_DUALSTACK_ENDPOINT": "true"}),
        ("cn-north-1", {}),
        ("us-gov-west-1", {"AWS_USE_FIPS_ENDPOINT": "true"}),
        ("eusc-de-east-1", {}),
        ("us-east-1", {"AWS_ENDPOINT_URL": "https://vpce.example.com/prefix"}),
        ("us-east-1", {"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "http://127.0.0.1:4567"}),
    ],
)
def test_endpoints_are_the_ones_that_boto3_finds(monkeypatch, region, environ):
    import boto3

    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    ours, theirs = Bedrock(region=region), boto3.client("bedrock-runtime", region_name=region)
    assert ours._client.meta.endpoint_url == theirs.meta.endpoint_url
    assert ours._client.meta.partition == theirs.meta.partition
    ours.close()
    theirs.close()


def test_an_endpoint_that_is_not_there_is_tried_again_and_named():
    url = closed_port()
    engine = Bedrock(endpoint_url=url)
    with pytest.raises(Exception, match=url):
        engine.converse(**request("hello", model=MODEL))
    engine.close()


def test_a_service_model_of_the_user_s_own_is_found(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    (tmp_path / "someservice" / "2020-01-01").mkdir(parents=True)
    engine = Bedrock(endpoint_url=endpoint.url)
    assert text(engine.converse(**request("hello", model=MODEL))) == "hello"
    engine.close()


WHOLE = {
    "output": {"message": {"role": "assistant", "content": [{"text": "hi"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
    "metrics": {"latencyMs": 1},
}


@pytest.mark.parametrize(
    "damage",
    [
        {"output": []},
        {"output": {"message": {"role": "assistant", "content": None}}},
        {"output": {"message": {"role": "assistant", "content": [{"text": 5}]}}},
        {"stopReason": None},
    ],
)
def test_a_damaged_answer_is_an_error_and_no_answer(engine, endpoint, damage):
    endpoint.script.append(reply(body=json.dumps(WHOLE | damage).encode()))
    with pytest.raises(ClientError, match="damaged"):
        engine.converse(**request("hello", model=MODEL))


@pytest.mark.parametrize("body", [b"null", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_an_answer_that_cannot_be_read_is_an_error_and_no_answer(engine, endpoint, body):
    endpoint.script.append(reply(body=body))
    with pytest.raises(ClientError, match=r"damaged|ended before"):
        engine.converse(**request("hello", model=MODEL))


@pytest.mark.parametrize("piece", [b"{", b'{"delta": null}', b'{"delta": {"text": 5}}', b"[]", b"null"])
def test_a_damaged_piece_of_a_stream_is_an_error_and_not_passed_over(engine, endpoint, piece):
    headers = {":event-type": "contentBlockDelta", ":content-type": "application/json", ":message-type": "event"}
    endpoint.script.append(broken(2, frame(headers, piece)))
    with pytest.raises(EventStreamError, match=r"damaged|broke"):
        collect(engine.converse_stream(**request("one two three", model=MODEL))["stream"])
