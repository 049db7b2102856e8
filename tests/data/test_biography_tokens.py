"""Biographies of whole words: different names, values in their blocks, new orders, strangers who are strangers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.data.biography_tokens import DOMAIN, END, FIRST_MARKER, QUESTION, TokenBiographies, exposed, with_domain
from keeps.errors import SettingsError

SIZES = {"name_sizes": (4, 5, 6), "attribute_sizes": (7, 8)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 120), st.integers(0, 5))
def test_every_token_lies_in_the_block_of_its_kind(n: int, seed: int) -> None:
    corpus = TokenBiographies(n, seed, **SIZES)  # type: ignore[arg-type]
    starts = [FIRST_MARKER + 2, FIRST_MARKER + 6, FIRST_MARKER + 11, FIRST_MARKER + 17, FIRST_MARKER + 24]
    sizes = (4, 5, 6, 7, 8)
    for column, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        assert bool(((corpus.people[:, column] >= start) & (corpus.people[:, column] < start + size)).all())
    assert corpus.vocabulary == starts[-1] + sizes[-1]
    assert len({tuple(name) for name in corpus.people[:, :3].tolist()}) == n


def test_documents_hold_each_attribute_once_behind_its_marker_in_orders_that_change() -> None:
    corpus = TokenBiographies(50)
    draw = generator()
    first, second = corpus.documents(draw), corpus.documents(draw)
    assert first.shape == (50, 14)
    assert corpus.longest == 15
    assert not torch.equal(first, second)
    for document, person in zip(first.tolist(), corpus.people.tolist(), strict=True):
        assert document[0] == END
        assert document[1:4] == person[:3]
        pairs = dict(zip(document[4::2], document[5::2], strict=True))
        assert pairs == {FIRST_MARKER + place: token for place, token in enumerate(person[3:])}


def test_the_toy_has_the_sizes_of_the_card() -> None:
    corpus = TokenBiographies(300)
    assert corpus.names == 160_000
    assert corpus.vocabulary == 180 + 1063 + 5 + 3


def test_strangers_have_other_names() -> None:
    corpus = TokenBiographies(119, **SIZES)  # type: ignore[arg-type]
    own = {tuple(name) for name in corpus.people[:, :3].tolist()}
    strangers = {tuple(name) for name in corpus.strangers(50, generator())[:, :3].tolist()}
    assert len(strangers) == 1  # of 120 names one is left
    assert not own & strangers
    with pytest.raises(SettingsError, match="every name is taken"):
        TokenBiographies(120, **SIZES).strangers(1, generator())  # type: ignore[arg-type]


def test_exposures_give_everybody_as_often_and_batches_follow_the_seed() -> None:
    rows = exposed(9, 4, generator())
    assert torch.bincount(rows).tolist() == [4] * 9
    assert all(sorted(part.tolist()) == list(range(9)) for part in rows.split(9))
    corpus = TokenBiographies(9)
    one, again, other = (list(corpus.batches(4, 5, seed)) for seed in (1, 1, 2))
    assert [len(batch) for batch in one] == [5] * 7 + [1]
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_domain_tokens_and_questions_stand_where_they_should() -> None:
    corpus = TokenBiographies(5)
    documents = corpus.documents(generator())
    marked = with_domain(documents)
    assert marked[:, :2].tolist() == [[END, DOMAIN]] * 5
    assert torch.equal(marked[:, 2:], documents[:, 1:])
    asked = corpus.questions(torch.tensor([2]), 3)[0].tolist()
    assert asked == [END, QUESTION, *corpus.people[2, :3].tolist(), FIRST_MARKER + 3, int(corpus.people[2, 6])]


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 121, **SIZES}, {"n": 1, "attribute_sizes": (1, 5)}])
def test_impossible_corpora_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError):
        TokenBiographies(**wrong)  # type: ignore[arg-type]
