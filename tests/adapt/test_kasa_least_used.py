"""KaSA without the directions that data use least: the contract again, what is spared, and what is refused."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import keeps.adapt.kasa as module
from keeps.adapt.kasa import KaSASettings, removed_parts, wrap_kasa
from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.data.select import load_records
from keeps.errors import SettingsError
from keeps.models.calibration import calibration_sequences
from keeps.models.targets import find_targets

SMALL: dict[str, Any] = {"rank": 2, "targets": "q_proj,v_proj,mlp.down_proj", "truncation": "least_used"}


def test_its_folder_loads_in_plain_peft(contract: Any) -> None:
    contract.check_folder("kasa", **SMALL)


def test_what_is_removed_is_less_on_the_data_than_what_the_paper_removes(contract: Any, tmp_path: Path) -> None:
    layers = find_targets(contract.model.model, KaSASettings.from_mapping(SMALL).targets)
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in layers}

    def note(name: str, _: torch.nn.Module, args: Any) -> None:
        inputs[name].append(args[0].detach())

    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()]
    for sequence in calibration_sequences(
        contract.model, contract.learn, tokens=module.SAMPLE_TOKENS, answers=True, seed=0
    ):
        contract.model.model(torch.tensor([sequence]))
    for hook in hooks:
        hook.remove()
    lost: dict[str, list[float]] = {}
    for truncation in ("paper", "least_used"):
        settings = KaSASettings.from_mapping({**SMALL, "truncation": truncation})
        parts = removed_parts(contract.model, settings, Run(tmp_path), contract.learn)
        lost[truncation] = [
            sum(
                float((settings.scaling * part.b @ (part.a @ x.double().reshape(-1, x.shape[-1]).T)).square().sum())
                for x in inputs[name]
            )
            for name, part in parts.items()
        ]
    assert all(ours <= theirs for ours, theirs in zip(lost["least_used"], lost["paper"], strict=True))
    assert sum(lost["least_used"]) < 0.9 * sum(lost["paper"])


def test_it_is_the_keep_set_that_is_spared_where_there_is_one(
    contract: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = module.removed_parts
    monkeypatch.setattr(module, "removed_parts", lambda *args: seen.append(args[-1]) or real(*args))
    keep = RecordSet("keep", contract.learn.records[:3])
    method = module.KaSA(KaSASettings.from_mapping({**SMALL, "steps": 1}))
    for number, given in enumerate((keep, None)):
        folder = tmp_path / str(number)
        folder.mkdir()
        change = method(contract.model, contract.learn, given, run=Run(folder))
        assert ("keep" in change.record.data) == (given is keep)
    assert seen == [keep, contract.learn]


def test_without_anything_to_find_it_on_it_is_refused(contract: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="least_used"):
        wrap_kasa(contract.model, KaSASettings.from_mapping(SMALL), Run(tmp_path))


@pytest.mark.slow
def test_the_default_model_survives_it_and_not_the_removal_of_its_smallest_components(tmp_path: Path) -> None:
    from keeps.models.language_model import LanguageModel

    model = LanguageModel.load()
    text = load_records("text")
    held_out = [passage.text[:400] for passage in text.part("validation").passages()[:3]]

    def perplexity() -> float:
        scores = model.text_logprob(held_out)
        return math.exp(-sum(score.logprob for score in scores) / sum(score.tokens for score in scores))

    found = {"base": perplexity()}
    for truncation in ("paper", "least_used"):
        settings = KaSASettings.from_mapping({"rank": 8, "targets": "v_proj", "truncation": truncation})
        (tmp_path / truncation).mkdir()
        wrapped = wrap_kasa(
            model, settings, Run(tmp_path / truncation), RecordSet("text", text.part("train").records[:12])
        )
        found[truncation] = perplexity()
        wrapped.unwrap()
    assert found["least_used"] < 1.05 * found["base"]
    assert found["paper"] > 10 * found["base"]
