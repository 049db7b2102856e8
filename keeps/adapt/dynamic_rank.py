"""CoDyRA: a LoRA whose rank in every layer is found while it is trained (Lu et al. 2024, arXiv:2412.01004).

Each rank-one piece b_i a_i^T of a layer's update has an importance w_i that is trained with it,

    W x + B (w * (A x)),   B = 0, A Kaiming-uniform, w ~ N(0, 1) at the start, scaling 1

and the l1 penalty on w is solved by proximal steps: after each optimiser step of the *sparse phase*
every w_i is drawn towards zero by a threshold k, and those within k of it become exactly zero. The
*dense phase* before it lets the importances form; then k rises in equal steps. What is written is a
plain LoRA with the ranks that are left, 0 in many layers. In a stream each task's update is merged
into the weights before the next begins (:func:`fit_stream`): nothing of a past task is stored, and a
small update has little to overwrite.

Use when: task after task has to be learned and nothing of the earlier ones may be stored; the rank that a
task needs in each layer is not known; an adapter should be as small as the data allow.

Needs: facts, examples or texts to learn. Guarantees: step 0 equals the base exactly; with a threshold of
zero it is a gated LoRA; a plain peft folder in which no rank is idle.

What the threshold does depends on the number of steps: all in all a gate is shrunk by the sum of the
thresholds, which is 0.64 with the runner's values (k up to 5e-3 over 500 steps). That sum is what is
kept here when neither ``kappa_max`` nor ``total_shrinkage`` is given. A gate moves by at most about the
learning rate in a step, so in a short run the start decides which ranks survive: the run measures how
far, and ``gate_spread`` draws the gates closer together.

Where paper and code differ: the code zeroes everything below 2 k (``prox="official"``). Of its 50 levels the
first is 0, and it begins one step later: its thresholds add up to 0.65, ours to 0.64. B can grow while
w shrinks, since only their product counts; ``normalise`` thresholds w_i |b_i| |a_i| instead, which is
what renormalising the columns of B and the rows of A into w would do. Ours: the momentum of a removed
gate is cleared, so that it stays removed. Its mean of squared gradients is left: were it cleared too,
Adam's next step would be as long as its first, and on the planted task of the claim most ranks came back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import SettingsError, StorageError
from keeps.models.adapters import ADAPTER, Factors, WrappedModel, lora_layers
from keeps.models.changes import AdapterChange
from keeps.models.gated import add_gates, gates_of
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import on_plain_layers
from keeps.numerics.proximal import Threshold, gap_threshold, share_sum, soft_threshold, threshold_share
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import AdapterSettings, train_and_write, wrap
from keeps.training.batches import stable_seed
from keeps.training.examples import tokenise
from keeps.training.loop import total_steps

OPERATORS = {"soft": soft_threshold, "official": gap_threshold}
SHRINKAGE = 0.6375  # 5e-3 * 250 * 51 / 100: the official runner's values in 50 equal steps above 0


@dataclass(frozen=True, kw_only=True)
class DynamicRankSettings(AdapterSettings):
    """Settings of CoDyRA."""

    warmup: float = setting(0.0, "share of the steps over which the learning rate rises", ge=0, le=1)
    beta2: float = setting(0.9999, "decay of AdamW's mean of squared gradients", ge=0, lt=1, advanced=True)
    kappa_max: float | None = setting(
        None, "Largest threshold; 0 removes nothing (default: what total_shrinkage amounts to)", ge=0
    )
    total_shrinkage: float | None = setting(
        None, f"Sum of the thresholds over the run, instead of kappa_max (default: {SHRINKAGE})", ge=0
    )
    dense_fraction: float = setting(0.5, "Share of the steps before the first threshold", ge=0, lt=1)
    kappa_steps: int = setting(50, "Equal steps in which the threshold rises", ge=1)
    prox: str = setting(
        "soft", "soft as published; official also removes what is below twice the threshold", choices=tuple(OPERATORS)
    )
    normalise: bool = setting(False, "Threshold the gate times the norms of its column of B and row of A")
    gate_spread: float = setting(1.0, "Standard deviation of the gates at the start", gt=0, advanced=True)

    def check(self) -> None:
        """Refuse two thresholds, and options that no threshold would make use of."""
        if self.kappa_max is not None and self.total_shrinkage is not None:
            what = "kappa_max and total_shrinkage both say how far gates are shrunk"
            raise SettingsError(what, where="dynamic_rank", mend="give one of them")
        if self.normalise and self.kappa_max is None and self.total_shrinkage is None:
            what = "with normalise the threshold is one on weights, for which the default is far too large"
            raise SettingsError(what, where="dynamic_rank", mend="give kappa_max or total_shrinkage")
        if not self.removes and (self.normalise or self.prox != "soft"):
            mend = "raise it, or leave normalise and prox as they are"
            raise SettingsError("a threshold of 0 makes no use of prox or normalise", where="dynamic_rank", mend=mend)
        if self.removes and self.stop_loss is not None:
            what = "stop_loss would end the run before the thresholds have risen"
            raise SettingsError(what, where="dynamic_rank", mend="leave it out and set epochs or steps")

    @property
    def removes(self) -> bool:
        """Whether there is any threshold at all."""
        return self.kappa_max != 0 and self.total_shrinkage != 0

    def thresholds(self, total: int) -> Callable[[int], float]:
        """k after each of ``total`` steps (counted from 1): a function of the step's number alone."""
        phases: dict[str, Any] = {"dense_fraction": self.dense_fraction, "levels": self.kappa_steps}
        largest = self.kappa_max
        if largest is None:
            shrinkage = SHRINKAGE if self.total_shrinkage is None else self.total_shrinkage
            largest = shrinkage / share_sum(total, **phases)
        return lambda step: largest * threshold_share(step, total, **phases)


