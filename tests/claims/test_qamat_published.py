"""QAMAT on real pairs: the files are read as published, what is held out stays so, and the checks can fail."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from grounding_stubs import ScriptedChat

from keeps.claims.base import ClaimRun
from keeps.claims.qamat import _closed_book_for
from keeps.claims.qamat_pairs import KINDS, RealPairs
from keeps.claims.qamat_people import Asked
from keeps.claims.qamat_published import CLOSED, LOOKUP, WORDS, answered, edited, published_checks, untouched
from keeps.claims.qamat_readers import by_words
from keeps.contracts import Answer
from keeps.data.pairs import QA
from keeps.errors import InputFileError
from keeps.retrieval.qa_memory import QAMemory

TOWNS = "Oslo Bergen Turin Leeds Lyon Porto Genoa Malmo Basel Ghent Cadiz Split".split()  # noqa: SIM905
RIVERS = "Akerselva Puddefjord Dora Aire Saone Douro Bisagno Sege Rhine Lys Guadalete Jadro".split()  # noqa: SIM905


def fact(number: int) -> dict[str, object]:
    town, other = TOWNS[number], TOWNS[(number + 1) % len(TOWNS)]
    return {
        "question": f"On which river does {RIVERS[number]}ville lie?",
        "rephrase": f"{RIVERS[number]}ville lies on what river?",
        "answers": [town],
        "target_new": other,
        "made_up_evidence": f"1. {RIVERS[number]}ville lies on the {other}. It rains.\n2. Maps show {other} there.",
    }


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Twelve facts and eight questions of the crowd; three more facts that cannot be used."""
    facts = [fact(number) for number in range(12)]
    facts += [{**facts[0], "target_new": " "}, {**facts[1], "answers": []}, {**facts[2], "target_new": TOWNS[2]}]
    crowd = [{"question": f"who sang song number {n} in the film", "answer": [f"Singer {n}", "x"]} for n in range(8)]
    for name, rows in (("zsre/zsre.jsonl", facts), ("nq_open/dev.jsonl", [*crowd, {"question": "?", "answer": []}])):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path


def test_the_memory_holds_facts_and_crowd_and_unusable_rows_are_left_out(published: Path) -> None:
    real = RealPairs(published, 4)
    assert [pair.answer for pair in real.pairs] == [*TOWNS, *(f"Singer {n}" for n in range(8))]
    assert len({pair.id for pair in real.pairs}) == 20
    assert [one.answer for one in real.tested] == TOWNS[8:]
    by_id = {pair.id: pair for pair in real.pairs}
    for place, one in enumerate(real.tested, 8):
        assert by_id[one.pairs[0]].answer == one.answer
        assert one.question != by_id[one.pairs[0]].question
        assert real.other(by_id[one.pairs[0]]) == TOWNS[(place + 1) % 12]


def test_nothing_that_is_learned_from_names_what_is_held_out(published: Path) -> None:
    real = RealPairs(published, 4)
    texts = [one.text for one in (*real.passages(200), *real.masked(50), *real.questions(200))] + real.texts
    assert not any(river in text for river in RIVERS[8:] for text in texts)
    assert any(river in text for river in RIVERS[:8] for text in texts)


def test_sentences_hide_the_answer_and_pairs_of_the_batch_say_it(published: Path) -> None:
    real = RealPairs(published, 4)
    for kind in KINDS:
        for one in real.passages(40, (kind,)):
            (pair,) = one.pairs
            assert one.target.removeprefix("<extra_id_0> ") == pair.answer
            assert one.relevant == ((pair.id,),)
            assert ("<extra_id_0>" in one.text) == (kind == "sentence")
    assert len({one.pairs[0].id for one in real.passages(50)}) == 50
    own = {pair.question: pair.answer for pair in real.pairs}
    drawn = [one.pairs[0] for one in real.passages(60)]
    assert sum(own[pair.question] == pair.answer for pair in drawn) < 30  # reading is learned, and no fact by heart
    for one in real.masked(40):
        assert one.pairs[0] in real.pairs
        assert one.target == f"<extra_id_0> {one.pairs[0].answer}"
        assert "<extra_id_0>" in one.text
    ids = {pair.id: pair.answer for pair in real.pairs}
    assert all(one.target == ids[one.relevant[0][0]] for one in real.questions(40))


def test_the_same_seed_draws_the_same(published: Path) -> None:
    one, same, other = (RealPairs(published, 4, seed).passages(20) for seed in (0, 0, 1))
    assert one == same != other


def test_too_few_facts_and_rows_of_another_kind_are_refused(published: Path) -> None:
    with pytest.raises(InputFileError, match="12 usable facts"):
        RealPairs(published, 7)
    (published / "nq_open" / "dev.jsonl").write_text('{"question": "?"}')
    with pytest.raises(InputFileError, match="lacks answer"):
        RealPairs(published, 4)


def test_the_lookup_by_words_gives_the_answer_of_the_question_with_most_in_common(published: Path) -> None:
    real = RealPairs(published, 4)
    assert by_words(real, ["who sang number 5", "Douroville lies on what?"]) == ["Singer 5", "Porto"]


@pytest.mark.shared_data
def test_zsre_and_natural_questions_are_read_as_published(shared_data: Path) -> None:
    if not (shared_data / "zsre").is_dir():
        pytest.skip("zsRE is not there")
    real = RealPairs(shared_data, 300)
    assert len(real.crowd) == 3610
    assert len(real.tested) == 300
    assert len(real.learned) > 650
    assert sum(map(bool, (fact.sentences for fact in real.learned))) > 500
    assert len(real.passages(300)) == 300


