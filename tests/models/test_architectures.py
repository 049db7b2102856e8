"""The short ways (projection where it is read, cached beginnings) on models that make them hard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from keeps.models import LanguageModel
from keeps.models.generation import CALL_COST
from keeps.models.prefix import plan_prefixes
from keeps.models.projection import Reading, reading_of, selected_logits

SMALL: dict[str, Any] = {"vocab_size": 49152, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
GROUPED: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
HEADS: dict[str, Any] = {**GROUPED, "head_dim": 8}
SHOTS = "red: colour\nfour: number\nParis: city\n" * 8  # long enough for sharing to pay
PROMPTS = [SHOTS + text for text in ("iron:", "a long name of something:", *"xyzuvw")] + ["no shots:"]
ANSWERS = ["metal", "one two three four", "y", "1", "a b c", "d", "e", "f", "the quick brown fox"]


def gemma2(**options: Any) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**{**SMALL, **HEADS, **options}))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=49152, n_embd=32, n_layer=2, n_head=4, n_positions=128))


def mistral() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**SMALL, **HEADS, sliding_window=16))


def granite() -> Any:
    from transformers import GraniteConfig, GraniteForCausalLM

    return GraniteForCausalLM(GraniteConfig(**SMALL, **GROUPED, logits_scaling=4.0))


def bloom() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=49152, hidden_size=32, n_layer=2, n_head=4))


def mamba() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(vocab_size=49152, hidden_size=32, num_hidden_layers=2, state_size=4))


def seeded(make: Callable[[], Any], tokenizer: Any) -> LanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.3)
    return LanguageModel(model, tokenizer)


@torch.no_grad()
def naive(model: LanguageModel, prompt: str, answer: str) -> float:
    start, rest = model.encode_pair(prompt, answer)
    logits = model.model(input_ids=torch.tensor([start + rest])).logits[0].double()
    predicted = logits[-len(rest) - 1 : -1].log_softmax(-1)
    return predicted.gather(1, torch.tensor(rest)[:, None]).sum().item()


@torch.no_grad()
def naive_tokens(model: LanguageModel, prompt: str, count: int) -> str:
    ids = model.encode_prompt(prompt)
    found: list[int] = []
    for _ in range(count):
        found.append(int(model.model(input_ids=torch.tensor([ids + found])).logits[0, -1].argmax()))
        if found[-1] in model.encoder.end_ids:
            break
    return model.tokenizer.decode(found, skip_special_tokens=True).strip()


def check(model: LanguageModel) -> None:
    beginnings = [model.encode_prompt(prompt)[:-1] for prompt in PROMPTS]
    assert max(group.length for group in plan_prefixes(beginnings, call_cost=CALL_COST)) > 50
    expected = [naive(model, prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    assert [s.logprob for s in model.logprob(PROMPTS, ANSWERS)] == pytest.approx(expected, abs=2e-4)
    ranked = model.rank(PROMPTS[:2], [ANSWERS, ANSWERS[::-1]])
    assert ranked[1].logprobs[-2] == pytest.approx(naive(model, PROMPTS[1], ANSWERS[1]), abs=2e-4)
    asked = model.ask(PROMPTS, ANSWERS, max_new_tokens=4, stop=(), sentence=False)
    assert [item.text for item in asked] == [naive_tokens(model, prompt, 4) for prompt in PROMPTS]
    assert [item.logprob for item in asked] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    ("make", "reading"),
    [
        (gemma2, Reading(projection=False, cache=True)),  # soft caps on the logits
        (lambda: gemma2(final_logit_softcapping=None), Reading(projection=True, cache=True)),
        (gpt2, Reading(projection=True, cache=True)),  # learned positions
        (mistral, Reading(projection=True, cache=True)),  # attention to the last 16 tokens only
        (granite, Reading(projection=False, cache=True)),  # logits divided by a constant
        (bloom, None),  # positions by attention bias
        (mamba, None),  # no keys and values at all
    ],
    ids=["gemma2", "gemma2-uncapped", "gpt2", "mistral", "granite", "bloom", "mamba"],
)
def test_every_architecture_gives_the_naive_results(
    make: Callable[[], Any], reading: Reading | None, smollm2: LanguageModel
) -> None:
    model = seeded(make, smollm2.tokenizer)
    if reading is not None:
        assert reading_of(model.model) == reading
    check(model)


def test_a_lora_model_is_scored_through_its_adapter(tiny_llama: LanguageModel) -> None:
    from peft import LoraConfig, get_peft_model

    before = tiny_llama.logprob(PROMPTS, ANSWERS)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = LanguageModel(get_peft_model(tiny_llama.model, config), tiny_llama.tokenizer)
    assert reading_of(model.model) == Reading(projection=True, cache=True)
    check(model)
    after = model.logprob(PROMPTS, ANSWERS)
    assert all(abs(x.logprob - y.logprob) > 1e-3 for x, y in zip(before, after, strict=True))
    with getattr(model.model, "disable_adapter")():  # noqa: B009
        restored = model.logprob(PROMPTS, ANSWERS)
    assert [s.logprob for s in restored] == pytest.approx([s.logprob for s in before], abs=1e-4)


def test_a_prompt_tuned_model_is_scored_with_its_learned_prompt(tiny_llama: LanguageModel) -> None:
    from peft import PromptTuningConfig, TaskType, get_peft_model

    before = tiny_llama.logprob(PROMPTS, ANSWERS)
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3)
    model = LanguageModel(get_peft_model(tiny_llama.model, config), tiny_llama.tokenizer)
    expected = [naive(model, prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    found = [score.logprob for score in model.logprob(PROMPTS, ANSWERS)]
    assert found == pytest.approx(expected, abs=2e-4)
    assert all(abs(x.logprob - y) > 1e-3 for x, y in zip(before, found, strict=True))


def test_half_precision_stays_close_to_float32(tiny_llama: LanguageModel) -> None:
    exact = tiny_llama.logprob(PROMPTS, ANSWERS)
    half = LanguageModel(tiny_llama.model.to(torch.bfloat16), tiny_llama.tokenizer)
    assert reading_of(half.model).cache
    assert [s.logprob for s in half.logprob(PROMPTS, ANSWERS)] == pytest.approx([s.logprob for s in exact], rel=0.05)


def test_selected_logits_are_the_full_ones_and_let_gradients_through(tiny_llama: LanguageModel) -> None:
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 2]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    wanted = torch.tensor([[False, True, False, True], [False, False, True, False]])
    full = tiny_llama.model(input_ids=ids, attention_mask=mask).logits
    found = selected_logits(tiny_llama.model, ids, mask, wanted)
    torch.testing.assert_close(found, full[wanted], atol=1e-4, rtol=1e-4)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in tiny_llama.model.parameters())


def test_the_verdict_on_an_architecture_does_not_depend_on_the_mode(tiny_llama: LanguageModel) -> None:
    tiny_llama.model.get_submodule("model.layers.0.self_attn").attention_dropout = 0.5  # type: ignore[assignment]
    tiny_llama.model.train()
    assert reading_of(tiny_llama.model) == Reading(projection=True, cache=True)
    assert tiny_llama.model.training
