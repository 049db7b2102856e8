"""Special tokens, the space before an answer, the boundary between prompt and answer, the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keeps.errors import RecordError, SettingsError
from keeps.models import LanguageModel
from keeps.models.tokens import TextEncoder, space_before


@pytest.fixture(scope="module")
def tokenizer(smollm2: LanguageModel) -> Any:
    return smollm2.tokenizer


@pytest.fixture(scope="module")
def bos_tokenizer(tokenizer: Any) -> Any:
    """The same vocabulary with a tokenizer that puts BOS in front and EOS behind, as many do."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    specials = [("<|im_start|>", 1), ("<|im_end|>", 2)]
    backend.post_processor = TemplateProcessing(single="<|im_start|> $A <|im_end|>", special_tokens=specials)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>")


def test_prompt_and_answer_join_to_the_text_as_it_would_be_written(tokenizer: Any) -> None:
    encoder = TextEncoder(tokenizer)
    for prompt, answer, text in [
        ("The capital of France is", "Paris", "The capital of France is Paris"),
        ("The atomic number of iron is", "26", "The atomic number of iron is 26"),
        ("To phone Angola from abroad, dial +", "244", "To phone Angola from abroad, dial +244"),
        ('He said "', "yes", 'He said "yes'),
        ("Answer:\n", "yes", "Answer:\nyes"),
    ]:
        start, rest = encoder.pair(prompt, answer)
        assert start + rest == tokenizer(text).input_ids
        assert tokenizer.decode(start + rest) == text


def test_the_prompt_is_encoded_alike_with_and_without_an_answer(tokenizer: Any) -> None:
    encoder = TextEncoder(tokenizer)
    for prompt, answer in [("The capital is", "Rome"), ("A trailing space ", "word"), ("dial +", "1"), ("pre", "fix")]:
        assert encoder.pair(prompt, answer)[0] == encoder.prompt(prompt)


def test_a_merge_across_the_boundary_leaves_the_prompt_whole(tokenizer: Any) -> None:
    start, rest = TextEncoder(tokenizer).pair("A trailing space ", "word")
    assert tokenizer(" word").input_ids != rest  # joined, the space would belong to the word
    assert tokenizer.decode(start + rest) == "A trailing space word"


def test_a_tokenizer_without_bos_gets_none(tokenizer: Any) -> None:
    assert TextEncoder(tokenizer).leading == ()


def test_bos_comes_once_in_front_and_eos_never_between(bos_tokenizer: Any, tokenizer: Any) -> None:
    encoder = TextEncoder(bos_tokenizer)
    assert encoder.leading == (1,)
    start, rest = encoder.pair("The capital of France is", "Paris")
    assert start + rest == [1, *tokenizer("The capital of France is Paris").input_ids]
    assert encoder.text("Hello")[0] == 1
    assert 2 not in encoder.text("Hello")


def test_scores_of_a_bos_model_are_conditioned_on_bos(bos_tokenizer: Any, tiny_llama: LanguageModel) -> None:
    plain = tiny_llama.logprob(["The capital of France is"], ["Paris"])[0].logprob
    with_bos = LanguageModel(tiny_llama.model, bos_tokenizer)
    other = with_bos.logprob(["The capital of France is"], ["Paris"])[0].logprob
    text = LanguageModel(tiny_llama.model, tiny_llama.tokenizer)
    marked = text.logprob(["<|im_start|>The capital of France is"], ["Paris"])[0].logprob
    assert other == pytest.approx(marked, abs=1e-5)
    assert abs(other - plain) > 1e-3


def test_running_text_of_a_bos_model_counts_its_first_token(bos_tokenizer: Any, tiny_llama: LanguageModel) -> None:
    count = len(tiny_llama.tokenizer("one two three").input_ids)
    assert tiny_llama.text_logprob(["one two three"])[0].tokens == count - 1
    assert LanguageModel(tiny_llama.model, bos_tokenizer).text_logprob(["one two three"])[0].tokens == count


def test_chat_puts_the_prompt_into_the_users_turn(tokenizer: Any) -> None:
    start, rest = TextEncoder(tokenizer, "always").pair("What is the capital of France?", "Paris")
    turn = [{"role": "user", "content": "What is the capital of France?"}]
    expected = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(start) == expected
    assert tokenizer.decode(rest) == "Paris"  # the turn begins without a space


def test_chat_auto_follows_the_tokenizer(tokenizer: Any, bos_tokenizer: Any) -> None:
    assert TextEncoder(tokenizer, "auto").templated
    assert not TextEncoder(bos_tokenizer, "auto").templated
    with pytest.raises(SettingsError, match="no chat template"):
        TextEncoder(bos_tokenizer, "always")
    with pytest.raises(SettingsError, match='did you mean "always"'):
        TextEncoder(tokenizer, "allways")


def test_a_chat_model_answers_in_its_turn(smollm2: LanguageModel) -> None:
    chat = LanguageModel(smollm2.model, smollm2.tokenizer, chat="always")
    assert chat.generate(["What is the capital of France?"]) == ["The capital of France is Paris."]


def test_every_special_token_ends_a_text(tokenizer: Any) -> None:
    assert {0, 1, 2} <= TextEncoder(tokenizer).end_ids  # end of text, turn begins, turn ends


@pytest.mark.parametrize(("prompt", "answer"), [("", "x"), ("  ", "x"), ("x", ""), ("x", "\n")])
def test_empty_prompts_and_answers_are_refused(tokenizer: Any, prompt: str, answer: str) -> None:
    with pytest.raises(RecordError, match="is empty"):
        TextEncoder(tokenizer).pair(prompt, answer)


@pytest.mark.parametrize(
    ("prompt", "answer", "space"),
    [
        ("is", "x", " "),
        ("is ", "x", ""),
        ("is\n", "x", ""),
        ("+", "1", ""),
        ("(", "x", ""),
        ("$", "5", ""),
        ("is", " x", ""),
    ],
)
def test_the_space_before_an_answer(prompt: str, answer: str, space: str) -> None:
    assert space_before(prompt, answer) == space


def test_a_saved_model_keeps_its_chat_template(tiny_llama_folder: Path) -> None:
    assert LanguageModel.load(tiny_llama_folder, chat="always").encoder.templated
