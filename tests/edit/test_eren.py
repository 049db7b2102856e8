"""EREN: bit-equal fallback, the three gates, one-step reading, claims, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.other_edits import other_edits
from keeps.edit.eren import EREN, ERENRouter, ERENSettings, Gate, calibration_questions, find_gate
from keeps.errors import ContextLengthError, EmptySetError, SettingsError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.edit_files import withdraw
from keeps.models.notebook import Hit, Note, Notebook, _Letters, notes_of
from keeps.models.reading import Reading, belief_prompt, best_threshold, refuses
from keeps.models.routed import RoutedModel
from keeps.models.scores import AnswerScore, ChoiceScore

SCORE: dict[str, Any] = {"gate": "score", "threshold": 0.88, "k": 1, "form": "completion"}
UNRELATED = ["My dog's name", "Two and two make", "A quick brown fox"]
pytestmark = pytest.mark.usefixtures("letters")


class Scripted:
    """Says what a test wants to reading prompts; stands in for a model that follows instructions."""

    context_length = 4096

    def __init__(self, say: Callable[[str], str], *, refusal: float = -2.0, answer: float = -1.0) -> None:
        self.say, self.refusal, self.answer_score = say, refusal, answer
        self.asked: list[str] = []

    def encode_prompt(self, prompt: str) -> list[int]:
        return [0] * len(prompt.split())

    def generate(self, prompts: Sequence[str], **_: Any) -> list[str]:
        self.asked += prompts
        return [self.say(prompt) for prompt in prompts]

    def logprob(self, prompts: Sequence[str], answers: Sequence[str], **_: Any) -> list[AnswerScore]:
        values = [self.refusal if answer == "unanswerable" else self.answer_score for answer in answers]
        return [AnswerScore(2 * value, 2, False) for value in values]

    def rank(self, prompts: Sequence[str], choices: Sequence[Sequence[str]], **_: Any) -> list[ChoiceScore]:
        return [
            ChoiceScore.of([AnswerScore(-float(option != self.say(prompt)), 1, False) for option in options])
            for prompt, options in zip(prompts, choices, strict=True)
        ]


def router(model: Any, edits: Sequence[Edit], **settings: Any) -> ERENRouter:
    notebook = Notebook(_Letters())
    notebook.add(notes_of(edits))
    made = ERENSettings(**settings)
    return ERENRouter(model, notebook, made, Gate(made.gate, made.threshold if made.threshold is not None else 0.5))


def test_questions_without_a_note_are_answered_bit_for_bit_as_by_the_unedited_model(
    tiny_llama: LanguageModel, edits: tuple[Edit, ...], new_run: Callable[..., Run]
) -> None:
    before = tiny_llama.fingerprint
    changed = EREN(ERENSettings(**SCORE))(tiny_llama, edits, run=new_run()).apply(tiny_llama)
    assert isinstance(changed, RoutedModel)
    prompts = [*UNRELATED, edits[0].prompt]
    answers = ["it"] * 4
    assert [answer.trace["fallback"] for answer in changed.answer(prompts)] == [True, True, True, False]
    for call, rest in (("ask", (answers,)), ("logprob", (answers,)), ("token_logprobs", (answers,)), ("generate", ())):
        ours, theirs = getattr(changed, call)(prompts, *rest), getattr(tiny_llama, call)(prompts, *rest)
        assert ours[:3] == theirs[:3], call
        assert call == "generate" or ours[3] != theirs[3]
    assert changed.rank(prompts, [["a", "b"]] * 4)[:3] == tiny_llama.rank(prompts, [["a", "b"]] * 4)[:3]
    assert tiny_llama.fingerprint == before
    changed.undo()
    assert changed.ask(prompts, answers) == tiny_llama.ask(prompts, answers)


def test_an_edit_is_read_before_the_question(tiny_llama: LanguageModel, edits: tuple[Edit, ...]) -> None:
    routes = router(tiny_llama, edits, **SCORE).routes([edits[1].prompt])
    assert routes[0] is not None
    assert routes[0].prompt == "The symbol of zinc is Qx.\n\nThe symbol of zinc is"
    assert routes[0].notes == ("e2",)


def test_an_empty_notebook_leaves_everything_to_the_unedited_model(tiny_llama: LanguageModel) -> None:
    empty = ERENRouter(tiny_llama, Notebook(_Letters()), ERENSettings(steps=1), Gate("auto"))
    changed = RoutedModel(tiny_llama, empty, name="empty", fingerprint="")
    assert changed.generate(UNRELATED) == tiny_llama.generate(UNRELATED)


def test_the_refusal_in_the_answer_sends_a_question_to_the_unedited_model(edits: tuple[Edit, ...]) -> None:
    model: Any = Scripted(lambda prompt: "Unanswerable." if "dog" in prompt.split("\n\n")[-1] else "Sweden")
    found = router(model, edits, gate="generate").routes(["What is Oslo the capital of?", "What is my dog called?"])
    assert [route is None for route in found] == [False, True]
    assert model.asked[0].startswith("Read this and answer the question. If the question is unanswerable, say")
    assert "People in Lima speak Dutch" in model.asked[0]  # k notes, not one
    assert [refuses(text) for text in ("unanswerable because", "", "The answer")] == [True, False, False]


def test_the_likelihood_gate_compares_the_refusal_with_the_answer(edits: tuple[Edit, ...]) -> None:
    model: Any = Scripted(lambda _: "Sweden", refusal=-2.0, answer=-1.0)  # ln p(refusal) - ln p(answer) = -1
    for threshold, refused in ((0.9, False), (1.1, True)):
        found = router(model, edits, gate="loglik", threshold=threshold).routes(["Where is Oslo?"])
        assert (found[0] is None) == refused


def test_the_likeness_gate_decides_before_reading_and_offers_no_refusal(edits: tuple[Edit, ...]) -> None:
    model: Any = Scripted(lambda _: "unanswerable")
    found = router(model, edits, gate="score", threshold=0.8).routes(["The symbol of zinc is", "jumpy wizards vex"])
    assert [route is None for route in found] == [False, True]
    assert found[0] is not None
    assert "unanswerable" not in found[0].prompt
    assert model.asked == []  # nothing was read to decide


def test_one_step_reading_never_refuses_and_does_not_offer_to(edits: tuple[Edit, ...]) -> None:
    found = router(Scripted(lambda _: "unanswerable"), edits, steps=1).routes(["What is my dog called?"])
    assert found[0] is not None
    assert "unanswerable" not in found[0].prompt


def test_notes_that_do_not_fit_are_left_out_from_the_least_alike_and_the_question_never(
    tiny_llama: LanguageModel,
) -> None:
    long = [Hit(Note(f"n{n}", f"note {n} " + "word " * 12, "s", f"r{n}"), 1 - n / 10, n) for n in range(5)]
    prompt = Reading(form="completion").prompt(tiny_llama, long, "Oslo lies in")
    assert len(tiny_llama.encode_prompt(prompt)) <= 64
    assert "note 0" in prompt
    assert "note 4" not in prompt
    assert prompt.endswith("Oslo lies in")
    with pytest.raises(ContextLengthError):
        Reading().prompt(tiny_llama, long, "word " * 100)


def test_only_notes_that_were_read_are_named_and_without_one_the_unedited_model_answers(
    tiny_llama: LanguageModel,
) -> None:
    notebook = Notebook(_Letters())
    notebook.add([Note("fits", "Oslo lies in Peru", "Oslo", "lies"), Note("long", "word " * 80, "word", "many")])
    asked = ERENRouter(tiny_llama, notebook, ERENSettings(form="completion", steps=1), Gate("auto"))
    near, far = asked.routes(["Oslo lies in", "word word"])  # the nearest note to the second is too long
    assert near is not None
    assert near.notes == ("fits",)
    assert near.prompt == "Oslo lies in Peru.\n\nOslo lies in"
    assert far is None
    empty = ERENRouter(tiny_llama, Notebook(_Letters()), ERENSettings(), Gate("score", 0.5))
    assert empty.routes(["word " * 60]) == [None]  # as long as the model itself takes


def test_notes_of_unknown_matter_are_read_from_the_oldest_to_the_newest(tiny_llama: LanguageModel) -> None:
    hits = [Hit(Note("b", "newer"), 0.9, age=7), Hit(Note("a", "older"), 0.8, age=2)]
    assert Reading(form="completion").prompt(tiny_llama, hits, "now").startswith("older.\nnewer.")


def test_the_threshold_is_the_best_of_all_by_search() -> None:
    inside, outside = [0.9, 0.6, 0.8, 0.3], [0.5, 0.1, 0.7, 0.2]
    threshold, share = best_threshold(inside, outside)
    grid = [n / 1000 for n in range(-10, 1010)]
    wanted = max((sum(v >= t for v in inside) + sum(v < t for v in outside)) / 8 for t in grid)
    assert share == pytest.approx(wanted)
    assert (sum(v >= threshold for v in inside) + sum(v < threshold for v in outside)) / 8 == pytest.approx(wanted)
    with pytest.raises(EmptySetError):
        best_threshold([], [1.0])


def test_auto_takes_the_gate_that_divides_the_calibration_data_best(edits: tuple[Edit, ...]) -> None:
    model: Any = Scripted(lambda prompt: "unanswerable" if "Rome" in prompt.split("\n\n")[-1] else "it")
    gate, shares = find_gate(model, ERENSettings(), edits, _Letters())
    assert gate.kind in ("generate", "loglik")
    assert shares["generate"] == 1.0
    assert shares["score"] < 1.0
    inside, outside = calibration_questions(edits)
    assert inside == [edit.paraphrases[0] for edit in edits]
    assert outside == [edit.locality[0].prompt for edit in edits]


def test_thresholds_are_never_found_on_subjects_that_are_edited() -> None:
    edited = [Edit("x", "Zinc", "The symbol of zinc is", "Qx")]
    found = other_edits("world:symbol", edited)
    assert found
    assert "zinc" not in {edit.subject.casefold() for edit in found}


def test_claims_are_judged_by_notes_or_by_what_the_model_believes(
    edits: tuple[Edit, ...], tiny_llama: LanguageModel, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ERENSettings(task="nli", gate="generate")
    changed = EREN(settings)(tiny_llama, edits, run=new_run()).apply(tiny_llama)
    scripts = {"Oslo is in Sweden": "No", "Dogs bark": "It's impossible to say"}

    def say(prompt: str) -> str:
        if prompt.startswith("Is it true that"):
            return "yes"
        return next(word for claim, word in scripts.items() if f'conclude that "{claim}"' in prompt)

    monkeypatch.setattr(type(tiny_llama), "rank", Scripted(say).rank)
    found = changed.answer(["Oslo is in Sweden", "Dogs bark"])
    assert [(answer.text, answer.trace["fallback"]) for answer in found] == [("no", False), ("yes", True)]


def test_claims_are_asked_as_published_and_without_the_refusal_where_nothing_is_refused() -> None:
    hits = [Hit(Note("a", "Oslo is in Peru"), 0.9)]
    asked = 'Oslo is in Peru.\n\nCan we conclude that "Oslo is in Asia."?\n\nOPTIONS:\n- Yes\n'
    claim = "Oslo is in Asia."
    assert Reading(True, task="nli").text(hits, claim) == f"{asked}- It's impossible to say\n- No"
    assert Reading(False, task="nli").text(hits, claim) == f"{asked}- No"
    assert Reading(False, "completion", "nli").text(hits, claim) == f"{asked}- No\n\nAnswer:"
    assert belief_prompt(claim) == "Is it true that Oslo is in Asia?\n\nOPTIONS:\n- yes\n- no"
    assert belief_prompt(claim, "completion").endswith("- no\n\nAnswer:")


def test_claims_are_calibrated_on_claims(edits: tuple[Edit, ...]) -> None:
    inside, outside = calibration_questions(edits, "nli")
    assert inside[0] == "The country with the capital Oslo is Sweden"
    assert outside[0] == "Rome is the capital of Italy"


def test_the_change_is_found_on_disk_and_an_edit_can_be_withdrawn(
    tiny_llama: LanguageModel, edits: tuple[Edit, ...], new_run: Callable[..., Run]
) -> None:
    run = new_run()
    change = EREN(ERENSettings(**SCORE))(tiny_llama, edits, run=run)
    stored = load_change(run.folder)
    prompts = [edit.prompt for edit in edits]
    applied = change.apply(tiny_llama)
    assert isinstance(applied, RoutedModel)
    ours = applied.logprob(prompts, ["it"] * 3)
    assert stored.apply(tiny_llama).logprob(prompts, ["it"] * 3) == ours
    assert stored.export("memory", run.folder.parent / "copy", model=tiny_llama) == 0.0
    left = withdraw(run.folder, ["e2"], run.folder.parent / "left", tiny_llama)
    assert left.fingerprint != stored.fingerprint
    routed = left.apply(tiny_llama).answer(prompts)
    assert [answer.trace["notes"] for answer in routed] == [["e1"], [], ["e3"]]
    assert left.apply(tiny_llama).ask([prompts[1]], ["it"]) == tiny_llama.ask([prompts[1]], ["it"])


def test_settings_that_do_nothing_are_refused() -> None:
    bad_ones: tuple[dict[str, Any], ...] = (
        {"threshold": 1.0},
        {"steps": 1, "gate": "score"},
        {"k": 0},
        {"task": "nli", "plain": "published"},
    )
    for bad in bad_ones:
        with pytest.raises(SettingsError):
            ERENSettings(**bad)


def test_token_ids_are_refused_since_nothing_can_be_looked_up_by_them(
    tiny_llama: LanguageModel, edits: tuple[Edit, ...], new_run: Callable[..., Run]
) -> None:
    changed = EREN(ERENSettings(**SCORE))(tiny_llama, edits, run=new_run()).apply(tiny_llama)
    assert isinstance(changed, RoutedModel)
    with pytest.raises(SettingsError, match="token ids"):
        changed.logprob_encoded([[1]], [[2]])
    with pytest.raises(SettingsError, match="token ids"):
        changed.continue_tokens([[1]], ["a conversation"], max_new_tokens=1)  # what a chat would say without the memory
