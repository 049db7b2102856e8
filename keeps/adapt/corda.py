"""CorDA: start LoRA from the model's own weights, oriented by data (Yang et al. 2024, arXiv:2406.05223).

A few hundred unlabelled samples run through the frozen model and leave, for each layer, the
covariance C of its inputs. The decomposition W C' = U S V^T orders the weight's components by how
much that context uses them. *Knowledge-preserved mode* (``kpm``) trains the r components that the
keep set uses least; *instruction-previewed mode* (``ipm``) trains the r components that the learn set
uses most. Everything else is frozen. The result is an ordinary LoRA of rank 2r for the untouched base.

Use when: fine-tuning makes a model forget facts that it knew; the model must keep what it knows while it
learns something new; a task should be learned in as few steps as possible.

Needs: data to learn; for ``kpm`` also data to keep. Guarantees: step 0 equals the base to rounding.

Where the paper and its code differ: the paper writes C = X X^T, the code divides each sample by its
signed maximum. Here a sample is divided by its largest absolute value (``normalise="absmax"``), since
a signed maximum can be zero or negative; ``max`` and ``none`` are the code's way and the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import EmptySetError, SettingsError, StatisticsError, UnknownNameError, nearest
from keeps.models.adapters import WrappedModel, wrap_lora
from keeps.models.calibration import calibration_sequences
from keeps.models.changes import AdapterChange
from keeps.models.covariances import collect_covariance, token_batches
from keeps.models.language_model import LanguageModel
from keeps.models.targets import ALL_LINEAR, check_dense, find_targets, layer_ranks
from keeps.numerics.covariance import NORMALISATIONS, Covariance
from keeps.numerics.oriented import MODES, AdapterStart, Damped, damped, oriented_start, oriented_values, plain_start
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import AdapterSettings, set_starts, stored_starts, train_and_write, wrap

START_OPTIONS = ("balance", "damping", "dropout", "orientation", "rank_stabilised")  # of :func:`init_adapter`


@dataclass(frozen=True, kw_only=True)
class CorDASettings(AdapterSettings):
    """Settings of CorDA."""

    # The lowest of the grid that the claim chooses from, on facts other than those it reports: it kept most.
    learning_rate: float = setting(2.5e-4, "largest learning rate, reached after the warm-up", gt=0, lt=10)
    mode: str = setting("kpm", "kpm keeps what the keep set uses; ipm learns the learn set fastest", choices=MODES)
    samples: int = setting(256, "Calibration samples at most", ge=1)
    sample_tokens: int = setting(256, "Tokens a sample: short texts are joined up to this length; 1 joins none", ge=1)
    answers: str = setting(
        "auto",
        "Calibrate on answers too: auto as in the paper (ipm yes, kpm questions only)",
        choices=("auto", "yes", "no"),
    )
    normalise: str = setting("absmax", "What a sample is divided by (max is the official code)", choices=NORMALISATIONS)
    balance: bool = setting(False, "Scale A and B of a layer to equal norms; B A is unchanged")
    orientation: str = setting(
        "covariance", "Decompose W C' as published, or W C'^1/2 (root)", choices=("covariance", "root"), advanced=True
    )
    damping: str = setting(
        "float64",
        "Arithmetic of the damping loop (float32 as in the official code)",
        choices=("float64", "float32"),
        advanced=True,
    )


@method(
    "corda",
    verb="adapt",
    paper="arXiv:2406.05223",
    summary="LoRA that starts from the weight components the keep set uses least (kpm) or the learn set most (ipm).",
    needs=("learn",),
    uses=("keep",),
)
class CorDA:
    """Context-oriented decomposition adaptation, both modes."""

    Settings = CorDASettings

    def __init__(self, settings: CorDASettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Calibrate, decompose, train, and write a peft folder of rank 2r for the untouched base."""
        context = learn if self.settings.mode == "ipm" else keep
        if context is None or len(context) == 0:
            raise SettingsError(
                'mode "kpm" needs data to keep', where="CorDA", mend="give --keep, or choose --mode ipm"
            )
        layers = find_targets(model.model, self.settings.targets)
        check_dense(layers)
        layer_ranks(layers, self.settings.rank, self.settings.rank_pattern)  # refuse before the long work
        starts = stored_starts(run) or self.starts(model, context, run)
        wrapped = wrap(model, self.settings, seed=run.seed)
        set_starts(wrapped, starts, run)
        data = {"learn": learn.fingerprint, "calibrate": context.fingerprint}
        return train_and_write(model, wrapped, learn, self.settings, run, method="corda", data=data)

    def starts(self, model: LanguageModel, context: RecordSet, run: Run) -> dict[str, AdapterStart]:
        """A0 and B0 of every target layer, oriented by ``context``."""
        covariances = self.covariances(model, context, run)
        with run.progress.task("decompose", len(covariances)) as task:
            starts = adapter_starts(model.model, covariances, self.settings, advance=task.advance)
        run.measures["damping"] = max(start.delta for start in starts.values())
        return starts

    def covariances(self, model: LanguageModel, context: RecordSet, run: Run) -> dict[str, Covariance]:
        """One covariance per target layer from at most ``samples`` samples of ``context``."""
        answers = self.settings.answers == "yes" or (self.settings.answers == "auto" and self.settings.mode == "ipm")
        sequences = calibration_sequences(
            model, context, tokens=self.settings.sample_tokens, answers=answers, seed=run.seed
        )[: self.settings.samples]
        if not sequences:
            mend = "give facts, examples or texts"
            raise EmptySetError("there is nothing to calibrate on", where=context.source, mend=mend)
        batches = token_batches(sequences, pad_token_id=model.encoder.pad_token_id)
        tokens = run.measures["calibration_tokens"] = sum(len(sequence) for sequence in sequences)
        width = max(layer.in_features for layer in find_targets(model.model, self.settings.targets).values())
        if self.settings.mode == "kpm" and tokens < width:  # C is of lower rank than the layer is wide
            run.progress.message(
                f"{tokens} tokens to calibrate layers of up to {width} inputs: the components that they use least "
                "are partly chance; give more to keep"
            )
        index, count = _process()
        mine = batches[index::count]
        normalise: Any = self.settings.normalise
        return collect_covariance(model.model, mine, self.settings.targets, normalise, run=run, total=len(mine))


