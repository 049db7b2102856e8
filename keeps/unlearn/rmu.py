"""RMU: steer the hidden states of what is to be forgotten to a random direction (Li et al. 2024, arXiv:2403.03218).

    L = mean ||h_l(x_f) - c u||^2 / d  +  alpha mean ||h_l(x_r) - h_l^old(x_r)||^2 / d

u is a random unit vector with entries of one sign, h_l what leaves block l. A model whose states carry nothing any
more cannot answer, in whatever words it is asked; on the retain set the states stay where they were. Only the
down-projections of blocks l-2 to l are trained, unless ``train=all``.

Use when: hazardous or private knowledge of a whole field must go, not single answers; answers must be gone in every
wording; a text corpus says what to forget rather than questions.

Needs: what is to be forgotten, and what is to be retained. Guarantees: layers outside blocks l-2 to l are untouched.

``layer`` is a block counted from 0 or the end of one block's name, and by default lies at 7/16 of the depth, as the
7th of 16 does in the common setting. ``positions=answer`` takes the states at the answer's tokens alone, as
open-unlearning does; the paper takes all tokens of a text, prompts included. With all parameters trained, chat
ability of larger models suffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import TargetError
from keeps.models.language_model import LanguageModel
from keeps.models.locate import blocks, mlp_outputs
from keeps.models.scoring import text_config
from keeps.numerics.forgetting_losses import random_direction
from keeps.registry import method
from keeps.settings import setting
from keeps.training.batches import TokenizedExample, stable_seed
from keeps.training.examples import tokenise
from keeps.training.forgetting import Anchored, Misdirection
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples, written

DEPTH = 7 / 16  # of the default layer
BELOW = 2  # blocks under it that are trained too


@dataclass(frozen=True, kw_only=True)
class RMUSettings(RetainSettings):
    """Settings of RMU."""

    layer: str | None = setting(
        None, "Block whose output is steered: its number from 0, or the end of its name (default: 7/16 of the depth)"
    )
    coefficient: float = setting(6.5, "Length c of the vector that states are steered to", gt=0)
    retain_weight: float = setting(1200.0, "Weight alpha of the retain term", gt=0)
    positions: str = setting("all", "Tokens whose states are steered", choices=("all", "answer"))
    train: str = setting(
        "down", "The down-projections of three blocks, or all that parameters means", choices=("down", "all")
    )

    def check(self) -> None:
        """Refuse settings that would do nothing."""
        super().check()
        self.refuse_idle(("retain_loss",), True, "RMU has a retain term of its own")
        self.refuse_idle(("targets",), self.train == "down", 'train is "down"')

    def check_model(self, model: LanguageModel) -> None:
        """Refuse a layer that is not one block."""
        block = block_number(model.model, self.layer)
        trained(self, model, block).check_adapter(model)

    def check_adapter(self, model: LanguageModel) -> None:
        """Refuse targets that do not fit."""
        super().check_model(model)


def block_number(module: Any, layer: str | None) -> int:
    """The number of the block that ``layer`` names.

    Raises:
        TargetError: it names no block, or several.
    """
    found = blocks(module)
    if layer is None:
        return int(len(found) * DEPTH)
    if layer.isdigit():
        if int(layer) >= len(found):
            what = f"there is no block {layer}: the model has {len(found)}"
            raise TargetError(what, where="layer", mend=f"choose 0 to {len(found) - 1}")
        return int(layer)
    names = [name for name, _ in module.named_modules() if name == layer or name.endswith(f".{layer}")]
    places = [number for number, block in enumerate(found) if any(block is module.get_submodule(n) for n in names)]
    if len(names) != 1 or not places:
        what = f'the layer "{layer}" matches {len(names)} modules, of which {len(places)} are blocks'
        raise TargetError(what, where="layer", mend="name one block, such as layers.7, or give its number")
    return places[0]


def trained(settings: RMUSettings, model: LanguageModel, block: int) -> RMUSettings:
    """The settings with the layers that are trained as their targets."""
    if settings.train == "all" or settings.parameters == "full":
        return settings
    return replace(settings, train="all", targets=down_projections(model, block))


def down_projections(model: LanguageModel, block: int) -> tuple[str, ...]:
    """Names of the down-projections of ``block`` and of those below it."""
    return tuple(ref.name for ref in mlp_outputs(model.model)[max(0, block - BELOW) : block + 1])


@method(
    "rmu",
    verb="unlearn",
    paper="arXiv:2403.03218",
    summary="Steer hidden states on the forget set to a random direction; hold them in place on the retain set.",
    card="unlearning",
    needs=("forget", "retain"),
)
class RMU(Unlearner):
    """Representation misdirection for unlearning."""

    Settings = RMUSettings
    holds = "needs"

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """Both terms on the states behind the block; the loop's mean is over positions."""
        s = self.settings
        assert retain is not None  # for it holds what it needs
        block = block_number(model.model, s.layer)
        run.measures["block"] = block
        width = int(text_config(model.model).hidden_size)
        direction = random_direction(width, stable_seed("rmu", run.seed))
        kept = self._positions(tokenise(model, retain, window=s.window), model)
        options: dict[str, Any] = {"weight": s.retain_weight, "batch_size": s.retain_batch, "run": run}
        return Objective(
            self._positions(forget_examples(model, forget, s.window), model),
            self.weighted(lambda module: Misdirection(module, block, direction, s.coefficient)),
            Anchored(model, kept, block, **options),
        )

    def _positions(self, examples: Sequence[TokenizedExample], model: LanguageModel) -> list[TokenizedExample]:
        """The examples with the wanted states as those that predict.

        A token is put behind each example, without which nothing would be predicted at its last one. No state before
        it sees it; an example that fills the whole context goes without.
        """
        whole, behind = self.settings.positions == "all", (model.encoder.pad_token_id,)
        found = []
        for each in examples:
            ids = each.input_ids + behind * (len(each.input_ids) < model.context_length)
            start = 1 if whole else min(each.answer_start + 1, len(ids) - 1)
            found.append(replace(each, input_ids=ids, answer_start=start))
        return found

    def write(self, model: LanguageModel, forget: RecordSet, training: Any, run: Run, data: Any) -> Any:
        """Train the down-projections alone, whether through an adapter or themselves."""
        s = self.settings
        block = block_number(model.model, s.layer)
        names = set(down_projections(model, block))

        def narrowed(module: Any) -> None:
            if s.parameters == "full" and s.train == "down":
                for name, parameter in module.named_parameters():
                    parameter.requires_grad_(name.removesuffix(".weight") in names)
            training(module)

        place = trained(s, model, block)
        return written(model, forget, narrowed, s, run, method="rmu", data=data, wrapping=place)
