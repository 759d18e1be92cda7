"""The threads that answer exchanges: kept for the next one, never short, gone when they are not needed."""

from __future__ import annotations

import threading
import time

from bx.server import workers
from bx.server.workers import Workers

WAIT = 10  # seconds: far longer than anything here takes


def alive():
    return [thread for thread in threading.enumerate() if thread.name == "bx-exchange"]


def done(kept, job):
    """Do a job, wait for it, and until its thread waits for the next one."""
    ended = threading.Event()
    kept.start(lambda: (job(), ended.set()))
    assert ended.wait(WAIT)
    time.sleep(0.02)


def settled(before):
    """Wait until no more threads are alive than before."""
    deadline = time.monotonic() + WAIT
    while set(alive()) - set(before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not set(alive()) - set(before)


def test_a_thread_is_kept_for_the_next_job():
    kept, seen = Workers(), set()
    for _ in range(50):
        done(kept, lambda: seen.add(threading.get_ident()))
    kept.dismiss()
    assert len(seen) == 1


def test_jobs_at_once_never_wait_for_one_another():
    kept, together, before = Workers(), threading.Barrier(51), alive()
    for _ in range(3):
        for _ in range(50):
            kept.start(together.wait)
        together.wait(WAIT)  # it is broken unless all 50 run at this moment
    kept.dismiss()
    assert settled(before)


def test_idle_threads_end_and_no_job_is_lost_meanwhile(monkeypatch):
    monkeypatch.setattr(workers, "_KEPT", 0.001)
    kept, before = Workers(), alive()
    finished = threading.Semaphore(0)
    for number in range(1000):
        kept.start(finished.release)
        if number % 7 == 0:
            time.sleep(0.001)  # the moment at which idle threads end
    for _ in range(1000):
        assert finished.acquire(timeout=WAIT)
    assert settled(before)


def test_a_thread_that_is_busy_when_all_are_dismissed_ends_after_its_job():
    kept, before = Workers(), alive()
    going_on = threading.Event()
    kept.start(lambda: going_on.wait(WAIT))
    kept.dismiss()
    going_on.set()
    assert settled(before)
