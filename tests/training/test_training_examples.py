"""Records become the tokens that the model is asked, with the loss on the answer alone."""

from __future__ import annotations

from typing import Any

import pytest

from keeps.data.records import Dialogue, Example, Fact, Passage, RecordSet
from keeps.errors import ContextLengthError, EmptySetError, RecordError
from keeps.training import TokenizedExample, tokenise

PROMPTS = (
    "The capital of Norway is",
    "Norway's capital is",
    "The seat of Norway's government is",
    "Norway is run from",
)


def fact(count: int) -> Fact:
    return Fact("norway", "Norway", "capital", PROMPTS[:count], ("Oslo", "Christiania"))


def parts(model: Any, example: TokenizedExample) -> tuple[str, str]:
    """Prompt and answer as text."""
    ids, start = list(example.input_ids), example.answer_start
    return model.tokenizer.decode(ids[:start]), model.tokenizer.decode(ids[start:])


def test_a_fact_gives_one_example_per_wording_and_keeps_the_last_of_four_unseen(smollm2: Any) -> None:
    for count, trained in ((1, 1), (3, 3), (4, 3)):
        found = [parts(smollm2, example) for example in tokenise(smollm2, RecordSet("mine", (fact(count),)))]
        assert found == [(prompt, " Oslo\n") for prompt in PROMPTS[:trained]]
    assert len(tokenise(smollm2, RecordSet("mine", (fact(4),)), wordings=4)) == 4
    assert len(tokenise(smollm2, RecordSet("mine", (fact(4),)), wordings=1)) == 1


def test_prompt_and_answer_are_encoded_as_the_scorer_encodes_them(smollm2: Any) -> None:
    records = RecordSet("mine", (Example("a", "The atomic number of tin is", "50", choices=("50", "51")),))
    (example,) = tokenise(smollm2, records, end="")
    prompt, answer = smollm2.encode_pair("The atomic number of tin is", "50")
    assert list(example.input_ids) == prompt + answer
    assert example.answer_start == len(prompt)
    assert tokenise(smollm2, records)[0].input_ids[:-1] == example.input_ids


def test_a_dialogue_goes_through_the_chat_template_with_the_loss_on_the_last_message(smollm2: Any) -> None:
    messages = (("system", "Be short."), ("user", "Hi"), ("assistant", "Hello"), ("user", "2+2?"), ("assistant", "4"))
    (example,) = tokenise(smollm2, RecordSet("mine", (Dialogue("d", messages),)))
    prompt, answer = parts(smollm2, example)
    assert prompt.endswith("2+2?<|im_end|>\n<|im_start|>assistant\n")
    assert "Be short." in prompt
    assert answer.startswith("4<|im_end|>")


def test_a_passage_is_learned_whole_in_windows_that_predict_each_token_once(smollm2: Any) -> None:
    text = " ".join(f"Sentence number {number} says little." for number in range(30))
    windows = tokenise(smollm2, RecordSet("mine", (Passage("p", text),)), window=50)
    ids = smollm2.encoder.text(text)
    assert len(windows) > 3
    assert all(window.answer_start == 1 and len(window.input_ids) <= 50 for window in windows)
    predicted = [token for window in windows for token in window.input_ids[1:]]
    assert predicted == ids[1:]


def test_what_does_not_fit_the_context_is_refused_by_the_name_of_the_record(smollm2: Any) -> None:
    long = Example("too-long", "word " * smollm2.context_length + "is", "it")
    with pytest.raises(ContextLengthError, match=r'"too-long".*mine'):
        tokenise(smollm2, RecordSet("mine", (fact(1), long)))


def test_nothing_to_learn_is_refused(smollm2: Any) -> None:
    with pytest.raises(EmptySetError):
        tokenise(smollm2, RecordSet("mine", ()))
    with pytest.raises(RecordError, match='"p"'):
        tokenise(smollm2, RecordSet("mine", (Passage("p", "a"),)))
