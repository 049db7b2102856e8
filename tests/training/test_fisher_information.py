"""The diagonal of the Fisher information: against the expectation over all labels, and what it leaves behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import keeps.training.fisher_information as tested
from keeps.errors import StatisticsError
from keeps.training.batches import TokenizedExample
from keeps.training.fisher_information import diagonal_fisher

VOCABULARY = 5
EXAMPLES = [TokenizedExample((1, 2, 3), 2), TokenizedExample((4, 0, 2, 1), 1)]


class Bigram(nn.Module):
    """Next-token logits are a row of a table, bent a little; small enough to sum over every label."""

    def __init__(self) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(VOCABULARY, 3, generator=chance))
        self.unused = nn.Parameter(torch.ones(2))
        self.head = nn.Linear(3, VOCABULARY)
        nn.init.normal_(self.head.weight, generator=chance)


@pytest.fixture
def bigram(monkeypatch: pytest.MonkeyPatch) -> Bigram:
    def read(module: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> Any:
        del mask
        return torch.tanh(module.table[ids])[positions], module.head

    monkeypatch.setattr(tested, "read_positions", read)
    return Bigram()


def expected(model: Bigram) -> dict[str, torch.Tensor]:
    """Mean over texts of the sum over places of sum_y p(y) (d log p(y) / d theta)^2."""
    found = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for example in EXAMPLES:
        for place in range(example.answer_start - 1, len(example.input_ids) - 1):
            for label in range(VOCABULARY):
                logp = model.head(torch.tanh(model.table[example.input_ids[place]])).log_softmax(-1)
                grads = torch.autograd.grad(logp[label], list(model.parameters()), allow_unused=True)
                for (name, _), grad in zip(model.named_parameters(), grads, strict=True):
                    if grad is not None:
                        found[name] += logp[label].detach().exp() * grad.square() / len(EXAMPLES)
    return found


def test_drawn_labels_give_the_expectation_over_all_labels(bigram: Bigram) -> None:
    """4000 draws: entries within 10 % of the largest one of their tensor."""
    wanted = expected(bigram)
    found = diagonal_fisher(bigram, EXAMPLES, pad_token_id=0, draws=4000, seed=1)
    assert float(wanted["table"].max()) > 0.01
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, atol=0.1 * float(value.max()) + 1e-12), name


def test_labels_of_the_data_give_the_squared_gradient_of_each_examples_loss(bigram: Bigram) -> None:
    found = diagonal_fisher(bigram, EXAMPLES, pad_token_id=0, labels="data")
    wanted = {name: torch.zeros_like(value) for name, value in bigram.named_parameters()}
    for example in EXAMPLES:
        ids, places = example.input_ids, range(example.answer_start - 1, len(example.input_ids) - 1)
        logits = bigram.head(torch.tanh(bigram.table[[ids[place] for place in places]]))
        loss = nn.functional.cross_entropy(logits, torch.tensor([ids[p + 1] for p in places]), reduction="sum")
        for (name, _), grad in zip(
            bigram.named_parameters(),
            torch.autograd.grad(loss, list(bigram.parameters()), allow_unused=True),
            strict=True,
        ):
            wanted[name] += 0 if grad is None else grad.square() / len(EXAMPLES)
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-9)


def test_the_same_seed_draws_the_same_labels_and_flags_and_gradients_are_left_alone(bigram: Bigram) -> None:
    bigram.table.requires_grad_(False)
    state = torch.get_rng_state()
    one, two, other = (diagonal_fisher(bigram, EXAMPLES, pad_token_id=0, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one["table"], two["table"])
    assert not torch.equal(one["table"], other["table"])
    assert torch.equal(torch.get_rng_state(), state)
    assert not bigram.table.requires_grad
    assert bigram.head.weight.requires_grad
    assert all(parameter.grad is None for parameter in bigram.parameters())
    assert not one["unused"].any()


def test_no_examples_and_weights_that_are_no_numbers_are_refused(bigram: Bigram) -> None:
    with pytest.raises(StatisticsError, match="no example"):
        diagonal_fisher(bigram, [], pad_token_id=0)
    bigram.table.data[1] = torch.nan
    with pytest.raises(StatisticsError, match="not finite"):
        diagonal_fisher(bigram, EXAMPLES, pad_token_id=0, labels="data")
