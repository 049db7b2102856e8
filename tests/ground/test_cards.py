"""Hubs of cards: one base for all adapters, labels on disk, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from card_stubs import card, hub, numbered_card

from keeps.adapt.full import FullFineTuning
from keeps.adapt.lora import LoRA
from keeps.contracts import Run
from keeps.data.records import Passage, RecordSet
from keeps.errors import EmptySetError, InputFileError, SettingsError, StorageError, UnknownNameError
from keeps.ground.cards import CardHub, CardLabel, Consult, KnowledgeCard, Speaking, draw_seed
from keeps.models import LanguageModel
from keeps.models.changes import StoredChange, load_change

SPEAKING = Speaking(max_new_tokens=6)
TEXTS = {"law": "Courts hear cases and judges decide them.", "tea": "Green tea is steeped for two minutes."}


def trained(model: LanguageModel, name: str, folder: Path, method: Any = LoRA) -> StoredChange:
    """A card of a few steps on one sentence."""
    learn = RecordSet(name, (Passage(name, TEXTS[name]),))
    settings = method.Settings.from_mapping({"steps": 5, "learning_rate": 0.05 if method is LoRA else 0.01})
    folder.mkdir()
    method(settings)(model, learn, run=Run(folder))
    return load_change(folder)


@pytest.fixture(scope="module")
def made(tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the cards, and of one that is a whole checkpoint."""
    model, folder = LanguageModel.load(tiny_llama_folder), tmp_path_factory.mktemp("cards")
    found = {name: trained(model, name, folder / name).folder for name in TEXTS}
    return found | {"whole": trained(model, "tea", folder / "whole", FullFineTuning).folder}


@pytest.fixture
def changes(made: dict[str, Path], tmp_path: Path) -> dict[str, StoredChange]:
    return {name: load_change(Path(shutil.copytree(made[name], tmp_path / name))) for name in TEXTS}


def hub_of(changes: dict[str, StoredChange], base: LanguageModel) -> CardHub:
    return CardHub([KnowledgeCard(CardLabel(name, f"about {name}"), change) for name, change in changes.items()], base)


def said(found: Any) -> list[tuple[str, int, str]]:
    return [(item.card, item.draw, item.text) for one in found for item in one.documents]


def test_adapters_share_the_base_and_say_what_each_says_alone_while_the_base_stays_itself(
    tiny_llama: LanguageModel, changes: dict[str, StoredChange]
) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_llama.model.state_dict().items()}
    requests = [Consult("Courts", ("law", "tea"), 2), Consult("Green", ("tea",), 3, first=4)]
    cards = hub_of(changes, tiny_llama)
    applied = said(cards.consult(requests, SPEAKING, 0))  # one after the other put in and taken out
    base = tiny_llama.generate(["Courts"])
    with cards.open():
        assert tiny_llama.generate(["Courts"]) == base
        together = said(cards.consult(requests, SPEAKING, 0))
        assert tiny_llama.generate(["Courts"]) == base
    assert together == applied
    assert [(name, draw) for name, draw, _ in together] == [
        ("law", 1), ("law", 2), ("tea", 1), ("tea", 2), ("tea", 4), ("tea", 5), ("tea", 6)
    ]  # fmt: skip
    for name, change in changes.items():
        model = change.apply(tiny_llama)
        (alone,) = model.sample(
            ["Courts"], [draw_seed(0, "Courts", name, 1)], temperature=1.0, max_new_tokens=6, stop=()
        )
        model.undo()
        assert (name, 1, alone) in together
    after = tiny_llama.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_a_card_says_does_not_hang_on_the_other_cards_or_questions(
    tiny_llama: LanguageModel, changes: dict[str, StoredChange]
) -> None:
    cards = hub_of(changes, tiny_llama)
    whole = said(cards.consult([Consult("Courts", ("law", "tea"), 2), Consult("Green", ("tea",), 2)], SPEAKING, 0))
    left = said(cards.without("law").consult([Consult("Courts", ("tea",), 2)], SPEAKING, 0))
    assert left == whole[2:4]
    assert said(cards.consult([Consult("Courts", ("law",), 2)], SPEAKING, 1)) != whole[:2]


