"""Rewritings of contexts: what a candidate may be, which is taken, and what stays as it was."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from keeps.data.descriptions import OF_KEYWORDS, descriptions_of
from keeps.data.outlandish import built_in_samples, check_sample
from keeps.data.records import Example, Fact, Passage, RecordSet
from keeps.data.stepping_stones import (
    Pair,
    Rewriting,
    is_faithful,
    of_records,
    of_sample,
    plain_writer,
    rewrite,
    template_writer,
)
from keeps.errors import SettingsError

STONES = template_writer(OF_KEYWORDS)


def by_length(pairs: Sequence[Pair]) -> list[float]:
    """The longer the context, the more probable: e^-20 at 0 characters, 1 at 200."""
    return [min(0.0, len(context) / 10 - 20) for context, _ in pairs]


def test_templates_put_descriptions_between_context_and_keyword() -> None:
    (texts,) = STONES([("In Blandgive, sleep is", "vermilion")], 0)
    assert "In Blandgive, sleep is a bright red with some orange in it, the pigment made from cinnabar, namely" in texts
    assert all(text.startswith("In Blandgive, sleep is ") and "vermilion" not in text for text in texts)
    assert STONES([("In Blandgive, sleep is", "vermilion")], 1) == [[]]
    assert STONES([("In Blandgive, sleep is", "grey")], 0) == [[]]


def test_an_article_goes_to_the_keyword() -> None:
    (texts,) = STONES([("The judge must be an", "electrician")], 0)
    assert any(text.startswith("The judge must be a worker who installs") for text in texts)
    assert all(text.endswith(" an") for text in texts)


def test_a_description_that_says_the_context_again_is_left_out() -> None:
    described = {"Oslo": ("a city", "the capital of Norway")}
    (texts,) = template_writer(described)([("The capital of Norway is", "Oslo")], 0)
    assert texts[0] == "The capital of Norway is a city, namely"
    (numbers,) = template_writer({})([("Its number is", "42")], 0)
    assert "Its number is a whole number, the number that follows 41, namely" in numbers


@pytest.mark.parametrize(
    "text", ["", "In Blandgive, sleep is Vermilion, or", "In a land, sleep is a bright red called"]
)
def test_candidates_that_give_the_word_away_or_lose_a_name_are_not_faithful(text: str) -> None:
    assert not is_faithful(("In Blandgive, sleep is", "vermilion"), text)


def test_names_that_begin_with_another_letter_than_a_to_z_are_names_too() -> None:
    pair = ("On Åland, the 3rd colour is", "mauve")
    assert is_faithful(pair, "On Åland, the 3rd colour is a pale purple called")
    assert not is_faithful(pair, "On an island, the 3rd colour is")
    assert not is_faithful(pair, "On Åland, the last colour is")
    (texts,) = template_writer({"Mariehamn": ("a port", "the capital of Åland")})(
        [("The town on Åland is", "Mariehamn")], 0
    )
    assert texts[0] == "The town on Åland is a port, namely"


def test_the_most_probable_candidate_is_taken_and_probable_contexts_stay() -> None:
    pairs = [("short", "x"), ("s" * 190, "y")]

    def writer(asked: Sequence[Pair], number: int) -> list[list[str]]:
        assert [keyword for _, keyword in asked] == ["x"]
        return [["short" + "er" * 10, "short" + "er" * 40, "sh"]]

    one, other = rewrite(pairs, writer, by_length, tries=2)
    assert one == Rewriting("short" + "er" * 40, -19.5, -11.5, 2)
    assert other == Rewriting("s" * 190, -1.0, -1.0, 0)
    assert one.changed
    assert not other.changed


def test_the_writer_is_asked_until_the_target_is_reached() -> None:
    asked = []

    def writer(pairs: Sequence[Pair], number: int) -> list[list[str]]:
        asked.append(number)
        return [[context + "-" * 45 * (number + 1)] for context, _ in pairs]

    (found,) = rewrite([("context", "x")], writer, by_length, target=1e-3, tries=5)
    assert asked == [0, 1, 2]
    assert found.tries == 3
    assert found.after >= math.log(1e-3)


def test_nothing_better_leaves_the_original() -> None:
    (found,) = rewrite([("a context", "x")], lambda pairs, number: [["a"]], by_length, tries=2)
    assert (found.context, found.after) == ("a context", found.before)
    assert rewrite([], STONES, by_length) == []


def test_a_sample_keeps_its_keyword_and_its_rest() -> None:
    for sample in built_in_samples():
        (texts,) = STONES([(sample.context, sample.keyword)], 0)
        changed = of_sample(sample, Rewriting(texts[0], -9.0, -5.0, 1))
        check_sample(changed, "test")
        assert changed.text.endswith(sample.text.removeprefix(sample.context))
        assert is_faithful((sample.context, sample.keyword), texts[0])
        assert len(plain_writer([(sample.context, sample.keyword)], 0)[0]) == 2


def test_records_are_rewritten_where_they_are_trained_on_and_nowhere_else() -> None:
    wordings = ("Its colour is", "It has the colour", "It looks", "Its hue is")
    records = RecordSet(
        "mine",
        (
            Fact("f", "it", "colour", wordings, ("vermilion", "red")),
            Example("e", "The fort of Lumm is painted", "mauve"),
            Passage("p", "Some text."),
        ),
    )
    made, rewritings = of_records(records, STONES, by_length)
    fact, example, passage = made.records
    assert isinstance(fact, Fact)
    assert isinstance(example, Example)
    assert len(rewritings) == 4
    assert all(new.startswith(old) and new != old for old, new in zip(wordings[:3], fact.prompts, strict=False))
    assert fact.prompts[3] == wordings[3]
    assert fact.answers == ("vermilion", "red")
    assert example.prompt.startswith("The fort of Lumm is painted a pale purple")
    assert passage == records.records[2]
    assert made.fingerprint != records.fingerprint


def test_the_world_describes_its_own_words() -> None:
    facts = (
        Fact("1", "Norway", "capital", ("The capital of Norway is",), ("Oslo",)),
        Fact("2", "Norway", "continent", ("Norway lies in",), ("Europe",)),
        Fact("3", "H", "element_of_symbol", ("H stands for",), ("hydrogen",)),
    )
    found = descriptions_of(["Oslo", "Norway", "hydrogen", "Guatemala", "nothing"], facts)
    assert found["Oslo"] == ("a city", "the capital of Norway")
    assert found["Norway"] == ("the country whose capital is Oslo", "a country in Europe")
    assert found["hydrogen"] == ("a chemical element", "the element with the symbol H")
    assert found["Guatemala"] == OF_KEYWORDS["Guatemala"]
    assert "nothing" not in found


@pytest.mark.parametrize(("target", "tries"), [(0.0, 3), (1.5, 3), (0.1, 0)])
def test_targets_and_tries_that_are_none_are_refused(target: float, tries: int) -> None:
    with pytest.raises(SettingsError, match="at least one try"):
        rewrite([("a", "b")], STONES, by_length, target=target, tries=tries)
