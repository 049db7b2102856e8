"""Progress: bars on a terminal, plain lines elsewhere, nothing when quiet; rates count from the start of this run."""

from __future__ import annotations

import io
from datetime import datetime

import pytest
from rich.console import Console

from keeps.cli import progress
from keeps.cli.progress import BarProgress, LineProgress, make_progress, pace
from keeps.contracts import SilentProgress

NOON = datetime(2026, 1, 1, 12, 0, 0)


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (20, 100, 10.0, "2.0/s, ends 12:00:40"),
        (2, 10, 20.0, "10.0 s each, ends 12:01:20"),
        (10, None, 5.0, "2.0/s"),
        (10, 10, 5.0, "2.0/s"),
        (0, 10, 5.0, ""),
        (1, 10, 0.0, ""),
    ],
)
def test_rate_and_end_time(done: float, total: float | None, seconds: float, text: str) -> None:
    assert pace(done, total, seconds, NOON) == text


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, width=120), stream


def test_the_kind_fits_the_console() -> None:
    assert isinstance(make_progress(console(terminal=True)[0], quiet=False), BarProgress)
    assert isinstance(make_progress(console(terminal=False)[0], quiet=False), LineProgress)
    assert isinstance(make_progress(console(terminal=True)[0], quiet=True), SilentProgress)


def test_lines_report_the_end_with_count_and_note() -> None:
    made, stream = console(terminal=False)
    with LineProgress(made).task("train", 3) as task:
        for step in range(3):
            task.note(f"loss {3 - step}")
            task.advance()
    assert stream.getvalue().splitlines()[-1].startswith("train: 3/3, ")
    assert stream.getvalue().rstrip().endswith("loss 1")


def test_lines_are_rare_but_do_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))  # four seconds pass between two looks at the clock
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    made, stream = console(terminal=False)
    with LineProgress(made).task("train", 10) as task:
        for _ in range(10):
            task.advance()
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) < 10


def test_a_resumed_task_does_not_count_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    made, stream = console(terminal=False)
    with LineProgress(made).task("train", 100, done=90) as task:
        task.advance(10)
    assert "100/100, 1.0/s" in stream.getvalue()


def test_bars_show_count_note_and_nested_tasks() -> None:
    made, stream = console(terminal=True)
    bars = BarProgress(made)
    with bars.task("outer", 2) as outer:
        with bars.task("inner [x]", None) as inner:
            inner.advance(5)
            inner.note("fine")
        outer.advance(2)
    bars.message("done [not markup]")
    shown = stream.getvalue()
    assert "outer" in shown
    assert "2/2" in shown
    assert "done [not markup]" in shown


def test_markup_in_messages_and_notes_is_text() -> None:
    made, stream = console(terminal=False)
    lines = LineProgress(made)
    lines.message("[bold]facts[/bold]")
    assert stream.getvalue() == "[bold]facts[/bold]\n"
