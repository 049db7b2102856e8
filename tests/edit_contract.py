"""What every method of the verb that writes weights promises, checked on tiny models of several architectures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.records import Example, RecordSet
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.edit_files import read_entries
from keeps.models.edit_rows import edit_rows, own_prefixes
from keeps.models.locate import mlp_outputs
from keeps.models.logits import check_logits, largest_difference
from keeps.models.weight_writer import keys_of
from keeps.registry import find_method

QUICK: dict[str, Any] = {
    "steps": 12,
    "learning_rate": 1.0,
    "clamp": 100.0,
    "moment_tokens": 400,
    "short_prefixes": 1,
    "long_prefixes": 1,
}
TEXT = RecordSet(
    "text", tuple(Example(f"t{n}", f"After {n} comes the number", f"{n + 1}, which is {n % 7}") for n in range(60))
)


def made(model: LanguageModel, method: str, edits: Sequence[Edit], folder: Path, **settings: Any) -> Any:
    """The change that ``method`` makes of ``edits``, which leaves the model bit by bit as it was."""
    before = model.fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    info = find_method(method, "edit")
    run = Run(folder)
    change = info.implementation(info.settings.from_mapping({**QUICK, **settings}))(model, edits, None, run=run)
    assert model.fingerprint == before
    return change


def updates(change: Any) -> dict[str, torch.Tensor]:
    """W' - W of each layer, ``(out, in)`` float64."""
    return {name: b.double() @ a.double() for name, (a, b) in change.factors().items()}


def probabilities(model: LanguageModel, edits: Sequence[Edit]) -> list[float]:
    scores = model.logprob([edit.prompt for edit in edits], [edit.target_new for edit in edits])
    return [score.logprob / score.tokens for score in scores]


def check_edits_and_undo(model: LanguageModel, method: str, edits: Any, folder: Path, **settings: Any) -> Any:
    """The model says other things; ``undo`` gives the same bytes back; the folder loads again and lists its edits.

    A random model of 32 dimensions need not say the target: what is written for one token reaches all others. That
    edits take is tested on the default model, and that values are met exactly in the tests of each method.
    """
    before, fingerprint = probabilities(model, edits), model.fingerprint
    change = made(model, method, edits, folder, **settings)
    assert model.fingerprint == fingerprint
    changed = load_change(folder).apply(model)
    after = probabilities(changed, edits)
    changed.undo()
    assert model.fingerprint == fingerprint
    assert not hasattr(model.model, "peft_config")
    assert all(abs(b - a) > 1e-3 for a, b in zip(before, after, strict=True)), (before, after)
    entries = read_entries(folder)
    assert [entry.id for entry in entries] == [edit.id for edit in edits]
    assert all(set(entry.share) == set(change.factors()) for entry in entries)
    measured = float(torch.tensor(entries[-1].measured["probability"]).log())
    assert abs(measured - after[-1]) < 1e-2, "what the method measured is what lies on disk"
    return change


def check_merged(model: LanguageModel, change: Any, folder: Path) -> None:
    """Merged into a checkpoint, the change gives the same logits."""
    assert change.export("merged", folder, model=model) < 1e-3


def check_forward(model: LanguageModel, change: Any) -> None:
    """peft's layer gives what the weights W + B A give, whichever way the layer stores them."""
    changed = change.apply(model)
    found = check_logits(changed.model, model.tokenizer)
    changed.undo()
    refs = {ref.name: ref for ref in mlp_outputs(model.model)}
    originals = {name: refs[name].weight.detach().clone() for name in change.factors()}
    with torch.no_grad():
        for name, update in updates(change).items():
            refs[name].weight.add_((update.T if refs[name].transposed else update).float())
    wanted = check_logits(model.model, model.tokenizer)
    with torch.no_grad():
        for name, original in originals.items():
            refs[name].weight.copy_(original)
    scale = max(float(logits.abs().max()) for logits in wanted)
    assert largest_difference(found, wanted) < 1e-4 * scale
    assert largest_difference(wanted, check_logits(model.model, model.tokenizer)) > 1e-4


def keys(model: LanguageModel, edits: Sequence[Edit], layers: Sequence[int]) -> Any:
    """The keys of ``edits`` as a method with the quick settings sees them."""
    prefixes = own_prefixes(model, QUICK["short_prefixes"], QUICK["long_prefixes"], 0)
    return keys_of(model, edit_rows(model, edits, prefixes), layers)
