"""Prompts that several requests want read: what waits is read in one forward pass.

One pass over many short prompts costs little more than one over a single prompt. Whoever comes while others are under
way waits a few milliseconds for company; whoever is alone does not wait. While the worker is busy everything that
arrives is gathered for its next turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

WAIT = 0.005  # seconds that a prompt waits for others
MOST_TOKENS = 4096  # read at one turn of the worker, so that other requests get theirs


class Context(Protocol):
    """Something whose tokens are to be read, such as :class:`keeps.models.streaming.TokenStream`."""

    @property
    def context(self) -> Sequence[int]:
        """Token ids."""
        ...


Together = Callable[[Sequence[Context]], None]


class Gathering:
    """The prompts that wait, in the order in which they came.

    Args:
        worker: the one thread that reads.
        together: reads several prompts; what it raises is tried again prompt by prompt, so that the one at fault fails
            alone.
    """

    def __init__(self, worker: ThreadPoolExecutor, together: Together) -> None:
        self._worker, self._together = worker, together
        self._waiting: deque[tuple[Context, Future[None]]] = deque()
        self._lock = threading.Lock()
        self._asked = False  # whether the worker has been told, or is going to be

    def submit(self, item: Context, wait: float = WAIT) -> Future[None]:
        """What is done when ``item`` has been read; cancelled before its turn it is not read. In the event loop."""
        future: Future[None] = Future()
        with self._lock:
            self._waiting.append((item, future))
            asked, self._asked = self._asked, True
        if not asked:
            if wait:
                asyncio.get_running_loop().call_later(wait, self._ask)
            else:
                self._ask()
        return future

    def _ask(self) -> None:
        """Tell the worker; once it has been shut down, nothing that waits is going to be read."""
        try:
            self._worker.submit(self._read)
        except RuntimeError:
            with self._lock:
                waiting, self._asked = list(self._waiting), False
                self._waiting.clear()
            for _, future in waiting:
                future.cancel()

    def _read(self) -> None:
        """One turn of the worker."""
        taken = self._take()
        live = [(item, future) for item, future in taken if future.set_running_or_notify_cancel()]
        if len(live) > 1:
            with contextlib.suppress(Exception):  # whose fault it is shows when each is read alone
                self._together([item for item, _ in live])
                for _, future in live:
                    future.set_result(None)
                live = []
        for item, future in live:
            try:
                self._together([item])
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(None)
        with self._lock:
            self._asked = bool(self._waiting)
            more = self._asked
        if more:
            self._ask()

    def _take(self) -> list[tuple[Context, Future[None]]]:
        """The first that wait, as many as one turn may read and at least one."""
        taken, tokens = [], 0
        with self._lock:
            while self._waiting and (not taken or tokens + len(self._waiting[0][0].context) <= MOST_TOKENS):
                taken.append(self._waiting.popleft())
                tokens += len(taken[-1][0].context)
        return taken
