"""A trained reader with its memory: an edit changes what is read at once, and the folder holds it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from keeps.contracts import Run
from keeps.data.pairs import QA, masked_passage
from keeps.errors import EmptySetError, RecordError, SettingsError, StorageError, UnknownNameError
from keeps.ground.qamat import FACTS, MEMORY, QAMAT, ReaderEmbedder, asked
from keeps.models.pair_reader import PairReader, as_question
from keeps.retrieval.qa_memory import QAMemory
from keeps.training.pair_reading import PairReadingSettings

PEOPLE = {"ada": "London", "bob": "Leeds", "cem": "Izmir", "dan": "Dublin"}
PAIRS = [QA(f"Where was {name} born?", city, name) for name, city in PEOPLE.items()]
TEXTS = [f"{name} was born in {city}." for name, city in PEOPLE.items()]
RUN = Run(Path())
SIZES: dict[str, Any] = {"width": 32, "heads": 2, "vocabulary": 450}


def tiny() -> QAMAT:
    return QAMAT.untrained(PAIRS, [*TEXTS, *TEXTS], **SIZES)


@pytest.fixture(scope="module")
def taught() -> QAMAT:
    """Trained for seconds on all it will be asked: for what follows from training, not for how well it generalises."""
    model = tiny()
    passages = [masked_passage(text, [pair]) for text, pair in zip(TEXTS, PAIRS, strict=True)]
    settings = PairReadingSettings(steps=60, batch_size=4, learning_rate=1e-2, k=2)
    model.pretrain(passages, "local", settings, run=RUN)
    questions = [asked(f"Birthplace of {name}?", city, [name]) for name, city in PEOPLE.items()]
    model.finetune(questions, settings, run=RUN)
    return model


def test_it_learns_to_answer_and_cites_the_pair_that_says_it(taught: QAMAT) -> None:
    answers = taught.ask([f"Birthplace of {name}?" for name in PEOPLE], max_new_tokens=4)
    assert [answer.text for answer in answers] == list(PEOPLE.values())
    assert [answer.citations for answer in answers] == [(name,) for name in PEOPLE]
    evidence = answers[0].trace["evidence"][0]
    assert (evidence[0]["id"], evidence[0]["answer"], len(evidence)) == ("ada", "London", 2)
    assert sum(item["weight"] for item in evidence) == pytest.approx(1.0, abs=1e-5)
    assert {"stop": "answered", "unsupported": False, "retrievals": 1}.items() <= answers[0].trace.items()
    assert taught.k == 2  # as it was trained


def test_the_keys_are_those_of_the_memory_encoder_after_every_stage(taught: QAMAT) -> None:
    fresh = taught.reader.keys([pair.question for pair in PAIRS]).numpy().astype(np.float16)
    assert np.allclose(taught.memory.keys.astype(np.float32), fresh.astype(np.float32), atol=1e-2)
    assert taught.memory.encoder.fingerprint == taught.reader.fingerprint


def test_an_edited_pair_is_what_is_read_next_and_a_deleted_one_is_not_read(taught: QAMAT, tmp_path: Path) -> None:
    taught.save(tmp_path / "model")
    model = QAMAT.load(tmp_path / "model")
    before = model.memory.keys.copy()
    model.memory.update("ada", answer="Izmir")
    (answer,) = model.ask(["Birthplace of ada?"], max_new_tokens=4)
    assert answer.trace["evidence"][0][0]["answer"] == "Izmir"
    assert np.array_equal(before, model.memory.keys)
    model.memory.delete("ada")
    (answer,) = model.ask(["Birthplace of ada?"], k=4, max_new_tokens=4)
    assert "ada" not in [item["id"] for item in answer.trace["evidence"][0]]
    model.memory.delete(["bob", "cem", "dan"])
    with pytest.raises(EmptySetError, match="no pair"):
        model.ask(["Birthplace of ada?"])


def test_a_saved_model_answers_the_same_and_its_memory_is_edited_by_itself(taught: QAMAT, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    taught.save(folder)
    found = QAMAT.load(folder)
    questions = ["Birthplace of bob?", "Where was cem born?"]
    ours, theirs = taught.ask(questions), found.ask(questions)
    assert [answer.text for answer in ours] == [answer.text for answer in theirs]
    assert [answer.trace["evidence"] for answer in ours] == [answer.trace["evidence"] for answer in theirs]
    memory = QAMemory.open(folder / MEMORY, encoder=ReaderEmbedder(found.reader))
    memory.update("bob", answer="Dublin")
    memory.save()
    assert QAMAT.load(folder).memory.get("bob").answer == "Dublin"
    with pytest.raises(StorageError, match="exists"):
        taught.save(folder)
    taught.save(folder, replace_old=True)
    assert QAMAT.load(folder).memory.get("bob").answer == "Leeds"


def test_a_save_that_fails_leaves_the_old_folder(
    taught: QAMAT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    taught.save(folder)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for place in (PairReader, QAMemory):
        with monkeypatch.context() as patch:
            patch.setattr(place, "save" if place is PairReader else "copy_to", full)
            with pytest.raises(StorageError):
                taught.save(folder, replace_old=True)
        assert len(QAMAT.load(folder).memory) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_folders_that_do_not_belong_together_are_refused(taught: QAMAT, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no trained reader"):
        QAMAT.load(tmp_path)
    taught.save(tmp_path / "a")
    other = QAMAT.untrained(PAIRS, TEXTS, seed=1, **SIZES)
    other.save(tmp_path / "b")
    (tmp_path / "a" / MEMORY).rename(tmp_path / "old")
    (tmp_path / "b" / MEMORY).rename(tmp_path / "a" / MEMORY)
    with pytest.raises(SettingsError, match="the keys were made by"):
        QAMAT.load(tmp_path / "a")
    (tmp_path / "b" / FACTS).write_text('{"format": 9}')
    with pytest.raises(StorageError, match="format 9"):
        QAMAT.load(tmp_path / "b")


def test_refresh_makes_the_querys_encoder_that_of_the_keys(taught: QAMAT, tmp_path: Path) -> None:
    taught.save(tmp_path / "model")
    model = QAMAT.load(tmp_path / "model")
    questions = [pair.question for pair in PAIRS]
    queries = ReaderEmbedder(model.reader).queries(questions)
    assert not np.allclose(queries, model.memory.keys, atol=1e-2)  # fine-tuning moved the query alone
    model.refresh()
    assert np.allclose(queries, model.memory.keys.astype(np.float32), atol=2e-2)


def test_what_is_wrong_is_refused() -> None:
    model = tiny()
    with pytest.raises(UnknownNameError, match="no stage"):
        model.pretrain([], "both", run=RUN)  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="question is empty"):
        model.ask([""])
    with pytest.raises(SettingsError):
        QAMAT(model.reader, rounds=0)
    with pytest.raises(EmptySetError):
        QAMAT(model.reader).finetune([asked("q", "a")], run=RUN)


def test_more_rounds_read_more_pairs_and_none_twice() -> None:
    (answer,) = tiny().ask(["Where?"], k=1, rounds=3, max_new_tokens=2)
    read = [item["id"] for own in answer.trace["evidence"] for item in own]
    assert len(read) == len(set(read)) == answer.trace["retrievals"] == 3


def test_an_example_of_a_question_is_written_as_the_encoder_reads_questions() -> None:
    example = asked(" Where? ", "London", ["a"], ["b", "c"], hidden=["d"])
    assert (example.text, example.relevant, example.hidden) == (as_question("Where?"), (("a",), ("b", "c")), ("d",))
    assert torch.is_grad_enabled()
