"""Many edits one after another: how far ordinary text has moved; and what a codebook leaves alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.claims.base import Check
from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.select import load_records
from keeps.models.edit_files import withdraw
from keeps.models.language_model import LanguageModel
from keeps.models.projection import evaluating
from keeps.numerics.divergences import kl_divergence
from keeps.numerics.editing_scores import fluency
from keeps.numerics.statistics import Estimate, mean_interval
from keeps.probe.matching import matches
from keeps.registry import find_method

PASSAGES, WINDOW = 8, 96  # of neutral text that the divergence is measured on
REPEATING, NORMAL = 1.0, 4.0  # bits below and above which generated text counts as degenerate and as normal


def neutral_texts(model: LanguageModel) -> list[Tensor]:
    """Token ids of held-out running text, ``(1, time)`` each."""
    passages = load_records("text").part("test").passages()[:PASSAGES]
    return [torch.tensor([model.encoder.text(item.text)[:WINDOW]], device=model.device) for item in passages]


@torch.no_grad()
def text_logits(model: LanguageModel, texts: Sequence[Tensor]) -> list[Tensor]:
    """Logits at every position of each text."""
    with evaluating(model.model):
        return [model.model(input_ids=ids).logits[0].float().cpu() for ids in texts]


def divergence(before: Sequence[Tensor], after: Sequence[Tensor]) -> Estimate:
    """Mean KL(before || after) over texts, nats a token, with its interval over texts."""
    return mean_interval([float(kl_divergence(b, a).mean()) for b, a in zip(before, after, strict=True)])


def after_sequence(
    model: LanguageModel, edits: Sequence[Edit], method: str, settings: Mapping[str, Any], base: Sequence[Tensor]
) -> dict[str, Any]:
    """How far neutral text moves by ``edits`` one after another, the share that holds at the end, seconds an edit.

    Args:
        base: logits of the neutral texts before them.

    Returns:
        The row of the table, of JSON types.
    """
    info = find_method(method, "edit")
    texts = neutral_texts(model)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        change = info.implementation(info.settings.from_mapping(settings))(model, edits, None, run=run)
        changed = change.apply(model)
        try:
            moved = divergence(base, text_logits(changed, texts))
            said = changed.ask([edit.prompt for edit in edits], [edit.target_new for edit in edits])
        finally:
            changed.undo()
    held = [matches(found.text, (edit.target_new,)) for found, edit in zip(said, edits, strict=True)]
    seconds = float(run.measures.get("edit_seconds", float("nan")))
    found = {"divergence": moved.value, "low": moved.low, "high": moved.high}
    return {**found, "success": sum(held) / len(held), "seconds": seconds}


def fluency_checks() -> Iterator[Check]:
    """The entropy of a text that repeats itself against that of ordinary text."""
    repeating = fluency("Oslo is in Sweden " + "Sweden " * 100)
    texts = [item.text for item in load_records("text").part("test").passages()[:PASSAGES]]
    normal = sum(fluency(" ".join(text.split()[:80])) for text in texts) / len(texts)
    yield Check("fluency of a text that repeats itself, bits", repeating, f"below {REPEATING:g}", repeating < REPEATING)
    yield Check("fluency of ordinary text, bits", normal, f"above {NORMAL:g}", normal > NORMAL)


def grace_checks(
    model: LanguageModel, edits: Sequence[Edit], unrelated: Sequence[tuple[str, str]], settings: Mapping[str, Any]
) -> Iterator[Check]:
    """GRACE: misses give the very same numbers, hits the new answer, and a deleted edit the old one."""
    info = find_method("grace", "edit")
    prompts, answers = [prompt for prompt, _ in unrelated], [answer for _, answer in unrelated]
    old = model.logprob(prompts, answers)
    own = [edit.prompt for edit in edits], [edit.target_new for edit in edits]
    before = model.logprob(*own)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "run"
        target.mkdir()
        change = info.implementation(info.settings.from_mapping(settings))(model, edits, None, run=Run(target))
        changed = change.apply(model)
        new = changed.logprob(prompts, answers)
        said = changed.ask(*own)
        changed.undo()
        same = sum(a.logprob == b.logprob for a, b in zip(old, new, strict=True)) / len(old)
        yield Check(
            "GRACE: unrelated prompts with bit-identical log-probabilities",
            same,
            "all",
            same == 1.0,
            note=f"n {len(old)}",
        )
        hits = sum(matches(f.text, (e.target_new,)) for f, e in zip(said, edits, strict=True)) / len(edits)
        yield Check(f"GRACE: edits that succeed of {len(edits)}", hits, "all", hits == 1.0)
        left: Any = withdraw(target, [edits[0].id], Path(folder) / "left").apply(model)
        restored = left.logprob(own[0][:1], own[1][:1])[0].logprob
        left.undo()
    difference = abs(restored - before[0].logprob)
    name = "GRACE: log-probability of a deleted edit, difference to the unedited model"
    yield Check(name, difference, "below 1e-4", difference < 1e-4)