@method(
    "dynamic_rank",
    verb="adapt",
    paper="arXiv:2412.01004",
    summary="LoRA that finds the rank of every layer by sparse gates, for task after task without replay.",
    card="codyra",
    needs=("learn",),
    forms=("lora", "merged"),
)
class DynamicRank:
    """Dynamic rank-selective LoRA."""

    Settings = DynamicRankSettings

    def __init__(self, settings: DynamicRankSettings) -> None:
        self.settings = settings

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Train A, B and the gates on ``learn``, and write the ranks that survive as a peft folder."""
        del keep  # nothing of the past is used: small ranks are what protects it
        threshold = self.settings.thresholds(total_steps(self.settings, len(tokenise(model, learn))))
        wrapped = wrap(model, self.settings, seed=run.seed)
        starts = gate_starts(wrapped, self.settings.gate_spread, seed=run.seed)
        add_gates(wrapped.peft_model, starts)

        def after_step(_: nn.Module, step: int, optimiser: torch.optim.Optimizer) -> None:
            self.shrink_all(wrapped, threshold(step), optimiser)

        def prune(factors: Factors) -> Factors:
            gates = {name: gate.detach().cpu() for name, gate in gates_of(wrapped.peft_model).items()}
            run.measures.update(survival(starts, gates))
            _explain(run)
            return surviving(factors)

        hooks: dict[str, Any] = {"after_step": after_step, "prune": prune}
        data = {"learn": learn.fingerprint}
        return train_and_write(model, wrapped, learn, self.settings, run, method="dynamic_rank", data=data, **hooks)

    def shrink_all(self, wrapped: WrappedModel, threshold: float, optimiser: torch.optim.Optimizer) -> None:
        """One proximal step on every gate; none where the threshold is zero."""
        if threshold == 0:
            return
        for layer in lora_layers(wrapped.peft_model).values():
            down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
            # S_k(w n) / n with n = |b| |a|: renormalised, thresholded, and scaled back. Where n is 0 so is w.
            size = down.weight.norm(dim=1) * up.weight.norm(dim=0) if self.settings.normalise else 1.0
            shrink(down.gate, threshold / size, optimiser, self.settings.prox)


@torch.no_grad()
def shrink(gate: nn.Parameter, threshold: Threshold, optimiser: torch.optim.Optimizer, prox: str = "soft") -> None:
    """Threshold ``gate`` in place, and clear the momentum of what became zero.

    Args:
        threshold: a number, or one for each entry.
    """
    gate.copy_(OPERATORS[prox](gate, threshold))
    momentum = optimiser.state.get(gate, {}).get("exp_avg")
    if momentum is not None:
        momentum.masked_fill_(gate == 0, 0.0)


def gate_starts(wrapped: WrappedModel, spread: float, *, seed: int) -> dict[str, Tensor]:
    """w ~ N(0, spread^2) for every adapted layer, ``(rank,)``, from the seed alone."""
    generator = torch.Generator().manual_seed(stable_seed("gates", seed))
    layers = lora_layers(wrapped.peft_model)
    return {name: spread * torch.randn(layer.r[ADAPTER], generator=generator) for name, layer in layers.items()}


def surviving(factors: Factors) -> Factors:
    """The factors without the ranks whose row of A is zero, and without the layers that have none left.

    If nothing is left at all, the first layer keeps one rank of zeros: a peft folder needs one.
    """
    kept = {name: a.any(dim=1) for name, (a, _) in factors.items()}
    result = {name: (a[kept[name]], b[:, kept[name]]) for name, (a, b) in factors.items() if kept[name].any()}
    if result:
        return result
    name, (a, b) = next(iter(factors.items()))
    return {name: (torch.zeros_like(a[:1]), torch.zeros_like(b[:, :1]))}


def survival(starts: Mapping[str, Tensor], gates: Mapping[str, Tensor]) -> dict[str, Any]:
    """Active ranks of each layer, the share of ranks removed, and how far the start decided which.

    ``decided_by_start`` is the share of the survivors that were among the as many largest gates of the
    start, in [0, 1]: by chance it is the share of ranks that survive.
    """
    before = torch.cat([starts[name] for name in gates]).abs()
    alive = torch.cat(list(gates.values())) != 0
    count = int(alive.sum())
    return {
        "active_ranks": {name: int((gate != 0).sum()) for name, gate in gates.items()},
        "removed_share": 1 - count / len(alive),
        "decided_by_start": float(alive[before.topk(count).indices].float().mean()) if count else None,
    }


def fit_stream(
    model: LanguageModel, tasks: Mapping[str, RecordSet], settings: DynamicRankSettings, folder: Path, *, seed: int = 0
) -> LanguageModel:
    """Learn the tasks in turn, each merged into the weights before the next; ``model`` itself stays as it is.

    Writes ``folder/TASK/adapter`` (a peft folder for the model of the task before) and ``folder/TASK/merged``
    (a transformers checkpoint), and returns the last of these.

    Raises:
        StorageError: the folder of a task exists already.
    """
    for name, records in tasks.items():
        place = Path(folder) / name
        if place.exists():
            raise StorageError("the folder exists already", where=str(place), mend="choose another one or remove it")
        (place / "adapter").mkdir(parents=True)
        run = Run(place / "adapter", seed=seed, device=str(model.device))
        DynamicRank(settings)(model, records, run=run).export("merged", place / "merged", model=model)
        model = LanguageModel.load(place / "merged", device=str(model.device))
    return model


def _explain(run: Run) -> None:
    """Say what a user would otherwise find out too late."""
    removed, decided = run.measures["removed_share"], run.measures["decided_by_start"]
    if removed == 1:
        run.progress.message("every rank was removed and nothing is learned: lower kappa_max or total_shrinkage")
    elif removed > 0.1 and decided > 0.9:
        run.progress.message(
            f"{removed:.0%} of the ranks were removed, {decided:.0%} of those left had the largest gates from the "
            "start: take more steps, a higher learning rate or a smaller gate_spread for the data to decide"
        )
