"""The gradient of the loss by the weight of every target layer, a few layers at a time.

A layer y = W x has dL/dW = sum over tokens of (dL/dy) x^T. A hook on y forms that product when the backward
pass comes by, so that no weight needs to require a gradient, and the pass begins no lower than the lowest
layer that is asked for. Layers are taken in groups whose gradients fit into a given memory; each group costs
one more forward pass over the examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from keeps.contracts import Run
from keeps.errors import EmptySetError
from keeps.models.adapters import untrained
from keeps.models.projection import evaluating
from keeps.training.batches import Batch, TokenizedExample, collate
from keeps.training.losses import AnswerLoss


def layer_gradients(
    model: Any,
    layers: Mapping[str, nn.Linear],
    examples: Sequence[TokenizedExample],
    *,
    batch_size: int,
    pad_token_id: int,
    memory: float = 1024.0,
    run: Run | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's name and the gradient of the mean loss over all answer tokens, ``(out, in)`` float32.

    The model is in evaluation mode meanwhile, and its parameters are neither changed nor given gradients.
    A gradient is freed as soon as the caller lets go of it.

    Args:
        layers: target layers of ``model`` by name, in model order.
        batch_size: examples per forward pass.
        memory: bytes for gradients at a time in MiB; a single layer may exceed it.

    Raises:
        EmptySetError: no example has an answer token.
    """
    answer_tokens = sum(example.answer_tokens for example in examples)
    if answer_tokens == 0:
        raise EmptySetError("there is no answer token to take a gradient on", mend="give examples with answers")
    ordered = sorted(examples, key=lambda example: -len(example.input_ids))
    device = next(model.parameters()).device
    batches = [
        collate(ordered[start : start + batch_size], pad_token_id).to(device)
        for start in range(0, len(ordered), batch_size)
    ]
    parts = groups(layers, memory)
    progress = run.progress if run is not None else None
    for number, names in enumerate(parts, start=1):
        if progress is not None and len(parts) > 1:
            progress.message(f"gradients of layers, group {number} of {len(parts)}")
        gradients = _group(model, {name: layers[name] for name in names}, batches, answer_tokens)
        for name in names:
            yield name, gradients.pop(name)


def groups(layers: Mapping[str, nn.Linear], memory: float) -> list[list[str]]:
    """The names cut into runs whose float32 weights fit into ``memory`` MiB, at least one each."""
    found: list[list[str]] = []
    left = 0.0
    for name, layer in layers.items():
        size = layer.weight.numel() * 4 / 2**20
        if not found or size > left:
            found.append([])
            left = memory
        found[-1].append(name)
        left -= size
    return found


def _group(
    model: Any, layers: Mapping[str, nn.Linear], batches: Sequence[Batch], answer_tokens: int
) -> dict[str, Tensor]:
    gradients = {name: torch.zeros_like(layer.weight, dtype=torch.float32) for name, layer in layers.items()}
    hooks = [layer.register_forward_hook(_watch(gradients[name])) for name, layer in layers.items()]
    loss = AnswerLoss(model)
    try:
        with untrained(model), evaluating(model), torch.enable_grad():
            for batch in batches:
                (loss(batch) / answer_tokens).backward()
    finally:
        for hook in hooks:
            hook.remove()
    return gradients


def _watch(total: Tensor) -> Any:
    """A forward hook that adds the layer's gradient to ``total`` in the backward pass."""

    def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del module
        x = inputs[0].detach()
        if not output.requires_grad:
            output.requires_grad_()  # the lowest layer of the group: the graph begins here

        def backward(gradient: Tensor) -> None:
            g = gradient.reshape(-1, gradient.shape[-1]).float()
            total.addmm_(g.T, x.reshape(-1, x.shape[-1]).float())

        output.register_hook(backward)

    return forward