# --- checks that can fail ---------------------------------------------------------------------------


def answer(text: str, *read: str) -> Answer:
    evidence = [{"id": name, "question": "?", "answer": text, "score": 0.0, "weight": 1.0} for name in read]
    return Answer(text, trace={"evidence": [evidence]})


def judged(right: int, own: Mapping[str, int], first: int = 40, read: int = 40) -> list[bool]:
    """Forty questions, of which so many are answered rightly, by each way, and found first, or at all."""
    tested = [Asked(f"q{n}", f"a{n}", (f"p{n}",)) for n in range(40)]
    found = [[f"p{n}", "x"] if n < first else ["x", f"p{n}"] if n < read else ["x", "y"] for n in range(40)]
    answers = [answer(f"a{n}" if n < right else "no", *found[n]) for n in range(40)]
    said = {name: [f"A{n}." if n < count else "no" for n in range(40)] for name, count in own.items()}
    return [check.holds for check in answered("reader", tested, found, answers, said, ClaimRun())]


def test_a_reader_that_does_not_find_or_is_no_better_than_closed_book_or_worse_than_a_lookup_is_found_out() -> None:
    base = {CLOSED: 2, "lookup by its own encoder": 36, WORDS: 30}
    good = {**base, LOOKUP: 38}
    assert judged(38, good) == [True] * 5
    assert judged(38, good, first=20) == [False, True, True, True, True]
    assert judged(38, good, first=20, read=30) == [False, False, True, True, True]
    assert judged(38, {**good, CLOSED: 20}) == [True, True, False, True, True]
    assert judged(24, good) == [True, True, True, False, False]
    assert judged(30, {**good, "lookup by its own encoder": 32}) == [True, True, True, True, False]


class Looking:
    """Answers with its own pair; stands in for a reader."""

    def __init__(self, pairs: Sequence[QA], asked: Mapping[str, str]) -> None:
        self.memory, self.asked = QAMemory(), asked
        self.stuck: Mapping[str, str] = {}
        self.memory.add(pairs)

    def ask(self, questions: Sequence[str], *, max_new_tokens: int) -> list[Answer]:
        assert max_new_tokens > 0
        found = []
        for question in questions:
            name = self.asked[question]
            said = self.memory.get(name).answer if name in self.memory else "gone"
            found.append(answer(self.stuck.get(name, said), name))
        return found


def after_edits(published: Path, monkeypatch: pytest.MonkeyPatch, stuck: Mapping[str, str]) -> list[bool]:
    """Two facts are edited, two are others; ``stuck`` names those that are answered with one text from then on."""
    monkeypatch.setattr("keeps.claims.qamat_published.EDITED", 2)
    real = RealPairs(published, 4)
    reader = Looking(real.pairs, {one.question: one.pairs[0] for one in real.tested})
    before = reader.ask([one.question for one in real.tested], max_new_tokens=1)
    reader.stuck = stuck
    return [check.holds for check in edited("reader", reader, real, real.tested, before)]


def test_edits_that_take_and_leave_others_alone_hold(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert after_edits(published, monkeypatch, {}) == [True] * 4


@pytest.mark.parametrize(
    ("stuck", "holds"),
    [
        ({"zsre:8": TOWNS[8]}, [False, True, True, True]),  # an edit that does not take
        ({"zsre:10": "Rome"}, [True, False, False, True]),  # another fact that changes
        ({"zsre:8": TOWNS[9]}, [True, True, True, False]),  # an answer that outlives its pair
    ],
)
def test_edits_that_do_not_take_spoil_others_or_outlive_their_pairs_are_found_out(
    published: Path, monkeypatch: pytest.MonkeyPatch, stuck: Mapping[str, str], holds: list[bool]
) -> None:
    assert after_edits(published, monkeypatch, stuck) == holds


def test_answers_that_read_an_edited_pair_are_told_apart() -> None:
    before = [answer("a", "p0"), answer("b", "p1"), answer("c", "p2")]
    after = [answer("a", "p0"), answer("x", "p1", "edited"), answer("c", "p2")]
    apart, stay = untouched("reader", before, after, {"edited"}, True)
    assert apart.holds
    assert apart.note == "2 of 3 others read none"
    assert not stay.holds
    assert not next(iter(untouched("reader", before, after, {"edited"}, False))).holds


def test_the_whole_form_runs_on_files_in_the_published_format(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = {"HELD_OUT": 4, "EDITED": 2, "SPOKEN": 3, "LARGE": 4, "WIDTH": {"default": 8}}
    steps = {"default": {"local": 2, "global": 1, "fine-tuning": 1}}
    for where, sizes in (("published", {**asking, "STEPS": steps}), ("readers", {"VOCABULARY": 420, "SMALL": 4})):
        for name, value in sizes.items():
            monkeypatch.setattr(f"keeps.claims.qamat_{where}.{name}", value)
    run, chat = ClaimRun(data=published), ScriptedChat(lambda text: text.splitlines()[-2:][0])  # says the pair's answer
    checks = list(published_checks(chat, published, _closed_book_for, run))
    assert len(checks) == 17
    spoken = [check for check in checks if check.name.startswith("embedded model")]
    assert [check.holds for check in spoken] == [True] * 8
    shares = run.tables["exact answers, trained reader"]
    assert shares["with the memory"] == shares[CLOSED] == 0
    assert shares[WORDS] == shares[LOOKUP] == 1
    assert len(run.tables["examples, trained reader"]) == 4
