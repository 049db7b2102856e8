"""AdaLoRA on a few linear layers, trained by any loss, and taken out again as plain factors (arXiv:2303.10512).

    W' = W + (alpha / r) P diag(lambda) Q,    regularised towards P^T P = I and Q Q^T = I

Every layer begins with more ranks than it gets on average; during training those that matter least, by sensitivity of
the loss, are masked, until ``rank`` a layer are left on average. peft's implementation does the work; this module puts
it on layers by name, keeps its schedule, and gives the model back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from keeps.models.language_model import LanguageModel
from keeps.models.locate import ModuleRef
from keeps.training.edit_losses import descend

ORTHOGONAL = 0.5  # weight of the regulariser, as published and as in peft
BEGIN, END = 0.1, 0.3  # shares of the steps before masking begins and after it ends


def train_adalora(
    model: LanguageModel,
    refs: Sequence[ModuleRef],
    loss: Callable[[], Tensor],
    *,
    rank: int,
    init_rank: int,
    alpha: float,
    steps: int,
    learning_rate: float,
    stop_loss: float,
    seed: int,
    where: str = "edit",
) -> tuple[dict[str, tuple[Tensor, Tensor]], float, int]:
    """Train one adapter; the model has its own layers back afterwards.

    Args:
        loss: of the model as it is, in nats; ``stop_loss`` is compared with it and the regulariser together.
        rank: of a layer on average once masking ends, ``init_rank`` of each before it begins. Training that
            ends earlier leaves more.

    Returns:
        Of each layer A ``(r, in)`` and B ``(out, r)`` float32 with W' = W + B A, without masked ranks (one of zeros
        where all are masked); the last loss, and the steps taken.

    Raises:
        TrainingError: the loss is no number.
    """
    from peft import AdaLoraConfig, get_peft_model

    first, last = round(BEGIN * steps), round(END * steps)
    config = AdaLoraConfig(
        target_modules=[ref.name for ref in refs],
        target_r=rank,
        init_r=init_rank,
        lora_alpha=round(alpha),
        tinit=first,
        tfinal=last,
        deltaT=1,
        total_step=steps + 1,
        orth_reg_weight=ORTHOGONAL,
        fan_in_fan_out=refs[0].transposed,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped: Any = get_peft_model(model.model, config)  # type: ignore[arg-type]
    tuner = wrapped.base_model
    try:
        trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
        pairs = [(layer.lora_A["default"], layer.lora_B["default"]) for layer in _layers(tuner)]
        done = 0

        def whole() -> Tensor:
            return loss() + ORTHOGONAL * orthogonality(pairs)

        def allocate() -> None:
            nonlocal done
            done += 1
            tuner.update_and_allocate(done)

        found, taken = descend(
            whole,
            trained,
            steps=steps,
            learning_rate=learning_rate,
            stop_loss=stop_loss,
            after=allocate,
            where=where,
        )
        factors = {ref.name: _factors(layer) for ref, layer in zip(refs, _layers(tuner, refs), strict=True)}
    finally:
        tuner.unload()
        vars(model.model).pop("peft_config", None)
    return factors, found, taken


def orthogonality(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean of ||Q Q^T - I|| and ||P^T P - I|| (Frobenius) over all Q ``(r, in)`` and P ``(out, r)``.

    >>> float(orthogonality([(torch.eye(2, 3), 2 * torch.eye(4, 2))]))  # the second one is 3 I away, of norm 3 sqrt 2
    2.1213202476501465
    """
    norms = []
    for q, p in pairs:
        for gram in (q @ q.T, p.T @ p):
            norms.append((gram - torch.eye(len(gram), device=gram.device)).norm())
    return torch.stack(norms).mean()


def _layers(tuner: Any, refs: Sequence[ModuleRef] | None = None) -> list[Any]:
    """The adapted layers of the tuner; in the order of ``refs``, if given."""
    named = {name: module for name, module in tuner.named_modules() if hasattr(module, "lora_E")}
    if refs is None:
        return list(named.values())
    return [next(module for name, module in named.items() if name.endswith(ref.name)) for ref in refs]


def _factors(layer: Any) -> tuple[Tensor, Tensor]:
    """W' - W as peft's layer forms it, by its ranks that are left."""
    a, b, e = (getattr(layer, name)["default"].detach().float() for name in ("lora_A", "lora_B", "lora_E"))
    scale = layer.scaling["default"] / (float(layer.ranknum["default"]) + 1e-5)
    kept = (e[:, 0] != 0).nonzero()[:, 0]
    if not len(kept):
        kept = torch.tensor([0], device=e.device)
    return (a * e)[kept].contiguous(), (scale * b[:, kept]).contiguous()
