"""KGA: the contract, its gaps against a formula, and that it ends where the gaps meet."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from keeps.contracts import Run
from keeps.errors import SettingsError
from keeps.models.projection import selected_logits
from keeps.training.batches import collate
from keeps.training.helpers import KnowledgeGap, knowledge_gap, said_by_helper
from keeps.training.unlearn import forget_examples
from keeps.unlearn.kga import KGASettings

QUICK = {"helper_rate": 0.01, "helper_epochs": 6}


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("kga", **QUICK, sigma=0.0)


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("kga", **QUICK)


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("kga", **QUICK)


def test_it_continues_to_the_same_bytes(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    contract.check_resumes("kga", monkeypatch, **QUICK, sigma=0.0)


def test_it_needs_a_retain_set(contract: Any) -> None:
    contract.retain = None
    with pytest.raises(SettingsError, match="nothing to retain"):
        contract.run("kga")


def test_it_ends_when_the_gaps_differ_by_no_more_than_sigma(contract: Any) -> None:
    change, run = contract.run("kga", **QUICK, epochs=40, rank=8, sigma=0.3, retain_weight=0.01)
    goal, gap = run.measures["gap_goal"], run.measures["gap"]
    assert abs(run.measures["gap_before"] - goal) > 0.3 * goal, "there was something to do"
    assert abs(gap - goal) <= 0.3 * goal
    assert change.record.measures["steps"] < 80


def test_the_gap_is_the_mean_divergence_from_the_helper_and_the_loss_its_distance_to_the_goal(contract: Any) -> None:
    model, run, pad = contract.model, Run(contract.folder), contract.model.encoder.pad_token_id
    examples = forget_examples(model, contract.forget)
    settings = KGASettings(rank=2, batch_size=4)
    helper = said_by_helper(model, examples, settings, run, name="h", epochs=4, learning_rate=0.01)
    batch = collate(examples, pad)
    with torch.no_grad():
        ours = selected_logits(model.model, batch.input_ids, batch.attention_mask, batch.predicting).double()
        p, q = ours.softmax(-1), helper.logits(batch).double().softmax(-1)
        wanted = float((p * (p / q).log()).sum(-1).mean())
        found = float(KnowledgeGap(model.model, helper, 5.0)(batch)) / len(batch.targets)
    assert wanted > 1e-4
    assert knowledge_gap(model.model, helper, examples, pad) == pytest.approx(wanted, rel=1e-3)
    assert found == pytest.approx(5.0 - wanted, rel=1e-4)


def test_it_may_end_by_extraction_too(contract: Any) -> None:
    _, run = contract.run("kga", **QUICK, sigma=0.0, stop="extraction", stop_ngram=2, stop_every=1)
    assert run.measures["gap_goal"] > 0


def test_fresh_data_may_be_given_as_a_file(contract: Any) -> None:
    path = contract.folder / "fresh.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"The colour of {n} is", "answer": "red"}) + "\n" for n in range(4)))
    _, own = contract.run("kga", **QUICK, fresh=str(path))
    _, other = contract.run("kga", **QUICK)
    assert own.measures["gap_goal"] != other.measures["gap_goal"]


@pytest.mark.parametrize("values", [{"sigma": -1}, {"helper_epochs": 0}, {"helper_rate": 0}])
def test_bad_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        KGASettings.from_mapping(values)