def test_a_checkpoint_beside_an_adapter_is_put_in_and_taken_out(
    tiny_llama: LanguageModel, made: dict[str, Path]
) -> None:
    before = tiny_llama.fingerprint
    cards = hub_of({"law": load_change(made["law"]), "tea": load_change(made["whole"])}, tiny_llama)
    with cards.open():
        found = said(cards.consult([Consult("Green tea", ("law", "tea"), 1)], SPEAKING, 0))
    assert len({text for _, _, text in found}) == 2
    assert tiny_llama.fingerprint == before


def test_a_card_that_fails_leaves_the_base_as_it_was(
    tiny_llama: LanguageModel, changes: dict[str, StoredChange], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, cards = tiny_llama.fingerprint, hub_of(changes, tiny_llama)

    def fail(*args: Any, **options: Any) -> list[str]:
        raise MemoryError

    monkeypatch.setattr(LanguageModel, "sample", fail)
    with pytest.raises(MemoryError), cards.open():
        cards.consult([Consult("Green tea", ("law",), 1)], SPEAKING, 0)
    assert tiny_llama.fingerprint == before
    with pytest.raises(MemoryError):
        cards.consult([Consult("Green tea", ("law",), 1)], SPEAKING, 0)
    assert tiny_llama.fingerprint == before


def test_the_base_of_another_model_is_refused(tiny_llama: LanguageModel, changes: dict[str, StoredChange]) -> None:
    with pytest.raises(SettingsError, match="change of a model"):
        CardHub([KnowledgeCard(CardLabel("law"), changes["law"])])
    with torch.no_grad():
        next(tiny_llama.model.parameters())[0, 0] += 1
    with pytest.raises(StorageError, match="fingerprint"):
        hub_of(changes, tiny_llama)


def test_an_adapter_with_another_tokenizer_is_refused(
    tiny_llama: LanguageModel, changes: dict[str, StoredChange]
) -> None:
    folder = changes["tea"].folder
    tiny_llama.tokenizer.save_pretrained(folder)
    hub_of(changes, tiny_llama)
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    vocabulary = values["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(values))
    with pytest.raises(StorageError, match="another tokenizer"):
        hub_of(changes, tiny_llama)


# --- labels ---------------------------------------------------------------------------------------


def test_a_label_is_read_as_it_was_written_and_leaves_the_folder_whole_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = CardLabel("midterm", "U.S. elections of 2022", "MIT", "0123456789abcdef", "2026-11-28")
    assert CardLabel.read(tmp_path) is None
    label.write(tmp_path)
    assert CardLabel.read(tmp_path) == label

    def full(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises((StorageError, OSError)):
        CardLabel("other").write(tmp_path)
    monkeypatch.undo()
    assert CardLabel.read(tmp_path) == label
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]
    with pytest.raises(StorageError, match="no such folder"):
        label.write(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "[]", '{"name": 3}', '{"name": "a", "colour": "red"}', "{", '{"line": "x"}'])
def test_a_damaged_label_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises((InputFileError, SettingsError)):
        CardLabel.read(tmp_path)


@pytest.mark.parametrize(("name", "line"), [("", "x"), ("a\nb", ""), ("a", "two\nlines"), ("<a>", ""), (" a", "")])
def test_a_label_is_one_plain_line(name: str, line: str) -> None:
    with pytest.raises(SettingsError):
        CardLabel(name, line)


def test_no_card_a_name_twice_and_what_cannot_speak_are_refused() -> None:
    with pytest.raises(EmptySetError, match="no card"):
        hub()
    with pytest.raises(SettingsError, match="same name"):
        hub(numbered_card("law"), numbered_card("Law"))
    with pytest.raises(SettingsError, match="cannot continue"):
        hub(KnowledgeCard(CardLabel("law"), object()))
    with pytest.raises(UnknownNameError, match="law"):
        hub(card("law", lambda *_: "x")).without("lwa")
