"""The ledger's file: rows in SQLite, which several processes write at once.

Writing a row never raises: what was answered must not fail for its bookkeeping. Everything else raises `StoreError`.
SQLite is loaded when a file is first opened.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Statement = tuple[str, "Sequence[Any]"]

_log = logging.getLogger("bx.ledger")

_PATIENCE = 3.0  # seconds that a file may be locked by others
_BRIEF = 0.25  # ... while somebody waits for an answer: the row is then written with the next one
_PAUSE = 1.0  # seconds after a failure in which nothing is tried
_MOST = 10_000  # rows that wait to be written; older ones are lost
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_PRIVATE = 0o600


class StoreError(ValueError):
    """The ledger's file cannot be used; `fix` says what to do, `reason` may be `damaged` or `locked`."""

    exit_code = 2

    def __init__(self, message: str, fix: str, reason: str = "") -> None:
        super().__init__(message)
        self.fix = fix
        self.reason = reason


class Store:
    """A ledger in a file, made when something is first written; threads may share it.

    Args:
        path: the file; None keeps nothing.
        later: whether rows wait in `waiting` until `flush` is called.
        replace: whether a damaged file may be moved aside, and a new one begun.
    """

    def __init__(self, path: Path | None, *, later: bool = False, replace: bool = True) -> None:
        self.path = path
        self.waiting: deque[tuple[Mapping[str, Any], tuple[Statement, ...]]] = deque(maxlen=_MOST)
        self._later = later
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened_as: tuple[int, int] | None = None  # the process, and the file's inode
        self._resume = 0.0  # by `time.monotonic()`
        self._failing: float | None = None  # since when, by the same
        self._replace = replace
        self._warned = False

    def write(self, row: Mapping[str, Any], *statements: Statement) -> None:
        """Write a row of `calls`, and carry out statements in the same transaction; never raises."""
        self.waiting.append((row, statements))
        if not self._later:
            _keep_track(self)
            self.flush(_BRIEF)

    def flush(self, patience: float = _PATIENCE) -> None:
        """Write the rows that wait, if the file can be had within some seconds; never raises."""
        # Who comes while another thread writes leaves its row to that one.
        while self.waiting and self._lock.acquire(blocking=False):
            try:
                if not self._flushed(patience):
                    return
            finally:
                self._lock.release()

    def close(self) -> None:
        """Write what waits, and close the file; never raises."""
        self._resume = 0
        self.flush()
        with self._lock:
            self._drop()

    def forked(self) -> None:
        """Leave to the process that this one was forked from what is its own: rows that wait, and the connection."""
        self.waiting.clear()
        self._lock = threading.Lock()  # a thread of that process may have held it
        _inherited.append(self._connection)  # even to close it could disturb that process
        self._connection = self._opened_as = None

    def rows(self, since: float = 0, until: float | None = None) -> Iterator[dict[str, Any]]:
        """Iterate over the rows of a time (unix seconds, `until` excluded), the oldest first.

        Raises:
            StoreError: the file cannot be read.
        """
        if self.path is None or not self.path.exists():
            return
        with self.connection() as connection:
            found = connection.execute(
                "SELECT * FROM calls WHERE at >= ? AND at < ? ORDER BY at, id",
                (since, float("inf") if until is None else until),
            )
            names = [column[0] for column in found.description]
            for row in found:
                yield dict(zip(names, row, strict=True))

    def prune(self, before: float) -> int:
        """Delete the rows from before a moment (unix seconds), and return how many there were.

        Raises:
            StoreError: the file cannot be written.
        """
        if self.path is None or not self.path.exists():
            return 0
        with self.connection() as connection:
            connection.execute("DELETE FROM held WHERE at < ?", (before,))
            return int(connection.execute("DELETE FROM calls WHERE at < ?", (before,)).rowcount)

    def check(self) -> str | None:
        """Return what is wrong with the file, in a sentence; None where nothing is, or where there is none."""
        if self.path is None or not self.path.exists():
            return None
        try:
            with self.connection() as connection:
                found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
                connection.execute("SELECT id FROM calls LIMIT 1")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            mode = self.path.stat().st_mode
        except (OSError, StoreError) as cause:
            return f"{cause}"
        if found != "ok":
            return f"{self.path} is damaged: {found}"
        if os.name == "posix" and mode & 0o077:
            return f"{self.path} can be read by others (its mode is {mode & 0o777:o}, and should be 600)"
        return None

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection of its own, in autocommit mode and with all tables; it is closed at the end.

        Raises:
            StoreError: the file cannot be used, or an operation on it failed.
        """
        if self.path is None:
            raise StoreError("No ledger is kept", 'Leave out the setting ledger = "off"')
        import sqlite3

        try:
            with contextlib.closing(_opened(self.path, _PATIENCE)) as connection:
                yield connection
        except (OSError, sqlite3.Error) as cause:
            raise _unusable(self.path, cause) from cause

    def _flushed(self, patience: float) -> bool:
        """Write all rows that wait; whether that is done. Only one thread is in here."""
        if self.path is None:
            self.waiting.clear()
            return True
        if time.monotonic() < self._resume:
            return False
        try:
            self._insert(self.path, patience)
        except Exception as cause:  # noqa: BLE001 # whatever it is, the answer is not to fail for it
            return self._failed(self.path, cause, patience)
        self._failing = None
        return True

    def _failed(self, path: Path, cause: Exception, patience: float) -> bool:
        """Say that rows could not be written; whether it is worth trying again at once."""
        failed_on = self._opened_as
        self._drop()
        failure = _unusable(path, cause)
        if failure.reason == "damaged" and self._replace:
            self._replace = False  # once is enough
            if failed_on != _identity(path):  # another process was faster
                return True
            if aside := _moved_aside(path):
                _log.warning("The ledger %s was damaged: it is now %s, and a new one was begun", path, aside)
                return True
        now = time.monotonic()
        self._resume = now + _PAUSE
        self._failing = now - patience if self._failing is None else self._failing
        passing = failure.reason == "locked" and now - self._failing < _PATIENCE
        if not self._warned and not passing:
            self._warned = True
            _log.warning("%s; answers are not affected, but may not be counted. %s", failure, failure.fix)
        return False

    def _insert(self, path: Path, patience: float) -> None:
        """Write all rows that wait in one transaction."""
        connection = self._connected(path, patience)
        connection.execute(f"PRAGMA busy_timeout = {round(patience * 1000)}")
        count = len(self.waiting)
        connection.execute("BEGIN IMMEDIATE")
        try:
            for row, statements in [self.waiting[index] for index in range(count)]:
                marks = ", ".join("?" * len(row))
                insert = f"INSERT INTO calls ({', '.join(row)}) VALUES ({marks})"  # noqa: S608 # the names are ours
                connection.execute(insert, list(row.values()))
                for statement, values in statements:
                    connection.execute(statement, values)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(Exception):  # SQLite may have done so itself
                connection.execute("ROLLBACK")
            raise
        for _ in range(count):
            self.waiting.popleft()

    def _connected(self, path: Path, patience: float) -> sqlite3.Connection:
        """Return the connection to the file, a new one after a fork, or where the file was moved away."""
        if self._connection is None or self._opened_as != _identity(path):
            self._drop()
            _made(path)
            self._opened_as = _identity(path)
            self._connection = _opened(path, patience)
        return self._connection

    def __del__(self) -> None:
        if not self._later:  # nobody else will write what had to wait for a lock
            self._resume = 0
            self.flush(_BRIEF)
        self._drop()

    def _drop(self) -> None:
        # The connection of a process that this one was forked from is left alone.
        if self._connection and self._opened_as and self._opened_as[0] == os.getpid():
            with contextlib.suppress(Exception):
                self._connection.close()
        self._connection = self._opened_as = None


_open: WeakSet[Store] = WeakSet()  # those whose last rows may wait until the program ends
_inherited: list[sqlite3.Connection | None] = []  # those of the process that this one was forked from


def _keep_track(store: Store) -> None:
    """Let a store know of the end of the program, and of forks."""
    _know_of_forks()
    if not _open:
        import atexit

        atexit.unregister(_close_all)
        atexit.register(_close_all)
    _open.add(store)


@functools.cache
def _know_of_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    for store in list(_open):
        store.forked()


def _close_all() -> None:
    for store in list(_open):
        store.close()


def _identity(path: Path) -> tuple[int, int]:
    """Tell a file and this process from others."""
    try:
        return os.getpid(), path.stat().st_ino
    except OSError:
        return os.getpid(), 0


def _made(path: Path) -> None:
    """Make an empty file that is private, which SQLite's own would not be."""
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, _PRIVATE))


