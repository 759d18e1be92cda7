"""The ledger: a row for each call, however it ends; private, shared by processes, and never in an answer's way."""

from __future__ import annotations

import contextlib
import gc
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import platformdirs
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from bx import config, converse
from bx.converse import Stream, request
from bx.engines import Router
from bx.engines.bedrock import Bedrock
from bx.engines.echo import Echo
from bx.ledger.meter import Metered, around
from bx.ledger.schema import STEPS
from bx.ledger.store import Store, StoreError
from bx.structured import Structured
from scripted import RESET, answer, broken, closed_port, exception, failure

CLAUDE = "global.anthropic.claude-sonnet-4-6"
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
ROW = {"at": 1.0, "model_id": "echo", "outcome": "answered"}


@pytest.fixture
def metered(endpoint, store):
    """The client of Amazon Bedrock with a meter around it."""
    engine = Bedrock(endpoint_url=endpoint.url)
    names = {"claude": "anthropic.claude-sonnet-4-6"}
    yield Metered(engine, store, labels={"source": "python", "tag": "house", "region": None}, names=lambda: names)
    engine.close()


def row(store):
    """The only row."""
    store.flush()
    (only,) = store.rows()
    return only


def parts(only, *names):
    return tuple(only[name] for name in names)


def ask(engine, **more):
    return engine.converse(**request("Hi there", model=CLAUDE), **more)


def stream(engine, **more):
    return engine.converse_stream(**request("Hi there", model=CLAUDE), **more)["stream"]


# ---- what a row says ------------------------------------------------------------------------------------------


def test_an_answer_is_written_with_all_that_it_tells(metered, store, endpoint):
    details = [{"ttl": "1h", "inputTokens": 30}, {"ttl": "5m", "inputTokens": 20}]
    usage = {"inputTokens": 7, "outputTokens": 5, "totalTokens": 112, "cacheReadInputTokens": 50}
    usage |= {"cacheWriteInputTokens": 50, "cacheDetails": details}
    endpoint.script.append(answer("Hello", stop="stop_sequence", usage=usage, serviceTier={"type": "flex"}))
    response = ask(metered)
    only = row(store)
    assert parts(only, "source", "alias", "model_id", "engine", "tag") == (
        *("python", "claude", CLAUDE, "bedrock", "house"),
    )
    assert parts(only, "operation", "outcome", "stop_reason", "error_code") == (
        *("Converse", "answered", "stop_sequence", None),
    )
    assert parts(only, "input_tokens", "output_tokens", "cache_read_tokens") == (7, 5, 50)
    assert parts(only, "cache_write_5m_tokens", "cache_write_1h_tokens") == (20, 30)
    assert parts(only, "region", "attempts", "service_tier") == ("us-east-1", 1, "flex")
    assert only["request_id"] == response["ResponseMetadata"]["RequestId"]
    assert only["latency_ms"] >= 0
    assert only["first_token_ms"] is None


def test_cache_writes_without_details_are_those_of_five_minutes(metered, store, endpoint):
    usage = {"inputTokens": 7, "outputTokens": 5, "totalTokens": 62, "cacheWriteInputTokens": 50}
    endpoint.script.append(answer("Hello", usage=usage))
    ask(metered)
    assert parts(row(store), "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens") == (0, 50, 0)


def test_a_stream_is_written_at_its_end_with_the_time_of_its_first_token(metered, store):
    events = stream(metered)
    next(events)
    assert list(store.rows()) == []
    list(events)
    only = row(store)
    assert parts(only, "operation", "outcome", "stop_reason") == ("ConverseStream", "answered", "end_turn")
    assert parts(only, "input_tokens", "output_tokens", "attempts", "region") == (2, 2, 1, "us-east-1")
    assert 0 <= only["first_token_ms"] <= only["latency_ms"]
    assert only["request_id"]


def test_no_prompt_and_no_answer_is_written(metered, store, endpoint):
    endpoint.script.append(answer("Ananas"))
    ask(metered, system=[{"text": "Papaya"}])
    store.close()
    assert not any(word in store.path.read_bytes() for word in (b"Hi there", b"Ananas", b"Papaya"))


