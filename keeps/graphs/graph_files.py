"""Graphs from files and into files. JSONL keeps who states what; TSV, CSV and N-Triples hold the bare triples."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

from keeps.data.formats import jsonl_rows
from keeps.data.rdf import LABELS
from keeps.data.rows import Row
from keeps.data.triple_files import read_triples, triple_of
from keeps.errors import InputFileError, RecordError
from keeps.graphs.graph import Edge, KnowledgeGraph
from keeps.weights.files import atomic_write_bytes

_SPACE = "urn:keeps:"


def read_graph(path: str | Path, *, source: str | None = None) -> KnowledgeGraph:
    """The graph in a file: TSV, CSV, JSON, JSONL, Parquet, or RDF such as N-Triples (extra ``rdf``).

    Args:
        source: who states the triples; by default the file's name. Rows of JSONL with ``sources`` have those.

    Raises:
        InputFileError: the file is missing, damaged, or of no known format.
        RecordError: a part of a triple is missing.
        EmptySetError: there is no triple.
        MissingDependencyError: an RDF file, and its reader is not installed.
    """
    path = Path(path)
    graph, own = KnowledgeGraph(), source or path.name
    if path.suffix.lower() == ".jsonl" and path.is_file():
        rows = list(jsonl_rows(path))
        if any(row.values.get("sources") is not None for row in rows):
            for row in rows:
                for name in _stated_by(row, own):
                    graph.add([triple_of(row)], source=name)
            return graph
    graph.add(read_triples(path).triples, source=own)
    return graph


def _stated_by(row: Row, own: str) -> list[str]:
    """Who states the triple of a row."""
    sources = row.values.get("sources")
    if sources is None:
        return [own]
    texts = [row.values.get(name) for name in ("head", "relation", "tail")]
    texts += sources if isinstance(sources, list) and sources else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise row.error("head, relation, tail or sources is no text", "give texts, and a list of sources")
    return sources


def write_graph(graph: KnowledgeGraph, path: str | Path) -> None:
    """Write the graph as its name says: .jsonl (with sources), .tsv, .csv or .nt; whole, or not at all.

    Raises:
        InputFileError: the name has another ending.
        RecordError: an edge cannot be written in this format.
        StorageError: the disk is full, or the folder is missing or not writable.
    """
    path = Path(path)
    form = _FORMS.get(path.suffix.lower())
    if form is None:
        mend = f"use one of {', '.join(_FORMS)}"
        raise InputFileError(f'graphs are not written as "{path.suffix}"', where=str(path), mend=mend)
    braced = next((edge.relation for edge in graph if form is not _jsonl and set("{}") & set(edge.relation)), None)
    if braced is not None:  # readers of the other formats take braces for the places of a template
        raise RecordError(f'the relation "{braced}" holds braces', where=str(path), mend="write the graph as .jsonl")
    atomic_write_bytes(path, form(graph).encode())


def _jsonl(edges: Iterable[Edge]) -> str:
    rows = (
        {"head": edge.head, "relation": edge.relation, "tail": edge.tail, "sources": list(edge.sources)}
        for edge in edges
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _tsv(edges: Iterable[Edge]) -> str:
    return "".join("\t".join(parts) + "\n" for parts in [("head", "relation", "tail"), *map(_parts, edges)])


def _csv(edges: Iterable[Edge]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([("head", "relation", "tail"), *map(_parts, edges)])
    return out.getvalue()


def _nt(edges: Iterable[Edge]) -> str:
    """Every name as an address and a label, so that the names come back as they were."""
    names: dict[str, None] = {}
    lines = []
    for edge in edges:
        parts = _parts(edge)
        names |= dict.fromkeys(parts)
        lines.append(" ".join(f"<{_address(part)}>" for part in parts) + " .")
    labels = [f'<{_address(name)}> <{LABELS[0]}> "{_escaped(name)}" .' for name in names]
    return "".join(f"{line}\n" for line in (*lines, *labels))


def _parts(edge: Edge) -> tuple[str, str, str]:
    return edge.head, edge.relation, edge.tail


def _address(name: str) -> str:
    return _SPACE + quote(name, safe="")


def _escaped(text: str) -> str:
    bad = next((sign for sign in text if ord(sign) < 32 or "\ud800" <= sign <= "\udfff"), None)
    if bad is not None:
        mend = "take the sign out"
        raise RecordError(f"a name holds the sign {ord(bad):#x}", where=text[:60], mend=mend)
    return text.replace("\\", "\\\\").replace('"', '\\"')


_FORMS: dict[str, Callable[[Iterable[Edge]], str]] = {".jsonl": _jsonl, ".tsv": _tsv, ".csv": _csv, ".nt": _nt}
