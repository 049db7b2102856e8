"""Answers read in any language, the map on disk, and a router that asks each question once, in one language."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.contracts import Answer
from keeps.data.multilingual import LanguageQuestion, MultilingualSet
from keeps.errors import RecordError, SettingsError, StorageError
from keeps.models.chat import Reply
from keeps.numerics.routing import RoutingTable
from keeps.probe.language_ask import packed, unpacked
from keeps.probe.language_map import LanguageMap, fit_map, map_of_questions
from keeps.probe.language_parse import Told, free_answer, free_right, parse_option
from keeps.probe.language_router import LanguageRouter, by_chat, by_table

CITIES = ["Rome", "Oslo", "York", "New York"]
FOOD, LAW = "Which dish is eaten?", "Which law holds?"


class Topics:
    """An encoder of two topics."""

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        vectors = torch.tensor([[1.0, 0.1 * len(t) / 50] if "dish" in t else [0.1 * len(t) / 50, 1.0] for t in texts])
        return torch.nn.functional.normalize(vectors, dim=1)


class Echo:
    """Answers with the number of the call, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        self.asked += questions
        return [Answer(f" {number} ") for number, _ in enumerate(questions)]


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("It is B. Oslo, not C.", {}, Told(1, "option")),
        ("(B)", {}, Told(1, "letter")),
        ("B", {"letter_rule": "space"}, None),
        ("B is right", {"letter_rule": "space"}, Told(1, "letter")),
        ("final_answer A } B \n or C", {"letter_rule": "space"}, Told(0, "letter in its first line")),
        ("OSLO", {"letter_rule": "anywhere"}, Told(1, "text")),
        ("LIBRE", {"letter_rule": "anywhere"}, Told(1, "letter")),
        ("it is oslo, I think", {}, Told(1, "text")),
        ("in New York it is", {}, Told(3, "text")),
        ("in New York it is", {"longest": False}, None),
        ("York rather than New York", {}, None),
        ("Rome or Oslo?", {}, None),
        ('{"reasoning_in_french": "Rome? Oslo?", "final_answer": "Oslo"}', {}, Told(1, "text after final_answer")),
        ('Rome or Oslo: "final_answer": "Oslo"\nnot Rome', {}, Told(1, "text in its first line")),
        ('A. Rome was my idea, "final_answer": "Oslo"', {}, Told(0, "option")),
        ('A. Rome was my idea, "final_answer": "Oslo"', {"final_first": True}, Told(1, "text after final_answer")),
        ("", {}, None),
    ],
)
def test_the_cascade_finds_one_option_or_none(text: str, options: dict[str, Any], told: Told | None) -> None:
    assert parse_option(text, CITIES, **options) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("答案是B。", Told(1, "letter")),
        ("答案是 B. 奥斯陆", Told(1, "option")),
        ("我认为是奥斯陆。", Told(1, "text")),
        ("罗马还是奥斯陆？", None),
    ],
)
def test_answers_in_a_script_without_spaces_are_read(text: str, told: Told | None) -> None:
    assert parse_option(text, ["罗马", "奥斯陆"]) == told


def test_free_answers_are_right_from_an_f1_of_one_half() -> None:
    assert free_answer('so {"final_answer": "a \\"hot\\" dog"}') == 'a \\"hot\\" dog'
    assert free_answer("\n ") == ""
    assert free_right("the hot dog", ["sausage", "hot dog"])
    assert free_right("hot dog with mustard", ["hot dog"])  # F1 2/3
    assert not free_right("hot dog with mustard and onion", ["dog"])  # F1 2/7
    assert not free_right("", ["dog"])


def test_a_vector_survives_the_row_it_is_written_in() -> None:
    vector = torch.nn.functional.normalize(torch.randn(384, generator=torch.Generator().manual_seed(0)), dim=0)
    again = unpacked(json.loads(json.dumps(packed(vector))))
    assert float(vector @ again) == pytest.approx(1, abs=1e-3)


def made() -> LanguageMap:
    questions = [f"{FOOD} {n}" for n in range(10)] + [f"{LAW} {n}" for n in range(10)]
    correct = {"en": [True] * 3 + [False] * 7 + [True] * 10, "fa": [True] * 10 + [False] * 10}
    return map_of_questions(questions, correct, encoder=Topics(), clusters=2, support=0, shrink=0)


