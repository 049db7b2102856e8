"""One edit with ROME: seconds of the reference implementation against ours, and how often each edit takes.

    git clone https://github.com/kmeng01/rome reference
    OMP_NUM_THREADS=1 python benchmarks/rome.py --reference reference --edits 10

Both edit the same block of SmolLM2-135M with the same prefixes, steps, learning rate, clamp, decay, divergence and C
(whose collection is not counted), turn by turn, each in a process of its own; ``--python`` names the interpreter of the
reference's environment. The reference is written for GPT-2 on a GPU: in a copy of its folder "cuda" becomes "cpu", and
its module names are those of Llama. An edit takes if greedy decoding of the prompt begins with the new answer.
Processor seconds are compared, which a busy machine distorts less than the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import edit_reference as shared

LAYER = 6
STEPS = 20
CLAMP, RATE, DECAY, DIVERGENCE = 4.0, 0.5, 1e-3, 0.0625
FACTS = "world:known:capital#40"


class Ours:
    """ROME as `keeps edit` runs it, without what is asked before and after."""

    def __init__(self) -> None:
        from keeps.edit.rome import ROMESettings
        from keeps.models import LanguageModel

        self.model = LanguageModel.load()
        rates: dict[str, Any] = {"learning_rate": RATE, "weight_decay": DECAY, "clamp": CLAMP, "kl_weight": DIVERGENCE}
        self.settings = ROMESettings(layer=LAYER, steps=STEPS, **rates)

    def prefixes(self) -> list[str]:
        """The model's own texts that prompts are put behind."""
        from keeps.models.edit_rows import own_prefixes

        return list(own_prefixes(self.model, self.settings.short_prefixes, self.settings.long_prefixes, 0))

    def inverse(self, folder: Path) -> Path:
        """C^-1, written for the reference."""
        from keeps.contracts import Run
        from keeps.training.locate_statistics import statistics as collect
        from keeps.weights.files import save_tensors

        moment = collect(self.model, [LAYER], self.settings, Run(folder))[LAYER]
        import torch

        inverse = moment.divided(torch.eye(moment.matrix.shape[0], dtype=torch.float64))
        save_tensors(folder / "inverse.safetensors", {"inverse": inverse.float().contiguous()})
        return folder / "inverse.safetensors"

    def edit(self, values: shared.Values, folder: Path) -> dict[str, float]:
        """Seconds of one edit, and whether it took."""
        from keeps.edit.rome import ROME

        return shared.edited(ROME(self.settings), self.model, [values], folder)


def reference_worker(folder: Path, prefixes: Path, inverse: Path) -> None:
    """The reference, which is asked for one edit at a time."""
    answers = shared.become(folder)
    from rome import compute_u, rome_main  # pyright: ignore[reportMissingImports,reportAttributeAccessIssue]
    from rome.rome_hparams import ROMEHyperParams  # pyright: ignore[reportMissingImports]
    from safetensors.torch import load_file

    language = shared.language_model()
    model, tokenizer = language.model, language.tokenizer
    settings = ROMEHyperParams(
        layers=[LAYER],
        fact_token="subject_last",
        v_num_grad_steps=STEPS,
        v_lr=RATE,
        v_loss_layer=len(model.model.layers) - 1,
        v_weight_decay=DECAY,
        clamp_norm_factor=CLAMP,
        kl_factor=DIVERGENCE,
        mom2_adjustment=True,
        context_template_length_params=[],
        mom2_dataset="",
        mom2_n_samples=0,
        mom2_dtype="float32",
        lm_head_module="lm_head",
        **shared.NAMES,
    )
    texts = json.loads(prefixes.read_text())
    rome_main.CONTEXT_TEMPLATES_CACHE = ["{}", *(text + "{}" for text in texts)]
    key = (model.config._name_or_path.replace("/", "_"), shared.NAMES["rewrite_module_tmp"].format(LAYER))
    compute_u.inv_mom2_cache[key] = load_file(inverse)["inverse"]

    def answer(values: shared.Values) -> dict[str, float]:
        asked = [shared.request_of(values)]
        (_, before), spent = shared.timed(
            lambda: rome_main.apply_rome_to_model(model, tokenizer, asked, settings, return_orig_weights=True)
        )
        share = shared.took(language, [values])
        shared.restore(model, before)
        return {**spent, "took": share}

    shared.serve(answers, answer)


def compare(reference: Path, python: str, count: int) -> dict[str, Any]:
    """Both on the same edits, turn by turn; the first one of each is a warm-up."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "reference": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = Ours()
        (folder / "prefixes.json").write_text(json.dumps(ours.prefixes()))
        copy = shared.on_a_processor(reference, folder, "rome/compute_u.py")
        paths = [copy, folder / "prefixes.json", ours.inverse(folder)]
        command = [python, __file__, "--worker", *map(str, paths)]
        with shared.worker(command) as ask:
            for number, values in enumerate(shared.requests(FACTS, count + 1)):
                theirs = ask(values)
                mine = ours.edit(values, folder / f"edit{number}")
                if number:
                    found["reference"].append(theirs)
                    found["ours"].append(mine)
    report: dict[str, Any] = {"edits": count, "reference commit": shared.commit_of(reference)}
    for kind in ("clock", "processor"):
        pairs = [(b[kind], a[kind]) for a, b in zip(found["ours"], found["reference"], strict=True)]
        ratios = [theirs / mine for theirs, mine in pairs]
        report[kind] = {
            "reference": statistics.median(theirs for theirs, _ in pairs),
            "ours": statistics.median(mine for _, mine in pairs),
            "ratio": statistics.median(ratios),
            "lowest and highest": [min(ratios), max(ratios)],
        }
    report["took"] = {name: statistics.mean(one["took"] for one in side) for name, side in found.items()}
    report["aim"] = shared.AIM
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="a checkout of kmeng01/rome")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the reference's environment")
    parser.add_argument("--edits", type=int, default=10)
    parser.add_argument("--worker", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        reference_worker(*options.worker)
        return
    if options.reference is None:
        parser.error("name a checkout with --reference")
    print(json.dumps(compare(options.reference.resolve(), options.python, options.edits), indent=2))


if __name__ == "__main__":
    main()
