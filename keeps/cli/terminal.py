"""What a command sees of the outside: consoles, progress, and the one place where results leave."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console

from keeps.cli.progress import make_progress
from keeps.contracts import Progress
from keeps.jobs.processes import is_main_process


class Terminal:
    """Results go to standard output, as text or as one JSON document; everything else to standard error."""

    def __init__(self, *, json_wanted: bool = False, quiet: bool = False) -> None:
        self.json_wanted = json_wanted
        self._stdout = sys.stdout
        errors = Console(file=sys.stderr)
        self.progress: Progress = make_progress(errors, quiet=quiet)
        # Tables in a pipe or a file keep their columns: no terminal, no width to fit.
        self.console = Console(file=self._stdout, width=None if self._stdout.isatty() else 160)

    def emit(self, document: Any, show: Callable[[Console], None]) -> None:
        """Print ``document`` as JSON, or have ``show`` write it for people; one process of a launch does so."""
        if not is_main_process():
            return
        if self.json_wanted:
            self._stdout.write(json.dumps(plain(document), indent=2, ensure_ascii=False) + "\n")
        else:
            show(self.console)
        self._stdout.flush()


@contextlib.contextmanager
def terminal(*, json: bool, quiet: bool = False) -> Iterator[Terminal]:
    """A terminal for one command. With ``json`` whatever a library prints goes to standard error."""
    made = Terminal(json_wanted=json, quiet=quiet)
    # Libraries warn each other of coming changes; a user can do nothing about them.
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
            yield made


def line(console: Console, text: str, style: str | None = None) -> None:
    """Print ``text`` as it is: brackets and addresses in it mean nothing, and nothing is wrapped."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def plain(value: Any) -> Any:
    """``value`` as JSON types: records by their fields, paths as text, numbers that are none as null.

    >>> from pathlib import PurePosixPath
    >>> plain({"p": float("nan"), "where": PurePosixPath("a/b")})
    {'p': None, 'where': 'a/b'}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "to_mapping"):
        return plain(value.to_mapping())
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if hasattr(value, "item"):  # a number of numpy or torch
        return plain(value.item())
    return str(value)
