"""KaSA: throw away the weakest components of every weight, and learn the update as singular vectors and values.

    y = W_world x + s B (g * (A x)),   s = alpha / r       (Wang et al. 2024, arXiv:2412.06071, ICLR 2025)

W_world is the weight without its r smallest singular components, taken to be noise or rare knowledge that
hinders the task (section 3.2); they are removed for good. What is trained is B, A and one number g_j a rank, which
turns its direction up, down or off. Two penalties are added to the loss (section 3.3),

    beta * sum of g_j^2   +   gamma * (||B^T B - I||_F + ||A A^T - I||_F),

which bring B and A near orthonormal columns and rows, so that |g_j| says how much a direction matters. B starts
at zero, A as in LoRA, g from a standard normal distribution (``gate_init="normal"``) or at one.

Use when: an adapter should show by numbers which of its directions matter; the weakest parts of the weights are
suspected to be noise; few labelled examples of one narrow task, such as classification or instruction
following, are there to train on.

Needs: facts, examples or texts to learn. Guarantees: the base that is handed in stays whole, and the result is an
ordinary LoRA of rank 2r for it, B diag(g) A beside minus the removed part (of rank r with ``truncation="none"``).
Not guaranteed, unlike with LoRA: step 0 is not the base but the base without the removed components.

Where the paper and its code differ: for a layer with more inputs than outputs the code removes fewer components than
r, or none (``truncation="official"``). It compares A^T A and B B^T with identities of the layer's size, which
they cannot become; that adds a constant under each root and weakens the gradient (``penalty="official"``). It
divides the penalties by the number of adapted layers, as is done here by default, because the published values of beta
and gamma were found with it; the paper writes a sum over the layers (``reduction="sum"``).

The smallest components of a weight are not always noise. SmolLM2-135M without the 8 smallest of every layer reads
held-out text with a perplexity of about 10,000 in place of 27, nearly all of it from the value projections (2,659
without theirs alone): they are small where the model's largest activations lie, and that smallness is used.
``truncation="least_used"``, ours, removes as many output directions, those that the keep set (without one, the learn
set) uses least: the same perplexity is 27 then.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import SettingsError, TargetError, nearest
from keeps.models.adapters import ADAPTER, WrappedModel, lora_layers
from keeps.models.calibration import calibration_sequences
from keeps.models.changes import AdapterChange
from keeps.models.covariances import collect_covariance, token_batches
from keeps.models.gated import add_gates, gates_of
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import on_plain_layers
from keeps.models.targets import check_dense, find_targets, layer_ranks
from keeps.numerics.covariance import Covariance
from keeps.numerics.oriented import AdapterStart
from keeps.numerics.singular_form import FORMS, orthogonal_penalty, singular_value_penalty
from keeps.numerics.truncation import RULES, least_used_part, removed_count, removed_part
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import AdapterSettings, set_starts, stored_starts, train_and_write, wrap
from keeps.training.batches import stable_seed
from keeps.training.circumstances import process_of_launch

GATE_INITS = ("normal", "ones")
LEAST_USED = "least_used"
SAMPLES, SAMPLE_TOKENS = 128, 128  # at most, to find what is used least
REDUCTIONS = ("mean_layers", "sum")


@dataclass(frozen=True, kw_only=True)
class KaSASettings(AdapterSettings):
    """Settings of KaSA."""

    gate_init: str = setting(
        "normal", "Where the gates start: drawn from a standard normal distribution, or at one", choices=GATE_INITS
    )
    # beta and gamma are the defaults of the official code; the paper searches powers of ten for each task.
    beta: float = setting(1e-4, "Weight of the penalty on the gates, which turns needless directions off", ge=0)
    gamma: float = setting(1e-3, "Weight of the penalty that keeps B and A near orthonormal", ge=0)
    reduction: str = setting(
        "mean_layers", "Penalties as a mean over the layers (official code) or their sum (paper)", choices=REDUCTIONS
    )
    truncation: str = setting(
        "paper",
        "What is removed of each weight: its r smallest components, fewer in wide layers (official), the r output "
        "directions that the keep set uses least, or nothing",
        choices=(*RULES, LEAST_USED, "none"),
    )
    penalty: str = setting(
        "paper",
        "Sides of the orthogonality penalty: rank x rank, or as in the official code",
        choices=FORMS,
        advanced=True,
    )

    def check(self) -> None:
        """Refuse ways to compute a penalty that has no weight."""
        if self.gamma == 0 and self.penalty != "paper":
            raise SettingsError(
                f'penalty "{self.penalty}" changes nothing with gamma 0', mend="give gamma, or leave penalty out"
            )
        if self.beta == self.gamma == 0 and self.reduction != "mean_layers":
            mend = "give beta or gamma, or leave reduction out"
            raise SettingsError(f'reduction "{self.reduction}" changes nothing with beta and gamma 0', mend=mend)

    @on_plain_layers
    def check_model(self, model: LanguageModel) -> None:
        """Refuse targets that match no layer, ranks that would leave nothing of one, and a truncation of no layer."""
        layers = find_targets(model.model, self.targets)
        ranks = layer_ranks(layers, self.rank, self.rank_pattern)
        check_dense(layers)
        if self.truncation == "none":
            return
        rule: Any = "paper" if self.truncation == LEAST_USED else self.truncation
        counts = []
        for name, layer in layers.items():
            rows, columns = layer.out_features, layer.in_features
            if ranks[name] >= min(rows, columns):
                raise TargetError(
                    f"rank {ranks[name]} would remove every component of a layer of {rows} x {columns}",
                    where=name,
                    mend=f"choose a rank below {min(rows, columns)}, or give this layer its own in rank_pattern",
                )
            counts.append(removed_count(rows, columns, ranks[name], rule))
        if not any(counts):
            raise SettingsError(
                'truncation "official" removes nothing from these layers, which are wider than high',
                mend='choose truncation "paper" or "none"',
            )


@method(
    "kasa",
    verb="adapt",
    paper="arXiv:2412.06071",
    summary="Drop each weight's weakest components, then learn near-orthonormal directions with a strength each.",
    needs=("learn",),
    uses=("keep",),
)
class KaSA:
    """Knowledge-aware singular-value adaptation."""

    Settings = KaSASettings

    def __init__(self, settings: KaSASettings) -> None:
        self.settings = settings

    @staticmethod
    def forms(settings: KaSASettings) -> tuple[str, ...]:
        """Where nothing is removed, the base is not reduced either."""
        return ("lora", "merged") if settings.truncation == "none" else ("lora", "residual", "merged")

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Truncate, train A, B and the gates, and write a peft folder of rank 2r for the untouched base."""
        settings = self.settings
        context = learn if keep is None or not len(keep) else keep
        wrapped = wrap_kasa(model, settings, run, context)
        penalty = partial(
            kasa_loss, beta=settings.beta, gamma=settings.gamma, reduction=settings.reduction, form=settings.penalty
        )
        hooks: dict[str, Any] = {"regulariser": penalty} if settings.beta or settings.gamma else {}
        data = {"learn": learn.fingerprint}
        if settings.truncation == LEAST_USED and context is keep:
            data["keep"] = context.fingerprint
        return train_and_write(model, wrapped, learn, settings, run, method="kasa", data=data, **hooks)


