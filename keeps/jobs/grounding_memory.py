"""Memories of question-answer pairs as users name them: a file, a part of the world, or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keeps.contracts import Progress
from keeps.data.pairs import read_pairs
from keeps.ground.qa_memory import as_hit, memory_of
from keeps.ground.qamat import FACTS, QAMAT
from keeps.retrieval.generations import MANIFEST
from keeps.retrieval.qa_memory import QAMemory


def open_memory(memory: Any, *, device: str | None = None, progress: Progress) -> tuple[Any, dict[str, str]]:
    """What answers from pairs look into, and the text of each pair by its id; nothing where there is no memory.

    Args:
        memory: a file of questions and answers, ``world:RELATION``, the folder of a memory or of a trained reader
            with its memory; or one of these as it is in Python.

    Raises:
        KeepsError: the file or folder is missing, damaged or of no known form.
    """
    if memory is None:
        return None, {}
    opened = memory
    if isinstance(memory, (str, Path)):
        path = Path(memory)
        if (path / FACTS).exists():
            opened = QAMAT.load(path, device=device or "cpu")
        elif (path / MANIFEST).exists():
            opened = QAMemory.open(path)
        else:
            opened = QAMemory()
            opened.add(read_pairs(memory), progress=progress)
    held = memory_of(opened)
    opened = opened if isinstance(opened, QAMAT) else held
    return opened, {pair.id: as_hit(pair, 0.0).text for pair in held}
