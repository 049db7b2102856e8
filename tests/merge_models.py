"""Small checkpoints for merges, made without a tensor library, and merges of plain arrays by written-out formulas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from keeps.jobs.merging import merging_method
from keeps.registry import find_method
from keeps.weights.merge_method import Chunk, Merged, TensorInfo, total_of

Arrays = Mapping[str, NDArray[Any]]
CONFIG = {"model_type": "llama", "num_hidden_layers": 3, "tie_word_embeddings": True, "torch_dtype": "float32"}
SHAPES = {
    "model.embed_tokens.weight": (130, 40),
    **{f"model.layers.{layer}.mlp.up_proj.weight": (90, 56) for layer in range(3)},
    **{f"model.layers.{layer}.input_layernorm.weight": (40,) for layer in range(3)},
    "model.norm.weight": (40,),
}


def weights(seed: int, base: Arrays | None = None, step: float = 0.02) -> dict[str, NDArray[np.float32]]:
    """Random weights, or those of ``base`` moved at random."""
    draw = np.random.default_rng(seed)
    noise = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    return noise if base is None else {name: base[name] + np.float32(step) * noise[name] for name in SHAPES}


def write(folder: Path, tensors: Arrays, config: Mapping[str, Any] = CONFIG) -> Path:
    """A transformers folder with these tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(dict(config)))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    return folder


def family(folder: Path, count: int = 3) -> tuple[Path, list[Path]]:
    """A base and ``count`` models that started from it."""
    base = weights(0)
    return write(folder / "base", base), [write(folder / "abcdefgh"[i], weights(i + 1, base)) for i in range(count)]


def read(folder: Path) -> dict[str, NDArray[Any]]:
    """All tensors of a folder."""
    found: dict[str, NDArray[Any]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def merge_arrays(
    name: str,
    tuned: Sequence[NDArray[np.float32]],
    base: NDArray[np.float32] | None = None,
    *,
    seed: int = 0,
    tensor: str = "w",
    **settings: Any,
) -> Merged:
    """One tensor merged by the method ``name``, with its stages, as the engine would do it in one piece."""
    method = merging_method(find_method(name, "merge"), settings)
    shape = tuned[0].shape
    info = TensorInfo(tensor, shape, tuned[0].size, len(tuned), method.values(len(tuned)))
    rows = np.stack([model.reshape(-1) for model in tuned])
    flat = None if base is None else base.reshape(-1)
    stats: dict[str, Any] = {}
    for stage in method.stages():
        if stage.needed(stats):
            measured = stage.measure(Chunk(info, 0, rows, flat, seed, stats))
            stats[stage.name] = stage.finish(total_of([measured]), info, stats)
    merged = method.merge(Chunk(info, 0, rows, flat, seed, stats))
    return Merged(merged.values.reshape(shape), merged.surviving)


def random_models(seed: int, count: int, shape: tuple[int, ...] = (37, 23)) -> tuple[Any, list[Any]]:
    """A base and models near it, float32."""
    draw = np.random.default_rng(seed)
    base = draw.standard_normal(shape).astype(np.float32)
    return base, [(base + 0.1 * draw.standard_normal(shape)).astype(np.float32) for _ in range(count)]