def test_the_map_sends_each_topic_to_its_language_and_is_the_same_from_disk(tmp_path: Path) -> None:
    found = made()
    assert found.route([FOOD, LAW], Topics()) == ["fa", "en"]
    assert found.route([], Topics()) == []
    found.save(tmp_path / "map")
    again = LanguageMap.load(tmp_path / "map")
    for name in RoutingTable.__dataclass_fields__:
        assert torch.equal(getattr(again.table, name), getattr(found.table, name))
    assert torch.equal(again.centres, found.centres)
    assert (again.languages, again.experts, again.best_single) == (found.languages, found.experts, "en")
    assert again.made_of["questions"] == 20
    with pytest.raises(SettingsError, match="vectors of 2 numbers, these have 3"):
        again.clusters_of(torch.ones(1, 3))


def test_a_damaged_map_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no map that can be read"):
        LanguageMap.load(tmp_path)
    made().save(tmp_path)
    plain = json.loads((tmp_path / "map.json").read_text())
    for change, what in (({"format": 9}, "another format"), ({"languages": ["en"]}, "do not fit")):
        (tmp_path / "map.json").write_text(json.dumps({**plain, **change}))
        with pytest.raises(StorageError, match=what):
            LanguageMap.load(tmp_path)
    (tmp_path / "map.json").write_text(json.dumps(plain))
    (tmp_path / "map.safetensors").write_bytes(b"nothing")
    with pytest.raises(StorageError, match="damaged"):
        LanguageMap.load(tmp_path)


def test_more_clusters_than_questions_and_answers_of_another_number_are_refused() -> None:
    with pytest.raises(SettingsError, match="3 clusters cannot be made of 2 questions"):
        map_of_questions([FOOD, LAW], {"en": [True, True]}, encoder=Topics(), clusters=3)
    with pytest.raises(RecordError, match=r"1 answers for 2 questions \(fa\)"):
        map_of_questions([FOOD, LAW], {"en": [True, True], "fa": [True]}, encoder=Topics(), clusters=1)


def test_a_map_without_english_has_its_first_language_for_ties() -> None:
    vectors = torch.eye(4)
    found = fit_map(vectors, torch.ones(4, 2).bool(), ("hi", "sw"), clusters=1)
    assert found.experts == ["hi"]


def test_every_question_is_asked_once_in_one_language_in_its_own_words() -> None:
    known = MultilingualSet.of(
        "it",
        [
            LanguageQuestion(key, code, text, (), ("x",))
            for key, texts in {"f": {"en": FOOD, "fa": "کدام غذا؟"}, "l": {"en": LAW, "fa": "کدام قانون؟"}}.items()
            for code, text in texts.items()
        ],
    )
    echo = Echo()
    router = LanguageRouter(echo, made(), encoder=Topics(), translate=by_table(known))
    answers = router.answer([LAW, FOOD, LAW], ["", "Iran", ""])
    assert [answer.trace["language"] for answer in answers] == ["en", "fa", "en"] == router.route([LAW, FOOD, LAW])
    assert [answer.text for answer in answers] == ["0", "1", "2"]
    assert len(echo.asked) == 3
    assert echo.asked[1].startswith("Iran\n\n")
    assert "پرسش: کدام غذا؟" in echo.asked[1]
    assert f"Question: {LAW}" in echo.asked[0]
    assert router.answer([]) == []
    with pytest.raises(RecordError, match="3 questions and 1 contexts"):
        router.answer([LAW] * 3, [""])
    with pytest.raises(RecordError, match='no translation into fa of "Another dish'):
        router.answer(["Another dish?"])


def test_without_translation_only_the_instruction_changes_and_a_chat_translates_where_it_is_asked_to() -> None:
    class Translating:
        def reply(self, conversations: Sequence[Any], *, max_new_tokens: int = 0) -> list[Reply]:
            del max_new_tokens
            assert all("into Persian" in turns[-1].content for turns in conversations)
            return [Reply(" غذا؟ ", True) for _ in conversations]

    plain, translated = Echo(), Echo()
    LanguageRouter(plain, made(), encoder=Topics(), form="direct").answer([FOOD])
    assert plain.asked[0].endswith(f"پرسش: {FOOD}\nپاسخ:")
    LanguageRouter(translated, made(), encoder=Topics(), translate=by_chat(Translating())).answer([FOOD, LAW])
    assert "پرسش: غذا؟\n" in translated.asked[0]
    with pytest.raises(RecordError, match="0 translations of 1 questions into fa"):
        LanguageRouter(plain, made(), encoder=Topics(), translate=lambda texts, code: []).answer([FOOD])
