"""States of contexts are those that transformers computes, wherever a batch puts them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stream_models import READ, pico_once

from keeps.errors import TargetError
from keeps.models import LanguageModel
from keeps.models.context_states import Site, watching
from keeps.models.projection import read_positions
from keeps.retrieval.context_keys import keyed


def expected(model: LanguageModel, ids: list[int], site: Site) -> torch.Tensor:
    """The state behind the last of ``ids``: one row, no cache; the input of the MLP from a hook on the MLP itself."""
    inner: Any = model.model
    blocks = inner.transformer.h if hasattr(inner, "transformer") else inner.model.layers
    seen: list[torch.Tensor] = []
    mlp = blocks[-1 if site.layer is None else site.layer].mlp
    handle = mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        out = inner(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    handle.remove()
    return seen[0][0, -1] if site.kind == "ffn" else out.hidden_states[-1][0, -1]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "qwen3"])
@pytest.mark.parametrize("site", [Site(), Site("ffn", 0), Site("output")], ids=str)
def test_states_are_those_of_the_whole_model(kind: str, site: Site, smollm2: LanguageModel) -> None:
    model = pico_once(kind, smollm2.tokenizer)
    rows = [model.encode_prompt(text) for text in READ[:3]]
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    last = torch.zeros_like(mask, dtype=torch.bool)
    last[range(3), [len(row) - 1 for row in rows]] = True
    with torch.no_grad(), watching(model.model, site) as states:
        read_positions(model.model, ids, mask, last)
        found = states.at(last)
    wanted = torch.stack([expected(model, row, site) for row in rows])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert found.shape == (3, site.width(model.model))


def test_nothing_is_watched_afterwards_and_what_is_not_there_is_refused(smollm2: LanguageModel) -> None:
    model = pico_once("llama", smollm2.tokenizer)
    module, before = Site().module(model.model)
    with watching(model.model, Site()):
        assert module._forward_pre_hooks
    assert before
    assert not module._forward_pre_hooks
    for site in (Site("ffn", 3), Site("output", 1), Site("attention")):
        with pytest.raises(TargetError):
            site.module(model.model)


def test_every_token_of_a_text_but_the_first_has_a_context_and_a_place(smollm2: LanguageModel) -> None:
    model = pico_once("llama", smollm2.tokenizer)
    text = "Zarenholm is the capital of Veltria, naïve reader. " * 12  # longer than the context of 128
    found = keyed(model, text)
    ids = model.encoder.text(text)
    assert list(found.tokens) == ids[1:]
    assert len(found.windows) > 1
    assert [text[start:end] for start, end in found.places[:4]] == ["aren", "hol", "m", " is"] or found.places[0][0] > 0
    assert "".join(text[start:end] for start, end in found.places) == text[found.places[0][0] :]
