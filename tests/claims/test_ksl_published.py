"""Knowledge Solver on WN18RR: the files are read as published, two hops are two hops, and the checks can fail."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from keeps.claims.base import Check, ClaimRun
from keeps.claims.ksl import Stub
from keeps.claims.ksl_published import (
    NOTHING,
    WALK,
    WRONG,
    edges_known,
    gained,
    no_help,
    published_checks,
    refused,
    table,
    wrong_around,
    wrong_everywhere,
)
from keeps.claims.ksl_wordnet import (
    KIND,
    WordNet,
    commonsense_questions,
    displaced,
    exchanged,
    kind_questions,
    linked,
    read_wordnet,
)
from keeps.contracts import Answer
from keeps.data.triples import Triple
from keeps.data.walk_dialogues import WalkQuestion
from keeps.data.walks import ExactLinker, distances
from keeps.errors import InputFileError

FAMILIES = 9  # in the invented files


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Families of a thing, its siblings, their kind and the kind of that, as WN18RR would have them."""
    words, edges = ["run, move fast", "run, a score", "what, no concept of a question"], []
    for family in range(FAMILIES):
        base = len(words)
        names = [f"{kind}{family}" for kind in ("thing", "sister", "brother", "cousin", "sort", "class")]
        words += [f'{name}, something called "{name}"' for name in names]
        edges += [(base + place, 3, base + 4) for place in range(4)] + [(base + 4, 3, base + 5), (base + 5, 3, 0)]
    rows = "".join(f"{number}\t{number:08}\t{text}\n" for number, text in enumerate(words))
    write(tmp_path, "wn18rr/entities.tsv", f"id\tsynset_offset\ttext\n{rows}")
    write(tmp_path, "wn18rr/relations.tsv", "id\tname\n2\t_has_part\n3\t_hypernym\n")
    lines = [f"{head}\t{relation}\t{tail}\n" for head, relation, tail in edges]
    write(tmp_path, "wn18rr/train.tsv", "".join(lines[2:]))
    write(tmp_path, "wn18rr/valid.tsv", lines[0])
    write(tmp_path, "wn18rr/test.tsv", lines[1] + "0\t2\t1\n0\t2\t2\n")  # one word on both ends; a word of questions
    asked = [
        {"question": "Is thing0 there?", "choices": {"A": "sort0", "B": "the sister0"}, "answer": "B"},
        {"question": "Is thing1 there?", "choices": {"A": "sort1", "B": "elsewhere"}, "answer": "A"},
        {"question": "Who is there?", "choices": {"A": "sort1", "B": "sort2"}, "answer": "A"},
        {"question": "Twice?", "choices": {"A": "sort1", "B": "sort1"}, "answer": "A"},
    ]
    write(tmp_path, "commonsense/commonsenseqa_sample.jsonl", "\n".join(json.dumps(row) for row in asked))
    return tmp_path


def test_senses_of_one_word_are_one_node_and_words_of_the_questions_none(published: Path) -> None:
    net = read_wordnet(published)
    assert Triple("thing0", KIND, "sort0") in net.triples
    assert len(net.triples) == 6 * FAMILIES
    assert "what" not in net.graph.nodes
    assert "run" in net.graph.nodes
    assert "run" not in net.single
    assert "thing0" in net.single
    assert net.graph.hops("thing0")[0].line == "The kind of thing0 is sort0"


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("wn18rr/valid.tsv", "0\t3\n", r"2 cells, not 3.*line 1"),
        ("wn18rr/train.tsv", "0\t3\t99999\n", "unknown part"),
        ("wn18rr/relations.tsv", "id\tname\n2\t_has_part\n3\t_is_a\n", "unknown part"),
        ("commonsense/commonsenseqa_sample.jsonl", '{"question": "?", "choices": {"A": "x"}, "answer": "B"}', "row 1"),
    ],
)
def test_files_that_are_not_as_published_are_refused(published: Path, name: str, text: str, match: str) -> None:
    write(published, name, text)
    read = commonsense_questions if name.startswith("commonsense") else read_wordnet
    with pytest.raises(InputFileError, match=match):
        read(published)


def holds_what_is_asked(net: WordNet, count: int) -> None:
    """The answer is the kind of the kind; every choice is two edges away; no two questions share a node."""
    graph, linker = net.graph, ExactLinker(net.graph.nodes)
    found = kind_questions(net, graph, 0, count)
    assert len(found) == count
    seen: set[str] = set()
    for item in found:
        question = item.question
        (thing,) = (node for node in linker.find(question.question) if node not in question.choices)
        (middle,) = (edge.tail for edge in net.triples if (edge.head, edge.relation) == (thing, KIND))
        assert [edge.tail for edge in net.triples if (edge.head, edge.relation) == (middle, KIND)] == [question.answer]
        away = distances(graph, [thing], 2)
        assert len(question.choices) == 4
        assert {away[choice] for choice in question.choices} == {2}
        nodes = {node for edge in item.triples for node in (edge.head, edge.tail)}
        assert {thing, *question.choices} <= nodes
        assert not nodes & seen
        seen |= nodes


def test_the_graph_holds_the_answer_of_every_question_of_two_hops(published: Path) -> None:
    holds_what_is_asked(read_wordnet(published), FAMILIES - 1)


