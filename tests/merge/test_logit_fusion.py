"""The method: its settings, what it warns of, and what comes out; see ``tests/decoding`` and ``tests/numerics``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stream_models import QUESTIONS, pico_once

from keeps.contracts import Run, SilentProgress
from keeps.decoding.fusing import FusionCombine
from keeps.decoding.steered import SteeredModel
from keeps.errors import SettingsError
from keeps.jobs.merging import merge
from keeps.merge.logit_fusion import LogitFusion, LogitFusionSettings
from keeps.models import LanguageModel
from keeps.registry import find_method


class Heard(SilentProgress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def fused(tokenizer: Any, expert: str = "gpt2", **settings: Any) -> tuple[SteeredModel, list[str]]:
    large, small = pico_once("llama", tokenizer, 9), pico_once("gpt2", tokenizer)
    heard = Heard()
    run = Run(Path("nowhere"), progress=heard)
    experts = {"task": pico_once(expert, tokenizer, 1)}
    return LogitFusion(LogitFusionSettings(**settings))(large, small, experts, run=run), heard.said


def test_the_settings_reach_the_combination(smollm2: LanguageModel) -> None:
    model, said = fused(smollm2.tokenizer)
    assert (model.combine, said) == (FusionCombine(), [])
    options: dict[str, Any] = {"objective": "forward", "solver": "grid", "alpha_max": 1.5, "step": 0.25, "top": 50}
    model, _ = fused(smollm2.tokenizer, active="all", **options)
    assert model.combine == FusionCombine(active="all", **options)
    assert fused(smollm2.tokenizer, alpha_max=0.05)[0].combine == FusionCombine(alpha_max=0.05, step=0.05)


def test_it_answers_and_gives_every_model_back_as_it_was(smollm2: LanguageModel) -> None:
    model, _ = fused(smollm2.tokenizer, top=100)
    before = [part.fingerprint for part in (model.large, model.small, *model.experts.values())]
    answers = model.answer(QUESTIONS[:2])
    assert all(answer.text for answer in answers)
    assert answers[0].text != model.large.answer(QUESTIONS[:1])[0].text
    assert [part.fingerprint for part in (model.large, model.small, *model.experts.values())] == before


def test_an_expert_of_another_form_than_the_small_base_is_told_of(smollm2: LanguageModel) -> None:
    _, said = fused(smollm2.tokenizer, expert="llama")
    assert len(said) == 1
    assert 'the expert "task" is of another form than gpt2' in said[0]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"step": 0.2}, "takes no steps"),
        ({"solver": "grid", "step": 3.0}, "beyond alpha_max"),
        ({"active": "all"}, "no exact solution"),
        ({"alpha_max": 0.0}, "alpha_max"),
        ({"objective": "backward"}, "objective"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        LogitFusionSettings(**settings)


def test_too_many_experts_for_a_grid_are_refused(smollm2: LanguageModel) -> None:
    one = pico_once("gpt2", smollm2.tokenizer)
    experts = {str(number): pico_once("gpt2", smollm2.tokenizer, 1) for number in range(4)}
    method = LogitFusion(LogitFusionSettings(solver="grid", active="all"))
    with pytest.raises(SettingsError, match="combinations"):
        method(one, one, experts, run=Run(Path("nowhere")))


def test_the_command_says_that_it_merges_no_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not merge files"):
        merge(["a", "b"], method="logit_fusion", out=tmp_path / "out")


def test_listing_it_imports_no_tensor_library() -> None:
    code = "import sys, keeps.merge.logit_fusion; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
    assert find_method("logit_fusion", "merge").card == "logits_fusion"