def wrap_kasa(model: LanguageModel, settings: KaSASettings, run: Run, context: RecordSet | None = None) -> WrappedModel:
    """``model`` with W_world in its target layers and a gated adapter on each; ``unwrap()`` puts W back.

    A and g are drawn from ``run.seed`` alone. The removed parts are kept in ``run.folder`` until the run
    ends, and taken from there by a run that is resumed.

    Args:
        context: what ``truncation="least_used"`` is to spare.

    Raises:
        SettingsError, TargetError: as from :meth:`KaSASettings.check_model` and :func:`removed_part`.
        StorageError: the removed parts cannot be written, or the stored ones are of another job.
    """
    settings.check_model(model)
    parts = {}
    if settings.truncation != "none":
        parts = stored_starts(run) or removed_parts(model, settings, run, context)
    wrapped = wrap(model, settings, seed=run.seed)
    if parts:
        set_starts(wrapped, parts, run, adapter=False)  # which unwraps when it fails
    try:
        add_gates(wrapped.peft_model, _initial_gates(wrapped, settings.gate_init, run.seed))
    except BaseException:
        wrapped.unwrap()
        raise
    return wrapped


def removed_parts(
    model: LanguageModel, settings: KaSASettings, run: Run, context: RecordSet | None = None
) -> dict[str, AdapterStart]:
    """The components that are taken out of every target layer, as factors: W_world = W - s B0 A0.

    Raises:
        SettingsError: what is used least is asked for, and there is nothing to find it on.
    """
    layers = find_targets(model.model, settings.targets)
    ranks = layer_ranks(layers, settings.rank, settings.rank_pattern)
    rule: Any = settings.truncation
    parts = {}
    removed = whole = 0.0
    used = _used(model, settings, run, context) if settings.truncation == LEAST_USED else {}
    with run.progress.task("decompose", len(layers)) as task:
        for name, layer in layers.items():
            try:
                if used:
                    parts[name] = least_used_part(layer.weight, used[name].matrix(), ranks[name], settings.scaling)
                else:
                    parts[name] = removed_part(layer.weight, ranks[name], settings.scaling, rule)
            except TargetError as error:
                raise TargetError(error.what, where=name, mend=error.mend) from None
            removed += float(parts[name].values.square().sum())
            whole += float(layer.weight.detach().double().square().sum())
            task.advance(1)
    run.measures["removed_norm_share"] = (removed / whole) ** 0.5  # ||W - W_world||_F / ||W||_F over all layers
    return parts


