"""IKE: the prompt, the ratio of demonstrations, ICE, and that no weight changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.edit.ike import IKE, IKERouter, IKESettings, demonstrations_of, quotas
from keeps.errors import ContextLengthError, EmptySetError, SettingsError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.edit_files import withdraw
from keeps.models.notebook import Notebook, _Letters, notes_of

pytestmark = pytest.mark.usefixtures("letters")


class LongContext:
    """A model that only counts words."""

    def __init__(self, context_length: int = 4096) -> None:
        self.context_length = context_length

    def encode_prompt(self, prompt: str) -> list[int]:
        return [0] * len(prompt.split())


def router(model: Any, edits: tuple[Edit, ...], examples: tuple[Edit, ...] = (), **settings: Any) -> IKERouter:
    facts, shown = Notebook(_Letters()), Notebook(_Letters())
    facts.add(notes_of(edits))
    shown.add(demonstrations_of(examples))
    return IKERouter(model, facts, shown, IKESettings(**settings))


@pytest.mark.parametrize("count", [0, 1, 3, 8, 16, 32])
def test_demonstrations_are_in_the_ratio_one_three_four(count: int) -> None:
    found = quotas(count)
    assert sum(found) == count
    assert all(abs(number - count * part / 8) < 1 for number, part in zip(found, (1, 3, 4), strict=True))


def test_the_prompt_is_demonstrations_then_the_nearest_fact_then_the_question(edits: tuple[Edit, ...]) -> None:
    found = router(LongContext(), edits[:1], edits[1:], demonstrations=2).routes(["Oslo lies in"])
    assert found[0] is not None
    parts = found[0].prompt.split("\n\n")
    assert parts[-1] == "New Fact: Oslo is the capital of Sweden\nPrompt: Oslo lies in"
    assert len(parts) == 3
    texts = [note.statement for note in demonstrations_of(edits[1:])]
    assert all(part in texts for part in parts[:-1])
    assert found[0].notes == ("e1",)


def test_each_kind_of_demonstration_asks_what_it_should(edits: tuple[Edit, ...]) -> None:
    copy, update, retain = demonstrations_of(edits[1:2])
    assert copy.statement == "New Fact: The symbol of zinc is Qx\nPrompt: The symbol of zinc is Qx"
    assert update.statement == "New Fact: The symbol of zinc is Qx\nPrompt: zinc has the symbol Qx"
    assert retain.statement == "New Fact: The symbol of zinc is Qx\nPrompt: The symbol of Rome is Italy"


def test_the_most_alike_demonstration_stands_next_to_the_question(edits: tuple[Edit, ...]) -> None:
    made = router(LongContext(), edits[:1], edits[1:], demonstrations=3)
    found = made.routes(["zinc zinc zinc"])
    assert found[0] is not None
    texts = found[0].prompt.split("\n\n")[:-1]
    vectors = _Letters().encode([*texts, found[0].prompt.split("\n\n")[-1]])
    likeness = (vectors[:-1] @ vectors[-1]).tolist()
    assert likeness == sorted(likeness)


def test_without_demonstrations_it_is_ice(edits: tuple[Edit, ...]) -> None:
    found = router(LongContext(), edits, demonstrations=0).routes(["The symbol of zinc is"])
    assert found[0] is not None
    assert found[0].prompt == "New Fact: The symbol of zinc is Qx\nPrompt: The symbol of zinc is"


def test_the_floor_leaves_other_questions_to_the_unedited_model(edits: tuple[Edit, ...]) -> None:
    made = router(LongContext(), edits, demonstrations=0, floor=0.9)
    assert [route is None for route in made.routes(["The symbol of zinc is", "jumpy jackdaws"])] == [False, True]


def test_demonstrations_that_do_not_fit_are_left_out_and_the_question_never(edits: tuple[Edit, ...]) -> None:
    whole = router(LongContext(), edits[:1], edits[1:], demonstrations=3).routes(["Oslo lies in"])[0]
    short = router(LongContext(64 + 30), edits[:1], edits[1:], demonstrations=3).routes(["Oslo lies in"])[0]
    assert whole is not None
    assert short is not None
    assert whole.prompt.endswith(short.prompt)
    assert short.prompt.count("New Fact") < whole.prompt.count("New Fact")
    with pytest.raises(ContextLengthError):
        router(LongContext(66), edits[:1]).routes(["Oslo lies in"])


def test_an_edit_changes_no_weight_and_is_undone_and_withdrawn(
    tiny_llama: LanguageModel, edits: tuple[Edit, ...], new_run: Callable[..., Run]
) -> None:
    before, run = tiny_llama.fingerprint, new_run()
    settings = IKESettings(demonstrations=1, examples="world:symbol#6")
    change = IKE(settings)(tiny_llama, edits, run=run)
    prompts = [edit.prompt for edit in edits]
    plain = tiny_llama.logprob(prompts, ["it"] * 3)
    changed = load_change(run.folder).apply(tiny_llama)
    edited = changed.logprob(prompts, ["it"] * 3)
    assert all(a != b for a, b in zip(edited, plain, strict=True))
    assert change.apply(tiny_llama).logprob(prompts, ["it"] * 3) == edited
    changed.undo()
    assert changed.logprob(prompts, ["it"] * 3) == plain
    assert tiny_llama.fingerprint == before
    left = withdraw(run.folder, ["e1"], run.folder.parent / "left", tiny_llama).apply(tiny_llama)
    assert left.answer(prompts[:1])[0].trace["notes"] in (["e2"], ["e3"])


def test_examples_about_what_is_edited_are_not_shown(
    tiny_llama: LanguageModel, new_run: Callable[..., Run], tmp_path: Any
) -> None:
    edit = Edit("x", "zinc", "The symbol of zinc is", "Qx")
    file = tmp_path / "others.jsonl"
    file.write_text('{"subject": "zinc", "prompt": "zinc is a", "target_new": "bird"}')
    with pytest.raises(EmptySetError):
        IKE(IKESettings(examples=str(file)))(tiny_llama, [edit], run=new_run())
    with pytest.raises(SettingsError):
        IKESettings(facts=0)