def _opened(path: Path, patience: float) -> sqlite3.Connection:
    """Open a file, made where there is none, and bring its tables up to date."""
    import sqlite3

    _made(path)
    connection = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path, patience)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, patience: float) -> None:
    from bx.ledger.schema import STEPS

    version = _version(connection)
    if version > len(STEPS):
        raise StoreError(f"The ledger {path} was written by a newer bx", "Update bx: pip install -U bedrock-bx")
    if version < len(STEPS):
        _use_wal(connection, patience)
        connection.execute("BEGIN IMMEDIATE")
        for step in STEPS[_version(connection) :]:  # another process may have been here first
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
        connection.execute("COMMIT")
    # A crash of the whole machine may cost the last rows, but no more: each call need not wait for the disk.
    connection.execute("PRAGMA synchronous = NORMAL")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _use_wal(connection: sqlite3.Connection, patience: float) -> None:
    """Let readers and a writer work side by side; SQLite does not wait for others here by itself."""
    import sqlite3

    until = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as cause:
            if "locked" not in str(cause) or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _unusable(path: Path, cause: Exception) -> StoreError:
    """Explain why a file cannot be used."""
    if isinstance(cause, StoreError):
        return cause
    name = str(getattr(cause, "sqlite_errorname", ""))
    why = getattr(cause, "strerror", None) or str(cause)
    if name.startswith(_DAMAGED):
        return StoreError(
            f"The ledger {path} is damaged ({why})", "Move it away, and a new one will be begun", "damaged"
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(
            f"The ledger {path} is locked by another process", "Wait for that process, or end it", "locked"
        )
    fix = "Make room and let it be written, or choose another file: ledger = PATH in config.toml, or BX_LEDGER"
    return StoreError(f"The ledger {path} cannot be used ({why})", fix)


def _moved_aside(path: Path) -> Path | None:
    """Move a damaged file away; nothing is ever deleted. None where it is gone already, or cannot be moved."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    aside = path.with_name(f"{path.name}.damaged-{stamp}-{os.getpid()}")
    with contextlib.suppress(OSError):
        for suffix in ("-wal", "-shm", ""):  # the file itself last: a new one must not find the old one's journal
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        return aside if aside.exists() else None
    return None
