"""Running only what an added vector reaches gives what a plain forward gives, in models of several kinds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pico_models import MAKERS, pico

from keeps.data.edits import Edit
from keeps.models import LanguageModel
from keeps.models.edit_rows import Row, edit_rows, read_rows
from keeps.models.suffixes import FAST, PLAIN, PlainRows, SuffixRows, adds_to_block, reach, rows_to_run

EDITS = (
    Edit("a", "Paris", "Paris is the capital of", "the kingdom of Sweden"),
    Edit("b", "Mongolia", "The capital of Mongolia is", "Darkhan"),
)


def rows_of(model: LanguageModel) -> list[Row]:
    found = edit_rows(model, EDITS, ("Because it rains. ", "The end of a rather long sentence. "))
    return [row for own in found for row in own]


def noise(model: LanguageModel, rows: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(rows, model.model.config.hidden_size, generator=torch.Generator().manual_seed(3))  # type: ignore[union-attr]


@pytest.mark.parametrize("site", ["mlp", "block"])
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_the_fast_way_equals_a_plain_forward(kind: str, site: Any, smollm2: LanguageModel) -> None:
    model = pico(kind, smollm2.tokenizer)
    rows = rows_of(model)
    assert {row.subject for row in rows} > {0}, "one of them begins with its subject"
    for layer in (0, 1, 2):
        assert reach(model, rows, layer, site) == (FAST, "")
        plain, fast = PlainRows(model, rows, layer, site), SuffixRows(model, rows, layer, site)
        torch.testing.assert_close(fast.start(), plain.start(), rtol=1e-4, atol=1e-4)
        vectors = noise(model, len(rows)).requires_grad_()
        found, wanted = fast.run(vectors, (2,)), plain.run(vectors, (2,))
        scale = float(wanted.logits.detach().abs().max())
        torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=1e-4 * scale)
        torch.testing.assert_close(found.subject_states[2], wanted.subject_states[2], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.read_states[2], wanted.read_states[2], rtol=1e-3, atol=1e-3)
        gradients = [torch.autograd.grad(r.logits.log_softmax(-1)[:, 7].sum(), vectors)[0] for r in (found, wanted)]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3 * float(gradients[1].abs().max()))


@pytest.mark.parametrize("site", ["mlp", "block"])
def test_rows_can_be_left_out_and_a_step_leaves_nothing_behind(site: Any, smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    rows = rows_of(model)
    fast = SuffixRows(model, rows, 1, site)
    vectors = noise(model, len(rows))
    first = fast.run(vectors).logits
    torch.testing.assert_close(fast.run(vectors).logits, first, rtol=0, atol=0)
    chosen = [1, 4, 5]
    fast.select(chosen)
    wanted = PlainRows(model, [rows[n] for n in chosen], 1, site).run(vectors[chosen]).logits
    torch.testing.assert_close(fast.run(vectors[chosen]).logits, wanted, rtol=0, atol=1e-4)
    assert all("forward" not in vars(block) for block in fast.blocks)
    assert read_rows(model, rows).logits.equal(read_rows(model, rows).logits)


def test_with_a_zero_vector_rows_read_what_the_model_says(smollm2: LanguageModel) -> None:
    model = pico("gpt2", smollm2.tokenizer)
    rows = rows_of(model)
    found = SuffixRows(model, rows, 1, "mlp").run(torch.zeros(len(rows), 32)).logits
    reads = iter(found)
    for row in rows:
        with torch.no_grad():
            whole = model.model(input_ids=torch.tensor([row.tokens])).logits[0]
        for place in row.reads:
            torch.testing.assert_close(next(reads), whole[place], rtol=1e-3, atol=1e-3)


def test_a_model_that_does_not_agree_is_run_plainly_and_says_why(
    smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pico("llama", smollm2.tokenizer)
    rows = rows_of(model)
    right = SuffixRows._fresh

    def forgetful(self: SuffixRows) -> Any:
        state = right(self)
        state.mask = torch.zeros_like(state.mask)  # the beginnings are hidden
        return state

    monkeypatch.setattr(SuffixRows, "_fresh", forgetful)
    way, reason = reach(model, rows[1:], 1, "block")
    assert way == PLAIN
    assert "logits differ" in reason
    assert type(rows_to_run(model, rows[1:], 1, "block")[0]) is PlainRows


def test_rows_longer_than_a_sliding_window_are_run_plainly(smollm2: LanguageModel) -> None:
    model = pico("gemma3", smollm2.tokenizer)
    edit = Edit("long", "Oslo", "word " * 70 + "Oslo is in", "Sweden")
    rows = edit_rows(model, [edit])[0]
    assert reach(model, rows, 1, "mlp")[0] == PLAIN


@pytest.mark.parametrize(("kind", "adds"), [("llama", True), ("gpt2", True), ("qwen3", True), ("gemma3", False)])
def test_whether_a_norm_follows_the_mlp_is_found_by_trying(kind: str, adds: bool, smollm2: LanguageModel) -> None:
    model = pico(kind, smollm2.tokenizer)
    assert adds_to_block(model, rows_of(model)[1], 1) is adds
