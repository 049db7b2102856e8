"""The scores of edited models: what is asked, what comes of it, and what each measure compares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import keeps
from keeps.contracts import Answer, Row, Run
from keeps.data.edits import Edit, EditPrompt, read_edits
from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.models import LanguageModel
from keeps.probe.base import Measure, ModelRows, Selection
from keeps.probe.editing import Editing, EditingProbe, EditingSettings, load_edits, prompts_of
from keeps.probe.editing_measures import editing_findings

OSLO = Edit(
    "oslo",
    "Oslo",
    "Oslo is the capital of",
    "Sweden",
    "Norway",
    paraphrases=("The country with the capital Oslo is",),
    portability=(EditPrompt("multi_hop", "Which language is spoken in Oslo?", ("Swedish", "Svenska"), "Norwegian"),),
    locality=(
        EditPrompt("same_relation", "Paris is the capital of", ("France",)),
        EditPrompt("same_subject", "Oslo lies on a", ("fjord",)),
    ),
    generation_prompts=("Oslo is",),
)
ROME = Edit("rome", "Rome", "Rome is in", "Spain", "Italy")


def test_every_prompt_is_asked_in_its_form() -> None:
    asked = {item.id: item.prompt for item in prompts_of(OSLO)}
    assert asked == {
        "oslo/rewrite/1": "Oslo is the capital of",
        "oslo/rephrase/1": "The country with the capital Oslo is",
        "oslo/portability/multi_hop/1": f"{OSLO.portability[0].prompt} The answer to this question, most simply, is",
        "oslo/locality/same_relation/1": "Paris is the capital of",
        "oslo/locality/same_subject/1": "Oslo lies on a",
        "oslo/locality/prefix_distraction/1": "Oslo is the capital of Sweden. Paris is the capital of",
    }
    assert not any("distraction" in item.id for item in prompts_of(OSLO, distraction=False))


def test_rows_hold_what_the_model_says_and_scores(tiny_llama: LanguageModel) -> None:
    probe = EditingProbe([OSLO, ROME], generation_tokens=8)
    rows = {row.id: row for row in probe(tiny_llama)}
    assert list(rows) == probe.ids
    hop = rows["oslo/portability/multi_hop/1"]
    assert set(hop.details["scores"]) == {"Swedish", "Svenska", "Sweden", "Norwegian"}
    for text, score in hop.details["scores"].items():
        [plain] = tiny_llama.logprob([hop.prompt], [text])
        assert (score["logprob"], score["tokens"]) == (pytest.approx(plain.logprob, abs=1e-3), plain.tokens)
        assert len(score["best"]) == score["tokens"]
    [generated] = tiny_llama.generate(["Oslo is"], max_new_tokens=8, stop=())
    assert rows["oslo/rewrite/1"].details["generated"] == generated
    assert "generated" not in hop.details


def test_progress_reaches_its_end(tiny_llama: LanguageModel) -> None:
    totals: list[float] = []

    class Counting:
        def message(self, text: str) -> None: ...

        def task(self, description: str, total: float | None, done: float = 0) -> Any:
            from contextlib import nullcontext

            class Task:
                def advance(self, amount: float = 1) -> None:
                    totals.append(amount)

            totals.append(-(total or 0))
            return nullcontext(Task())

    EditingProbe([OSLO, ROME], generation_tokens=4)(tiny_llama, run=Run(Path(), progress=Counting()))
    assert sum(totals) == pytest.approx(0)


class Oracle:
    """Answers from a table, and knows nothing of probabilities."""

    def __init__(self, table: dict[str, str]) -> None:
        self.table = table

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        return [Answer(self.table.get(question, "no idea")) for question in questions]


def test_without_probabilities_the_exact_scores_remain() -> None:
    said = {"Oslo is the capital of": "Sweden, of course", "Paris is the capital of": "France"}
    before = ModelRows("before", EditingProbe([OSLO])(Oracle({"Paris is the capital of": "the France"})))
    after = ModelRows("after", EditingProbe([OSLO])(Oracle(said)))
    found = by_name(editing_findings([before, after]).measures, "after")
    assert found["rewrite.exact", "all"].value == 1
    assert found["portability.exact", "all"].value == 0
    assert found["locality.exact", "all"].value == 1, "the article is no other answer"
    assert found["locality_truth.exact", "same_relation"].value == 1
    assert found["locality_truth.exact", "all"].value == 0.5, "a mean over the kinds of an edit"
    assert found["rewrite.token", "all"].value is None
    assert "no token probabilities" in found["rewrite.token", "all"].note
    assert not any(metric.startswith("evoke") for metric, _ in found)


def by_name(measures: Sequence[Measure], model: str) -> dict[tuple[str, str], Measure]:
    return {(measure.metric, measure.group): measure for measure in measures if measure.model == model}


def scored(probability: float, tokens: int = 2, hits: int = 0, best: Sequence[int] = (1, 2)) -> dict[str, Any]:
    return {"logprob": tokens * math.log(probability), "tokens": tokens, "hits": hits, "best": list(best)}


def row(scope: str, kind: str, scores: dict[str, Any], *, edit: str = "oslo", number: int = 1, **more: Any) -> Row:
    texts = list(scores)
    details = {
        "edit": edit,
        "scope": scope,
        "kind": kind,
        "answers": more.pop("answers", texts[:1]),
        "target": more.pop("target", "Sweden"),
        "original": more.pop("original", ""),
        "scores": scores,
        **more,
    }
    group = f"{scope}: {kind}" if kind else scope
    return Row(f"{edit}/{scope}/{kind}/{number}", group, "p", texts[0], "said", False, 0.0, details=details)


def test_overfit_scores_are_those_of_the_definition() -> None:
    pairs = [(0.3, 0.2), (0.1, 0.4), (0.5, 0.5)]  # P(ans), P(o*)
    rows = [
        row("locality", "same_relation", {"France": scored(ans), "Sweden": scored(new)}, number=n)
        for n, (ans, new) in enumerate(pairs)
    ]
    hop = {"Swedish": scored(0.3), "Sweden": scored(0.1), "Norwegian": scored(0.2)}
    rows.append(row("portability", "multi_hop", hop, original="Norwegian"))
    found = by_name(editing_findings([ModelRows("m", rows)]).measures, "m")
    task = "relation specificity"
    assert found["evoke.eos", task].value == pytest.approx(1 / 3)
    assert found["evoke.dp", task].value == pytest.approx(1.1 / 3)
    assert found["evoke.cap", task].value == pytest.approx(0.9 / 3)
    assert ("evoke.ams", task) not in found
    assert ("evoke.oap", task) not in found
    assert found["evoke.ams", "multi-hop reasoning"].value == 1
    assert found["evoke.oap", "multi-hop reasoning"].value == pytest.approx(0.2)


def test_probabilities_that_are_equal_everywhere_give_an_overfit_score_of_zero_with_an_interval() -> None:
    rows = [
        row("locality", "same_relation", {"France": scored(p), "Sweden": scored(p)}, edit=f"e{n}")
        for n, p in enumerate([0.1, 0.5, 0.9])
    ]
    found = by_name(editing_findings([ModelRows("m", rows)]).measures, "m")["evoke.eos", "relation specificity"]
    assert (found.value, found.low) == (0, 0)
    assert found.high is not None
    assert found.high > 0.3, "three edits prove little"


def test_the_prompts_of_one_edit_do_not_count_as_independent() -> None:
    def interval(edits: Sequence[str]) -> float:
        rows = [
            row(
                "locality",
                "same_relation",
                {"France": scored(0.5 if n < 8 else 0.1), "Sweden": scored(0.2)},
                edit=e,
                number=n,
            )
            for n, e in enumerate(edits)
        ]
        found = by_name(editing_findings([ModelRows("m", rows)]).measures, "m")["evoke.eos", "relation specificity"]
        assert found.value == 0.5
        assert found.n == 16
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    assert interval([f"e{n // 4}" for n in range(16)]) > interval([f"e{n}" for n in range(16)])


def test_locality_compares_with_the_first_model() -> None:
    def answers(best: Sequence[int], probability: float) -> ModelRows:
        rows = [
            row("locality", "same_relation", {"France": scored(probability, best=best), "Sweden": scored(0.1)}),
            row("locality", "same_subject", {"fjord": scored(0.5), "Sweden": scored(0.1)}),
            row("locality", "prefix_distraction", {"France": scored(0.5, best=(9, 9)), "Sweden": scored(0.1)}),
        ]
        return ModelRows(f"{probability}", rows)

    measures = editing_findings([answers((1, 2), 0.5), answers((1, 7), 0.125)]).measures
    found = by_name(measures, "0.125")
    assert found["locality.token", "same_relation"].value == 0.5
    assert found["locality.token", "all"].value == 0.75
    assert found["locality.probability", "same_relation"].value == pytest.approx(0.25)
    assert ("locality.token", "prefix_distraction") not in found
    alone = by_name(measures, "0.5")["locality.token", "all"]
    assert alone.value is None
    assert "unedited model first" in alone.note


def test_other_spellings_count_by_the_best_of_them() -> None:
    scores = {"Swedish": scored(0.1, hits=0), "Svenska": scored(0.4, hits=1), "Sweden": scored(0.9, hits=2)}
    rows = [row("portability", "reasoning", scores, answers=["Swedish", "Svenska"])]
    found = by_name(editing_findings([ModelRows("m", rows)]).measures, "m")
    assert found["portability.token", "all"].value == 0.5
    assert found["portability.probability", "all"].value == pytest.approx(0.4)


def test_fingerprints_follow_questions_and_the_way_of_asking() -> None:
    probes = [
        EditingProbe([OSLO]),
        EditingProbe([OSLO, ROME]),
        EditingProbe([OSLO], distraction=False),
        EditingProbe([OSLO], generation_tokens=5),
    ]
    assert len({probe.fingerprint for probe in probes}) == 4
    assert EditingProbe([OSLO], name="other").fingerprint == probes[0].fingerprint


def test_bad_selections_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    system = Editing(EditingSettings())
    with pytest.raises(EmptySetError, match="no fact"):
        system.probe(Selection("text"))
    with pytest.raises(SettingsError, match="limit"):
        system.probe(Selection("world:capital#4", limit=0))
    file = tmp_path / "edits.jsonl"
    file.write_text('{"subject": "Oslo", "prompt": "It is the capital of", "target_new": "Sweden"}')
    with pytest.raises(RecordError, match="line 1"):
        system.probe(Selection(str(file)))
    with pytest.raises(EmptySetError):
        EditingProbe([])


def test_facts_of_the_world_make_edits_with_neighbours_and_other_relations() -> None:
    edits = load_edits("world:country_of_city#30")
    kinds = {asked.kind for edit in edits for asked in (*edit.locality, *edit.portability)}
    assert kinds >= {"same_relation", "multi_hop"}
    probe = Editing(EditingSettings()).probe(Selection("world:country_of_city#30", limit=5))
    assert isinstance(probe, EditingProbe)
    assert len(probe.edits) == 5


@pytest.mark.shared_data
def test_prompts_of_counterfact_are_asked_with_distractions(shared_data: Path) -> None:
    edits = read_edits(shared_data / "counterfact" / "counterfact_full.jsonl", limit=3)
    groups = [item.group for item in EditingProbe(edits).asked]
    assert (groups.count("rewrite"), groups.count("rephrase")) == (3, 6)
    assert groups.count("locality: same_relation") == groups.count("locality: prefix_distraction") == 30


@pytest.mark.slow
def test_the_unedited_default_model_does_not_expect_the_targets(tmp_path: Path) -> None:
    """The card of EVOKE: without an edit the direct probability of a random target is below 0.01."""
    options = {"system": "editing", "limit": 5, "settings": {"generation_tokens": 0}}
    outcome = keeps.probe("smollm2-135m", "world:capital#30", workspace=tmp_path, out=tmp_path / "page", **options)
    found = by_name(outcome.findings.measures, "smollm2-135m")
    direct = found["evoke.dp", "efficacy"].value
    assert direct is not None
    assert direct < 0.01
    assert found["rewrite.exact", "all"].value == 0
    assert {path.name for path in outcome.files} >= {"README.md", "picture.png", "measures.jsonl"}
