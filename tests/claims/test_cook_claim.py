"""The claim of knowledge cards: its world is what it says, and answers that should not pass do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from keeps.claims.cook import TAKEN, Asks, gains, likeliest, modularity, races
from keeps.claims.cook_exactness import OFF, ON, exactness
from keeps.claims.cook_world import DOMAINS, FACTS, OTHERS, Asked, world
from keeps.contracts import Answer
from keeps.errors import InputFileError
from keeps.models.encoder import SentenceEncoder


def test_each_domain_has_forty_facts_and_no_subject_is_in_two() -> None:
    asked, corpora = world()
    assert len(asked) == len({item.subject for item in asked}) == 3 * FACTS
    for item in asked:
        assert item.answer in item.candidates
        assert len(set(item.candidates)) == OTHERS + 1
        texts = [record.text for record in corpora[item.domain]]  # type: ignore[union-attr]
        assert f"{item.prompt} {item.answer}." in texts
        assert sum(item.subject in text for text in texts) == 1
    assert world()[0] == asked
    assert world(1)[0] != asked
    assert {name: len(texts) for name, texts in corpora.items()} == {domain.name: FACTS for domain in DOMAINS}


def test_what_is_exact_holds_with_the_embedded_encoder() -> None:
    assert len(ON) == len(OFF) == 10
    checks = list(exactness(SentenceEncoder.load()))
    assert [check.name for check in checks if not check.holds] == []
    assert len(checks) == 6


def answered(asked: Asks, domains: Sequence[str]) -> list[Answer]:
    """Right in some domains, wrong in the others."""
    return [
        Answer(item.answer if item.domain in domains else next(c for c in item.candidates if c != item.answer))
        for item in asked
    ]


def test_cards_that_help_in_one_domain_only_are_found_out() -> None:
    asked, _ = world()
    names = [domain.name for domain in DOMAINS]
    none, one, all_of_them = (answered(asked, domains) for domains in ([], names[:1], names))
    assert [check.holds for check in gains(asked, none, {"up": all_of_them, "down": one})] == [True, True, False]
    assert not next(iter(gains(asked, all_of_them, {}))).holds


def test_a_card_that_does_not_take_its_domain_with_it_or_takes_more_is_found_out() -> None:
    asked, _ = world()
    names = [domain.name for domain in DOMAINS]
    none, whole = answered(asked, []), answered(asked, names)
    others = [name for name in names if name != TAKEN]

    def holds(left: list[Answer]) -> list[bool]:
        return [check.holds for check in modularity(asked, none, whole, left)]

    assert holds(answered(asked, others)) == [True, True]
    assert holds(whole) == [False, True]
    assert holds(answered(asked, others[:1])) == [True, False]


def test_the_candidate_counts_that_is_likeliest_as_a_whole() -> None:
    item = Asked("d", "s", "p", "whale", ("whale", "rhino ceros"))
    answer = Answer("rhino ceros", trace={"logprobs": (-2.0, -1.5)})
    assert likeliest(item, answer, lambda text: len(text.split())) == "whale"


@pytest.mark.shared_data
def test_midterm_races_are_asked_as_published_and_told_with_their_winners(shared_data: Path) -> None:
    asked, corpus = races(shared_data / "midtermqa")
    assert len(asked) == len(corpus) == 40
    for item, record in zip(asked, corpus, strict=True):
        assert len(set(item.candidates)) == 4
        assert item.answer in item.candidates
        assert record.text == f"{item.prompt} {item.answer} won."  # type: ignore[union-attr]


@pytest.mark.parametrize("line", ["{", '{"question": "Who?"}', '["a"]'])
def test_files_that_are_not_midtermqa_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputFileError, match="there is no openbook"):
        races(tmp_path)
    (tmp_path / "openbook.jsonl").write_text(line)
    (tmp_path / "fourchoice.jsonl").write_text(json.dumps({"question": "x", "answer": "A"}))
    with pytest.raises(InputFileError, match=r"lacks|no JSON"):
        races(tmp_path)


def test_questions_without_four_different_options_or_another_winner_are_left_out(tmp_path: Path) -> None:
    rows = [("Who won A?", "Ann"), ("Who won B?", "Bob"), ("Who won C?", "Cem")]
    options = ["A. Ann B. Bob C. Cem D. Dee", "A. Ann B. Bob C. Cem D. Cem", "A. Ann B. Bob C. Eve D. Dee"]
    (tmp_path / "openbook.jsonl").write_text("\n".join(json.dumps({"question": q, "answer": a}) for q, a in rows))
    lines = [json.dumps({"question": f"{q}\n{o}", "answer": "A"}) for (q, _), o in zip(rows, options, strict=True)]
    (tmp_path / "fourchoice.jsonl").write_text("\n".join(lines))
    asked, _ = races(tmp_path)
    assert asked == [Asked("midterm", "Who won A?", "Who won A?", "Ann", ("Ann", "Bob", "Cem", "Dee"))]
