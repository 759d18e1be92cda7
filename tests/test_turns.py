"""The loop that runs tools: a real client, a Bedrock on loopback, real processes and functions."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
import time

import pytest
from botocore.exceptions import ClientError

from bx.converse import collect, request, text
from bx.diagnosis import explain
from bx.engines.bedrock import Bedrock
from bx.tools import Tool
from bx.turns import Equipped, TooManyTurns
from scripted import RESET, answer, broken, failure

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def spec(name, schema=SCHEMA):
    return {"name": name, "inputSchema": {"json": schema}, "strict": True}


def script(source, name="tool", **more):
    return Tool(spec(name), command=(sys.executable, "-c", source), **more)


def call(name="tool", number=1, **given):
    return {"toolUse": {"toolUseId": f"tooluse_{number}", "name": name, "input": given or {"a": 1}}}


def calling(*calls):
    return answer(*calls, stop="tool_use")


@pytest.fixture(params=["converse", "converse_stream"])
def ask(request, endpoint):
    """Ask through the loop, in one piece or in a stream; what is returned is the last turn's response."""

    def last_turn(events):
        turns = []
        for event in events:
            if "messageStart" in event:
                turns.append([])
            turns[-1].append(event)
        return collect(turns[-1])

    def run(tools, *, prompt="Go", more=(), **how):
        how.setdefault("allow", lambda tool, given: True)
        engine = Equipped(Bedrock(endpoint_url=endpoint.url), tools, **how)
        asked = {**_request(prompt), **dict(more)}
        if request.param == "converse":
            return engine.converse(**asked)
        return last_turn(engine.converse_stream(**asked)["stream"])

    return run


def _request(prompt="Go"):
    return request(prompt, model="us.amazon.nova-2-lite-v1:0")


def result(endpoint, turn=1, index=0):
    """The result of a call, as the endpoint received it."""
    return endpoint.requests[turn].body["messages"][-1]["content"][index]["toolResult"]


ECHO = "import json, sys; print(json.dumps({'got': json.load(sys.stdin)}))"


def test_a_call_is_run_and_its_result_goes_back(ask, endpoint):
    thought = {"reasoningContent": {"reasoningText": {"text": "I need the tool", "signature": "c2lnbmVk"}}}
    endpoint.script += [calling(thought, "Let me see.", call(a=5)), answer("It is 5.")]
    last = ask([script(ECHO)])
    assert text(last) == "It is 5."
    first, second = (received.body for received in endpoint.requests)
    assert first["toolConfig"] == second["toolConfig"] == {"tools": [{"toolSpec": spec("tool")}]}
    assert second["messages"][:-1] == [
        *first["messages"],
        {"role": "assistant", "content": [thought, {"text": "Let me see."}, call(a=5)]},
    ]
    given = {"toolUseId": "tooluse_1", "content": [{"json": {"got": {"a": 5}}}], "status": "success"}
    assert second["messages"][-1] == {"role": "user", "content": [{"toolResult": given}]}


def test_the_usage_of_all_turns_is_told(ask, endpoint):
    usage = {"inputTokens": 7, "outputTokens": 5, "totalTokens": 12, "cacheReadInputTokens": 3}
    endpoint.script += [calling(call()), answer(*[call(number=2)], stop="tool_use", usage=usage), answer("Done")]
    last = ask([script(ECHO)])
    assert last["usage"] == {"inputTokens": 21, "outputTokens": 15, "totalTokens": 36, "cacheReadInputTokens": 3}
    assert last["metrics"] == {"latencyMs": 3}
    assert last.get("ResponseMetadata", {"Turns": 3})["Turns"] == 3


