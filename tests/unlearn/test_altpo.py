"""AltPO: the contract, its alternatives, and that they rise where the answers fall."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from keeps.data.records import Passage, RecordSet
from keeps.errors import RecordError, SettingsError
from keeps.models.alternatives import first_order
from keeps.unlearn.altpo import AltPOSettings, made_up

FEW = {"alternatives": 2, "max_tokens": 6}


def texts_of(contract: Any, seed: int = 0, **values: Any) -> list[list[str]]:
    settings = AltPOSettings.from_mapping({**FEW, **values})
    return [[record.answer for record in each] for each in made_up(contract.model, contract.forget, settings, seed)]  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["dpo", "npo"])
def test_it_forgets(contract: Any, form: str) -> None:
    before = contract.losses()
    change, _ = contract.run("altpo", epochs=6, rank=8, loss_form=form, **FEW)
    after = contract.losses(change)
    assert after[0] > before[0] + 0.5
    assert after[0] - before[0] > after[1] - before[1]


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("altpo", **FEW)


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("altpo", **FEW)


def test_it_continues_to_the_same_bytes(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    contract.check_resumes("altpo", monkeypatch, **FEW)


def test_its_first_loss_is_two_over_beta_times_log_two(contract: Any) -> None:
    _, run = contract.run("altpo", epochs=1, beta=0.2, retain_weight=0, **FEW)
    first = next(value for name, step, value in run.curves if name == "loss" and step == 1)
    assert first == pytest.approx(2 / 0.2 * math.log(2), rel=1e-4)


@pytest.mark.parametrize("sampling", ["sampled", "greedy"])
def test_alternatives_are_several_and_never_contain_the_answer(contract: Any, sampling: str) -> None:
    sets = texts_of(contract, sampling=sampling, alternatives=3)
    assert len(sets) == 3
    for place, record in enumerate(contract.forget):
        said = [texts[place] for texts in sets]
        assert len(set(said)) > 1
        assert not any(record.answer in text for text in said)


def test_greedy_alternatives_need_no_seed_and_sampled_ones_follow_it(contract: Any) -> None:
    assert texts_of(contract, 0, sampling="greedy") == texts_of(contract, 1, sampling="greedy")
    assert texts_of(contract, 0) == texts_of(contract, 0)
    assert texts_of(contract, 0) != texts_of(contract, 1)


def test_alternatives_become_likelier_against_the_answers(contract: Any) -> None:
    other = texts_of(contract, sampling="greedy", alternatives=1)[0]
    prompts, answers = [r.prompt for r in contract.forget], [r.answer for r in contract.forget]

    def margin(model: Any) -> float:
        said, known = model.logprob(prompts, other), model.logprob(prompts, answers)
        return sum(a.logprob - b.logprob for a, b in zip(said, known, strict=True))

    before = margin(contract.model)
    change, _ = contract.run("altpo", epochs=6, rank=8, sampling="greedy", alternatives=1, max_tokens=6)
    changed = change.apply(contract.model)
    after = margin(changed)
    changed.undo()
    assert after > before + 5


def test_first_tokens_are_drawn_as_the_softmax_says_and_greedy_in_order() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0])
    generator = torch.Generator().manual_seed(0)
    assert first_order(logits, 0.0, generator).tolist() == [1, 2, 0]
    drawn = [int(first_order(logits, 1.0, generator)[0]) for _ in range(4000)]
    shares = torch.bincount(torch.tensor(drawn), minlength=3) / 4000
    assert torch.allclose(shares, logits.softmax(0), atol=0.03)


def test_running_text_has_no_alternative(contract: Any) -> None:
    contract.forget = RecordSet("text", (Passage("p", "The number after 3 is 4 and so on."),))
    with pytest.raises(RecordError, match="asks nothing"):
        contract.run("altpo", **FEW)


@pytest.mark.parametrize(
    "values",
    [{"beta": 0}, {"sampling": "greedy", "temperature": 2.0}, {"alternative_weight": 2.0}, {"alternatives": 0}],
)
def test_bad_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        AltPOSettings.from_mapping(values)