@pytest.mark.shared_data
def test_wn18rr_gives_questions_of_two_hops(shared_data: Path) -> None:
    if not (shared_data / "wn18rr").is_dir():
        pytest.skip("WN18RR is not there")
    net = read_wordnet(shared_data)
    assert len(net.triples) > 80_000
    holds_what_is_asked(net, 40)
    questions = commonsense_questions(shared_data)
    assert len(questions) == 99  # one of the hundred has a choice twice
    assert linked(net.graph, questions).share > 0.7


def test_an_exchange_keeps_heads_relations_and_ends_and_moves_most_of_them() -> None:
    given = [Triple(f"a{n}", "r", f"b{n}") for n in range(40)]
    made = exchanged(given, random.Random(0))
    assert sorted(edge.head for edge in made) == sorted(edge.head for edge in given)
    assert sorted(edge.tail for edge in made) == sorted(edge.tail for edge in given)
    assert len(set(made) & set(given)) < 10
    assert exchanged([Triple("a", "r", "b"), Triple("b", "r", "a")], random.Random(1)) == []  # to themselves


def test_in_the_wrong_graph_the_kind_of_a_kind_is_a_wrong_choice(published: Path) -> None:
    net = read_wordnet(published)
    around = kind_questions(net, net.graph, 0, 6)
    for seed in range(20):
        for item in around:
            edges = displaced(item, random.Random(seed))
            assert len(set(edges)) == len(item.triples)
            above = {edge.head: edge.tail for edge in edges}
            thing = item.question.question.split()[-1].removesuffix("?")
            reached = above[above[thing]]
            assert reached in set(item.question.choices) - {item.question.answer}
    assert set(wrong_around(around).nodes) == {e for item in around for t in item.triples for e in (t.head, t.tail)}


def test_in_the_wrong_graph_of_commonsenseqa_edges_lead_elsewhere(published: Path) -> None:
    net = read_wordnet(published)
    edges = set(wrong_everywhere(net).triples.triples)
    assert len(edges & set(net.triples)) < len(edges) / 3
    assert {edge.relation for edge in edges} == {KIND}


def test_questions_and_choices_are_linked_or_not(published: Path) -> None:
    graph, questions = read_wordnet(published).graph, commonsense_questions(published)
    assert [item.answer for item in questions] == ["the sister0", "sort1", "sort1"]
    found = linked(graph, questions)
    assert found.starts == (("thing0",), ("thing1",), ())
    assert found.choices == ((True, True), (True, False), (True, True))
    assert found.whole == [True, False, False]
    assert found.share == pytest.approx(5 / 6)


def test_what_is_not_linked_is_refused_and_a_method_that_does_otherwise_is_found_out(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, questions, first = read_wordnet(published).graph, commonsense_questions(published), Stub(lambda ask: 0)
    assert refused(first, graph, questions).holds

    class Careless(ExactLinker):
        def whole(self, text: str) -> str | None:
            del text
            return super().whole("run")

    monkeypatch.setattr("keeps.ground.kg_search.ExactLinker", Careless)
    check = refused(first, graph, questions)
    assert not check.holds
    assert check.measured == 1


def said(texts: Sequence[str]) -> list[Answer]:
    return [Answer(text, trace={"stop": "answer_node", "supported": True, "path": []}) for text in texts]


def judged(before: str, after: str, wrong: str) -> list[Check]:
    """Ten questions; each letter says whether an answer is right."""
    questions = [WalkQuestion("?", ("y", "n"), "y")] * 10
    answers = {NOTHING: said(before), WALK: said(after), WRONG: said(wrong)}
    assert table(answers, questions)[WALK]["right"] == after.count("y") / 10
    return [gained("ten", answers, questions, 0.1), gained("ten", answers, questions, 0.0),
            no_help("wrong", answers, questions)]  # fmt: skip


def test_a_walk_that_does_not_gain_and_a_wrong_graph_that_does_are_found_out() -> None:
    assert [check.holds for check in judged("yynnnnnnnn", "yyyynnnnnn", "yynnnnnnnn")] == [True, True, True]
    assert [check.holds for check in judged("yynnnnnnnn", "nnyyynnnnn", "nnnnnnnnnn")] == [True, True, True]
    assert [check.holds for check in judged("yynnnnnnnn", "nnyynnnnnn", "yyynnnnnnn")] == [False, False, False]
    assert not judged("yyynnnnnnn", "yynnnnnnnn", "yyynnnnnnn")[1].holds


def test_an_edge_that_is_not_in_the_graph_is_found_out(published: Path) -> None:
    graph = read_wordnet(published).graph
    hop = {"head": "thing0", "relation": KIND, "tail": "sort0"}
    assert edges_known(graph, [Answer("x", trace={"path": [hop]})]).holds
    assert not edges_known(graph, [Answer("x", trace={"path": [hop, {**hop, "tail": "sort1"}]})]).holds
    assert not edges_known(graph, [Answer("x", trace={"path": []})]).holds


def test_the_whole_form_runs_on_files_in_the_published_format(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keeps.claims.ksl_published.KINDS", {"default": 6})
    run, first = ClaimRun(data=published), Stub(lambda ask: 0)
    checks = list(published_checks(first, first, published, run))
    assert len(checks) == 6
    assert {check.name: check.holds for check in checks}["edges of the paths of two hops that are in WN18RR"]
    assert set(run.tables) == {"two hops", "CommonsenseQA", "CommonsenseQA, linked"}
    assert run.tables["two hops"]["walk"]["stops"] == {"answer_node": 6}
