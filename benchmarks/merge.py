"""Merging three fine-tunes: seconds and memory of mergekit against ours, on the same files, in one run.

    python -m venv peer && peer/bin/pip install mergekit==0.1.4
    OMP_NUM_THREADS=1 python benchmarks/merge.py --mergekit peer/bin/python --rounds 3

Both read the same YAML file, turn by turn, each in a process of its own, start-up included; mergekit is never imported
here. Inputs are SmolLM2-135M-Instruct in float32 and three copies of it, each moved by noise of a hundredth of the
size of each tensor. The results are compared. ``--only-keeps`` measures memory against the size of the model instead:
random weights in bfloat16 of the shape of a 7B model, ``--scale`` of its layers. ``--sparse N`` writes one of N pieces
of each tensor and leaves holes (zeros) in place of the others, so that four such models need little of the disk; the
result is written whole.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

METHODS = {
    "task_arithmetic": {"merge_method": "task_arithmetic", "parameters": {"weight": 0.3}},
    "ties": {"merge_method": "ties", "parameters": {"weight": 0.3, "density": 0.2}},
}
SHAPE_7B = {"hidden": 4096, "inside": 11008, "layers": 32, "words": 32000}
PIECE = 1 << 22
# The peak of a process counts what it was forked from: a small interpreter in between starts the command.
LAUNCHER = """import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=2)
_, status, used = os.wait4(process.pid, 0)
seconds = time.perf_counter() - started
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
# mergekit 0.1.4 as it is stops at a forward reference of its own (its issue 681); this names what is missing.
PEER = """import sys, torch, transformers
import mergekit.architecture.base as architecture
for kind in vars(architecture).values():
    if isinstance(kind, type) and hasattr(kind, "model_rebuild") and kind.__module__ == architecture.__name__:
        kind.model_rebuild(force=True, _types_namespace={**vars(architecture), "torch": torch})
from mergekit.scripts.run_yaml import main
sys.argv[0] = "mergekit-yaml"
main()
"""


