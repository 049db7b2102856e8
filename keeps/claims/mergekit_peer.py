"""Merging out of core: the definitions to the last digit, in memory that does not grow, in any order, after any kill.

Five checks of what a merge of files must show. Results are compared with the definitions in float64; memory and
interruptions are those of processes of their own, over the embedded model and three moved copies of it. How much
faster this is than mergekit is measured by ``benchmarks/merge.py``, which needs it installed.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keeps.claims import mergekit_peer_formulas as formulas
from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.mergekit_peer_models import Models, moved_copies, peak_memory, tiny_family
from keeps.errors import KeepsError
from keeps.jobs.merging import merge
from keeps.weights.fingerprints import fingerprint_file

SEEDS = (0,)
WEIGHTS = (0.5, 0.3, 0.4)
DENSITY = 0.2
KILLS = 20
EXACT = 1e-6
MEMORY = 300.0  # MB above the interpreter
METHODS = ("average", "task_arithmetic", "ties", "dare", "breadcrumbs", "slerp", "karcher", "model_stock")


def experiment(run: ClaimRun) -> Iterator[Check]:
    """Definitions, bits, YAML on tiny models; then memory and kills on the embedded model."""
    with tempfile.TemporaryDirectory(dir=run.workspace) as name:
        tiny = tiny_family(Path(name) / "tiny", seed=SEEDS[0])
        yield from _definition_checks(tiny, Path(name), run)
        yield _bits_check(tiny, Path(name))
        yield from _yaml_checks(tiny, Path(name))
        run.progress.message("writing the embedded model and three moved copies")
        real = moved_copies(Path(name) / "real", seed=SEEDS[0])
        yield from _memory_checks(real, Path(name), run)
        yield _kill_check(real, Path(name), run)


def _definition_checks(tiny: Models, folder: Path, run: ClaimRun) -> Iterator[Check]:
    """Card, point 1."""
    base, models = tiny.arrays()
    cases: dict[str, tuple[dict[str, Any], Any]] = {
        "average": ({"weights": WEIGHTS}, lambda b, m: formulas.average(m, WEIGHTS)),
        "task_arithmetic": ({"weights": WEIGHTS, "scale": 1.0}, lambda b, m: formulas.task_arithmetic(b, m, WEIGHTS)),
        "ties": (
            {"weights": WEIGHTS, "density": DENSITY, "scope": "tensor", "zero_sign": "plus"},
            lambda b, m: formulas.ties(b, m, WEIGHTS, DENSITY),
        ),
        "slerp": ({"t": 0.3}, lambda b, m: formulas.slerp(m[0], m[1], 0.3)),
        "karcher": ({}, lambda b, m: formulas.karcher(m)),
        "model_stock": ({}, lambda b, m: formulas.model_stock(b, m)),
    }
    for method, (settings, formula) in cases.items():
        found = _merged(tiny, method, folder / f"exact_{method}", settings)
        worst = max(
            float(np.abs(found[name] - formula(base[name], [model[name] for model in models])).max()) for name in base
        )
        run.tables.setdefault("largest difference", {})[method] = worst
        yield Check(f"{method} against its definition in float64", worst, f"below {EXACT:g}", worst < EXACT)


def _merged(tiny: Models, method: str, out: Path, settings: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    names = [str(model) for model in tiny.tuned[: 2 if method == "slerp" else 3]]
    merge(names, str(tiny.base), method=method, settings=settings, out=out, **options)
    return Models.read(out)


def _bits_check(tiny: Models, folder: Path) -> Check:
    """Card, point 3."""
    differing = []
    for method in METHODS:
        prints = set()
        for threads, chunk in ((1, 1 << 20), (3, 1), (2, 1 << 13)):
            out = folder / f"bits_{method}_{threads}"
            _merged(tiny, method, out, {}, threads=threads, chunk=chunk)
            prints.add((fingerprint_file(out / "model.safetensors"), fingerprint_file(out / "merge.json")))
        differing += [method] if len(prints) > 1 else []
    title = "methods of which a bit depends on threads or on the size of pieces"
    return Check(title, len(differing), "none", not differing, note=f"of {len(METHODS)}: {', '.join(METHODS)}")


def _yaml_checks(tiny: Models, folder: Path) -> Iterator[Check]:
    """Card, point 5."""
    base, models = tiny.arrays()
    paths = [str(path) for path in tiny.tuned]
    depth = {name: int(name.split(".")[2]) / (tiny.layers - 1) if ".layers." in name else 0.0 for name in base}
    sources = [{"model": path, "parameters": {"weight": [0.2, 0.8]}} for path in paths]
    filtered = [{"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.5}]
    documents: dict[str, tuple[dict[str, Any], Any]] = {
        "linear, gradient": (
            {"merge_method": "linear", "models": sources, "parameters": {"normalize": False}},
            lambda n: formulas.sum_of([m[n] for m in models], [0.2 + 0.6 * depth[n]] * 3),
        ),
        "ties, gradient of the density": (
            {
                "merge_method": "ties",
                "base_model": str(tiny.base),
                "models": [{"model": p, "parameters": {"weight": 1.0, "density": [0.5, 0.1]}} for p in paths],
            },
            lambda n: formulas.ties(base[n], [m[n] for m in models], [1.0] * 3, (1 - depth[n]) * 0.5 + depth[n] * 0.1),
        ),
        "slerp, filters and gradient": (
            {
                "merge_method": "slerp",
                "base_model": paths[0],
                "models": [{"model": path} for path in paths[:2]],
                "parameters": {"t": filtered},
            },
            lambda n: formulas.slerp(models[0][n], models[1][n], 0.1 + 0.8 * depth[n] if "mlp" in n else 0.5),
        ),
        "dare, nothing dropped": (
            {
                "merge_method": "dare_linear",
                "base_model": str(tiny.base),
                "models": [{"model": p, "parameters": {"weight": 0.3, "density": 1.0}} for p in paths],
            },
            lambda n: formulas.task_arithmetic(base[n], [m[n] for m in models], [0.3] * 3),
        ),
    }
    for number, (title, (document, formula)) in enumerate(documents.items()):
        found = _from_yaml(document, folder / f"yaml{number}")
        worst = max(float(np.abs(found[name] - formula(name)).max()) for name in base)
        yield Check(f"YAML: {title}", worst, f"below {EXACT:g} from the definition", worst < EXACT)
    slices = [{"sources": [{"model": paths[0], "layer_range": [0, tiny.layers]}]}] * 2
    stacked = _from_yaml({"merge_method": "passthrough", "slices": slices}, folder / "stacked")
    doubled = sum(
        not np.array_equal(stacked[name.replace(f".{layer}.", f".{layer + again * tiny.layers}.")], models[0][name])
        for name in base
        if ".layers." in name
        for again in (0, 1)
        for layer in (int(name.split(".")[2]),)
    )
    yield Check("YAML: stacked layers that are not those of the model", doubled, "none", doubled == 0)
    named = 0
    unsupported = ({"modules": {}}, {"tokenizer": {}}, {"chat_template": "auto"}, {"parameters": {"epsilon": 1}})
    for number, extra in enumerate(unsupported):
        key = next(iter(extra.get("parameters") or extra))
        try:
            _from_yaml({**documents["ties, gradient of the density"][0], **extra}, folder / f"refused{number}")
        except KeepsError as error:
            named += f'"{key}"' in str(error)
    yield Check(
        "YAML: keys without support that are named", named, f"all {len(unsupported)}", named == len(unsupported)
    )


def _from_yaml(document: Mapping[str, Any], out: Path) -> dict[str, Any]:
    path = out.with_suffix(".yml")
    path.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    merge(recipe=path, out=out)
    return Models.read(out)


def _command(real: Models, method: str, out: Path, *more: str) -> list[str]:
    models = [str(model) for model in real.tuned]
    options = ["--base", str(real.base), "--method", method, "--out", str(out), "--quiet"]
    return [sys.executable, "-m", "keeps", "merge", *models, *options, *more]


def _memory_checks(real: Models, folder: Path, run: ClaimRun) -> Iterator[Check]:
    """Card, point 2, without the comparison of times."""
    interpreter = peak_memory([sys.executable, "-c", "pass"])
    for method in ("task_arithmetic", "ties"):
        found = {}
        for size in ("5GB", "60MB"):
            out = folder / "memory"
            started = time.monotonic()
            found[size] = peak_memory(_command(real, method, out, "--shard-size", size)) - interpreter
            run.tables.setdefault("MB above the interpreter", {})[f"{method}, files of {size}"] = found[size]
            run.tables.setdefault("seconds", {})[f"{method}, files of {size}"] = time.monotonic() - started
            shutil.rmtree(out)
        title = f"{method}: peak memory above the interpreter (MB), three models of 538 MB"
        yield Check(title, max(found.values()), f"at most {MEMORY:g}", max(found.values()) <= MEMORY)
        grown = found["60MB"] - found["5GB"]
        yield Check(f"{method}: growth of it with nine files (MB)", grown, "at most 30", grown <= 30)


def _kill_check(real: Models, folder: Path, run: ClaimRun) -> Check:
    """Card, point 4."""
    whole, out = folder / "whole", folder / "killed"
    started = time.monotonic()
    subprocess.run(_command(real, "ties", whole, "--scope", "tensor"), check=True, stdout=subprocess.DEVNULL)
    lasted = time.monotonic() - started
    command = [*_command(real, "ties", out, "--scope", "tensor"), "--resume"]
    draw, kills, different = random.Random(SEEDS[0]), 0, 0
    while kills < KILLS:
        finished = _killed(command, draw.uniform(0, 0.8 * lasted))
        kills += not finished
        if finished:
            different += not _same(whole, out)
            shutil.rmtree(out)
        run.progress.message(f"killed {kills} of {KILLS} times")
    if not out.exists():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    different += not _same(whole, out)
    return Check(f"files that differ after {kills} kills and resumptions", different, "none", different == 0)


def _killed(command: Sequence[str], seconds: float) -> bool:
    """Whether the command ended well before it was killed after ``seconds``."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    if process.returncode:
        raise RuntimeError(f"the merge failed by itself: {said.decode(errors='replace')}")
    return True


def _same(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and all(
        fingerprint_file(one / name) == fingerprint_file(other / name) for name in names
    )


CLAIM = Claim(
    card="mergekit_peer",
    statement="Models are merged to their definitions in memory that does not grow with them, to the same bits "
    "whatever the threads, pieces and interruptions, from the files of the tool that people use now.",
    published="mergekit 0.1.4, base and three fine-tunes of 135M parameters in float32 on two busy cores: task "
    "arithmetic 52.6 s and 2.80 GB, TIES 151 s and 2.82 GB",
    paper="arXiv:2403.13257",
    seeds=SEEDS,
    minutes=8,
    experiment=experiment,
)
