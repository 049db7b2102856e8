"""GRACE: the rules of the codebook, exact locality, and that a deleted edit leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from keeps.contracts import Run
from keeps.data.edit_facts import edits_from_facts
from keeps.data.edits import Edit
from keeps.data.records import Fact
from keeps.data.select import load_records
from keeps.edit.grace import GAP, GRACE, GRACESettings, insert, nearest_entry, placed
from keeps.errors import SettingsError, TargetError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.edit_files import read_entries, withdraw
from keeps.models.layer_inputs import late_layer, layer_inputs
from keeps.models.logits import check_logits

UNRELATED = ["My dog's name", "Two and two make", "A quick brown fox", "It rained all"]


def at(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers)


def test_a_far_query_makes_an_entry_with_the_initial_radius() -> None:
    book = insert(insert([], at(0, 0), "a", "e1", 1.0), at(2.1, 0), "b", "e2", 1.0)  # 2.1 > 1 + 1
    assert [(entry.label, entry.radius, entry.edits) for entry in book] == [("a", 1.0, ("e1",)), ("b", 1.0, ("e2",))]


def test_the_same_label_near_by_makes_the_ball_grow_and_never_shrink() -> None:
    book = insert([], at(0, 0), "a", "e1", 1.0)
    book = insert(book, at(0, 1.5), "a", "e2", 1.0)
    assert [(entry.radius, entry.edits) for entry in book] == [(1.5, ("e1", "e2"))]
    book = insert(book, at(0.2, 0), "a", "e3", 1.0)
    assert book[0].radius == 1.5


def test_another_label_near_by_divides_the_space_between() -> None:
    book = insert(insert([], at(0, 0), "a", "e1", 1.0), at(0, 1.0), "b", "e2", 1.0)
    assert [entry.radius for entry in book] == pytest.approx([0.5 - GAP, 0.5])
    assert nearest_entry(book, at(0, 0.4))[0] == 0
    assert nearest_entry(book, at(0, 0.6))[0] == 1


def test_balls_of_two_labels_never_meet() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(12, 3, generator=generator)
    edits = [Edit(f"e{n}", "", f"p{n}", "ab"[n % 2]) for n in range(12)]
    book: list = []
    for edit, query in zip(edits, queries, strict=True):
        before = {entry.id: entry.label for entry in book}
        book = insert(book, query, edit.target_new, edit.id, 1.0)
        assert {entry.id: entry.label for entry in book if entry.id in before} == before
    assert [name for entry in book for name in entry.edits].count("e3") == 1
    assert sorted(name for entry in book for name in entry.edits) == sorted(edit.id for edit in edits)


def test_keys_are_the_inputs_of_the_layer_at_the_last_token(tiny_llama: LanguageModel) -> None:
    prompts = ["Oslo is the capital of", "zinc"]
    found = layer_inputs(tiny_llama, prompts, 1)
    seen: list[torch.Tensor] = []
    handle = tiny_llama.model.get_submodule("model.layers.1.mlp.down_proj").register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    with torch.no_grad():
        for prompt in prompts:
            tiny_llama.model(torch.tensor([tiny_llama.encode_prompt(prompt)]))
    handle.remove()
    for ours, theirs in zip(found, seen, strict=True):
        torch.testing.assert_close(ours, theirs[0], atol=1e-5, rtol=1e-5)


def test_edits_become_likely_and_other_prompts_are_bit_for_bit_as_before(
    tiny_llama: LanguageModel, edits: tuple[Edit, ...], new_run: Callable[..., Run]
) -> None:
    before, run = tiny_llama.fingerprint, new_run()
    words = ("red", "blue", "green")  # of one token each: a value in the last block sets no more
    everything = [replace(edit, target_new=word) for edit, word in zip(edits, words, strict=True)]
    GRACE(GRACESettings(radius=0.05))(tiny_llama, everything, run=run)
    assert tiny_llama.fingerprint == before
    changed = load_change(run.folder).apply(tiny_llama)
    prompts = [edit.prompt for edit in everything]
    after, plain = (model.logprob(prompts, words) for model in (changed, tiny_llama))
    assert all(a.logprob > b.logprob + 3 for a, b in zip(after, plain, strict=True))
    stored = [-float(entry.measured["loss"]) for entry in read_entries(run.folder)]
    assert [score.logprob for score in after] == pytest.approx(stored, abs=1e-3)
    mixed = [*UNRELATED, prompts[0]]
    ours, theirs = (model.token_logprobs(mixed, ["it is so"] * 5) for model in (changed, tiny_llama))
    assert ours[:4] == theirs[:4]
    assert ours[4] != theirs[4]
    logits = check_logits(tiny_llama.model, tiny_llama.tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(check_logits(changed.model, changed.tokenizer), logits, strict=True))
    changed.undo()
    assert changed.ask(mixed, ["it"] * 5) == tiny_llama.ask(mixed, ["it"] * 5)


@pytest.mark.slow
def test_ten_edits_of_the_default_model_are_answered_and_what_is_unrelated_is_bit_identical(
    smollm2: LanguageModel, new_run: Callable[..., Run]
) -> None:
    facts = [record for record in load_records("world:capital#10") if isinstance(record, Fact)]
    edits, run = edits_from_facts(facts), new_run()
    GRACE(GRACESettings())(smollm2, edits, run=run)
    changed = load_change(run.folder).apply(smollm2)
    scores = changed.logprob([edit.prompt for edit in edits], [edit.target_new for edit in edits])
    assert all(score.greedy for score in scores)
    assert changed.ask(UNRELATED, ["it"] * 4) == smollm2.ask(UNRELATED, ["it"] * 4)
    left = withdraw(run.folder, [edits[0].id], run.folder.parent / "left", smollm2).apply(smollm2)
    assert left.generate([edits[0].prompt]) == smollm2.generate([edits[0].prompt])


def test_a_withdrawn_edit_is_as_if_it_had_never_been_made(
    tiny_llama: LanguageModel, edits: tuple[Edit, ...], new_run: Callable[..., Run]
) -> None:
    run = new_run()
    GRACE(GRACESettings(radius=0.05, steps=5))(tiny_llama, edits, run=run)
    left = withdraw(run.folder, ["e2"], run.folder.parent / "left", tiny_llama)
    ours, theirs = left.apply(tiny_llama), load_change(run.folder).apply(tiny_llama)
    prompts = [edit.prompt for edit in edits]
    assert ours.ask(prompts[1:2], ["Qx"]) == tiny_llama.ask(prompts[1:2], ["Qx"])
    assert ours.logprob(prompts[::2], ["it"] * 2) == theirs.logprob(prompts[::2], ["it"] * 2)
    assert left.export("memory", run.folder.parent / "copy", model=tiny_llama) == 0.0


def test_withdrawing_shrinks_a_ball_that_had_grown(tiny_llama: LanguageModel, new_run: Callable[..., Run]) -> None:
    run = new_run()
    pair = [Edit("a", "", "Oslo lies in", "Peru"), Edit("b", "", "zinc is a", "Peru")]
    GRACE(GRACESettings(radius=50.0, steps=1))(tiny_llama, pair, run=run)  # so wide that both share an entry
    change = load_change(run.folder)
    assert [answer.trace["notes"] for answer in change.apply(tiny_llama).answer(["zinc is a"])] == [["a", "b"]]
    withdraw(run.folder, ["a"], run.folder.parent / "left", tiny_llama)
    queries = torch.stack(
        [states[-1] for states in layer_inputs(tiny_llama, ["zinc is a"], late_layer(tiny_llama, None)[0])]
    )
    left = (run.folder.parent / "left" / "codebook.jsonl").read_text()
    assert '"edits": ["b"]' in left
    assert len(placed(pair[1:], queries, 50.0)) == 1


def test_a_layer_out_of_range_and_bad_settings_are_refused(
    tiny_llama: LanguageModel, edits: tuple[Edit, ...], new_run: Callable[..., Run]
) -> None:
    with pytest.raises(TargetError, match="no layer 7"):
        GRACE(GRACESettings(layer=7))(tiny_llama, edits, run=new_run())
    with pytest.raises(SettingsError):
        GRACESettings(radius=0)
