"""The probe of causal tracing: what is traced and left out, its figures and picture, resuming, refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pico_models import pico

import keeps
from keeps.contracts import Answer, Run
from keeps.errors import EmptySetError, SettingsError, UnknownNameError
from keeps.models import LanguageModel
from keeps.models.causal_tracing import MLP, Restoration, TracedPrompt
from keeps.models.scores import Asked
from keeps.numerics.causal_effects import TOKEN_CLASSES, window
from keeps.probe import causal_tracing
from keeps.probe.base import Measure, ModelRows, Selection
from keeps.probe.causal_tracing import (
    OTHER_BEGINNING,
    WRONG,
    CausalTracing,
    CausalTracingProbe,
    CausalTracingSettings,
)
from keeps.probe.causal_tracing_facts import TracedFact
from keeps.probe.causal_tracing_measures import indirect_effects
from keeps.probe.journal import Journal

ALL_TOKENS = {"tokens": TOKEN_CLASSES, "noise": 30.0}


@pytest.fixture
def model(smollm2: LanguageModel) -> LanguageModel:
    return pico("llama", smollm2.tokenizer)


SUBJECTS = ("Oslo", "Ulaanbaatar", "Lima", "Tashkent", "Paris", "Windhoek", "Bogota", "Antananarivo")


def known_facts(model: LanguageModel, *more: TracedFact) -> list[TracedFact]:
    """Two facts each of two relations, whose answer is the word that the model of random weights finds likeliest.

    The model says this word and no more from now on; random weights would go on within it.
    """
    found: list[TracedFact] = []
    for number, relation in enumerate(("capital", "river"), 1):
        for subject in SUBJECTS:
            prompt = f"The {relation} of {subject} is"
            token = int(TracedPrompt(model, prompt, subject, noise=0.0, samples=1).clean.argmax())
            word = model.tokenizer.decode([token]).strip()
            if word.isalpha() and model.encode_pair(prompt, word)[1] == [token] and len(found) < 2 * number:
                found.append(TracedFact(f"{relation}:{subject}", subject, relation, prompt, (word,)))
    assert [fact.relation for fact in found] == ["capital"] * 2 + ["river"] * 2
    words = {fact.prompt: fact.answers[0] for fact in found}

    def ask(prompts: Sequence[str], answers: Sequence[str], *, advance: Any = None, **_: Any) -> list[Asked]:
        advance(len(prompts))
        return [Asked(words.get(prompt, "no idea"), -1.0, 1, True) for prompt in prompts]

    model.ask = ask  # type: ignore[method-assign]
    return [*found, *more]


def probe_of(facts: Sequence[TracedFact], **settings: Any) -> CausalTracingProbe:
    return CausalTracingProbe(facts, CausalTracingSettings(**{**ALL_TOKENS, **settings}), name="mine")


WRONG_FACT = TracedFact("capital:Bern", "Bern", "capital", "Bern is the capital of", ("Switzerland",))


def test_rows_hold_the_effects_of_what_is_known_and_why_the_rest_is_left_out(model: LanguageModel) -> None:
    facts = known_facts(model, WRONG_FACT)
    rows = probe_of(facts)(model)
    assert [row.id for row in rows] == [fact.id for fact in facts]
    assert [row.correct for row in rows] == [True] * 4 + [False]
    assert rows[-1].details == {"relation": "capital", "subject": "Bern", "left_out": WRONG}
    for fact, row in zip(facts[:4], rows, strict=False):
        trace = row.details["trace"]
        traced = TracedPrompt(model, fact.prompt, fact.subject, noise=trace["noise"], samples=3)
        token = int(traced.clean.argmax())
        assert trace["token"] == model.tokenizer.decode([token])
        assert trace["clean"] == pytest.approx(float(traced.clean[token]), rel=1e-4)
        assert trace["corrupted"] == pytest.approx(float(traced.corrupted(token).mean()), rel=1e-3)
        place = trace["classes"].index("last_subject")
        assert trace["places"][place] == traced.last
        wanted = [Restoration(MLP, (traced.last,), tuple(window(block, 1, 3))) for block in range(3)]
        assert trace["window"] == 1
        found = traced.restored(wanted, token).mean(1).tolist()
        assert trace["restored"]["mlp"][place] == pytest.approx(found, rel=1e-3)
    assert json.loads(json.dumps(rows[0].details)) == rows[0].details


def test_an_answer_that_begins_with_another_word_is_left_out(model: LanguageModel) -> None:
    fact = known_facts(model)[0]
    other = replace(fact, answers=(f'"{fact.answers[0]}',))  # the same answer, which begins with another token
    [row] = probe_of([other])(model)
    assert row.correct
    assert row.details["left_out"] == OTHER_BEGINNING
    [row] = probe_of([replace(fact, answers=(*other.answers, *fact.answers))])(model)
    assert "trace" in row.details, "any accepted answer may begin with it"


def test_figures_are_means_of_the_rows_and_the_picture_is_drawn(model: LanguageModel) -> None:
    rows = probe_of(known_facts(model, WRONG_FACT))(model)
    system = CausalTracing(CausalTracingSettings(**ALL_TOKENS, top=1))
    asked = [ModelRows("pico", rows)]
    findings = system.measure(asked)
    found = by_name(findings.measures)
    traces = [row.details["trace"] for row in rows[:4]]
    assert found["answered", "all"].value == pytest.approx(4 / 5)
    total = [trace["clean"] - trace["corrupted"] for trace in traces]
    assert found["effect.total", "all"].value == pytest.approx(sum(total) / 4)
    assert found["effect.total", "river"].value == pytest.approx(sum(total[2:]) / 2)
    effects = [trace["restored"]["state"][trace["classes"].index("last")][1] - trace["corrupted"] for trace in traces]
    block = found["effect.indirect.state.last", "block 1"]
    assert block.value == pytest.approx(sum(effects) / 4)
    assert block.low <= block.value <= block.high  # type: ignore[operator]
    assert found["block.peak.state.last", "all"].value == 2, "the last state is the prediction"
    assert found["effect.peak.state.last", "all"].value == pytest.approx(sum(total) / 4, rel=1e-3)
    assert "1 answered wrongly" in str(findings.tables[0].note)
    assert [table.title for table in findings.tables][1:] == [
        "Where restoring a clean state helps most",
        "Relative similarity of locations",
    ]
    assert system.draw(asked) is not None
    assert system.draw([ModelRows("one", rows), ModelRows("two", rows)]) is not None
    assert system.draw([ModelRows("none", rows[4:])]) is None


def test_without_noise_no_fact_has_an_effect(model: LanguageModel) -> None:
    rows = probe_of(known_facts(model), noise=0.0, samples=1)(model)
    for kind in ("state", "mlp", "attention"):
        values = indirect_effects(rows, kind, "last_subject")
        assert float(values.abs().max()) < 1e-5


def test_knowledge_neurons_are_above_a_share_of_the_largest_attribution(model: LanguageModel) -> None:
    facts = known_facts(model)[:2]
    few, many = (
        probe_of(facts, located="neurons", share=share, steps=4, kinds=("mlp",), samples=1)(model)
        for share in (0.9, 0.1)
    )
    for a, b in zip(few, many, strict=True):
        strong, all_of_them = ({tuple(pair) for pair in each.details["trace"]["neurons"]} for each in (a, b))
        assert 0 < len(strong) <= len(all_of_them)
        assert strong <= all_of_them


def test_a_killed_probe_goes_on_where_it_stopped(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = probe_of(known_facts(model))
    wanted = probe(model)
    made: list[str] = []

    class Counted(TracedPrompt):
        killed_after: int | None = 2

        def __init__(self, answerer: Any, prompt: str, *args: Any, **options: Any) -> None:
            if len(made) == self.killed_after:
                raise KeyboardInterrupt
            made.append(prompt)
            super().__init__(answerer, prompt, *args, **options)

    monkeypatch.setattr(causal_tracing, "TracedPrompt", Counted)
    with pytest.raises(KeyboardInterrupt), Journal(model, tmp_path / "journal.jsonl") as journal:
        probe(journal)
    Counted.killed_after = None
    with Journal(model, tmp_path / "journal.jsonl") as journal:
        rows = probe(journal)
    assert [row.details for row in rows] == [row.details for row in wanted]
    assert made == [fact.prompt for fact in probe.facts], "nothing was traced twice"


def test_progress_reaches_its_end(model: LanguageModel) -> None:
    amounts: list[float] = []

    class Counting:
        def message(self, text: str) -> None: ...

        def task(self, description: str, total: float | None, done: float = 0) -> Any:
            from contextlib import nullcontext

            class Task:
                def advance(self, amount: float = 1) -> None:
                    amounts.append(amount)

            amounts.append(-(total or 0))
            return nullcontext(Task())

    probe_of(known_facts(model, WRONG_FACT), samples=1)(model, run=Run(Path(), progress=Counting()))
    assert sum(amounts) == pytest.approx(0)


def test_fingerprints_heed_what_changes_the_rows_and_nothing_else() -> None:
    facts = [WRONG_FACT]

    def print_of(**settings: Any) -> str:
        return probe_of(facts, **settings).fingerprint

    assert print_of() == print_of(top=3) == print_of(candidates="subject") == print_of(share=0.5)
    assert (
        len({print_of(), print_of(samples=2), print_of(noise=1.0), print_of(window=2), print_of(kinds=("mlp",))}) == 5
    )
    assert print_of(located="neurons") != print_of(located="neurons", share=0.5)
    other = CausalTracingProbe(facts, CausalTracingSettings(**ALL_TOKENS), name="mine", seed=1)
    assert other.fingerprint != print_of()


def test_a_limit_is_shared_out_over_the_relations() -> None:
    probe = CausalTracing(CausalTracingSettings()).probe(Selection(limit=4))
    assert isinstance(probe, CausalTracingProbe)
    assert [fact.relation for fact in probe.facts] == ["capital"] * 2 + ["country_of_city"] * 2


def test_what_cannot_be_traced_is_refused(model: LanguageModel) -> None:
    class Oracle:
        def answer(self, questions: Any, contexts: Any = None) -> list[Answer]:
            raise AssertionError("asked for text")

    with pytest.raises(SettingsError, match="weights of this answerer are not at hand"):
        probe_of([WRONG_FACT])(Oracle())
    with pytest.raises(EmptySetError, match="answers none of 1 facts"):
        probe_of([WRONG_FACT])(model)
    with pytest.raises(EmptySetError, match="no fact to trace"):
        probe_of([])
    with pytest.raises(UnknownNameError, match='no "neck"'):
        CausalTracingSettings(kinds=("neck",))
    with pytest.raises(UnknownNameError, match='no "middle"'):
        CausalTracingSettings(tokens=("middle",))
    with pytest.raises(SettingsError, match="kinds is empty"):
        CausalTracingSettings(kinds=())


def by_name(measures: Sequence[Measure]) -> dict[tuple[str, str], Measure]:
    return {(measure.metric, measure.group): measure for measure in measures}


@pytest.mark.slow
def test_the_default_model_looks_capitals_up_early_at_the_subject_and_late_at_the_end(tmp_path: Path) -> None:
    outcome = keeps.probe("smollm2-135m", system="causal_tracing", limit=8, workspace=tmp_path, out=tmp_path / "page")
    found = by_name(outcome.findings.measures)
    early, late = (found[f"block.peak.{name}", "all"].value for name in ("mlp.last_subject", "attention.last"))
    assert early is not None
    assert late is not None
    assert early < 12 < 18 < late
    assert (tmp_path / "page" / "picture.png").exists()
