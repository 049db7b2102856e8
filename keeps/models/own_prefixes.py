"""The texts that a model writes itself and prompts are put behind, kept in the cache folder.

They cost as much as the search for a value, and depend on the model's weights, their number and the seed alone.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from keeps.models.edit_rows import own_prefixes
from keeps.models.gguf import cache_folder
from keeps.models.language_model import LanguageModel
from keeps.weights.files import atomic_write_bytes


def stored_prefixes(
    model: LanguageModel,
    short: int,
    long: int,
    seed: int,
    *,
    cache: Path | None = None,
    fingerprint: str | None = None,
) -> tuple[str, ...]:
    """:func:`keeps.models.edit_rows.own_prefixes`, written once a model; a damaged file is written anew.

    Args:
        cache: folder of stored texts; default that of converted models.
        fingerprint: of the model, where it is known already: finding it reads every weight.
    """
    if not short + long:
        return ()
    decides = json.dumps([fingerprint or model.fingerprint, model.encode_prompt("The"), short, long, seed])
    name = hashlib.sha256(decides.encode()).hexdigest()[:16]
    path = (cache_folder() if cache is None else cache) / "prefixes" / f"{name}.json"
    found = _read(path, short + long)
    if found is None:
        found = own_prefixes(model, short, long, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, (json.dumps(found, ensure_ascii=False) + "\n").encode())
    return found


def _read(path: Path, count: int) -> tuple[str, ...] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    fits = isinstance(found, list) and len(found) == count and all(isinstance(text, str) and text for text in found)
    return tuple(found) if fits else None
