"""Restored runs: nothing, everything and parts put back, the fast way and the plain one, in models of several kinds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pico_models import MAKERS, pico

from keeps.errors import ContextLengthError, EmptySetError, RecordError, TargetError
from keeps.models import LanguageModel
from keeps.models.causal_tracing import (
    ATTENTION,
    KINDS,
    MLP,
    STATE,
    Restoration,
    TracedPrompt,
    embedding_deviation,
    traced_modules,
)
from keeps.models.locate import mlp_outputs, subject_span

PROMPT, SUBJECT = "The city of Ulaanbaatar lies in", "Ulaanbaatar"


def traced(model: LanguageModel, **options: Any) -> TracedPrompt:
    given: dict[str, Any] = {"noise": 1.0, "samples": 3, **options}
    return TracedPrompt(model, PROMPT, SUBJECT, **given)


def some(found: TracedPrompt) -> list[Restoration]:
    places = (found.first, found.last, len(found.tokens) - 1)
    single = [Restoration(kind, (place,), (block,)) for kind in KINDS for place in places for block in range(3)]
    return [*single, Restoration(MLP, (found.last,), (0, 1, 2)), Restoration(ATTENTION, places, (1, 2))]


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_everything_restored_is_the_clean_run_and_nothing_the_corrupted_one(kind: str, smollm2: LanguageModel) -> None:
    found = traced(pico(kind, smollm2.tokenizer))
    token = int(found.clean.argmax())
    clean = float(found.clean[token])
    everywhere = tuple(range(found.first, len(found.tokens)))
    last = len(found.tokens) - 1
    whole = [Restoration(STATE, everywhere, (block,)) for block in range(3)]
    whole.append(Restoration(STATE, (last,), (2,)))  # what the prediction is made of
    restored = found.restored(whole, token)
    torch.testing.assert_close(restored, torch.full_like(restored, clean), rtol=1e-3, atol=0)
    nothing = found.restored(
        [Restoration(STATE, (found.last,), ()), Restoration(STATE, (found.first - 1,), (1,))], token
    )
    torch.testing.assert_close(nothing[0], found.corrupted(token), rtol=1e-4, atol=0)
    # no noise reaches the tokens before the subject
    torch.testing.assert_close(nothing[1], nothing[0], rtol=1e-3, atol=0)
    assert not torch.allclose(nothing[0], torch.tensor(clean), rtol=0.05), "noise changes the answer"


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_the_fast_way_and_the_batch_give_what_one_plain_run_at_a_time_gives(kind: str, smollm2: LanguageModel) -> None:
    model = pico(kind, smollm2.tokenizer)
    fast, plain = traced(model), traced(model, fast=False)
    assert fast.fast
    assert not plain.fast
    token, wanted = int(fast.clean.argmax()), some(fast)
    found = fast.restored(wanted, token)
    torch.testing.assert_close(found, plain.restored(wanted, token), rtol=1e-3, atol=0)
    model.tokens_per_batch = 1  # one row a pass
    alone = traced(model)
    assert alone._rows_at_once(0, 99) == 1
    one_by_one = torch.cat([alone.restored([each], token) for each in wanted])
    torch.testing.assert_close(found, one_by_one, rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_a_restored_run_is_a_forward_pass_with_that_output_replaced(kind: str, smollm2: LanguageModel) -> None:
    """Against hooks written out here, one sample, without batch or cache."""
    model = pico(kind, smollm2.tokenizer)
    found = traced(model, samples=1)
    ids, token = torch.tensor([found.tokens]), 7
    modules = {name: list(own) for name, own in traced_modules(model.model).items()}
    embedding: Any = model.model.get_input_embeddings()  # type: ignore[operator]
    for name, block in ((STATE, 1), (MLP, 1), (ATTENTION, 2)):
        kept: list[torch.Tensor] = []

        def first(output: Any) -> torch.Tensor:
            return output[0] if isinstance(output, tuple) else output

        handle = modules[name][block].register_forward_hook(lambda *given, kept=kept: kept.append(first(given[2])))
        with torch.no_grad():
            model.model(input_ids=ids)
        handle.remove()

        def put(_: Any, __: Any, output: Any, kept: list[torch.Tensor] = kept) -> Any:
            changed = first(output).clone()
            changed[0, found.last] = kept[0][0, found.last]
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        handles = [
            embedding.register_forward_hook(lambda *given: given[2] + found.noise),
            modules[name][block].register_forward_hook(put),
        ]
        with torch.no_grad():
            wanted = model.model(input_ids=ids).logits[0, -1].softmax(-1)[token]
        for each in handles:
            each.remove()
        [restored] = found.restored([Restoration(name, (found.last,), (block,))], token)
        torch.testing.assert_close(restored[0], wanted, rtol=1e-3, atol=0)


def test_without_noise_nothing_has_an_effect(smollm2: LanguageModel) -> None:
    found = traced(pico("llama", smollm2.tokenizer), noise=0.0, samples=1)
    token = int(found.clean.argmax())
    clean = torch.full((len(some(found)), 1), float(found.clean[token]))
    torch.testing.assert_close(found.restored(some(found), token), clean, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.corrupted(token), clean[0], rtol=1e-4, atol=0)


def test_noise_is_of_the_seed_and_the_prompt_and_stands_on_the_subject_alone(smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    one, same, other = traced(model, samples=64), traced(model, samples=64), traced(model, samples=64, seed=1)
    assert torch.equal(one.noise, same.noise)
    assert not torch.equal(one.noise, other.noise)
    inside = one.noise[:, one.first : one.last + 1]
    assert float(inside.std()) == pytest.approx(1, rel=0.05)
    assert int((one.noise != 0).sum()) == inside.numel()
    twice = traced(model, samples=64, noise=2.0)
    torch.testing.assert_close(twice.noise, 2 * one.noise)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_weights_hooks_and_modes_are_as_before(kind: str, smollm2: LanguageModel) -> None:
    model = pico(kind, smollm2.tokenizer)
    model.model.train()
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    found = traced(model)
    found.restored(some(found), 5)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    for module in model.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
        assert module.training


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_mlp_and_attention_are_found_from_the_structure(kind: str, smollm2: LanguageModel) -> None:
    model = pico(kind, smollm2.tokenizer).model
    names = {id(module): name for name, module in model.named_modules()}
    found = traced_modules(model)
    for block, ref in enumerate(mlp_outputs(model)):
        assert names[id(found[MLP][block])] == ref.name.rpartition(".")[0]
        assert names[id(found[ATTENTION][block])].rpartition(".")[2] in ("attn", "self_attn")
        assert names[id(found[STATE][block])] == names[id(found[MLP][block])].rpartition(".")[0]


def test_a_model_that_disagrees_with_the_fast_way_is_run_whole(
    smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pico("llama", smollm2.tokenizer)
    from keeps.models import causal_tracing

    real = causal_tracing.entered_with
    monkeypatch.setattr(causal_tracing, "entered_with", lambda below, states, **more: real(below, 2 * states, **more))
    assert not traced(model).fast
    monkeypatch.undo()
    assert not traced(model).fast, "tried once a model"
    assert traced(pico("llama", smollm2.tokenizer)).fast


def test_the_span_of_a_subject_goes_from_its_first_to_its_last_token(smollm2: LanguageModel) -> None:
    first, last = subject_span(smollm2.encoder, PROMPT, SUBJECT)
    tokens = smollm2.encode_prompt(PROMPT)
    assert last > first
    assert smollm2.tokenizer.decode(tokens[first : last + 1]).strip() == SUBJECT
    assert subject_span(smollm2.encoder, "Oslo is in", "Oslo")[0] == 0


def test_the_deviation_is_that_of_the_embeddings_of_all_subjects(smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    prompts, subjects = [PROMPT, "Oslo is in"], [SUBJECT, "Oslo"]
    tokens = [t for text in (" Ulaanbaatar", "Oslo") for t in model.tokenizer(text).input_ids]
    weight: Any = model.model.get_input_embeddings().weight  # type: ignore[operator]
    assert embedding_deviation(model, prompts, subjects) == pytest.approx(
        float(weight[tokens].detach().std()), rel=1e-5
    )
    with pytest.raises(EmptySetError):
        embedding_deviation(model, [], [])


def test_what_cannot_be_traced_is_refused(smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    with pytest.raises(RecordError, match="does not name the subject"):
        TracedPrompt(model, PROMPT, "Oslo", noise=1.0, samples=1)
    with pytest.raises(ContextLengthError):
        TracedPrompt(model, f"{'word ' * 200}Oslo is", "Oslo", noise=1.0, samples=1)
    for block in model.model.model.layers:  # type: ignore[union-attr]
        block.mlp = torch.nn.Identity()
    with pytest.raises(TargetError, match="no MLP"):
        traced_modules(model.model)
