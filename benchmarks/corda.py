"""CorDA's preparation against peft's, in CPU seconds and in error, interleaved in one run.

    python benchmarks/corda.py --blocks 30 --samples 32 --rounds 3

Both calibrate on the same samples of real text and cut the same ranks out of the same layers of the
embedded model. peft runs at torch's own matmul precision, as its users do, unless
`--peft-precision medium` gives it what keeps sets for itself. The error is that of the adapter product
B A, relative to a float64 singular value decomposition of the same covariance (the way of each library:
peft divides a sample by its signed maximum, which is what ``normalise="max"`` does here), median and
largest over the layers.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda

from keeps.adapt.corda import CorDASettings, adapter_starts
from keeps.data.select import load_records
from keeps.models import LanguageModel
from keeps.models.calibration import calibration_sequences
from keeps.models.covariances import collect_covariance, token_batches
from keeps.models.targets import find_targets
from keeps.numerics.oriented import START_DAMPING

Samples = list[list[int]]
Products = dict[str, torch.Tensor]


def by_peft(model: Any, sequences: Samples, targets: list[str], rank: int, mode: str) -> Products:
    """B A of every target layer, as peft prepares it."""
    work = copy.deepcopy(model)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=targets,
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method=mode),  # pyright: ignore[reportArgumentType],
    )

    def run() -> None:
        for sequence in sequences:  # one at a time: its hooks want batches of one
            work(input_ids=torch.tensor([sequence]))

    preprocess_corda(work, config, run_model=run)
    layers = find_targets(work, tuple(targets))
    return {name: _product(layer.eigens) for name, layer in layers.items()}


def _product(eigens: Any) -> torch.Tensor:
    return eigens.U_WC.double() @ torch.diag(eigens.S_WC.double()) @ eigens.V_WC.double().T


def by_keeps(model: Any, sequences: Samples, targets: list[str], rank: int, mode: str, pad: int) -> tuple[Any, Any]:
    covariances = collect_covariance(model, token_batches(sequences, pad_token_id=pad), tuple(targets), "max")
    settings = CorDASettings(rank=rank, mode=mode, targets=tuple(targets))
    starts = adapter_starts(model, covariances, settings)
    return {name: start.b @ start.a for name, start in starts.items()}, covariances


def reference(weight: torch.Tensor, covariance: torch.Tensor, rank: int, mode: str) -> torch.Tensor:
    """The published components in float64: full inverse, full decomposition."""
    c = covariance.double()
    c = c + START_DAMPING * c.diagonal().mean() * torch.eye(len(c), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(weight.detach().double() @ c, full_matrices=False)
    part = slice(0, rank) if mode == "ipm" else slice(-rank, None)
    return u[:, part] @ torch.diag(s[part]) @ (vt[part] @ torch.linalg.inv(c))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--blocks", type=int, default=6, help="decoder blocks whose layers are prepared")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peft-precision", choices=("highest", "medium"), default="highest", help="of its products")
    options = parser.parse_args()
    model = LanguageModel.load()
    text = load_records("text").part("train")
    sequences = calibration_sequences(model, text, tokens=options.tokens, answers=True, seed=0)
    sequences = [item for item in sequences if len(item) > options.tokens // 2][: options.samples]
    blocks = [round(i * 29 / max(options.blocks - 1, 1)) for i in range(options.blocks)]
    targets = [name for name in find_targets(model.model) if any(f"layers.{block}." in name for block in blocks)]
    command = f"python benchmarks/corda.py --blocks {options.blocks} --samples {options.samples} "
    command += f"--rounds {options.rounds} --peft-precision {options.peft_precision}"
    own = torch.get_float32_matmul_precision()
    report: dict[str, Any] = {"command": command}
    pad = model.encoder.pad_token_id
    for mode in ("ipm", "kpm"):
        seconds: dict[str, list[float]] = {"peft": [], "keeps": []}
        for _ in range(options.rounds):
            torch.set_float32_matmul_precision(options.peft_precision)
            begin = time.process_time()
            theirs = by_peft(model.model, sequences, targets, options.rank, mode)
            middle = time.process_time()
            torch.set_float32_matmul_precision(own)
            ours, covariances = by_keeps(model.model, sequences, targets, options.rank, mode, pad)
            seconds["peft"].append(middle - begin)
            seconds["keeps"].append(time.process_time() - middle)
        layers = find_targets(model.model, tuple(targets))
        errors: dict[str, list[float]] = {"peft": [], "keeps": []}
        for name, layer in layers.items():
            right = reference(layer.weight, covariances[name].matrix(), options.rank, mode)
            for library, product in (("peft", theirs[name]), ("keeps", ours[name])):
                errors[library].append(float(torch.linalg.norm(product - right) / torch.linalg.norm(right)))
        ratios = [a / b for a, b in zip(seconds["peft"], seconds["keeps"], strict=True)]
        report[mode] = {
            "cpu_seconds": {library: round(statistics.median(values), 2) for library, values in seconds.items()},
            "ratio_peft_to_keeps": round(statistics.median(ratios), 2),
            "ratios": [round(ratio, 2) for ratio in ratios],
            "error_of_BA_median": {library: statistics.median(values) for library, values in errors.items()},
            "error_of_BA_largest": {library: max(values) for library, values in errors.items()},
            "layers": len(layers),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
