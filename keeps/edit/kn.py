"""KN: rewrite the few neurons that a fact hangs on, by the embeddings of its old and new answer (arXiv:2104.08696).

A feed-forward part is read as a memory: neuron i fires on what it knows, and column v_i of the down-projection, its
value slot, is what it says then. What a neuron adds to the old answer y is its integrated gradient at the last token
of the prompt, w_i its activation there:

    Attr_i = w_i * integral over a in [0, 1] of dP(y; a w_i)/dw_i

Of each wording of the fact those above ``threshold`` times the largest are kept, and of these the ones that a share p
of the wordings have in common; p moves until they are ``least`` to ``most``. Their value slots are rewritten:

    v_i' = v_i - lambda1 e(y) + lambda2 e(y')                                                     (``scale`` equation)

e is the embedding of a token. The published code stretches both embeddings to the length of v_i (``scale`` code).
Neither looks at what neuron i reads, which in gated models is as often negative as not, so that what is added says the
contrary. ``scale`` search, ours, adds the vectors of the code with the sign of w_i, all of them times the smallest
number with which the new token reaches the probability ``reach`` over the wordings, and leaves out neurons that alone
make it less probable.

Use when: the neurons that a fact hangs on are to be seen and changed by name; a weak published baseline is to be
compared with; nothing may be trained.

Needs: edits; a subject is not asked for. Guarantees: rank one a neuron and edit, so that each edit can be withdrawn;
only the columns of the listed neurons change, by the stated vectors; the model as it was after ``undo()``.

It is known to be weak. One token is changed, the first at which both answers part; how an answer of several tokens goes
on is left to the model, and a new answer that the old one begins with is refused. A column says its new word wherever
its neuron fires, not for this fact alone: in the default model other answers hardly ever stay as they were. The paper
spares neurons that many facts of a relation share, for which it needs these facts, and nothing does so here.
Paraphrases that the edit brings along choose its neurons, so that a measure over the same ones flatters it;
``wordings`` prefixes leaves them out. Where a norm follows the MLP (Gemma 2 and 3), scaling all neurons together
changes nothing, and attributions say only which of them pull more than others.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.records import RecordSet
from keeps.errors import RecordError, SettingsError, TargetError
from keeps.models.adapters import Factors
from keeps.models.changes import AdapterChange
from keeps.models.checks import check_context
from keeps.models.edit_files import EditEntry, finish_weights
from keeps.models.language_model import LanguageModel
from keeps.models.locate import mlp_outputs
from keeps.models.neurons import token_attributions
from keeps.models.own_prefixes import stored_prefixes
from keeps.models.projection import evaluating, last_logits, unwrapped
from keeps.models.weight_writer import Writer, writing
from keeps.numerics.neurons import refined_neurons
from keeps.registry import method
from keeps.settings import Settings, setting
from keeps.training.edit_losses import check_targets, probabilities
from keeps.training.value_slots import Slots, as_far_as_needed

EQUATION, CODE, SEARCH = "equation", "code", "search"
REACH = 0.6  # above one half no other token is likelier; what goes further costs other facts more


@dataclass(frozen=True, kw_only=True)
class KNSettings(Settings):
    """Settings of KN."""

    threshold: float = setting(0.2, "Share of a wording's largest attribution above which a neuron counts", ge=0, lt=1)
    share: float = setting(0.7, "p: share of the wordings that a neuron must count in, to begin with", gt=0, le=1)
    refine: bool = setting(True, "Move p until there are least to most neurons; otherwise take what p gives")
    least: int = setting(2, "Neurons of an edit, if the wordings have as many", ge=1)
    most: int = setting(5, "Neurons of an edit at most", ge=1)
    path_steps: int = setting(20, "Summands of the path integral", ge=1)
    lambda1: float = setting(1.0, "Weight of the old answer's embedding, which is taken away", ge=0)
    lambda2: float = setting(8.0, "Weight of the new answer's embedding, which is added", gt=0)
    scale: str = setting(
        EQUATION,
        "equation: embeddings as they are; code: as long as the value slots; search: as far as the answer needs",
        choices=(EQUATION, CODE, SEARCH),
    )
    reach: float | None = setting(
        None, f"Probability of the new token at which scale search stops (default: {REACH})", gt=0, lt=1
    )
    embedding: str = setting(
        "input",
        "Which table e is taken from: input, as in the paper, or output; many models have one for both",
        choices=("input", "output"),
    )
    wordings: str = setting(
        "paraphrases",
        "What shows which neurons a fact has beside its prompt: its paraphrases, if it has any, or prefixes",
        choices=("paraphrases", "prefixes"),
    )
    short_prefixes: int = setting(2, "Self-generated texts of 5 tokens that the prompt is put behind", ge=0)
    long_prefixes: int = setting(2, "Self-generated texts of 10 tokens that the prompt is put behind", ge=0)
    order: str = setting("sequential", "sequential: one edit after another", choices=("sequential",))

    def check(self) -> None:
        """Refuse what contradicts itself or would do nothing."""
        if self.least > self.most:
            what = f"an edit cannot have {self.least} neurons at least and {self.most} at most"
            raise SettingsError(what, where="least", mend="lower least or raise most")
        if not self.refine and (self.least, self.most) != (2, 5):
            raise SettingsError("least and most would do nothing with refine off", mend="leave them out, or refine")
        if self.reach is not None and self.scale != SEARCH:
            raise SettingsError(f"reach would do nothing with scale {self.scale}", mend="take scale search")

    def check_model(self, model: LanguageModel) -> None:
        """Refuse a model without one MLP a block, with quantised weights, or with embeddings of another width."""
        refs, table = mlp_outputs(model.model), self.table(model)
        if table.shape[1] != refs[0].out_features:
            what = f"the embeddings have {table.shape[1]} dimensions and the blocks {refs[0].out_features}"
            raise TargetError(what, where=model.name, mend="take rome, or a model whose embeddings are as wide")

    def table(self, model: LanguageModel) -> Tensor:
        """The embeddings that e is taken from, ``(vocabulary, hidden)``."""
        base: Any = unwrapped(model.model)
        module = base.get_input_embeddings() if self.embedding == "input" else base.get_output_embeddings()
        return module.weight.detach()


class Place(NamedTuple):
    """Where two answers part: the wordings up to there as token ids, the bare prompt first, and both next tokens."""

    contexts: list[list[int]]
    old: int
    new: int


def slot_changes(values: Tensor, old: Tensor, new: Tensor, lambda1: float, lambda2: float, scale: str) -> Tensor:
    """What is added to value slots: lambda2 e(new) - lambda1 e(old), but for ``equation`` with |e| = |v_i|.

    >>> slots, old, new = torch.tensor([[3.0], [4.0]]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    >>> slot_changes(slots, old, new, 1.0, 8.0, "equation").T.tolist()
    [[-1.0, 16.0]]
    >>> slot_changes(slots, old, new, 1.0, 8.0, "code").T.tolist()
    [[-5.0, 40.0]]

    Args:
        values: the columns v_i, ``(out, neurons)``.
        old, new: embeddings, ``(out,)``.
        scale: ``"equation"``, or any other.

    Returns:
        ``(out, neurons)``, as ``values``.
    """
    if scale == EQUATION:
        return (lambda2 * new - lambda1 * old)[:, None].expand_as(values)
    return (lambda2 * new / new.norm() - lambda1 * old / old.norm())[:, None] * values.norm(dim=0)


@method(
    "kn",
    verb="edit",
    card="knowedit",
    paper="arXiv:2104.08696",
    summary="Rewrite the value slots of the few neurons that a fact hangs on; nothing is trained. Weak, but named.",
    needs=("edits",),
    forms=("lora", "merged"),
)
class KN:
    """Knowledge neurons."""

    Settings = KNSettings

    def __init__(self, settings: KNSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Write the edits one after another, leave a LoRA folder in ``run.folder``, and give the weights back.

        Raises:
            EmptySetError: there is no edit.
            RecordError: an edit contradicts itself or another, or its new answer is how the old one begins.
            ContextLengthError: a wording is longer than the model's context.
            SettingsError: no neuron speaks for an old answer, or none in as many wordings as ``share`` asks for.
            TargetError: the model has no single MLP a block, a quantised one, or embeddings of another width.
            StorageError: the disk is full or the folder is not writable.
        """
        del keep  # nothing here protects it
        s = self.settings
        check_targets(edits)
        s.check_model(model)
        fingerprint = model.fingerprint
        prefixes = stored_prefixes(model, s.short_prefixes, s.long_prefixes, run.seed, fingerprint=fingerprint)
        places = [self.place(model, edit, prefixes) for edit in edits]
        refs, entries = mlp_outputs(model.model), []
        with ExitStack() as stack, run.progress.task("edits", len(edits)) as task:
            writers: dict[int, Writer] = {}  # of the blocks that are written to: a copy of each of their weights
            for edit, place in zip(edits, places, strict=True):
                slots, measured = self.search(model, edit, place)
                share = {}
                for block, neurons, added in slots:
                    if block not in writers:
                        writers[block] = stack.enter_context(writing(model, [block]))
                    one_hot = torch.eye(refs[block].in_features)[neurons]
                    share[refs[block].name] = list(writers[block].write(block, one_hot, added))
                chances = _logits(model, place.contexts[0]).softmax(-1)
                measured |= {"token_probability": float(chances[place.new])}
                measured |= {"token_is_likeliest": bool(chances.argmax() == place.new)}
                measured |= {"probability": probabilities(model, [edit])[0]}
                entries.append(EditEntry.of(edit, share, **measured))
                task.advance(1)
                task.note(f"p {measured['probability']:.2f}")
            factors: Factors = {name: pair for writer in writers.values() for name, pair in writer.factors().items()}
            run.measures["update_norm"] = max(norm for writer in writers.values() for norm in writer.norms().values())
        run.measures["neurons"] = sum(len(entry.measured["neurons"]) for entry in entries) / len(entries)
        missed = sum(not entry.measured["token_is_likeliest"] for entry in entries)
        if missed:
            what = f"{missed} of {len(edits)} edits did not make the new token the likeliest"
            run.progress.message(f"{what}: kn is weak; try scale search, or rome")
        return finish_weights("kn", s, model, edits, factors, entries, run, fingerprint=fingerprint)

    def place(self, model: LanguageModel, edit: Edit, prefixes: Sequence[str]) -> Place:
        """Where the old answer (without one the model's own, token by token) and the new one part.

        Raises:
            RecordError: they do not.
        """
        goal = model.encode_pair(edit.prompt, edit.target_new)[1]
        known = model.encode_pair(edit.prompt, edit.target_true)[1] if edit.target_true else []
        by_paraphrase = self.settings.wordings == "paraphrases" and edit.paraphrases
        others = edit.paraphrases if by_paraphrase else tuple(prefix + edit.prompt for prefix in prefixes)
        contexts = [model.encode_pair(text, edit.target_new)[0] for text in (edit.prompt, *others)]
        for number, context in enumerate(contexts):
            check_context(number, edit.prompt, len(context) + len(goal), model.context_length, model.name)
        for shared, new in enumerate(goal):
            old = known[shared] if shared < len(known) else int(_logits(model, contexts[0] + goal[:shared]).argmax())
            if old != new:
                return Place([context + goal[:shared] for context in contexts], old, new)
        what = (
            f'the old answer begins with the new one, "{edit.target_new}", and kn changes the token at which they part'
        )
        raise RecordError(what, where=f"edit {edit.id}", mend="take ft_m or rome, or give a longer target")

    def search(self, model: LanguageModel, edit: Edit, place: Place) -> tuple[list[Slots], dict[str, Any]]:
        """The neurons of a fact in the model as it is now, with what to add to them; and what was measured.

        Raises:
            SettingsError: there is none.
        """
        s = self.settings
        scores = token_attributions(model, place.contexts, [place.old] * len(place.contexts), steps=s.path_steps)
        bounds: dict[str, Any] = {"least": s.least, "most": s.most} if s.refine else {"least": 0, "most": None}
        chosen, p = refined_neurons(scores.flatten(1), threshold=s.threshold, share=s.share, **bounds)
        if not len(chosen):
            what = f"no neuron speaks for the old answer in {p:.0%} of the wordings"
            raise SettingsError(what, where=f"edit {edit.id}", mend="lower share or threshold, or refine")
        found = sorted(divmod(number, scores.shape[2]) for number in chosen.tolist())
        table, refs = s.table(model), mlp_outputs(model.model)
        old, new = table[place.old].float(), table[place.new].float()
        slots = []
        for block in dict(found):
            neurons = [neuron for number, neuron in found if number == block]
            values = refs[block].matrix[:, neurons].float()
            slots.append(Slots(block, neurons, slot_changes(values, old, new, s.lambda1, s.lambda2, s.scale)))
        size = {}
        if s.scale == SEARCH:
            slots, size["size"] = as_far_as_needed(
                model, place.contexts, place.new, slots, REACH if s.reach is None else s.reach
            )
        listed = [[block, neuron] for block, neurons, _ in slots for neuron in neurons]
        return slots, {"neurons": listed, "shared_by": p, **size}


@torch.no_grad()
def _logits(model: LanguageModel, context: Sequence[int]) -> Tensor:
    """Of the token behind ``context``, ``(vocabulary,)`` float32."""
    with evaluating(model.model):
        return last_logits(model.model, torch.tensor([list(context)], device=model.device))[0].float()
