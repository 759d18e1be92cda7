"""Threads that are kept for the next job, since starting one takes longer than most answers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Job = Callable[[], None]

_KEPT = 10  # seconds for which a thread waits for a job


class Workers:
    """Daemon threads, as many as there are jobs at once. Threads may share them.

    Unlike those of `concurrent.futures`, they do not keep the program alive, and they end when they are not needed.
    """

    def __init__(self) -> None:
        self._idle: list[_Idle] = []  # the last one is the first to get a job, so that the others can end
        self._kept = True
        self._lock = threading.Lock()

    def start(self, job: Job) -> None:
        """Do a job, at once."""
        with self._lock:
            idle = self._idle.pop() if self._idle else None
        if idle:
            idle.give(job)
        else:
            threading.Thread(target=self._work, args=[job], daemon=True, name="bx-exchange").start()

    def dismiss(self) -> None:
        """Let each thread end as soon as it has nothing to do."""
        with self._lock:
            self._kept = False
            dismissed, self._idle = self._idle, []
        for idle in dismissed:
            idle.give(None)

    def _work(self, job: Job | None) -> None:
        idle = _Idle()
        while job:
            job()
            job = self._next(idle)

    def _next(self, idle: _Idle) -> Job | None:
        with self._lock:
            if not self._kept:
                return None
            self._idle.append(idle)
        if not idle.given.acquire(timeout=_KEPT):
            with self._lock:
                if idle in self._idle:
                    self._idle.remove(idle)
                    return None
            idle.given.acquire()  # it was chosen in this moment
        return idle.job


class _Idle:
    """A thread that waits for a job, or for its end, which is None."""

    def __init__(self) -> None:
        self.given = threading.Lock()  # open once there is a job
        self.given.acquire()
        self.job: Job | None = None

    def give(self, job: Job | None) -> None:
        self.job = job
        self.given.release()
