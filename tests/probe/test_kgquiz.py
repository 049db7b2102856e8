"""KGQuiz end to end: perfect, empty and always-yes answerers, refusals, figures, files and a real model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from kgquiz_graphs import Letters, ring

import keeps
from keeps.contracts import Answer
from keeps.data.triples import Triple, TripleSet
from keeps.errors import EmptySetError, InputFileError, KeepsError, RecordError, SettingsError
from keeps.models.scores import Asked, ChoiceScore
from keeps.probe.base import ModelRows, Selection
from keeps.probe.journal import Journal
from keeps.probe.kgquiz import KGQuiz, KGQuizSettings, QuizProbe
from keeps.probe.kgquiz_items import Item
from keeps.probe.similarity import TextSimilarity


class Teller:
    """Answers in text, by a rule."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        self.rule = rule
        self.asked: list[str] = []

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        self.asked += questions
        return [Answer(self.rule(question)) for question in questions]


class Scorer(Teller):
    """Has log-probabilities too: of what the rule says 0, of all else -1 a text."""

    def rank(self, prompts: Sequence[str], choices: Sequence[Sequence[str]], advance: Any = None) -> list[ChoiceScore]:
        self.asked += prompts
        found = []
        for prompt, options in zip(prompts, choices, strict=True):
            values = tuple(0.0 if option == self.rule(prompt) else -1.0 for option in options)
            found.append(ChoiceScore(values.index(max(values)), values, values))
            if advance:
                advance(len(options))
        return found

    def ask(
        self, prompts: Sequence[str], answers: Sequence[str], *, max_new_tokens: int, advance: Any = None
    ) -> list[Asked]:
        del answers, max_new_tokens, advance
        return [Asked(self.rule(prompt), -2.0, 1, False) for prompt in prompts]


def quiz(graph: TripleSet | str = "", *, limit: int | None = None, seed: int = 0, **settings: Any) -> QuizProbe:
    selection: Any = Selection(graph or ring(), seed, limit)  # type: ignore[arg-type]
    probe: Any = KGQuiz(KGQuizSettings(**{"extractor": "sentences", **settings})).probe(selection)
    probe.similarity = TextSimilarity(Letters())
    return probe


def gold_text(item: Item) -> str:
    if item.task == 4:
        parts = list(item.parts)
        parts[item.slot] = item.answer
        return " | ".join(parts)
    return "\n".join(item.facts) if item.task == 5 else item.answer


ALL = {"tasks": (1, 2, 3, 4, 5), "negatives": ("ss", "random", "np", "rs")}
SCORES = ("true_false.accuracy", "true_false.balanced_accuracy", "choice.accuracy", "open.f1", "open.precision")
BLANKS = tuple(
    f"{family}.{name}{suffix}"
    for family in ("blank", "editing")
    for name in ("exact_match", "f1", "lcs", "semantic_match")
    for suffix in ("", ".any")
)


def figures(probe: QuizProbe, answerer: Any) -> dict[tuple[str, str], Any]:
    found = KGQuiz(probe.settings).measure([ModelRows("it", probe(answerer))])
    return {(measure.metric, measure.group): measure for measure in found.measures}


def test_gold_answers_score_1_and_empty_ones_0_in_every_metric_of_every_task() -> None:
    probe = quiz(**ALL)
    table = {item.prompt: gold_text(item) for several in probe.items() for item in several}
    for rule, value in ((table.__getitem__, 1.0), (lambda _: "", 0.0)):
        found = figures(probe, Teller(rule))
        for metric in (*SCORES, *BLANKS):
            values = [measure.value for (name, _), measure in found.items() if name == metric]
            assert values
            assert set(values) == {value}, metric
    assert found["editing.unchanged", "ring: task 4, ss"].value == 0


def test_a_model_that_always_says_yes_has_balanced_accuracy_and_area_of_one_half() -> None:
    found = figures(quiz(tasks=(1,)), Scorer(lambda _: "True"))
    for metric in ("accuracy", "balanced_accuracy", "auc"):
        assert found[f"true_false.{metric}", "ring: task 1, ss"].value == 0.5
    assert found["true_false.yes_rate", "ring: task 1, ss"].value == 1.0


def test_log_probabilities_decide_where_there_are_any_and_the_statement_is_completed() -> None:
    graph = ring()
    tails = {graph.masked(t).removesuffix(" [MASK]"): t.tail for t in graph.triples}
    scorer = Scorer(lambda prompt: tails.get(prompt, "True"))
    rows = quiz(tasks=(2,), limit=10)(scorer)
    assert all(row.correct and row.logprob == 0.0 and row.kind == "choice" for row in rows)
    assert set(scorer.asked) <= set(tails)
    letters = Scorer(lambda prompt: "B")
    rows = quiz(tasks=(2,), limit=10, choice_scoring="letter")(letters)
    assert [row.correct for row in rows] == [row.details["choices"][1] == row.expected for row in rows]
    assert "Answer with one letter." in letters.asked[0]


