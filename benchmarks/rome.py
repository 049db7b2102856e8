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
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LAYER = 6
STEPS = 20
CLAMP, RATE, DECAY, DIVERGENCE = 4.0, 0.5, 1e-3, 0.0625
FACTS = "world:known:capital#40"
AIM = 5.0  # times the reference's seconds


def used() -> float:
    """Processor seconds of this process."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


class Ours:
    """ROME as `keeps edit` runs it, without what is asked before and after."""

    def __init__(self) -> None:
        from keeps.edit.rome import ROMESettings
        from keeps.models import LanguageModel

        self.model = LanguageModel.load()
        shared = {"learning_rate": RATE, "weight_decay": DECAY, "clamp": CLAMP, "kl_weight": DIVERGENCE}
        self.settings = ROMESettings(layer=LAYER, steps=STEPS, **shared)

    def prefixes(self) -> list[str]:
        """The model's own texts that prompts are put behind."""
        from keeps.models.edit_rows import own_prefixes

        return list(own_prefixes(self.model, self.settings.short_prefixes, self.settings.long_prefixes, 0))

    def inverse(self, folder: Path) -> Path:
        """C^-1, written for the reference."""
        from keeps.contracts import Run
        from keeps.training.locate_edit import statistics as collect
        from keeps.weights.files import save_tensors

        moment = collect(self.model, [LAYER], self.settings, Run(folder))[LAYER]
        import torch

        inverse = moment.divided(torch.eye(moment.matrix.shape[0], dtype=torch.float64))
        save_tensors(folder / "inverse.safetensors", {"inverse": inverse.float().contiguous()})
        return folder / "inverse.safetensors"

    def edit(self, values: dict[str, str], folder: Path) -> dict[str, float]:
        """Seconds of one edit, and whether it took."""
        from keeps.contracts import Run
        from keeps.data.edits import Edit
        from keeps.edit.rome import ROME

        folder.mkdir()
        edit = Edit("edit", values["subject"], values["prompt"], values["target"])
        clock, processor = time.perf_counter(), used()
        change = ROME(self.settings)(self.model, [edit], run=Run(folder))
        spent = {"clock": time.perf_counter() - clock, "processor": used() - processor}
        changed = change.apply(self.model)
        said = changed.generate([edit.prompt], max_new_tokens=12)[0]
        changed.undo()
        return {**spent, "took": float(said.startswith(edit.target_new))}


def reference_worker(folder: Path, prefixes: Path, inverse: Path) -> None:
    """The reference, answering one line of JSON on standard input with one on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the reference prints as it goes
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    from rome import compute_u, rome_main  # pyright: ignore[reportMissingImports]
    from rome.rome_hparams import ROMEHyperParams  # pyright: ignore[reportMissingImports]
    from safetensors.torch import load_file

    from keeps.models import LanguageModel

    language = LanguageModel.load()
    model, tokenizer = language.model, language.tokenizer
    tokenizer.padding_side = "right"
    model.config.n_embd = model.config.hidden_size
    names = {
        "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
        "layer_module_tmp": "model.layers.{}",
        "mlp_module_tmp": "model.layers.{}.mlp",
        "attn_module_tmp": "model.layers.{}.self_attn",
        "ln_f_module": "model.norm",
        "lm_head_module": "lm_head",
    }
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
        **names,
    )
    texts = json.loads(prefixes.read_text())
    rome_main.CONTEXT_TEMPLATES_CACHE = ["{}", *(text + "{}" for text in texts)]
    key = (model.config._name_or_path.replace("/", "_"), names["rewrite_module_tmp"].format(LAYER))
    compute_u.inv_mom2_cache[key] = load_file(inverse)["inverse"]
    for line in sys.stdin:
        values = json.loads(line)
        prompt = values["prompt"].replace(values["subject"], "{}")
        request = {"prompt": prompt, "subject": values["subject"], "target_new": {"str": values["target"]}}
        clock, processor = time.perf_counter(), used()
        _, before = rome_main.apply_rome_to_model(model, tokenizer, [request], settings, return_orig_weights=True)
        spent = {"clock": time.perf_counter() - clock, "processor": used() - processor}
        said = language.generate([values["prompt"]], max_new_tokens=12)[0]
        for name, weight in before.items():
            model.get_parameter(name).data.copy_(weight)
        answers.write(json.dumps({**spent, "took": float(said.startswith(values["target"]))}) + "\n")
        answers.flush()


def patched(folder: Path, into: Path) -> Path:
    """A copy of the reference that runs on a processor."""
    copy = into / "reference"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".git"))
    for file in copy.rglob("*.py"):
        file.write_text(file.read_text().replace('"cuda"', '"cpu"').replace(".cuda()", ""))
    return copy


def requests(count: int) -> list[dict[str, str]]:
    """Facts with another object of their relation."""
    from keeps.data.edit_facts import edits_from_facts
    from keeps.data.records import Fact
    from keeps.data.select import load_records

    edits = edits_from_facts([record for record in load_records(FACTS) if isinstance(record, Fact)])
    fit = [edit for edit in edits if edit.prompt.count(edit.subject) == 1]
    return [{"subject": e.subject, "prompt": e.prompt, "target": e.target_new} for e in fit[:count]]


def compare(reference: Path, python: str, count: int) -> dict[str, Any]:
    """Both on the same edits, turn by turn; the first one of each is a warm-up."""
    commit = subprocess.run(["git", "-C", str(reference), "rev-parse", "HEAD"], capture_output=True, text=True)
    found: dict[str, list[dict[str, float]]] = {"ours": [], "reference": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = Ours()
        (folder / "prefixes.json").write_text(json.dumps(ours.prefixes()))
        paths = [patched(reference, folder), folder / "prefixes.json", ours.inverse(folder)]
        command = [python, __file__, "--worker", *map(str, paths)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as worker:
            assert worker.stdin
            assert worker.stdout
            for number, values in enumerate(requests(count + 1)):
                worker.stdin.write(json.dumps(values) + "\n")
                worker.stdin.flush()
                theirs = json.loads(worker.stdout.readline())
                mine = ours.edit(values, folder / f"edit{number}")
                if number:
                    found["reference"].append(theirs)
                    found["ours"].append(mine)
            worker.stdin.close()
    report: dict[str, Any] = {"edits": count, "reference commit": commit.stdout.strip()}
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
    report["aim"] = AIM
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
