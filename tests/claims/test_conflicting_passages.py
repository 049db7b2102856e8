"""Published passages with a swapped answer: what is read, what is left out, and that candidates do not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conflict_files import good, row, write

from keeps.claims.conflicting_passages import FAITHEVAL, MUSIQUE, SQUAD, around, enough, multiple_choice, twins
from keeps.errors import InputFileError


def published(folder: Path, golden: Sequence[Mapping[str, Any]], negative: Sequence[Mapping[str, Any]]) -> Path:
    write(folder, SQUAD[0], golden)
    write(folder, SQUAD[1], negative)
    return folder


def test_rows_become_pairs_whose_candidates_do_not_tell_the_true_one(tmp_path: Path) -> None:
    golden, negative = zip(*map(good, range(3)), strict=True)
    found = twins(published(tmp_path, golden, negative[::-1]), SQUAD, words=50)
    assert [pair.golden.id for pair in found] == ["q0", "q1", "q2"]
    assert (found[0].golden.answer, found[0].negative.answer) == ("Lima0", "Oslo0")
    assert found[0].golden.candidates == found[0].negative.candidates == ("Oslo0", "Lima0", "Rome0", "Cairo")
    assert found[1].question == "Where is tower 1?"


@pytest.mark.parametrize(
    ("golden", "negative"),
    [
        ({"context": "Tower 0 is nowhere."}, {}),
        ({}, {"context": "Tower 0 is nowhere."}),
        ({"context": "Tower 0 is in Lima0, not in Oslo0."}, {}),
        ({}, {"context": "Tower 0 is in Oslo0, not in Lima0."}),
        ({"context": "Tower 0 is in Lima. 0 is nothing."}, {}),
        ({}, {"context": f"Tower 0 is in Oslo0. {'It is old. ' * 30}"}),
        ({"question": "Is Lima0 where tower 0 is?"}, {"question": "Is Lima0 where tower 0 is?"}),
        ({"question": "Where is tower 1?"}, {}),
        ({"choices": ["Lima0", "lima0", "Oslo0", "Rome0"]}, {"choices": ["Lima0", "lima0", "Oslo0", "Rome0"]}),
        ({"choices": ["Lima0", "Rome0"]}, {}),
    ],
)
def test_a_row_whose_text_is_not_what_it_should_be_is_left_out(
    golden: dict[str, Any], negative: dict[str, Any], tmp_path: Path
) -> None:
    pairs = [good(0), good(1)]
    pairs[0] = (pairs[0][0] | golden, pairs[0][1] | negative)
    found = twins(published(tmp_path, *zip(*pairs, strict=True)), SQUAD, words=50)
    assert [pair.golden.id for pair in found] == ["q1"]


def test_one_question_is_taken_of_a_passage_and_of_an_answer(tmp_path: Path) -> None:
    both = "Tower 0 is in Lima0. Tower 1 is in Lima1."
    pairs = [good(0), good(1), good(2)]
    pairs[0][0]["context"] = pairs[1][0]["context"] = both
    again = (pairs[2][0] | {"id": "q9", "context": "Lima2 has a tower."}, pairs[2][1] | {"id": "q9"})
    found = twins(published(tmp_path, *zip(*pairs, again, strict=True)), SQUAD, words=50)
    assert [pair.golden.id for pair in found] == ["q0", "q2"]


def test_a_row_without_a_twin_and_a_folder_without_the_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="squad_golden"):
        twins(tmp_path, SQUAD, words=50)
    published(tmp_path, [good(0)[0], good(1)[0]], [good(0)[1]])
    with pytest.raises(InputFileError, match="1 rows have no twin, such as q1"):
        twins(tmp_path, SQUAD, words=50)


def test_multiple_choice_takes_each_passage_once_and_no_answer_that_is_no_choice(tmp_path: Path) -> None:
    rows = [row(0, "Rome0", "In Rome0."), row(1, "Rome1", "In Rome0."), row(2, "Paris", "In Paris.")]
    rows += [row(3, "Rome3", "word " * 51), row(4, "Rome4", "In Rome4.")]
    write(tmp_path, FAITHEVAL, rows)
    assert [item.id for item in multiple_choice(tmp_path, words=50)] == ["q0", "q4"]


def test_too_few_questions_are_refused() -> None:
    assert enough([1, 2, 3], 2, "SQuAD") == [1, 2]
    with pytest.raises(InputFileError, match=r"there are 1 usable questions \(SQuAD\)"):
        enough([1], 2, "SQuAD")


def test_a_passage_is_cut_to_the_sentence_that_answers_and_its_neighbours() -> None:
    text = "First one. Before it. The tower is in Oslo. Behind it. Oslo is large."
    assert around(text, "Oslo", 1) == "Before it. The tower is in Oslo. Behind it."
    assert around(text, "Oslo", 0) == "The tower is in Oslo."
    assert around("Oslo is here. Next. Last.", "Oslo", 1) == "Oslo is here. Next."
    with pytest.raises(ValueError, match="no sentence says 'Lima'"):
        around(text, "Lima", 1)


@pytest.mark.shared_data
def test_the_published_sets_hold_enough_questions(shared_data: Path) -> None:
    assert len(twins(shared_data, SQUAD, words=400)) >= 200
    assert len(twins(shared_data, MUSIQUE, words=220)) >= 50
    found = multiple_choice(shared_data, words=220)
    assert len(found) >= 50
    assert all(item.answer in item.candidates for item in found)