def test_a_failure_is_written_with_its_code_and_its_attempts(metered, store, endpoint):
    endpoint.script += [failure(429, "ThrottlingException", "Too many tokens per day, please wait")]
    with pytest.raises(ClientError) as raised:
        ask(metered)
    only = row(store)
    assert parts(only, "outcome", "error_code", "attempts", "input_tokens") == (
        *("failed", "ThrottlingException", 1, None),
    )
    assert only["request_id"] == raised.value.response["ResponseMetadata"].get("RequestId")
    assert only["region"] == "us-east-1"


def test_a_call_that_needed_several_attempts_is_one_row(metered, store, endpoint):
    endpoint.script.append(failure(503, "ServiceUnavailableException", "Bedrock is unable to process your request."))
    ask(metered)
    assert parts(row(store), "outcome", "attempts", "error_code") == ("answered", 2, None)


def test_a_failure_before_the_service_is_written_with_its_kind(store):
    engine = Metered(Bedrock(endpoint_url=closed_port()), store, labels={"source": "python", "region": "eu-west-1"})
    with pytest.raises(EndpointConnectionError):
        ask(engine)
    assert parts(row(store), "outcome", "error_code", "region") == (
        *("failed", "EndpointConnectionError", "eu-west-1"),
    )


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (broken(3, RESET), "modelStreamErrorException"),
        (broken(3, exception("throttlingException", "Too many tokens")), "throttlingException"),
        (broken(0), "modelStreamErrorException"),
    ],
)
def test_a_stream_that_breaks_is_written(metered, store, endpoint, fault, code):
    endpoint.script.append(fault)
    with pytest.raises(ClientError):
        list(stream(metered))
    assert parts(row(store), "outcome", "error_code", "output_tokens") == ("failed", code, None)


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_stream_that_is_closed_half_way_is_abandoned(metered, store, taken):
    events = stream(metered)
    for _ in range(taken):
        next(events)
    events.close()
    events.close()
    assert parts(row(store), "outcome", "error_code") == ("abandoned", None)


def test_a_stream_that_nobody_holds_any_more_is_abandoned(metered, store):
    events = stream(metered)
    next(events)
    del events
    assert row(store)["outcome"] == "abandoned"


def test_a_stream_that_nobody_ever_reads_is_abandoned(store):
    stream(Metered(Echo(), store, labels={}))
    assert row(store)["outcome"] == "abandoned"


def test_a_stream_that_another_thread_closes_is_abandoned(store):
    started, closed = threading.Event(), threading.Event()

    class Slow:
        def converse_stream(self, **_):
            def events():
                yield {"messageStart": {"role": "assistant"}}
                started.set()
                closed.wait()

            return {"stream": Stream(events(), closed.set)}

    events = Metered(Slow(), store, labels={}).converse_stream(modelId="a.b")["stream"]
    reader = threading.Thread(target=list, args=[events])
    reader.start()
    started.wait()
    events.close()
    reader.join()
    assert row(store)["outcome"] == "abandoned"


def test_an_answer_that_was_read_to_its_last_event_is_answered_even_if_closed_then(metered, store):
    events = stream(metered)
    for event in events:
        if "metadata" in event:
            break
    events.close()
    assert parts(row(store), "outcome", "input_tokens") == ("answered", 2)


class Interrupting:
    """An engine in which Ctrl-C comes."""

    def converse(self, **_):
        raise KeyboardInterrupt

    def converse_stream(self, **_):
        def events():
            yield {"messageStart": {"role": "assistant"}}
            raise KeyboardInterrupt

        return {"stream": events()}


@pytest.mark.parametrize("call", [ask, lambda engine: list(stream(engine))])
def test_an_interrupted_call_is_written(store, call):
    with pytest.raises(KeyboardInterrupt):
        call(Metered(Interrupting(), store, labels={}))
    assert parts(row(store), "outcome", "error_code") == ("interrupted", None)


def test_ctrl_c_in_who_reads_a_stream_interrupts_it_too(metered, store):
    def read():
        with contextlib.closing(stream(metered)) as events:
            next(events)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read()
    assert row(store)["outcome"] == "interrupted"


