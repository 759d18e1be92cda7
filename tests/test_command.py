"""Commands that are run as tools: bounds, faults, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bx.command import LIMIT, Failed, run

POSIX = pytest.mark.skipif(os.name != "posix", reason="process groups and signals are POSIX's")
PROC = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks into /proc")


def python(script, given=b"{}", seconds=20, stopped=None):
    return run([sys.executable, "-c", script], given, seconds=seconds, stopped=stopped or threading.Event())


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_ended(pid, seconds=5):
    deadline = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.02)


def wait_for(path, seconds=10):
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, "it never began"
        time.sleep(0.02)
    return path.read_text()


def test_the_input_arrives_on_stdin_and_stdout_comes_back():
    given = b'{"a": 1}\n' * 50_000  # more than a pipe holds
    assert python("import sys; print(len(sys.stdin.buffer.read()))", given) == b"450000\n"


def test_arguments_are_no_shell_line(tmp_path):
    line = f"$(touch {tmp_path}/made); *"
    printed = run(
        [sys.executable, "-c", "import sys; print(sys.argv[1])", line], b"", seconds=20, stopped=threading.Event()
    )
    assert printed.decode().strip() == line
    assert not (tmp_path / "made").exists()


def test_the_environment_is_inherited(monkeypatch):
    monkeypatch.setenv("A_SETTING", "seen")
    assert python("import os; print(os.environ['A_SETTING'])").strip() == b"seen"


def test_a_command_that_does_not_read_its_input_is_no_failure():
    assert python("import os; os.close(0); print('done')", b"x" * 1_000_000).strip() == b"done"


def test_an_exit_code_is_told_with_what_was_written():
    script = "import sys; print('half'); print('no such host', file=sys.stderr); sys.exit(3)"
    with pytest.raises(Failed) as failure:
        python(script)
    assert str(failure.value) == "The tool failed with exit code 3\nstderr:\nno such host\nstdout:\nhalf"


@POSIX
def test_a_crash_names_the_signal():
    with pytest.raises(Failed, match="was killed by the signal SIGABRT"):
        python("import os; os.abort()")


@pytest.mark.parametrize("command", [["no-such-program"], [str(Path(__file__).parent)], ["a\0b"]])
def test_what_cannot_be_started_is_told(command):
    with pytest.raises(Failed, match="could not be started"):
        run(command, b"", seconds=20, stopped=threading.Event())


@POSIX
def test_what_is_not_executable_is_told(tmp_path):
    (tmp_path / "tool.sh").write_text("echo hello\n")
    with pytest.raises(Failed, match=r"could not be started.*Permission denied"):
        run([str(tmp_path / "tool.sh")], b"", seconds=20, stopped=threading.Event())


def test_a_command_that_takes_too_long_is_ended():
    began = time.monotonic()
    with pytest.raises(Failed, match=r"did not end within 0\.5 seconds and was stopped\nstdout:\nbegun"):
        python("import time; print('begun', flush=True); time.sleep(60)", seconds=0.5)
    assert time.monotonic() - began < 5


def test_a_flood_is_cut_and_the_command_still_ends_its_work(tmp_path):
    script = f"print('x' * 5_000_000); open({str(tmp_path / 'done')!r}, 'w').close()"
    with pytest.raises(Failed) as failure:
        python(script)
    assert "its output of 5000001 bytes is too long" in str(failure.value)
    assert len(str(failure.value)) < LIMIT + 200
    assert (tmp_path / "done").exists()


def test_an_endless_flood_is_bounded_and_ends_in_time():
    script = "import os\nwhile True: os.write(1, b'x' * 65536); os.write(2, b'y' * 65536)"
    with pytest.raises(Failed) as failure:
        python(script, seconds=1)
    assert "did not end within 1 seconds" in str(failure.value)
    assert len(str(failure.value)) < 2 * LIMIT


def test_of_a_long_complaint_the_end_is_kept():
    with pytest.raises(Failed) as failure:
        python("import sys; sys.stderr.write('x' * 50_000 + 'the reason'); sys.exit(1)")
    assert "stderr (the last 10000 of 50010 bytes)" in str(failure.value)
    assert str(failure.value).endswith("the reason")


def test_an_event_stops_a_running_command():
    stopped = threading.Event()
    threading.Timer(0.3, stopped.set).start()
    began = time.monotonic()
    with pytest.raises(Failed, match="The tool was stopped"):
        python("import time; time.sleep(60)", stopped=stopped)
    assert time.monotonic() - began < 5


GRANDCHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
with open({path!r}, "w") as file: print(child.pid, file=file)
{then}
"""


@PROC
@pytest.mark.parametrize("then", ["time.sleep(60)", "print('done')"])
def test_what_a_command_started_ends_with_it(tmp_path, then):
    path = tmp_path / "pid"
    script = GRANDCHILD.format(path=str(path), then=then)
    if "done" in then:
        assert python(script).strip() == b"done"
    else:
        with pytest.raises(Failed, match="did not end"):
            python(script, seconds=1)
    wait_until_ended(int(path.read_text()))


@PROC
def test_ctrl_c_ends_the_command_and_what_it_started(tmp_path):
    path = tmp_path / "pid"
    tool = GRANDCHILD.format(path=str(path), then="time.sleep(60)")
    program = (
        "import sys, threading\nfrom bx.command import run\n"
        f"run([sys.executable, '-c', {tool!r}], b'', seconds=60, stopped=threading.Event())"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as caller:
        grandchild = int(wait_for(path))
        caller.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in caller.communicate(timeout=10)[1]
    wait_until_ended(grandchild)
