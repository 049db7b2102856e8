"""Ask any model the built-in world or a file of questions, and store every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keeps.contracts import Probe, Progress, Row, SilentProgress
from keeps.data.records import RecordSet
from keeps.data.select import load_records
from keeps.errors import EmptySetError
from keeps.jobs.asking import asked
from keeps.jobs.data import names_marks
from keeps.jobs.models import changed, load_base, marks_for, resolve
from keeps.ledger.workspace import Workspace
from keeps.probe.facts import FactProbe
from keeps.probe.several import SeveralProbes
from keeps.probe.text import TextProbe


@dataclass(frozen=True)
class ProbeOutcome:
    """A stored probe result."""

    name: str  # of the model that was asked
    result_id: str
    rows: Sequence[Row]
    reused: bool


def probe(
    model: str = "smollm2-135m",
    probe: str | RecordSet = "world",
    *,
    workspace: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> ProbeOutcome:
    """Ask ``model`` everything in ``probe``.

    Answers count by exact or alias match, choices by length-normalised log-probability, running text
    by perplexity. A result that is in the ledger already is not asked again.

    >>> outcome = probe("smollm2-135m", "world:capital")  # doctest: +SKIP
    >>> sum(row.correct for row in outcome.rows)  # doctest: +SKIP

    Args:
        model: a model, a run, or a run's folder.
        probe: built-in sets, files, or a RecordSet. Sets of known or unknown facts mean known to the
            model, to the base model of a run.

    Raises:
        KeepsError: a bad set or file, or a name that is neither run, folder nor model.
    """
    check_probe(probe)
    space = Workspace(workspace)
    named = resolve(model, space)
    progress = progress or SilentProgress()
    with space.ledger() as ledger:
        base = load_base(named, device=device, progress=progress)
        questions = world_probe(probe, marks=marks_for(base, probe, progress=progress))
        with changed(named, base) as opened:
            result, reused = asked(ledger, opened, questions, named.name, progress)
        return ProbeOutcome(named.name, result, ledger.rows(result), reused)


def world_probe(spec: str | RecordSet, *, marks: Mapping[str, str] | None = None) -> Probe:
    """The probe that asks everything in ``spec``: facts and choices, and running text by perplexity."""
    records = load_records(spec, marks=marks)
    questions = records.questions()
    probes: list[Probe] = [FactProbe(questions, name=records.source)] if questions else []
    if records.passages():
        probes.append(TextProbe(records.passages(), group="text", name=records.source))
    return SeveralProbes(probes, name=records.source)


def check_probe(spec: str | RecordSet) -> None:
    """Refuse a bad set before a model is loaded; raises as :func:`world_probe`."""
    try:
        world_probe(spec)
    except EmptySetError:
        if not names_marks(spec):
            raise
