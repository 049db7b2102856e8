"""Questions in several languages: what is read, what is refused, and the built-in ones."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keeps.data.languages import FINAL, language, language_prompt, languages
from keeps.data.multilingual import LanguageQuestion, MultilingualSet, read_multilingual
from keeps.data.multilingual_layouts import REGIONS, read_questions
from keeps.data.multilingual_world import LOCALES, WORDINGS, country_languages, world_questions
from keeps.data.world import relation_facts
from keeps.errors import EmptySetError, InputFileError, RecordError, SettingsError, UnknownNameError

ROW: dict[str, Any] = {"id": 1, "input": "2 + 2?", "choices": ["3", "4"], "answer": "4", "country": "Iran"}
FRENCH: dict[str, Any] = {"id": "1", "question": "2 et 2 ?", "choices": {"A": "trois", "B": "quatre"}, "output": "B"}


def folder(tmp_path: Path, **files: list[dict[str, Any]]) -> Path:
    for name, rows in files.items():
        text = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_folder_and_a_file_with_languages_say_the_same(tmp_path: Path) -> None:
    found = read_questions(folder(tmp_path, English=[ROW], fr=[FRENCH]))
    one = tmp_path / "all.jsonl"
    lines = [{**ROW, "language": "en"}, {**FRENCH, "language": "French"}]
    one.write_text("\n".join(json.dumps(row) for row in lines))
    other = read_questions(one)
    assert found.questions == other.questions
    assert found.fingerprint == other.fingerprint
    assert found.languages == ("en", "fr")
    assert found.questions["fr"][0] == LanguageQuestion("1", "fr", "2 et 2 ?", ("trois", "quatre"), ("quatre",), "Iran")
    assert found.parallel
    assert not found.free_text
    assert found.only(countries=["Iran"], languages=["French", "en"]).languages == ("fr", "en")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"id": "2"}, "not in all languages"),
        ({"output": "cinq"}, '"cinq" is not among the choices'),
        ({"choices": ["quatre", "quatre"], "output": "quatre"}, '"quatre" stands twice'),
        ({"choices": ["trois", "quatre", "cinq"], "output": "quatre"}, "3 options in fr, 2 in en"),
        ({"choices": ["quatre"], "output": "quatre"}, "one option"),
        ({"question": " "}, "is empty"),
        ({"choices": ["trois", ""], "output": "trois"}, "is empty"),
        ({"choices": "trois", "output": "trois"}, "no list of texts"),
        ({"output": 4}, "no list of texts"),
        ({"id": None}, "has no id"),
    ],
)
def test_languages_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    with pytest.raises(RecordError, match=what):
        read_questions(folder(tmp_path, en=[ROW], fr=[{**FRENCH, **change}]))


def test_an_id_twice_a_missing_language_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"the id stands twice .*en, id 1"):
        read_questions(folder(tmp_path, en=[ROW, ROW]))
    with pytest.raises(RecordError, match="names no language"):
        read_multilingual(tmp_path / "en.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptySetError, match="no file of questions"):
        read_questions(tmp_path / "empty")
    with pytest.raises(InputFileError, match="no such file"):
        read_questions(tmp_path / "nothing.jsonl")
    found = read_questions(folder(tmp_path, en=[ROW], fr=[FRENCH]))
    for options in ({"languages": ["tlh"]}, {"countries": ["Irun"]}):
        with pytest.raises(UnknownNameError, match="has no"):
            found.only(**options)  # type: ignore[arg-type]


def test_options_in_another_order_are_noticed() -> None:
    one = LanguageQuestion("1", "en", "?", ("a", "b"), ("a",))
    assert MultilingualSet.of("", [one, replace(one, language="fr")]).parallel
    assert not MultilingualSet.of("", [one, replace(one, language="fr", answers=("b",))]).parallel


def test_every_language_asks_for_the_same_answer_in_its_own_words() -> None:
    assert {"en", "zh", "hi", "sw", "fa"} <= set(languages())
    for own in languages().values():
        assert f'"{FINAL}"' in own.reason
        assert f'"reasoning_in_{own.name.lower()}"' in own.reason
        assert own.code == language(own.name).code == language(own.code.upper()).code
    assert len({own.reason for own in languages().values()}) == len(languages())
    prompt = language_prompt("es", "¿2 + 2?", ("tres", "cuatro"), form="reasoning", context="Suma.")
    assert prompt.startswith("Suma.\n\nPiensa")
    assert prompt.endswith("Pregunta: ¿2 + 2?\nA. tres\nB. cuatro\nRespuesta:")
    assert "think" in language_prompt("Hausa", "?", form="reasoning").lower()
    assert "Hausa" in language_prompt("Hausa", "?", form="reasoning")


def test_the_built_in_questions_are_the_facts_of_the_world_in_every_language() -> None:
    found = world_questions()
    assert found.languages == tuple(LOCALES)
    assert found.parallel
    counts = Counter(question.topic for question in found.questions["en"])
    assert set(counts) == set(WORDINGS)
    assert min(counts.values()) > 100
    facts = {fact.id: fact for name in WORDINGS for fact in relation_facts(name, marks={})}
    for question in found.questions["en"]:
        fact = facts[question.id]
        assert question.answers == fact.answers[:1]
        assert [choice for choice in question.choices if choice in fact.answers] == [fact.answers[0]]
        assert len(question.choices) == 4
    places = Counter(q.choices.index(q.answers[0]) for q in found.questions["en"])
    assert max(places.values()) < 1.3 * min(places.values())  # the right one stands anywhere
    chinese = next(q for q in found.questions["zh"] if q.id == "world:language:japan")
    assert (chinese.country, chinese.answers) == ("Japan", ("日语",))
    assert world_questions(["continent"]).ids == [n for n in found.ids if n.startswith("world:continent:")]
    with pytest.raises(UnknownNameError, match="capital"):
        world_questions(["capital"])


def test_countries_have_languages_by_name_and_code() -> None:
    assert country_languages("Iran")[0] == country_languages("IR")[0] == "fa"
    assert country_languages("South_Korea")[0] == "ko"
    assert country_languages("UK")[0] == "en"
    assert country_languages("Assam") == ()


@pytest.mark.shared_data
def test_geomlama_is_read_and_its_faults_are_counted(shared_data: Path) -> None:
    found = read_questions(shared_data / "geomlama" / "prompts.jsonl")
    assert set(found.languages) == {"en", "fa", "hi", "sw", "zh"}
    assert len(found.ids) == 120
    assert dict(found.left_out) == {"questions with an option twice": 5}
    assert not found.parallel  # the Hindi options stand in another order
    both = next(question for question in found.questions["en"] if question.id == "12")
    assert both.answers == ("feet", "inch")
    assert {q.country for q in found.questions["hi"]} - {""} == {"United States", "China", "India", "Iran", "Kenya"}


@pytest.mark.shared_data
def test_blend_is_read_by_regions_of_one_language(shared_data: Path) -> None:
    path = shared_data / "blend" / "short_answers.jsonl"
    found = read_questions(path, countries=["Spain", "Mexico"])
    assert found.languages == ("en", "es")
    assert found.free_text
    first = next(question for question in found.questions["es"] if question.id == "Mexico:Al-en-01")
    assert {"huevo", "egg"} <= set(first.answers)
    for countries in (["Spain", "Iran"], ["UK"], ["Atlantis"], []):
        with pytest.raises(SettingsError, match="share one language"):
            read_questions(path, countries=countries)
    english = read_questions(shared_data / "blend" / "multiple_choice.jsonl")
    assert english.languages == ("en",)
    assert len(set(english.ids)) == 2000
    assert "Without any explanation" not in english.questions["en"][0].text
    assert len(REGIONS) == 16