def test_without_a_call_the_answer_is_the_answer(ask, endpoint):
    endpoint.script.append(answer("All quiet"))
    assert text(ask([script(ECHO)])) == "All quiet"
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("calls", [[call("report")], [call("tool"), call("report", 2)]])
def test_a_call_that_is_not_run_here_is_the_answer_and_nothing_is_run(ask, endpoint, calls, tmp_path):
    endpoint.script.append(calling(*calls))
    last = ask([script(f"open({str(tmp_path / 'ran')!r}, 'w')"), Tool(spec("report"))])
    assert last["output"]["message"]["content"] == calls
    assert len(endpoint.requests) == 1
    assert not (tmp_path / "ran").exists()


def test_a_tool_of_the_callers_own_configuration_is_the_answer(ask, endpoint):
    endpoint.script.append(calling(call("theirs")))
    configured = {"tools": [{"toolSpec": spec("tool")}, {"toolSpec": spec("theirs")}]}
    assert ask([script(ECHO)], more={"toolConfig": configured})["stopReason"] == "tool_use"
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("stop", ["max_tokens", "malformed_tool_use"])
def test_a_turn_that_was_cut_off_ends_the_loop(ask, endpoint, stop):
    endpoint.script.append(answer("I was", call(), stop=stop))
    assert ask([script(ECHO)])["stopReason"] == stop
    assert len(endpoint.requests) == 1


def test_several_calls_are_run_in_order_and_answered_in_one_message(ask, endpoint, tmp_path):
    log = tmp_path / "log"
    source = f"import sys; open({str(log)!r}, 'a').write(sys.stdin.read()); print('ok')"
    endpoint.script += [calling(call(number=1, a=1), call(number=2, a=2), call(number=3, a=3)), answer("Done")]
    ask([script(source)])
    assert log.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    assert [result(endpoint, index=index)["toolUseId"] for index in range(3)] == [f"tooluse_{n}" for n in (1, 2, 3)]


def test_a_forced_choice_is_for_the_first_turn_only(ask, endpoint):
    endpoint.script += [calling(call()), answer("Done")]
    configured = {"tools": [{"toolSpec": spec("tool")}], "toolChoice": {"any": {}}}
    ask([script(ECHO)], more={"toolConfig": configured})
    assert ["toolChoice" in received.body["toolConfig"] for received in endpoint.requests] == [True, False]


def test_blank_text_is_not_sent_back(ask, endpoint):
    endpoint.script += [calling("\n", call()), answer("Done")]
    ask([script(ECHO)])
    assert endpoint.requests[1].body["messages"][1]["content"] == [call()]


@pytest.mark.parametrize(
    ("source", "content"),
    [
        ("print('plain')", {"text": "plain\n"}),
        ("", {"text": "(no output)"}),
        ("print('  ')", {"text": "(no output)"}),
        ("print('[1, 2]')", {"text": "[1, 2]\n"}),
        ("print('{\"a\": NaN}')", {"text": '{"a": NaN}\n'}),
        ('print(\'{"a": "\\\\ud800"}\')', {"text": '{"a": "\\ud800"}\n'}),
        ("print('{\"a\": 1}')", {"json": {"a": 1}}),
        ("import os; os.write(1, b'caf\\xe9')", {"text": "caf\N{REPLACEMENT CHARACTER}"}),
    ],
)
def test_output_is_json_where_it_is_an_object_and_else_text(ask, endpoint, source, content):
    endpoint.script += [calling(call()), answer("Done")]
    ask([script(source)])
    assert result(endpoint) == {"toolUseId": "tooluse_1", "content": [content], "status": "success"}


