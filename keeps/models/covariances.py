"""Collect the covariance of every target layer's inputs in one streaming pass over real text.

The same pass serves context-oriented adapters, activation-aware merging and locate-and-edit methods.
Layers that read the same tensor (query, key and value; gate and up) share one matrix. Padding is
masked, any batch shape will do, and the vocabulary projection is never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from keeps.contracts import Run
from keeps.errors import EmptySetError, SettingsError, StatisticsError
from keeps.models.locate import ModuleRef
from keeps.models.projection import evaluating
from keeps.models.targets import ALL_LINEAR, find_targets
from keeps.numerics.covariance import Covariance, Normalise

Batch = Mapping[str, Tensor]  # input_ids and attention_mask, each (batch, time)


def collect_covariance(
    model: Any,
    batches: Iterable[Batch],
    targets: Sequence[str] = (ALL_LINEAR,),
    normalise: Normalise = "absmax",
    *,
    dtype: torch.dtype = torch.float32,
    layers: Mapping[str, nn.Module] | None = None,
    means: bool = False,
    run: Run | None = None,
    total: int | None = None,
) -> dict[str, Covariance]:
    """Run ``batches`` through the frozen model and return one covariance per target layer.

    Layers that share an input share the very same :class:`Covariance` object. Where torch.distributed
    is initialised, every process calls this with its own batches (possibly none) and gets the whole.

    Args:
        model: a transformers causal language model, or anything with linear layers that takes
            ``input_ids`` and ``attention_mask``.
        batches: mappings of ``input_ids`` and ``attention_mask``, (batch, time); rows are samples. With
            ``counted``, (batch, time), only the tokens that it marks enter the sums.
        targets: as in :func:`keeps.models.targets.find_targets`.
        normalise: see :meth:`keeps.numerics.covariance.Covariance.add`.
        dtype: of the running sums; float32 or float64.
        layers: linear layers by name, of either layout (:mod:`keeps.models.locate`), in place of ``targets``.
        means: sum the inputs too, for :meth:`keeps.numerics.covariance.Covariance.centred`.
        run: shows progress, if given.
        total: number of batches, for the progress bar.

    Raises:
        EmptySetError: there is no batch.
        SettingsError: the dtype is too narrow for sums.
        StatisticsError: a layer saw something that is not finite, or padding that cannot be told from
            tokens. (A layer that saw no token says so when its ``matrix()`` is asked for.)
    """
    if dtype not in (torch.float32, torch.float64):
        raise SettingsError(f"covariances are summed in {dtype}", mend="choose torch.float32 or torch.float64")
    collector = _Collector(find_targets(model, targets) if layers is None else layers, normalise, dtype, means)
    device = next(model.parameters()).device
    seen = 0
    hooks = [layer.register_forward_pre_hook(collector.hook(name)) for name, layer in collector.layers.items()]
    try:
        # no_grad and not inference_mode: tensors made in the latter could not be summed over processes later
        with evaluating(model), torch.no_grad(), _progress(run, total) as task:
            for batch in batches:
                ids = batch["input_ids"].to(device)
                mask = batch.get("attention_mask", torch.ones_like(ids)).to(device)
                collector.start(batch.get("counted", mask).to(device))
                _backbone(model)(input_ids=ids, attention_mask=mask, use_cache=False)
                seen += 1
                if task is not None:
                    task.advance(1)
    finally:
        for hook in hooks:
            hook.remove()
    seen = _agree_over_processes(collector, seen)
    if seen == 0:
        raise EmptySetError("there is no calibration sample", mend="give --keep some facts, or texts to calibrate on")
    return _summed_over_processes(collector.result(device))


def token_batches(
    sequences: Sequence[Sequence[int]], *, pad_token_id: int, token_budget: int = 2048
) -> list[dict[str, Tensor]]:
    """Pad sequences into batches of similar length, at most ``token_budget`` tokens each, short ones first.

    >>> [batch["attention_mask"].tolist() for batch in token_batches([[5, 6], [7]], pad_token_id=0)]
    [[[1, 0], [1, 1]]]
    """
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    groups: list[list[int]] = []
    for index in order:  # ascending, so the newest is the widest of its group
        if groups and (len(groups[-1]) + 1) * len(sequences[index]) <= token_budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    batches = []
    for group in groups:
        width = max(len(sequences[index]) for index in group)
        ids = torch.full((len(group), width), pad_token_id)
        mask = torch.zeros(len(group), width, dtype=torch.long)
        for row, index in enumerate(group):
            ids[row, : len(sequences[index])] = torch.tensor(list(sequences[index]))
            mask[row, : len(sequences[index])] = 1
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


def merge_covariances(first: Mapping[str, Covariance], second: Mapping[str, Covariance]) -> dict[str, Covariance]:
    """Two collections over the same layers as one; sharing among layers is preserved.

    Raises:
        StatisticsError: the collections cover different layers.
    """
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        mend = "merge collections over the same targets"
        raise StatisticsError(f"the collections differ in layers such as {odd[0]}", mend=mend)
    merged: dict[tuple[int, int], Covariance] = {}
    for name in first:
        key = (id(first[name]), id(second[name]))
        if key not in merged:
            merged[key] = first[name].merge(second[name])
    return {name: merged[(id(first[name]), id(second[name]))] for name in first}


class _Collector:
    """Feeds each distinct input of a forward pass to one covariance."""

    def __init__(self, layers: Mapping[str, nn.Module], normalise: Normalise, dtype: torch.dtype, means: bool) -> None:
        self.layers = layers
        self.means = means
        self.normalise: Normalise = normalise
        self.dtype = dtype
        self.leader: dict[str, str] = {}  # layer -> the layer whose covariance it shares
        self.covariances: dict[str, Covariance] = {}
        self.mask: Tensor | None = None
        self.last: tuple[str, Tensor] | None = None

    def start(self, mask: Tensor) -> None:
        self.mask, self.last = mask, None

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def collect(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            del module
            x = inputs[0]
            # Layers that read one tensor run one after another, so holding the last input suffices.
            owner = self.last[0] if self.last is not None and self.last[1] is x else name
            leader = self.leader.setdefault(name, owner)
            if leader == name:
                self._add(name, x)
            elif leader != owner:
                raise _unsteady(name)
            if owner == name:
                self.last = (name, x)

        return collect

    def _empty(self, name: str, device: torch.device) -> Covariance:
        features = _in_features(self.layers[name])
        return Covariance.empty(features, name=name, dtype=self.dtype, device=device, means=self.means)

    def _add(self, name: str, x: Tensor) -> None:
        if name not in self.covariances:
            self.covariances[name] = self._empty(name, x.device)
        mask = self.mask
        assert mask is not None
        if x.ndim == 2 and x.shape[0] == mask.numel():  # some architectures flatten rows and time
            x = x.reshape(*mask.shape, -1)
        if x.ndim == 3 and x.shape[:2] == mask.shape:
            self.covariances[name].add(x, mask, normalise=self.normalise)
        elif bool(mask.all()):  # a list of tokens, such as a routed expert sees
            self.covariances[name].add(x, normalise=self.normalise)
        else:
            raise StatisticsError(
                f"the layer's input of shape {tuple(x.shape)} does not say which tokens are padding",
                where=name,
                mend="take the layer out of the targets, or collect from batches without padding",
            )

    def result(self, device: torch.device) -> dict[str, Covariance]:
        """One covariance per layer, empty for layers that were never reached."""
        found = {}
        for name in self.layers:
            owner = self.leader.get(name, name)
            if owner not in self.covariances:
                self.covariances[owner] = self._empty(owner, device)
            found[name] = self.covariances[owner]
        return found


def _in_features(layer: nn.Module) -> int:
    return ModuleRef.of("", layer).in_features


def _unsteady(name: str) -> StatisticsError:
    what = "a layer shares its input with others in one batch and not in the next"
    return StatisticsError(what, where=name, mend="collect with targets that run in a fixed order")


def _backbone(model: Any) -> Any:
    """The model without its vocabulary projection, where it has one."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    return decoder if decoder is not None else model


