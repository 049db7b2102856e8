"""Many edits with MEMIT: processor seconds of the reference implementation against ours, and the cost of one of many.

    git clone https://github.com/kmeng01/memit reference
    OMP_NUM_THREADS=1 python benchmarks/memit.py --reference reference --edits 100 --reference-edits 10

Both edit the same blocks of SmolLM2-135M with the same prefixes, steps, learning rate, clamp, decay, divergence, lambda
and C (whose collection is not counted), in one batch; ``--python`` names the interpreter of the reference's
environment. The reference searches for one value at a time, so its seconds grow with the edits; with
``--reference-edits`` it makes fewer of them, and the report says how many. The reference is written for GPT-2 on a GPU:
in a copy of its folder "cuda" becomes "cpu", its module names are those of Llama, and a block gives a tensor, not a
tuple. An edit takes if greedy decoding of its prompt begins with the new answer. Processor seconds are compared, which
a busy machine distorts less than the clock; ours are measured at 1, 10, ... edits as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import edit_reference as shared

STEPS = 24  # updates of a value at most; the reference counts the last look as a step too
SHARED: dict[str, Any] = {"learning_rate": 0.5, "weight_decay": 0.5, "clamp": 0.75, "kl_weight": 0.0625}
FACTS = "world:capital#200"
SIZES = (1, 10, 100)


class Ours:
    """MEMIT as `keeps edit` runs it, without what is asked before and after."""

    def __init__(self) -> None:
        from keeps.edit.memit import MEMITSettings
        from keeps.models import LanguageModel

        self.model = LanguageModel.load()
        self.settings = MEMITSettings(steps=STEPS, **SHARED)
        self.layers = self.settings.chosen_layers(self.model)

    def given(self, folder: Path) -> Path:
        """Prefixes, blocks, lambda and C, written for the reference; both sides find them on disk afterwards."""
        from keeps.contracts import Run
        from keeps.models.own_prefixes import stored_prefixes
        from keeps.training.locate_statistics import statistics
        from keeps.weights.files import save_tensors

        moments = statistics(self.model, self.layers, self.settings, Run(folder))
        width = next(iter(moments.values())).matrix.shape[0]
        texts = stored_prefixes(self.model, self.settings.short_prefixes, self.settings.long_prefixes, 0)
        save_tensors(folder / "c.safetensors", {str(n): moment.matrix.float() for n, moment in moments.items()})
        told = {"prefixes": texts, "layers": self.layers, "strength": self.settings.strength_at(width)}
        (folder / "given.json").write_text(json.dumps(told))
        return folder

    def edit(self, edits: Sequence[shared.Values], folder: Path) -> dict[str, float]:
        """Seconds of one batch, and the share that took."""
        from keeps.edit.memit import MEMIT

        return shared.edited(MEMIT(self.settings), self.model, edits, folder)


def reference_worker(folder: Path, given: Path) -> None:
    """The reference, which is asked for a batch of edits at a time."""
    answers = shared.become(folder)
    from memit import memit_main  # pyright: ignore[reportMissingImports,reportAttributeAccessIssue]
    from safetensors.torch import load_file

    language = shared.language_model()
    model, tokenizer = language.model, language.tokenizer
    told = json.loads((given / "given.json").read_text())
    settings = memit_main.MEMITHyperParams(
        layers=told["layers"],
        layer_selection="all",
        fact_token="subject_last",
        v_num_grad_steps=STEPS + 1,
        v_lr=SHARED["learning_rate"],
        v_loss_layer=len(model.model.layers) - 1,
        v_weight_decay=SHARED["weight_decay"],
        clamp_norm_factor=SHARED["clamp"],
        kl_factor=SHARED["kl_weight"],
        mom2_adjustment=True,
        mom2_update_weight=told["strength"],
        mom2_dataset="",
        mom2_n_samples=0,
        mom2_dtype="float32",
        lm_head_module="model.embed_tokens",  # tied, and the name that the parameter bears
        **shared.NAMES,
    )
    memit_main.CONTEXT_TEMPLATES_CACHE = [["{}", *(text + "{}" for text in told["prefixes"])]]  # one mean over all
    name = model.config._name_or_path.replace("/", "_")
    rewritten = shared.NAMES["rewrite_module_tmp"]
    matrices = load_file(given / "c.safetensors")
    memit_main.COV_CACHE |= {(name, rewritten.format(layer)): matrix for layer, matrix in matrices.items()}

    def answer(edits: Sequence[shared.Values]) -> dict[str, float]:
        asked = [{"case_id": number, **shared.request_of(edit)} for number, edit in enumerate(edits)]
        (_, before), spent = shared.timed(
            lambda: memit_main.apply_memit_to_model(model, tokenizer, asked, settings, return_orig_weights=True)
        )
        share = shared.took(language, edits)
        shared.restore(model, before)
        return {**spent, "took": share}

    shared.serve(answers, answer)


def patched(folder: Path, into: Path) -> Path:
    """A copy of the reference that runs on a processor, with blocks that give a tensor."""
    copy = shared.on_a_processor(folder, into, "memit/compute_z.py")
    values = copy / "memit" / "compute_z.py"
    values.write_text(values.read_text().replace("cur_out[0][", "cur_out[").replace(".output[0][", ".output["))
    return copy


def compare(reference: Path | None, python: str, count: int, theirs: int) -> dict[str, Any]:
    """Both on the first ``theirs`` edits, and ours at growing numbers of edits; a first edit of each is a warm-up."""
    edits = shared.requests(FACTS, count)
    report: dict[str, Any] = {"aim": shared.AIM, "edits": count}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = Ours()
        given = ours.given(folder)
        ours.edit(edits[:1], folder / "warm")
        if reference is not None:
            command = [python, __file__, "--worker", str(patched(reference, folder)), str(given)]
            with shared.worker(command) as ask:
                found = [ask(batch) for batch in (edits[:1], edits[:theirs])][-1]
            report["reference"] = {"commit": shared.commit_of(reference), "edits": theirs, **_each(found, theirs)}
        sizes = sorted({size for size in (*SIZES, theirs, count) if size <= count})
        report["ours"] = {size: _each(ours.edit(edits[:size], folder / f"{size}"), size) for size in sizes}
    if "reference" in report:
        report["ratio"] = {
            f"{theirs} edits against {size}": report["reference"]["processor"] / report["ours"][size]["processor"]
            for size in sorted({theirs, count})
        }
    return report


def _each(found: dict[str, float], edits: int) -> dict[str, float]:
    """Seconds an edit, and the share that took."""
    return {"clock": found["clock"] / edits, "processor": found["processor"] / edits, "took": found["took"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="a checkout of kmeng01/memit; without it ours alone")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the reference's environment")
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--reference-edits", type=int, help="edits that the reference makes (default: all)")
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        reference_worker(*options.worker)
        return
    theirs = options.reference_edits or options.edits
    if not 0 < theirs <= options.edits:
        parser.error("--reference-edits is more than --edits")
    reference = None if options.reference is None else options.reference.resolve()
    print(json.dumps(compare(reference, options.python, options.edits, theirs), indent=2))


if __name__ == "__main__":
    main()
