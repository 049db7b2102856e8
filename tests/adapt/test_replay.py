"""Replay: the contract, what is replayed, how much, and that it is what keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from keeps.adapt.replay import ReplayLoRA, ReplaySettings
from keeps.data.records import RecordSet
from keeps.data.select import load_records
from keeps.errors import SettingsError
from keeps.training.batches import collate
from keeps.training.examples import tokenise
from keeps.training.keeping import Replay
from keeps.training.losses import AnswerLoss

QUICK: dict[str, Any] = {"rank": 2, "ratio": 0.5}


def loss_on(change: Any, model: Any, records: RecordSet) -> float:
    prompts, answers = zip(*((record.prompt, record.answer) for record in records), strict=True)  # type: ignore[union-attr]
    changed = change.apply(model)
    try:
        return -sum(score.logprob for score in changed.logprob(prompts, answers))
    finally:
        changed.undo()


def test_it_learns(contract: Any) -> None:
    contract.check_learns("replay", rank=8, weight=0.1, ratio=0.5)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("replay", **QUICK)


def test_its_folder_loads_in_plain_peft(contract: Any) -> None:
    contract.check_folder("replay", rank=2, alpha=8.0, rank_pattern={"q_proj": 5})


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("replay", **QUICK)


def test_what_is_replayed_is_learned_and_what_is_not_is_lost(contract: Any) -> None:
    settings: dict[str, Any] = {"rank": 8, "epochs": 6}
    plain, _ = contract.run("lora", **settings)
    mixed, run = contract.run("replay", ratio=2.0, **settings)
    assert run.measures["replayed_examples"] == len(contract.keep)
    without, with_it = (loss_on(change, contract.model, contract.keep) for change in (plain, mixed))
    assert with_it < 0.9 * without, (with_it, without)
    assert mixed.record.data == {"learn": contract.learn.fingerprint, "replay": contract.keep.fingerprint}


@pytest.mark.parametrize("source", ["keep", "text", "both"])
def test_the_source_says_what_is_replayed(contract: Any, source: str) -> None:
    found = ReplayLoRA(ReplaySettings(source=source)).replayed(contract.keep)
    text = load_records("text").part("train")
    wanted = {"keep": contract.keep.records, "text": text.records, "both": contract.keep.records + text.records}
    assert found.records == wanted[source]
    assert not {record.id for record in found} & {record.id for record in load_records("text").part("test")}


def test_text_that_the_keep_set_holds_already_is_not_replayed_twice(contract: Any) -> None:
    text = load_records("text").part("train")
    keep = RecordSet("keep", (*contract.keep, *text.records[:3]))
    assert len(ReplayLoRA(ReplaySettings(source="both")).replayed(keep)) == len(contract.keep) + len(text)


@pytest.mark.parametrize("source", ["keep", "both"])
def test_without_a_keep_set_only_text_can_be_replayed(contract: Any, source: str) -> None:
    contract.keep = None
    with pytest.raises(SettingsError, match=r"no data to keep .*--source text"):
        contract.run("replay", source=source, **QUICK)
    contract.run("replay", source="text", window=16, steps=1, **QUICK)


def test_the_penalty_is_the_weighted_mean_loss_of_the_draw(contract: Any) -> None:
    examples = tokenise(contract.model, contract.keep)
    replay = Replay(examples, weight=0.5, batch_size=5, pad_token_id=2)
    torch.manual_seed(7)
    chosen = torch.randperm(len(examples))[:5].tolist()
    batch = collate([examples[index] for index in chosen], 2)
    torch.manual_seed(7)
    with torch.no_grad():
        wanted = 0.5 * AnswerLoss(contract.model.model)(batch) / len(batch.targets)
        torch.testing.assert_close(replay(contract.model.model), wanted, atol=1e-5, rtol=1e-5)


def test_the_ratio_is_examples_for_each_learned_one(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import keeps.adapt.replay as module

    sizes = []
    monkeypatch.setattr(module, "Replay", lambda *args, **kw: sizes.append(kw["batch_size"]) or Replay(*args, **kw))
    for ratio in (0.01, 0.5, 2.0):
        contract.run("replay", rank=2, steps=1, ratio=ratio)
    assert sizes == [1, 2, 8]


@pytest.mark.parametrize("values", [{"ratio": 0}, {"weight": 0}, {"source": "web"}, {"window": 1}])
def test_bad_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        ReplaySettings(**values)


def test_a_replay_of_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="would do nothing"):
        Replay([], weight=1.0, batch_size=1, pad_token_id=0)
