"""One worker and a number of places before it: who is let in, whose turn it is, and when waiting ends.

A model works on one thing at a time, always in the same thread (numerical libraries start threads of their own for
every thread that calls them). Requests that are let in take turns step by step, so that a long reply does not keep a
short one waiting; those beyond the places are refused at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from keeps.serve.refusals import RefusedError

T = TypeVar("T")


class Desk:
    """Lets in at most ``places`` requests, each for at most ``timeout`` seconds."""

    def __init__(self, places: int, timeout: float) -> None:
        self.places, self.timeout, self.taken = places, timeout, 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="keeps-serve")

    def seat(self) -> Seat:
        """A place for one request; its owner must :meth:`Seat.leave` it.

        Raises:
            RefusedError: all are taken.
        """
        if self.taken >= self.places:
            what = f"{self.places} requests are under way, which is as many as this server takes on"
            raise RefusedError(what, mend="wait a little", status=429, code="overloaded", headers={"Retry-After": "1"})
        self.taken += 1
        return Seat(self, self._worker, time.monotonic() + self.timeout)

    def close(self) -> None:
        """Take no more work; what is under way is not waited for."""
        self._worker.shutdown(wait=False, cancel_futures=True)


class Seat:
    """A request that was let in. All methods are called in the event loop."""

    def __init__(self, desk: Desk, worker: ThreadPoolExecutor, deadline: float) -> None:
        self._desk, self._worker, self._deadline = desk, worker, deadline
        self._pending: Future[Any] | None = None
        self._left = False

    async def run(self, step: Callable[[], T]) -> T:
        """What ``step`` gives, computed by the worker when it is this request's turn.

        Raises:
            RefusedError: the time of the request is over.
        """
        pending = self._pending = self._worker.submit(step)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(pending), max(self._deadline - time.monotonic(), 0.0))
        except TimeoutError:
            what = f"the reply was not ready after {self._desk.timeout:g} seconds"
            raise RefusedError(what, mend="ask for fewer tokens", status=503, code="timeout") from None

    def leave(self) -> None:
        """Give the place back: at once, or as soon as the step that cannot be interrupted is done."""
        if self._left:
            return
        self._left = True
        pending = self._pending
        if pending is None or pending.done() or pending.cancel():
            self._free()
        else:
            loop = asyncio.get_running_loop()

            def free(_: Future[Any]) -> None:
                with contextlib.suppress(RuntimeError):  # the server has ended meanwhile, and its loop with it
                    loop.call_soon_threadsafe(self._free)

            pending.add_done_callback(free)

    def _free(self) -> None:
        self._desk.taken -= 1