def _progress(run: Run | None, total: int | None) -> Any:
    return run.progress.task("covariance", total) if run else nullcontext()


def _processes() -> int:
    import torch.distributed as distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _agree_over_processes(collector: _Collector, seen: int) -> int:
    """Batches seen in all processes. All learn which layers share an input, as some may have seen no batch."""
    if _processes() == 1:
        return seen
    import torch.distributed as distributed

    found: list[Any] = [None] * _processes()
    distributed.all_gather_object(found, (seen, collector.leader))
    agreed: dict[str, str] = {}
    for _, leaders in found:
        for name, owner in leaders.items():
            if agreed.setdefault(name, owner) != owner:
                raise _unsteady(name)
    collector.leader = agreed
    return sum(count for count, _ in found)


def _summed_over_processes(covariances: dict[str, Covariance]) -> dict[str, Covariance]:
    """Sums over data-parallel processes, so that every process holds the whole collection."""
    if _processes() == 1:
        return covariances
    import torch.distributed as distributed

    for covariance in {id(item): item for item in covariances.values()}.values():
        counts = torch.tensor([covariance.n_tokens, covariance.n_samples], device=covariance.total.device)
        distributed.all_reduce(covariance.total)
        if covariance.inputs is not None:
            distributed.all_reduce(covariance.inputs)
        distributed.all_reduce(counts)
        covariance.n_tokens, covariance.n_samples = int(counts[0]), int(counts[1])
    return covariances
