"""How MEND's editor is trained, on facts and text that are on this machine; and the file that it is kept in.

    c_e * -log p_W'(y | another wording of x) + c_loc * KL( p_W || p_W' ) on unrelated text

over edits made from facts of the built-in world (their train part, so that other subjects are left to test on).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.edit_facts import edits_from_facts
from keeps.data.edits import Edit
from keeps.data.records import Fact
from keeps.data.select import load_records
from keeps.errors import StorageError, TrainingError
from keeps.models.batching import pad_right
from keeps.models.language_model import LanguageModel
from keeps.models.locate import ModuleRef
from keeps.models.projection import selected_logits
from keeps.training.edit_losses import Difference, EditBatch, adding, edit_batch, target_loss
from keeps.training.gradient_editor import GradientEditor, gradient_pairs
from keeps.weights.files import load_metadata, load_tensors, save_tensors

FACTS = "world:capital,world:continent,world:currency,world:country_of_city"
STATISTICS = 24  # edits whose gradients the editor's inputs are normalised by
TEXT_TOKENS = 48  # of unrelated text a step


@dataclass(frozen=True)
class EditorPlan:
    """Everything that decides what an editor becomes, beside the model and the seed."""

    rank: int
    steps: int
    learning_rate: float
    alpha: float
    alpha_rate: float
    edit_weight: float
    locality_weight: float


def trained_editor(
    model: LanguageModel,
    refs: Sequence[ModuleRef],
    plan: EditorPlan,
    run: Run,
    *,
    file: Path,
    edits: Sequence[Edit] | None = None,
) -> GradientEditor:
    """The editor in ``file`` if it is that of this model, plan and seed; otherwise one is trained, and kept there.

    Args:
        edits: to train on, each with a paraphrase; by default made from :data:`FACTS`.

    Raises:
        TrainingError: the loss is no number.
        StorageError: the file is damaged or not writable.
    """
    editor = GradientEditor(refs, plan.rank, plan.alpha, run.seed).to(model.device)
    identity = editor_identity(model, refs, plan, run.seed)
    if file.exists() and load_metadata(file).get("identity") == identity:
        load_editor(editor, file)
        run.measures["editor_trained"] = False
        return editor
    chosen = world_edits(run.seed) if edits is None else list(edits)
    losses = train_editor(model, refs, editor, chosen, plan, run)
    run.measures |= {"editor_trained": True, "editor_loss": sum(losses[-20:]) / len(losses[-20:])}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_editor(editor, file, identity)
    return editor


def train_editor(
    model: LanguageModel,
    refs: Sequence[ModuleRef],
    editor: GradientEditor,
    edits: Sequence[Edit],
    plan: EditorPlan,
    run: Run,
) -> list[float]:
    """Train ``editor`` in place, one edit a step; returns the loss of each step. The model stays as it is."""
    modules = {ref.name: ref.module for ref in refs}
    texts = _texts(model, edits, run.seed)
    order = _draws(len(edits), run.seed)
    editor.fit_statistics(
        [gradient_pairs(model, refs, _batch(model, edits[next(order)])) for _ in range(min(STATISTICS, plan.steps))]
    )
    alphas = [value for name, value in editor.named_parameters() if name.endswith("alpha")]
    others = [value for name, value in editor.named_parameters() if not name.endswith("alpha")]
    groups = [{"params": others}, {"params": alphas, "lr": plan.alpha_rate}]
    optimiser = torch.optim.Adam(groups, lr=plan.learning_rate)
    losses: list[float] = []
    with run.progress.task("training the editor", plan.steps) as task:
        for _ in range(plan.steps):
            edit, text = edits[next(order)], next(texts)
            factors = editor.updates(gradient_pairs(model, refs, _batch(model, edit)))
            wording = edit.paraphrases[0] if edit.paraphrases else edit.prompt
            with torch.no_grad():
                before = _logprobs(model, text)
            with adding(modules, {name: _product(*pair) for name, pair in factors.items()}):
                stated = target_loss(model, edit_batch(model, [wording], [edit.target_new]))
                after = _logprobs(model, text)
            drift = (before.exp() * (before - after)).sum(-1).mean()
            loss = plan.edit_weight * stated + plan.locality_weight * drift
            if not torch.isfinite(loss):
                mend = "lower editor_rate or alpha"
                raise TrainingError("the loss of the editor is no number", where=f"edit {edit.id}", mend=mend)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(editor.parameters()), 100.0)
            optimiser.step()
            losses.append(float(loss.detach()))
            task.advance(1)
            task.note(f"loss {losses[-1]:.3f}")
    return losses


def world_edits(seed: int) -> list[Edit]:
    """Edits of the train part of the built-in world's facts, each with other wordings."""
    facts = [fact for fact in load_records(FACTS).part("train") if isinstance(fact, Fact)]
    return list(edits_from_facts(facts, seed=seed))


def editor_identity(model: LanguageModel, refs: Sequence[ModuleRef], plan: EditorPlan, seed: int) -> str:
    """Hash of what decides an editor (16 hexadecimal digits)."""
    decides = [model.fingerprint, [ref.name for ref in refs], vars(plan), seed, FACTS]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]


def save_editor(editor: GradientEditor, file: Path, identity: str) -> None:
    """Write the editor as one safetensors file."""
    save_tensors(
        file, {name: value.detach().cpu() for name, value in editor.state_dict().items()}, {"identity": identity}
    )


def load_editor(editor: GradientEditor, file: Path) -> None:
    """Give ``editor`` the numbers in ``file``.

    Raises:
        StorageError: they are those of other layers.
    """
    tensors, own = load_tensors(file), editor.state_dict()
    if {name: value.shape for name, value in tensors.items()} != {name: value.shape for name, value in own.items()}:
        mend = "name the file of an editor of this model and these settings, or none to train one"
        raise StorageError("the editor belongs to other layers", where=str(file), mend=mend)
    editor.load_state_dict(tensors)


def _batch(model: LanguageModel, edit: Edit) -> EditBatch:
    return edit_batch(model, [edit.prompt], [edit.target_new])


def _product(a: Tensor, b: Tensor) -> Difference:
    return lambda x: x.to(a) @ a.T @ b.T


def _draws(count: int, seed: int) -> Iterator[int]:
    """Numbers below ``count``, shuffled anew each time all have been."""
    source = random.Random(f"{seed}\neditor")
    while True:
        order = list(range(count))
        source.shuffle(order)
        yield from order


def _texts(model: LanguageModel, edits: Sequence[Edit], seed: int) -> Iterator[list[list[int]]]:
    """Rows of unrelated text, a step's at a time: a piece of prose, and a neighbour of an edit with its answer."""
    pieces = [
        model.encoder.text(passage.text)[:TEXT_TOKENS] for passage in load_records("text").part("train").passages()
    ]
    near = [asked for edit in edits for asked in edit.locality if asked.kind == "same_relation"]
    source = random.Random(f"{seed}\ntexts")
    while True:
        rows = [source.choice(pieces)]
        if near:
            asked = source.choice(near)
            rows.append([token for part in model.encode_pair(asked.prompt, asked.answers[0]) for token in part])
        yield rows


def _logprobs(model: LanguageModel, rows: list[list[int]]) -> Tensor:
    """log p of the next token behind every token of ``rows``, ``(tokens, vocabulary)``."""
    ids, mask = pad_right(rows, model.encoder.pad_token_id, model.device)
    return selected_logits(model.model, ids, mask, mask.bool()).float().log_softmax(-1)
