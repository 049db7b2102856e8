"""One worker and a number of places before it: who is let in, whose turn it is, and when waiting ends.

A model works on one thing at a time, always in the same thread (numerical libraries start threads of their own for
every thread that calls them). Requests that are let in take turns step by step, so that a long reply does not keep a
short one waiting; those beyond the places are refused at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from keeps.models.streaming import read_together
from keeps.serve.gathering import WAIT, Context, Gathering, Together
from keeps.serve.refusals import RefusedError

T = TypeVar("T")
POLL = 0.2  # seconds after which a request that waits is asked whether its client is still there


def _read_streams(streams: Sequence[Any]) -> None:
    read_together(streams)


class Desk:
    """Lets in at most ``places`` requests, each for at most ``timeout`` seconds.

    Args:
        together: how the worker reads several prompts.
    """

    def __init__(self, places: int, timeout: float, together: Together = _read_streams) -> None:
        self.places, self.timeout, self.taken = places, timeout, 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="keeps-serve")
        self.gathering = Gathering(self._worker, together)

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
        self._pending: list[Future[Any]] = []
        self._left = False

    async def run(self, step: Callable[[], T]) -> T:
        """What ``step`` gives, computed by the worker when it is this request's turn.

        Raises:
            RefusedError: the time of the request is over.
        """
        pending = self._worker.submit(step)
        self._pending = [pending]
        try:
            return await asyncio.wait_for(asyncio.wrap_future(pending), self._left_over)
        except TimeoutError:
            raise self._too_late() from None

    async def read(self, items: Sequence[Context], gone: Callable[[], Awaitable[bool]]) -> bool:
        """Have prompts read, together with those of other requests; false where ``gone`` said so meanwhile.

        Raises:
            RefusedError: the time of the request is over.
        """
        wait = WAIT if self._desk.taken > 1 else 0.0
        self._pending = [self._desk.gathering.submit(item, wait) for item in items]
        waiting = {asyncio.wrap_future(pending) for pending in self._pending}
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=min(POLL, self._left_over), return_when=asyncio.FIRST_EXCEPTION
                )
                for error in [one.exception() for one in done]:
                    if error is not None:
                        raise error
                if waiting and await gone():
                    return False
                if waiting and not self._left_over:
                    raise self._too_late()
        finally:
            for one in waiting:
                one.cancel()
        return True

    @property
    def _left_over(self) -> float:
        """Seconds that the request may still take."""
        return max(self._deadline - time.monotonic(), 0.0)

    def _too_late(self) -> RefusedError:
        what = f"the reply was not ready after {self._desk.timeout:g} seconds"
        return RefusedError(what, mend="ask for fewer tokens", status=503, code="timeout")

    def leave(self) -> None:
        """Give the place back: at once, or as soon as the step that cannot be interrupted is done."""
        if self._left:
            return
        self._left = True
        under_way = [pending for pending in self._pending if not pending.done() and not pending.cancel()]
        if not under_way:
            self._free()
            return
        loop, left = asyncio.get_running_loop(), len(under_way)

        def ended() -> None:
            nonlocal left
            left -= 1
            if not left:
                self._free()

        def tell(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile, and its loop with it
                loop.call_soon_threadsafe(ended)

        for pending in under_way:
            pending.add_done_callback(tell)

    def _free(self) -> None:
        self._desk.taken -= 1
