"""LoRA adapters as models: ``W + (alpha / r) B A`` made row by row while it is read, never written.

The product is added up one rank at a time, so that an element has the same bits whatever else is read with it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from keeps.errors import InputFileError, ModelLoadError
from keeps.weights.checkpoints import Checkpoint
from keeps.weights.halves import Floats
from keeps.weights.headers import Stored

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
FACTORS = (".lora_A.weight", ".lora_B.weight")


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds a peft adapter."""
    return (Path(folder).expanduser() / CONFIG).is_file()


def low_rank_piece(left: Floats, right: Floats, scale: float, start: int, count: int) -> Floats:
    """Elements ``start`` to ``start + count`` of the flattened ``scale * left @ right``, float32 ``(count,)``.

    Args:
        left: ``(rows, rank)`` float32.
        right: ``(rank, columns)`` float32.

    >>> low_rank_piece(np.array([[1], [2]], np.float32), np.array([[3, 4]], np.float32), 0.5, 1, 2)
    array([2., 3.], dtype=float32)
    """
    columns = right.shape[1]
    first, last = start // columns, -(-(start + count) // columns)
    rows = np.zeros((last - first, columns), dtype=np.float32)
    for k in range(right.shape[0]):
        rows += left[first:last, k, None] * right[k]
    rows *= np.float32(scale)
    return rows.reshape(-1)[start - first * columns :][:count]


@dataclass(frozen=True)
class _Pair:
    a: str
    b: str
    scale: float


class AdaptedCheckpoint:
    """A checkpoint with a LoRA adapter on it; see :class:`~keeps.weights.checkpoints.TensorSource`."""

    def __init__(self, base: Checkpoint, folder: str | Path, name: str | None = None) -> None:
        """Read the adapter's headers.

        Raises:
            ModelLoadError: it is no plain LoRA, or made for another model.
            StorageError: a file is missing or damaged.
        """
        self.folder, self.name = Path(folder).expanduser(), name or str(folder)
        self.base, self.config, self.tensors = base, base.config, base.tensors
        self._settings = settings_of(self.folder / CONFIG)
        self._files = Checkpoint.open(self.folder / ADAPTER)
        self._pairs = self._matched()
        self._factors = lru_cache(maxsize=4)(self._read_factors)

    @property
    def plain(self) -> Checkpoint:
        """The model below the adapter."""
        return self.base

    @property
    def folders(self) -> list[Path]:
        """See :class:`~keeps.weights.checkpoints.TensorSource`."""
        return sorted({*self.base.folders, *self._files.folders})

    def read(self, name: str, start: int, count: int) -> Floats:
        """See :class:`~keeps.weights.checkpoints.TensorSource`."""
        values = self.base.read(name, start, count)
        if name not in self._pairs:
            return values
        left, right = self._factors(name)
        return values + low_rank_piece(left, right, self._pairs[name].scale, start, count)

    def read_into(self, name: str, start: int, values: Floats) -> None:
        """See :class:`~keeps.weights.checkpoints.TensorSource`."""
        if name in self._pairs:
            values[:] = self.read(name, start, len(values))
        else:
            self.base.read_into(name, start, values)

    def identity(self) -> list[Any]:
        """See :class:`~keeps.weights.checkpoints.TensorSource`."""
        return [self.base.identity(), self._files.identity(), self._settings]

    def close(self) -> None:
        """See :class:`~keeps.weights.checkpoints.TensorSource`."""
        self.base.close()
        self._files.close()

    def _read_factors(self, name: str) -> tuple[Floats, Floats]:
        pair, stored = self._pairs[name], self._files.tensors
        a, b = (self._files.read(key, 0, stored[key].numel).reshape(stored[key].shape) for key in (pair.a, pair.b))
        return (a.T, b.T) if self._settings.get("fan_in_fan_out") else (b, a)  # Conv1D keeps its weight as (in, out)

    def _matched(self) -> dict[str, _Pair]:
        stored = self._files.tensors
        if self._settings.get("use_dora") or str(self._settings.get("peft_type", "LORA")).upper() != "LORA":
            raise self._refusal("is no plain LoRA adapter")
        odd = [key for key in stored if not key.endswith(FACTORS)]
        if odd:
            raise self._refusal(f'holds "{odd[0]}" beside its low-rank factors')
        found = {}
        for key in stored:
            if not key.endswith(FACTORS[0]):
                continue
            module = key.removeprefix(PREFIX).removesuffix(FACTORS[0])
            other = key.removesuffix(FACTORS[0]) + FACTORS[1]
            name = f"{module}.weight"
            if other not in stored or name not in self.base.tensors:
                raise self._refusal(f'has factors of "{name}", which does not fit the base model {self.base.name}')
            self._check_shapes(name, stored[key], stored[other])
            found[name] = _Pair(key, other, scaling_in(self._settings, module, stored[key].shape[0]))
        if 2 * len(found) != len(stored):
            raise self._refusal("lacks the first factor of some layer")
        return found

    def _check_shapes(self, name: str, a: Stored, b: Stored) -> None:
        whole = self.base.tensors[name].shape
        wanted = whole[::-1] if self._settings.get("fan_in_fan_out") else whole
        fits = len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1]
        if not fits or (b.shape[0], a.shape[1]) != wanted:
            raise self._refusal(f'has factors of another shape than "{name}" of the base model {self.base.name}')

    def _refusal(self, what: str) -> ModelLoadError:
        mend = "write the whole model with `keeps export RUN --form merged`, and merge that"
        return ModelLoadError(f"the adapter {what}", where=self.name, mend=mend)


def settings_of(path: Path) -> Mapping[str, Any]:
    """What ``adapter_config.json`` says.

    Raises:
        InputFileError: it cannot be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputFileError(f"the file cannot be read ({error})", where=str(path), mend="make it again") from None
    if not isinstance(values, dict):
        raise InputFileError("the file holds no mapping", where=str(path), mend="make it again")
    return values


def scaling_in(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """s of one layer, as peft finds it: alpha / r, or alpha / sqrt(r).

    Args:
        settings: ``adapter_config.json``; its ``alpha_pattern`` gives layers an alpha of their own, by regular
            expressions for the end of their names.
        rank: of the layer's factors.

    Raises:
        InputFileError: there is no such pattern, or alpha is no number.

    >>> scaling_in({"lora_alpha": 8, "alpha_pattern": {r"^block\\.up$": 2}}, "block.up", 4)
    0.5
    """
    patterns = settings.get("alpha_pattern") or {}
    try:
        special = [value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)]
        alpha = float(special[0] if special else settings.get("lora_alpha", rank))
    except (re.error, AttributeError, TypeError, ValueError) as error:
        what = f"the adapter's scaling of {module} cannot be understood ({error})"
        raise InputFileError(what, where=CONFIG, mend="make the adapter again") from None
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
