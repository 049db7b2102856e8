"""Bits of a set of facts: what a perfect, a guessing and a misled model are credited with, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keeps
from keeps.contracts import Answer, Row
from keeps.data.records import Example, Fact, Passage, RecordSet
from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.jobs.probing import probing_system
from keeps.models import LanguageModel
from keeps.models.scores import AnswerScore, ChoiceScore
from keeps.probe.base import Findings, ModelRows, Selection
from keeps.probe.capacity import renormalised
from keeps.probe.capacity_measures import fact_logprob

CITIES = ("Oslo", "Rome", "Bern", "Kyiv")
FACTS = RecordSet(
    "mine", tuple(Fact(f"c{n}", f"land {n}", "capital", (f"land {n}:",), (CITIES[n % 4],)) for n in range(8))
)


class Teller:
    """Gives the answers of a table the probabilities it is told to; knows no weights."""

    def __init__(self, probability: Any) -> None:
        self.probability = probability

    def logprob(self, prompts: Sequence[str], answers: Sequence[str], advance: Any = None) -> list[AnswerScore]:
        assert advance is None
        both = zip(prompts, answers, strict=True)
        return [AnswerScore(math.log(p), 1, p > 0.5) for p in (self.probability(*each) for each in both)]

    def rank(self, prompts: Sequence[str], choices: Sequence[Sequence[str]], advance: Any = None) -> list[ChoiceScore]:
        return [
            ChoiceScore.of(self.logprob([prompt] * len(each), each))
            for prompt, each in zip(prompts, choices, strict=True)
        ]


def asked(data: RecordSet, probability: Any, **settings: Any) -> list[Row]:
    system = probing_system("capacity", settings)
    return system.probe(Selection(data))(Teller(probability))


def found(data: RecordSet, probability: Any, **settings: Any) -> Findings:
    """With the published predictor unless ``settings`` say otherwise."""
    settings = {"predictor": "model", **settings}
    rows = asked(data, probability, **settings)
    return probing_system("capacity", settings).measure([ModelRows("told", rows)])


def value(findings: Findings, metric: str, group: str = "capital") -> float | None:
    return next(m.value for m in findings.measures if (m.metric, m.group) == (f"capacity.{metric}", group))


def right(prompt: str) -> str:
    return CITIES[int(prompt.split()[1].strip(":")) % 4]


def test_a_perfect_model_holds_all_there_is_to_know() -> None:
    findings = found(FACTS, lambda prompt, answer: 1.0)
    assert value(findings, "bits") == value(findings, "bits_to_know") == 8 * 2
    assert value(findings, "share") == 1


def test_uniform_guessing_holds_nothing_and_half_of_it_half() -> None:
    assert value(found(FACTS, lambda *_: 1 / 4), "bits_per_fact") == 0
    assert value(found(FACTS, lambda *_: 1 / 2), "bits_per_fact") == pytest.approx(1)
    assert value(found(FACTS, lambda *_: 1 / 2), "share") == pytest.approx(0.5)


def test_a_relation_that_is_worse_than_a_guess_takes_nothing_from_the_others() -> None:
    other = tuple(Fact(f"s{n}", f"el {n}", "symbol", (f"el {n}:",), (CITIES[n % 2],)) for n in range(4))
    both = RecordSet("mine", (*FACTS.records, *other))  # type: ignore[arg-type]
    findings = found(both, lambda prompt, answer: 1e-3 if prompt.startswith("el") else 1.0)
    assert (value(findings, "bits_per_fact", "symbol") or 0) == pytest.approx(1 - math.log2(1000))
    assert value(findings, "bits", "symbol") == 0
    assert value(findings, "bits", "all") == 16
    assert value(findings, "bits_to_know", "all") == 20
    held = next(m for m in findings.measures if (m.metric, m.group) == ("capacity.bits", "symbol"))
    assert (held.low, held.high) == (0, 0)


def test_one_answer_that_is_excluded_does_not_undo_the_others_when_hedged() -> None:
    many = RecordSet(
        "mine",
        tuple(Fact(f"c{n}", f"land {n}", "capital", (f"land {n}:",), (f"city {n}",)) for n in range(64)),
    )

    def told(prompt: str, answer: str) -> float:
        return 1e-200 if prompt == "land 7:" else 0.9

    plain, better = (found(many, told, predictor=name) for name in ("model", "hedged"))
    assert value(plain, "bits") == 0
    # 63 answers at 6 bits less log2 (0.9 * 15/16), one at log2 1/16, and 5 bits that name the share
    expected = 63 * (6 + math.log2(0.9 * 15 / 16 + 1 / 16 / 64)) - 4 - 5
    assert value(better, "bits") == pytest.approx(expected)
    alone = value(better, "bits_per_fact_of_the_model_alone")
    assert alone == value(plain, "bits_per_fact")
    assert (alone or 0) < 0
    assert value(found(FACTS, lambda *_: 1.0, predictor="hedged"), "bits") == pytest.approx(8 * 2 - 1)


def test_a_guess_by_frequencies_credits_nothing_for_knowing_what_is_common() -> None:
    skewed = RecordSet(
        "mine", tuple(Fact(f"c{n}", f"x {n}", "r", (f"x {n}:",), ("Oslo" if n else "Rome",)) for n in range(8))
    )

    def frequency(prompt: str, answer: str) -> float:
        return 7 / 8 if answer == "Oslo" else 1 / 8

    assert value(found(skewed, frequency, guess="frequencies"), "bits_per_fact", "r") == pytest.approx(0, abs=1e-12)
    assert (value(found(skewed, frequency), "bits_per_fact", "r") or 0) > 0.4
    entropy = -(7 * math.log2(7 / 8) + math.log2(1 / 8))
    assert value(found(skewed, frequency, guess="frequencies"), "bits_to_know", "r") == pytest.approx(entropy)


def test_among_answers_the_probabilities_of_the_candidates_alone_count() -> None:
    rows = asked(FACTS, lambda prompt, answer: 1e-6 * (7 if answer == right(prompt) else 1), among="answers")
    assert all(row.logprob == pytest.approx(math.log(0.7)) for row in rows)
    assert all(row.correct and row.answer == row.expected for row in rows)
    wrong = asked(FACTS, lambda prompt, answer: 0.1 if answer == right(prompt) else 0.2, among="answers")
    assert not any(row.correct for row in wrong)


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=6))
def test_renormalised_probabilities_sum_to_one(logprobs: list[float]) -> None:
    parts = [renormalised(logprobs, place) for place in range(len(logprobs))]
    assert math.fsum(math.exp(value) for value, _ in parts) == pytest.approx(1)
    assert any(best for _, best in parts)


@given(st.lists(st.floats(-80, 0), min_size=1, max_size=5))
def test_a_mixture_of_wordings_is_never_below_their_mean_and_at_most_the_best(logprobs: list[float]) -> None:
    row = Row("1", "g", "p", "a", "a", True, 1.0, details={"wordings": [{"logprob": value} for value in logprobs]})
    mixture, mean = fact_logprob(row, "mixture"), fact_logprob(row, "mean")
    assert mean == pytest.approx(sum(logprobs) / len(logprobs))
    assert mean - 1e-9 <= mixture <= max(logprobs) + 1e-9
    assert mixture >= max(logprobs) - math.log(len(logprobs)) - 1e-9


def test_a_limit_asks_fewer_facts_of_the_same_answers_and_sums_up_for_all() -> None:
    system = probing_system("capacity", {"predictor": "model"})
    rows = system.probe(Selection(FACTS, limit=3))(Teller(lambda *_: 0.5))
    assert len(rows) == 3
    assert {row.details["candidates"] for row in rows} == {4}
    findings = system.measure([ModelRows("told", rows)])
    assert value(findings, "bits") == pytest.approx(8)
    assert "3 of 8 facts were asked" in findings.tables[0].note


def test_choices_are_what_is_guessed_among() -> None:
    data = RecordSet("mine", (Example("1", "2 + 2 =", "4", choices=("3", "4")), Example("2", "1 =", "1")))
    rows = asked(data, lambda *_: 0.5)
    assert [row.details["candidates"] for row in rows] == [2, 1]
    assert value(found(data, lambda *_: 1.0), "bits", "choices") == 1
    share = next(
        m for m in found(data, lambda *_: 1.0).measures if (m.metric, m.group) == ("capacity.share", "examples")
    )
    assert share.value is None
    assert "same" in share.note


def test_answers_that_begin_others_are_pointed_out_until_an_ending_is_given() -> None:
    data = RecordSet("mine", tuple(Example(str(n), f"{n}:", answer) for n, answer in enumerate(("4", "47", "5"))))
    assert "1 answer begins another one" in found(data, lambda *_: 0.5).tables[0].note
    endings: set[str] = set()

    def told(prompt: str, answer: str) -> float:
        endings.add(answer[-1])
        return 0.5

    assert "begins another" not in found(data, told, ending=".").tables[0].note
    assert endings == {"."}
    assert "begins another" not in found(data, lambda *_: 0.5, among="answers").tables[0].note


def test_models_are_compared_fact_by_fact_and_drawn() -> None:
    system = probing_system("capacity", {"predictor": "model"})
    both = [ModelRows("a", asked(FACTS, lambda *_: 0.25)), ModelRows("b", asked(FACTS, lambda *_: 0.5))]
    findings = system.measure(both)
    line = findings.tables[-1].rows[0]
    assert findings.tables[-1].title == "Against a"
    assert line[:3] == ("capital", "b", "8")
    assert line[3].startswith("+1")
    assert system.draw(both) is not None


def test_fingerprints_tell_what_is_asked_apart_but_not_how_it_is_summed_up() -> None:
    def of(**settings: Any) -> str:
        return probing_system("capacity", settings).probe(Selection(FACTS)).fingerprint

    different = [of(), of(among="answers"), of(ending="."), of(weight_bits=4), of(shots=1)]
    assert len(set(different)) == len(different)
    assert of(guess="frequencies") == of(wordings="mean") == of()


@pytest.mark.parametrize(
    ("data", "settings", "error", "named"),
    [
        (RecordSet("mine", (Passage("1", "A text."),)), {}, EmptySetError, "no fact"),
        (RecordSet("mine", FACTS.records[::4]), {}, SettingsError, "same answer"),
        (FACTS, {"shots": 9}, SettingsError, "9"),
        (FACTS, {"weight_bits": 5}, SettingsError, "weight_bits is 5"),
        (RecordSet("mine", (Example("1", "a", "b", choices=("c", "d")),)), {}, RecordError, "among the choices"),
    ],
)
def test_bad_sets_and_settings_are_refused(
    data: RecordSet, settings: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        probing_system("capacity", settings).probe(Selection(data))


class Server:
    """Answers in text alone."""

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        return [Answer("Oslo") for _ in questions]


def test_answerers_without_probabilities_or_weights_are_refused() -> None:
    with pytest.raises(SettingsError, match="no log-probabilities"):
        probing_system("capacity").probe(Selection(FACTS))(Server())
    with pytest.raises(SettingsError, match="cannot be rounded"):
        probing_system("capacity", {"weight_bits": 4}).probe(Selection(FACTS))(Teller(lambda *_: 0.5))


def test_parameters_and_what_fits_come_from_the_model(tiny_llama: LanguageModel) -> None:
    system = probing_system("capacity")
    rows = system.probe(Selection(FACTS))(tiny_llama)
    findings = system.measure([ModelRows("tiny", rows)])
    total = sum(p.numel() for p in tiny_llama.model.parameters())
    embeddings = 32 * len(tiny_llama.tokenizer)
    assert (rows[0].details["parameters"], rows[0].details["embeddings"]) == (total, embeddings)  # tied: once
    held = value(findings, "bits") or 0.0
    assert value(findings, "bits_per_parameter", "all") == pytest.approx(held / total)
    assert value(findings, "facts_that_fit_after_1000_exposures", "all") == pytest.approx(2 * total / 2)
    assert value(findings, "facts_that_fit_after_100_exposures", "all") == pytest.approx(total / 2)
    assert findings.tables[1].title == "Room"


def test_rounded_weights_are_measured_and_then_put_back(tiny_llama: LanguageModel) -> None:
    before = tiny_llama.fingerprint
    plain = probing_system("capacity").probe(Selection(FACTS))(tiny_llama)
    rounded = probing_system("capacity", {"weight_bits": 2}).probe(Selection(FACTS))(tiny_llama)
    assert [row.logprob for row in plain] != [row.logprob for row in rounded]
    assert tiny_llama.fingerprint == before


@pytest.mark.shared_data
def test_birth_places_of_a_published_set_are_asked_among_all_places(shared_data: Path) -> None:
    path = shared_data / "lama_style" / "P19.jsonl"
    if not path.is_file():
        pytest.skip("the set is not there")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    facts = {
        line["sub_uri"]: Fact(line["sub_uri"], name, "born", (f"{name} was born in",), (line["obj_label"],))
        for line in lines
        if (name := line["sub_label"])
    }
    rows = asked(RecordSet("P19", tuple(facts.values())), lambda *_: 1e-3)
    assert len(rows) == len(facts) > 300
    assert rows[0].details["candidates"] == len({line["obj_label"] for line in lines})


@pytest.mark.slow
def test_the_default_model_holds_part_of_the_capitals_and_loses_them_at_two_bits(tmp_path: Path) -> None:
    held = []
    for settings in ({"shots": 4}, {"shots": 4, "weight_bits": 2}):
        outcome = keeps.probe(
            "smollm2-135m", "world:capital", system="capacity", limit=8, settings=settings, workspace=tmp_path / "space"
        )
        held.append(value(outcome.findings, "share"))
    assert held[0] is not None
    assert held[0] > 0.1
    assert held[1] == 0
