"""Folders that users get: refused where one is there already, given their final name when they are complete."""

from __future__ import annotations

from pathlib import Path

from keeps.errors import StorageError
from keeps.weights.files import remove_leftovers, sync, sync_all


def publish(partial: Path, final: Path) -> None:
    """Flush everything under ``partial`` to the disk, then rename it to ``final``, which must not exist.

    Whenever the process or the machine dies, ``final`` is there with all its contents or not at all. What earlier,
    killed processes were writing under temporary names is removed first: users get whole files alone.
    """
    remove_leftovers(partial)
    sync_all(partial)
    partial.rename(final)
    sync(final.parent)


def check_new(out: str | Path) -> None:
    """Refuse to write into something that is there.

    Raises:
        StorageError: ``out`` exists.
    """
    if Path(out).exists():
        raise StorageError("the folder exists already", where=str(out), mend="choose another name or remove it first")
