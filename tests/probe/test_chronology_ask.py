"""Questions about a year: the three templates, their examples, and what is read from outputs."""

from __future__ import annotations

import re

import pytest
from chronology_stubs import YEARS, calendar, element, settings

from keeps.probe.chronology_ask import INSTRUCTIONS, Examples, statement, told_object, told_option


def test_examples_are_others_of_the_relation_in_the_year_and_redrawn_for_each_sample() -> None:
    facts = [*calendar(), element("Zed", dict.fromkeys(YEARS, "blue"), relation="colour")]
    examples = Examples(facts, settings(samples=5), 0)
    drawn = set()
    for asking in examples.askings(facts[0]):
        *shots, asked = asking.prompt.split("\n\n")
        assert asked == f"Q. In {asking.year}, Arn, job, [Object]\nA."
        assert len(shots) == 2
        for shot in shots:
            found = re.fullmatch(r"Q\. In (\d{4}), (\w+), job, \[Object\]\nA\. (\w+)", shot)
            assert found is not None
            other = next(fact for fact in facts if fact.subject == found[2])
            assert found[2] != "Arn"
            assert (int(found[1]), found[3]) == (asking.year, other.objects[asking.year][0])
        drawn.add(tuple(shots))
    assert len(drawn) > 6  # of 6 years with 5 samples each
    assert len({asking.seed for asking in examples.askings(facts[0])}) == 30


@pytest.mark.parametrize("template", INSTRUCTIONS)
def test_the_form_of_an_answer_is_said_first_unless_it_shall_not(template: str) -> None:
    facts = calendar()
    told, bare = (
        next(Examples(facts, settings(template=template, instruct=own), 0).askings(facts[1])) for own in (True, False)
    )
    assert told.prompt == f"{INSTRUCTIONS[template]}\n\n{bare.prompt}"


def test_facts_share_their_examples_unless_each_has_its_own() -> None:
    facts = calendar()

    def shown(redraw: str) -> list[set[str]]:
        examples = Examples(facts, settings(samples=1, redraw=redraw, shots=1), 0)
        return [{a.prompt.split("\n\n")[0] for a in examples.askings(fact) if a.year == 2011} for fact in facts]

    shared, own = shown("sample"), shown("item")
    assert len(set(map(frozenset, shared))) == 2  # the example itself is shown another one
    assert len(set(map(frozenset, own))) > 2


def test_the_right_option_moves_and_other_years_are_among_the_wrong_ones() -> None:
    facts = calendar()
    examples = Examples(facts, settings(template="choice", samples=8), 3)
    askings = list(examples.askings(facts[1]))
    places = {asking.options.index(facts[1].objects[asking.year][0]) for asking in askings}
    assert places == {0, 1, 2, 3}
    assert all({"belold", "belnew"} <= set(asking.options) for asking in askings)
    assert all(len(set(asking.options)) == 4 for asking in askings)
    last = Examples(facts, settings(template="choice", gold="last"), 3)
    assert all(a.options[-1] == facts[1].objects[a.year][0] for a in last.askings(facts[1]))


def test_given_distractors_are_the_wrong_options() -> None:
    facts = [*calendar()[1:], element("Gus", dict.fromkeys(YEARS, "x"), distractors=("p", "X", "q", "r"))]
    for asking in Examples(facts, settings(template="choice", shots=0), 0).askings(facts[-1]):
        assert set(asking.options) == {"x", "p", "q", "r"}


def test_statements_are_true_and_false_in_turn() -> None:
    facts = calendar()
    askings = list(Examples(facts, settings(template="true_false", samples=4), 0).askings(facts[0]))
    assert sum(asking.truth for asking in askings) == len(askings) / 2
    for asking in askings:
        told = re.findall(r"Arn, job, (\w+)\. True or false\?\nA\.$", asking.prompt)
        assert (told == [facts[0].objects[asking.year][0]]) == asking.truth
        assert asking.prompt.count("A. true") == asking.prompt.count("A. false") == 1
    published = Examples(facts, settings(template="true_false", statements="true"), 0)
    assert all(asking.truth for asking in published.askings(facts[0]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Oslo", "Oslo"),
        ("A. Oslo\nQ. In", "Oslo"),
        ("\n\nOslo", "Oslo"),
        ("Sure! A. Oslo", "Oslo"),
        ("Okay,\nOslo", "Oslo"),
        ("Here is the answer: Oslo", "Oslo"),
        ("The correct answer is Oslo", "Oslo"),
        ('"Oslo"', "Oslo"),
        ("Norway", "Norway"),  # begins with a No that is no opening
        ("Yesenia", "Yesenia"),
        ("No.", None),
        ("", None),
        ("...", None),
        ("[Object]", None),
        ("I can help with that", None),
        ("Q. In 2013, Norway", None),
    ],
)
def test_what_is_read_from_an_output(text: str, expected: str | None) -> None:
    assert told_object(text) == expected


def test_the_published_reading_wants_the_model_to_write_the_lead() -> None:
    assert told_object("A. Oslo\nmore", lead="model") == "Oslo"
    assert told_object("Oslo", lead="model") is None
    assert next(Examples(calendar(), settings(lead="model"), 0).askings(calendar()[0])).prompt.endswith("[Object]\n")


def test_options_are_named_by_letter_or_words() -> None:
    options = ["Rome", "Oslo", "New Oslo"]
    assert [
        told_option(text, options) for text in ("(b)", "b) x", "B", "A. (c) New Oslo", "It is Rome", "d", "be")
    ] == [
        *["Oslo"] * 3,
        "New Oslo",
        "Rome",
        None,
        None,
    ]


def test_a_statement_of_a_question_gives_its_answer() -> None:
    assert statement("who led it?", 2012, "Ada") == "Q. In 2012, who led it? Ada."
