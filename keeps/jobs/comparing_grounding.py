"""Methods that answer with outside knowledge, side by side on one set of questions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keeps.contracts import Progress
from keeps.data.records import RecordSet
from keeps.errors import EmptySetError, SettingsError
from keeps.jobs.folders import check_new
from keeps.jobs.grounding import GroundOutcome, ground
from keeps.jobs.grounding_measures import MethodLine
from keeps.models.embedded import DEFAULT_MODEL
from keeps.weights.files import atomic_folder, atomic_write_bytes, check_writable

COLUMNS = ("method", "n", "accuracy", "accuracy_low", "accuracy_high", "support", "support_low", "support_high", "f1")
COSTS = ("calls", "tokens", "seconds")


def compare_grounding(
    methods: Sequence[str] | str,
    questions: str | RecordSet,
    docs: Any = None,
    *,
    graph: Any = None,
    cards: Any = None,
    tables: Any = None,
    memory: Any = None,
    model: Any = DEFAULT_MODEL,
    settings: Mapping[str, Any] | None = None,
    retriever: str = "hybrid",
    limit: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    workspace: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> GroundOutcome:
    """Ask every method the same questions: accuracy, support by citations, calls, tokens and seconds of each.

    Every method after the first is tested against the first (exact McNemar test). Results that are in the ledger are
    not asked again, seconds included; what is answered with cards or a memory is not stored there.

    Args:
        methods: names, separated by commas or as a list, each with settings of its own if wanted: ``"rag:k=3"``.
        out: new folder for ``comparison.csv``, ``comparison.json`` and ``answers.jsonl``, every answer with its trace.
        settings, questions, docs, ...: as of :func:`keeps.jobs.grounding.ground`.

    Raises:
        SettingsError: no method is named, or a setting that none has.
        EmptySetError: a question has no accepted answer, so that nothing can be compared.
        StorageError: ``out`` is there already, or cannot be written.
        KeepsError: as :func:`keeps.jobs.grounding.ground`.
    """
    named = methods.split(",") if isinstance(methods, str) else list(methods)
    named = [name.strip() for name in named if name.strip()]
    if not named:
        raise SettingsError("no method is named", where="--ground", mend="write --ground rag,faithful_rag")
    if out is not None:
        check_new(out)
        check_writable(Path(out).parent)
    outcome = ground(
        questions,
        docs,
        graph=graph,
        cards=cards,
        tables=tables,
        memory=memory,
        method=named,
        settings=settings or None,
        model=model,
        retriever=retriever,
        from_file=True,
        limit=limit,
        seed=seed,
        workspace=workspace,
        device=device,
        progress=progress,
        record=True,
    )
    if not outcome.lines:
        mend = "give every question an answer"
        raise EmptySetError("a question has no accepted answer", where=str(questions), mend=mend)
    if out is not None:
        with atomic_folder(Path(out)) as folder:
            atomic_write_bytes(folder / "comparison.csv", csv_text(outcome.lines).encode())
            atomic_write_bytes(folder / "comparison.json", json_text(outcome).encode())
            atomic_write_bytes(folder / "answers.jsonl", answers_text(outcome.lines).encode())
    return outcome


def measures(line: MethodLine) -> dict[str, Any]:
    """One method's figures by name; None where it does not count, or is the one that others are tested against."""
    shares = {}
    for name, share in (("accuracy", line.accuracy), ("support", line.support)):
        shares |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
    costs = {name: getattr(line, name) for name in COSTS}
    return {"method": line.label, "n": len(line.graded), **shares, "f1": line.f1, **costs, "p": line.p}


def csv_text(lines: Sequence[MethodLine]) -> str:
    """One row a method."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *COSTS, "p"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(measures(line) for line in lines)
    return text.getvalue()


def json_text(outcome: GroundOutcome) -> str:
    """The figures with why each method stopped, and the stored results."""
    rows = [
        {**measures(line), "stops": dict(line.stops), "result": outcome.results.get(line.label)}
        for line in outcome.lines
    ]
    return json.dumps({"questions": len(outcome.questions), "methods": rows}, indent=2, ensure_ascii=False) + "\n"


def answers_text(lines: Sequence[MethodLine]) -> str:
    """One JSON object a line: every answer of every method, graded."""
    rows = ({"method": line.label, **asdict(item)} for line in lines for item in line.graded)
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
