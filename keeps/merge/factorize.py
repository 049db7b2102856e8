"""FactorLLM: the dense feed-forward layers of one model as a sparse mixture of their own pieces.

Most of a language model's weights are in its feed-forward layers, and every token is multiplied with all of them.
FactorLLM (Zhao et al. 2024, arXiv:2408.11855) cuts the inner channels of each layer into N equal pieces, whose sum is
the layer, and lets a small router choose K of them for each token. The dense layer is the router's teacher: the label
of a token is the K pieces that come closest to K / N of the dense output (the prior-approximate loss), and a short
fine-tuning of the pieces gets back what leaving the others out costs. At inference a token is multiplied with its own
pieces only.

Use when: one dense model shall answer faster on the same machine, for some quality; a mixture of experts is wanted
from a model that was trained without one, with little data; which parts of a model's knowledge a text uses is asked.

Needs: texts like those that the model shall be used on (a few hundred passages). Guarantees: with all pieces active
the model is the dense one, to the rounding of a sum; undoing gives the base back bit for bit; pieces that were not
trained are the base's own numbers and cost no disk.

Where paper and code differ: the published training step drops the router's loss, so that its router learns nothing;
here it is added. The code reads the router's divergence with a soft label (``divergence`` "official") and feeds the
teacher of upper layers with outputs that no model has; here the teacher reads what the pieces read (``teacher``
"self") or what it would read in the dense model ("dense"). The code scales the sum by N / K (``scale`` "n_over_k");
without training that is worse than leaving it (measured, see the claim), so "one" is the default. ``split``
"contiguous" is the code's; "clusters" and "coactivation" (ours, after MoEfication) put channels together that point
in like directions, or are active at the same tokens, and lose much less.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import ChangeRecord, Run
from keeps.data.records import RecordSet
from keeps.errors import SettingsError, StorageError
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:  # a merge of files imports all merge methods, and no tensor library
    from keeps.models.factored_files import FactoredChange
    from keeps.models.factored_layers import WrappedFactored
    from keeps.models.language_model import LanguageModel
    from keeps.training.batches import TokenizedExample
    from keeps.training.factoring import Terms

SPLITS = ("contiguous", "random", "clusters", "coactivation")
TRAIN = ("router", "router+experts", "experts")


@dataclass(frozen=True, kw_only=True)
class FactorizeSettings(Settings):
    """Settings of FactorLLM; the defaults are those of the published code where it has them."""

    experts: int = setting(4, "N: pieces of each layer", ge=2)
    active: int = setting(2, "K: pieces that a token uses", ge=1)
    split: str = setting("contiguous", "Which channels form a piece", choices=SPLITS)
    layers: tuple[int, ...] = setting((), "Blocks to cut, counted from 0 (default: all)")
    pad: bool = setting(False, "Add channels of zeros where pieces would not be equal")
    gates: str = setting(
        "hard",
        "Factor of an active piece: 1, 1 with the router's gradient, or its probability (1 on average)",
        choices=("hard", "straight_through", "probability"),
    )
    scale: str = setting("one", "Factor of the sum; the published code has N / K", choices=("one", "n_over_k"))
    train: str = setting("router+experts", "What learns; the dense layers never do", choices=TRAIN)
    teacher: str = setting("self", "Whose input the dense layer reads as a teacher", choices=("self", "dense"))
    divergence: str = setting(
        "label", "Router from label: exact labels, or the published code's", choices=("label", "official")
    )
    prior_weight: float = setting(0.05, "lambda_r of the prior-approximate loss, summed over layers", ge=0)
    balance_weight: float = setting(0.01, "lambda_b of the balance term, summed over layers", ge=0)
    steps: int | None = setting(None, "Optimiser steps; overrides epochs", ge=1)
    epochs: int = setting(1, "Passes over the texts", ge=1)
    batch_size: int = setting(1, "Examples in a step", ge=1)
    window: int = setting(1024, "Tokens of an example of running text", ge=2)
    learning_rate: float = setting(4e-5, "Largest learning rate", gt=0, lt=10)
    router_steps: int = setting(0, "Steps before these that only the router takes (0 as published)", ge=0)
    router_rate: float = setting(1e-3, "Largest learning rate of those steps", gt=0, lt=10)
    warmup: float = setting(0.05, "Share of the steps over which the learning rate rises", ge=0, le=1)
    weight_decay: float = setting(1e-5, "Decay of matrices in AdamW", ge=0, lt=1)
    clip: float = setting(1.0, "Largest norm of the gradient", gt=0)
    calibration: int = setting(2048, "Tokens that coactivation is counted on", ge=1)

    def check(self) -> None:
        """Refuse more active pieces than there are, and a training that would teach the router nothing."""
        if self.active > self.experts:
            what = f"active is {self.active} of {self.experts} experts"
            raise SettingsError(what, where="factorize", mend="choose from 1 to all")
        if self.train == "router" and not self.prior_weight and self.gates == "hard":
            mend = "give prior_weight, or other gates"
            raise SettingsError("the router would learn nothing from hard gates alone", where="factorize", mend=mend)
        if self.router_steps and self.train != "router+experts":
            mend = 'choose train "router+experts", or leave router_steps out'
            raise SettingsError(f"router_steps does nothing with train {self.train}", where="factorize", mend=mend)


@method(
    "factorize",
    verb="merge",
    paper="arXiv:2408.11855",
    summary="Dense feed-forward layers cut into experts with a router: a token is multiplied with K of N pieces only.",
    card="factorllm",
    needs=("texts",),
    forms=("factored", "merged"),
)
class Factorize:
    """See the top of this file."""

    Settings = FactorizeSettings

    def __init__(self, settings: FactorizeSettings) -> None:
        self.settings = settings

    @classmethod
    def load(cls, folder: Any, record: ChangeRecord) -> FactoredChange:
        """The change in ``folder``."""
        from keeps.models.factored_files import FactoredChange

        return FactoredChange(folder, record)

    def __call__(self, model: LanguageModel, learn: RecordSet, keep: Any = None, *, run: Run) -> FactoredChange:
        """Cut, train on ``learn``, write the pieces to ``run.folder``, and give ``model`` back as it was.

        Raises:
            EmptySetError: there is no text.
            TargetError: a layer is not understood, or cannot be cut evenly.
            TrainingError, InterruptedRunError, StorageError: as in every training.
        """
        from keeps.models.change_records import write_record
        from keeps.models.factored_files import write_factored

        del keep
        started = time.perf_counter()
        before = model.fingerprint
        wrapped = self.cut(model, learn, run)
        try:
            self._train(model, wrapped, learn, run)
            if run.is_main:
                write_factored(run.folder, wrapped)
        finally:
            wrapped.unwrap()
        if model.fingerprint != before:
            raise StorageError("the model is not as it was before it was cut", mend="load it again")
        run.measures["factorize_seconds"] = time.perf_counter() - started
        data = {"learn": learn.fingerprint}
        record = write_record("factored", "factorize", self.settings, model, data, run, fingerprint=before)
        if run.is_main:
            shutil.rmtree(run.folder / "checkpoint", ignore_errors=True)  # of no use any more
        return self.load(run.folder, record)

    def cut(self, model: LanguageModel, learn: RecordSet, run: Run) -> WrappedFactored:
        """``model`` with its layers in pieces and routers drawn from the seed; nothing is trained yet."""
        import torch

        from keeps.models.channels import channel_orders
        from keeps.models.factored_layers import FactorConfig, layer_names, put_factored
        from keeps.training.circumstances import own_random_numbers

        settings = self.settings
        config = FactorConfig(settings.experts, settings.active, settings.gates, settings.scale)
        orders = channel_orders(
            model,
            layer_names(model.model, settings.layers or None),
            settings.split,
            settings.experts,
            learn,
            pad=settings.pad,
            tokens=settings.calibration,
            run=run,
        )
        wrapped = put_factored(model.model, config, orders, own=settings.train != "router", pad=settings.pad)
        with own_random_numbers(model.device):
            torch.manual_seed(run.seed)
            for layer in wrapped.layers.values():
                layer.start()
                learns = settings.train != "experts"
                layer.router.requires_grad_(learns)
                layer.router_bias.requires_grad_(learns)
        return wrapped

    def _train(self, model: LanguageModel, wrapped: WrappedFactored, learn: RecordSet, run: Run) -> None:
        """The router alone for ``router_steps``, then what is to be trained."""
        from keeps.models.adapters import restore_trainable, trainable_flags
        from keeps.training.examples import tokenise
        from keeps.training.stages import stage

        settings = self.settings
        examples = tokenise(model, learn, window=settings.window)
        if settings.router_steps:
            flags = trainable_flags(wrapped.module)
            restore_trainable(wrapped.module, {name: flag and ".router" in name for name, flag in flags.items()})
            with stage(run, "router") as part:
                self._stage(
                    model, wrapped, examples, part, "checkpoint/router", settings.router_rate, settings.router_steps
                )
            restore_trainable(wrapped.module, flags)
        with stage(run, "pieces") as part:
            self._stage(model, wrapped, examples, part, "checkpoint/pieces", settings.learning_rate, settings.steps)

    def _stage(
        self,
        model: LanguageModel,
        wrapped: WrappedFactored,
        examples: Sequence[TokenizedExample],
        run: Run,
        checkpoint: str,
        rate: float,
        steps: int | None,
    ) -> None:
        from keeps.training.factoring import FactoringLoss
        from keeps.training.loop import train
        from keeps.training.settings import TrainingSettings

        settings = self.settings
        training = TrainingSettings(
            epochs=settings.epochs,
            steps=steps,
            batch_size=settings.batch_size,
            learning_rate=rate,
            warmup=settings.warmup,
            weight_decay=settings.weight_decay,
            beta2=0.95,
            clip=settings.clip,
        )
        made: list[FactoringLoss] = []

        def loss(module: Any) -> FactoringLoss:
            made.append(
                FactoringLoss(
                    module,
                    prior_weight=settings.prior_weight,
                    balance_weight=settings.balance_weight,
                    divergence="official" if settings.divergence == "official" else "label",
                    teacher=settings.teacher,
                )
            )
            return made[-1]

        def after_step(module: Any, step: int, optimiser: Any) -> None:
            del module, optimiser
            run.log(step, **_numbers(made[-1].terms))

        pad = model.encoder.pad_token_id
        options: dict[str, Any] = {"loss": loss, "after_step": after_step, "checkpoint": checkpoint}
        train(wrapped.module, examples, training, run, pad_token_id=pad, **options)
        if made:
            run.measures |= {f"last_{name}": value for name, value in _numbers(made[-1].terms).items()}


def _numbers(terms: Terms) -> dict[str, float]:
    """The terms that were computed."""
    return {name: value for name, value in vars(terms).items() if math.isfinite(value)}