def test_counting_tokens_is_a_call_whose_tokens_were_not_used(store):
    engine = Metered(Router(), store, labels={})
    asked = {"modelId": "echo", "input": {"converse": {"messages": request("Hi there", model="")["messages"]}}}
    assert engine.count_tokens(**asked) == {"inputTokens": 2}
    assert parts(row(store), "operation", "engine", "outcome", "input_tokens") == (
        *("CountTokens", "echo", "answered", None),
    )


@pytest.mark.parametrize(
    ("model_id", "alias"),
    [
        ("global.anthropic.claude-sonnet-4-6", "claude"),
        ("anthropic.claude-sonnet-4-6", "claude"),
        ("arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-6", "claude"),
        ("arn:aws:bedrock:eu-west-1:1:inference-profile/eu.anthropic.claude-sonnet-4-6", "claude"),
        ("xanthropic.claude-sonnet-4-6", None),
        ("acme.one", None),
    ],
)
def test_a_row_has_the_name_that_the_catalogue_has_for_its_model(store, model_id, alias):
    engine = Metered(Interrupting(), store, labels={}, names=lambda: {"claude": "anthropic.claude-sonnet-4-6"})
    with pytest.raises(KeyboardInterrupt):
        engine.converse(modelId=model_id)
    assert parts(row(store), "model_id", "alias") == (model_id, alias)


def test_below_the_ladder_each_attempt_is_a_row_with_its_rung(metered, store, endpoint):
    endpoint.script += [
        failure(400, "ValidationException", "This model doesn't support the outputConfig field."),
        answer({"toolUse": {"toolUseId": "t", "name": "answer", "input": {"a": "no number"}}}, stop="tool_use"),
        answer({"toolUse": {"toolUseId": "t", "name": "answer", "input": {"a": 1}}}, stop="tool_use"),
    ]
    asked = request("Extract", model=CLAUDE, schema=SCHEMA)
    ladder = Structured(metered)
    assert converse.data(ladder.converse(**asked), SCHEMA) == {"a": 1}
    told = [parts(each, "outcome", "rung", "output_tokens") for each in store.rows()]
    assert told == [("failed", "native", None), ("answered", "tool", 5), ("answered", "tool", 5)]
    ladder.converse(**request("Hi", model=CLAUDE))
    assert list(store.rows())[-1]["rung"] is None


def test_an_answer_of_a_strange_form_is_passed_on_and_counted_as_far_as_it_goes(store, caplog):
    class Strange:
        def converse(self, **_):
            return {"usage": "much", "output": {"message": {"role": "assistant", "content": []}}}

    assert ask(Metered(Strange(), store, labels={}))["usage"] == "much"
    assert "could not be counted" in caplog.text
    assert row(store)["outcome"] == "answered"


def test_a_meter_is_an_engine_whose_answers_are_those_of_the_engine(metered, endpoint):
    del endpoint
    assert converse.text(ask(metered)) == "Hi there"
    assert converse.text(converse.collect(stream(metered))) == "Hi there"


# ---- where it is integrated -----------------------------------------------------------------------------------


def test_python_s_engine_and_the_command_write_to_one_ledger(bx, monkeypatch):
    import bx as python

    monkeypatch.setenv("BX_TAG", "house")
    engine = python.engine()
    engine.converse(**request("Hi", model="echo"))
    assert bx("Hello there", "--model", "echo").returncode == 0
    engine.close()
    told = [parts(each, "source", "alias", "tag", "output_tokens") for each in Store(config.ledger({})).rows()]
    assert told == [("python", "echo", "house", 1), ("cli", "echo", "house", 2)]


def test_the_command_writes_failures_too(bx, endpoint):
    endpoint.script.append(failure(400, "ValidationException", "No."))
    assert bx("Hi", "--model", "claude", "--endpoint-url", endpoint.url).returncode != 0
    (only,) = Store(config.ledger({})).rows()
    assert parts(only, "alias", "model_id", "outcome") == ("claude", CLAUDE, "failed")


def test_no_ledger_is_kept_where_none_is_wanted(bx, private_home):
    assert bx("Hi", "--model", "echo", BX_LEDGER="off").returncode == 0
    assert not list(private_home.rglob("*.db"))
    assert list(Store(None).rows()) == []
    assert Store(None).check() is None
    with pytest.raises(StoreError, match="No ledger"), Store(None).connection():
        pass


