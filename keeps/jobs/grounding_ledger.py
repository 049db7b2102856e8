"""Graded answers in the ledger: one result a method, and what is there already is not asked again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keeps.contracts import Answer, Row
from keeps.data.entities import EntityBase
from keeps.jobs.grounding_measures import Graded
from keeps.jobs.grounding_questions import Asked
from keeps.ledger.store import Ledger
from keeps.ledger.workspace import Workspace
from keeps.registry import MethodInfo
from keeps.retrieval.hybrid import HybridRetriever
from keeps.settings import Settings

PROBE = "ground"
RULE = "ground-1"  # how answers are graded; another rule is another probe


@contextmanager
def recording(
    record: bool, asked: Asked, model: Any, source: str | None, *, seed: int, workspace: str | Path | None
) -> Iterator[GroundLedger | None]:
    """The ledger, ready for these questions; None where nothing can or is to be stored.

    Args:
        source: hash of what is looked into; None where it has none, so that nobody could say later what was asked.
    """
    storable = asked.gradable and len(set(asked.ids)) == len(asked.ids) and hasattr(model, "fingerprint")
    if not record or source is None or not storable:
        yield None
        return
    with Workspace(workspace).ledger() as ledger:
        yield GroundLedger(ledger, asked, model, source, seed)


class GroundLedger:
    """What methods answered to one set of questions, from one source, with one model."""

    def __init__(self, ledger: Ledger, asked: Asked, model: Any, source: str, seed: int) -> None:
        self.ledger, self.asked, self.model = ledger, asked, str(getattr(model, "name", type(model).__name__))
        self.probe = _hash(RULE, asked.ids, asked.questions, asked.expected)
        self._base = (model.fingerprint, source, seed)

    def subject(self, info: MethodInfo, settings: Settings) -> str:
        """Identity of what answers: model, source, method and every setting."""
        return _hash(*self._base, info.name, settings.to_mapping())

    def find(self, info: MethodInfo, settings: Settings) -> tuple[tuple[Answer, ...], dict[str, str]] | None:
        """The stored answers and the texts of what they cite; None where there are none."""
        stored = self.ledger.find_result(self.subject(info, settings), self.probe)
        if stored is None:
            return None
        rows = self.ledger.rows(stored.id)
        answers = [Answer(row.answer, tuple(row.details["citations"]), row.details["trace"]) for row in rows]
        return tuple(answers), {name: text for row in rows for name, text in row.details["cited"].items()}

    def add(
        self,
        label: str,
        info: MethodInfo,
        settings: Settings,
        items: Sequence[Graded],
        texts: Mapping[str, str],
        seconds: float,
    ) -> str:
        """Store the answers of one method; the id of the result."""
        return self.ledger.add_result(
            subject=self.subject(info, settings),
            subject_name=f"{label}+{self.model}",
            probe=PROBE,
            probe_fingerprint=self.probe,
            rows=[_row(item, texts) for item in items],
            seconds=seconds,
        )


def source_fingerprint(docs: Any, graph: Any, opened: Any) -> str | None:
    """Hash of what methods look into: documents with the way they are searched, entities, or a file of triples.

    None for a retriever of another kind, or a graph that is in memory only.
    """
    if isinstance(opened, EntityBase):
        return opened.fingerprint
    if isinstance(opened, HybridRetriever):
        options = {name: value for name, value in vars(opened).items() if isinstance(value, (str, int, float, bool))}
        return _hash(opened.corpus.digest, opened.corpus.encoder_name, options)
    if docs is None and isinstance(graph, (str, Path)) and Path(graph).is_file():
        with Path(graph).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    return None


def _row(item: Graded, texts: Mapping[str, str]) -> Row:
    details = {
        "citations": list(item.answer.citations),
        "supported": item.supported,
        "f1": item.f1,
        "cited": {name: texts[name] for name in item.answer.citations if name in texts},
        "trace": dict(item.answer.trace),
    }
    plain = json.loads(json.dumps(details, default=str), parse_constant=lambda _: None)
    expected = item.expected[0]
    return Row(item.id, PROBE, item.question, expected, item.answer.text, item.right, float(item.right), details=plain)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, default=str).encode()).hexdigest()[:16]