def _used(model: LanguageModel, settings: KaSASettings, run: Run, context: RecordSet | None) -> dict[str, Covariance]:
    """The covariance of every target layer's inputs on ``context``."""
    options: dict[str, Any] = {"tokens": SAMPLE_TOKENS, "answers": True, "seed": run.seed}
    sequences = calibration_sequences(model, context, **options)[:SAMPLES] if context is not None else []
    if not sequences:
        mend = "give facts, examples or texts, or choose another truncation"
        raise SettingsError(f'truncation "{LEAST_USED}" has nothing to find it on', mend=mend)
    batches = token_batches(sequences, pad_token_id=model.encoder.pad_token_id)
    index, count = process_of_launch()
    mine = batches[index::count]
    return collect_covariance(model.model, mine, settings.targets, "none", run=run, total=len(mine))


def kasa_loss(
    peft_model: Any,
    *,
    beta: float = 1e-4,
    gamma: float = 1e-3,
    reduction: str = "mean_layers",
    form: str = "paper",
) -> Tensor:
    """beta L2 + gamma L3 of all gated layers, a differentiable scalar: what is added to the loss of the task.

    Layers of one shape are stacked and computed at once; hundreds of small products one by one would take
    2.7 times as long on 210 layers.

    Raises:
        SettingsError: there is no such reduction or form.
        TargetError: a layer has an adapter without a gate.
    """
    for name, value, known in (("reduction", reduction, REDUCTIONS), ("form", form, FORMS)):
        if value not in known:
            raise SettingsError(f'{name} is "{value}"', where="kasa_loss", mend=nearest(value, known))
    side: Any = form
    stacks: dict[Any, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
    layers = lora_layers(peft_model)
    if len(gates_of(peft_model)) < len(layers):
        raise TargetError(
            "a layer has an adapter without a gate", where="kasa_loss", mend="wrap the model by wrap_kasa"
        )
    for layer in layers.values():
        down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER].weight
        stacks[down.weight.shape, up.shape, up.device].append((down.weight, up, down.gate))
    terms = []
    for stack in stacks.values():
        a, b, gates = (torch.stack(parts) for parts in zip(*stack, strict=True))
        terms.append((beta * singular_value_penalty(gates) + gamma * orthogonal_penalty(a, b, side)).sum())
    total = torch.stack([term.to(terms[0].device) for term in terms]).sum()
    return total / len(layers) if reduction == "mean_layers" else total


def _initial_gates(wrapped: WrappedModel, kind: str, seed: int) -> dict[str, Tensor]:
    """g of every layer, ``(rank,)`` float32, the same in every process of a launch."""
    generator = torch.Generator().manual_seed(stable_seed("gates", seed))
    ranks = {name: layer.r[ADAPTER] for name, layer in lora_layers(wrapped.peft_model).items()}
    if kind == "ones":
        return {name: torch.ones(rank) for name, rank in ranks.items()}
    return {name: torch.randn(rank, generator=generator) for name, rank in ranks.items()}