def adapter_starts(
    model: Any, covariances: Mapping[str, Covariance], settings: CorDASettings, *, advance: Any = None
) -> dict[str, AdapterStart]:
    """The start of every target layer; C' is formed once for layers that share a covariance.

    Raises:
        TargetError: a target matches nothing, a rank does not fit, or a weight is quantised.
        StatisticsError: a layer's covariance is missing, not finite or of the wrong size.
    """
    layers = find_targets(model, settings.targets)
    check_dense(layers)
    ranks = layer_ranks(layers, settings.rank, settings.rank_pattern)
    _check_covariances(covariances, layers)
    dtype = getattr(torch, settings.damping)
    mode: Any = settings.mode
    options: dict[str, Any] = {"orientation": settings.orientation, "balance": settings.balance}
    last: tuple[int, Damped] | None = None
    starts = {}
    for name, layer in layers.items():
        covariance = covariances[name]
        if last is None or last[0] != id(covariance):
            last = (id(covariance), damped(covariance.matrix().to(layer.weight.device), dtype=dtype))
        starts[name] = oriented_start(layer.weight, last[1], ranks[name], settings.scaling, mode, **options)
        if advance:
            advance(1)
    return starts


def init_adapter(
    model: Any,
    targets: Sequence[str] = (ALL_LINEAR,),
    r: int = 16,
    alpha: float | None = None,
    method: str = "corda",
    mode: str = "kpm",
    covariance: Mapping[str, Covariance] | None = None,
    rank_pattern: Mapping[str, int] | None = None,
    **options: Any,
) -> WrappedModel:
    """Wrap any transformers model with an adapter that starts from its own weights; nothing is trained.

    Args:
        model: a causal language model; its target weights become residuals (``unwrap()`` restores them).
        method: ``"corda"`` with ``covariance``, or ``"plain"``: the same cut without a context, which
            is PiSSA for ``mode="ipm"`` and MiLoRA for ``mode="kpm"``.
        options: ``balance``, ``orientation``, ``damping``, ``dropout`` or ``rank_stabilised``, as in
            :class:`CorDASettings`.

    Returns:
        The wrapped model: ``.peft_model`` to train, ``.unwrap()`` to restore.

    Raises:
        TargetError: a target matches nothing, a rank does not fit, or a weight is quantised.
        StatisticsError: a layer's covariance is missing, not finite or of the wrong size.
        SettingsError: an unknown mode or method, or a value out of range.
        UnknownNameError: an option that means nothing here.
    """
    for option in options:
        if option not in START_OPTIONS:
            raise UnknownNameError(
                f'unknown option "{option}"', where="init_adapter", mend=nearest(option, START_OPTIONS)
            )
    values = {
        "rank": r,
        "alpha": alpha,
        "mode": mode,
        "targets": targets,
        "rank_pattern": rank_pattern or {},
        **options,
    }
    settings = CorDASettings.from_mapping(values, where="init_adapter")
    if method == "corda":
        starts = adapter_starts(model, covariance or {}, settings)
    elif method == "plain":
        starts = _plain_starts(model, settings)
    else:
        raise SettingsError(f'method is "{method}"', mend='choose "corda" or "plain"')
    wrapped = wrap_lora(
        model,
        targets=settings.targets,
        rank=settings.rank,
        alpha=settings.scale_alpha,
        dropout=settings.dropout,
        rank_stabilised=settings.rank_stabilised,
        rank_pattern=settings.rank_pattern,
    )
    for name, start in starts.items():
        wrapped.set_start(name, start)
    return wrapped


def oriented_spectrum(model: Any, covariance: Mapping[str, Covariance]) -> dict[str, dict[str, Any]]:
    """Per layer: singular values of W C' (descending), the damping used and the inverse's error."""
    layers = find_targets(model, tuple(covariance))
    report = {}
    for name, layer in layers.items():
        context = damped(covariance[name].matrix().to(layer.weight.device))
        report[name] = {
            "singular_values": oriented_values(layer.weight, context),
            "damping": context.delta,
            "inverse_error": context.inverse_error,
        }
    return report


def _plain_starts(model: Any, settings: CorDASettings) -> dict[str, AdapterStart]:
    layers = find_targets(model, settings.targets)
    check_dense(layers)
    ranks = layer_ranks(layers, settings.rank, settings.rank_pattern)
    options: dict[str, Any] = {"largest": settings.mode == "ipm", "balance": settings.balance}
    return {name: plain_start(layer.weight, ranks[name], settings.scaling, **options) for name, layer in layers.items()}


def _check_covariances(covariances: Mapping[str, Covariance], layers: Mapping[str, nn.Linear]) -> None:
    """Every layer has a covariance of its own width."""
    for name, layer in layers.items():
        if name not in covariances:
            mend = "collect_covariance(...) with the same targets"
            raise StatisticsError("a target layer has no covariance", where=name, mend=mend)
        width = covariances[name].total.shape[0]
        if width != layer.in_features:
            mend = "collect the covariance with the model that is adapted"
            raise StatisticsError(
                f"the covariance has {width} features, the layer {layer.in_features}", where=name, mend=mend
            )


def _process() -> tuple[int, int]:
    """Number of this process in a launch, and how many there are."""
    import torch.distributed as distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
