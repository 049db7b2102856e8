"""What a model would say if it did not say the answer: continuations that part from it at the first token.

A model that knows the answer gives it whenever it is asked, sampled or not. So the first token is chosen among all
others, by the model's own probabilities, and the rest is continued as always.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from keeps.models.generation import Ending
from keeps.models.language_model import LanguageModel
from keeps.models.limits import engine_for
from keeps.models.projection import evaluating, last_logits
from keeps.models.sampling import Softness, continue_sampled
from keeps.models.stopping import StopRule

SPARE = 4  # first tokens tried beyond those asked for, since some lead to the answer in another spelling
LOOKED_AT = 64  # likeliest first tokens that are considered


def first_order(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Tokens in the order in which they would be drawn without replacement; at temperature 0 by probability.

    Gumbel noise on logits / temperature gives the draws of the softmax (Kool et al. 2019, arXiv:1903.06059).

    Args:
        logits: ``(vocabulary,)``.
        generator: of the CPU.

    Returns:
        ``(vocabulary,)`` int64.
    """
    wide = logits.detach().double().cpu()
    if temperature > 0:
        uniform = torch.rand(wide.shape, generator=generator, dtype=torch.float64).clamp_min(1e-300)
        wide = wide / temperature - (-uniform.log()).log()
    return wide.argsort(descending=True, stable=True)


def alternatives(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    right: Sequence[Sequence[str]],
    *,
    count: int,
    temperature: float,
    seeds: Sequence[int],
    max_new_tokens: int = 24,
) -> list[list[str]]:
    """Up to ``count`` different alternative answers to each prompt, the likeliest (or first drawn) first.

    Args:
        prompts: token ids of each prompt.
        answers: token ids of its answer, of which the first is not begun with.
        right: texts that an alternative must not contain, whatever the case.
        temperature: 0 is greedy, 1 the model's own distribution.
        seeds: one a prompt.
    """
    engine = engine_for(model.model, model.encoder.pad_token_id)
    ending = Ending(max_new_tokens, StopRule(("\n",), sentence=True), model.encoder.end_ids, model.encoder.decode)
    contexts: list[tuple[int, ...]] = []
    owners: list[tuple[int, int]] = []
    with evaluating(model.model), torch.no_grad():
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            logits = last_logits(model.model, torch.tensor([list(prompt)], device=model.device))[0]
            order = first_order(logits, temperature, torch.Generator().manual_seed(seeds[number]))
            for token in _beginnings(model, order, answer[0])[: count + SPARE]:
                contexts.append((*prompt, token))
                owners.append((number, token))
        draws = [seeds[number] + place + 1 for place, (number, _) in enumerate(owners)]
        said = continue_sampled(engine, contexts, draws, Softness(temperature), ending)
    found: list[list[str]] = [[] for _ in prompts]
    for (number, token), tokens in zip(owners, said, strict=True):
        text = ending.text([token, *tokens]).strip()
        known = any(answer.strip().casefold() in text.casefold() for answer in right[number] if answer.strip())
        if text and not known and text not in found[number] and len(found[number]) < count:
            found[number].append(text)
    return found


def _beginnings(model: LanguageModel, order: Tensor, first: int) -> list[int]:
    """The first of ``order`` that may begin an alternative: words or figures, and not the answer's own token."""
    own, special, found = model.encoder.decode([first]).strip().casefold(), model.encoder.end_ids, []
    for token in order[:LOOKED_AT].tolist():
        text = model.encoder.decode([token]).strip()
        if token != first and token not in special and text.casefold() != own and any(map(str.isalnum, text)):
            found.append(token)
    return found
