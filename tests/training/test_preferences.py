"""Which samples teach a format, and pairs of responses in the loop."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from keeps.data.records import Dialogue, Preference
from keeps.models import LanguageModel
from keeps.training.batches import TokenizedExample, collate
from keeps.training.mixture import as_dialogues, as_plain, sample_of
from keeps.training.preferences import Pair, PreferenceLoss, response_logprobs
from keeps.training.selection import sample_scores, select

TALK = tuple(
    Dialogue(f"d{n}", (("user", f"What comes after {n}?"), ("assistant", f"It is {n + 1}."))) for n in range(6)
)
PAIRS = tuple(Preference(f"r{n}", f"Name a number above {n}.", f"Surely {n + 3}.", "No idea at all.") for n in range(5))


def test_samples_are_scored_by_their_responses_alone(tiny_llama: LanguageModel) -> None:
    model = tiny_llama
    samples = [sample_of(model, dialogue) for dialogue in TALK]
    plain = [as_plain(dialogue) for dialogue in TALK]
    scored = model.logprob([r.prompt for r in plain], [f"{r.answer}\n" for r in plain])  # type: ignore[union-attr]
    losses = torch.tensor([-score.logprob / score.tokens for score in scored])
    easy = sample_scores(model.model, samples, "ppl_easy", pad_token_id=2)
    torch.testing.assert_close(easy, -losses.exp(), rtol=1e-3, atol=1e-3)
    assert torch.equal(sample_scores(model.model, samples, "ppl_hard", pad_token_id=2), -easy)
    wanted = losses.argsort()[:2].tolist()
    assert select(model.model, samples, 2, "ppl_easy", 2, 0) == sorted(wanted)
    templated = torch.tensor(
        [float(-response_logprobs(model.model, s.templated, 2)) / s.templated[0].answer_tokens for s in samples]
    )
    fas = sample_scores(model.model, samples, "fas", pad_token_id=2)
    known = losses <= losses.sort().values[3]
    assert fas.isinf().tolist() == (~known).tolist(), "content that is not known is left out"
    torch.testing.assert_close(fas[known], (templated / losses)[known], rtol=1e-3, atol=1e-3)


def test_random_samples_depend_on_the_seed_alone(tiny_llama: LanguageModel) -> None:
    samples = [sample_of(tiny_llama, dialogue) for dialogue in TALK]
    draws = [select(tiny_llama.model, samples, 3, "random", 2, seed) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert any(draw != draws[0] for draw in draws[2:])


def _rows(model: Any, examples: list[TokenizedExample]) -> torch.Tensor:
    """Logits that predict each answer token, one example at a time and without padding."""
    rows = [model(input_ids=torch.tensor([e.input_ids])).logits[0, e.answer_start - 1 : -1] for e in examples]
    return torch.cat(rows)


def test_a_preference_is_two_responses_to_one_prompt() -> None:
    chosen, rejected = as_dialogues(PAIRS[0])
    assert chosen.messages == (("user", "Name a number above 0."), ("assistant", "Surely 3."))
    assert rejected.messages[-1] == ("assistant", "No idea at all.")


def test_the_preference_loss_is_that_of_the_pairs_one_by_one(tiny_llama: LanguageModel) -> None:
    model: Any = tiny_llama.model
    pairs = [Pair(*sample_of(tiny_llama, record).templated) for record in PAIRS]
    reference = torch.tensor([[-20.0, -30.0]] * len(pairs))
    loss = PreferenceLoss(model, pairs, reference, beta=0.1, pad_token_id=2)
    examples = [pair.example(number) for number, pair in enumerate(pairs)]
    idle = TokenizedExample(examples[0].input_ids, len(examples[0].input_ids), 0)
    found = loss(collate([examples[3], examples[1], idle], 2))
    wanted = []
    for pair in (pairs[3], pairs[1]):
        sums = []
        for example in (pair.chosen, pair.rejected):
            labels = torch.tensor(example.input_ids[example.answer_start :])
            sums.append(-functional.cross_entropy(_rows(model, [example]), labels, reduction="sum"))
        wanted.append(-functional.logsigmoid(0.1 * ((sums[0] + 20) - (sums[1] + 30))))
    torch.testing.assert_close(found, torch.stack(wanted).sum(), rtol=1e-4, atol=1e-4)
    assert [example.answer_tokens for example in examples] == [1] * len(pairs), "a step's loss is the mean over pairs"
