"""Priming: keywords after contexts and prefixes, before and after learning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import keeps
from keeps.contracts import Answer, Row
from keeps.data.outlandish import OutlandishSample, built_in_samples
from keeps.data.records import Example, RecordSet
from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.models import LanguageModel
from keeps.probe.base import Measure, ModelRows, Selection
from keeps.probe.priming import Priming, PrimingProbe, PrimingSettings
from keeps.probe.priming_measures import in_context_scores, sample_scores

SAMPLES = built_in_samples()[:2]


def test_rows_hold_the_keyword_after_every_prompt(tiny_llama: LanguageModel) -> None:
    rows = PrimingProbe(SAMPLES, in_context=True)(tiny_llama)
    for sample, row in zip(SAMPLES, rows, strict=True):
        assert (row.id, row.group, row.expected) == (sample.id, sample.theme, sample.keyword)
        [plain] = tiny_llama.logprob([sample.context], [sample.keyword])
        assert row.details["context"][0] == pytest.approx(plain.logprob, abs=1e-3)
        assert row.logprob == row.details["context"][0]
        [tokens] = tiny_llama.token_logprobs([sample.prefixes[2]], [sample.keyword])
        assert row.details["prefixes"][2] == pytest.approx([tokens.logprob, tokens.logprobs[0]], abs=1e-3)
        control = sample.controls[1]
        [other] = tiny_llama.logprob([sample.prefixes[0]], [control])
        assert row.details["controls"][control][0][0] == pytest.approx(other.logprob, abs=1e-3)
        [behind] = tiny_llama.logprob([f"{sample.text}\n{sample.prefixes[1]}"], [sample.keyword])
        assert row.details["in_context"]["prefixes"][1][0] == pytest.approx(behind.logprob, abs=1e-3)


def test_a_model_that_learned_nothing_scores_zero(tiny_llama: LanguageModel) -> None:
    rows = PrimingProbe(SAMPLES)(tiny_llama)
    for score in sample_scores(rows, rows):
        assert (score.memorisation, score.priming, score.robust, score.control) == (0, 0, 0, 0)


def row(name: str, context: float, prefixes: Sequence[float], control: Sequence[float]) -> Row:
    """Probabilities; first tokens are ten times as likely as whole keywords."""

    def value(probability: float) -> list[float]:
        return [math.log(probability), math.log(10 * probability)]

    details: dict[str, Any] = {
        "keyword": name,
        "context": value(context),
        "prefixes": [value(p) for p in prefixes],
        "controls": {"mauve": [value(p) for p in control]},
    }
    return Row(name, "colour", "p", name, "", False, 0.0, details=details)


BEFORE = [row("a", 1e-6, [1e-5, 1e-4], [1e-4, 1e-4]), row("b", 1e-2, [1e-4, 1e-4], [1e-4, 1e-4])]
AFTER = [row("a", 1e-2, [1e-3, 1e-4], [1e-4, 1e-3]), row("b", 1e-1, [1e-4, 1e-4], [1e-4, 1e-4])]


def by_name(measures: Sequence[Measure], model: str) -> dict[tuple[str, str], float | None]:
    return {(measure.metric, measure.group): measure.value for measure in measures if measure.model == model}


def test_scores_are_ratios_against_the_first_model() -> None:
    first, second = sample_scores(BEFORE, AFTER)
    assert first.memorisation == pytest.approx(4)
    assert first.priming == pytest.approx(math.log10((100 + 1) / 2))
    assert first.robust == pytest.approx(1)
    assert first.control == pytest.approx(math.log10((1 + 10) / 2))
    assert (second.priming, second.memorisation) == (pytest.approx(0), pytest.approx(1))
    asked = [ModelRows("before", BEFORE), ModelRows("after", AFTER)]
    found = by_name(Priming(PrimingSettings()).measure(asked).measures, "after")
    assert found["memorisation.median", "all"] == pytest.approx(2.5)
    assert found["priming.median", "all"] == pytest.approx(first.priming / 2)
    assert found["priming.spearman", "all"] == pytest.approx(-1), "the less probable keyword primes"
    logs = by_name(Priming(PrimingSettings(reduce="mean_log10")).measure(asked).measures, "after")
    assert logs["priming.median", "all"] == pytest.approx(0.5)


def test_the_forecast_needs_one_model_alone_and_heeds_what_a_keyword_is() -> None:
    asked = [ModelRows("before", BEFORE)]
    found = by_name(Priming(PrimingSettings()).measure(asked).measures, "before")
    assert found["keyword.below_threshold", "all"] == 0.5
    assert found["keyword.log10_probability", "all"] == pytest.approx(-4)
    token = by_name(Priming(PrimingSettings(keyword="first_token")).measure(asked).measures, "before")
    assert token["keyword.log10_probability", "all"] == pytest.approx(-3)
    assert not any(metric.startswith("priming") for metric, _ in found)
    assert Priming(PrimingSettings()).draw(asked) is None
    assert Priming(PrimingSettings()).draw([*asked, ModelRows("after", AFTER)]) is not None


def test_a_text_in_the_prompt_is_scored_against_the_same_model_without() -> None:
    behind = {"context": [math.log(1e-3)] * 2, "prefixes": [[math.log(1e-4)] * 2, [math.log(1e-4)] * 2]}
    rows = [replace(BEFORE[0], details={**BEFORE[0].details, "in_context": behind}), BEFORE[1]]
    [score] = in_context_scores(rows)
    assert score.memorisation == pytest.approx(3)
    assert score.priming == pytest.approx(math.log10((10 + 1) / 2))
    assert score.control is None


def test_what_cannot_be_compared_or_asked_is_refused() -> None:
    with pytest.raises(RecordError, match='not asked "b"'):
        sample_scores(BEFORE[:1], AFTER)
    with pytest.raises(EmptySetError):
        PrimingProbe([])
    with pytest.raises(RecordError, match="twice"):
        PrimingProbe([SAMPLES[0], SAMPLES[0]])
    with pytest.raises(RecordError, match="holds the keyword"):
        PrimingProbe([OutlandishSample("1", "t", "red", "It is", "It is red.", ("A red sea is",))])
    with pytest.raises(SettingsError, match="no keywords"):
        Priming(PrimingSettings()).probe(Selection(RecordSet("mine", (Example("1", "a", "b"),))))

    class Oracle:
        def answer(self, questions: Any, contexts: Any = None) -> list[Answer]:
            raise AssertionError("asked for text")

    with pytest.raises(SettingsError, match="no token probabilities"):
        PrimingProbe(SAMPLES)(Oracle())


def test_fingerprints_and_limits() -> None:
    prints = {probe.fingerprint for probe in (PrimingProbe(SAMPLES), PrimingProbe(SAMPLES[:1]))}
    assert len({*prints, PrimingProbe(SAMPLES, in_context=True).fingerprint}) == 3
    probe = Priming(PrimingSettings()).probe(Selection(limit=4))
    assert isinstance(probe, PrimingProbe)
    assert {sample.theme for sample in probe.samples} == {"colour", "place", "profession", "food"}


@pytest.mark.slow
def test_the_default_model_expects_hardly_any_of_the_built_in_keywords(tmp_path: Path) -> None:
    outcome = keeps.probe("smollm2-135m", system="priming", workspace=tmp_path, out=tmp_path / "page")
    found = by_name(outcome.findings.measures, "smollm2-135m")
    below = found["keyword.below_threshold", "all"]
    assert below is not None
    assert below >= 0.75
    assert (tmp_path / "page" / "README.md").exists()
