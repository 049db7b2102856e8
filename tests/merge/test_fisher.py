"""Fisher merging: the published average, what it is for equal information, and what it leaves as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tune_folders import PROMPTS, fine_tunes, moved, same_bits, state_of, whole_folder
from pico_models import pico

from keeps.contracts import Run, SilentProgress
from keeps.data.records import Example, RecordSet
from keeps.errors import KeepsError, SettingsError
from keeps.merge.fisher import Fisher, FisherSettings
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.fine_tunes import FineTune
from keeps.weights import load_tensors

WORDS = {"sums": "five", "towns": "Norway", "poems": "sick"}


def records_of(task: str, count: int = 3) -> RecordSet:
    """Some of the task's prompts with an answer."""
    examples = tuple(Example(f"{task}{n}", prompt, WORDS[task]) for n, prompt in enumerate(PROMPTS[task][:count]))
    return RecordSet(task, examples)


def with_records(tuned: list[FineTune]) -> list[FineTune]:
    return [FineTune(item.name, item.folder, item.prompts, records_of(item.name)) for item in tuned]


def merged_by(model: LanguageModel, tuned: list[FineTune], folder: Path, **settings: Any) -> dict[str, torch.Tensor]:
    folder.mkdir()
    Fisher(FisherSettings(**settings))(model, tuned, run=Run(folder))
    return load_tensors(folder / "model.safetensors")


@pytest.fixture(scope="module")
def three(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = pico("llama", tokenizer)
    tuned, values = fine_tunes(model, tmp_path_factory.mktemp("fisher"))
    return model, with_records(tuned), values


def informed(monkeypatch: pytest.MonkeyPatch, values: list[dict[str, torch.Tensor]]) -> None:
    """Have each model's information be one of ``values``."""
    each = iter(values)
    monkeypatch.setattr(Fisher, "information", lambda *_: dict(next(each)))


def drawn_information(values: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {name: 1e-5 * torch.rand(value.shape, generator=chance) ** 4 for name, value in values.items()}


@pytest.mark.parametrize("floored", ["all", "first"])
@pytest.mark.parametrize("normalise", [False, True])
def test_every_entry_is_the_average_weighed_by_information(
    floored: str, normalise: bool, three: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tuned, values = three
    information = [drawn_information(each, seed) for seed, each in enumerate(values)]
    informed(monkeypatch, information)
    weights = (1.0, 0.5, 2.0)
    found = merged_by(model, tuned, tmp_path / "run", weights=weights, floored=floored, normalise=normalise)
    for name in values[0]:
        top = bottom = torch.zeros((), dtype=torch.float64)
        for number, (each, fisher, coefficient) in enumerate(zip(values, information, weights, strict=True)):
            raised = fisher[name].double()
            raised = raised.clamp_min(1e-6) if floored == "all" or number == 0 else raised
            norm = sum(float(f.double().square().sum()) for f in fisher.values()) ** 0.5 if normalise else 1.0
            top, bottom = top + coefficient / norm * raised * each[name], bottom + coefficient / norm * raised
        assert torch.allclose(found[name].double(), top / bottom, atol=2e-6), name


def test_equal_information_is_the_plain_average(three: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tuned, values = three
    informed(monkeypatch, [drawn_information(values[0], 5)] * 3)
    found = merged_by(model, tuned, tmp_path / "run")
    for name in values[0]:
        assert torch.allclose(found[name], torch.stack([each[name] for each in values]).mean(0), atol=1e-6), name


def test_real_information_favours_the_model_that_depends_on_an_entry(three: Any, tmp_path: Path) -> None:
    """Rows of the embedding that only one task's texts have are that task's own; unread ones are averaged."""
    model, tuned, values = three
    state = state_of(model)
    found = merged_by(model, tuned, tmp_path / "run", floor=1e-12, examples=2)
    assert same_bits(model, state)
    name = "model.embed_tokens.weight"
    ids = {item.name: set(model.encode_prompt(item.prompts[0])) for item in tuned}
    row = min(ids["towns"] - ids["sums"] - ids["poems"])
    far = [float((found[name][row] - each[name][row]).norm()) for each in values]
    assert far[1] < 0.5 * min(far[0], far[2])
    change = load_change(tmp_path / "run")
    assert set(change.record.measures["fisher_norms"]) == set(PROMPTS)
    assert "sums: texts" in change.record.data
    changed = change.apply(model)
    assert len(changed.generate(["2 + 3 ="])) == 1
    changed.undo()
    assert same_bits(model, state)


def test_a_floor_that_decides_the_merge_is_said(three: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tuned, values = three
    heard: list[str] = []

    class Listening(SilentProgress):
        def message(self, text: str) -> None:
            heard.append(text)

    for number, floor in enumerate((1e-4, 1e-12)):  # the information is at most 1e-5
        informed(monkeypatch, [drawn_information(each, seed) for seed, each in enumerate(values)])
        folder = tmp_path / str(number)
        folder.mkdir()
        run = Run(folder, progress=Listening())
        Fisher(FisherSettings(floor=floor))(model, tuned, run=run)
        assert [text for text in heard if "nearly the plain average" in text] == heard
        assert len(heard) == 1
        assert (max(run.measures["above_floor"].values()) > 0.9) == (floor < 1e-6)


def test_what_no_fine_tune_moved_keeps_the_bits_of_the_base(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    values = [moved(model, seed, skip=("norm", "embed")) for seed in (1, 2)]
    tuned = [
        FineTune(task, whole_folder(model, tmp_path / task, each), (), records_of(task, 1))
        for task, each in zip(("sums", "towns"), values, strict=True)
    ]
    found = merged_by(model, tuned, tmp_path / "run", labels="data")
    base = dict(model.model.named_parameters())
    assert all(torch.equal(found[name], base[name]) for name in base if "norm" in name or "embed" in name)
    assert not torch.equal(found["model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"])


def test_wrong_input_is_refused_before_anything_is_written(three: Any, tmp_path: Path) -> None:
    model, tuned, _ = three
    state = state_of(model)
    bare = FineTune("bare", tuned[0].folder)
    cases: list[tuple[list[FineTune], dict[str, Any], str]] = [
        ([], {}, "no fine-tune"),
        ([tuned[0], bare], {}, "has none"),
        (tuned, {"weights": (1.0, 2.0)}, "2 weights for 3"),
        (tuned, {"weights": (1.0, 0.0, 1.0)}, "not above 0"),
    ]
    for number, (given, settings, message) in enumerate(cases):
        with pytest.raises(KeepsError, match=message):
            merged_by(model, given, tmp_path / str(number), **settings)
        assert list((tmp_path / str(number)).iterdir()) == []
    assert same_bits(model, state)
    for wrong in ({"floor": 0.0}, {"labels": "data", "draws": 2}, {"labels": "other"}):
        with pytest.raises(SettingsError):
            FisherSettings(**wrong)  # type: ignore[arg-type]
