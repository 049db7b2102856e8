"""Questions, passages and candidates of the claims about grounding, made of the built-in world."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keeps.contracts import Answer
from keeps.data.records import Fact
from keeps.data.select import load_records
from keeps.retrieval.corpus import Corpus
from keeps.retrieval.embedders import DEFAULT_ENCODER
from keeps.retrieval.hybrid import HybridRetriever
from keeps.sources import Hit

QUESTIONS: Mapping[str, str] = {
    "capital": "What is the capital of {subject}?",
    "currency": "What is the currency of {subject}?",
    "country_of_city": "In which country is the city of {subject}?",
    "discoverer": "Who discovered the element {subject}?",
    "symbol": "What is the chemical symbol of {subject}?",
    "calling_code": "What is the international calling code of {subject}?",
}
OTHERS = 3  # wrong candidates beside the right one


@dataclass(frozen=True)
class Item:
    """One question about a fact.

    Attributes:
        answers: accepted, the canonical one first.
        planted: the object that a counterfactual passage gives the subject.
        candidates: the right one, the planted one, and others of the same kind, in an order that tells nothing.
    """

    id: str
    subject: str
    relation: str
    question: str
    answers: tuple[str, ...]
    planted: str
    candidates: tuple[str, ...]
    statement: str
    planted_statement: str


def items(spec: str) -> list[Item]:
    """The facts that ``spec`` selects, as questions; their other candidates are objects of the same relation."""
    facts = [record for record in load_records(spec) if isinstance(record, Fact) and record.relation in QUESTIONS]
    objects = {relation: _objects(relation) for relation in {fact.relation for fact in facts}}
    return [_item(fact, objects[fact.relation]) for fact in facts]


def statements(spec: str, *, planted: bool = False) -> dict[str, str]:
    """A sentence for every fact that ``spec`` selects, by id; ``planted`` ones give each subject another object."""
    return {item.id: item.planted_statement if planted else item.statement for item in items(spec)}


def context(item: Item, others: Sequence[Item], *, planted: bool, length: int = 8) -> str:
    """A passage of ``length`` sentences, the one about the item among statements about other subjects."""
    said = item.planted_statement if planted else item.statement
    around = [other for other in others if other.subject != item.subject and other.answers[0] != item.planted]
    around = sorted(around, key=lambda other: _order(f"{item.id}/{other.id}"))[: length - 1]
    place = _order(f"{item.id}/place") % length
    sentences = [other.statement for other in around]
    return " ".join([*sentences[:place], said, *sentences[place:]])


def retrievers(documents: Mapping[str, str], ways: Sequence[str]) -> dict[str, HybridRetriever]:
    """Retrievers over ``documents`` by way of searching: ``lexical``, ``dense``, ``hybrid``."""
    corpus = Corpus.create(encoder=DEFAULT_ENCODER if set(ways) & {"dense", "hybrid"} else None)
    corpus.add(list(documents.values()), ids=list(documents))
    return {way: HybridRetriever(corpus, lexical=way != "dense", dense=way != "lexical") for way in ways}


def lexical_retriever(documents: Mapping[str, str]) -> HybridRetriever:
    """BM25 over ``documents``."""
    return retrievers(documents, ("lexical",))["lexical"]


class Nothing:
    """A retriever that finds nothing, so that the model answers alone."""

    def search(self, query: str, k: int) -> list[Hit]:
        """Nothing."""
        del query, k
        return []


def unresolved(answers: Sequence[Answer], documents: Mapping[str, str]) -> int:
    """How many answers have a passage or a citation that leads to no text of ``documents``."""
    return sum(not _resolves(answer, documents) for answer in answers)


@dataclass(frozen=True)
class TwoHops:
    """A question whose answer stands in ``document``, which it does not name."""

    question: str
    answers: tuple[str, ...]
    document: str


def two_hop_world(count: int) -> tuple[list[TwoHops], dict[str, str]]:
    """Questions for the currency of a city's country, and sentences of cities and of currencies."""
    cities = items("world:country_of_city#60")
    currencies = {item.subject: item for item in items("world:currency")}
    known = [city for city in cities if city.answers[0] in currencies]
    found = [
        TwoHops(
            f"What is the currency of the country in which the city of {city.subject} lies?",
            currencies[city.answers[0]].answers,
            currencies[city.answers[0]].id,
        )
        for city in known[:count]
    ]
    documents = {item.id: item.statement for item in (*cities, *currencies.values())}
    return found, documents


def _resolves(answer: Answer, documents: Mapping[str, str]) -> bool:
    read = {item["id"]: item for item in answer.trace["passages"]}
    whole = all(item["span"][1] <= len(documents.get(item["document"], "")) for item in read.values())
    return whole and set(answer.citations) <= set(read)


def _objects(relation: str) -> tuple[str, ...]:
    facts = [record for record in load_records(f"world:{relation}") if isinstance(record, Fact)]
    return tuple(dict.fromkeys(fact.answers[0] for fact in facts))


def _item(fact: Fact, objects: Sequence[str]) -> Item:
    wrong = [name for name in objects if name not in fact.answers]
    wrong.sort(key=lambda name: _order(f"{fact.id}/{name}"))
    chosen = wrong[:OTHERS]
    candidates = sorted((fact.answers[0], *chosen), key=lambda name: _order(f"{fact.id}/order/{name}"))
    return Item(
        id=fact.id,
        subject=fact.subject,
        relation=fact.relation,
        question=QUESTIONS[fact.relation].format(subject=fact.subject),
        answers=fact.answers,
        planted=chosen[0],
        candidates=tuple(candidates),
        statement=_sentence(fact.prompts[0], fact.answers[0]),
        planted_statement=_sentence(fact.prompts[0], chosen[0]),
    )


def _sentence(prompt: str, answer: str) -> str:
    joined = f"{prompt}{answer}" if prompt.endswith("+") else f"{prompt} {answer}"
    return joined if joined.endswith(".") else f"{joined}."


def _order(text: str) -> int:
    """A number that looks random and is the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
