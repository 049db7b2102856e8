"""Reading and training: rounds as written out by hand, both memories, known and distant supervision."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.pairs import QA, ReadingExample, masked_passage
from keeps.errors import EmptySetError, RecordError
from keeps.models.pair_reader import PairReader, as_pair, as_question
from keeps.training.pair_reading import (
    GlobalMemory,
    LocalMemory,
    PairReadingSettings,
    Read,
    batches,
    read,
    retrieval_loss,
    train_pair_reader,
)

PAIRS = [
    QA("Where was Ada born?", "London", "ada"),
    QA("Where was Bob born?", "Leeds", "bob"),
    QA("Who employs Ada?", "Opticorp", "work"),
    QA("Where is Opticorp?", "Leeds", "seat"),
]
TEXTS = ["Ada was born in London.", "Bob was born in Leeds.", "question: Where is the employer of Ada?"]
RUN = Run(Path())


@pytest.fixture
def reader() -> PairReader:
    return PairReader.untrained([*TEXTS, *map(as_pair, PAIRS)] * 2, width=16, heads=2, vocabulary=450)


def whole(reader: PairReader) -> GlobalMemory:
    return GlobalMemory(reader, PAIRS, reader.keys([pair.question for pair in PAIRS]))


def states_of(encoder: object, reader: PairReader, text: str) -> Tensor:
    ids = torch.tensor([reader.tokenizer(text).input_ids])
    return encoder(input_ids=ids).last_hidden_state  # type: ignore[operator]


def test_two_rounds_are_what_the_equations_say(reader: PairReader) -> None:
    memory = whole(reader)
    with torch.no_grad():
        found = read(reader, [TEXTS[2], "Ada"], memory, k=2, rounds=2)
        states = states_of(reader.model.encoder, reader, TEXTS[2])
        scores = states[0, 0] @ memory.keys.T  # s_i = h_X . k_i
        first = scores.argsort(descending=True)[:2].tolist()
        weights = [math.exp(float(scores[place])) for place in first]
        parts = [states] + [
            weight / sum(weights) * states_of(reader.memory_encoder, reader, as_pair(PAIRS[place]))
            for place, weight in zip(first, weights, strict=True)
        ]
        query = reader.model.encoder(inputs_embeds=torch.cat(parts, dim=1)).last_hidden_state[0, 0]
        again = (query @ memory.keys.T).index_fill(0, torch.tensor(first), -torch.inf)
    assert found.places[0][0].tolist() == first
    assert found.weights[0][0].tolist() == pytest.approx([w / sum(weights) for w in weights], abs=1e-5)
    assert found.places[1][0].tolist() == again.argsort(descending=True)[:2].tolist()
    assert sorted(first + found.places[1][0].tolist()) == [0, 1, 2, 3]  # none twice
    keep = found.mask[0].bool()
    h_1 = torch.cat(parts, dim=1)
    assert torch.allclose(found.states[0][keep][: h_1.shape[1]], h_1[0], atol=1e-4)


def test_a_local_memory_is_that_of_the_frozen_encoder_with_gradients(reader: PairReader) -> None:
    local, frozen = LocalMemory(reader, PAIRS), whole(reader)
    assert torch.allclose(local.keys, frozen.keys, atol=1e-5)
    places = torch.tensor([[0, 3]])
    (ours, mask), (theirs, other) = local.values(places), frozen.values(places)
    for n in range(2):
        assert torch.allclose(ours[0, n][mask[0, n].bool()], theirs[0, n][other[0, n].bool()], atol=1e-5)
    assert local.keys.requires_grad
    assert ours.requires_grad
    assert not frozen.keys.requires_grad
    assert not theirs.requires_grad


def test_hidden_pairs_are_never_read_and_k_beyond_the_memory_reads_all(reader: PairReader) -> None:
    memory = whole(reader)
    with torch.no_grad():
        found = read(reader, ["Ada", "Bob"], memory, k=2, hidden=[["ada", "work"], []])
        assert sorted(found.places[0][0].tolist()) == [1, 3]
        everything = read(reader, ["Ada"], memory, k=50, rounds=3)
    assert [len(places[0]) for places in everything.places] == [4]


@pytest.mark.parametrize("weigh", [True, False])
def test_hidden_pairs_are_not_read_where_k_is_more_than_what_may_be_seen(reader: PairReader, weigh: bool) -> None:
    memory = whole(reader)
    seen = GlobalMemory(reader, PAIRS[1:], memory.keys[1:])
    with torch.no_grad():
        hidden = read(reader, ["Ada"], memory, k=4, weigh=weigh, hidden=[["ada"]])
        without = read(reader, ["Ada"], seen, k=4, weigh=weigh)
        losses = [float(reader.loss(found.states, found.mask, ["London"])) for found in (hidden, without)]
        nothing = read(reader, ["Ada"], memory, k=4, weigh=weigh, hidden=[[pair.id for pair in PAIRS]])
    assert int(hidden.mask.sum()) == int(without.mask.sum())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert int(nothing.mask.sum()) == int(reader.states(["Ada"])[1].sum())


def test_what_a_text_reads_does_not_depend_on_the_texts_beside_it(reader: PairReader) -> None:
    memory = whole(reader)
    with torch.no_grad():
        beside = read(reader, ["Ada", " ".join(TEXTS * 3)], memory, k=1, rounds=3)
        alone = read(reader, ["Ada"], memory, k=1, rounds=3)
    for number in range(3):
        assert torch.allclose(beside.scores[number][0], alone.scores[number][0], atol=1e-4)
        assert beside.places[number][0].tolist() == alone.places[number][0].tolist()


def test_supervision_is_by_known_pairs_else_by_the_answer_else_none(reader: PairReader) -> None:
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    found = Read(torch.zeros(1, 1, 16), torch.ones(1, 1), [scores])
    memory = whole(reader)

    def loss(example: ReadingExample, candidates: int | None = 3) -> float:
        return float(retrieval_loss(found, [example], memory, candidates))

    # B: the three best and the known one, which is the fourth
    known = ReadingExample("x", "Leeds", relevant=(("seat",),))
    assert loss(known) == pytest.approx(math.log(sum(math.exp(s) for s in (4, 3, 2, 1))) - 1, abs=1e-5)
    # "Leeds" is the answer of the second and the fourth, of which the second is a candidate
    distant = ReadingExample("x", "leeds")
    assert loss(distant) == pytest.approx(math.log(sum(math.exp(s) for s in (4, 3, 2))) - 3, abs=1e-5)
    assert loss(ReadingExample("x", "Leeds", hidden=("bob",))) == 0.0
    assert loss(ReadingExample("x", "Paris")) == 0.0
    assert loss(distant, None) == 0.0  # a local memory knows what it came from
    second = Read(found.states, found.mask, [scores, scores])
    early = ReadingExample("x", "Leeds", relevant=(("ada",),))
    both = math.log(sum(math.exp(s) for s in (4, 3, 2)))
    assert float(retrieval_loss(second, [early], memory, 3)) == pytest.approx(2 * both - 4 - 3, abs=1e-5)


def test_stage_one_learns_to_find_and_freezes_what_it_learned(reader: PairReader) -> None:
    passages = [masked_passage(TEXTS[0], PAIRS[:1]), masked_passage(TEXTS[1], PAIRS[1:2])]
    settings = PairReadingSettings(steps=30, batch_size=2, learning_rate=1e-2, k=1)
    before = reader.fingerprint
    run = Run(Path())
    losses = train_pair_reader(reader, passages, settings, run)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert len(run.curves) == 30
    assert reader.fingerprint != before
    found = read(reader, [passage.text for passage in passages], whole(reader), k=2)
    assert found.scores[0][:, :2].argmax(dim=1).tolist() == [0, 1]


def test_with_a_global_memory_keys_stay_and_the_run_repeats_itself(reader: PairReader) -> None:
    examples = [ReadingExample(as_question("Birthplace of Ada?"), "London"), ReadingExample("question: Bob?", "Leeds")]
    settings = PairReadingSettings(steps=4, batch_size=1, k=2, rounds=2)
    before = reader.fingerprint
    losses = train_pair_reader(reader, examples, settings, RUN, memory=whole(reader))
    assert reader.fingerprint == before
    again = PairReader.untrained([*TEXTS, *map(as_pair, PAIRS)] * 2, width=16, heads=2, vocabulary=450)
    assert train_pair_reader(again, examples, settings, RUN, memory=whole(again)) == losses


def test_every_pass_takes_all_examples_in_another_order() -> None:
    examples = [ReadingExample(str(n), "y") for n in range(7)]
    drawn = batches(examples, 3, seed=1)
    first, second = ([next(drawn) for _ in range(3)] for _ in range(2))
    assert [len(batch) for batch in first] == [3, 3, 1]
    orders = [[example.text for batch in rounds for example in batch] for rounds in (first, second)]
    assert sorted(orders[0]) == sorted(orders[1]) == [str(n) for n in range(7)]
    assert orders[0] != orders[1]


def test_examples_that_cannot_teach_are_refused(reader: PairReader) -> None:
    settings = PairReadingSettings(steps=1)
    with pytest.raises(EmptySetError):
        train_pair_reader(reader, [], settings, RUN)
    with pytest.raises(RecordError, match="brings no pair"):
        train_pair_reader(reader, [ReadingExample("x", "y")], settings, RUN)
    with pytest.raises(RecordError, match="not in the memory"):
        train_pair_reader(reader, [ReadingExample("x", "y", relevant=(("z",),))], settings, RUN, memory=whole(reader))
