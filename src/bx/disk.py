"""Folders that appear whole or not at all, private to the user, whatever happens to the process that writes them.

A folder is made in a workshop, a temporary folder beside its place that only one process at a time has for a name,
and then moved to its place. What a killed process leaves behind is cleared by the next one. This module knows nothing
of what is in the files, and imports nothing of bx.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import IO

CHUNK = 1 << 20


@contextlib.contextmanager
def workshop(home: Path, name: str, waiting: Callable[[], object]) -> Iterator[Path]:
    """Yield a temporary folder below `home` for making what will be `home/name`, alone.

    While another process or thread has the name, `waiting` is called ten times a second. The folder is deleted at the
    end with whatever is left in it. `name` must be usable as a file's name and hold no "@".
    """
    home.parent.mkdir(0o700, parents=True, exist_ok=True)
    home.mkdir(0o700, exist_ok=True)
    _sweep(home)
    with (
        _locked(home, name, waiting),
        # The name can be read back from the folder's.
        tempfile.TemporaryDirectory(prefix=f".{name}@", dir=home, ignore_cleanup_errors=True) as room,
    ):
        yield Path(room)


def rooms(home: Path, name: str) -> Iterator[Path]:
    """Find the workshops of a name: the one of the process that has it, if any."""
    return home.glob(f".{name}@*")


def settle(new: Path, place: Path) -> None:
    """Move a finished folder from its workshop to its place, in one step that survives a power cut."""
    _sync(new)
    if place.exists():
        place.rename(new.with_name("replaced"))
    new.rename(place)
    _sync(place.parent)


def write(pieces: Iterable[bytes], path: Path, done: Callable[[int], object] | None = None) -> str:
    """Write a new file, readable by the user only and safely on disk; return its SHA-256.

    `done` is called with the bytes written so far.
    """
    path.touch(0o600, exist_ok=False)
    with path.open("wb") as file:

        def written() -> Iterator[bytes]:
            for piece in pieces:
                file.write(piece)
                yield piece

        sha256 = _sha256(written(), done)
        file.flush()
        os.fsync(file.fileno())
    return sha256


def digest(path: Path, done: Callable[[int], object] | None = None) -> str:
    """Return the SHA-256 of a file; `done` is called with the bytes read so far."""
    with path.open("rb") as file:
        return _sha256(pieces(file), done)


def pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Read a file in pieces."""
    return iter(lambda: file.read(CHUNK), b"")


def _sha256(pieces: Iterable[bytes], done: Callable[[int], object] | None) -> str:
    import hashlib

    sha256, size = hashlib.sha256(), 0
    for piece in pieces:
        sha256.update(piece)
        size += len(piece)
        if done:
            done(size)
    return sha256.hexdigest()


def _sweep(home: Path) -> None:
    """Delete the workshops of processes that died: those whose name nobody has locked."""
    for left in home.glob(".*@*"):
        with _locked(home, left.name[1:].partition("@")[0], None) as ours:
            if ours:
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _locked(home: Path, name: str, waiting: Callable[[], object] | None) -> Iterator[bool]:
    """Hold the lock of a name, which ends with the process at the latest; yield whether it is ours.

    Without `waiting` the answer comes at once.
    """
    path = home / f".{name}.lock"
    path.touch(0o600)
    with path.open("rb+") as file:
        while not (ours := _lock(file.fileno(), unsupported=waiting is not None)) and waiting:
            waiting()
            time.sleep(0.1)
        yield ours


def _lock(descriptor: int, *, unsupported: bool) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks: work goes on, but nothing of others is swept away
        return unsupported
    return True


def _sync(folder: Path) -> None:
    if sys.platform != "win32":  # which cannot open a folder, and need not
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
