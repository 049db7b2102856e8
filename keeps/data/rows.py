"""One row of a file, and where it stands, for errors that say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.errors import InputFileError, RecordError


@dataclass(frozen=True)
class Row:
    """The values of one row by column, and its place ("facts.csv, line 4")."""

    values: dict[str, Any]
    place: str

    def error(self, what: str, mend: str, column: str = "") -> RecordError:
        """An error about this row, or about one column of it."""
        where = f'{self.place}, column "{column}"' if column else self.place
        return RecordError(what, where=where, mend=mend)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 text file, line ends kept, a byte order mark taken off.

    Raises:
        InputFileError: the file cannot be read, is not UTF-8, or holds NUL bytes.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                yield number, _decoded(raw, number, path)
    except OSError as error:
        raise unreadable(path, error) from None


def _decoded(raw: bytes, number: int, path: Path) -> str:
    where = f"{path}, line {number}"
    if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputFileError("the file is UTF-16, not UTF-8", where=where, mend="save it again with the encoding UTF-8")
    if b"\x00" in raw:
        raise InputFileError(
            "the line holds NUL bytes", where=where, mend="check that this is a text file, and save it again as UTF-8"
        )
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputFileError(
            f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8",
            where=where,
            mend="save the file again with the encoding UTF-8",
        ) from None


def path_mode(path: Path) -> int | None:
    """The kind and permissions of what is at ``path`` (``st_mode``); None where nothing can be.

    Raises:
        InputFileError: a folder on the way does not let us look.
    """
    try:
        return path.stat().st_mode
    except PermissionError as error:
        raise unreadable(path, error) from None
    except (OSError, ValueError):  # too long a name, a file as folder, a NUL: no such path
        return None


def unreadable(path: Path, error: OSError) -> InputFileError:
    """The error for a file that the operating system does not give."""
    reason = (error.strerror or str(error)).lower()
    what = f"the file cannot be read ({reason})"
    return InputFileError(what, where=str(path), mend="check its permissions and its disk")
