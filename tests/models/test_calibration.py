"""Which token sequences a record set gives to calibrate on."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeps.data.records import Dialogue, Example, Fact, Passage, Record, RecordSet
from keeps.models import LanguageModel
from keeps.models.calibration import calibration_sequences

FACTS = tuple(
    Fact(
        id=str(number),
        subject=country,
        relation="capital",
        prompts=tuple(
            f"{start} {country} is" for start in ("The capital of", "The chief city of", "Seat of", "Unseen")
        ),
        answers=(city, "another spelling"),
    )
    for number, (country, city) in enumerate([("Norway", "Oslo"), ("Peru", "Lima"), ("Chad", "N'Djamena")])
)
EXAMPLES = (Example("a", "2 + 2 =", "4", aliases=("four",)), Example("b", "3 + 3 =", "6"))
TEXT = Passage("text", "Once the file has been read, every line is split at the first colon. " * 20)
DIALOGUE = Dialogue("talk", (("user", "Which city is it?"), ("assistant", "Oslo.")))


@pytest.fixture(scope="module")
def tiny(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


def texts(model: LanguageModel, *records: Record, tokens: int = 1, answers: bool = False, seed: int = 0) -> list[str]:
    sequences = calibration_sequences(model, RecordSet("test", records), tokens=tokens, answers=answers, seed=seed)
    return [model.tokenizer.decode(sequence) for sequence in sequences]


def test_facts_give_their_questions_without_the_wording_that_is_kept_unseen(tiny: LanguageModel) -> None:
    found = texts(tiny, *FACTS)
    assert sorted(found) == sorted(prompt for fact in FACTS for prompt in fact.prompts[:3])
    assert not any("Unseen" in text or "Oslo" in text for text in found)


def test_answers_follow_their_questions_where_they_are_asked_for(tiny: LanguageModel) -> None:
    assert sorted(texts(tiny, *EXAMPLES, answers=True)) == ["2 + 2 = 4", "3 + 3 = 6"]
    assert "The chief city of Chad is N'Djamena" in texts(tiny, *FACTS, answers=True)
    assert sorted(texts(tiny, *EXAMPLES)) == ["2 + 2 =", "3 + 3 ="]


def test_order_depends_on_the_seed_alone(tiny: LanguageModel) -> None:
    orders = [texts(tiny, *FACTS, seed=seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_short_texts_are_joined_by_line_breaks_up_to_the_length_and_none_is_lost(tiny: LanguageModel) -> None:
    records = RecordSet("test", FACTS)
    alone = calibration_sequences(tiny, records, tokens=1, answers=True, seed=0)
    joined = calibration_sequences(tiny, records, tokens=25, answers=True, seed=0)
    assert 1 < len(joined) < len(alone)
    assert max(map(len, joined)) <= 25
    lines = [line for sequence in joined for line in tiny.tokenizer.decode(sequence).split("\n")]
    assert lines == [tiny.tokenizer.decode(sequence) for sequence in alone]


def test_long_texts_are_cut_into_windows_without_gap_or_overlap(tiny: LanguageModel) -> None:
    whole = tiny.tokenizer(TEXT.text)["input_ids"]
    found = calibration_sequences(tiny, RecordSet("test", (TEXT,)), tokens=50, answers=False, seed=0)
    assert [len(window) for window in found[:-1]] == [50] * (len(whole) // 50)
    assert [token for window in found for token in window] == whole


@pytest.mark.parametrize("tokens", [1, 10_000])
def test_no_sequence_is_longer_than_the_context(tiny: LanguageModel, tokens: int) -> None:
    found = calibration_sequences(tiny, RecordSet("test", (TEXT, *FACTS)), tokens=tokens, answers=True, seed=0)
    assert max(map(len, found)) == tiny.context_length == 128


def test_dialogues_go_through_the_chat_template(tiny: LanguageModel) -> None:
    asked, answered = texts(tiny, DIALOGUE)[0], texts(tiny, DIALOGUE, answers=True)[0]
    turns = [{"role": role, "content": content} for role, content in DIALOGUE.messages]
    assert answered == tiny.tokenizer.apply_chat_template(turns, tokenize=False)
    assert answered.startswith(asked)
    assert "Which city is it?" in asked
    assert "Oslo" not in asked


def test_dialogues_are_plain_lines_for_a_model_without_a_chat_template(tiny_llama: LanguageModel) -> None:
    tiny_llama.tokenizer.chat_template = None
    assert texts(tiny_llama, DIALOGUE, answers=True) == ["Which city is it?\nOslo."]
    assert texts(tiny_llama, DIALOGUE) == ["Which city is it?"]


def test_what_holds_no_question_gives_nothing(tiny: LanguageModel) -> None:
    assert texts(tiny, Dialogue("alone", (("assistant", "Oslo."),))) == []
    assert texts(tiny) == []