def test_log_probabilities_cannot_be_asked_of_what_has_none() -> None:
    with pytest.raises(SettingsError, match="no log-probabilities"):
        quiz(scoring="likelihood", tasks=(1,))(Teller(lambda _: ""))
    assert quiz(scoring="text", tasks=(1,))(Scorer(lambda _: "true!"))[0].details["log_odds"] is None


def test_any_right_tail_counts_unless_only_the_asked_one_is_wanted() -> None:
    graph = TripleSet.of("it", [Triple("river", "flows past", town) for town in ("Essen", "Basel")])
    for multi, right in ((True, 2), (False, 1)):
        probe = quiz(graph, tasks=(3,), multi_gold=multi)
        rows = probe(Teller(lambda _: "Basel"))
        assert sum(row.correct for row in rows) == right
        found = figures(probe, Teller(lambda _: "Basel"))
        assert found["blank.exact_match", "it: task 3"].value == 0.5
        assert found["blank.exact_match.any", "it: task 3"].value == 1.0
        assert found["blank.oracle", "it: task 3"].value == 0.5
        assert found["score", "it: task 3"].value == right / 2


def test_consistency_is_recall_among_what_was_recognised() -> None:
    graph = ring()
    known = {graph.masked(t): t.tail for t in graph.triples}
    recalled = {graph.masked(t) for t in graph.triples if t.relation == "has mayor"}

    def rule(prompt: str) -> str:
        if prompt.startswith("Is the statement"):
            return str(any(mask.replace("[MASK]", tail) in prompt for mask, tail in known.items()))
        masked = next(mask for mask in known if mask in prompt)
        return known[masked] if "one letter" in prompt or masked in recalled else "nobody"

    found = figures(quiz(graph), Teller(rule))
    measure = found["consistency.blank_given_recognised", "ring"]
    assert (measure.n, measure.value) == (len(graph), 12 / len(graph))


def test_facts_written_are_matched_one_to_one_where_that_is_wanted() -> None:
    facts = quiz(tasks=(5,)).items()[0][0].facts
    once = facts[0]
    rule = Teller(lambda _: "\n".join([once, once.upper(), "zzz zzz."]))
    loose, strict = (figures(quiz(tasks=(5,), one_to_one=one), rule) for one in (False, True))
    group = "ring: task 5"
    assert loose["open.precision", group].value == pytest.approx(2 / 3)
    assert strict["open.precision", group].value == pytest.approx(1 / 3)
    assert loose["open.recall", group].value == strict["open.recall", group].value == pytest.approx(1 / len(facts))


def test_the_model_extracts_its_own_facts() -> None:
    def rule(prompt: str) -> str:
        return "Aaville | fact 0 | Thing0\nnonsense" if prompt.startswith("Write every fact") else "Some text."

    [row] = quiz(tasks=(5,), extractor="model")(Teller(rule))
    assert row.details["told"] == [["Aaville", "fact 0", "Thing0"]]
    assert (row.details["precision"], row.answer) == (1.0, "Some text.")


