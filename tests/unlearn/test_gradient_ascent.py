"""Gradient ascent: the contract, its bound, and the stopping rule of extraction."""

from __future__ import annotations

from typing import Any

import pytest

from keeps.errors import SettingsError
from keeps.training.extraction import Memorised, memorised, unseen_like
from keeps.training.unlearn import forget_examples
from keeps.unlearn.gradient_ascent import GradientAscentSettings


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("gradient_ascent")


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("gradient_ascent")


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("gradient_ascent")


def test_it_continues_to_the_same_bytes(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    contract.check_resumes("gradient_ascent", monkeypatch)


def test_the_loss_of_a_step_is_minus_the_mean_loss_of_the_answer_tokens(contract: Any) -> None:
    _, run = contract.run("gradient_ascent", epochs=1, batch_size=8, max_loss=None)
    found = contract.model.token_logprobs(
        [record.prompt for record in contract.forget], [record.answer for record in contract.forget]
    )
    tokens = [value for scores in found for value in scores.logprobs]
    first = next(value for name, step, value in run.curves if name == "loss" and step == 1)
    assert first == pytest.approx(sum(tokens) / len(tokens), rel=1e-4)


def test_beyond_its_bound_nothing_is_pushed(contract: Any) -> None:
    change, _ = contract.run("gradient_ascent", max_loss=0.01)
    assert contract.losses(change) == pytest.approx(contract.losses(), abs=1e-4)


def test_it_stops_once_extraction_is_that_of_unseen_text(contract: Any) -> None:
    _, run = contract.run("gradient_ascent", stop="extraction", epochs=30, learning_rate=0.02, stop_ngram=1)
    assert run.measures["steps"] < 60
    assert run.measures["forget_memorisation"] <= run.measures["unseen_memorisation"]
    assert run.measures["forget_extraction"] <= run.measures["unseen_extraction"]
    assert next(step for name, step, _ in run.curves if name == "extraction") == 2, "it looks once an epoch"


def test_what_the_model_says_anyway_is_memorised_whole(contract: Any) -> None:
    model = contract.model
    said = model.generate(["The number after 3 is"], max_new_tokens=4, stop=())[0]
    from keeps.data.records import Example, RecordSet

    own = forget_examples(model, RecordSet("own", (Example("o", "The number after 3 is", said),)))
    assert memorised(model, model.model, own, 2) == Memorised(1.0, 1.0)


def test_unseen_text_is_cut_as_the_examples_are(contract: Any) -> None:
    examples = forget_examples(contract.model, contract.forget)
    pieces = unseen_like(contract.model, examples)
    assert [(len(p.input_ids), p.answer_start) for p in pieces] == [
        (len(e.input_ids), e.answer_start) for e in examples
    ]
    assert len({piece.input_ids for piece in pieces}) == len(pieces)


@pytest.mark.parametrize(
    "values", [{"max_loss": 0}, {"stop_every": 3}, {"stop_loss": 1.0}, {"parameters": "full", "rank": 4}]
)
def test_settings_out_of_range_or_without_effect_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=list(values)[-1]):
        GradientAscentSettings.from_mapping(values)
