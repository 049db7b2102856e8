"""A steered model asked as a LanguageModel: everything it says against one forward pass a prompt, written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stream_models import QUESTIONS as ALL_QUESTIONS
from stream_models import READ as ALL_READ
from stream_models import pico_once
from torch import Tensor

from keeps.contracts import Question
from keeps.decoding.combine import Combined, ShiftCombine
from keeps.decoding.fusing import FusionCombine
from keeps.decoding.steered import SteeredModel
from keeps.errors import RecordError, SettingsError
from keeps.models import LanguageModel
from keeps.models.scoring import Engine
from keeps.models.stopping import StopRule
from keeps.probe.facts import FactProbe

KINDS = (("llama", "gpt2"), ("llama", "llama"), ("gemma3", "qwen2"))
QUESTIONS, READ = ALL_QUESTIONS[:3], ALL_READ[:3]
ANSWERS = ["Paris", "Tokyo now", "Bangui, they say"]
COMBINE = FusionCombine()


def steered(tokenizer: Any, kinds: tuple[str, str] = KINDS[0], combine: Any = COMBINE) -> SteeredModel:
    large, small = kinds
    experts = {"one": pico_once(small, tokenizer, 1), "two": pico_once(small, tokenizer, 2)}
    return SteeredModel(pico_once(large, tokenizer, 9), pico_once(small, tokenizer), experts, combine)


@torch.no_grad()
def logprobs_after(model: SteeredModel, ids: list[int], first: int = 0) -> Tensor:
    """Log-probabilities at every position from ``first`` on, ``(time, vocabulary)``."""
    parts = [model.large, model.small, *model.experts.values()]
    logits = [part.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, first:].float() for part in parts]
    return model.combine(torch.stack(logits)).scores.log_softmax(-1)


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_answers_are_scored_and_said_as_one_forward_pass_a_model_says(
    kinds: tuple[str, str], smollm2: LanguageModel
) -> None:
    model = steered(smollm2.tokenizer, kinds)
    for found, prompt, answer in zip(model.ask(READ, ANSWERS, max_new_tokens=3), READ, ANSWERS, strict=True):
        context, target = model.encode_pair(prompt, answer)
        logprobs = logprobs_after(model, [*context, *target], len(context) - 1)[:-1]
        assert found.logprob == pytest.approx(float(logprobs.gather(1, torch.tensor([target]).T).sum()), abs=2e-3)
        assert found.greedy is (logprobs.argmax(1).tolist() == target)
        said = list(context)
        for _ in range(3):
            said.append(int(logprobs_after(model, said, len(said) - 1)[-1].argmax()))
        assert found.text == model._ending(3, StopRule(("\n",), sentence=True)).text(said[len(context) :])


def test_choices_texts_and_draws_go_through_the_same_distribution(smollm2: LanguageModel) -> None:
    model = steered(smollm2.tokenizer)
    ranked = model.rank(QUESTIONS[:2], [["Paris", "Rome, I think"], ["Tokyo", "Oslo"]])
    for found, prompt, choices in zip(ranked, QUESTIONS, (("Paris", "Rome, I think"), ("Tokyo", "Oslo")), strict=False):
        wanted = [score.logprob for score in model.logprob([prompt] * 2, choices)]
        assert list(found.logprobs) == pytest.approx(wanted, abs=2e-3)
    ids = model.encoder.text(READ[0])
    [text] = model.text_logprob([READ[0]])
    logprobs = logprobs_after(model, ids)[:-1].gather(1, torch.tensor([ids[1:]]).T)
    assert text.logprob == pytest.approx(float(logprobs.sum()), abs=5e-3)
    [tokens] = model.token_logprobs([""], [READ[0]])
    assert list(tokens.logprobs) == pytest.approx(logprobs.squeeze(1).tolist(), abs=2e-3)
    drawn = model.sample(QUESTIONS[:3], [1, 2, 3], temperature=1.0, max_new_tokens=4)
    assert model.sample(QUESTIONS[1:2], [2], temperature=1.0, max_new_tokens=4) == drawn[1:2]


def test_no_cache_and_small_batches_say_the_same(smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = steered(smollm2.tokenizer)
    wanted = model.ask(READ, ANSWERS, max_new_tokens=4)
    model.tokens_per_batch = 40
    small = model.ask(READ, ANSWERS, max_new_tokens=4)
    monkeypatch.setattr(Engine, "may_cache", lambda *_: False)
    for found in (small, model.ask(READ, ANSWERS, max_new_tokens=4)):
        assert [each.text for each in found] == [each.text for each in wanted]
        assert [each.logprob for each in found] == pytest.approx([each.logprob for each in wanted], abs=2e-3)


def test_a_probe_judges_it_as_any_model(smollm2: LanguageModel) -> None:
    model = steered(smollm2.tokenizer)
    said = model.generate(QUESTIONS[:2], max_new_tokens=12, sentence=True)
    known = [text or "nothing" for text in said]
    questions = [Question(str(n), "keep", (QUESTIONS[n],), (known[n],)) for n in range(2)]
    rows = FactProbe(questions)(model)
    assert all(row.answer.startswith(text) for row, text in zip(rows, said, strict=True))
    assert all(row.logprob is not None and row.logprob < 0 for row in rows)


def test_with_a_combination_that_hears_one_model_it_is_that_model(smollm2: LanguageModel) -> None:
    for number in range(4):
        model = steered(smollm2.tokenizer, combine=lambda logits, n=number: Combined(logits[n]))
        alone = [model.large, model.small, *model.experts.values()][number]
        assert model.generate(READ, max_new_tokens=4) == alone.generate(READ, max_new_tokens=4)
        found, wanted = (each.logprob(READ, ANSWERS) for each in (model, alone))
        assert [each.logprob for each in found] == pytest.approx([each.logprob for each in wanted], abs=1e-3)


def test_static_shifts_serve_too(smollm2: LanguageModel) -> None:
    model = steered(smollm2.tokenizer, combine=ShiftCombine((0.5, 0.0)))
    context, target = model.encode_pair(READ[0], "Paris")
    wanted = logprobs_after(model, [*context, *target], len(context) - 1)[:-1].gather(1, torch.tensor([target]).T)
    assert model.logprob(READ[:1], ["Paris"])[0].logprob == pytest.approx(float(wanted.sum()), abs=1e-3)


def test_decoding_says_what_generating_says_and_notes_every_alpha(smollm2: LanguageModel) -> None:
    model = steered(smollm2.tokenizer)
    found = model.decode(READ, max_new_tokens=5)
    assert [each.text for each in found] == model.generate(READ, max_new_tokens=5)
    assert all(len(alphas) == 2 and max(alphas) <= 2 for each in found for alphas in each.trace["alpha"])


def test_an_expert_may_be_the_small_model_behind_examples_of_its_own(smollm2: LanguageModel) -> None:
    large, small = pico_once("llama", smollm2.tokenizer, 9), pico_once("gpt2", smollm2.tokenizer)
    model = SteeredModel(large, small, {"shown": small}, COMBINE)
    behind = {"shown": READ}
    found = model.decode(QUESTIONS, expert_prompts=behind, max_new_tokens=4)
    assert any(alpha > 0 for each in found for [alpha] in each.trace["alpha"])
    same = model.decode(QUESTIONS, small_prompts=READ, max_new_tokens=4)
    assert all(alpha >= 0 for each in same for [alpha] in each.trace["alpha"])
    for call in (lambda: model.generate(QUESTIONS), lambda: model.decode(QUESTIONS),
                 lambda: model.decode(QUESTIONS, small_prompts=READ, expert_prompts=behind)):  # fmt: skip
        with pytest.raises(SettingsError, match="is the small model itself"):
            call()
    with pytest.raises(SettingsError, match='no expert "math"'):
        model.decode(QUESTIONS, expert_prompts={"math": READ})
    with pytest.raises(RecordError, match="as many prompts"):
        model.decode(QUESTIONS, expert_prompts={"shown": READ[:1]})


def test_nothing_changes_the_models_and_the_fingerprint_knows_them_all(smollm2: LanguageModel) -> None:
    model = steered(smollm2.tokenizer)
    before = [part.fingerprint for part in (model.large, model.small, *model.experts.values())]
    first = model.fingerprint
    model.ask(READ[:2], ANSWERS[:2])
    assert [part.fingerprint for part in (model.large, model.small, *model.experts.values())] == before
    assert model.fingerprint == first
    other = SteeredModel(model.large, model.small, model.experts, FusionCombine("forward"))
    fewer = SteeredModel(model.large, model.small, {"one": model.experts["one"]}, COMBINE)
    assert len({first, other.fingerprint, fewer.fingerprint}) == 3
    assert torch.equal(model.embed(READ[:1]), model.large.embed(READ[:1]))


def test_output_layers_of_different_widths_are_cut_to_the_vocabulary(
    smollm2: LanguageModel, bare_llama: Callable[..., Any]
) -> None:
    wide = LanguageModel(bare_llama(seed=3, vocab_size=49152 + 64), smollm2.tokenizer, name="wide")
    small, expert = (pico_once("gpt2", smollm2.tokenizer, seed) for seed in (0, 1))
    model = SteeredModel(wide, small, {"one": expert}, COMBINE)
    context, target = model.encode_pair(QUESTIONS[0], "Paris")
    with torch.no_grad():
        ids = torch.tensor([[*context, *target]])
        logits = [part.model(input_ids=ids).logits[0, :, :49152].float() for part in (wide, small, expert)]
    scores = COMBINE(torch.stack(logits)).scores[len(context) - 1 : -1]
    wanted = float(scores.gather(1, torch.tensor([target]).T).sum())
    assert model.logprob(QUESTIONS[:1], ["Paris"])[0].logprob == pytest.approx(wanted, abs=2e-3)


def test_other_vocabularies_and_models_without_logits_are_refused(
    smollm2: LanguageModel, bare_llama: Callable[..., Any]
) -> None:
    import copy

    other = copy.deepcopy(smollm2.tokenizer)
    other.add_tokens(["<brand-new>"])
    odd = LanguageModel(bare_llama(vocab_size=49160), other, name="odd")
    one = pico_once("gpt2", smollm2.tokenizer)
    with pytest.raises(SettingsError, match="different vocabularies"):
        SteeredModel(odd, one, {"one": one}, COMBINE)
    with pytest.raises(SettingsError, match="cannot be read step by step"):
        SteeredModel(one, one, {"one": object()}, COMBINE)  # type: ignore[dict-item]
    with pytest.raises(SettingsError, match="no expert"):
        SteeredModel(one, one, {}, COMBINE)