@pytest.mark.parametrize(
    ("settings", "limit", "kind", "what"),
    [
        ({"tasks": (6,)}, None, SettingsError, "no task 6"),
        ({"tasks": ()}, None, SettingsError, "no task"),
        ({"negatives": ("sss",)}, None, SettingsError, '"sss"'),
        ({"tau": 1.5}, None, SettingsError, "tau"),
        ({"options": 1}, None, SettingsError, "options"),
        ({"extractor": "server"}, None, SettingsError, "in part"),
        ({"extractor_url": "http://localhost:1/v1"}, None, SettingsError, "in part"),
        ({}, 0, SettingsError, "limit is 0"),
        ({}, 2, SettingsError, "limit of 2 leaves no question"),
        ({"tasks": (4,), "hops": 20}, None, EmptySetError, r"task 4 .*fewer hops"),
        ({"tasks": (5,), "min_facts": 9}, None, EmptySetError, r"task 5 .*min_facts"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_asked(
    settings: dict[str, Any], limit: int | None, kind: type[KeepsError], what: str
) -> None:
    with pytest.raises(kind, match=what):
        quiz(limit=limit, **settings)


def test_fewer_entities_than_options_and_unused_declarations_are_refused() -> None:
    small = TripleSet.of("it", [Triple("a", "r", "b")])
    with pytest.raises(SettingsError, match="2 entities, fewer than the 4 options"):
        quiz(small, tasks=(2,))
    with pytest.raises(EmptySetError, match="relation sharing"):
        quiz(small, tasks=(1,), negatives=("rs",))
    with pytest.raises(SettingsError, match="for files of triples alone"):
        quiz("world:capital", tasks=(3,), symmetric=("capital",))
    with pytest.raises(RecordError, match="no triple"):
        quiz("text", tasks=(3,))


def test_tau_is_set_from_pairs_that_people_judged(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("prediction,gold,same\nabc,abc,yes\nabc,abd,yes\nabc,xyz,no\nabc,axy,no\n")
    probe = quiz(tasks=(3,), labels=str(file))
    tau = probe(Teller(lambda _: ""))[0].details["tau"]
    near, far = TextSimilarity(Letters()).cosines(["abc", "abc"], ["abd", "axy"])
    assert far < tau < near
    assert probe.fingerprint != quiz(tasks=(3,)).fingerprint
    file.write_text("prediction,gold,same\nabc,abc,yes\n")
    with pytest.raises(EmptySetError, match="set no threshold"):
        quiz(labels=str(file))
    file.write_text("prediction,gold,same\nabc,abc,perhaps\n")
    with pytest.raises(RecordError, match="no judgement"):
        quiz(labels=str(file))
    with pytest.raises(InputFileError, match="no such table"):
        quiz(labels=str(tmp_path / "none.csv"))


def test_the_fingerprint_is_that_of_questions_and_way_of_asking() -> None:
    one = quiz(limit=30).fingerprint
    assert one == quiz(limit=30).fingerprint
    assert (
        len({one, quiz(limit=30, seed=1).fingerprint, quiz(limit=31).fingerprint, quiz(limit=30, tau=0.8).fingerprint})
        == 4
    )


def test_rows_are_plain_and_a_journal_changes_nothing(tmp_path: Path) -> None:
    probe = quiz(limit=40, **ALL)
    rule = Scorer(lambda prompt: str(len(prompt) % 2 == 0))
    rows = probe(rule)
    assert [row.id for row in rows] == probe.ids
    assert len(set(probe.ids)) == len(rows) <= 40
    assert json.loads(json.dumps([row.details for row in rows])) == [row.details for row in rows]
    with Journal(rule, tmp_path / "asked.jsonl") as journal:
        assert probe(journal) == rows


def test_two_models_are_compared_and_drawn() -> None:
    probe = quiz(negatives=("ss", "random"))
    models = [
        ModelRows(name, probe(Scorer(lambda _, says=says: says))) for name, says in (("yes", "True"), ("no", "False"))
    ]
    system = KGQuiz(probe.settings)
    found = system.measure(models)
    titles = [table.title for table in found.tables]
    assert titles[0] == "Does knowledge carry over?"
    assert {"By relation", "Against yes", "Task 3: blank filling"} <= set(titles)
    figure = system.draw(models)
    assert figure is not None
    assert len(figure.axes) == 2


def test_answers_that_repeat_the_mask_are_pointed_out() -> None:
    probe = quiz(tasks=(3,))
    found = KGQuiz(probe.settings).measure([ModelRows("it", probe(Teller(lambda _: "[MASK]")))])
    assert any("--blank-form completion" in table.note for table in found.tables)
    completing = Teller(lambda _: "x")
    quiz(tasks=(3,), blank_form="completion")(completing)
    assert not any("[MASK]" in prompt for prompt in completing.asked)


@pytest.mark.slow
def test_the_default_model_is_asked_through_the_command_and_the_page_is_written(tmp_path: Path) -> None:
    rows = "\n".join(f"{t.head}\t{t.relation}\t{t.tail}" for t in ring().triples)
    file = tmp_path / "river.tsv"
    file.write_text(rows)
    outcome = keeps.probe(
        "smollm2-135m",
        f"{file},world:capital",
        system="kgquiz",
        settings={"tasks": "1,2,3", "blank_form": "completion"},
        limit=24,
        workspace=tmp_path / "ledger",
        out=tmp_path / "page",
    )
    assert {row.details["domain"] for row in outcome.rows} == {"river", "world"}
    assert len(outcome.rows) == 24
    assert (tmp_path / "page" / "picture.png").stat().st_size > 10_000
    page = (tmp_path / "page" / "README.md").read_text()
    assert "river (%)" in page
    assert "cosine of all-MiniLM-L6-v2 at least 0.85" in page
