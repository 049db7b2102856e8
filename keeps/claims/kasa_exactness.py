"""KaSA on the layers of a real model: what truncation leaves, what the formulas give, and the cost in perplexity."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.adapt.kasa import KaSASettings, kasa_loss, wrap_kasa
from keeps.claims.base import Check, ClaimRun
from keeps.contracts import Run
from keeps.data.records import Passage
from keeps.data.select import load_records
from keeps.models.adapter_files import write_adapter
from keeps.models.adapters import ADAPTER, doubled, lora_layers
from keeps.models.changes import source_of
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits, largest_difference
from keeps.numerics.truncation import rounding_norm

RANK = 8
SCALING = 2.0  # alpha = 16, as in the official settings
BLOCKS = (0, 9, 19, 29)  # of 30, whose layers are decomposed in full: 576 x 576, 192 x 576, 1536 x 576, 576 x 1536
PASSAGES = 48
BETA, GAMMA = 0.3, 0.7  # large, so that neither penalty hides behind the other


def exactness_checks(model: LanguageModel, run: ClaimRun) -> Iterator[Check]:
    """Card, points 1 and 2 and the last of 4."""
    held_out = load_records("text").part("test").passages()[:PASSAGES]
    before = perplexity(model, held_out)
    originals = {name: value.detach().clone() for name, value in model.model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        settings = KaSASettings(rank=RANK, alpha=RANK * SCALING)
        wrapped = wrap_kasa(model, settings, Run(Path(folder), progress=run.progress))
        try:
            after = perplexity(model, held_out)  # B is zero: what is measured is W_world alone
            layers = lora_layers(wrapped.peft_model)
            chosen = {name: layer for name, layer in layers.items() if any(f".{block}." in name for block in BLOCKS)}
            yield from _truncation_checks(chosen, originals, run)
            _disturb(layers)
            yield from _formula_checks(wrapped.peft_model, chosen)
            trained = check_logits(wrapped.peft_model, model.tokenizer)
            factors = doubled(wrapped.factors(), wrapped.start)
            write_adapter(Path(folder), wrapped.peft_model, factors, multiple=2, base=source_of(model))
        finally:
            wrapped.unwrap()
        worst = largest_difference(trained, _reloaded(model, Path(folder)))
        yield Check("largest logit difference of the rank-2r export on the base", worst, "below 1e-3", worst < 1e-3)
    changed = sum(not torch.equal(value, originals[name]) for name, value in model.model.named_parameters())
    yield Check("weights that differ from the original after unwrapping", changed, "none", changed == 0)
    title = f"perplexity of held-out text, {RANK} components of every layer removed"
    yield Check(title, after, "less than 2 % above the base", after < 1.02 * before, before, note=_share(after, before))


def perplexity(model: LanguageModel, passages: Sequence[Passage]) -> float:
    """exp of the mean loss a token."""
    scores = model.text_logprob([passage.text for passage in passages])
    return math.exp(-sum(score.logprob for score in scores) / sum(score.tokens for score in scores))


def _truncation_checks(layers: dict[str, Any], originals: dict[str, Tensor], run: ClaimRun) -> Iterator[Check]:
    """Rank and norms against a full decomposition of the original weights by another routine."""
    off = unclear = 0
    spectral = frobenius = 0.0
    shapes = set()
    for name, layer in layers.items():
        original = originals[f"{name}.weight"].double()
        world: Tensor = layer.base_layer.weight.detach()
        values = torch.linalg.svdvals(original)
        kept = len(values) - RANK
        # Stored in float32, W_world has rounding where its zero singular values are.
        noise = rounding_norm(world)
        off += int(int((torch.linalg.svdvals(world.double()) > noise).sum()) != kept)
        unclear += int(float(values[kept - 1]) < 10 * noise)
        removed = original - world.double()
        spectral = max(spectral, abs(float(torch.linalg.matrix_norm(removed, 2) / values[kept]) - 1))
        frobenius = max(frobenius, abs(float(removed.square().sum() / values[kept:].square().sum()) - 1))
        shapes.add(tuple(original.shape))
    run.tables["layers decomposed in full"] = {"layers": len(layers), "shapes": sorted(map(str, shapes))}
    note = (
        f"{len(layers)} layers of {len(shapes)} shapes; in {unclear} of them the rank is near the rounding of float32"
    )
    yield Check("layers whose truncated weight is not of rank min(out, in) - r", off, "none", off == 0, note=note)
    title = "||W - W_world||_2 against sigma_(k-r+1), relative"
    yield Check(title, spectral, "within 1e-4 in every layer", spectral < 1e-4)
    title = "||W - W_world||_F^2 against the removed sigma^2, relative"
    yield Check(title, frobenius, "within 1e-4 in every layer", frobenius < 1e-4)


def _formula_checks(peft_model: Any, layers: dict[str, Any]) -> Iterator[Check]:
    """Forward, merged weight, penalties and the identity between their forms, each from written-out matrices."""
    generator = torch.Generator().manual_seed(0)
    forward = merged = identity = 0.0
    for layer in layers.values():
        a, b, g = _parts(layer)
        world = layer.base_layer.weight.detach().double().cpu()
        x = torch.randn(4, layer.in_features, generator=generator)
        wanted = x.double() @ world.T + SCALING * ((x.double() @ a.T) @ torch.diag(g)) @ b.T
        whole = x.double() @ (world + SCALING * b @ torch.diag(g) @ a).T
        found = layer(x.to(layer.base_layer.weight.device)).detach().double().cpu()
        forward = max(forward, float((found - wanted).abs().max() / wanted.abs().max()))
        merged = max(merged, float((found - whole).abs().max() / whole.abs().max()))
        wide = (a.T @ a - torch.eye(a.shape[1])).square().sum()
        narrow = (a @ a.T - torch.eye(len(a))).square().sum() + a.shape[1] - len(a)
        identity = max(identity, abs(float(wide / narrow) - 1))
    yield Check("forward pass against its formula, relative", forward, "within 1e-5", forward < 1e-5)
    yield Check("forward pass against the merged weight, relative", merged, "within 1e-5", merged < 1e-5)
    for form in ("paper", "official"):
        total = sum(_penalty(*_parts(layer), form) for layer in lora_layers(peft_model).values())
        given = float(kasa_loss(peft_model, beta=BETA, gamma=GAMMA, reduction="sum", form=form).detach())
        error = abs(given / total - 1)
        yield Check(f"penalties of all layers, {form} form, relative", error, "within 1e-5", error < 1e-5)
    title = "||A^T A - I_in||^2 against ||A A^T - I_r||^2 + in - r, relative"
    yield Check(title, identity, "within 1e-5", identity < 1e-5)


def _parts(layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and g of a gated layer, in float64 on the CPU."""
    down = layer.lora_A[ADAPTER]
    a, b, g = (part.detach().double().cpu() for part in (down.weight, layer.lora_B[ADAPTER].weight, down.gate))
    return a, b, g


def _penalty(a: Tensor, b: Tensor, g: Tensor, form: str) -> float:
    pairs = (b.T @ b, a @ a.T) if form == "paper" else (b @ b.T, a.T @ a)
    apart = sum(float(torch.linalg.matrix_norm(pair - torch.eye(len(pair)))) for pair in pairs)
    return BETA * float((torch.diag(g) ** 2).sum()) + GAMMA * apart


def _disturb(layers: dict[str, Any]) -> None:
    """A random B in place of zero: formulas and an export that are only right at the start would be worthless."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in layers.values():
            weight = layer.lora_B[ADAPTER].weight
            weight.copy_(0.01 * torch.randn(weight.shape, generator=generator))


def _reloaded(model: LanguageModel, folder: Path) -> list[Tensor]:
    from peft import PeftModel

    peft_model = PeftModel.from_pretrained(model.model, str(folder)).eval()
    try:
        return check_logits(peft_model, model.tokenizer)
    finally:
        peft_model.unload()


def _share(after: float, before: float) -> str:
    return f"{100 * (after / before - 1):+.2f} %"
