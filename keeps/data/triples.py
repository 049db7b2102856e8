"""Triples of a knowledge graph: head, relation, tail; how each relation is said; what else is true of a head.

A relation is said by its template, such as ``"{h} plays for {t}"``. Without templates its own words are taken:
``playsFor`` and ``plays_for`` become "plays for".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from keeps.data.records import Fact
from keeps.errors import EmptySetError, RecordError, UnknownNameError, nearest

MASK = "[MASK]"
_EMPTY: Mapping = MappingProxyType({})
_ARTICLE = re.compile(r"\b([Aa]) (?=\{h\})")


@dataclass(frozen=True)
class Triple:
    """One fact: ``relation`` leads from ``head`` to ``tail``."""

    head: str
    relation: str
    tail: str

    @property
    def id(self) -> str:
        """Hash of the content (12 hexadecimal digits)."""
        content = json.dumps([self.head, self.relation, self.tail], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class TripleSet:
    """Different triples with the templates of their relations.

    Attributes:
        triples: in order, none twice; :meth:`of` strips, checks and leaves repeated ones out.
        templates: of every relation, with ``{h}`` and ``{t}`` once each.
        accepted: further tails that are right for a head and a relation (other names, other objects); they are
            neither asked nor taken as wrong.
        symmetric: relations that hold in both directions.
        inverses: relation to the one that says the same in the other direction; both ways.
        duplicates: how many repeated triples were left out.

    >>> graph = TripleSet.of("mine", [Triple("Norway", "hasCapital", "Oslo")])
    >>> graph.statement(graph.triples[0]), graph.masked(graph.triples[0])
    ('Norway has capital Oslo', 'Norway has capital [MASK]')
    """

    source: str
    triples: tuple[Triple, ...]
    templates: Mapping[str, str]
    accepted: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=lambda: _EMPTY)
    symmetric: frozenset[str] = frozenset()
    inverses: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    duplicates: int = 0

    @classmethod
    def of(
        cls,
        source: str,
        triples: Iterable[Triple],
        *,
        templates: Mapping[str, str] | None = None,
        accepted: Mapping[tuple[str, str], Sequence[str]] = _EMPTY,
        symmetric: Sequence[str] = (),
        inverses: Mapping[str, str] = _EMPTY,
    ) -> TripleSet:
        """The set of these triples: white space made single, repeated ones left out and counted.

        Args:
            templates: relation to template; None says every relation in its own words.

        Raises:
            EmptySetError: there is no triple.
            RecordError: a part of a triple is empty, a relation has no template, or a template is none.
            UnknownNameError: what is declared symmetric or inverse is no relation of the set.
        """
        given = [_checked(triple, f"{source}, triple {number}") for number, triple in enumerate(triples, 1)]
        kept = tuple(dict.fromkeys(given))
        if not kept:
            raise EmptySetError("there is no triple", where=source, mend="add at least one head, relation and tail")
        relations = list(dict.fromkeys(triple.relation for triple in kept))
        for name in (*symmetric, *inverses, *inverses.values()):
            if name not in relations:
                raise UnknownNameError(
                    f'no triple has the relation "{name}"', where=source, mend=nearest(name, relations)
                )
        return cls(
            source,
            kept,
            _templates(relations, templates, source),
            {key: tuple(squeezed(tail) for tail in tails) for key, tails in accepted.items()},
            frozenset(symmetric),
            {**inverses, **{other: name for name, other in inverses.items()}},
            len(given) - len(kept),
        )

    @classmethod
    def from_facts(cls, facts: Iterable[Fact], *, source: str = "facts") -> TripleSet:
        """Facts as triples: the canonical answer is the tail, the others are accepted.

        The template of a relation is the first wording that most of its facts share.

        Raises:
            EmptySetError: there is no fact.
        """
        wordings: dict[str, Counter[str]] = {}
        triples, accepted = [], {}
        for fact in facts:
            triples.append(Triple(fact.subject, fact.relation, fact.answers[0]))
            key = (squeezed(fact.subject), squeezed(fact.relation))
            accepted[key] = (*accepted.get(key, ()), *fact.answers[1:])
            wordings.setdefault(key[1], Counter())[_wording(fact)] += 1
        templates = {relation: counts.most_common(1)[0][0] for relation, counts in wordings.items()}
        templates = {relation: text or relation_words(relation) for relation, text in templates.items()}
        return cls.of(source, triples, templates=templates, accepted=accepted)

    def __len__(self) -> int:
        return len(self.triples)

    @cached_property
    def entities(self) -> tuple[str, ...]:
        """Every head and tail once, in order of first appearance."""
        return tuple(dict.fromkeys(name for triple in self.triples for name in (triple.head, triple.tail)))

    @cached_property
    def relations(self) -> tuple[str, ...]:
        """Every relation once, in order of first appearance."""
        return tuple(dict.fromkeys(triple.relation for triple in self.triples))

    @cached_property
    def outgoing(self) -> Mapping[str, tuple[Triple, ...]]:
        """The triples that begin at each head."""
        return _grouped(self.triples, lambda triple: triple.head)

    @cached_property
    def incoming(self) -> Mapping[str, tuple[Triple, ...]]:
        """The triples that end at each tail."""
        return _grouped(self.triples, lambda triple: triple.tail)

    @cached_property
    def tails_of(self) -> Mapping[str, tuple[str, ...]]:
        """Every tail of each relation once."""
        groups = _grouped(self.triples, lambda triple: triple.relation)
        return {name: tuple(dict.fromkeys(triple.tail for triple in group)) for name, group in groups.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of triples, templates and declarations (16 hexadecimal digits), whatever file they came from."""
        declared = [sorted(self.symmetric), sorted(self.inverses.items())]
        accepted = [[*key, *tails] for key, tails in sorted(self.accepted.items())]
        digest = hashlib.sha256(json.dumps([sorted(self.templates.items()), accepted, declared]).encode())
        for triple in self.triples:
            digest.update(triple.id.encode())
        return digest.hexdigest()[:16]

    def tails(self, head: str, relation: str) -> tuple[str, ...]:
        """Every tail that is right for ``head`` and ``relation``: those of triples first, inverses and accepted too."""
        key = (head, relation)
        return tuple(dict.fromkeys([*self._objects.get(key, ()), *self.accepted.get(key, ())]))

    def holds(self, head: str, relation: str, tail: str) -> bool:
        """Whether the graph says so, whatever case and spaces the tail is written in."""
        return name_key(tail) in self._keys(head, relation)

    def statement(self, triple: Triple) -> str:
        """The triple in words."""
        return self._said(triple.head, triple.relation, triple.tail)

    def masked(self, triple: Triple) -> str:
        """The triple in words, with :data:`MASK` for the tail."""
        return self._said(triple.head, triple.relation, MASK)

    def _said(self, head: str, relation: str, tail: str) -> str:
        template = self.templates[relation]
        if head[:1] in "aeiouAEIOU":
            template = _ARTICLE.sub(r"\1n ", template)
        before, _, rest = template.partition("{h}")
        said = f"{before.replace('{t}', tail)}{head}{rest.replace('{t}', tail)}"
        return said[:1].upper() + said[1:] if template[:1].isupper() else said

    def _keys(self, head: str, relation: str) -> frozenset[str]:
        key = (head, relation)
        if key not in self._key_cache:
            self._key_cache[key] = frozenset(map(name_key, self.tails(head, relation)))
        return self._key_cache[key]

    @cached_property
    def _key_cache(self) -> dict[tuple[str, str], frozenset[str]]:
        return {}

    @cached_property
    def _objects(self) -> Mapping[tuple[str, str], tuple[str, ...]]:
        found: dict[tuple[str, str], dict[str, None]] = {}
        for triple in self.triples:
            found.setdefault((triple.head, triple.relation), {})[triple.tail] = None
        for triple in self.triples:  # those that only a declaration makes true come after those that are written
            if triple.relation in self.symmetric:
                found.setdefault((triple.tail, triple.relation), {})[triple.head] = None
            if triple.relation in self.inverses:
                found.setdefault((triple.tail, self.inverses[triple.relation]), {})[triple.head] = None
        return {key: tuple(tails) for key, tails in found.items()}


