"""A command run as a tool: an argument list, the input on stdin, the output read with bounds, nothing left behind.

No shell takes part. The command gets a session of its own, so that everything it starts can be ended with it. This
module knows no model and no tool: it takes bytes and gives bytes, or says in words what went wrong.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT = 100_000  # bytes of output that are handed on: some 30,000 tokens, paid again in each turn that follows
_ERRORS_LIMIT = 10_000  # bytes of stderr, its last ones: that is where the reason stands
_TICK = 0.01  # seconds between two looks at a running command
_GRACE = 0.5  # seconds for what is in the pipes once the command has ended
_PIECE = 65_536  # bytes per read


class Failed(Exception):
    """A tool gave no result. The text is for the model, and its first line for people."""


def run(command: Sequence[str], given: bytes, *, seconds: float, stopped: threading.Event) -> bytes:
    """Run a command to its end and return what it wrote to stdout, at most `LIMIT` bytes.

    It inherits the environment and the working folder. When this returns or raises, for whatever reason (Ctrl-C
    too), the command and what it started in its process group have ended. What it writes past the limits is read
    and thrown away, for a command that is killed half-way may leave half of its work.

    Args:
        command: the program and its arguments.
        given: what it reads on stdin; it need not read it.
        seconds: how long it may take.
        stopped: setting it ends the command.

    Raises:
        Failed: it could not be started, took too long, was stopped, ended with another exit code than 0, or wrote
            more than `LIMIT` bytes.
    """
    process = _start(command)
    if not (process.stdin and process.stdout and process.stderr):
        raise AssertionError("all three are pipes")
    output, errors = _Reader(process.stdout, head=True), _Reader(process.stderr, head=False)
    writer = threading.Thread(target=_write, args=(process.stdin, given), daemon=True)
    try:
        for thread in (output, errors, writer):
            thread.start()
        ended = _wait(process, seconds, stopped)
        if ended:  # what it left behind may hold the pipes open, and is not waited for
            output.join(_GRACE)
            errors.join(_GRACE)
    finally:
        _end(process)
        for thread in (output, errors, writer):
            if thread.is_alive():
                thread.join(_GRACE)
    if not ended:
        spent = "was stopped" if stopped.is_set() else f"did not end within {seconds:g} seconds and was stopped"
        raise Failed(f"The tool {spent}{_quoted(output, errors)}")
    if process.returncode:
        raise Failed(f"The tool {_fate(process.returncode)}{_quoted(output, errors)}")
    if output.total > LIMIT:
        raise flood(bytes(output.kept), output.total)
    return bytes(output.kept)


def flood(head: bytes, total: int) -> Failed:
    """Make the failure of a tool that came to its end and wrote more than `LIMIT` bytes, of which `head` was kept."""
    text = head[:LIMIT].decode("utf-8", "replace")
    message = f"The tool ran to its end, but its output of {total} bytes is too long"
    return Failed(f"{message}; its first {LIMIT} bytes were:\n{text}")


class _Reader(threading.Thread):
    """Reads a pipe to its end and keeps the first or the last bytes; `total` counts all."""

    def __init__(self, pipe: IO[bytes], *, head: bool) -> None:
        super().__init__(daemon=True)
        self.kept = bytearray()
        self.total = 0
        self._pipe = pipe
        self._rest = slice(LIMIT, None) if head else slice(None, -_ERRORS_LIMIT)

    def run(self) -> None:
        with self._pipe:
            while piece := self._pipe.read(_PIECE):
                self.total += len(piece)
                self.kept += piece
                del self.kept[self._rest]


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # on Windows, which has no sessions
    try:
        return subprocess.Popen(  # noqa: S603 # no shell; the person has chosen the program
            [*command],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
            start_new_session=True,
            creationflags=group,
        )
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or cause
        raise Failed(f"The tool could not be started: {command[0]}: {reason}") from None


def _write(pipe: IO[bytes], given: bytes) -> None:
    # A command that does not read all of its input, or none, is in its right.
    with contextlib.suppress(OSError), pipe:
        left = memoryview(given)
        while left:
            left = left[os.write(pipe.fileno(), left) :]


def _wait(process: subprocess.Popen[bytes], seconds: float, stopped: threading.Event) -> bool:
    """Wait until a process ends, and return whether it did."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if stopped.wait(_TICK) or time.monotonic() > deadline:
            return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command's whole process group, and the command."""
    if sys.platform == "win32":
        if process.poll() is None:
            tree = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
            subprocess.run(tree, capture_output=True, check=False)  # noqa: S603 # our own words and a number
    else:
        # The group outlives its leader where something was left behind, and its id is not given away before it ends.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _fate(code: int) -> str:
    if code > 0:
        return f"failed with exit code {code}"
    try:
        return f"was killed by the signal {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by the signal {-code}"


def _quoted(output: _Reader, errors: _Reader) -> str:
    """Return what a failed command wrote, cut and marked so."""
    parts = ""
    for name, reader, which in (("stderr", errors, "last"), ("stdout", output, "first")):
        kept = bytes(reader.kept)
        if text := kept.decode("utf-8", "replace").strip():
            cut = f" (the {which} {len(kept)} of {reader.total} bytes)" if reader.total > len(kept) else ""
            parts += f"\n{name}{cut}:\n{text}"
    return parts
