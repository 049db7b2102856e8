"""Models for merges: a tiny family, the embedded model with moved copies, and the memory of a process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeps.weights.checkpoints import Checkpoint
from keeps.weights.headers import lay_out

LAYERS = 4
STEP = 0.01  # of a moved copy, against the spread of a tensor
PIECE = 1 << 20
# The peak of a process counts what it was forked from: a small interpreter in between starts the command.
LAUNCHER = """import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), used.ru_maxrss)
"""


@dataclass(frozen=True)
class Models:
    """A base and what started from it, as transformers folders."""

    base: Path
    tuned: tuple[Path, ...]
    layers: int = LAYERS

    def arrays(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The weights in float64."""
        return self.read(self.base), [self.read(folder) for folder in self.tuned]

    @staticmethod
    def read(folder: Path) -> dict[str, NDArray[np.float64]]:
        """All tensors of a folder in float64."""
        source = Checkpoint.open(folder)
        found = {
            name: source.read(name, 0, stored.numel).reshape(stored.shape).astype(np.float64)
            for name, stored in source.tensors.items()
        }
        source.close()
        return found


def tiny_family(folder: Path, seed: int) -> Models:
    """A base of random weights, and three models with a common and an own part in what moved them."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (96, 64), "model.norm.weight": (64,)}
    for layer in range(LAYERS):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (64, 64)
        shapes[f"model.layers.{layer}.mlp.up_proj.weight"] = (150, 64)
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (64,)
    draw = np.random.default_rng(seed)

    def noise() -> dict[str, NDArray[np.float32]]:
        return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    base, common = noise(), noise()
    config = {"model_type": "llama", "num_hidden_layers": LAYERS, "tie_word_embeddings": True}
    _write(folder / "base", base, config)
    for name in "abc":
        own = noise()
        moved = {key: (base[key] + 0.3 * (common[key] + own[key])).astype(np.float32) for key in base}
        _write(folder / name, moved, config)
    return Models(folder / "base", tuple(folder / name for name in "abc"))


def _write(folder: Path, tensors: Mapping[str, NDArray[np.float32]], config: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    layout = lay_out(folder / "model.safetensors", [(name, "F32", value.shape) for name, value in tensors.items()])
    data = b"".join(tensors[stored.name].tobytes() for stored in layout.tensors)
    layout.path.write_bytes(layout.header + data)


def moved_copies(folder: Path, seed: int) -> Models:
    """The embedded model in float32, and three copies of it, each moved by noise."""
    from keeps.models.language_model import LanguageModel

    language = LanguageModel.load()
    base = folder / "base"
    module: Any = language.model  # float32 as loaded
    module.save_pretrained(base)
    language.tokenizer.save_pretrained(base)
    source = Checkpoint.open(base)
    for number, name in enumerate("abc"):
        draw = np.random.default_rng([seed, number])
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes((base / "config.json").read_bytes())
        tensors = [(key, stored.kind, stored.shape) for key, stored in source.tensors.items()]
        layout = lay_out(folder / name / "model.safetensors", tensors)
        with layout.path.open("wb") as file:
            file.write(layout.header)
            for stored in layout.tensors:
                for start in range(0, stored.numel, PIECE):
                    values = source.read(stored.name, start, min(PIECE, stored.numel - start))
                    noise = draw.standard_normal(values.size, dtype=np.float32)
                    file.write((values + np.float32(STEP * float(values.std())) * noise).tobytes())
    source.close()
    return Models(base, tuple(folder / name for name in "abc"))


def peak_memory(command: Sequence[str]) -> float:
    """Most resident memory (MB, 10^6 bytes) of a process that ends well."""
    launched = [sys.executable, "-S", "-c", LAUNCHER, *command]
    code, kibibytes = subprocess.run(launched, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    if int(code):
        raise RuntimeError(f"{command[:4]} ended with {code}")
    return int(kibibytes) * 1024 / 1e6
