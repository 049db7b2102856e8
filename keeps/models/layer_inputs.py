"""What goes into one linear layer when a prompt is read, and that layer with something else in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keeps.models.batching import length_batches, pad_right
from keeps.models.checks import located
from keeps.models.language_model import LanguageModel
from keeps.models.locate import ModuleRef, checked_layer, first_blocks, mlp_outputs
from keeps.models.projection import hidden_states, selected_logits
from keeps.models.scoring import Tokens

Replacement = Callable[[Tensor, Tensor], Tensor]  # (input, output) of the layer -> its output


def late_layer(model: LanguageModel, layer: int | None) -> tuple[int, ModuleRef]:
    """The MLP down-projection of block ``layer``; without one, of the block at 27 / 32 of the depth.

    That is where memories beside the weights were published to lie (layer 27 of Llama-2-7B).

    Raises:
        TargetError: there is no such layer.
    """
    refs = mlp_outputs(model.model)
    chosen = round(len(refs) * 27 / 32) if layer is None else layer
    chosen = min(chosen, len(refs) - 1) if layer is None else checked_layer(chosen, len(refs))
    return chosen, refs[chosen]


def layer_inputs(model: LanguageModel, prompts: Sequence[str], layer: int) -> list[Tensor]:
    """The inputs of block ``layer``'s down-projection at each token of each prompt.

    Nothing above that block is computed.

    Returns:
        A tensor ``(time, in)`` float32 on the CPU for each prompt.
    """
    contexts = [located(number, model.encode_prompt, prompt) for number, prompt in enumerate(prompts)]
    ref = mlp_outputs(model.model)[layer]
    found: list[Tensor] = [torch.empty(0)] * len(contexts)
    seen: list[Tensor] = []
    handle = ref.module.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        with model._reading() as engine, first_blocks(model.model, layer + 1):
            for batch in length_batches([len(c) for c in contexts], budget=engine.budget):
                ids, mask = pad_right([contexts[index] for index in batch], engine.pad_token_id, engine.device)
                seen.clear()
                hidden_states(model.model, ids, mask)
                rows = seen[-1].reshape(*ids.shape, -1)
                for row, index in zip(rows, batch, strict=True):
                    found[index] = row[: len(contexts[index])].float().cpu()
    finally:
        handle.remove()
    return found


def replaced_output(module: nn.Module, replacement: Replacement) -> AbstractContextManager[None]:
    """The layer gives ``replacement(input, output)`` while the block lasts."""
    return _hooked(module, lambda _, given, output: replacement(given[0], output))


def changed_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """The module gives ``change(output)`` while the block lasts, however it is called; of a tuple the first part."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return _hooked(module, hook)


@contextmanager
def _hooked(module: nn.Module, hook: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class TargetBatch:
    """Prompts with their targets, padded on the right.

    Attributes:
        input_ids, mask: ``(batch, time)`` int64.
        positions: ``(batch, time)`` bool: what predicts a token of a target.
        targets: ``(target tokens,)`` int64, in row-major order; ``rows`` the row of each.
        last: ``(batch,)`` int64, the position of each prompt's last token.
    """

    input_ids: Tensor
    mask: Tensor
    positions: Tensor
    targets: Tensor
    rows: Tensor
    last: Tensor

    @classmethod
    def of(cls, model: LanguageModel, prompts: Sequence[str], targets: Sequence[str]) -> TargetBatch:
        """Encode prompts and targets.

        Raises:
            RecordError: a prompt or a target is empty.
        """
        pairs = [located(n, model.encode_pair, *pair) for n, pair in enumerate(zip(prompts, targets, strict=True))]
        rows: list[Tokens] = [[*context, *answer[:-1]] for context, answer in pairs]
        ids, mask = pad_right(rows, model.encoder.pad_token_id, model.device)
        positions = torch.zeros_like(mask, dtype=torch.bool)
        for row, (context, answer) in enumerate(pairs):
            positions[row, len(context) - 1 : len(context) + len(answer) - 1] = True
        wanted = torch.tensor([token for _, answer in pairs for token in answer], device=model.device)
        owners = torch.tensor([row for row, (_, answer) in enumerate(pairs) for _ in answer], device=model.device)
        last = torch.tensor([len(context) - 1 for context, _ in pairs], device=model.device)
        return cls(ids, mask, positions, wanted, owners, last)

    def losses(self, model: LanguageModel) -> tuple[Tensor, Tensor]:
        """Mean loss in nats a target token of each row, ``(batch,)``; and whether all its tokens are the argmax."""
        logits = selected_logits(model.model, self.input_ids, self.mask, self.positions).float()
        token_loss = nn.functional.cross_entropy(logits, self.targets, reduction="none")
        counts = torch.bincount(self.rows, minlength=len(self.last))
        zeros = torch.zeros(len(self.last), device=logits.device)
        wrong = zeros.index_add(0, self.rows, (logits.argmax(-1) != self.targets).float())
        return zeros.index_add(0, self.rows, token_loss) / counts, wrong == 0
