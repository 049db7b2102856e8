"""The last step of a run: a complete folder gets its final name."""

from __future__ import annotations

from pathlib import Path

from keeps.weights.files import sync


def publish(partial: Path, final: Path) -> None:
    """Flush everything under ``partial`` to the disk, then rename it to ``final``, which must not exist.

    Whenever the process or the machine dies, ``final`` is there with all its contents or not at all.
    """
    for path in sorted(partial.rglob("*"), reverse=True):
        sync(path)
    sync(partial)
    partial.rename(final)
    sync(final.parent)