def name_key(name: str) -> str:
    """What two spellings of a name share: no case, single spaces.

    >>> name_key(" New  York") == name_key("new york")
    True
    """
    return squeezed(name).casefold()


def squeezed(text: str) -> str:
    """``text`` without white space around it, and single spaces inside."""
    return " ".join(text.split())


def relation_words(relation: str) -> str:
    """The words in a relation's name, as its template.

    >>> relation_words("isAffiliatedTo"), relation_words("_has_part"), relation_words("plays for")
    ('{h} is affiliated to {t}', '{h} has part {t}', '{h} plays for {t}')
    """
    return f"{{h}} {relation_label(relation)} {{t}}"


def relation_label(relation: str) -> str:
    """The words in a relation's name."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", relation) if " " not in relation.strip() else relation
    words = [word if word.isupper() else word[:1].lower() + word[1:] for word in re.split(r"[\s_]+", parts) if word]
    return " ".join(words) or relation


def template_of(text: str, where: str) -> str:
    """``text`` as a template: ``"{h} plays for {t}"``, ``"[X] plays for [Y]"`` or only ``"plays for"``.

    Raises:
        RecordError: head or tail stand in it twice, or only one of them.
    """
    plain = squeezed(text).replace("[X]", "{h}").replace("[Y]", "{t}")
    if plain and not any(sign in plain for sign in "{}"):
        return f"{{h}} {plain} {{t}}"
    if plain.count("{h}") != 1 or plain.count("{t}") != 1 or re.search(r"[{}]", re.sub(r"\{[ht]\}", "", plain)):
        mend = 'write the head as {h} and the tail as {t}, once each, as in "{h} plays for {t}"'
        raise RecordError(f'"{text}" is no template', where=where, mend=mend)
    return plain


def _checked(triple: Triple, where: str) -> Triple:
    parts = {name: squeezed(getattr(triple, name)) for name in ("head", "relation", "tail")}
    for name, text in parts.items():
        if not text:
            raise RecordError(f"the {name} is empty", where=where, mend="fill it in, or take the triple out")
        if MASK in text:
            raise RecordError(f"the {name} holds {MASK}", where=where, mend="write it in other signs")
    return Triple(**parts)


def _templates(relations: Sequence[str], given: Mapping[str, str] | None, source: str) -> dict[str, str]:
    if given is None:
        return {name: template_of(relation_words(name), f'{source}, relation "{name}"') for name in relations}
    known = {squeezed(name): template for name, template in given.items()}
    missing = [name for name in relations if name not in known]
    if missing:
        shown = ", ".join(f'"{name}"' for name in missing[:5]) + (", ..." if len(missing) > 5 else "")
        what = f"{len(missing)} of {len(relations)} relations have no template: {shown}"
        raise RecordError(what, where=source, mend="give each one, or no templates at all")
    return {name: template_of(known[name], f'{source}, template of "{name}"') for name in relations}


def _wording(fact: Fact) -> str:
    """The first wording with ``{h}`` for the subject and the answer behind it; "" where the subject is not in it."""
    prompt, subject = squeezed(fact.prompts[0]), squeezed(fact.subject)
    for name in (subject, subject[:1].upper() + subject[1:]):
        if prompt.count(name) == 1 and not any(sign in prompt for sign in "{}"):
            space = "" if prompt.endswith("+") else " "
            return f"{prompt.replace(name, '{h}')}{space}{{t}}"
    return ""


def _grouped(triples: Iterable[Triple], key: Callable[[Triple], str]) -> dict[str, tuple[Triple, ...]]:
    found: dict[str, list[Triple]] = {}
    for triple in triples:
        found.setdefault(key(triple), []).append(triple)
    return {name: tuple(group) for name, group in found.items()}
