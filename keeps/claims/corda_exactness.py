"""CorDA's exactness on every layer of a real model: the split, the wrapping, and the export."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from keeps.adapt.corda import init_adapter
from keeps.claims.base import Check
from keeps.data.select import load_records
from keeps.models.adapter_files import write_adapter
from keeps.models.adapters import WrappedModel, doubled, lora_layers
from keeps.models.calibration import calibration_sequences
from keeps.models.changes import source_of
from keeps.models.covariances import collect_covariance, token_batches
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits, largest_difference
from keeps.numerics.covariance import Covariance

RANK = 16
NOISE = 0.03  # size, relative to the factors, of the random change that stands for training in the export check


def exactness_checks(model: LanguageModel) -> Iterator[Check]:
    """Both modes, scalings 1 and 2, all linear layers."""
    covariances = text_covariances(model)
    plain = check_logits(model.model, model.tokenizer)
    split = logits = exported = 0.0
    for mode in ("kpm", "ipm"):
        for scaling in (1.0, 2.0):
            originals = {name: m.weight.detach().clone() for name, m in _linear(model, covariances).items()}
            wrapped = init_adapter(model.model, r=RANK, alpha=RANK * scaling, mode=mode, covariance=covariances)
            try:
                split = max(split, _split_error(wrapped, originals, scaling))
                logits = max(logits, largest_difference(plain, check_logits(wrapped.peft_model, model.tokenizer)))
                _disturb(wrapped)
                trained = check_logits(wrapped.peft_model, model.tokenizer)
                with tempfile.TemporaryDirectory() as folder:
                    factors = doubled(wrapped.factors(), wrapped.start)
                    write_adapter(Path(folder), wrapped.peft_model, factors, multiple=2, base=source_of(model))
                    wrapped.unwrap()
                    exported = max(exported, largest_difference(trained, _reloaded(model, Path(folder))))
            finally:
                wrapped.unwrap()
    yield Check("largest |W_res + s B A - W| / max |W|, all layers, both modes", split, "below 1e-4", split < 1e-4)
    yield Check("largest logit difference after wrapping", logits, "below 1e-3", logits < 1e-3)
    yield Check("largest logit difference of the rank-2r export on the base", exported, "below 1e-3", exported < 1e-3)


def text_covariances(model: LanguageModel, *, passages: int = 8) -> dict[str, Covariance]:
    """Covariances of all linear layers on a little running text."""
    text = load_records("text").part("train")
    few = type(text)(text.source, text.records[:passages])
    sequences = calibration_sequences(model, few, tokens=256, answers=True, seed=0)
    return collect_covariance(model.model, token_batches(sequences, pad_token_id=model.encoder.pad_token_id))


def _linear(model: LanguageModel, covariances: dict[str, Covariance]) -> dict[str, torch.nn.Linear]:
    modules = dict(model.model.named_modules())
    return {name: modules[name] for name in covariances}  # type: ignore[misc]


def _split_error(wrapped: WrappedModel, originals: dict[str, torch.Tensor], scaling: float) -> float:
    worst = 0.0
    for name, layer in lora_layers(wrapped.peft_model).items():
        a, b = wrapped.start[name]
        whole = layer.base_layer.weight.double() + scaling * (b.double() @ a.double())
        error = (whole - originals[name].double()).abs().max() / originals[name].abs().max()
        worst = max(worst, float(error))
    return worst


def _disturb(wrapped: WrappedModel) -> None:
    """A random change of A and B: an export that is only right at the start would be worthless."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in lora_layers(wrapped.peft_model).values():
            for part in (layer.lora_A, layer.lora_B):
                weight = part["default"].weight
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                weight += NOISE * float(weight.abs().mean()) * noise / float(noise.abs().mean())


def _reloaded(model: LanguageModel, folder: Path) -> list[torch.Tensor]:
    from peft import PeftModel

    peft_model = PeftModel.from_pretrained(model.model, str(folder)).eval()
    logits = check_logits(peft_model, model.tokenizer)
    peft_model.unload()
    return logits
