"""Values are found edit by edit as if each were alone, by the published loss, inside the ball."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pico_models import pico

from keeps.data.edits import Edit
from keeps.errors import TrainingError
from keeps.models import LanguageModel
from keeps.models.edit_rows import END, LOCALITY, SUBJECT, edit_rows, own_prefixes, read_rows
from keeps.models.suffixes import PlainRows
from keeps.training.value_objectives import ORIGINAL_FROM_EDITED, Problem, Seen, StateFact
from keeps.training.value_vectors import Search, _seen, find_values

EDITS = (
    Edit("a", "Paris", "Paris is the capital of", "the kingdom of Sweden"),
    Edit("b", "Mongolia", "The capital of Mongolia is", "Darkhan"),
    Edit("c", "zinc", "The symbol of zinc is", "Qx"),
)
SEARCH = Search(1, "mlp", steps=6, learning_rate=0.1, decay=1e-3, clamp=4.0, stop_loss=0.05)


@pytest.fixture(scope="module")
def model(smollm2: LanguageModel) -> LanguageModel:
    return pico("llama", smollm2.tokenizer)


def rows_of(model: LanguageModel, edits: Any = EDITS) -> Any:
    return edit_rows(model, edits, ("Because it rains. ",))


def test_the_divergence_is_read_behind_the_text_or_at_its_subject(model: LanguageModel) -> None:
    search, objective = replace(SEARCH, steps=1), StateFact(kl_weight=50.0)
    found = {}
    for place in (END, SUBJECT):
        (rows,) = edit_rows(model, EDITS[:1], essence_at=place)
        row = rows[-1]
        assert row.kind == LOCALITY
        assert row.reads == (row.subject if place == SUBJECT else len(row.tokens) - 1,)
        found[place] = find_values(model, EDITS[:1], [rows], search, objective)[0].loss
        value = find_values(model, EDITS[:1], [rows[:-1]], search, objective)[0]  # no divergence: its first step
        plain = PlainRows(model, [row], 1, "mlp")
        with torch.no_grad():
            before = plain.run(torch.zeros(1, 32)).logits.log_softmax(-1)
            after = plain.run(value.delta[None]).logits.log_softmax(-1)
        moved = float((after.exp() * (after - before)).sum())
        assert found[place] == pytest.approx(value.loss + 50 * moved, rel=1e-3)
    assert found[END] != pytest.approx(found[SUBJECT], rel=1e-2)


@pytest.mark.parametrize("site", ["mlp", "block"])
def test_edits_side_by_side_get_what_each_gets_alone(model: LanguageModel, site: Any) -> None:
    search = Search(1, site, 6, 0.1, 1e-3, 4.0, 0.05)
    together = find_values(model, EDITS, rows_of(model), search, StateFact())
    for edit, found in zip(EDITS, together, strict=True):
        alone = find_values(model, [edit], rows_of(model, [edit]), search, StateFact())[0]
        torch.testing.assert_close(found.delta, alone.delta, rtol=1e-3, atol=1e-3)
        assert found.loss == pytest.approx(alone.loss, rel=1e-3)
        assert found.steps == alone.steps == 6


def test_many_edits_in_several_batches_come_back_in_order(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = find_values(model, EDITS, rows_of(model), SEARCH, StateFact())
    monkeypatch.setattr("keeps.training.value_vectors.TOKENS_AT_ONCE", {"cpu": 1, "cuda": 1})
    parts = find_values(model, EDITS, rows_of(model), SEARCH, StateFact())
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.delta, other.delta, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("direction", ["edited_original", ORIGINAL_FROM_EDITED])
def test_the_loss_is_the_published_one(model: LanguageModel, direction: str) -> None:
    rows = [row for own in rows_of(model) for row in own]
    problem = Problem(model, EDITS, rows, 1, "mlp")
    loss_of = StateFact(0.5, direction)(problem)
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        reading = PlainRows(model, rows, 1, "mlp").run(vectors[[row.edit for row in rows]])
        found = loss_of(_seen(reading, problem, range(len(rows)), range(3)))
        before = read_rows(model, rows).logits.log_softmax(-1)
        after = reading.logits.log_softmax(-1)
    wanted, first = [[], [], []], 0  # type: ignore[var-annotated]
    local = [0.0, 0.0, 0.0]
    for row in rows:
        own, old = after[first : first + len(row.reads)], before[first : first + len(row.reads)]
        first += len(row.reads)
        if row.kind == LOCALITY:
            p, q = (own, old) if direction == "edited_original" else (old, own)
            local[row.edit] = float((p.exp() * (p - q)).sum())
        else:
            wanted[row.edit].append(-sum(float(own[t, token]) for t, token in enumerate(row.targets)) / len(row.reads))
    for edit in range(3):
        assert float(found[edit]) == pytest.approx(sum(wanted[edit]) / 2 + 0.5 * local[edit], rel=1e-4)


def test_the_ball_the_decay_and_the_early_stop_are_kept(model: LanguageModel) -> None:
    tight = Search(1, "mlp", 6, 0.5, 1e-3, 0.3, 0.0)
    for value in find_values(model, EDITS, rows_of(model), tight, StateFact()):
        assert float(value.delta.norm()) <= 0.3 * float(value.start.norm()) * (1 + 1e-5)
    lazy = find_values(model, EDITS, rows_of(model), Search(1, "mlp", 6, 0.1, 1e-3, 4.0, 1e9), StateFact())
    assert [value.steps for value in lazy] == [0, 0, 0]
    assert all(not value.delta.any() for value in lazy)
    levels = sorted(value.loss for value in lazy)
    middle = (levels[0] + levels[1]) / 2  # one edit is done at once, the others go on
    some = find_values(model, EDITS, rows_of(model), Search(1, "mlp", 3, 0.1, 0.0, 4.0, middle), StateFact())
    assert sum(value.steps == 0 for value in some) == 1
    free = find_values(model, EDITS[:1], rows_of(model, EDITS[:1]), SEARCH, StateFact())[0]
    held = find_values(
        model, EDITS[:1], rows_of(model, EDITS[:1]), Search(1, "mlp", 6, 0.1, 1e4, 4.0, 0.05), StateFact()
    )[0]
    assert float(held.delta.norm()) < float(free.delta.norm())


@pytest.mark.parametrize("plainly", [False, True])
def test_in_bfloat16_nearly_the_same_value_is_found_and_the_model_is_given_back(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, plainly: bool
) -> None:
    if plainly:
        monkeypatch.setattr("keeps.training.value_vectors.rows_to_run", lambda *a: (PlainRows(*a), "asked for"))
    before, rows = model.fingerprint, rows_of(model)
    exact = find_values(model, EDITS, rows, SEARCH, StateFact())
    rounded = find_values(model, EDITS, rows, replace(SEARCH, precision="bfloat16"), StateFact())
    for one, other in zip(exact, rounded, strict=True):
        assert other.delta.dtype == torch.float32
        assert torch.equal(one.start, other.start)  # v_0 is not rounded
        assert not torch.equal(one.delta, other.delta)
        assert float(torch.cosine_similarity(one.delta, other.delta, dim=0)) > 0.95
    assert model.fingerprint == before
    assert not any("forward" in vars(module) for module in model.model.modules())


def within_reach(model: LanguageModel, edit: Edit) -> Edit:
    """``edit`` towards one of the likelier tokens: a random model cannot be made to say just anything."""
    likely = read_rows(model, edit_rows(model, [edit], essence=False)[0]).logits[0].argsort(descending=True)
    for token in likely[1:].tolist():
        text = model.tokenizer.decode([token]).strip()
        if text.isalpha() and model.encode_pair(edit.prompt, text)[1] == [token]:
            return replace(edit, target_new=text)
    raise AssertionError("no token is a word")


def test_an_early_stop_counts_from_when_the_answer_comes_first(model: LanguageModel) -> None:
    edits = [within_reach(model, edit) for edit in EDITS]
    rows = edit_rows(model, edits)
    plain: Any = {"learning_rate": 0.1, "decay": 0.0, "clamp": 100.0, "stop_loss": 0.0}

    def ranked(number: int, after: int) -> bool:
        """Whether after so many steps the target comes first, by a plain forward."""
        row = rows[number][0]
        value = find_values(model, edits, rows, Search(1, "mlp", after, **plain), StateFact())[number]
        logits = PlainRows(model, [row], 1, "mlp").run(value.delta[None]).logits
        return logits.argmax(1).tolist() == list(row.targets)

    for more in (0, 3):
        early = find_values(model, edits, rows, Search(1, "mlp", 20, stop_after=more, **plain), StateFact())
        assert sum(value.steps < 20 for value in early) == 2, "two answers come first in time, the third does not"
        for number, value in enumerate(early):
            first = value.steps - more
            if value.steps < 20:
                assert ranked(number, first)
                assert not ranked(number, first - 1)
            else:
                assert not ranked(number, 19 - more)


def test_an_answer_comes_first_when_it_does_at_every_token_behind_every_prompt() -> None:
    """Two edits: of the first one token of one prompt is missed; what follows "is a" does not count."""
    logprobs = torch.eye(5).log_softmax(-1)[[0, 1, 2, 3, 4]]
    target, edit = torch.tensor([0, 4, 2, 3, -1]), torch.tensor([0, 0, 1, 1, 1])
    row = torch.zeros(5)
    seen = Seen(logprobs, torch.arange(5), edit, 2, row, target, torch.arange(2), torch.tensor([0, 1]))
    assert seen.ranked_first() == [False, True]


def test_the_loss_falls_and_the_model_is_left_as_it_was(model: LanguageModel) -> None:
    before, flags = model.fingerprint, [p.requires_grad for p in model.model.parameters()]
    start = find_values(model, EDITS, rows_of(model), Search(1, "mlp", 1, 1e-6, 0.0, 4.0, 0.0), StateFact())
    end = find_values(model, EDITS, rows_of(model), Search(1, "mlp", 20, 1.0, 0.0, 100.0, 0.05), StateFact())
    assert all(b.loss < a.loss - 0.2 for a, b in zip(start, end, strict=True))
    assert model.fingerprint == before
    assert [p.requires_grad for p in model.model.parameters()] == flags
    assert all(p.grad is None for p in model.model.parameters())


def test_a_loss_that_is_no_number_is_refused_by_name(model: LanguageModel) -> None:
    class Broken:
        def states(self, model: LanguageModel, layer: int) -> tuple[int, ...]:
            del model, layer
            return ()

        def __call__(self, problem: Problem) -> Any:
            broken = torch.tensor([edit.id == "b" for edit in problem.edits])
            return lambda seen: torch.where(broken, torch.nan, seen.nll())

    with pytest.raises(TrainingError, match="edit b"):
        find_values(model, EDITS, rows_of(model), SEARCH, Broken())


def test_an_objective_may_look_at_states(model: LanguageModel) -> None:
    shapes = []

    class Looks(StateFact):
        def states(self, model: LanguageModel, layer: int) -> tuple[int, ...]:
            del model, layer
            return (2,)

        def __call__(self, problem: Problem) -> Any:
            base = super().__call__(problem)

            def loss(seen: Seen) -> Any:
                shapes.append((seen.subject_states[2].shape, seen.read_states[2].shape, len(seen.rows), len(seen.read)))
                return base(seen)

            return loss

    find_values(model, EDITS, rows_of(model), SEARCH, Looks())
    for subject, read, rows, reads in shapes:
        assert (tuple(subject), tuple(read)) == ((rows, 32), (reads, 32))


def test_prefixes_are_the_models_own_and_depend_on_the_seed(model: LanguageModel) -> None:
    first = own_prefixes(model, 2, 2, 0)
    assert len(first) == 4
    assert all(text.endswith(". ") for text in first)
    assert first == own_prefixes(model, 2, 2, 0)
    assert first != own_prefixes(model, 2, 2, 1)
