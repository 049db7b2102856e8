from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from stream_models import QUESTIONS, READ, pico_once, two_streams
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from keeps.decoding.combine import CADCombine, CKCombine, Combine, Combined, leading
from keeps.decoding.engine import decode_in_step
from keeps.decoding.processor import StreamProcessor
from keeps.decoding.streams import Stream
from keeps.errors import ContextLengthError, RecordError, SettingsError
from keeps.models import LanguageModel

NEW = 6


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, smollm2: LanguageModel) -> LanguageModel:
    return pico_once(request.param, smollm2.tokenizer)


def generate(model: LanguageModel, prompts: Sequence[str], processor: Any, **options: Any) -> list[list[int]]:
    """What transformers' ``generate`` appends, with prompts padded on the left."""
    tokenizer = model.tokenizer
    rows = [model.encode_prompt(prompt) for prompt in prompts]
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": pad, "eos_token_id": -1, **options}
    processors = LogitsProcessorList([] if processor is None else [processor])
    found: Any = getattr(model.model, "generate")(ids, attention_mask=mask, logits_processor=processors, **options)  # noqa: B009
    return found[:, width:].tolist()


def processor_of(model: LanguageModel, prompts: Sequence[str], combine: Combine, new: int = NEW) -> StreamProcessor:
    return StreamProcessor([Stream.of(model, prompts)], combine, max_new_tokens=new)


@pytest.mark.parametrize("items", [1, len(READ)])
@pytest.mark.parametrize("combine", [CKCombine("adaptive"), CKCombine(0.1, "code"), CADCombine(1.0)], ids=repr)
def test_generate_with_the_processor_says_what_the_engine_says(
    items: int, combine: Combine, model: LanguageModel
) -> None:
    processor = processor_of(model, QUESTIONS[:items], combine)
    found = generate(model, READ[:items], processor)
    engine = decode_in_step(two_streams(model, items), combine, max_new_tokens=NEW)
    assert found == [spoken.tokens for spoken in engine]
    for name, steps in processor.trace.items():
        for item in range(items):
            expected = pytest.approx(list(map(float, engine[item].trace[name])), abs=1e-4)
            assert [float(step[item]) for step in steps] == expected


def test_a_processor_may_serve_one_text_after_another(model: LanguageModel) -> None:
    processor = processor_of(model, QUESTIONS, CADCombine(1.0))
    assert generate(model, READ, processor) == generate(model, READ, processor)


class Recomputed(LogitsProcessor):
    """The same combination without any cache: the other prompts and all that was said are fed again at each step."""

    def __init__(self, model: LanguageModel, prompts: Sequence[str], combine: Combine, beams: int) -> None:
        self.rows = [model.encode_prompt(prompt) for prompt in prompts for _ in range(beams)]
        self.model, self.combine, self.begun = model, combine, 0

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.begun = self.begun or input_ids.shape[1]
        said = input_ids[:, self.begun :].tolist()
        fed = [torch.tensor([[*row, *tail]]) for row, tail in zip(self.rows, said, strict=True)]
        other = torch.cat([self.model.model(input_ids=row).logits[:, -1] for row in fed])
        return self.combine(torch.stack([scores.float(), other.float()])).scores.log_softmax(-1)


@pytest.mark.parametrize("combine", [CKCombine("adaptive", "code"), CADCombine(1.0)], ids=repr)
def test_beams_are_followed_when_their_rows_change_places(combine: Combine, model: LanguageModel) -> None:
    ours = generate(model, READ[:3], processor_of(model, QUESTIONS[:3], combine), num_beams=4)
    theirs = generate(model, READ[:3], Recomputed(model, QUESTIONS[:3], combine, 4), num_beams=4)
    assert ours == theirs


def test_beams_of_equal_first_prompts_keep_their_own_second_prompts(model: LanguageModel) -> None:
    same, combine = [READ[0]] * 2, CADCombine(2.0)
    ours = generate(model, same, processor_of(model, QUESTIONS[:2], combine), num_beams=3)
    assert ours == generate(model, same, Recomputed(model, QUESTIONS[:2], combine, 3), num_beams=3)


def test_the_leading_combination_changes_nothing(model: LanguageModel) -> None:
    assert generate(model, READ, processor_of(model, QUESTIONS, leading)) == generate(model, READ, None)


def test_several_samples_of_a_prompt_have_a_row_each(model: LanguageModel) -> None:
    torch.manual_seed(0)
    processor = processor_of(model, QUESTIONS[:2], CKCombine("adaptive"))
    found = generate(model, READ[:2], processor, do_sample=True, num_return_sequences=3)
    assert len(found) == 6
    assert len(set(map(tuple, found))) > 2


def test_what_it_cannot_follow_is_refused(model: LanguageModel) -> None:
    with pytest.raises(RecordError, match="nothing to decode"):
        StreamProcessor([], leading, max_new_tokens=1)
    with pytest.raises(ContextLengthError):
        processor_of(model, QUESTIONS, leading, 200)
    with pytest.raises(SettingsError, match="3 rows and there are 2 prompts"):
        generate(model, READ[:3], processor_of(model, QUESTIONS[:2], leading))
    with pytest.raises(SettingsError, match="more than the 2 tokens"):
        generate(model, READ[:2], processor_of(model, QUESTIONS[:2], leading, 2))


def test_rows_that_go_on_from_nowhere_are_refused(model: LanguageModel) -> None:
    processor = processor_of(model, QUESTIONS[:2], leading)
    scores = torch.zeros(2, 49152)
    processor(torch.tensor([[1, 2], [1, 3]]), scores)
    with pytest.raises(SettingsError, match="row 2"):
        processor(torch.tensor([[1, 2, 7], [9, 9, 7]]), scores)
    with pytest.raises(SettingsError, match="became"):
        processor(torch.tensor([[1, 2, 7, 7, 7], [1, 3, 7, 7, 7]]), scores)


def test_another_model_of_the_same_vocabulary_may_steer(smollm2: LanguageModel, bare_llama: Callable[..., Any]) -> None:
    first = pico_once("llama", smollm2.tokenizer)
    other = LanguageModel(bare_llama(seed=5, vocab_size=49152 + 64), smollm2.tokenizer)

    def follow_the_other(logits: Tensor) -> Combined:
        return Combined(logits[1])

    processor = StreamProcessor([Stream.of(other, QUESTIONS)], follow_the_other, max_new_tokens=NEW)
    expected = decode_in_step(
        [Stream.of(first, READ), Stream.of(other, QUESTIONS)], follow_the_other, max_new_tokens=NEW
    )
    assert generate(first, READ, processor) == [spoken.tokens for spoken in expected]
