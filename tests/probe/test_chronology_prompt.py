"""ChroKnowPrompt: which years it asks again, what it shows, what it keeps, and its life as an answerer."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from chronology_stubs import Memory, Neighbour, calendar, full_memory, settings

from keeps.contracts import Answer, Question
from keeps.errors import SettingsError
from keeps.numerics.chronology import CORRECT, INCORRECT, PARTIAL_1
from keeps.probe.chronology import ChronologyProbe
from keeps.probe.chronology_prompt import ChroKnowPrompt, History, Target
from keeps.probe.chronology_rows import known_answers
from keeps.probe.facts import FactProbe


@pytest.mark.parametrize(("right", "static"), [("oslo", True), ("turku", False)])
def test_a_year_between_known_ones_is_recovered_where_nothing_changed(right: str, static: bool) -> None:
    """The card's second check: 2012 and 2014 are known, the model repeats what it is shown."""
    classes = {2012: CORRECT, 2013: INCORRECT, 2014: CORRECT}
    answers = {2012: ["Oslo"], 2013: ["nowhere"], 2014: ["Oslo"]}
    model, history = Neighbour(), History("Norway, capital, [Object]", classes, answers, answers)
    ChroKnowPrompt(model, previous=3, following=3).recover_all([history])
    assert list(history.recovered) == [2013]
    assert (history.recovered[2013].answer == right) == static
    assert history.recovered[2013].answer == "oslo"
    assert model.calls == 2 <= 3 + 3


def test_prompts_grow_on_both_sides_and_carry_the_candidate() -> None:
    model = Neighbour()
    examples = {2009: "z", 2010: "a", 2011: "b", 2012: "c", 2014: "d", 2015: "e", 2017: "y"}
    [found] = ChroKnowPrompt(model, previous=3, following=2).recover([Target("X, job, [Object]", 2013, examples)])
    assert found.spans == ("previous",) * 3 + ("next",) * 2
    assert found.candidates == ("c", "b", "a", "d", "e")
    assert (found.answer, found.answer_previous) == ("e", "a")
    bodies = [prompt.split("\n\n", 1)[1] for prompt in model.prompts]
    assert bodies[0] == "Q. In 2012, X, job, [Object]\nA. c\n\nQ. In 2013, X, job, [Object]\nCandidate A. [Object]\nA."
    years = [[int(year) for year in re.findall(r"In (\d{4})", body)] for body in bodies]
    assert years == [
        [2012, 2013],
        [2011, 2012, 2013],
        [2010, 2011, 2012, 2013],
        [2010, 2011, 2012, 2013, 2014],
        [2010, 2011, 2012, 2013, 2014, 2015],
    ]
    assert "Candidate A. c\n" in bodies[1]
    assert bodies[-1].endswith("A. e\n\nA.")
    systems = {prompt.split("\n\n", 1)[0] for prompt in model.prompts}
    assert len(systems) == 2  # without a candidate, and with one


def test_spans_are_years_of_the_calendar_unless_listed() -> None:
    target = Target("x", 2013, {2001: "a", 2012: "b", 2020: "c"})
    assert target.steps(3, 3) == [("previous", 2012)]
    assert target.steps(3, 3, listed=True) == [("previous", 2012), ("previous", 2001), ("next", 2020)]


def test_years_are_taken_up_by_class_and_see_what_was_recovered_before() -> None:
    classes = {2010: PARTIAL_1, 2011: INCORRECT, 2012: CORRECT, 2013: INCORRECT, 2014: PARTIAL_1}
    greedy = {year: ["Greedy"] for year in classes}
    sampled = {year: ["Sampled"] for year in classes}
    history = History("X, job, [Object]", classes, greedy, sampled)
    assert history.queue() == [2011, 2013, 2010, 2014]
    assert (history.example(2012), history.example(2011)) == ("greedy", "sampled")
    ChroKnowPrompt(Neighbour(), previous=1, following=1).recover_all([history])
    assert set(history.recovered) == {2010, 2011, 2013, 2014}
    assert history.recovered[2011].candidates == ("sampled", "greedy")
    assert history.example(2011) == "sampled"  # the mode of the candidates, the first of equals


def test_facts_without_a_hole_are_left_alone() -> None:
    for classes in ({1: CORRECT, 2: CORRECT}, {1: CORRECT, 2: INCORRECT}, {1: INCORRECT, 2: INCORRECT}):
        assert History("x", classes, {1: [], 2: []}, {1: [], 2: []}).queue() == []


def test_nothing_said_keeps_the_candidate() -> None:
    class Silent(Neighbour):
        def say(self, prompt: str) -> str:
            return super().say(prompt) if self.calls == 1 else ""

    [found] = ChroKnowPrompt(Silent()).recover([Target("x, y, [Object]", 2013, {2011: "a", 2012: "b"})])
    assert found.candidates == ("b", "b")


def test_as_an_answerer_it_serves_any_probe_and_passes_other_questions_on() -> None:
    class Echo(Neighbour):
        def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
            return [Answer("passed on") for _ in questions]

    known = {"Norway, capital, [Object]": {2012: "Oslo", 2013: "never shown", 2014: "Oslo"}}
    prompting = ChroKnowPrompt(Echo(), known=known)
    told, other = prompting.answer(["In 2013, Norway, capital, [Object]", "What is tin?"])
    assert (told.text, other.text) == ("Oslo", "passed on")
    assert told.trace["candidates"] == ["Oslo", "Oslo"]
    question = Question("n", "capital", ("In 2013, Norway, capital, [Object]",), ("Oslo",))
    assert FactProbe([question])(prompting)[0].correct


def test_what_a_probe_found_known_serves_another_probe() -> None:
    facts = calendar()
    table = full_memory(facts)
    del table["Arn", 2012]
    known = known_answers(ChronologyProbe(facts, settings(recover=0))(Memory(table)))
    assert sorted(known["Arn, job, [Object]"]) == [2010, 2011, 2013, 2014, 2015]
    question = Question("a", "job", ("In 2012, Arn, job, [Object]",), ("arnold",))
    [row] = FactProbe([question])(ChroKnowPrompt(Neighbour(), known=known))
    assert (row.correct, row.answer) == (True, "arnold")


def test_a_prompt_without_years_to_show_is_refused() -> None:
    with pytest.raises(SettingsError, match="spans are 0 and 0"):
        ChroKnowPrompt(Neighbour(), previous=0, following=0)
