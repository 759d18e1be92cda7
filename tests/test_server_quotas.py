"""Quotas: what a request reserves, what it costs in the end, and what it gives back."""

from __future__ import annotations

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from bx.converse import error
from bx.server import wire
from bx.server.bodies import Usage, streamed_usage, usage
from bx.server.exchange import Act, Call, Received, Reply
from bx.server.quotas import Measures, Quota, estimated

REQUESTS = "Too many requests, please wait before trying again."
TOKENS = "Too many tokens, please wait before trying again."
DAY = "Too many tokens per day, please wait before trying again."


def asked(operation="Converse", *, model="m", most=None, tokens=10):
    """A call whose input counts as so many tokens."""
    config = {} if most is None else {"inferenceConfig": {"maxTokens": most}}
    received = Received("POST", "/", "", {}, b"", "http")
    return Call(operation, {"modelId": model, "tokens": tokens, **config}, received)


def told(taken, given, **more):
    counts = {"inputTokens": taken, "outputTokens": given, "totalTokens": taken + given, **more}
    return {"usage": counts, "metrics": {"latencyMs": 1}}


def answering(taken=10, given=5, **more):
    """A service whose answers took so many tokens."""

    def perform(call):
        message = {"role": "assistant", "content": [{"text": "x"}]}
        if call.operation == "Converse":
            whole = {"output": {"message": message}, "stopReason": "end_turn", **told(taken, given, **more)}
            return wire.reply("Converse", whole)
        events = [{"messageStop": {"stopReason": "end_turn"}}, {"metadata": told(taken, given, **more)}]
        return wire.stream("ConverseStream", iter(events))

    return perform


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Counted:
    """A quota with a clock that the test turns; `ask` returns the text of a refusal, or the reply."""

    def __init__(self, **limits):
        self.clock, self.strikes = Clock(), 0
        measures = Measures(
            count=lambda call: call.request["tokens"],
            burndown=lambda model: 5 if "claude" in model else 1,
            max_output=lambda model: 100,
            clock=self.clock,
        )
        self.quota = Quota(limits, measures)

    def ask(self, call, perform=None):
        try:
            return self.quota.perform(call, perform or answering(), self._strike)
        except ClientError as refused:
            return refused.response["Error"]["Message"]

    def _strike(self):
        self.strikes += 1

    def used(self, model="m", limit="tpm"):
        return self.quota._windows[model, limit].used


def test_requests_above_the_quota_are_throttled_until_the_minute_is_over():
    counted = Counted(rpm=2)
    assert counted.ask(asked()).status == counted.ask(asked()).status == 200
    counted.clock.now = 59.9
    assert counted.ask(asked()) == REQUESTS
    counted.clock.now = 60
    assert counted.ask(asked()).status == 200
    assert counted.strikes == 1


def test_each_model_id_has_its_own_quota():
    counted = Counted(rpm=1)
    assert counted.ask(asked()).status == counted.ask(asked(model="us.m")).status == 200
    assert counted.ask(asked()) == counted.ask(asked(model="us.m")) == REQUESTS


def test_a_request_reserves_its_input_and_all_the_output_that_it_allows():
    counted = Counted(tpm=50)
    assert counted.ask(asked(most=41)) == TOKENS
    during = []
    counted.ask(asked(most=40), lambda call: during.append(counted.used()) or answering()(call))
    assert during == [50]
    assert counted.used() == 15


def test_a_request_that_names_no_limit_reserves_all_that_its_model_could_write():
    assert Counted(tpm=109).ask(asked()) == TOKENS
    assert Counted(tpm=110).ask(asked()).status == 200


@pytest.mark.parametrize("operation", ["Converse", "ConverseStream"])
def test_an_answer_costs_its_input_its_cache_writes_and_its_output_times_the_burndown(operation):
    counted = Counted(tpm=1000)
    perform = answering(10, 7, cacheReadInputTokens=400, cacheWriteInputTokens=20)
    reply = counted.ask(asked(operation, model="claude"), perform)
    if operation == "ConverseStream":
        assert counted.used("claude") == 110
        list(reply.body)
    assert counted.used("claude") == 10 + 20 + 5 * 7


def test_the_tokens_of_a_day_have_their_own_text_and_their_own_time():
    counted = Counted(tpm=10_000, tpd=130)
    assert counted.ask(asked()).status == counted.ask(asked()).status == 200  # 15 tokens each, in the end
    assert counted.ask(asked()) == DAY
    counted.clock.now = 86_399
    assert counted.ask(asked()) == DAY
    counted.clock.now = 86_400
    assert counted.ask(asked()).status == 200


def test_a_throttled_request_counts_for_no_quota():
    counted = Counted(rpm=5, tpm=50)
    assert [counted.ask(asked()) for _ in range(9)] == [TOKENS] * 9
    assert (counted.used(), counted.used(limit="rpm")) == (0, 0)


def test_a_request_that_fails_gives_its_tokens_back_and_stays_counted():
    counted = Counted(rpm=5, tpm=1000)

    def failing(call):
        raise error("ModelErrorException", "x")

    with pytest.raises(ClientError):
        counted.quota.perform(asked(), failing, lambda: None)
    counted.ask(asked(), lambda call: wire.failure(error("ValidationException", "x")))
    assert (counted.used(), counted.used(limit="rpm")) == (0, 2)


