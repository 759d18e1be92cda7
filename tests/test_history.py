"""The history: what is kept of conversations, how it is found again, and that nothing stays of what was deleted."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bx import converse
from bx.engines.echo import Echo
from bx.ledger import history
from bx.ledger.heard import CUT, Heard
from bx.ledger.history import Turn, UnknownConversation
from bx.ledger.redaction import without_secrets
from bx.ledger.store import Store, StoreError
from scripted import HANGUP, Scripted, answer, broken, connected

PIXEL = b"\x89PNG\r\n\x1a\n\x00 one pixel"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # AWS's own example


def turn(prompt="Hi", said="Hello", **more):
    return Turn("echo", "echo", [message("user", prompt), message("assistant", said)], **more)


def message(role, *content):
    return {"role": role, "content": [{"text": part} if isinstance(part, str) else part for part in content]}


def keep(store, kept, number=None):
    return history.keep(store, [kept], number)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "ledger.db")


# ---- what is kept ---------------------------------------------------------------------------------------------


def test_a_conversation_comes_back_as_it_was(store):
    number = keep(store, turn("One", "1", system="Count.", usage={"totalTokens": 3}, stop_reason="end_turn"))
    assert keep(store, turn("Two", "2"), number) == number
    other = keep(store, turn("Other", "else"))
    assert other != number
    found = history.conversation(store, number)
    assert [(each.prompt, each.answer) for each in found.turns] == [("One", "1"), ("Two", "2")]
    first = found.turns[0]
    assert (first.system, first.usage, first.stop_reason) == ("Count.", {"totalTokens": 3}, "end_turn")
    texts = [said["content"][0]["text"] for said in found.messages()]
    assert texts == ["One", "1", "Two", "2"]
    assert history.conversation(store).id == other
    keep(store, turn("Three", "3"), number)
    assert history.conversation(store).id == number


@given(st.text(), st.text())
def test_any_text_comes_back_but_for_halves_of_characters(tmp_path_factory, prompt, said):
    store = Store(tmp_path_factory.getbasetemp() / "any.db")
    number = keep(store, turn(prompt, said))
    (kept,) = history.conversation(store, number).turns
    assert (kept.prompt, kept.answer) == (prompt, said)


def test_half_a_character_is_no_obstacle(store):
    number = keep(store, turn("a \ud83d b", "\ude00"))
    assert "a" in history.listed(store, 1)[0].prompt
    assert history.conversation(store, number).turns[0].prompt == "a \ud83d b"


def test_what_is_more_than_text_comes_back_too_and_an_image_is_kept_once(store):
    image = {"image": {"format": "png", "source": {"bytes": PIXEL}}}
    call = {"toolUse": {"toolUseId": "t1", "name": "add", "input": {"bytes": None, "a": [1]}}}
    thought = {"reasoningContent": {"redactedContent": b"\x00\x01"}}
    asked = [message("user", "What is this?", image, image), message("assistant", thought, "A pixel", call)]
    number = keep(store, Turn("claude", "id", asked))
    keep(store, Turn("claude", "id", asked), number)
    assert [each.messages for each in history.conversation(store, number).turns] == [asked, asked]
    with store.connection() as db:
        assert db.execute("SELECT count(*) FROM blobs").fetchone() == (2,)
        assert db.execute("SELECT count(*) FROM parts").fetchone() == (6,)


def test_what_goes_into_a_later_request_is_what_a_service_takes_back():
    thought = {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}}
    call = {"toolUse": {"toolUseId": "t1", "name": "add", "input": {}}}
    asked = message("user", "Hi")
    assert history.sendable([asked, message("assistant", thought, " \n", "Yes", call)]) == [
        asked,
        message("assistant", "Yes"),
    ]
    assert history.sendable([asked, message("assistant", thought, call)]) == []


@pytest.mark.parametrize(
    "secret",
    [
        SECRET,
        "AKIAIOSFODNN7EXAMPLE",
        "ABSKQmVkcm9ja0FQSUtleS1hYmNkZWY=",
        "sk-proj-abcdefghijklmnopqrstuvwxyz",
        "sk-ant-api03-abcdefghijklmnopqrstuvwx",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "glpat-abcdefghijklmnopqrst",
        "xoxb-1234567890-abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijkl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_key_is_not_kept_anywhere(secret, store):
    long = f"before {'words ' * 30_000}\nkey: {secret} after\n{'words ' * 30_000}the end"
    call = {"toolUse": {"toolUseId": "t1", "name": "login", "input": {"with": [secret]}}}
    said = [message("user", long), message("assistant", f"It is {secret}", call)]
    number = keep(store, Turn("m", "m", said, system=f"Use {secret}"))
    (kept,) = history.conversation(store, number).turns
    assert kept.prompt.startswith("before words")
    assert kept.prompt.endswith("words the end")
    assert (kept.answer, kept.system) == ("It is ***", "Use ***")
    assert kept.messages[1]["content"][1]["toolUse"]["input"] == {"with": ["***"]}
    assert secret.split("\n")[-1].encode() not in b"".join(path.read_bytes() for path in store.path.parent.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "task-force-of-a-very-long-hyphenated-name, risk-averse_people",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "Three uses of a brick?\n\n\tGrüße 日本語 👩‍👩‍👧",
        "x" * 200_000,
    ],
)
def test_ordinary_text_is_kept_as_it_is(text):
    assert without_secrets(text) == text


def test_a_refused_header_costs_its_line_and_not_the_rest():
    text = "requests: Invalid header value b'abc def'\nWhat does that mean?"
    assert without_secrets(text) == "requests: Invalid header value ***\nWhat does that mean?"


@pytest.mark.skipif(os.name != "posix", reason="modes of files are a matter of POSIX")
def test_only_the_user_can_read_it(tmp_path):
    store = Store(tmp_path / "made" / "ledger.db")
    keep(store, turn())
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


# ---- nothing of it fails an answer ----------------------------------------------------------------------------


def test_a_file_that_cannot_be_used_is_told_and_costs_nothing(tmp_path, caplog):
    (tmp_path / "ledger.db").write_bytes(b"This is no database. " * 100)
    with caplog.at_level(logging.WARNING, "bx.ledger"):
        assert keep(Store(tmp_path / "ledger.db"), turn()) is None
        assert keep(Store(tmp_path / "ledger.db" / "below"), turn()) is None
    assert len(caplog.records) == 2
    with pytest.raises(StoreError):
        history.listed(Store(tmp_path / "ledger.db"), 10)


def test_a_turn_that_cannot_be_written_as_json_costs_nothing(store, caplog):
    odd = {"toolUse": {"toolUseId": "t", "name": "n", "input": {"a": object()}}}
    assert keep(store, Turn("m", "m", [message("user", "Hi"), message("assistant", odd)])) is None
    assert "not kept" in caplog.text
    assert history.listed(store, 10) == []


def test_processes_that_keep_at_once_lose_nothing(store, tmp_path):
    code = (
        "import sys; from pathlib import Path; from bx.ledger import history; from bx.ledger.store import Store\n"
        "ask = lambda text: [{'role': role, 'content': [{'text': text}]} for role in ('user', 'assistant')]\n"
        "store, number = Store(Path(sys.argv[1])), None\n"
        "for turn in range(25):\n"
        "    number = history.keep(store, [history.Turn('m', 'm', ask(f'{sys.argv[2]} {turn}'))], number)\n"
    )
    command = [sys.executable, "-c", code, str(store.path)]
    writers = [subprocess.Popen([*command, name]) for name in "abcd"]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    found = history.listed(store, 100)
    assert [each.turns for each in found] == [25] * 4
    for each in found:
        turns = history.conversation(store, each.id).turns
        assert len({kept.prompt.split()[0] for kept in turns}) == 1


# ---- finding --------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(store):
    first = keep(store, turn("What is a monad?", "A monoid in a category", at=10.0))
    keep(store, turn("And a Comonad?", "Its dual", at=30.0), first)
    keep(store, turn("Crème brûlée", "Sugar, 100 % cream, 日本語のレシピ", at=20.0))
    return store


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("", [1, 2]),
        ("monad", [1]),
        ("MONOID category", [1]),
        ("monad cream", []),
        ("categ", [1]),
        ("creme brulee", [2]),
        ("本語", [2]),
        ("omona", [1]),
        ("100 %", [2]),
        ("_", []),
        ('"monad" OR', []),
        ('"cream"', [2]),
        ("NEAR( ^ * -", []),
        ("\\", []),
        ("nothing-of-this", []),
    ],
)
def test_conversations_are_found_by_words_beginnings_and_parts(words, ids, filled):
    assert sorted(found.id for found in history.listed(filled, 10, words)) == ids


def test_the_last_conversation_comes_first_and_a_list_has_an_end(store):
    numbers = [keep(store, turn(f"Number {index}")) for index in range(5)]
    assert [found.id for found in history.listed(store, 3)] == numbers[:1:-1]
    keep(store, turn("again"), numbers[0])
    assert [found.id for found in history.listed(store, 2)] == [numbers[0], numbers[4]]
    assert [found.id for found in history.listed(store, 2, "Number")] == numbers[:2:-1]


def test_a_summary_says_when_with_whom_how_it_began_and_where_the_word_is(store):
    number = keep(store, turn("What is a monad?", "A monoid", at=10.0))
    keep(store, turn("More", f"{'long ' * 100}functors {'more ' * 50}", at=30.0)._replace(model="x"), number)
    (found,) = history.listed(store, 10, "functor")
    assert (found.started, found.changed, found.turns, found.model) == (10.0, 30.0, 2, "x")
    assert found.prompt == "What is a monad?"
    assert "long functors more" in found.found
    assert found.found.startswith("…")
    assert len(found.found) < 150


def test_without_the_index_texts_are_read(filled, monkeypatch):
    monkeypatch.setattr(history, "_INDEX", "CREATE VIRTUAL TABLE turns_search USING no_such_module(a)")
    assert [found.id for found in history.listed(filled, 10, "monad")] == [1]
    assert history.remove(filled, [1]) == 1


def test_there_may_be_none(store):
    assert history.listed(store, 10) == history.listed(store, 10, "word") == []
    for number in (None, 7):
        with pytest.raises(UnknownConversation, match="There is no conversation"):
            history.conversation(store, number)


# ---- forgetting -----------------------------------------------------------------------------------------------


def test_nothing_stays_of_what_was_deleted(store):
    image = {"image": {"format": "png", "source": {"bytes": PIXEL * 500}}}
    asked = [message("user", "aardvark " * 3000, image), message("assistant", "zyzzyva")]
    gone = keep(store, Turn("m", "m", asked, system="xylophone"))
    stays = keep(store, turn("Stays", "here"))
    assert len(history.listed(store, 10, "aardvark zyzzyva")) == 1
    assert history.remove(store, [gone]) == 1
    left = b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    for word in (b"aardvark", b"zyzzyva", b"xylophone", b"one pixel"):
        assert word not in left
    assert [found.id for found in history.listed(store, 10)] == [stays]
    assert [found.id for found in history.listed(store, 10, "stay")] == [stays]
    assert history.listed(store, 10, "aardvark") == []
    assert keep(store, turn()) > stays


def test_all_or_nothing_is_deleted(store):
    numbers = [keep(store, turn()) for _ in range(3)]
    with pytest.raises(UnknownConversation, match="99"):
        history.remove(store, [numbers[0], 99])
    assert len(history.listed(store, 10)) == 3
    assert history.remove(store) == 3
    assert history.listed(store, 10) == []
    assert history.remove(store) == 0


def test_an_image_of_two_conversations_outlives_one(store):
    image = {"image": {"format": "png", "source": {"bytes": PIXEL}}}
    asked = [message("user", "Look", image), message("assistant", "Yes")]
    one, two = (keep(store, Turn("m", "m", asked)) for _ in range(2))
    history.remove(store, [one])
    assert history.conversation(store, two).turns[0].messages == asked


# ---- the engine that hears ------------------------------------------------------------------------------------


def heard(engine, prompt="one two three"):
    return Heard(engine), converse.request(prompt, model="echo")


def test_what_is_heard_is_what_was_answered_whole_or_in_events():
    engine, request = heard(Echo())
    response = engine.converse(**request)
    assert engine.last == response
    events = list(engine.converse_stream(**request)["stream"])
    assert engine.last == converse.collect(events)
    assert converse.text(engine.last) == "one two three"


def test_of_a_stream_that_is_closed_what_had_arrived_is_kept():
    engine, request = heard(Echo())
    stream = engine.converse_stream(**request)["stream"]
    for _ in range(3):
        next(stream)
    stream.close()
    assert (converse.text(engine.last), engine.last["stopReason"]) == ("one two", CUT)
    engine.converse_stream(**request)["stream"].close()
    assert engine.last is None


def test_of_a_stream_that_breaks_what_had_arrived_is_kept():
    with Scripted() as endpoint:
        endpoint.script.append(broken(3, HANGUP))
        engine, request = heard(connected(endpoint.url))
        with pytest.raises(Exception):  # noqa: B017, PT011 # whichever the SDK raises
            list(engine.converse_stream(**request)["stream"])
        assert (converse.text(engine.last), engine.last["stopReason"]) == ("one two", CUT)
        call = {"toolUse": {"toolUseId": "t", "name": "n", "input": '{"a":'}}
        endpoint.script.append(answer(call, stop="tool_use"))
        list(engine.converse_stream(**request)["stream"])
        assert engine.last is None


def test_a_search_while_others_write_is_complete(store):
    stop = threading.Event()

    def write():
        while not stop.is_set():
            keep(store, turn("word"))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(10):
            before = len(history.listed(store, 10_000))
            assert len(history.listed(store, 10_000, "word")) >= before
    finally:
        stop.set()
        writer.join()
