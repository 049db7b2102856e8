"""WN18RR as a graph of words, and what it is asked: kinds of kinds of things, and questions of CommonsenseQA.

WN18RR has senses, each with one word and its gloss; its nodes are words here, as those of ConceptNet are, so that a
question can name them: senses of one word are one node. Function words are no nodes, nor are those by which the
relations are said, since no question is about them.

A question of two hops asks for the kind of the kind of a thing. All four candidates are two edges away from it, one by
those two relations: the graph holds the answer, and an edge alone does not give it away. Every word around such a
question has one sense, so that the answer is one.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keeps.claims.published import published_file, published_rows
from keeps.data.rows import lines
from keeps.data.triples import Triple, TripleSet
from keeps.data.walk_dialogues import WalkQuestion
from keeps.data.walks import ExactLinker, TripleWalk, between
from keeps.errors import InputFileError
from keeps.retrieval.lexical import stop_words

ENTITIES, RELATIONS = "wn18rr/entities.tsv", "wn18rr/relations.tsv"
EDGES = ("wn18rr/train.tsv", "wn18rr/valid.tsv", "wn18rr/test.tsv")
COMMONSENSE = "commonsense/commonsenseqa_sample.jsonl"
FILES = (ENTITIES, RELATIONS, *EDGES, COMMONSENSE)
KIND = "_hypernym"
TEMPLATES: Mapping[str, str] = {
    "_also_see": "{h} goes with {t}",
    "_derivationally_related_form": "{h} comes with {t}",
    "_has_part": "{t} is a part of {h}",
    KIND: "The kind of {h} is {t}",
    "_instance_hypernym": "{h} is an instance of {t}",
    "_member_meronym": "{t} is a member of {h}",
    "_member_of_domain_region": "{t} belongs to the region {h}",
    "_member_of_domain_usage": "{t} is used as {h}",
    "_similar_to": "{h} is similar to {t}",
    "_synset_domain_topic_of": "{h} belongs to the topic {t}",
    "_verb_group": "{h} is like {t}",
}
SAYING = "also goes comes with part kind instance member belongs region used similar topic like what".split()  # noqa: SIM905
CHOICES = 4
ASKED = "What is the kind of the kind of {thing}?"


@dataclass(frozen=True)
class WordNet:
    """The edges between words, and the words that have one sense alone."""

    triples: tuple[Triple, ...]
    single: frozenset[str]

    @property
    def graph(self) -> TripleWalk:
        """Something to walk on, in both directions."""
        return walk_of(self.triples)


@dataclass(frozen=True)
class Around:
    """A question of two hops, and the edges among the nodes between it and its choices."""

    question: WalkQuestion
    triples: tuple[Triple, ...]


def walk_of(triples: Sequence[Triple]) -> TripleWalk:
    """Edges in words."""
    said = {triple.relation for triple in triples}
    return TripleWalk(TripleSet.of("wn18rr", triples, templates={name: TEMPLATES[name] for name in sorted(said)}))


def read_wordnet(data: Path) -> WordNet:
    """WN18RR, its three parts together.

    Raises:
        InputFileError: a file is not there, or a line is not as published.
    """
    words = {row[0]: row[-1].partition(",")[0].strip().lower() for row in _rows(data, ENTITIES, 3)}
    relations = {row[0]: row[1] for row in _rows(data, RELATIONS, 2)}
    left_out = stop_words("english") | set(SAYING)
    triples: dict[Triple, None] = {}
    for name in EDGES:
        for head, relation, tail in _rows(data, name, 3):
            if head not in words or tail not in words or relations.get(relation) not in TEMPLATES:
                what = f"an edge {head}, {relation}, {tail} has an unknown part"
                raise InputFileError(what, where=str(data / name), mend="give files of one release of WN18RR")
            ends = words[head], words[tail]
            if ends[0] != ends[1] and not left_out & set(ends) and all(ends):
                triples[Triple(ends[0], relations[relation], ends[1])] = None
    counts = Counter(words.values())
    return WordNet(tuple(triples), frozenset(word for word, count in counts.items() if count == 1))


def _rows(data: Path, name: str, cells: int) -> Iterator[list[str]]:
    """Rows of a table without its header."""
    path = published_file(data, name)
    for number, line in lines(path):
        row = [cell.strip() for cell in line.rstrip("\r\n").split("\t")]
        if row[0] == "id" or not any(row):
            continue
        if len(row) != cells:
            what, where = f"the row has {len(row)} cells, not {cells}", f"{path}, line {number}"
            raise InputFileError(what, where=where, mend="put a tab between the cells")
        yield row


def kind_questions(net: WordNet, graph: TripleWalk, seed: int, count: int) -> list[Around]:
    """``count`` questions, no two of which have a node in common."""
    chance = random.Random(seed)
    kinds: dict[str, list[str]] = defaultdict(list)
    for triple in net.triples:
        if triple.relation == KIND:
            kinds[triple.head].append(triple.tail)
    things = sorted(set(kinds) & net.single)
    found: list[Around] = []
    taken: set[str] = set()
    for thing in chance.sample(things, len(things)):
        if len(found) == count:
            break
        made = _question(net, graph, kinds, thing, chance)
        if made is None:
            continue
        inside = set(between(graph, [thing], made.choices, 2))
        if inside & taken or not inside <= net.single:
            continue
        taken |= inside
        hops = (hop for node in sorted(inside) for hop in graph.hops(node) if not hop.inverse and hop.end in inside)
        found.append(Around(made, tuple(Triple(hop.start, hop.relation, hop.end) for hop in hops)))
    return found


def _question(
    net: WordNet, graph: TripleWalk, kinds: Mapping[str, Sequence[str]], thing: str, chance: random.Random
) -> WalkQuestion | None:
    """A question about ``thing``, if it has one kind of one kind, and enough other words two edges away."""
    if len(kinds[thing]) != 1 or len(kinds.get(kinds[thing][0], ())) != 1:
        return None
    middle = kinds[thing][0]
    gold = kinds[middle][0]
    near = [hop.end for hop in graph.hops(thing)]
    above, higher = {gold}, list(kinds.get(gold, ()))
    while higher:  # what is above the answer would be right too, in other words
        if (word := higher.pop()) not in above:
            above.add(word)
            higher += kinds.get(word, ())
    far = {hop.end for node in near for hop in graph.hops(node)} - {thing, *near} - above
    wrong = sorted(far & net.single)
    if gold in near or not {middle, gold} <= net.single or len(wrong) < CHOICES - 1:
        return None
    options = [gold, *chance.sample(wrong, CHOICES - 1)]
    chance.shuffle(options)
    return WalkQuestion(ASKED.format(thing=thing), tuple(options), gold)


def displaced(item: Around, chance: random.Random) -> list[Triple]:
    """The edges around a question with every choice where another one was, the answer too."""
    choices = item.question.choices
    steps = chance.randrange(1, len(choices))
    moved = {choice: choices[(place + steps) % len(choices)] for place, choice in enumerate(choices)}
    return [Triple(moved.get(t.head, t.head), t.relation, moved.get(t.tail, t.tail)) for t in item.triples]


def exchanged(triples: Sequence[Triple], chance: random.Random) -> list[Triple]:
    """The same heads, relations and ends, each end at another edge by chance; edges to themselves left out."""
    ends = [triple.tail for triple in triples]
    chance.shuffle(ends)
    made = [Triple(triple.head, triple.relation, end) for triple, end in zip(triples, ends, strict=True)]
    return [triple for triple in dict.fromkeys(made) if triple.head != triple.tail]


def commonsense_questions(data: Path) -> list[WalkQuestion]:
    """The questions of CommonsenseQA with their choices; those with a choice twice left out.

    Raises:
        InputFileError: the file is not there, or a row has no such choices.
    """
    found = []
    for place, row in enumerate(published_rows(data, COMMONSENSE, "question", "choices", "answer"), 1):
        choices, answer = row["choices"], row["answer"]
        if not isinstance(choices, dict) or answer not in choices:
            what, where = "the answer is none of the choices", f"{COMMONSENSE}, row {place}"
            raise InputFileError(what, where=where, mend='choices are {"A": "..."}, the answer is a letter')
        texts = tuple(str(text).strip() for text in choices.values())
        if len(set(texts)) == len(texts):
            found.append(WalkQuestion(str(row["question"]), texts, str(choices[answer]).strip()))
    return found


@dataclass(frozen=True)
class Linked:
    """Which texts name a node: of every question its nodes, and of every choice whether it has one."""

    starts: tuple[tuple[str, ...], ...]
    choices: tuple[tuple[bool, ...], ...]

    @property
    def share(self) -> float:
        """Of the choices."""
        flat = [linked for own in self.choices for linked in own]
        return sum(flat) / len(flat)

    @property
    def whole(self) -> list[bool]:
        """Which questions and all of their choices name a node."""
        return [bool(start) and all(own) for start, own in zip(self.starts, self.choices, strict=True)]


def linked(graph: TripleWalk, questions: Sequence[WalkQuestion]) -> Linked:
    """What the linker finds in the questions and their choices, apart from the walk's own code."""
    linker = ExactLinker(graph.nodes)
    starts, choices = [], []
    for item in questions:
        whole = [linker.whole(choice) for choice in item.choices]
        named = [{one} if one else set(linker.find(choice)) for one, choice in zip(whole, item.choices, strict=True)]
        ends = {node for node in set().union(*named) if node in whole or sum(node in own for own in named) == 1}
        starts.append(tuple(node for node in linker.find(item.question) if node not in ends))
        choices.append(tuple(map(bool, named)))
    return Linked(tuple(starts), tuple(choices))