def test_a_stream_that_is_abandoned_gives_its_tokens_back():
    counted = Counted(tpm=1000)
    unread, begun = (counted.ask(asked("ConverseStream")) for _ in range(2))
    next(iter(begun.body))
    assert counted.used() == 220
    unread.body.close()
    begun.body.close()
    begun.body.close()
    assert counted.used() == 0


def test_a_stream_that_breaks_gives_its_tokens_back():
    counted = Counted(tpm=1000)

    def broken(call):
        def events():
            yield {"messageStart": {"role": "assistant"}}
            raise error("ModelStreamErrorException", "x")

        return wire.stream("ConverseStream", events())

    list(counted.ask(asked("ConverseStream"), broken).body)
    list(counted.ask(asked("ConverseStream"), lambda call: Reply(0, {}, [Act.RESET])).body)
    assert counted.used() == 0


def test_an_answer_that_does_not_say_what_it_took_costs_what_it_reserved():
    counted = Counted(tpm=1000)
    counted.ask(asked(), lambda call: Reply(200, {}, b"{}"))
    assert counted.used() == 110


def test_an_answer_that_ends_in_the_next_minute_costs_that_one_nothing():
    counted = Counted(tpm=1000)

    def slow(call):
        counted.clock.now += 61
        counted.ask(asked(most=1))
        return answering()(call)

    counted.ask(asked(), slow)
    assert counted.used() == 15


def test_threads_never_reserve_more_than_there_is():
    counted = Counted(rpm=37, tpm=800)
    most, lock = [0], threading.Lock()

    def perform(call):
        with lock:
            most[0] = max(most[0], counted.used())
        return answering(10, 0)(call)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: counted.ask(asked(most=90), perform), range(300)))
    answered = [reply for reply in found if isinstance(reply, Reply)]
    assert len(answered) <= 37
    assert counted.used() == 10 * len(answered)
    assert most[0] <= 800


def test_threads_share_the_requests_of_a_minute():
    counted = Counted(rpm=37)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: counted.ask(asked()), range(300)))
    assert sum(isinstance(reply, Reply) for reply in found) == 37
    assert counted.strikes == 263


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60), st.sampled_from(["end", "close", "fail"]))))
def test_what_is_used_is_what_was_spent_whatever_happens(requests):
    counted, spent = Counted(tpm=10**9), 0
    counted.ask(asked(most=1), answering(0, 0))
    calls = [(asked("ConverseStream", most=most), answering(given=written)) for written, most, _ in requests]
    replies = [counted.ask(call, perform) for call, perform in calls]
    for reply, (written, _, end) in zip(replies, requests, strict=True):
        if end == "end":
            list(reply.body)
            spent += 10 + written
        if end == "fail":
            assert counted.ask(asked(), lambda call: Reply(500, {}, b"{}")).status == 500
        reply.body.close()
    assert counted.used() == spent


def chunk(document):
    body = {"bytes": base64.b64encode(json.dumps(document).encode()).decode()}
    reply = wire.stream("InvokeModelWithResponseStream", [{"chunk": {"bytes": json.dumps(document).encode()}}])
    (frame,) = reply.body
    assert json.loads(frame[frame.index(b"{") : frame.rindex(b"}") + 1])["bytes"] == body["bytes"]
    return frame


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"usage": {"inputTokens": 1, "outputTokens": 2, "cacheWriteInputTokens": 3}}, (1, 3, 2)),
        ({"usage": {"input_tokens": 1, "output_tokens": 2, "cache_creation_input_tokens": 3}}, (1, 3, 2)),
        ({"usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}, (1, 0, 2)),
        ({"usage": {"output_tokens": 2}}, None),
        ({"usage": [1]}, None),
        ([], None),
    ],
)
def test_the_usage_of_each_form_of_body_is_read(document, expected):
    assert usage(json.dumps(document).encode()) == (expected and Usage(*expected))


def test_the_usage_of_native_streams_is_read_from_the_event_that_tells_all():
    metrics = {"inputTokenCount": 1, "outputTokenCount": 2, "cacheWriteInputTokenCount": 3}
    assert streamed_usage(chunk({"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics})) == (1, 3, 2)
    assert streamed_usage(chunk({"metadata": {"usage": {"inputTokens": 1, "outputTokens": 2}}})) == (1, 0, 2)
    assert streamed_usage(chunk({"type": "message_delta", "usage": {"output_tokens": 1}})) is None
    assert streamed_usage(b"no frame") is None


def test_an_estimate_grows_with_the_text_and_not_with_images():
    def call(*content):
        messages = [{"role": "user", "content": list(content)}]
        return Call("Converse", {"modelId": "m" * 500, "messages": messages}, asked().received)

    image = {"image": {"format": "png", "source": {"bytes": b"x" * 10**6}}}
    assert 1000 <= estimated(call({"text": "word" * 1000})) <= 1030
    assert estimated(call({"text": "word"}, image)) < 60
    body = json.dumps({"messages": [{"role": "user", "content": "word" * 1000}]}).encode()
    assert 1000 <= estimated(Call("InvokeModel", {"modelId": "m", "body": body}, asked().received)) <= 1030