def test_the_ledger_is_where_the_platform_keeps_a_user_s_data(tmp_path, monkeypatch):
    expected = platformdirs.user_data_path("bx", appauthor=False) / "ledger.db"
    assert config.ledger({}) == expected
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert config.ledger({}) == platformdirs.user_data_path("bx", appauthor=False) / "ledger.db"
    assert config.ledger({"ledger": "off"}) is None
    assert config.ledger({"ledger": str(tmp_path / "x.db")}) == tmp_path / "x.db"


# ---- the file -------------------------------------------------------------------------------------------------


def test_rows_are_those_of_a_time_the_oldest_first(store):
    for at in (3.0, 1.0, 2.0):
        store.write({**ROW, "at": at})
    assert [each["at"] for each in store.rows()] == [1, 2, 3]
    assert [each["at"] for each in store.rows(2)] == [2, 3]
    assert [each["at"] for each in store.rows(1, 3)] == [1, 2]
    assert store.prune(3) == 2
    assert [each["at"] for each in store.rows()] == [3]


def test_what_is_not_there_is_read_as_empty_and_not_made(store):
    assert list(store.rows()) == []
    assert store.prune(1e12) == 0
    assert store.check() is None
    assert not store.path.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_the_file_and_its_folder_are_private(tmp_path):
    old = os.umask(0)
    try:
        store = Store(tmp_path / "deep" / "ledger.db")
        store.write(ROW)
    finally:
        os.umask(old)
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    files = list(store.path.parent.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    store.close()
    store.path.chmod(0o644)
    assert "can be read by others" in store.check()


def test_a_file_of_an_older_version_is_brought_up_to_date_and_keeps_its_rows(store):
    connection = sqlite3.connect(store.path)
    for statement in STEPS[0]:
        connection.execute(statement)
    connection.execute("INSERT INTO calls (at) VALUES (5)")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    store.write(ROW)
    assert [each["at"] for each in store.rows()] == [1, 5]
    with store.connection() as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_of_a_newer_version_is_left_alone(store, caplog):
    connection = sqlite3.connect(store.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = store.path.read_bytes()
    store.write(ROW)
    assert store.path.read_bytes() == before
    assert "newer bx" in caplog.text
    assert "Update bx" in caplog.text
    assert "newer bx" in store.check()
    with pytest.raises(StoreError, match="newer bx"):
        list(store.rows())


def test_threads_share_a_store_and_lose_no_row(store):
    threads = [threading.Thread(target=lambda: [store.write(ROW) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.flush()
    assert len(list(store.rows())) == 400


def test_rows_wait_where_they_are_to_be_written_later(tmp_path):
    store = Store(tmp_path / "ledger.db", later=True)
    store.write(ROW)
    assert not store.path.exists()
    assert [waiting["model_id"] for waiting, _ in store.waiting] == ["echo"]
    store.flush()
    assert not store.waiting
    assert len(list(store.rows())) == 1
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_has_a_connection_of_its_own(store):
    store.write(ROW)
    child = os.fork()
    if not child:
        store.write({**ROW, "at": 2.0})
        os._exit(0)
    os.waitpid(child, 0)
    store.write({**ROW, "at": 3.0})
    assert [each["at"] for each in store.rows()] == [1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rows_that_wait_are_not_written_by_a_child_too(store):
    store.write(ROW)
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store.write({**ROW, "at": 2.0})
    child = os.fork()
    if not child:
        store.close()
        os._exit(0)
    os.waitpid(child, 0)
    store.close()
    assert [each["at"] for each in store.rows()] == [1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_call_under_way_is_not_written_by_a_child_too(store):
    events = stream(Metered(Echo(), store, labels={}))
    next(events)
    child = os.fork()
    if not child:
        events.close()
        os._exit(0)
    os.waitpid(child, 0)
    list(events)
    assert row(store)["outcome"] == "answered"


def test_a_ledger_that_is_moved_away_under_a_running_program_is_begun_anew(store):
    store.write(ROW)
    for file in list(store.path.parent.glob("ledger.db*")):
        file.rename(file.with_name(f"old-{file.name}"))
    store.write({**ROW, "at": 2.0})
    assert [each["at"] for each in store.rows()] == [2]


# ---- what stands in its way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(store, caplog, damage):
    store.path.write_bytes(damage)
    assert "is damaged" in store.check()
    store.write(ROW)
    store.write(ROW)
    assert len(list(store.rows())) == 2
    (aside,) = store.path.parent.glob("ledger.db.damaged-*")
    assert aside.read_bytes() == damage
    assert len(caplog.records) == 1
    assert str(aside) in caplog.text
    assert store.check() is None


def test_a_file_that_is_damaged_in_the_middle_of_its_life_is_moved_aside(store, caplog):
    for _ in range(500):
        store.write({**ROW, "tag": "x" * 100})
    store.close()
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    store.write(ROW)
    assert len(list(store.rows())) == 1
    assert "was damaged" in caplog.text


def test_a_file_that_another_process_has_replaced_already_is_not_moved_again(tmp_path):
    first, second = Store(tmp_path / "ledger.db"), Store(tmp_path / "ledger.db")
    first.path.write_bytes(b"this is no database" * 100)
    for store in (first, second):
        store.write(ROW)
    assert len(list(first.rows())) == 2
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1
    first.close()
    second.close()


def test_a_locked_file_is_said_once_and_its_rows_are_written_when_it_is_free(store, caplog):
    store.write(ROW)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.write(ROW)
    store.write(ROW)
    assert not caplog.records  # others are soon done, as a rule
    store.close()
    assert len(caplog.records) == 1
    assert "locked by another process" in caplog.text
    other.execute("COMMIT")
    other.close()
    store.close()
    assert len(list(store.rows())) == 3


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_home_that_cannot_be_written_is_said_once(tmp_path, caplog):
    tmp_path.chmod(0o500)
    engine = Metered(Echo(), Store(tmp_path / "bx" / "ledger.db"), labels={})
    for _ in range(3):
        assert converse.text(ask(engine)) == "Hi there"
    assert len(caplog.records) == 1
    tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_made_is_said_once_and_the_answer_comes(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    engine = Metered(Echo(), Store(tmp_path / "file" / "ledger.db"), labels={})
    for _ in range(3):
        assert converse.text(ask(engine)) == "Hi there"
    assert len(caplog.records) == 1
    assert "cannot be used" in caplog.text
    assert "BX_LEDGER" in caplog.text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is full")  # noqa: PTH110
def test_a_file_that_is_no_file_is_said_once(caplog):
    store = Store(Path("/dev/full"))
    store.write(ROW)
    store.write(ROW)
    assert len(caplog.records) == 1


def test_around_takes_the_settings(tmp_path):
    settings = {"ledger": str(tmp_path / "mine.db"), "tag": "house", "region": "eu-west-1"}
    engine = around(Interrupting(), settings, source="serve", names=dict)
    with pytest.raises(KeyboardInterrupt):
        ask(engine)
    assert parts(row(engine.store), "source", "tag", "region") == ("serve", "house", "eu-west-1")
    engine.close()


def test_a_store_that_nobody_holds_any_more_is_closed(tmp_path):
    for number in range(3):
        Store(tmp_path / f"{number}.db").write(ROW)
    gc.collect()
    assert not list(tmp_path.glob("*-wal"))  # SQLite removes it with the last connection
    assert len(list(Store(tmp_path / "0.db").rows())) == 1


def test_rows_that_wait_are_written_when_nobody_holds_their_store_any_more(tmp_path):
    store = Store(tmp_path / "ledger.db")
    store.write(ROW)
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store.write({**ROW, "at": 2.0})
    del store
    assert len(list(Store(tmp_path / "ledger.db").rows())) == 2


def test_rows_that_wait_are_written_when_the_program_ends(tmp_path):
    program = """
import sqlite3, sys
from pathlib import Path
from bx.ledger.store import Store
store = Store(Path(sys.argv[1]))
store.write({"at": 1.0})
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
store.write({"at": 2.0})
other.execute("ROLLBACK")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "ledger.db")], capture_output=True, check=True
    )
    assert done.stderr == b""
    assert [each["at"] for each in Store(tmp_path / "ledger.db").rows()] == [1, 2]
