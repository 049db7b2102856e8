"""One exception type per cause. Every message says what is wrong, where, and what to do.

The command line prints the message as one paragraph and ends with exit code 2; a traceback that
reaches a user is a bug in keeps.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KeepsError(Exception):
    """Base of all expected errors: *what* is wrong, *where*, and the *mend*.

    >>> print(KeepsError("the file is empty", where="facts.jsonl", mend="add at least one row"))
    the file is empty (facts.jsonl): add at least one row.
    """

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what = what.rstrip(".")
        self.where = where
        self.mend = mend.rstrip(".")
        place = f" ({where})" if where else ""
        end = "" if self.mend.endswith(("?", "!")) else "."
        advice = f": {self.mend}{end}" if self.mend else "."
        super().__init__(f"{self.what}{place}{advice}")


class InputFileError(KeepsError):
    """A file cannot be read, or is not of the format that its name promises."""


class RecordError(KeepsError):
    """A record lacks a column, has a wrong type, is empty or is a duplicate."""


class EmptySetError(KeepsError):
    """A selection or a file holds no record to work with."""


class UnknownNameError(KeepsError):
    """A method, relation, probe, model or setting that does not exist."""


class SettingsError(KeepsError):
    """A setting is of the wrong type, out of range, or contradicts another one."""


class ModelLoadError(KeepsError):
    """A model cannot be found, read or understood."""


class ContextLengthError(KeepsError):
    """A text does not fit into the model's context; keeps never truncates silently."""


class TargetError(KeepsError):
    """No layer matches the targets, or the rank does not fit a layer."""


class StatisticsError(KeepsError):
    """A covariance is missing, not finite, of the wrong size, or was formed from no token."""


class TrainingError(KeepsError):
    """The loss stopped being a number; the last good state has been kept."""


class StorageError(KeepsError):
    """The disk is full, a folder is not writable, or a run folder is of another version."""


class InterruptedRunError(KeepsError):
    """A run of the same job was interrupted, or is under way in another process."""


class LedgerError(KeepsError):
    """The ledger is of another schema version, damaged, or lacks what was asked for."""


class RequestError(KeepsError):
    """A request to ``keeps serve`` is malformed, not allowed, or more than the server takes on."""


class ToolError(KeepsError):
    """A tool cannot do what it was asked for; whoever asked is told why, and goes on."""


class MissingDependencyError(KeepsError):
    """An optional library is not installed; the message names the extra that brings it."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A hint that lists the known names closest to ``name``.

    >>> nearest("capitol", ["capital", "continent"])
    'did you mean "capital"?'
    """
    options = list(known)
    close = difflib.get_close_matches(name, options, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f'"{option}"' for option in close) + "?"
    return "known names are " + ", ".join(sorted(options)) if options else "nothing is registered"
