"""The rows of merges that measure the fine-tunes: each is asked, weighed, and taken back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fine_tune_folders import PROMPTS, fine_tunes, same_bits, state_of
from pico_models import pico

from keeps.claims.base import ClaimRun
from keeps.claims.twin_merging_zoo import WAYS, measured_merges
from keeps.data.records import Example, RecordSet
from keeps.merge.adamerging import AdaMerging, AdaMergingSettings
from keeps.merge.emr import EMR, EMRSettings


def test_each_merge_is_asked_by_task_and_the_model_comes_back(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    tuned, _ = fine_tunes(model, tmp_path)
    facts = {
        task: RecordSet(task, tuple(Example(f"{task}{n}", prompt, "x") for n, prompt in enumerate(prompts[:2])))
        for task, prompts in PROMPTS.items()
    }
    state, marks = state_of(model), []

    def scores(changed: Any, asked: Mapping[str, RecordSet]) -> dict[str, float]:
        marks.append((changed.fingerprint, *asked))
        return dict.fromkeys(asked, 0.5)

    ways = {"adamerging": AdaMerging(AdaMergingSettings(steps=1)), "emr": EMR(EMRSettings())}
    ada, emr = measured_merges(model, tuned, facts, scores, ClaimRun(), ways)
    assert same_bits(model, state)
    assert (ada.static, emr.static) == (True, False)
    assert ada.scores == emr.scores == dict.fromkeys(PROMPTS, 0.5)
    assert [task for _, task in marks] == [*PROMPTS, *PROMPTS]
    assert len({mark for mark, _ in marks[3:]}) == 3, "each task with weights of its own"
    size = 4 * sum(parameter.numel() for parameter in model.model.parameters())
    assert size <= ada.weight < 1.01 * size + 10_000
    assert emr.weight < 1.15 * size


def test_all_methods_of_the_card_that_need_a_model_have_a_row() -> None:
    assert {name.split(",")[0] for name in WAYS} == {"regmean", "fisher", "adamerging", "emr"}
