"""Context helps: drop the smallest components of layers, and see how much the text suffers.

Calibrate on chunks of a text, drop the d smallest components of the linear layers of three blocks, and
measure perplexity on other chunks of the same text: oriented by the covariance, scaled by the size of
activations (ASVD, arXiv:2312.05821, alpha = 0.5), and plain. Calibrating on another text must be worse
than on the same one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from keeps.claims.base import Check, ClaimRun
from keeps.data.records import RecordSet
from keeps.data.select import load_records
from keeps.models.calibration import calibration_sequences
from keeps.models.covariances import collect_covariance, token_batches
from keeps.models.language_model import LanguageModel
from keeps.models.projection import hidden_states
from keeps.numerics.covariance import Covariance
from keeps.numerics.oriented import Damped, damped, drop_smallest

BLOCKS = (4, 14, 24)  # of 30: early, middle, late
DROPS = (64, 192)  # components per layer; key and value layers have 192 in all and keep a quarter at least
CHUNKS = 48
CHUNK_TOKENS = 256
ALPHA = 0.5  # ASVD's exponent
ORDER = (("oriented", "activation-scaled"), ("activation-scaled", "plain"), ("oriented", "oriented by another text"))


def context_checks(model: LanguageModel, run: ClaimRun) -> Iterator[Check]:
    """Oriented below activation-scaled below plain; same text below another text."""
    text = load_records("text")
    same = _chunks(model, text.part("train"), CHUNKS)
    other = _chunks(model, load_records("world:capital,world:symbol,world:country_of_city"), CHUNKS)
    held_out = text.part("test").passages()[:CHUNKS]
    targets = tuple(name for name in _layer_names(model) if any(f".layers.{block}." in name for block in BLOCKS))
    own = _covariances(model, same, targets)
    foreign = _covariances(model, other, targets)
    with torch.inference_mode():
        sizes = mean_sizes(model, same, targets)
    run.tables["perplexity, nothing dropped"] = _perplexity(model, held_out)
    contexts: dict[str, Callable[[str], Damped | None]] = {
        "oriented": lambda layer: damped(own[layer].matrix()),
        "activation-scaled": lambda layer: activation_scaled(sizes[layer]),
        "plain": lambda layer: None,
        "oriented by another text": lambda layer: damped(foreign[layer].matrix()),
    }
    for count in DROPS:
        measured = {}
        for name, context in contexts.items():
            with _dropped(model, targets, context, count):
                measured[name] = _perplexity(model, held_out)
            run.progress.message(f"perplexity with {count} components dropped, {name}: {measured[name]:.2f}")
        run.tables[f"perplexity, {count} dropped"] = measured
        for name, worse in ORDER:
            title = f"perplexity with {count} components dropped: {name} against {worse}"
            yield Check(title, measured[name], "lower", measured[name] < measured[worse], baseline=measured[worse])


def activation_scaled(size: Tensor) -> Damped:
    """ASVD's diagonal as an orientation: mean absolute value of each input feature, to the power alpha."""
    return Damped(torch.diag(size.double().clamp_min(1e-12) ** ALPHA), 0.0, 0.0)


def mean_sizes(model: LanguageModel, chunks: list[list[int]], targets: tuple[str, ...]) -> dict[str, Tensor]:
    """Mean absolute value of every input feature of each target layer over all tokens, (in,) float64."""
    sums: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def add(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            del module
            sums[name] = sums.get(name, torch.zeros(())) + inputs[0].double().abs().sum(dim=(0, 1))

        return add

    hooks = [model.model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in targets]
    try:
        for chunk in chunks:  # one at a time: no padding to leave out
            hidden_states(model.model, torch.tensor([chunk], device=model.device), torch.ones(1, len(chunk)))
    finally:
        for handle in hooks:
            handle.remove()
    tokens = sum(len(chunk) for chunk in chunks)
    return {name: total / tokens for name, total in sums.items()}


def _layer_names(model: LanguageModel) -> list[str]:
    from keeps.models.targets import find_targets

    return list(find_targets(model.model))


def _chunks(model: LanguageModel, records: RecordSet, count: int) -> list[list[int]]:
    sequences = calibration_sequences(model, records, tokens=CHUNK_TOKENS, answers=True, seed=0)
    return [sequence for sequence in sequences if len(sequence) > CHUNK_TOKENS // 4][:count]


def _covariances(model: LanguageModel, chunks: list[list[int]], targets: tuple[str, ...]) -> dict[str, Covariance]:
    return collect_covariance(model.model, token_batches(chunks, pad_token_id=model.encoder.pad_token_id), targets)


def _perplexity(model: LanguageModel, passages: list) -> float:  # type: ignore[type-arg]
    scores = model.text_logprob([passage.text for passage in passages])
    return math.exp(-sum(score.logprob for score in scores) / sum(score.tokens for score in scores))


class _dropped:  # noqa: N801  (a context manager used like a function)
    """The target layers without their smallest components, restored bit by bit on leaving."""

    def __init__(
        self, model: LanguageModel, targets: tuple[str, ...], context: Callable[[str], Damped | None], count: int
    ) -> None:
        self.layers = {name: model.model.get_submodule(name) for name in targets}
        self.context, self.count = context, count
        self.originals: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        with torch.no_grad():
            for name, layer in self.layers.items():
                weight: Tensor = layer.weight  # type: ignore[assignment]
                self.originals[name] = weight.detach().clone()
                count = min(self.count, 3 * min(weight.shape) // 4)
                weight.copy_(drop_smallest(weight, self.context(name), count))

    def __exit__(self, *exc: object) -> None:
        with torch.no_grad():
            for name, layer in self.layers.items():
                layer.weight.copy_(self.originals[name])  # type: ignore[operator]
