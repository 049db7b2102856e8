"""The reader of pairs: keys of questions alone, states token by token, a memory encoder that stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from keeps.data.pairs import QA
from keeps.errors import EmptySetError, ModelLoadError, RecordError, SettingsError, StorageError
from keeps.models import pair_reader
from keeps.models.pair_reader import MEMORY_ENCODER, PairReader, as_pair, as_question, learned_tokenizer

PAIRS = [QA("Where was Ada born?", "London", "a"), QA("Who employs Bob?", "Opticorp of the north", "b")]
TEXTS = [as_pair(pair) for pair in PAIRS] * 2


def tiny(seed: int = 0, **sizes: int) -> PairReader:
    return PairReader.untrained(TEXTS, **{"width": 16, "heads": 2, "vocabulary": 450, "seed": seed, **sizes})


def test_a_key_is_the_first_state_of_the_question_alone_and_padding_does_not_reach_it() -> None:
    reader = tiny()
    keys = reader.keys([pair.question for pair in PAIRS])
    for pair, key in zip(PAIRS, keys, strict=True):
        ids = torch.tensor([reader.tokenizer(f"question: {pair.question}").input_ids])
        with torch.no_grad():
            states = reader.memory_encoder(input_ids=ids).last_hidden_state
        assert torch.allclose(key, states[0, 0], atol=1e-5)
    assert torch.equal(reader.keys(["Where was Ada born?"])[0], reader.keys([" Where was Ada born? "])[0])
    assert reader.keys([]).shape == (0, 16)


def test_values_are_states_of_question_and_answer_and_change_with_the_answer_only() -> None:
    reader = tiny()
    values, mask = reader.values([PAIRS])
    with torch.no_grad():
        for place, pair in enumerate(PAIRS):
            ids = torch.tensor([reader.tokenizer(as_pair(pair)).input_ids])
            states = reader.memory_encoder(input_ids=ids).last_hidden_state[0]
            assert int(mask[0, place].sum()) == len(states)
            assert torch.allclose(values[0, place, : len(states)], states, atol=1e-5)
    edited = QA(PAIRS[0].question, "Leeds", "a")
    assert not torch.allclose(reader.values([[edited]])[0][0, 0, 0], values[0, 0, 0])
    assert torch.equal(reader.values([[PAIRS[0]]])[0][0, 0], values[0, 0, : int(mask[0, 0].sum())])


def test_of_a_long_pair_the_first_tokens_are_read_and_few_values_stay_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = tiny(pair_tokens=4)
    assert reader.values([PAIRS])[0].shape == (1, 2, 4, 16)
    monkeypatch.setattr(pair_reader, "HOT", 1)
    assert reader.values([PAIRS])[0].shape == (1, 2, 4, 16)
    assert list(reader.hot) == [PAIRS[1]]


def test_training_moves_the_query_and_not_the_keys_until_they_are_frozen_anew() -> None:
    reader = tiny()
    before, first = reader.keys(["Who?"]), reader.fingerprint
    with torch.no_grad():
        reader.model.encoder.block[0].layer[0].SelfAttention.q.weight.add_(0.1)
        reader.model.shared.weight.mul_(1.5)
    assert torch.equal(reader.keys(["Who?"]), before)
    assert reader.fingerprint == first
    reader.values([PAIRS])
    reader.freeze()
    assert not torch.equal(reader.keys(["Who?"]), before)
    assert reader.fingerprint != first
    assert not reader.hot


def test_the_loss_is_the_mean_cross_entropy_of_the_targets_tokens_given_what_is_read() -> None:
    reader = tiny()
    targets = ["London", "Opticorp of the north"]
    with torch.no_grad():
        states, mask = reader.states([as_question("Where?"), as_question("Who employs Bob?")])
        total, count = 0.0, 0
        for row, target in enumerate(targets):
            ids = reader.tokenizer(target).input_ids
            inputs = torch.tensor([[0, *ids[:-1]]])
            read = {"encoder_hidden_states": states[row, None], "encoder_attention_mask": mask[row, None]}
            hidden = reader.model.decoder(input_ids=inputs, **read).last_hidden_state
            logits = (hidden * 16**-0.5) @ reader.model.shared.weight.T
            total -= float(logits[0].log_softmax(-1)[range(len(ids)), ids].sum())
            count += len(ids)
        assert float(reader.loss(states, mask, targets)) == pytest.approx(total / count, rel=1e-5)


def test_a_saved_reader_says_the_same_and_keeps_the_old_memory_encoder(tmp_path: Path) -> None:
    reader = tiny()
    with torch.no_grad():
        reader.model.shared.weight.mul_(1.5)  # the query's encoder has learned on
    reader.save(tmp_path)
    found = PairReader.load(tmp_path)
    assert found.fingerprint == reader.fingerprint
    assert torch.equal(found.keys(["Who?"]), reader.keys(["Who?"]))
    with torch.no_grad():
        ours, theirs = reader.states(["question: Who?"])[0], found.states(["question: Who?"])[0]
    assert torch.equal(ours, theirs)
    mask = torch.ones(1, ours.shape[1], dtype=torch.long)
    assert found.say(theirs, mask, 5) == reader.say(ours, mask, 5)
    (tmp_path / MEMORY_ENCODER).write_bytes(b"no tensors")
    with pytest.raises(StorageError):
        PairReader.load(tmp_path)
    with pytest.raises(ModelLoadError):
        PairReader.load(tmp_path / "nowhere")


def test_the_same_seed_gives_the_same_reader_and_every_text_can_be_written() -> None:
    assert tiny(1).fingerprint == tiny(1).fingerprint != tiny(2).fingerprint
    tokenizer = learned_tokenizer(TEXTS, 450)
    assert tokenizer.decode(tokenizer("Zürich 東京 x!").input_ids, skip_special_tokens=True).strip() == "Zürich 東京 x!"
    assert len(tokenizer("<extra_id_3>").input_ids) == 2  # one mark, and the end of the text


def test_what_cannot_be_read_or_made_is_refused() -> None:
    with pytest.raises(RecordError, match="item 2"):
        tiny().states(["a", " "])
    with pytest.raises(EmptySetError):
        learned_tokenizer([], 400)
    with pytest.raises(SettingsError, match="heads share"):
        tiny(width=10, heads=3)
    with pytest.raises(SettingsError, match="no encoder-decoder"):
        PairReader(torch.nn.Linear(2, 2), None)
