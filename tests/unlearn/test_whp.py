"""Generic predictions: the contract, the anchors, and that the target is what is left without what was reinforced."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from keeps.contracts import Run
from keeps.data.records import Example, Fact, Passage, RecordSet
from keeps.errors import SettingsError
from keeps.numerics.forgetting_losses import generic_logits
from keeps.training.batches import collate
from keeps.training.reference import Reference
from keeps.training.unlearn import forget_examples
from keeps.unlearn.whp import WHP, GenericTeacher, WHPSettings, exchanged


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("whp", reinforce_rate=0.01, reinforce_epochs=8, target="soft", strength=50.0)


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("whp", reinforce_rate=0.003)


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("whp")


def test_the_reinforced_copy_knows_more_and_leaves_no_trace(contract: Any) -> None:
    model, run = contract.model, Run(contract.folder)
    examples = forget_examples(model, contract.forget)
    batch = collate(examples, model.encoder.pad_token_id)
    base = Reference.of(model, examples, run=run).logits(batch)
    copy = WHP(WHPSettings(rank=2, batch_size=4, reinforce_rate=0.003)).reinforced(model, examples, run)
    truth = batch.targets[:, None]
    assert float(copy.logits(batch).log_softmax(-1).gather(-1, truth).mean()) > float(
        base.log_softmax(-1).gather(-1, truth).mean()
    )
    assert any(name.startswith("reinforce_") for name, _, _ in run.curves)


def test_the_teacher_reads_the_base_with_exchanged_anchors_and_the_copy_without(contract: Any) -> None:
    model, run = contract.model, Run(contract.folder)
    forget = RecordSet("one", (Example("a", "The wizard Berg lives in", "Oslo"),))
    twins = forget_examples(model, exchanged(forget, {"wizard Berg": "man"}))
    examples = forget_examples(model, forget)
    base, copy = Reference.of(model, twins, run=run), Reference.of(model, examples, run=run)
    teacher = GenericTeacher(base, copy, {examples[0].input_ids: twins[0]}, 3.0, 2)
    found, head = teacher.read(collate(examples, 2))
    expected = generic_logits(base.logits(collate(twins, 2)), copy.logits(collate(examples, 2)), strength=3.0)
    assert torch.equal(head(found), expected)


def test_anchors_are_exchanged_the_longest_first_in_every_wording() -> None:
    fact = Fact("1", "Ann Lee", "home", ("Ann Lee lives in", "The home of Ann is"), ("Oslo",))
    found = exchanged(RecordSet("f", (fact,)), {"Ann": "she", "Ann Lee": "A woman"}).records[0]
    assert isinstance(found, Fact)
    assert found.prompts == ("A woman lives in", "The home of she is")


@pytest.mark.parametrize(
    ("record", "message"),
    [(Passage("p", "Ann lives."), "no prompt"), (Example("e", "Bob lives in", "Oslo"), "stands in no prompt")],
)
def test_anchors_that_cannot_be_exchanged_are_refused(record: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        exchanged(RecordSet("r", (record,)), {"Ann": "she"})
