"""Blocks, down-projections and subjects are found from structure, in models of several kinds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pico_models import MAKERS, pico

from keeps.data.edits import Edit
from keeps.errors import RecordError, TargetError
from keeps.models import LanguageModel
from keeps.models.edit_rows import captured, edit_rows
from keeps.models.locate import blocks, checked_layer, first_blocks, mlp_outputs, subject_end
from keeps.models.tokens import TextEncoder


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_the_down_projection_is_what_the_mlp_gives(kind: str, smollm2: LanguageModel) -> None:
    model = pico(kind, smollm2.tokenizer)
    refs = mlp_outputs(model.model)
    assert len(refs) == len(blocks(model.model)) == 3
    for ref in refs:
        assert ref.transposed == (kind == "gpt2")
        assert (ref.out_features, ref.in_features) == (32, 32 if kind == "gpt2" else 48)
        assert model.model.get_submodule(ref.name) is ref.module
        assert ref.name.rsplit(".", 1)[1] == ("c_proj" if kind == "gpt2" else "down_proj")
        assert ".mlp." in ref.name
        with (
            torch.no_grad(),
            captured({0: ref.module}, inputs=True) as keys,
            captured({0: ref.module}) as values,
        ):
            model.model(input_ids=torch.tensor([[5, 6, 7]]))
        bias = getattr(ref.module, "bias", None)
        wanted = keys[0] @ ref.matrix.T + (0 if bias is None else bias)
        torch.testing.assert_close(values[0], wanted)


def test_the_first_blocks_alone_give_what_the_whole_model_gives_there(smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        whole = model.model(input_ids=ids, output_hidden_states=True).hidden_states[2]
        with first_blocks(model.model, 2):
            assert len(blocks_left(model)) == 2
            seen: list[Any] = []
            handle = blocks_left(model)[1].register_forward_hook(lambda *given: seen.append(given[2]))
            model.model(input_ids=ids)
            handle.remove()
    part = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert torch.equal(part, whole)
    assert len(blocks(model.model)) == 3


def blocks_left(model: LanguageModel) -> Any:
    return model.model.model.layers  # type: ignore[union-attr]


def test_a_layer_out_of_range_is_refused() -> None:
    assert checked_layer(2, 3) == 2
    with pytest.raises(TargetError, match="choose 0 to 2"):
        checked_layer(3, 3)


def test_quantised_weights_and_adapters_are_refused(smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    layer = mlp_outputs(model.model)[1].module
    layer.weight = torch.nn.Parameter(torch.zeros(8, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TargetError, match="quantised"):
        mlp_outputs(model.model)
    model = pico("llama", smollm2.tokenizer)
    model.model.model.layers[0].mlp.base_layer = torch.nn.Linear(2, 2)  # type: ignore[union-attr]
    with pytest.raises(TargetError, match="carries an adapter"):
        mlp_outputs(model.model)


@pytest.mark.parametrize(
    ("text", "subject", "holds"),
    [
        ("The capital of Mongolia is", "Mongolia", "olia"),
        ("Oslo is the capital of", "Oslo", "o"),
        ("Paris, they say, is where Paris lies in", "Paris", "Paris"),
        ("The mother tongue of danielle darrieux is", "Danielle Darrieux", "x"),
        ("What is Curaçao's capital", "Curaçao", "o"),
    ],
)
def test_the_subject_ends_in_the_token_of_its_last_character(
    smollm2: LanguageModel, text: str, subject: str, holds: str
) -> None:
    tokens = smollm2.encode_prompt(text)
    place = subject_end(smollm2.encoder, text, subject)
    assert smollm2.tokenizer.decode([tokens[place]]).strip().endswith(holds[-1])
    before = smollm2.tokenizer.decode(tokens[:place])
    after = smollm2.tokenizer.decode(tokens[: place + 1])
    end = text.casefold().rfind(subject.casefold()) + len(subject)
    assert len(before) < end <= len(after)


def test_positions_count_leading_tokens_and_the_chat_template(smollm2: LanguageModel) -> None:
    encoder = TextEncoder(smollm2.tokenizer, "always")
    text = "The capital of Mongolia is"
    place = subject_end(encoder, text, "Mongolia")
    plain = subject_end(smollm2.encoder, text, "Mongolia")
    assert encoder.prompt(text)[place] == smollm2.encode_prompt(text)[plain]


@pytest.mark.parametrize(
    ("text", "subject", "holds"),
    [
        ("Die große Hauptstraße in Berlin liegt in", "Berlin", "Berlin"),
        ("Gauß was born in", "GAUSS", "ß"),
        ("İzmir and Ankara lie in", "Ankara", "ara"),
    ],
)
def test_letters_that_grow_when_cases_are_compared_do_not_move_the_subject(
    smollm2: LanguageModel, text: str, subject: str, holds: str
) -> None:
    place = subject_end(smollm2.encoder, text, subject)
    assert smollm2.tokenizer.decode([smollm2.encode_prompt(text)[place]]).strip() == holds
    rows = edit_rows(smollm2, [Edit("a", subject, text, "x")])[0]
    assert smollm2.tokenizer.decode(rows[-1].tokens).endswith(f"{holds} is a")


def test_a_chat_template_may_take_spaces_around_the_prompt_away(smollm2: LanguageModel) -> None:
    tokenizer = copy.copy(smollm2.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}U: {{ m.content | trim }}\nA:{% endfor %}"
    encoder = TextEncoder(tokenizer, "always")
    text = "  The capital of Mongolia is "
    place = subject_end(encoder, text, "Mongolia")
    assert tokenizer.decode([encoder.prompt(text)[place]]) == " Mongolia"


def test_without_offsets_the_same_token_is_found(smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[tuple[str, str]] = [("The capital of Mongolia is", "Mongolia"), ("Oslo is in", "Oslo")]
    fast = [subject_end(smollm2.encoder, *each) for each in texts]
    slow: Callable[..., None] = lambda *_: None  # noqa: E731
    monkeypatch.setattr("keeps.models.locate._by_offsets", slow)
    assert [subject_end(smollm2.encoder, *each) for each in texts] == fast


def test_a_subject_that_is_not_there_is_refused(smollm2: LanguageModel) -> None:
    with pytest.raises(RecordError, match="does not name the subject"):
        subject_end(smollm2.encoder, "The capital of Mongolia is", "Norway")
    with pytest.raises(RecordError, match="is empty"):
        subject_end(smollm2.encoder, "The capital of Mongolia is", " ")
