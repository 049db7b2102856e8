"""A limit that is fair to every group: as many from each as it allows, and the same ones for a larger limit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from keeps.contracts import Question
from keeps.errors import SettingsError

T = TypeVar("T")


def stratified(
    items: Sequence[T], limit: int | None, seed: int, *, group: Callable[[T], str], identity: Callable[[T], str]
) -> list[T]:
    """At most ``limit`` of ``items`` in their order, the groups as even as their sizes allow.

    Within a group the order of a hash of seed and identity decides: a smaller limit picks part of what a larger
    one does, and neither depends on what else is in the list. A group that is smaller than its share leaves the
    rest to the others.

    Raises:
        SettingsError: the limit is below 1.
    """
    if limit is None:
        return list(items)
    if limit < 1:
        raise SettingsError(f"limit is {limit}", where="limit", mend="choose 1 or more, or leave it out")
    queues: dict[str, list[tuple[str, int]]] = {}
    for position, item in enumerate(items):
        queues.setdefault(group(item), []).append((_hash(seed, identity(item)), position))
    turns = [(turn, _hash(seed, name), position) for name, queue in queues.items() for turn, position in _order(queue)]
    return [items[position] for position in sorted(position for _, _, position in sorted(turns)[:limit])]


def limited(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """At most ``limit`` questions, shared out over their groups."""
    return stratified(
        questions, limit, seed, group=lambda question: question.group, identity=lambda question: question.id
    )


def _order(queue: list[tuple[str, int]]) -> list[tuple[int, int]]:
    return [(turn, position) for turn, (_, position) in enumerate(sorted(queue))]


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}\n{text}".encode()).hexdigest()
