"""LTI: edits that are reasoned with, not parroted, on top of ROME, MEMIT or AlphaEdit (arXiv:2410.07819).

A located edit is optimised until the model says the new object, and then says it where another answer is right: after
text that mentions the edit, about other subjects, in questions that build on it. Learn the inference replaces that
objective. The unedited model that reads the new fact in its prompt is the teacher, and the edited one without that
text must reason as it does, early and late:

    L = w_nkc (say the fact) + w_odc (the teacher's next words) + w_src (the teacher's middle state of the subject)

Only the value that is written differs; how it is written is the base method's (``base``).

Use when: an edited model repeats the new answer where it is wrong; multi-hop questions should build on an edit; an edit
must not leak into neighbouring facts or react to being mentioned.

Needs: edits that name their subject. Guarantees: those of the base method. With w_odc = w_src = 0 the value is that of
the base method without its divergence term.

The published weights and middle blocks are not to be had; 1, 1 and 0.25 and 0.3 of the depth are starting points, and
w_nkc is to be lowered as far as edits still take. In small models with tied embeddings a middle state may say nothing
through the last norm: where the context moves its words by less than 0.01 nats the run warns that w_src does nothing.
Fewer steps, a smaller clamp, more prefixes and batches, the mitigations that the paper finds of little use, are
settings as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.records import RecordSet
from keeps.edit.alphaedit import AlphaEdit
from keeps.edit.memit import MEMIT
from keeps.edit.rome import ROME
from keeps.errors import SettingsError
from keeps.models.changes import AdapterChange
from keeps.models.language_model import LanguageModel
from keeps.registry import method
from keeps.settings import Settings, setting
from keeps.training.inference_constraint import CONTEXT, DIRECTIONS, NO_OP, POSITIONS, InferenceConstraint
from keeps.training.locate_settings import LocateSettings
from keeps.training.value_objectives import Objective

BASES: dict[str, Any] = {"rome": ROME, "memit": MEMIT, "alphaedit": AlphaEdit}
_OF_BASE = (
    "order",
    "steps",
    "learning_rate",
    "weight_decay",
    "clamp",
    "stop_loss",
    "short_prefixes",
    "long_prefixes",
    "moment_tokens",
    "ridge",
    "edits_per_step",
    "stop_after",
    "strength",
    "text_limit",
    "threshold",
)


@dataclass(frozen=True, kw_only=True)
class LTISettings(Settings):
    """Settings of LTI; those that are not given are the base method's own."""

    base: str = setting("rome", "The method whose objective is replaced", choices=tuple(BASES))
    w_nkc: float = setting(1.0, "Weight of the new knowledge constraint: the fact is said", ge=0)
    w_odc: float = setting(1.0, "Weight of the output distribution constraint: the teacher's next words", ge=0)
    w_src: float = setting(0.25, "Weight of the subject representation constraint, in a middle block", ge=0)
    mid_layer: int | None = setting(None, "Middle block of w_src (default: 0.3 of the depth above the edit)", ge=0)
    context: str = setting(CONTEXT, "What the teacher reads first; {fact} is the edit as a sentence", advanced=True)
    kl: str = setting(
        DIRECTIONS[0], "Direction of the divergences; the code's is the first", choices=DIRECTIONS, advanced=True
    )
    constr_pos: str = setting(
        "subject",
        "Where middle states are compared: at the subject, where the target is predicted, or both",
        choices=POSITIONS,
        advanced=True,
    )
    layers: tuple[int, ...] | None = setting(None, "Blocks that are edited, from 0; one with base rome")
    order: str | None = setting(None, "batch or sequential, as the base method can", choices=("batch", "sequential"))
    steps: int | None = setting(None, "Steps of the search for a value at most", ge=1, unit="steps")
    learning_rate: float | None = setting(None, "Learning rate of the search for a value (Adam)", gt=0)
    weight_decay: float | None = setting(None, "Weight of ||delta|| / ||v_0||^2 in the loss", ge=0)
    clamp: float | None = setting(None, "Largest ||delta||, in ||v_0||", gt=0)
    stop_loss: float | None = setting(None, "Loss at which an edit is done", ge=0, unit="nats")
    short_prefixes: int | None = setting(None, "Self-generated texts of 5 tokens before the prompt", ge=0)
    long_prefixes: int | None = setting(None, "Self-generated texts of 10 tokens before the prompt", ge=0)
    moment_tokens: int | None = setting(None, "Tokens of local text that the statistics C are formed from", ge=1)
    ridge: float | None = setting(None, "Added to the diagonal of C, as a share of its mean", ge=0)
    edits_per_step: int | None = setting(None, "Edits of a sequence that are searched for side by side", ge=1)
    stop_after: int | None = setting(
        None, "Early stop: steps after every prompt ranks the new answer first (default: none)", ge=0, unit="steps"
    )
    text_limit: float | None = setting(
        None, "Largest change of what an edited layer gives on ordinary text, as a share", gt=0
    )
    strength: float | None = setting(None, "lambda of memit, or alpha of alphaedit", ge=0)
    threshold: float | None = setting(None, "Eigenvalue of C below which alphaedit counts a direction as unused", gt=0)

    def check(self) -> None:
        """Refuse an objective of nothing, options of what has no weight, and a context without the fact."""
        if not (self.w_nkc or self.w_odc or self.w_src):
            raise SettingsError("all three weights are 0, so nothing is learned", mend="give w_nkc")
        if not self.w_src and (self.mid_layer is not None or self.constr_pos != "subject"):
            mend = "give w_src, or leave them out"
            raise SettingsError("mid_layer and constr_pos would do nothing with w_src 0", mend=mend)
        if "{fact}" not in self.context:
            mend = f"write it such as {CONTEXT!r}"
            raise SettingsError("the context does not hold {fact}", where="context", mend=mend)
        if self.base == "rome" and self.layers is not None and len(self.layers) != 1:
            raise SettingsError("rome edits one block", where="layers", mend="name one, or choose base memit")
        self.of_base()

    def check_model(self, model: LanguageModel) -> None:
        """Refuse a model without such layers, or with quantised weights."""
        self.of_base().check_model(model)

    def of_base(self) -> LocateSettings:
        """The settings of the base method; what must not move is only asked where w_odc compares it."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _OF_BASE if getattr(self, name) is not None}
        known = {info.name for info in BASES[self.base].Settings.fields()}
        for name in sorted(set(values) - known):
            raise SettingsError(f"{self.base} has no {name}", where="lti", mend=f"leave {name} out")
        if self.layers is not None:
            values |= {"layer": self.layers[0]} if self.base == "rome" else {"layers": self.layers}
        return BASES[self.base].Settings(kl_weight=float(self.w_odc > 0), **values)


@method(
    "lti",
    verb="edit",
    card="evoke_lti",
    paper="arXiv:2410.07819",
    summary="Edits whose value makes the model reason as if it read the fact: less overfitting of ROME and its kin.",
    needs=("edits",),
    forms=("lora", "merged"),
)
class LTI:
    """Learn the inference: another objective for a locate-and-edit method."""

    Settings = LTISettings

    def __init__(self, settings: LTISettings) -> None:
        self.settings = settings
        self.earlier: Path | None = None

    def continue_from(self, folder: Path) -> None:
        """Spare the keys of the edits in ``folder``, where the base method does."""
        self.earlier = folder

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Write the edits as the base method does, leave a LoRA folder in ``run.folder``, and restore the weights."""
        settings = self.settings
        objective = InferenceConstraint(
            (),
            settings.w_nkc,
            settings.w_odc,
            settings.w_src,
            settings.mid_layer,
            settings.context,
            settings.kl,
            settings.constr_pos,
        )
        editor = _constrained(BASES[settings.base], objective)(settings.of_base())
        if self.earlier is not None and hasattr(editor, "continue_from"):
            editor.continue_from(self.earlier)
        change = editor(model, edits, keep, run=run)
        self._note(objective, run)
        measures = {**change.record.measures, **run.measures}
        record = replace(change.record, method="lti", settings=settings.to_mapping(), measures=measures)
        record.write(run.folder)
        return AdapterChange(run.folder, record)

    def _note(self, objective: InferenceConstraint, run: Run) -> None:
        """Say where the middle states told nothing."""
        if not objective.divergences:
            return
        moved = sum(objective.divergences) / len(objective.divergences)
        run.measures["src_divergence"] = moved
        if moved < NO_OP:
            run.progress.message(
                f"the context moves the middle states' words by {moved:.2g} nats, so w_src does next to nothing: "
                "choose another mid_layer, or w_src 0"
            )


def _constrained(base: Any, constraint: InferenceConstraint) -> Any:
    """The base method with another objective, which reads the prefixes that the base method finds."""

    class Constrained(base):
        """See :class:`LTI`."""

        def objective(self, prefixes: Sequence[str]) -> Objective:
            return replace(constraint, prefixes=prefixes)

    return Constrained