def test_output_nested_without_end_goes_as_text(ask, endpoint):
    endpoint.script += [calling(call()), answer("Done")]
    ask([script("print('{\"a\":' * 900 + '1' + '}' * 900)")])
    assert "text" in result(endpoint)["content"][0]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ((script("import sys; sys.exit('no host')"), call()), "failed with exit code 1\nstderr:\nno host"),
        ((script("import time; time.sleep(60)", timeout=0.3), call()), "did not end within 0.3 seconds"),
        ((script("print('x' * 200_000)"), call()), "its output of 200001 bytes is too long"),
        ((Tool(spec("tool"), command=("no-such-program",)), call()), "could not be started: no-such-program"),
        ((script(ECHO), call(a="one")), "was not run: its input does not satisfy the schema: $.a"),
        ((script(ECHO), call("tol")), "no tool of this name; the tools are tool"),
    ],
)
def test_what_goes_wrong_is_told_to_the_model_and_logged(ask, endpoint, caplog, wrong, told):
    tool, made = wrong
    endpoint.script += [calling(made), answer("Sorry")]
    with caplog.at_level(logging.WARNING, "bx.tools"):
        assert text(ask([tool])) == "Sorry"
    assert result(endpoint)["status"] == "error"
    assert told in result(endpoint)["content"][0]["text"]
    assert told.partition("\n")[0] in caplog.text


def test_a_denied_call_is_not_run_and_told(ask, endpoint, tmp_path):
    asked = []
    endpoint.script += [calling(call(a=7)), answer("Then not")]
    ask([script(f"open({str(tmp_path / 'ran')!r}, 'w')")], allow=lambda tool, given: asked.append((tool.name, given)))
    assert asked == [("tool", {"a": 7})]
    assert result(endpoint)["content"] == [{"text": "The tool was not run: the call was not allowed"}]
    assert not (tmp_path / "ran").exists()


def test_without_a_word_functions_are_run_and_commands_are_not(ask, endpoint):
    def double(a: int) -> int:
        """Double a number."""
        return 2 * a

    endpoint.script += [calling(call("tool"), call("double", 2, a=4)), answer("Done")]
    ask([script(ECHO), double], allow=None)
    assert [result(endpoint, index=index)["status"] for index in range(2)] == ["error", "success"]
    assert result(endpoint, index=1)["content"] == [{"text": "8"}]


@dataclasses.dataclass
class Place:
    name: str
    people: int


def find(a: int) -> Place:
    """Find a place."""
    if a == 0:
        raise LookupError("there is no place 0")
    return Place("Ulm", a)


def shout(a: int) -> str:
    """Shout."""
    return "\ud800" if a else "x" * 200_000


@pytest.mark.parametrize(
    ("called", "status", "content"),
    [
        ((find, 3), "success", {"json": {"name": "Ulm", "people": 3}}),
        ((find, 0), "error", {"text": "The tool failed: LookupError: there is no place 0"}),
        ((shout, 1), "success", {"text": "?"}),
        ((shout, 0), "error", None),
    ],
)
def test_a_functions_result_or_exception_goes_to_the_model(ask, endpoint, called, status, content):
    function, number = called
    endpoint.script += [calling(call(function.__name__, a=number)), answer("Done")]
    ask([function])
    assert result(endpoint)["status"] == status
    assert content is None or result(endpoint)["content"] == [content]


def test_the_turns_are_bounded_and_nothing_is_lost(ask, endpoint, tmp_path):
    log = tmp_path / "log"
    endpoint.script += [calling(call()), calling("Once more.", call(number=2))]
    with pytest.raises(TooManyTurns) as stopped:
        ask([script(f"open({str(log)!r}, 'a').write('ran')")], max_turns=2)
    assert log.read_text() == "ran"  # the call of the last turn is not run: nobody would read its result
    assert text(stopped.value.last) == "Once more."
    assert stopped.value.last["usage"]["totalTokens"] == 24
    diagnosis = explain(stopped.value)
    assert (diagnosis.exit_code, diagnosis.fix) == (9, "Raise --max-turns (max_turns in Python)")


def test_a_model_that_refuses_the_status_of_a_result_gets_none(ask, endpoint, caplog):
    refusal = failure(
        400, "ValidationException", "This model doesn't support the status field. Remove status and try again."
    )
    endpoint.script += [calling(call()), refusal, calling(call(number=2)), answer("Done")]
    assert text(ask([script("import sys; sys.exit(1)")])) == "Done"
    assert len(endpoint.requests) == 4
    assert "status" in result(endpoint, 1)
    assert not any(
        "status" in part["toolResult"]
        for turn in (2, 3)
        for part in endpoint.requests[turn].body["messages"][-1]["content"]
    )


