"""The keys of the edits that a change holds, K_p, which later edits spare (AlphaEdit, arXiv:2410.02355).

They lie beside the factors of the change, a column an edit, under the ids of the edits: so that an edit that is
withdrawn takes its key with it, and the keys of all others stay.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from keeps.errors import StorageError
from keeps.weights.files import load_metadata, load_tensors, save_tensors

EARLIER = "keys/earlier.safetensors"
_IDS = "edits"  # in the file's metadata: layer -> the ids of its columns


@dataclass(frozen=True)
class EarlierKeys:
    """K_p of one layer: a column ``(in,)`` float32 of ``keys`` for each of the ids ``edits``."""

    edits: tuple[str, ...]
    keys: Tensor

    def only(self, ids: Collection[str]) -> EarlierKeys:
        """The keys of the edits called ``ids``."""
        columns = [number for number, name in enumerate(self.edits) if name in ids]
        return EarlierKeys(tuple(self.edits[number] for number in columns), self.keys[:, columns])

    def joined(self, ids: Sequence[str], keys: Tensor) -> EarlierKeys:
        """With the keys of further edits behind these."""
        return EarlierKeys((*self.edits, *ids), torch.cat([self.keys, keys.detach().to(self.keys)], dim=1))


def write_keys(folder: Path, layers: Mapping[int, EarlierKeys]) -> None:
    """Write K_p of each layer into the folder of a change; without any, no file."""
    held = {str(layer): own for layer, own in layers.items() if own.edits}
    if not held:
        return
    path = folder / EARLIER
    path.parent.mkdir(exist_ok=True)
    ids = json.dumps({name: own.edits for name, own in held.items()})
    save_tensors(path, {name: own.keys.float().cpu().contiguous() for name, own in held.items()}, {_IDS: ids})


def read_keys(folder: Path) -> dict[int, EarlierKeys]:
    """What :func:`write_keys` wrote; nothing where the folder has no such file.

    Raises:
        StorageError: the file is damaged.
    """
    path = folder / EARLIER
    if not path.exists():
        return {}
    tensors = load_tensors(path)
    try:
        ids = json.loads(load_metadata(path)[_IDS])
        found = {int(name): EarlierKeys(tuple(map(str, ids[name])), keys) for name, keys in tensors.items()}
    except (KeyError, ValueError, TypeError):
        found = {}
    if not found or any(own.keys.ndim != 2 or own.keys.shape[1] != len(own.edits) for own in found.values()):
        mend = "run the edit again; without the file its edits are not spared by later ones"
        raise StorageError("the keys of earlier edits are damaged", where=str(path), mend=mend)
    return found


def carry_keys(source: Path, target: Path, ids: Collection[str]) -> None:
    """Write into the folder ``target`` what ``source`` has of the edits ``ids``.

    Raises:
        StorageError: the file is damaged, or cannot be written.
    """
    write_keys(target, {layer: own.only(ids) for layer, own in read_keys(source).items()})
