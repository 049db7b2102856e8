"""GraftLLM's claim: a fine-tune fits into a tenth of its size, and packs on one base forget nothing.

The fine-tunes are those of the claim of Twin-Merging, found again in the workspace. A pack is judged by the loss on
the taught facts in the wording that was never trained on: how much of what fine-tuning gained is still there. It is
compared at equal bytes with plain truncated SVD in 16 bits, and at the same bits with rounding to the nearest level.
Two tasks in sequence are packed on the untouched base and, for comparison, trained one after the other. A seed has
facts, fine-tunes and packs of its own. Thresholds are the card's, fixed before the first run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.over_seeds import over_seeds
from keeps.claims.twin_merging import RELATIONS, fine_tune, router_prompts, taught, trained
from keeps.claims.twin_merging_static import having
from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.data.select import load_records
from keeps.merge.skillpack import SkillPack, SkillPackSettings, fuse
from keeps.models.fine_tunes import Deltas, FineTune
from keeps.models.language_model import LanguageModel
from keeps.models.skillpack_files import PACK_FILE, SkillPackChange, report
from keeps.models.skillpack_model import FusedModel
from keeps.numerics.skillpack import decoded, low_rank

OLD, NEW = RELATIONS[:2]
SIZE: Mapping[str, Any] = {"embedding_share": 0.02, "attention": "banded"}
BANDS = ("8:8", "40:4", "104:2")  # the published 8/4/2 at a ninth of the width
PLAIN = ("32:16",)  # as many bytes in 16 bits, rather more than fewer: checked
CALIBRATION = 64  # texts
SEEDS = (0, 1, 2)  # of the facts and of what is drawn


def experiment(run: ClaimRun, seed: int) -> Iterator[Check]:
    """Pack, compare at equal bytes, learn in sequence, route."""
    model = run.model()
    facts = {relation: taught(relation, seed) for relation in (OLD, NEW)}
    tuned = {relation: fine_tune(model, relation, facts[relation], run, seed) for relation in (OLD, NEW)}
    yield identity_check(model, Deltas(model, tuned[OLD]))
    with tempfile.TemporaryDirectory() as folder:
        packs = {name: pack(model, item, Path(folder) / name, run, seed, bands=BANDS) for name, item in tuned.items()}
        yield from exactness_checks(model, packs[OLD])
        ways = {
            "pack": packs[OLD],
            "plain SVD, 16 bits": pack(model, tuned[OLD], Path(folder) / "svd", run, seed, bands=PLAIN),
            "nearest level": pack(model, tuned[OLD], Path(folder) / "near", run, seed, bands=BANDS, rounding="nearest"),
        }
        yield from size_checks(model, tuned[OLD], facts[OLD], ways, run)
        yield from sequence_checks(model, tuned, facts, packs, run, seed)
        yield router_check(model, packs, facts)


def pack(
    model: LanguageModel, tuned: FineTune, folder: Path, run: ClaimRun, seed: int, **settings: Any
) -> SkillPackChange:
    """The method itself, calibrated on prompts of the task and paragraphs of running text."""
    run.progress.message(f"pack of {tuned.name}: {folder.name}")
    folder.mkdir()
    texts = [*tuned.prompts[: CALIBRATION // 2], *(p.text for p in load_records("text").passages())][:CALIBRATION]
    chosen = SkillPackSettings(**{**SIZE, **settings})
    return SkillPack(chosen)(model, tuned, texts, run=Run(folder, seed=seed, progress=run.progress))


def unseen_loss(answerer: Any, facts: RecordSet) -> float:
    """Mean loss in nats per fact on the wording that was never trained on."""
    questions = facts.questions()
    scores = answerer.logprob([q.prompts[-1] for q in questions], [q.answers[0] for q in questions])
    return -sum(score.logprob for score in scores) / len(scores)


def identity_check(model: LanguageModel, deltas: Deltas) -> Check:
    """Check 2 of the card, first half: full rank in 16 bits, of one block's matrices."""
    parameters = dict(model.model.named_parameters())
    far = 0.0
    for name in deltas.names:
        if ".layers.12." in name and parameters[name].dim() == 2:
            delta = deltas.of(name)
            found = decoded("low_rank", low_rank(delta), tuple(delta.shape))
            far = max(far, float(((found - delta).abs() / parameters[name].detach().abs().mean()).max()))
    threshold = "below 2^-9 of the mean weight: the rounding of bfloat16"
    return Check("full rank in 16 bits against the fine-tune, largest difference", far, threshold, far < 2**-9)


