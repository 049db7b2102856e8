"""Dynamic logit fusion: small fine-tuned models steer a large one while it speaks, each token by as much as it needs.

Fine-tuning a large model on every task is dear, fine-tuning a small one is cheap. At every token the logits of small
*experts*, less those of the small *base* that they were trained from, are added to the large model's (Fan et al. 2024,
"On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits Fusion", arXiv:2406.15480):

    P_a = softmax(M_L + sum_k a_k (M_k - M_S)),
    a* = argmin sum_k [KL(P_a || P) - KL(Q_k || Q)]^2 + [KL(P || P_a) - KL(Q || Q_k)]^2

so that the large model is moved as far as its small relative was. Proxy tuning is the same with a = 1 everywhere. The
result is a LanguageModel over all of them: probes, diffs and retrieval ask it as they ask any other.

Use when: a large model is too dear to fine-tune, and small ones of its family are not; several small experts shall
steer one model, each where its task is; a fine-tuned small model shall hand its skill to a larger one without training.

Needs: a large model, a small one of the same vocabulary, and fine-tunes of the small one, each loaded by itself.
Guarantees: no weight changes; where all experts say what the small base says, the large model speaks alone; where the
large model says what the small base says, a single expert speaks alone; shifting any logits by a constant changes
nothing; the exact solution is never worse than the published grid.

Where the paper leaves it open: there is no official code. The paper searches a grid of 21 values; here alpha is solved
for, and ``solver="grid"`` is that search. ``objective="forward"`` has the first bracket alone. One expert is active a
token (the paper finds that the optimum mostly lies there); ``active="all"`` searches all combinations of the grid.
Where experts do equally well (as a rule with ``forward``) the one with the least backward error is taken. ``top``,
ours, lets only the likeliest tokens of any model and one bucket for the rest decide: over a whole vocabulary the tail
of tiny probabilities can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import Run
from keeps.errors import SettingsError
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:  # a merge of files imports all merge methods, and no tensor library
    from keeps.decoding.fusing import FusionCombine
    from keeps.decoding.steered import SteeredModel
    from keeps.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class LogitFusionSettings(Settings):
    """Settings of dynamic logit fusion; the defaults are the published objective and range, solved exactly."""

    objective: str = setting(
        "symmetric", "Match both divergences, or the forward one alone", choices=("symmetric", "forward")
    )
    solver: str = setting("exact", "Solve for alpha, or search the published grid", choices=("exact", "grid"))
    alpha_max: float = setting(2.0, "The largest alpha", gt=0, le=100)
    step: float = setting(0.1, "Distance of the grid's points", gt=0, le=100)
    active: str = setting(
        "one", "Experts with an alpha above 0 at a token: one, or any number (grid only)", choices=("one", "all")
    )
    top: int = setting(0, "Likeliest tokens of each model that decide alpha; 0: all, as published", ge=0)

    def check(self) -> None:
        """Refuse what would do nothing, or has no solution."""
        if self.solver == "exact" and self.step != 0.1:
            raise SettingsError(
                "the exact solution takes no steps", where="step", mend='leave it out, or choose "grid"'
            )
        if self.solver == "grid" and self.step > self.alpha_max:
            raise SettingsError("one step goes beyond alpha_max", where="step", mend="choose a smaller one")
        if self.active == "all" and self.solver == "exact":
            what = "several experts at once have no exact solution: many combinations are equally good"
            raise SettingsError(what, where="active", mend='choose the solver "grid", or one active expert')

    def combine(self) -> FusionCombine:
        """The function that these settings make of the streams' logits."""
        from keeps.decoding.fusing import FusionCombine

        options: dict[str, Any] = self.to_mapping()
        options["step"] = min(self.step, self.alpha_max)
        return FusionCombine(**options)


@method(
    "logit_fusion",
    verb="merge",
    paper="arXiv:2406.15480",
    summary="Small fine-tuned models steer a large one as it speaks, each token by as much as it needs.",
    card="logits_fusion",
    needs=(),
)
class LogitFusion:
    """See the top of this file."""

    Settings = LogitFusionSettings

    def __init__(self, settings: LogitFusionSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, small: LanguageModel, experts: Mapping[str, LanguageModel], *, run: Run
    ) -> SteeredModel:
        """A model that speaks as ``model`` does, steered by ``experts``; nothing is written, no weight changes.

        Args:
            model: the large one.
            small: the base of the experts.
            experts: by name; each in memory of its own. An expert that is ``small`` itself differs by its prompts, and
                serves :meth:`keeps.decoding.steered.SteeredModel.decode` only.
            run: hears of what looks like a mistake.

        Raises:
            SettingsError: no expert, too many for the grid, models of different vocabularies, or one whose logits are
                not to be had.
        """
        from keeps.decoding.steered import SteeredModel

        combine = self.settings.combine()
        combine.check_experts(len(experts))
        for name, expert in experts.items():
            for what in _odd(model, small, expert):
                run.progress.message(f'the expert "{name}" {what}')
        return SteeredModel(model, small, experts, combine)


def _odd(large: LanguageModel, small: LanguageModel, expert: LanguageModel) -> list[str]:
    """What speaks against an expert: it was hardly trained from the small base, or reads texts that begin otherwise."""
    from keeps.models.scoring import text_config

    found = []
    sizes = ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size")
    own, base = text_config(expert.model), text_config(small.model)
    if any(getattr(own, name, None) != getattr(base, name, None) for name in sizes):
        found.append(f"is of another form than {small.name}, and can hardly have been trained from it")
    if expert.encoder.leading != large.encoder.leading:
        found.append(f"begins texts with other special tokens than {large.name}, whose tokens it is given")
    return found
