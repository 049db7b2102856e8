"""Wrong names are wrong, options differ, chains hold but for one name, and the published files are read as they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kgquiz_graphs import Letters, ring
from scipy import stats

from keeps.data.triples import Triple, TripleSet
from keeps.errors import EmptySetError, InputFileError, RecordError
from keeps.probe.base import Selection
from keeps.probe.kgquiz import KGQuiz, KGQuizSettings
from keeps.probe.kgquiz_items import Builder, chains, lead_of, rich_entities
from keeps.probe.kgquiz_negatives import STRATEGIES, Negatives
from keeps.probe.kgquiz_parse import told_blank, told_choice, told_entity, told_sentences, told_triples, told_truth
from keeps.probe.kgquiz_published import read_published
from keeps.probe.kgquiz_scores import score_blank, score_triples
from keeps.probe.similarity import TextSimilarity

GRAPHS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["r", "s"]), st.sampled_from("ABCDEFGHxyz")),
    min_size=1,
    max_size=30,
).map(lambda rows: TripleSet.of("it", [Triple(*row) for row in rows], symmetric=(rows[0][1],)))


def drawer(graph: TripleSet, **options: Any) -> Negatives:
    return Negatives(graph, **{"pool": 8, "seed": 0, "similarity": TextSimilarity(Letters()), **options})


@given(GRAPHS, st.sampled_from(STRATEGIES), st.integers(1, 4))
def test_wrong_tails_are_different_and_no_facts(graph: TripleSet, strategy: str, count: int) -> None:
    negatives = drawer(graph)
    for triple in graph.triples:
        if not negatives.enough(triple, strategy, count):
            with pytest.raises(EmptySetError):
                negatives.draw(triple, strategy, count)
            continue
        drawn = negatives.draw(triple, strategy, count)
        assert drawn == drawer(graph).draw(triple, strategy, count)
        assert len({name.casefold() for name in (*drawn, triple.tail)}) == count + 1
        assert not any(graph.holds(triple.head, triple.relation, name) for name in drawn)
        if strategy == "rs":
            assert set(drawn) <= set(graph.tails_of[triple.relation])


def test_near_names_are_joined_to_the_head_by_another_relation_before_they_are_two_hops_away() -> None:
    graph = TripleSet.of(
        "it",
        [Triple("a", "r", "t"), Triple("a", "s", "near"), Triple("far", "s", "near"), Triple("other", "r", "else")],
    )
    [triple, *_] = graph.triples
    assert drawer(graph).draw(triple, "np", 1) == ("near",)
    assert drawer(graph).draw(triple, "np", 2) == ("near", "far")
    assert not drawer(graph).enough(triple, "np", 3)


def test_the_nearest_of_the_pool_is_taken_and_a_pool_of_one_is_random() -> None:
    names = ["aab", "abb", "xyz", "qqq"]
    graph = TripleSet.of("it", [Triple("h", "r", "aaa"), *(Triple("z", "s", name) for name in names)])
    assert drawer(graph, pool=100).draw(graph.triples[0], "ss", 2) == ("aab", "abb")
    drawn = {drawer(graph, pool=1, seed=seed).draw(graph.triples[0], "ss", 1)[0] for seed in range(40)}
    assert drawn == {*names, "z"}


def test_random_wrong_tails_are_uniform() -> None:
    graph = TripleSet.of("it", [Triple("h", "r", "t"), *(Triple("z", "s", f"e{n}") for n in range(30))])
    drawn = Counter(drawer(graph, seed=seed).draw(graph.triples[0], "random", 1)[0] for seed in range(3100))
    assert len(drawn) == 31
    assert stats.chisquare(list(drawn.values())).pvalue > 0.01


def test_the_gold_option_is_at_every_place_alike() -> None:
    graph = TripleSet.of("it", [Triple(f"h{n}", "r", f"t{n}") for n in range(1000)])
    builder = Builder(graph, "it", drawer(graph), seed=3)
    items = [builder.choice(triple, "random") for triple in graph.triples]
    assert all(len(set(item.choices)) == 4 for item in items)
    places = Counter(item.choices.index(item.answer) for item in items)
    assert stats.chisquare([places[n] for n in range(4)]).pvalue > 0.01


@pytest.mark.parametrize("hops", [2, 3, 5])
def test_a_chain_holds_but_for_one_inner_name(hops: int) -> None:
    graph = ring()
    builder = Builder(graph, "it", drawer(graph), seed=0)
    found = chains(graph, hops, None, 0)
    assert len(found) == 12
    for chain in found:
        item = builder.editing(chain, "random")
        assert len(item.parts) == 2 * hops + 1
        right = [*item.parts[: item.slot], item.answer, *item.parts[item.slot + 1 :]]
        steps = list(zip(right[::2], right[1::2], right[2::2], strict=False))
        assert all(graph.holds(head, relation, tail) for head, relation, tail in steps)
        assert 0 < item.slot < 2 * hops
        wrong = item.parts[item.slot]
        assert not graph.holds(right[item.slot - 2], right[item.slot - 1], wrong)
        assert item.parts.count(wrong) == 1
    assert chains(graph, hops, 4, 0) == found[:4]


def test_entities_with_many_facts_are_found() -> None:
    assert rich_entities(ring(), 7, 0) == ["Aaville"]
    assert len(rich_entities(ring(), 1, 0)) == 12


def test_a_smaller_limit_asks_part_of_what_a_larger_one_does_and_tasks_share_facts() -> None:
    def asked(limit: int) -> list[Any]:
        data: Any = ring()
        probe: Any = KGQuiz(KGQuizSettings(negatives=("random",))).probe(Selection(data, 0, limit))
        return probe.items()

    small, large = asked(18), asked(42)
    for one, other in zip(small, large, strict=True):
        assert {item.id for item in one} < {item.id for item in other}
    facts = [{item.fact for item in block} for block in large]
    assert facts[0] < facts[1] == facts[2]
    assert Counter(item.answer for item in large[0]) == {"True": 7, "False": 7}


@pytest.mark.parametrize(
    ("text", "choices", "index"),
    [
        ("B", ("x", "y"), 1),
        ("b) ...", ("x", "y"), None),
        ("The answer is (A).", ("x", "y"), 0),
        ("A dog", ("cat", "dog"), 1),
        ("cat or dog", ("cat", "dog"), None),
        ("D", ("x", "y"), None),
        ("B. Norway", ("Rome", "Norway"), 1),
        ("", ("x", "y"), None),
    ],
)
def test_a_choice_is_told_by_letter_or_words(text: str, choices: tuple[str, ...], index: int | None) -> None:
    assert told_choice(text, choices) == index


def test_other_answers_are_read_as_they_are_meant() -> None:
    assert [told_truth(text) for text in ("FALSE.", "It is true, not false", "untrue", "")] == [False, True, None, None]
    assert told_blank("[MASK] should be Oslo.") == "Oslo"
    assert told_blank("\n  *Oslo*\nmore") == "Oslo"
    assert told_blank("") == ""
    parts = ("a", "r", "b", "s", "c")
    assert told_entity("The chain: a r new name s c", parts, 2) == "new name"
    assert told_entity("Sure!\na | r | d | s | c.", parts, 2) == "d"
    assert told_triples("(Oslo | is in | Norway)\nOslo | is in | Norway.\na | b") == [("Oslo", "is in", "Norway")]
    assert told_sentences("One. Two words! 3) Two words!\nTwo words!") == ["Two words!", "3) Two words!"]
    assert (lead_of("The [MASK] of it"), lead_of("It is [MASK]")) == ("", "It is")


def test_scores_of_a_blank_and_of_facts() -> None:
    alike = TextSimilarity(Letters())
    found = score_blank("the Oslo", "oslo", similarity=alike, tau=1.0)
    assert (found.exact_match, found.f1, found.lcs, found.cosine, found.semantic_match) == (1, 1, 1, 1, 1)
    assert score_blank("Oslo", "Rome", similarity=alike, tau=-1.0).semantic_match == 1
    with pytest.raises(ValueError, match="tau is 2"):
        score_blank("a", "b", tau=2)
    gold = [("Oslo", "is in", "Norway"), ("Oslo", "has", "a harbour"), ("Oslo", "is in", "Norway")]
    scores = score_triples(["Oslo is in Norway", ("Oslo", "is in", "Norway")], gold, similarity=alike, tau=0.999)
    assert (scores.precision, scores.recall) == (1.0, 0.5)


def test_published_files_of_either_layout_are_read_alike(tmp_path: Path) -> None:
    statement = 'Is the statement "chew  related to swallow" True or False?'
    blank = "chew  related to [MASK]. Replace the [MASK] with the words with the highest probability."
    chain, masked = "a\t r\tx\t s\tc", "a\t r\t[MASK]\t s\tc."
    facts = [["chew", " related to", "eat"], ["chew", " related to", "eat"], ["chew", "is a", "verb"]]
    nested = {
        "task1.json": {"semantic_similarity": {"0": {"question": statement, "ground_truth": 1}}},
        "task3.json": {"0": {"question": blank, "ground_truth": "gum"}},
        "task4.json": {
            "2": {
                "0": {"question": chain, "masked_sentence": masked, "ground_truth": "b"},
                "1": {"question": chain, "masked_sentence": masked.replace("a", "z"), "ground_truth": "b"},
                "2": {"question": chain, "masked_sentence": "[MASK]\t r\t[MASK]\t s\tc.", "ground_truth": "b"},
            }
        },
        "task5.json": {"0": {"question": "Tell me some facts about chew:", "ground_truth": facts}},
    }
    for folder in ("json", "jsonl"):
        (tmp_path / folder / "mine").mkdir(parents=True)
    for name, document in nested.items():
        (tmp_path / "json" / "mine" / name).write_text(json.dumps(document))
        lines = []
        for setting, group in document.items():
            several = {setting: group} if "question" in group else group
            own = None if "question" in group else setting
            lines += [json.dumps({"setting": own, "qid": number, **values}) for number, values in several.items()]
        (tmp_path / "jsonl" / "mine" / f"{name}l").write_text("\n".join(lines))
    one, other = (read_published(tmp_path / folder / "mine") for folder in ("json", "jsonl"))
    assert one.items == other.items
    assert (
        one.graph.triples
        == other.graph.triples
        == tuple(Triple("chew", *rest) for rest in (("related to", "eat"), ("is a", "verb"), ("related to", "gum")))
    )
    assert one.items[1][0].prompt == 'Is the statement "chew related to swallow" True or False?'
    assert one.items[3][0].accepted == ("gum", "eat")
    assert (one.items[4][0].parts, one.items[4][0].answer) == (("a", "r", "x", "s", "c"), "b")
    assert len(one.items[4]) == 1
    assert sum(one.left_out.values()) == 2
    assert len(one.items[5][0].facts) == 2


def test_a_folder_without_tasks_and_rows_without_truth_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no file of a KGQuiz task"):
        read_published(tmp_path)
    file = tmp_path / "task5_open.jsonl"
    file.write_text('{"qid": "1", "question": "Tell me some facts about x:", "ground_truth": []}\n')
    with pytest.raises(RecordError, match="missing"):
        read_published(tmp_path)
    file.write_text('{"qid": "1", "question": "Tell me some facts about x:", "ground_truth": [["a", "b"]]}\n')
    with pytest.raises(RecordError, match="no list of triples"):
        read_published(tmp_path)


@pytest.mark.shared_data
def test_the_published_sets_are_read_and_missing_tasks_are_built(shared_data: Path) -> None:
    if not (shared_data / "kgquiz").is_dir():
        pytest.skip("KGQuiz is not among the shared data")
    concept, yago = (read_published(shared_data / "kgquiz" / name) for name in ("conceptnet", "yago"))
    assert {task: len(items) for task, items in concept.items.items()} == {1: 500, 3: 500, 4: 457, 5: 200}
    assert sum(concept.left_out.values()) == 43
    assert all(item.relation for item in concept.items[3])
    assert {task: len(items) for task, items in yago.items.items()} == {3: 500, 5: 200}
    assert len(yago.graph) > 4000
    spec = f"{shared_data}/kgquiz/conceptnet,{shared_data}/kgquiz/yago"
    probe: Any = KGQuiz(KGQuizSettings(tasks=(1, 2, 3), negatives=("random",))).probe(Selection(spec, 0, 120))
    blocks = probe.items()
    assert [(block[0].domain, block[0].task, len(block)) for block in blocks] == [
        (name, task, 20) for name in ("conceptnet", "yago") for task in (1, 2, 3)
    ]
    assert Counter(item.answer for item in blocks[0]) == {"True": 10, "False": 10}
