"""`bx chat`: on a real terminal, with the keys that a person presses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import stat
import subprocess
import sys
import threading

import pytest

from bx import config, converse
from bx.ledger import history
from bx.ledger.store import Store
from scripted import RESET, STALL, answer, broken, failure
from test_cli_ask import bx

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")
ECHO = ["--model", "echo"]
READY = b"\x1b[?2004h"  # the editor takes keys: it asks for pasted text to be marked
PASTED = "\x1b[200~{}\x1b[201~"
DRAWN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Typed:
    """A chat on a terminal: `out` is what was answered so far, `seen` what the terminal shows since the last key."""

    def __init__(self, process, near, out):
        self._process, self._near, self._out = process, near, out
        self._shown, self._at = b"", 0
        self.out = b""

    def wait(self, text=READY):
        """Wait for a text on stderr; return what was shown up to it."""
        self._fill(lambda: text in self._shown[self._at :])
        end = self._shown.index(text, self._at) + len(text)
        seen, self._at = self._shown[self._at : end], end
        return DRAWN.sub("", seen.decode()).replace("\r", "")

    def answered(self, text):
        """Wait for a text on stdout."""
        self._fill(lambda: text in self.out)

    def __call__(self, keys, line=True):
        """Press keys, and Enter; return what was shown until more can be typed."""
        os.write(self._near, keys.encode() + b"\r" * line)
        return self.wait()

    def press(self, keys):
        os.write(self._near, keys.encode())

    def interrupt(self):
        """Press Ctrl-C, and once more where Python misses it: just before a read, it is only heard after that."""
        self._process.send_signal(signal.SIGINT)
        if not select.select([self._near], [], [], 5)[0]:
            self._process.send_signal(signal.SIGINT)

    def leave(self, keys="\x04"):
        """Leave; return the exit code."""
        self.press(keys)
        self._fill(lambda: False)
        return self._process.wait(20)

    def _fill(self, done):
        ends = {self._near, self._out}
        while not done() and ends:
            ready = select.select(list(ends), [], [], 20)[0]
            assert ready, (self._shown[self._at :], self.out)
            for end in ready:
                data = b""
                with contextlib.suppress(OSError):  # how Linux says that a terminal has ended
                    data = os.read(end, 65536)
                if not data:
                    ends.discard(end)
                elif end == self._near:
                    self._shown += data
                else:
                    self.out += data.replace(b"\r\n", b"\n")


@contextlib.contextmanager
def chat(*arguments, stdout="tty", **environ):
    import pty

    near, far = pty.openpty()
    out, out_far = pty.openpty() if stdout == "tty" else os.pipe()
    environ = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environ}
    command = [sys.executable, "-m", "bx", "chat", *arguments]
    with subprocess.Popen(command, stdin=far, stdout=out_far, stderr=far, env=environ) as process:
        os.close(far)
        os.close(out_far)
        typed = Typed(process, near, out)
        try:
            typed.wait()
            yield typed
        finally:
            process.kill()
    os.close(near)
    os.close(out)


def kept():
    return history.conversation(Store(config.ledger({}))).turns


def texts(request):
    return [block["text"] for message in request.body["messages"] for block in message["content"]]


# ---- turns ----------------------------------------------------------------------------------------------------


def test_each_turn_is_sent_with_all_before_it_and_kept(endpoint):
    with chat("-m", "claude", "-s", "Be brief.", "--max-tokens", "50", "--endpoint-url", endpoint.url) as typed:
        assert "[tokens: " in typed("One")
        typed("Two")
        assert typed.leave() == 0
    assert typed.out == b"One\nTwo\n"
    first, second = endpoint.requests
    assert texts(first) == ["One"]
    assert texts(second) == ["One", "One", "Two"]
    assert second.body["system"] == [{"text": "Be brief."}]
    assert second.body["inferenceConfig"] == {"maxTokens": 50}
    assert [(turn.prompt, turn.answer, turn.model, turn.system) for turn in kept()] == [
        ("One", "One", "claude", "Be brief."),
        ("Two", "Two", "claude", "Be brief."),
    ]


def test_a_chat_continues_a_conversation_and_is_continued():
    assert bx("Earlier", *ECHO, "--history", "all").code == 0
    with chat("-c") as typed:
        typed("Later")
        typed.leave()
    assert [turn.prompt for turn in kept()] == ["Earlier", "Later"]
    request = json.loads(bx("Last", "-c", "--dry-run").out)
    assert len(request["messages"]) == 5


def test_nothing_is_kept_where_that_is_chosen():
    for arguments in (["-n"], ["--history", "off"]):
        with chat(*ECHO, *arguments) as typed:
            typed("One")
            typed.leave()
    with chat(*ECHO, stdout="pipe") as typed:
        typed("One")
        typed.leave()
    assert typed.out == b"One\n"
    with pytest.raises(history.UnknownConversation):
        kept()


def test_a_ledger_that_cannot_be_used_is_told_and_the_chat_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    with chat(*ECHO, BX_LEDGER=str(tmp_path / "file" / "below")) as typed:
        assert "The history was not kept" in typed("One")
        assert "The history was not kept" not in typed("Two")
        assert typed.leave() == 0
    assert typed.out == b"One\nTwo\n"


def test_what_could_not_be_kept_is_kept_with_the_next_turn(tmp_path):
    (tmp_path / "folder").write_text("in the way")
    with chat(*ECHO, BX_LEDGER=str(tmp_path / "folder" / "ledger.db")) as typed:
        typed("One")
        (tmp_path / "folder").unlink()
        typed("Two")
        typed.leave()
    turns = history.conversation(Store(tmp_path / "folder" / "ledger.db")).turns
    assert [turn.prompt for turn in turns] == ["One", "Two"]


# ---- typing ---------------------------------------------------------------------------------------------------


def test_a_prompt_may_have_several_lines():
    with chat(*ECHO) as typed:
        typed("with\\\ra backslash")
        typed("with\x1b\rescape")
        typed.press(PASTED.format("/help\npasted\n\tlines"))
        typed("")
        typed.leave()
    assert typed.out == b"with\na backslash\nwith\nescape\n/help\npasted\n\tlines\n"


def test_a_line_can_be_edited_and_an_earlier_one_brought_back():
    with chat(*ECHO) as typed:
        typed("ac\x1b[Db")
        typed("\x1b[A")
        typed("   ")
        typed.leave()
    assert typed.out == b"abc\nabc\n"


def test_what_a_model_prints_cannot_drive_the_terminal(endpoint):
    endpoint.script.append(answer("\x1b[2J\x1b]0;title\x07 red"))
    with chat("--endpoint-url", endpoint.url) as typed:
        typed("Hi")
        typed.leave()
    assert typed.out.startswith(rb"\x1b[2J\x1b]0;title\x07 red")


def test_bytes_that_are_no_text_do_no_harm():
    with chat(*ECHO) as typed:
        os.write(typed._near, b"caf\xe9")
        typed(" au lait")
        assert typed.leave() == 0
    assert b"au lait" in typed.out


# ---- stopping -------------------------------------------------------------------------------------------------


def test_ctrl_c_stops_an_answer_and_not_the_chat(endpoint):
    endpoint.script.append(broken(3, STALL))
    with chat("--endpoint-url", endpoint.url) as typed:
        typed.press("one two three four\r")
        typed.answered(b"one two")
        typed.interrupt()
        assert "stopped; what had arrived stays in the conversation" in typed.wait()
        typed("go on")
        assert typed.leave() == 0
    assert texts(endpoint.requests[1]) == ["one two three four", "one two", "go on"]
    assert [(turn.answer, turn.stop_reason) for turn in kept()] == [("one two", "interrupted"), ("go on", "end_turn")]


def test_ctrl_c_before_the_first_word_leaves_nothing(endpoint):
    endpoint.script.append(broken(0, STALL))
    with chat("--endpoint-url", endpoint.url) as typed:
        typed.press("silence\r")
        typed.wait(b"2004l")
        while not endpoint.requests:
            threading.Event().wait(0.01)
        typed.interrupt()
        typed.wait()
        typed("again")
        typed.leave()
    assert texts(endpoint.requests[1]) == ["again"]


def test_ctrl_c_at_the_prompt_clears_it_and_ctrl_d_leaves():
    with chat(*ECHO) as typed:
        assert "Ctrl-D leaves" in typed("half a prompt\x03", line=False)
        typed("whole")
        assert typed.leave() == 0
    assert typed.out == b"whole\n"


@pytest.mark.parametrize("command", ["/exit", "/quit", "/exit "])
def test_a_command_leaves_too(command):
    with chat(*ECHO) as typed:
        assert typed.leave(f"{command}\r") == 0


def test_a_failure_is_told_and_leaves_the_conversation_as_it_was(endpoint):
    with chat("--endpoint-url", endpoint.url, "-m", "claude") as typed:
        typed("One")
        endpoint.script.append(failure(400, "ValidationException", "Too long for us"))
        assert "Too long for us" in typed("Two")
        endpoint.script.append(broken(3, RESET))
        assert "bx: " in typed("three four five")
        typed("Six")
        assert typed.leave() == 0
    assert texts(endpoint.requests[-1]) == ["One", "One", "three four five", "three four", "Six"]


def test_a_turn_without_text_is_left_out(endpoint):
    call = {"toolUse": {"toolUseId": "t", "name": "add", "input": {}}}
    endpoint.script.append(answer(call, stop="tool_use"))
    with chat("--endpoint-url", endpoint.url) as typed:
        assert "goes on without this turn" in typed("One")
        typed("Two")
        typed.leave()
    assert texts(endpoint.requests[1]) == ["Two"]


# ---- commands -------------------------------------------------------------------------------------------------


def test_the_model_and_the_system_prompt_change_from_one_turn_to_the_next(endpoint):
    with chat("--endpoint-url", endpoint.url, "-m", "claude") as typed:
        typed("One")
        assert "model: eu.amazon.nova-pro-v1:0" in typed("/model eu.amazon.nova-pro-v1:0")
        assert "system: Be\nbrief." in typed("/system Be\\\rbrief.")
        typed("Two")
        assert "Did you mean claude" in typed("/model cluade")
        assert "model: eu.amazon.nova-pro-v1:0" in typed("/model")
        assert "system: (none)" in typed("/system -")
        typed("Three")
        typed.leave()
    models = [request.model for request in endpoint.requests]
    assert models == ["global.anthropic.claude-sonnet-4-6", *["eu.amazon.nova-pro-v1:0"] * 2]
    assert [request.body.get("system") for request in endpoint.requests] == [None, [{"text": "Be\nbrief."}], None]
    assert [turn.model for turn in kept()][:2] == ["claude", "eu.amazon.nova-pro-v1:0"]


def test_usage_adds_up():
    with chat(*ECHO) as typed:
        assert "nothing was asked yet" in typed("/usage")
        typed("one two")
        typed("three")
        assert "tokens: input 7, output 3 | $0.00 | calls 2" in typed("/usage")
        typed.leave()


def test_a_conversation_is_saved_as_markdown_or_as_a_request(tmp_path):
    page, request = tmp_path / "talk.md", tmp_path / "talk.json"
    with chat(*ECHO, "-s", "Be brief.") as typed:
        typed("Grüße")
        assert f"saved {page}" in typed(f"/save {page}")
        assert f"saved {request}" in typed(f"/save {request}")
        page.write_text("mine")
        typed.press(f"/save {page}\r")
        typed.wait(b"[y/N] ")
        typed("n\n", line=False)
        assert "needs the name of a file" in typed("/save")
        assert "bx: " in typed(f"/save {tmp_path / 'no' / 'folder.md'}")
        typed.leave()
    assert page.read_text() == "mine"
    assert stat.S_IMODE(request.stat().st_mode) == 0o600
    saved = json.loads(request.read_text())
    assert saved == converse.request(saved["messages"], model="echo", system="Be brief.")
    assert [message["content"] for message in saved["messages"]] == [[{"text": "Grüße"}]] * 2


def test_a_command_that_there_is_not_is_told_and_a_path_is_a_prompt():
    with chat(*ECHO) as typed:
        assert "/save FILE" in typed("/help")
        assert "There is no command /modle" in typed("/modle nova")
        typed("/etc/hosts is empty")
        typed(" /help")
        typed.leave()
    assert typed.out == b"/etc/hosts is empty\n /help\n"


# ---- where it cannot be ---------------------------------------------------------------------------------------


def test_without_a_terminal_it_says_what_to_do_instead():
    outcome = bx("chat", *ECHO, stdin="Hello\n")
    assert (outcome.code, outcome.out) == (2, "")
    assert "needs a terminal" in outcome.err
    assert 'bx -c "PROMPT"' in outcome.err


def test_a_model_that_there_is_not_and_a_dry_run_are_told_at_once():
    from test_terminal import on_terminal

    assert on_terminal("chat", "--model", "novva").code == 2
    assert "forbids" in on_terminal("chat", *ECHO, BX_DRY_RUN="1").err
