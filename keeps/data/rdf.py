"""Read an RDF graph (Turtle, N-Triples, N-Quads, TriG, RDF/XML, JSON-LD) as triples of names, through pyoxigraph.

An entity is called by its ``rdfs:label`` or ``skos:prefLabel`` (English or without a language first), else by the
end of its address. Triples that give labels are no facts; nor are those about a nameless (blank) node.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from keeps.data.rows import unreadable
from keeps.data.triples import Triple, name_key, relation_label
from keeps.errors import EmptySetError, InputFileError, MissingDependencyError

RDF_ENDINGS = (".ttl", ".nt", ".nq", ".trig", ".rdf", ".owl", ".n3", ".jsonld")
LABELS = ("http://www.w3.org/2000/01/rdf-schema#label", "http://www.w3.org/2004/02/skos/core#prefLabel")
LANGUAGES = ("en", "")  # in order of preference; any other comes last


def read_rdf(path: str | Path) -> list[Triple]:
    """The facts of an RDF file, by name.

    Two entities with one label are told apart by the ends of their addresses in brackets.

    Raises:
        MissingDependencyError: pyoxigraph is not installed (extra ``rdf``).
        InputFileError: the file cannot be read, or is not of the format of its name; with the line.
        EmptySetError: it holds no fact about named entities.
    """
    path = Path(path)
    quads = _quads(path)
    labels = _labels(quads)
    facts = [quad for quad in quads if quad.predicate.value not in LABELS]
    addresses = list(dict.fromkeys(address for quad in facts for address in _addresses(quad)))
    names = _names(addresses, labels)
    triples = []
    for quad in facts:
        head, tail = (_name(node, names, labels) for node in (quad.subject, quad.object))
        if head and tail:
            relation = labels.get(quad.predicate.value) or relation_label(_end(quad.predicate.value))
            triples.append(Triple(head, relation, tail))
    if not triples:
        mend = "give one with triples between named entities"
        raise EmptySetError("there is no fact in this graph", where=str(path), mend=mend)
    return triples


def _quads(path: Path) -> Sequence[Any]:
    try:
        import pyoxigraph  # pyright: ignore[reportMissingImports]  (optional)
    except ImportError:
        what = "reading RDF needs pyoxigraph"
        raise MissingDependencyError(what, where=str(path), mend='pip install "keeps[rdf]"') from None
    ending = path.suffix.lower().lstrip(".")
    kind = pyoxigraph.RdfFormat.from_extension({"owl": "rdf"}.get(ending, ending))
    if kind is None:
        raise InputFileError(f'"{ending}" is no RDF format', where=str(path), mend=f"use {', '.join(RDF_ENDINGS)}")
    try:
        with path.open("rb") as stream:
            return list(pyoxigraph.parse(stream, format=kind, base_iri=path.resolve().as_uri()))
    except SyntaxError as error:
        place = f"{path}, line {error.lineno}" if error.lineno else str(path)
        what = f"the graph cannot be read ({error.msg})"
        raise InputFileError(what, where=place, mend="correct it there") from None
    except ValueError as error:
        raise InputFileError(f"the graph cannot be read ({error})", where=str(path), mend="write it again") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _labels(quads: Sequence[Any]) -> dict[str, str]:
    best: dict[str, tuple[int, str]] = {}
    for quad in quads:
        if quad.predicate.value not in LABELS or not hasattr(quad.object, "language"):
            continue
        language = (quad.object.language or "").partition("-")[0]
        rank = LANGUAGES.index(language) if language in LANGUAGES else len(LANGUAGES)
        known = best.get(quad.subject.value)
        if quad.object.value.strip() and (known is None or rank < known[0]):
            best[quad.subject.value] = (rank, quad.object.value)
    return {address: label for address, (_, label) in best.items()}


def _addresses(quad: Any) -> list[str]:
    return [node.value for node in (quad.subject, quad.object) if _is_named(node)]


def _is_named(node: Any) -> bool:
    return type(node).__name__ == "NamedNode"


def _names(addresses: Sequence[str], labels: Mapping[str, str]) -> dict[str, str]:
    plain = {address: labels.get(address) or _end(address) for address in addresses}
    counts = Counter(map(name_key, plain.values()))
    return {
        address: name if counts[name_key(name)] == 1 else f"{name} ({_end(address)})" for address, name in plain.items()
    }


def _name(node: Any, names: Mapping[str, str], labels: Mapping[str, str]) -> str:
    """What a node is called; "" of a blank one without a label."""
    if _is_named(node):
        return names[node.value]
    if hasattr(node, "language"):  # a literal
        return node.value.strip()
    return labels.get(getattr(node, "value", ""), "")


def _end(address: str) -> str:
    """The last part of an address in words.

    >>> _end("http://example.org/Oslo_Airport"), _end("http://example.org/voc#playsFor")
    ('Oslo Airport', 'playsFor')
    """
    last = re.split(r"[/#:]", address.rstrip("/#"))[-1]
    return " ".join(unquote(last).replace("_", " ").split()) or address