def exactness_checks(model: LanguageModel, change: SkillPackChange) -> Iterator[Check]:
    """Checks 2 (detaching) and 5 (bytes) of the card."""
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    change.apply(model).undo()
    now = model.model.state_dict()
    wrong = sum(not torch.equal(now[name], tensor) for name, tensor in before.items())
    yield Check("tensors that detaching does not restore to the bit", wrong, "none", wrong == 0)
    path = change.folder / PACK_FILE
    header = int.from_bytes(path.read_bytes()[:8], "little") + 8
    size = path.stat().st_size - header
    counted = sum(entry["bytes"] for entry in report(change.folder).values())
    apart = abs(size / counted - 1)
    note = f"{counted} bytes, header {header}"
    yield Check("reported bytes against the file without its header", apart, "within 2 %", apart < 0.02, note=note)


def size_checks(
    model: LanguageModel, tuned: FineTune, facts: RecordSet, ways: Mapping[str, SkillPackChange], run: ClaimRun
) -> Iterator[Check]:
    """Check 3 of the card."""
    deltas = Deltas(model, tuned)
    parameters = dict(model.model.named_parameters())
    whole = 2 * sum(parameters[name].numel() for name in deltas.names)  # bytes in bfloat16
    start = unseen_loss(model, facts)
    with having(model, lambda name, base: base + deltas.of(name)) as changed:
        best = unseen_loss(changed, facts)
    loss, size = {}, {}
    for name, change in ways.items():
        size[name] = sum(entry["bytes"] for entry in report(change.folder).values()) / whole
        changed = change.apply(model)
        try:
            loss[name] = unseen_loss(changed, facts)
        finally:
            changed.undo()
    run.tables["loss on the unseen wording"] = {"untouched": start, "fine-tune": best, **loss}
    run.tables["size, share of the difference in bfloat16"] = size
    kept = (start - loss["pack"]) / (start - best)
    enough = size["pack"] <= 0.1 and kept >= 0.9
    note = f"size {size['pack']:.3f} of the difference in bfloat16"
    yield Check("share of the loss reduction in the pack", kept, "0.9 or more at 10 % or less", enough, note=note)
    for name in list(ways)[1:]:
        fair = size[name] >= size["pack"] * 0.98 and loss["pack"] < loss[name]
        note = f"size {size[name]:.3f} against {size['pack']:.3f}"
        yield Check(
            f"loss of the pack against {name}", loss["pack"], "below, at no more bytes", fair, loss[name], note=note
        )


def sequence_checks(
    model: LanguageModel,
    tuned: Mapping[str, FineTune],
    facts: Mapping[str, RecordSet],
    packs: Mapping[str, SkillPackChange],
    run: ClaimRun,
    seed: int,
) -> Iterator[Check]:
    """Check 4 of the card: task after task, as packs and as one training after the other."""

    def with_packs(names: tuple[str, ...]) -> float:
        fused: FusedModel = fuse(model, {name: packs[name] for name in names})
        fused.use(OLD)
        return unseen_loss(fused, facts[OLD])

    before, after = with_packs((OLD,)), with_packs((OLD, NEW))
    yield Check("old task's loss with its pack, after the new task", after, "identical", after == before, before)
    run.progress.message(f"fine-tune on {NEW} after {OLD}")
    first = run.model(tuned[OLD].folder)
    alone = unseen_loss(first, facts[OLD])
    second = run.model(trained(first, facts[NEW], run, "graftllm", seed))
    rise = unseen_loss(second, facts[OLD]) - alone
    threshold = "a rise of 0.1 nats or more"
    yield Check("old task's loss after sequential fine-tuning, rise", rise, threshold, rise >= 0.1)


def router_check(model: LanguageModel, packs: Mapping[str, SkillPackChange], facts: Mapping[str, RecordSet]) -> Check:
    """Check 4 of the card, the router, on subjects that it has not seen."""
    fused = fuse(model, packs, {name: router_prompts(name) for name in packs})
    right = asked = 0
    for name, records in facts.items():
        prompts = [prompt for question in records.questions() for prompt in question.prompts]
        right += sum(route == name for route in fused.named(prompts))
        asked += len(prompts)
    return Check("accuracy of the router, other subjects", right / asked, "0.95 or more", right / asked >= 0.95)


CLAIM = Claim(
    card="graftllm",
    statement="A pack of a tenth of a fine-tune's size keeps nine tenths of what fine-tuning gained, better than plain "
    "SVD at equal bytes, and packs of several tasks on one base forget nothing.",
    published="Llama-3.1-8B-Instruct: packs about ten times smaller than the models beat LoRA, Twin-Merging, TIES and "
    "DARE in transfer and fusion; continual learning keeps the old task",
    paper="arXiv:2505.18502",
    seeds=SEEDS,
    minutes=30,
    experiment=over_seeds(experiment, SEEDS),
)