def measured(command: list[str]) -> dict[str, float]:
    """Wall and processor seconds and peak memory (MB, mapped files included) of a process."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    launched = [sys.executable, "-S", "-c", LAUNCHER, *command]
    done = subprocess.run(launched, capture_output=True, text=True, env=environment, check=True)
    code, clock, processor, kibibytes = json.loads(done.stdout)
    if code:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return {"clock": clock, "processor": processor, "memory": kibibytes * 1024 / 1e6}


def write_model(
    folder: Path,
    tensors: dict[str, tuple[int, ...]],
    seed: int,
    base: Path | None,
    config: Any,
    kind: str = "F32",
    sparse: int = 1,
) -> None:
    """A model of random weights (one piece over and over: drawing billions takes longer than merging them), or a moved
    copy of one; piece by piece, so that this process stays small too.

    One of ``sparse`` pieces is written, and the others are holes in the file.
    """
    from keeps.weights.checkpoints import Checkpoint
    from keeps.weights.halves import encode
    from keeps.weights.headers import SIZES, lay_out

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    layout = lay_out(folder / "model.safetensors", [(name, kind, shape) for name, shape in tensors.items()])
    source = Checkpoint.open(base) if base else None
    draw = np.random.default_rng(seed)
    repeated = encode(np.float32(0.02) * draw.standard_normal(PIECE, dtype=np.float32), kind)
    with layout.path.open("wb") as file:
        file.write(layout.header)
        file.truncate(layout.size)
        for stored in layout.tensors:
            for start in range(0, stored.numel, PIECE * sparse):
                file.seek(stored.offset + start * SIZES[kind])
                count = min(PIECE, stored.numel - start)
                if source is None:
                    file.write(repeated[:count].data)
                    continue
                noise = draw.standard_normal(count, dtype=np.float32)
                values = source.read(stored.name, start, count)
                file.write(encode((values + 0.01 * float(values.std()) * noise).astype(np.float32), kind).tobytes())


def real_models(folder: Path) -> list[Path]:
    """The default model in float32, and three moved copies."""
    from keeps.models import LanguageModel

    language = LanguageModel.load()
    base = folder / "base"
    module: Any = language.model  # float32 as loaded
    module.save_pretrained(base)
    language.tokenizer.save_pretrained(base)
    from keeps.weights.headers import read_header

    tensors = {name: stored.shape for name, stored in read_header(base / "model.safetensors").items()}
    config = json.loads((base / "config.json").read_text())
    for seed, name in enumerate("abc", 1):
        write_model(folder / name, tensors, seed, base, config)
        for path in base.glob("*token*"):
            shutil.copy(path, folder / name / path.name)
    return [base, *(folder / name for name in "abc")]


def shaped_models(folder: Path, scale: float, sparse: int) -> list[Path]:
    """Random models of the shape of a 7B model with a part of its layers."""
    hidden, inside, words = SHAPE_7B["hidden"], SHAPE_7B["inside"], SHAPE_7B["words"]
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, hidden), "model.norm.weight": (hidden,)}
    for layer in range(max(1, round(scale * SHAPE_7B["layers"]))):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"model.layers.{layer}.self_attn.{name}.weight"] = (hidden, hidden)
        for name, shape in (("gate", (inside, hidden)), ("up", (inside, hidden)), ("down", (hidden, inside))):
            tensors[f"model.layers.{layer}.mlp.{name}_proj.weight"] = shape
    for seed, name in enumerate(("base", "a", "b", "c")):
        write_model(folder / name, tensors, seed, None, {"model_type": "llama"}, "BF16", sparse)
    return [folder / name for name in ("base", "a", "b", "c")]


def recipe(folder: Path, models: list[Path], method: str, dtype: str = "float32") -> Path:
    """The YAML file that both read (JSON is YAML)."""
    path = folder / f"{method}.yml"
    values = {**METHODS[method], "base_model": str(models[0]), "dtype": dtype}
    path.write_text(json.dumps({**values, "models": [{"model": str(model)} for model in models[1:]]}))
    return path


def largest_difference(one: Path, other: Path) -> dict[str, float]:
    """Largest absolute difference of all weights, and the share of them above 1e-6."""
    from keeps.weights.checkpoints import Checkpoint

    left, right = Checkpoint.open(one), Checkpoint.open(other)
    assert set(left.tensors) == set(right.tensors)
    worst, far, total = 0.0, 0, 0
    for name, stored in left.tensors.items():
        for start in range(0, stored.numel, PIECE):
            count = min(PIECE, stored.numel - start)
            apart = np.abs(left.read(name, start, count) - right.read(name, start, count))
            worst, far, total = max(worst, float(apart.max())), far + int((apart > 1e-6).sum()), total + count
    return {"largest difference": worst, "share above 1e-6": far / total}


def ours(yaml: Path, out: Path, threads: int) -> list[str]:
    """Our command."""
    options = ["--out", str(out), "--quiet", "--threads", str(threads), "--shard-size", "5GB"]
    return [sys.executable, "-m", "keeps", "merge", "--yaml", str(yaml), *options]


def compare(
    python: str, models: list[Path], folder: Path, rounds: int, threads: int, methods: Sequence[str]
) -> dict[str, Any]:
    """Both, turn by turn."""
    found: dict[str, Any] = {}
    for method in methods:
        yaml = recipe(folder, models, method)
        sides: dict[str, list[dict[str, float]]] = {"mergekit": [], "keeps": []}
        for _ in range(rounds):
            for path in (folder / "theirs", folder / "ours"):
                shutil.rmtree(path, ignore_errors=True)
            peer = [python, "-c", PEER, str(yaml), str(folder / "theirs"), "--no-copy-tokenizer"]
            sides["mergekit"].append(measured(peer))
            sides["keeps"].append(measured(ours(yaml, folder / "ours", threads)))
        row: dict[str, Any] = {}
        for key in ("clock", "processor", "memory"):
            pairs = [(a[key], b[key]) for a, b in zip(sides["mergekit"], sides["keeps"], strict=True)]
            ratios = [theirs / mine for theirs, mine in pairs]
            row[key] = {
                "mergekit": statistics.median(theirs for theirs, _ in pairs),
                "keeps": statistics.median(mine for _, mine in pairs),
                "ratio": statistics.median(ratios),
                "lowest and highest": [min(ratios), max(ratios)],
            }
        found[method] = row | largest_difference(folder / "theirs", folder / "ours")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", help="python of an environment in which mergekit is installed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-keeps", action="store_true", help="memory of a 7B-shaped merge, without the peer")
    parser.add_argument("--scale", type=float, default=0.1, help="share of the layers of the 7B shape")
    parser.add_argument("--sparse", type=int, default=1, help="with --only-keeps, write one of so many pieces")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--scratch", type=Path, help="where the models are written; by default the temporary folder")
    options = parser.parse_args()
    if not options.mergekit and not options.only_keeps:
        parser.error("name a python with --mergekit, or give --only-keeps")
    report: dict[str, Any] = {"bare interpreter (MB)": measured([sys.executable, "-c", "pass"])["memory"]}
    report["interpreter with numpy (MB)"] = measured([sys.executable, "-c", "import numpy"])["memory"]
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        if options.only_keeps:
            models = shaped_models(folder, options.scale, options.sparse)
            report["bytes of one model"] = (models[0] / "model.safetensors").stat().st_size
            for method in options.methods:
                shutil.rmtree(folder / "ours", ignore_errors=True)
                yaml = recipe(folder, models, method, "bfloat16")
                report[method] = measured(ours(yaml, folder / "ours", options.threads))
        else:
            models = real_models(folder)
            report |= compare(options.mergekit, models, folder, options.rounds, options.threads, options.methods)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
