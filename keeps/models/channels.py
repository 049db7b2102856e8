"""Which inner channels of feed-forward layers belong together: by their weights, or by the tokens they act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import EmptySetError, SettingsError
from keeps.models.calibration import calibration_sequences
from keeps.models.covariances import token_batches
from keeps.models.feed_forward import FeedForward, feed_forwards
from keeps.models.language_model import LanguageModel
from keeps.models.projection import evaluating, hidden_states
from keeps.numerics.factoring import clustered_order, random_order

SPLITS = ("contiguous", "random", "clusters", "coactivation")
SEQUENCE = 256  # tokens up to which short texts are joined


def channel_orders(
    model: LanguageModel,
    names: Sequence[str],
    split: str,
    experts: int,
    records: RecordSet,
    *,
    pad: bool,
    tokens: int,
    run: Run,
) -> dict[str, Tensor | None]:
    """The channels of each layer in an order in which equal blocks are the pieces; None: as they are.

    Args:
        names: of feed-forward modules.
        split: ``"contiguous"``; ``"random"``, by the seed of ``run``; ``"clusters"`` of like rows of W_g (of W_u in a
            layer without a gate); ``"coactivation"``: clusters of channels that are active at the same tokens.
        records: what coactivation is seen on, about ``tokens`` tokens of it.
        pad: whether channels of zeros may make blocks equal.

    Raises:
        TargetError: a layer cannot be cut evenly.
        EmptySetError: there is no text.
        SettingsError: there is no such split.
    """
    if split not in SPLITS:
        raise SettingsError(f'there is no split "{split}"', mend=f"choose {', '.join(SPLITS)}")
    if split == "contiguous":
        return dict.fromkeys(names)
    found = feed_forwards(model.model)
    parts = {name: found[name].padded(experts, pad) for name in names}
    if split == "random":
        return {name: random_order(part.channels, run.seed + n) for n, (name, part) in enumerate(parts.items())}
    if split == "clusters":
        features = {name: part.ordered(None)[part.names[0]] for name, part in parts.items()}
    else:
        features = channel_activity(model, parts, records, tokens=tokens, seed=run.seed)
    orders: dict[str, Tensor | None] = {}
    with run.progress.task("grouping channels", len(names)) as bar:
        for name in names:
            orders[name] = clustered_order(features[name].cpu(), experts, run.seed)
            bar.advance()
    return orders


def channel_activity(
    model: LanguageModel, parts: Mapping[str, FeedForward], records: RecordSet, *, tokens: int, seed: int
) -> dict[str, Tensor]:
    """|activation| of each channel at about so many tokens, ``(channels, tokens)`` float32 on the CPU, by layer.

    Channels of padding are never active.

    Raises:
        EmptySetError: there is no text.
    """
    sequences: list[list[int]] = []
    room = tokens
    for sequence in calibration_sequences(model, records, tokens=SEQUENCE, answers=True, seed=seed):
        if room <= 0:
            break
        sequences.append(sequence[:room])
        room -= len(sequences[-1])
    if not sequences:
        raise EmptySetError("there is no text to watch the channels on", mend="give some texts to learn")
    found: dict[str, list[Tensor]] = {name: [] for name in parts}
    kept: list[Tensor] = []

    def hook(name: str) -> Any:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[name].append(inputs[0].reshape(-1, inputs[0].shape[-1])[kept[-1]].abs().float().cpu())

        return note

    handles = [part.down_ref.module.register_forward_pre_hook(hook(name)) for name, part in parts.items()]
    try:
        with evaluating(model.model), torch.no_grad():
            for batch in token_batches(sequences, pad_token_id=model.encoder.pad_token_id):
                mask = batch["attention_mask"].to(model.device)
                kept.append(mask.flatten().bool())
                hidden_states(model.model, batch["input_ids"].to(model.device), mask)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: nn.functional.pad(torch.cat(each).T, (0, 0, 0, parts[name].padding)).contiguous()
        for name, each in found.items()
    }
