"""Who may use how much of something that is shared, in the order of arrival. This module knows no engine."""

from __future__ import annotations

import collections
import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TICK = 0.1  # seconds between two looks at whether a waiting request was cancelled


class Budget:
    """The tokens of context that running requests may come to need; others wait, first come, first served.

    llama.cpp shares one context between its slots, and when that is full it fails every request that is running.
    """

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._changed = threading.Condition()
        self._waiting: collections.deque[object] = collections.deque()

    @contextlib.contextmanager
    def reserved(self, tokens: int, cancelled: Callable[[], bool]) -> Iterator[Reservation]:
        """Hold so many tokens, or all there are; comes at once, with none, to who cancelled."""
        reservation, tokens = Reservation(self), min(tokens, self._size)
        with self._changed:
            self._waiting.append(reservation)
            while not cancelled() and (self._waiting[0] is not reservation or self._free < tokens):
                self._changed.wait(_TICK)
            self._waiting.remove(reservation)
            reservation.held = 0 if cancelled() else tokens
            self._free -= reservation.held
            self._changed.notify_all()
        try:
            yield reservation
        finally:
            self.change(reservation, 0)

    def change(self, reservation: Reservation, tokens: int) -> None:
        """Hold another number of tokens from now on."""
        with self._changed:
            tokens = min(tokens, self._size)
            self._free += reservation.held - tokens
            reservation.held = tokens
            self._changed.notify_all()


class Reservation:
    """The tokens that one request holds."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def change(self, tokens: int) -> None:
        """Hold another number of tokens from now on."""
        if tokens != self.held:
            self._budget.change(self, tokens)
