"""Threads that are kept for the next job, since starting one takes longer than most answers."""

from __future__ import annotations

import queue
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
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._free = 0  # threads that wait for a job that is not in the queue yet
        self._kept = True
        self._lock = threading.Lock()

    def start(self, job: Job) -> None:
        """Do a job, at once."""
        with self._lock:
            waits = self._free > 0
            self._free -= waits
        if waits:
            self._jobs.put(job)
        else:
            threading.Thread(target=self._work, args=[job], daemon=True, name="bx-exchange").start()

    def dismiss(self) -> None:
        """Let each thread end as soon as it has nothing to do."""
        with self._lock:
            self._kept = False
            waiting, self._free = self._free, 0
        for _ in range(waiting):
            self._jobs.put(None)

    def _work(self, job: Job | None) -> None:
        while job:
            job()
            job = self._next()

    def _next(self) -> Job | None:
        with self._lock:
            if not self._kept:
                return None
            self._free += 1
        while True:
            try:
                return self._jobs.get(timeout=_KEPT)
            except queue.Empty:
                with self._lock:
                    if self._free:
                        self._free -= 1
                        return None
                # All that wait have been promised a job, which comes at once.
