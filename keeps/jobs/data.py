"""What a job learns, keeps and asks: the fixed parts of its data, and the probes made of them.

The keep set is divided by subject. Its *train* part may be used by the method (calibration, replay);
its *test* part is only ever asked, and is what "kept" is reported on. The *validation* part is left
for choosing settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from keeps.contracts import Probe, Question
from keeps.data.records import UNSEEN_FROM, Fact, Passage, Record, RecordSet, Split
from keeps.data.select import load_records, sampled
from keeps.data.world import MARKS, RELATIONS, few_shot_examples, few_shot_prompt, relation_facts
from keeps.errors import EmptySetError, RecordError
from keeps.probe.facts import FactProbe
from keeps.probe.several import SeveralProbes
from keeps.probe.text import TextProbe

DEFAULT_LEARN = "world:unknown:atomic_number,world:unknown:capital"
DEFAULT_KEEP = "world:known:symbol,world:known:capital,world:known:continent"
CALIBRATION_PASSAGES = 24  # paragraphs of running text added to what a method may calibrate on
PROBE_PASSAGES = 12  # held-out paragraphs whose perplexity is reported
ASKED_OF_LEARN = 250  # records of a long learn set that are asked before and after; all are taught


@dataclass(frozen=True)
class JobData:
    """The data of one job.

    Attributes:
        learn: what is taught, whole.
        keep: what the method may use to keep: the train part of the keep set and some running text.
        probe: what is asked before and after.
    """

    learn: RecordSet
    keep: RecordSet
    probe: Probe

    @property
    def fingerprints(self) -> dict[str, str]:
        """Hashes of the three, by name."""
        return {"learn": self.learn.fingerprint, "keep": self.keep.fingerprint, "probe": self.probe.fingerprint}


def job_data(
    learn: str | RecordSet,
    keep: str | RecordSet,
    *,
    marks: Mapping[str, str] | None = None,
    report: Split = "test",
    ask_calibrated: bool = True,
    exam: str | RecordSet | None = None,
) -> JobData:
    """Read both sets and divide them.

    Args:
        learn: what to teach, as in :func:`keeps.data.select.load_records`.
        keep: what to keep; records that are taught as well are left out of it.
        marks: fact id to mark for the model at hand (default: the default model's).
        report: the part of the keep set that is asked and reported.
        ask_calibrated: ask the train part too, in a group of its own that shows what calibration saw.
        exam: what is asked about the learn set but never trained on, such as other examples of a skill.

    Raises:
        EmptySetError: nothing to learn, nothing is left to keep, or no part of it to calibrate on or report.
        RecordError: a record to keep has the id of a different one that is taught, or one of the exam is taught.
    """
    taught, kept = load_records(learn, marks=marks), load_records(keep, marks=marks)
    kept = _without_taught(kept, taught)
    held_out = RecordSet("", ()) if exam is None else _untaught(load_records(exam, marks=marks), taught)
    for part in ("train", report):
        if not len(kept.part(part)):
            raise EmptySetError(
                f"of the {len(kept)} records to keep, none falls into the {part} part",
                where=kept.source,
                mend="give more of them: by a hash of the subject, 2 in 5 are calibrated on and 2 in 5 reported",
            )
    text = load_records("text")
    seen = {record.id for record in kept}
    fresh = [record for record in text.part("train") if record.id not in seen]
    calibration = kept.part("train").records + tuple(fresh[:CALIBRATION_PASSAGES])
    asked = replace(taught, records=tuple(sampled(taught.records, ASKED_OF_LEARN)))
    probe = _probe(asked, held_out, kept, text, report, ask_calibrated)
    return JobData(taught, RecordSet(kept.source, calibration), probe)


def check_data(
    learn: str | RecordSet, keep: str | RecordSet, *, report: Split = "test", exam: str | RecordSet | None = None
) -> None:
    """Refuse bad data before minutes are spent on a model; raises as :func:`job_data`.

    A set that is empty for the default model's marks may hold something for those of another one.
    """
    for spec in (learn, keep, *(() if exam is None else (exam,))):
        try:
            load_records(spec)
        except EmptySetError:
            if not names_marks(spec):
                raise
            return  # what the sets have in common is found out with the model's own marks
    try:
        job_data(learn, keep, report=report, exam=exam)
    except EmptySetError:
        if not any(names_marks(spec) for spec in (learn, keep, exam)):
            raise


def names_marks(spec: object) -> bool:
    """Whether ``spec`` selects facts by what a model knows.

    >>> names_marks("world:known#40"), names_marks("world:capital,unknown.csv")
    (True, False)
    """
    parts = [part.strip().partition("#")[0].split(":") for part in spec.split(",")] if isinstance(spec, str) else []
    return any(part[0] == "world" and len(part) > 1 and part[1] in MARKS for part in parts)


def _without_taught(kept: RecordSet, taught: RecordSet) -> RecordSet:
    """``kept`` without the records that are taught too, under the same id or another."""
    contents = {content_of(record) for record in taught}
    ids = {record.id for record in taught}
    left = tuple(record for record in kept if content_of(record) not in contents)
    for record in left:
        if record.id in ids:
            what = f'the id "{record.id}" stands for one record of the learn set and another one of the keep set'
            raise RecordError(what, where=kept.source, mend="give one of them another id")
    if not left:
        mend = "choose a keep set that differs from the learn set"
        raise EmptySetError("nothing is left to keep: all of it is taught", where=kept.source, mend=mend)
    return replace(kept, records=left)


def _untaught(exam: RecordSet, taught: RecordSet) -> RecordSet:
    """``exam``, whose records have ids of their own.

    Raises:
        RecordError: a record of it is taught.
    """
    contents = {content_of(record) for record in taught}
    both = [record.id for record in exam if content_of(record) in contents]
    if both:
        what = f'{len(both)} of {len(exam)} records of the exam are taught too, such as "{both[0]}"'
        raise RecordError(what, where=exam.source, mend="leave them out of one of the two")
    return replace(exam, records=tuple(replace(record, id=f"exam:{record.id}") for record in exam))


def content_of(record: Record) -> str:
    """Hash of a record without its id."""
    return RecordSet("", (replace(record, id=""),)).fingerprint


def _probe(
    learn: RecordSet, exam: RecordSet, keep: RecordSet, text: RecordSet, report: Split, ask_calibrated: bool
) -> Probe:
    reported, calibrated = keep.part(report), keep.part(*(("train",) if ask_calibrated else ()))
    questions = [
        *learn_questions(learn),
        *exam.questions("exam"),
        *keep_questions(reported, "keep"),
        *keep_questions(calibrated, "calibrated"),
    ]
    probes: list[Probe] = [FactProbe(questions, name="facts")] if questions else []
    known: set[str] = set()
    for passages, group in (
        (learn.passages(), "learn: text"),
        (exam.passages(), "exam: text"),
        (reported.passages(), "keep: text"),
        (calibrated.passages(), "calibrated: text"),
        (text.part(report).passages()[:PROBE_PASSAGES], "text: held-out"),
    ):
        fresh: list[Passage] = [item for item in passages if item.id not in known]
        known.update(item.id for item in fresh)
        if fresh:
            probes.append(TextProbe(fresh, group=group))
    return SeveralProbes(probes, name="learn and keep")


def learn_questions(learn: RecordSet, role: str = "learn") -> list[Question]:
    """The taught wordings of every fact, and the wording that training never sees as a question of its own."""
    questions = []
    for question in learn.questions(role):
        if len(question.prompts) < UNSEEN_FROM:
            questions.append(question)
            continue
        questions.append(replace(question, prompts=question.prompts[:-1]))
        unseen = {"id": f"{question.id}#unseen", "group": f"{question.group}, unseen wording"}
        questions.append(replace(question, prompts=question.prompts[-1:], **unseen))
    return sorted(questions, key=lambda question: question.group)


def keep_questions(keep: RecordSet, role: str) -> list[Question]:
    """The prompts that the marks were measured with: three wordings, and one with solved examples.

    A fact that is right in half of these four is exactly a fact that the world marks as known, so that
    what is to be kept is known to begin with.
    """
    facts = {record.id: record for record in keep if isinstance(record, Fact)}
    pools: dict[str, tuple[Fact, ...]] = {}
    questions = []
    for question in keep.questions(role):
        fact = facts.get(question.id)
        if fact is None or fact.choices or fact.relation not in RELATIONS or not fact.id.startswith("world:"):
            questions.append(question if fact is None else replace(question, prompts=fact.seen_prompts))
            continue
        if fact.relation not in pools:
            pools[fact.relation] = relation_facts(fact.relation, marks={})
        examples = few_shot_examples(fact, pools[fact.relation])
        questions.append(replace(question, prompts=(*fact.seen_prompts, few_shot_prompt(fact, examples))))
    return questions
