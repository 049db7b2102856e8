"""The loss of stage 1 of Mix-CPT against unpadded logits, and the mixture that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from keeps.contracts import Run
from keeps.data.records import Dialogue, Example, Fact, Passage, Preference
from keeps.errors import SettingsError
from keeps.models import LanguageModel
from keeps.numerics.distillation import lssd_loss
from keeps.training.batches import TokenizedExample, collate
from keeps.training.distilled import DOMAIN, GENERAL, DistilledLoss, LiveTeacher
from keeps.training.mixture import mixture, plain_examples
from keeps.training.reference import Reference

DOCUMENTS = tuple(Passage(f"p{n}", f"Mr {n} Orbel lives in house {n * n}.") for n in range(6))
TALK = tuple(
    Dialogue(f"d{n}", (("user", f"What comes after {n}?"), ("assistant", f"It is {n + 1}."))) for n in range(6)
)
PAIRS = tuple(Preference(f"r{n}", f"Name a number above {n}.", f"Surely {n + 3}.", "No idea at all.") for n in range(5))


@pytest.fixture
def reading(tiny_llama: LanguageModel, tmp_path: Path) -> Any:
    """The model changed a little, examples of both kinds, a batch, and the reference from before the change."""
    examples = plain_examples(tiny_llama, [*DOCUMENTS[:2], *TALK[:2]], 64)
    kinds = (DOMAIN, DOMAIN, GENERAL, GENERAL)
    examples = [TokenizedExample(e.input_ids, 1, kind) for e, kind in zip(examples, kinds, strict=True)]
    batch = collate(examples, 2)
    before = _rows(tiny_llama.model, examples)
    reference = Reference.of(tiny_llama, examples, run=Run(tmp_path), head_changes=True)
    live = LiveTeacher(tiny_llama.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in tiny_llama.model.parameters():
            value += 0.3 * value.abs().mean() * torch.randn(value.shape, generator=generator)
    return tiny_llama.model, examples, batch, before, {"stored": reference, "live": live}


def _rows(model: Any, examples: list[TokenizedExample]) -> torch.Tensor:
    """Logits that predict each answer token, one example at a time and without padding."""
    rows = [model(input_ids=torch.tensor([e.input_ids])).logits[0, e.answer_start - 1 : -1] for e in examples]
    return torch.cat(rows)


@pytest.mark.parametrize("teacher", ["stored", "live"])
@pytest.mark.parametrize(("swap", "general"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("chunk", [5, 512])
def test_both_parts_of_the_loss_are_those_of_unpadded_logits(
    reading: Any, teacher: str, swap: bool, general: bool, chunk: int
) -> None:
    model, examples, batch, before, teachers = reading
    options: dict[str, Any] = {"swap": swap, "general_only": general, "chunk": chunk}
    loss = DistilledLoss(model, teachers[teacher], **options)
    next_token, divergence = loss.parts(batch)
    now, labels = _rows(model, examples), batch.targets.clone()
    torch.testing.assert_close(next_token, functional.cross_entropy(now, labels, reduction="sum"), rtol=1e-4, atol=1e-4)
    if general:
        labels[: sum(e.answer_tokens for e in examples[:2])] = -100
    wanted = lssd_loss(now, before, labels, reduction="sum", swap=swap)
    torch.testing.assert_close(divergence, wanted, rtol=1e-3, atol=1e-3)
    assert wanted > 0


@pytest.mark.parametrize("next_token", [True, False])
def test_the_value_is_the_next_token_loss_and_the_gradient_that_of_the_whole(reading: Any, next_token: bool) -> None:
    model, examples, batch, before, teachers = reading
    loss = DistilledLoss(model, teachers["stored"], alpha=0.7, next_token=next_token)
    value = loss(batch)
    value.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    now = _rows(model, examples)
    plain = functional.cross_entropy(now, batch.targets, reduction="sum")
    objective = 0.7 * lssd_loss(now, before, batch.targets, reduction="sum") + (plain if next_token else 0.0)
    objective.backward()
    torch.testing.assert_close(value, plain, rtol=1e-4, atol=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-3)


def test_a_process_without_examples_gets_a_loss_of_zero(reading: Any) -> None:
    model, examples, _, _, teachers = reading
    ids = examples[0].input_ids
    loss = DistilledLoss(model, teachers["stored"])(collate([TokenizedExample(ids, len(ids))], 2))
    loss.backward()
    assert loss.item() == 0


def test_a_teacher_of_no_weight_is_refused(reading: Any) -> None:
    with pytest.raises(SettingsError, match="weight 0"):
        DistilledLoss(reading[0], reading[4]["stored"], alpha=0)


def _stream(first: int, count: int, length: int = 10) -> list[TokenizedExample]:
    return [TokenizedExample(tuple(range(first + n, first + n + length)), 1) for n in range(count)]


def test_the_domain_is_whole_and_the_rest_has_its_share_of_the_tokens() -> None:
    streams = [_stream(0, 10), _stream(100, 50), _stream(300, 50)]
    examples, tokens = mixture(streams, (5, 4, 1), seed=0)
    assert tokens == [100, 80, 20]
    assert [example.kind for example in examples] == [DOMAIN] * 10 + [GENERAL] * 10
    assert [example.input_ids for example in examples[:10]] == [example.input_ids for example in streams[0]]
    assert len({example.input_ids for example in examples}) == 20, "nothing twice"
    assert mixture(streams, (5, 4, 1), seed=0) == (examples, tokens)
    assert mixture(streams, (5, 4, 1), seed=1)[0] != examples
    assert mixture(streams, (5, 0, 0), seed=0)[1] == [100, 0, 0]
    assert mixture([streams[0], streams[1][:3], []], (1, 1, 1), seed=0)[1] == [100, 30, 0], "as far as it goes"


def test_records_are_read_as_plain_text_and_every_token_is_predicted(tiny_llama: LanguageModel) -> None:
    model = tiny_llama
    fact = Fact("f", "Orbel", "house", ("Orbel lives in", "The house of Orbel is"), ("house 4",))
    found = plain_examples(model, [TALK[0], PAIRS[0], Example("e", "One and one is", "two"), fact], 64)
    texts = [model.tokenizer.decode(example.input_ids) for example in found]
    assert texts == [
        "What comes after 0? It is 1.\n",
        "Name a number above 0. Surely 3.\n",
        "One and one is two\n",
        "Orbel lives in house 4\n",
        "The house of Orbel is house 4\n",
    ]
    assert {example.answer_start for example in found} == {1}
