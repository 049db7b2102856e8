"""How high the first token of an answer ranks after its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from keeps.models.batching import length_batches, pad_right
from keeps.models.checks import checked_pairs
from keeps.models.projection import chunks, evaluating, read_positions
from keeps.models.scoring import vocabulary_size

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel

TOKENS_PER_BATCH = 1024


def first_token_ranks(model: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> list[int]:
    """Rank of each answer's first token among all tokens, 0 being the most likely one.

    Raises:
        RecordError: unequal lengths, or an empty prompt or answer.
        ContextLengthError: a prompt with its answer is longer than the context.
    """
    limit = model.context_length
    pairs = checked_pairs(model.encode_pair, prompts, answers, room=0, limit=limit, model=model.name)
    ranks = [0] * len(pairs)
    with evaluating(model.model), torch.inference_mode():
        for batch in length_batches([len(prompt) for prompt, _ in pairs], budget=TOKENS_PER_BATCH):
            ids, mask = pad_right([pairs[index][0] for index in batch], model.encoder.pad_token_id, model.device)
            last = torch.zeros_like(mask, dtype=torch.bool)
            last[torch.arange(len(batch)), mask.sum(1) - 1] = True
            hidden, head = read_positions(model.model, ids, mask, last)
            for piece in chunks(len(hidden), vocabulary_size(model.model)):
                logits = head(hidden[piece]).float()  # (items, vocabulary)
                members = batch[piece]
                first = torch.tensor([pairs[index][1][0] for index in members], device=logits.device)
                own = logits.gather(1, first[:, None])
                above = ~(logits <= own)  # unlike >, true of NaN: a broken model knows nothing
                for index, rank in zip(members, above.sum(1).tolist(), strict=True):
                    ranks[index] = int(rank)
    return ranks
