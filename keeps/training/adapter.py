"""Train a LoRA adapter from any start and leave it on disk as a plain peft folder.

What the adapter methods share: the settings that belong to rank and layers, and the order of steps
(wrap, start, train, write). A method only says where A and B start.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import ChangeRecord, Run
from keeps.data.records import RecordSet
from keeps.errors import StorageError
from keeps.models.adapter_files import write_adapter
from keeps.models.adapters import Factors, WrappedModel, doubled, wrap_lora
from keeps.models.change_records import write_record
from keeps.models.changes import AdapterChange, StoredChange, source_of
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits, largest_difference
from keeps.models.plain_layers import on_plain_layers, own_layout
from keeps.models.targets import ALL_LINEAR, find_targets, layer_ranks
from keeps.numerics.oriented import AdapterStart
from keeps.settings import Settings, setting
from keeps.training.circumstances import own_random_numbers
from keeps.training.examples import tokenise
from keeps.training.loop import train
from keeps.training.settings import TrainingSettings
from keeps.weights.files import load_metadata, load_tensors, save_tensors

START_FILE = "start.safetensors"  # A0 and B0, so that a resumed run starts from the very same numbers


@dataclass(frozen=True, kw_only=True)
class AdapterSettings(TrainingSettings):
    """Settings of every method that trains a low-rank adapter."""

    rank: int = setting(16, "Rank r of the adapter in every target layer", ge=1)
    alpha: float | None = setting(
        None, "LoRA alpha; the adapter is scaled by alpha / rank (default: alpha = rank)", gt=0
    )
    targets: tuple[str, ...] = setting((ALL_LINEAR,), "Ends of the names of the layers to adapt, or all-linear")
    dropout: float = setting(0.0, "Dropout on the adapter's input", ge=0, lt=1)
    rank_stabilised: bool = setting(False, "Scale by alpha / sqrt(rank) instead of alpha / rank", advanced=True)
    rank_pattern: dict[str, int] = setting({}, "Ranks of single layers, as name=rank,name=rank", advanced=True)

    @property
    def scale_alpha(self) -> float:
        """alpha, which is the rank where none is given."""
        return float(self.rank) if self.alpha is None else self.alpha

    @on_plain_layers
    def check_model(self, model: LanguageModel) -> None:
        """Refuse targets that match no layer and ranks that do not fit one."""
        layer_ranks(find_targets(model.model, self.targets), self.rank, self.rank_pattern)

    @property
    def scaling(self) -> float:
        """s of W + s B A."""
        return self.scale_alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)


def wrap(model: LanguageModel, settings: AdapterSettings, *, seed: int, use_dora: bool = False) -> WrappedModel:
    """Inject LoRA layers into ``model`` after ``settings``; A is drawn from ``seed`` alone."""
    with own_random_numbers(model.device):
        torch.manual_seed(seed)
        return wrap_lora(
            model.model,
            targets=settings.targets,
            rank=settings.rank,
            alpha=settings.scale_alpha,
            dropout=settings.dropout,
            rank_stabilised=settings.rank_stabilised,
            rank_pattern=settings.rank_pattern,
            use_dora=use_dora,
        )


def stored_starts(run: Run) -> dict[str, AdapterStart]:
    """The starts that an interrupted run had computed, or nothing; ``run.measures`` as they were then.

    Raises:
        StorageError: the file is damaged.
    """
    path = run.folder / START_FILE
    if not same_everywhere(run.is_main and run.resume and path.exists()):
        return {}
    tensors = load_tensors(path)
    run.measures.update(json.loads(load_metadata(path).get("measures", "{}")))
    names = dict.fromkeys(key.rsplit(".", 1)[0] for key in tensors)
    return {name: AdapterStart(tensors[f"{name}.a"], tensors[f"{name}.b"], tensors[f"{name}.values"]) for name in names}


def set_starts(wrapped: WrappedModel, starts: Mapping[str, AdapterStart], run: Run, *, adapter: bool = True) -> None:
    """Give the layers their starts, and keep these on disk before the first step.

    Without ``adapter`` the base weights are reduced to W - s B0 A0 and the adapter stays as it is.

    Raises:
        StorageError: they cannot be written, or those of an interrupted run belong to another job.
            The model is unwrapped then.
    """
    try:
        _check_starts(wrapped, starts, run)
        if run.is_main:
            tensors: dict[str, Tensor] = {}
            for name, start in starts.items():
                tensors |= {f"{name}.a": start.a, f"{name}.b": start.b, f"{name}.values": start.values}
            save_tensors(run.folder / START_FILE, tensors, {"measures": json.dumps(run.measures)})
        for name, start in starts.items():
            (wrapped.set_start if adapter else wrapped.reduce)(name, start)
    except BaseException:
        wrapped.unwrap()
        raise


def train_and_write(
    model: LanguageModel,
    wrapped: WrappedModel,
    learn: RecordSet,
    settings: AdapterSettings,
    run: Run,
    *,
    method: str,
    data: Mapping[str, str],
    training: Callable[[Any], object] | None = None,
    prune: Callable[[Factors], Factors] | None = None,
    **hooks: Any,
) -> AdapterChange:
    """Train the wrapped model on ``learn``, write ``run.folder`` as a peft folder, restore ``model``.

    ``hooks`` (``regulariser``, ``after_step``) go to :func:`keeps.training.loop.train`. ``training`` is called
    with the peft model instead, by a method that trains in several stages. ``prune`` drops ranks and layers that
    came to nothing from what is written.
    """
    try:
        if training is not None:
            training(wrapped.peft_model)
        else:
            examples = tokenise(model, learn)
            train(wrapped.peft_model, examples, settings, run, pad_token_id=model.encoder.pad_token_id, **hooks)
        trained = check_logits(wrapped.peft_model, model.tokenizer)
        factors = doubled(wrapped.factors(), wrapped.start)
        factors = prune(factors) if prune is not None else factors
        multiple = 2 if wrapped.start else 1
        run.measures["reduced_base"] = bool(wrapped.start)
        if run.is_main:
            write_adapter(run.folder, wrapped.peft_model, factors, multiple=multiple, base=source_of(model))
            (run.folder / START_FILE).unlink(missing_ok=True)
    finally:
        wrapped.unwrap()
    change = AdapterChange(run.folder, finished_record("adapter", method, settings, model, data, run))
    measure_export(change, model, trained, run)
    return change


def measure_export(change: StoredChange, model: LanguageModel, trained: list[Tensor], run: Run) -> None:
    """Record how far what the untouched base and the files on disk give is from the model just trained.

    Args:
        trained: :func:`keeps.models.logits.check_logits` of the model before it was unwrapped.
    """
    if not run.is_main:
        return
    with own_layout(model.model):  # the layers that a user loads the files onto
        changed = change.apply(model)
        try:
            found = check_logits(changed.model, model.tokenizer)
        finally:
            changed.undo()
    run.measures["export_difference"] = largest_difference(trained, found)
    change.record = change.record.with_measures(run.measures)
    change.record.write(run.folder)


def finished_record(
    kind: str, method: str, settings: Settings, model: LanguageModel, data: Mapping[str, str], run: Run
) -> ChangeRecord:
    """``change.json`` of a method that is done, written to the run's folder."""
    run.measures["trained_parameters"] = run.measures.pop("trainable_parameters", 0)
    return write_record(kind, method, settings, model, data, run)


def _check_starts(wrapped: WrappedModel, starts: Mapping[str, AdapterStart], run: Run) -> None:
    """Refuse starts of other layers or ranks than those that were wrapped."""
    wanted = {name: (tuple(a.shape), tuple(b.shape)) for name, (a, b) in wrapped.factors().items()}
    if wanted != {name: (tuple(start.a.shape), tuple(start.b.shape)) for name, start in starts.items()}:
        raise StorageError(
            "the interrupted run started from other layers or ranks",
            where=str(run.folder / START_FILE),
            mend="repeat its settings and model, or start anew without --resume",
        )


def same_everywhere(flag: bool) -> bool:
    """Whether ``flag`` is set in the main process of a launch: all must take the same way."""
    import torch.distributed as distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return flag
    answer = [flag]
    distributed.broadcast_object_list(answer)
    return answer[0]