def test_a_later_turn_that_fails_says_what_was_spent(ask, endpoint, caplog):
    endpoint.script += [calling(call()), failure(403, "AccessDeniedException", "no more")]
    with pytest.raises(ClientError, match="no more"):
        ask([script(ECHO)])
    assert "Turn 2 failed; the turns before it took 12 tokens" in caplog.text


# ---- streams --------------------------------------------------------------------------------------------------


def stream(endpoint, tools, allow=lambda tool, given: True):
    engine = Equipped(Bedrock(endpoint_url=endpoint.url), tools, allow=allow)
    return engine.converse_stream(**_request())["stream"]


def test_each_turn_is_a_whole_stream_and_the_last_metadata_has_the_sums(endpoint):
    endpoint.script += [calling("Let me see.", call()), answer("Done")]
    events = [*stream(endpoint, [script(ECHO)])]
    kinds = [kind for event in events for kind in event if kind in ("messageStart", "messageStop", "metadata")]
    assert kinds == ["messageStart", "messageStop", "metadata"] * 2
    assert [event["metadata"]["usage"]["totalTokens"] for event in events if "metadata" in event] == [12, 24]


def test_text_is_seen_before_the_tool_runs(endpoint, tmp_path):
    endpoint.script += [calling("Let me see.", call()), answer("Done")]
    events = stream(endpoint, [script(f"open({str(tmp_path / 'ran')!r}, 'w')")])
    while "text" not in next(events).get("contentBlockDelta", {}).get("delta", {}):
        pass
    assert not (tmp_path / "ran").exists()
    events.close()
    assert len(endpoint.requests) == 1
    assert not (tmp_path / "ran").exists()


def test_closing_from_another_thread_ends_a_running_command_and_all_after_it(endpoint, tmp_path):
    endpoint.script += [calling(call(), call(number=2)), answer("Never")]
    began, asked = tmp_path / "began", []
    slow = script(f"import time; open({str(began)!r}, 'w'); time.sleep(60)")
    events = stream(endpoint, [slow], lambda tool, given: not asked.append(tool))
    reader = threading.Thread(target=lambda: [*events])
    reader.start()
    deadline = time.monotonic() + 10
    while not began.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    events.close()
    reader.join(5)
    assert not reader.is_alive()
    assert len(asked) == len(endpoint.requests) == 1


def test_closing_between_two_turns_closes_the_next_one(endpoint):
    class Watched(Bedrock):
        opened = ()

        def converse_stream(self, **request):
            response = super().converse_stream(**request)
            if self.opened:
                events.close()
            self.opened = (*self.opened, response["stream"])
            return response

    endpoint.script += [calling(call()), answer("Never")]
    watched = Watched(endpoint_url=endpoint.url)
    events = Equipped(watched, [script(ECHO)], allow=lambda tool, given: True).converse_stream(**_request())["stream"]
    assert sum("messageStart" in event for event in events) == 1
    assert [*watched.opened[1]] == []


def test_a_later_turn_that_breaks_is_no_whole_answer(endpoint):
    endpoint.respond = lambda _: answer("A long answer, which never comes to its end")
    endpoint.script += [calling(call()), broken(4, RESET)]
    with pytest.raises(ClientError):
        [*stream(endpoint, [script(ECHO)])]


def test_input_that_is_no_json_is_an_error_and_never_run(endpoint):
    damaged = {"toolUse": {"toolUseId": "tooluse_1", "name": "tool", "input": '{"a": '}}
    endpoint.script.append(calling(damaged))
    with pytest.raises(ClientError, match="not JSON"):
        [*stream(endpoint, [script(ECHO)])]
    assert len(endpoint.requests) == 1


def test_closing_the_loop_closes_the_engine(endpoint):
    Equipped(Bedrock(endpoint_url=endpoint.url), []).close()
