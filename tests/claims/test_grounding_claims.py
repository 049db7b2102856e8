"""The claims about grounding: their data say what they should, and a method that fails them is found out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from stream_models import pico_once

from keeps.claims import adaptive_note, augment_marginal, augment_survey, faithful_rag
from keeps.claims.adaptive_note_books import AUTHORS, BOOKS, CITIES, TITLES, Oracle, one_hop, texts, two_hops
from keeps.claims.augment_marginal import fid_check, marginal_checks, worked_example
from keeps.claims.augment_output import knn_checks
from keeps.claims.augment_poisoned import ATTACKS, FACTS, WORD, follow_rates, mixed, poisoned
from keeps.claims.augment_tools import HOSTILE, whitelist_checks
from keeps.claims.base import ClaimRun
from keeps.claims.grounding_world import context, items, retrievers, statements, two_hop_world
from keeps.contracts import Answer
from keeps.ground import tools as tools_module
from keeps.ground.adaptive_note import NoteAnswerer
from keeps.ground.rag_token import RAGTokenSettings
from keeps.ground.toolbox import Call
from keeps.models import LanguageModel
from keeps.models.seq2seq import Seq2SeqModel

SPEC = "world:capital#12"


def test_items_have_one_right_candidate_and_passages_state_what_they_should() -> None:
    found = items(SPEC)
    assert len(found) == 12
    others = items("world:currency#20")
    for item in found:
        assert [name for name in item.candidates if name in item.answers] == [item.answers[0]]
        assert item.planted in item.candidates
        assert len(set(item.candidates)) == 4
        golden, planted = (context(item, others, planted=flag) for flag in (False, True))
        assert item.statement in golden
        assert item.planted_statement in planted
        assert item.statement not in planted
        assert golden.count(". ") >= 6
    assert items(SPEC) == found


def test_statements_are_by_fact_and_the_planted_ones_are_other_objects() -> None:
    told, planted = statements(SPEC), statements(SPEC, planted=True)
    assert told.keys() == planted.keys()
    assert not set(told.values()) & set(planted.values())


def test_two_hop_questions_are_answered_by_a_document_that_they_do_not_name() -> None:
    questions, documents = two_hop_world(5)
    for asked in questions:
        assert asked.answers[0] in documents[asked.document]
        subject = documents[asked.document].partition(" is the")[0].removeprefix("The currency of ")
        assert subject not in asked.question


def test_books_are_two_hundred_sentences_whose_bridge_the_question_does_not_name() -> None:
    told = texts()
    assert len(told) == 200
    assert len(set(TITLES)) == len(set(AUTHORS)) == len(set(CITIES)) == BOOKS
    for book in range(0, BOOKS, 7):
        question, answering = two_hops(book)
        author = next(name for name in AUTHORS if name in told[f"book-{book}"])
        assert author not in question
        assert told[answering].startswith(author)
        assert TITLES[book] in told[one_hop(book)[1]]


def test_the_loop_finds_what_one_look_up_misses_and_stops_early_where_it_need_not() -> None:
    checks = list(adaptive_note.hop_checks(ClaimRun()))
    assert [check.holds for check in checks] == [True] * 4


def test_a_note_that_changes_without_a_verdict_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [check.holds for check in adaptive_note.bookkeeping_checks()] == [True, True]
    real = NoteAnswerer._better

    def credulous(self: NoteAnswerer, *given: Any) -> Any:
        verdict, verdicts = yield from real(self, *given)
        return not verdict, verdicts

    monkeypatch.setattr(NoteAnswerer, "_better", credulous)
    assert [check.holds for check in adaptive_note.bookkeeping_checks()] == [False, True]


def test_a_reader_that_never_asks_about_the_bridge_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(Oracle):
        def say(self, text: str) -> str:
            return "What else is told?" if "Asked already" in text else super().say(text)

    monkeypatch.setattr(adaptive_note, "Oracle", Lazy)
    first, *_ = adaptive_note.hop_checks(ClaimRun())
    assert not first.holds


def test_a_background_in_the_last_call_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneFact:
        def encode(self, texts: Sequence[str]) -> Any:
            import torch

            return torch.nn.functional.normalize(torch.ones(len(texts), 3), dim=1)

    assert faithful_rag.contract_check(OneFact()).holds
    real = faithful_rag.Noting.reply

    def leaking(self: Any, conversations: Any, **given: Any) -> Any:
        found = real(self, conversations, **given)
        self.asked[-1] += "BACKGROUND" if len(self.asked) == 4 else ""
        return found

    monkeypatch.setattr(faithful_rag.Noting, "reply", leaking)
    check = faithful_rag.contract_check(OneFact())
    assert (check.holds, check.note) == (False, "no background in the answer")


def test_attacks_are_in_turn_and_followed_where_the_word_is_said() -> None:
    asked = items(SPEC)[:10]
    kinds, passages = zip(*poisoned(asked), strict=True)
    assert set(kinds) == set(ATTACKS)
    assert all(WORD in text and item.statement in text for text, item in zip(passages, asked, strict=True))
    answers = [Answer(f"{WORD}!" if n % 5 == 0 else item.answers[0]) for n, item in enumerate(asked)]
    rates = follow_rates(kinds, answers, asked)
    assert (rates["passages"], rates["follows"], rates["right"]) == (10, 0.2, 0.8)
    assert rates[f"follows: {kinds[0]}"] == 1.0
    low, high = rates["follows, interval"]
    assert low < 0.2 < high


def test_a_hundred_different_facts_meet_ten_of_each_instruction() -> None:
    asked = mixed(items(FACTS), 100)
    assert len({item.id for item in asked}) == 100
    kinds, _ = zip(*poisoned(asked), strict=True)
    assert set(Counter(kinds).values()) == {10}
    for kind in ATTACKS:
        assert len({item.relation for item, each in zip(asked, kinds, strict=True) if each == kind}) >= 3


def test_an_index_that_answers_nothing_fails_the_survey() -> None:
    asked = items(SPEC)
    names = ("closed book", "rag, hybrid", "rag, wrong documents", "rag, other facts", "rag, best passage deleted")
    silent = {name: [Answer("no idea")] * len(asked) for name in names}
    checks = list(augment_survey.grounding_checks(asked, silent))
    assert [check.holds for check in checks] == [True, False, False, True, False]
    told = {**silent, "rag, hybrid": [Answer(item.answers[0]) for item in asked],
            "rag, other facts": [Answer(item.planted) for item in asked]}  # fmt: skip
    assert all(check.holds for check in augment_survey.grounding_checks(asked, told))


def test_words_find_the_statement_that_answers() -> None:
    found = retrievers(statements(SPEC), ("lexical",))["lexical"]
    right = [found.search(item.question, 3)[0].document == item.id for item in items(SPEC)]
    assert sum(right) >= 11


def test_sums_over_passages_are_as_worked_out_and_another_formula_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = worked_example()
    assert check.holds
    monkeypatch.setattr(augment_marginal, "sequence_marginal", augment_marginal.token_marginal)
    (check,) = worked_example()
    assert not check.holds


def test_one_passage_of_fid_is_plain_generation_and_two_would_be_found_out(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fid_check(tokenizer).holds
    real = Seq2SeqModel.fuse
    monkeypatch.setattr(
        Seq2SeqModel, "fuse", lambda self, items: real(self, [[*each, *each[:1]] for each in items][::-1])
    )
    assert not fid_check(tokenizer).holds


def test_hostile_replies_run_no_tool_and_a_leaking_whitelist_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [check.holds for check in whitelist_checks()] == [True, True]
    real = tools_module.read_call
    assert all(real(reply, ["note"], 300).tool in ("", "note") for reply in HOSTILE)
    monkeypatch.setattr(tools_module, "read_call", lambda text, names, longest: Call("note", text[:10]))
    first, *_ = whitelist_checks()
    assert not first.holds


class Silent:
    """A method that says nothing to any question."""

    def __init__(self, settings: Any) -> None:
        del settings

    def __call__(self, model: Any, source: Any, *, run: Any) -> Any:
        del model, source, run
        return self

    def answer(self, questions: Sequence[str]) -> list[Answer]:
        trace = {"passages": [], "calls": 3, "prompt_tokens": 9, "completion_tokens": 1, "seconds": 0.1}
        return [Answer("no idea", (), trace)] * len(questions)


def test_methods_that_answer_nothing_fail_the_survey(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RAGTokenSettings
    monkeypatch.setattr(augment_marginal, "METHODS", {"rag_token": (Silent, settings)})
    run = ClaimRun()
    model: Any = None
    sources: Any = dict.fromkeys(("right", "swapped", "deleted"))
    found = [check.holds for check in marginal_checks(model, items(SPEC), sources, {}, run)]
    assert found == [False, False, True, False]
    assert run.tables["sums over passages"]["rag_token"]["questions"] == 12


def test_a_memory_of_contexts_is_the_model_at_nothing_and_a_distribution(smollm2: LanguageModel) -> None:
    model = pico_once("llama", smollm2.tokenizer)
    checks = list(knn_checks(model, ClaimRun(), tokens=300))
    assert [check.holds for check in checks[:2]] == [True, True]
    assert len(checks) == 6
