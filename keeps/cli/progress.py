"""Progress of long work on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from keeps.contracts import Progress, ProgressTask, SilentProgress

LINE_SECONDS = 10.0  # plain output: at most one line per task in this time, besides the first and the last


def make_progress(console: Console, *, quiet: bool) -> Progress:
    """The fitting way to show progress on ``console``."""
    if quiet:
        return SilentProgress()
    return BarProgress(console) if console.is_terminal else LineProgress(console)


def pace(done: float, total: float | None, seconds: float, now: datetime | None = None) -> str:
    """Rate and end time in words, from work done in ``seconds``.

    >>> pace(20, 100, 10.0, datetime(2026, 1, 1, 12, 0, 0))
    '2.0/s, ends 12:00:40'
    """
    if done <= 0 or seconds <= 0:
        return ""
    rate = done / seconds
    text = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
    if total is None or done >= total:
        return text
    end = (now or datetime.now()) + timedelta(seconds=(total - done) / rate)
    return f"{text}, ends {end:%H:%M:%S}"


class _PaceColumn(ProgressColumn):
    """Rate and end time, counted from what was done since the start (a resumed task starts above zero)."""

    def render(self, task: Task) -> Text:
        before = float(task.fields.get("before", 0))
        total = None if task.total is None else task.total - before
        return Text(pace(task.completed - before, total, task.elapsed or 0.0), style="dim")


class _BarTask:
    def __init__(self, bars: RichProgress, identity: TaskID) -> None:
        self._bars = bars
        self._identity = identity

    def advance(self, amount: float = 1) -> None:
        self._bars.advance(self._identity, amount)

    def note(self, text: str) -> None:
        self._bars.update(self._identity, note=text)


class BarProgress:
    """Bars with count, rate, end time and a remark."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: RichProgress | None = None

    @contextmanager
    def task(self, description: str, total: float | None, done: float = 0) -> Iterator[ProgressTask]:
        """One bar; a task inside a task is a second bar below it."""
        outermost = self._bars is None
        if self._bars is None:
            self._bars = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                _PaceColumn(),
                TextColumn("[dim]{task.fields[note]}"),
                console=self._console,
                redirect_stdout=False,
            )
            self._bars.start()
        bars = self._bars
        # A total that is not known is shown as what is done so far.
        identity = bars.add_task(description, total=total or done or 1, completed=int(done), note="", before=done)
        try:
            yield _BarTask(bars, identity)
        finally:
            if outermost:
                bars.stop()
                self._bars = None
            else:
                bars.remove_task(identity)

    def message(self, text: str) -> None:
        """A line of its own, above the bars."""
        self._console.print(text, markup=False, highlight=False)


class _LineTask:
    def __init__(self, console: Console, description: str, total: float | None, done: float) -> None:
        self._console = console
        self._description = description
        self._total = total
        self._before = self._done = done
        self._note = ""
        self._started = self._shown = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        self._done += amount
        if time.monotonic() - self._shown >= LINE_SECONDS:
            self.show()

    def note(self, text: str) -> None:
        self._note = text

    def show(self) -> None:
        self._shown = time.monotonic()
        count = f"{self._done:g}" if self._total is None else f"{self._done:g}/{self._total:g}"
        total = None if self._total is None else self._total - self._before
        parts = (count, pace(self._done - self._before, total, self._shown - self._started), self._note)
        line = f"{self._description}: " + ", ".join(part for part in parts if part)
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LineProgress:
    """Plain lines for logs: when a task has run for a while, and when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, description: str, total: float | None, done: float = 0) -> Iterator[ProgressTask]:
        """A task that reports every few seconds and at its end."""
        task = _LineTask(self._console, description, total, done)
        yield task
        task.show()

    def message(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
