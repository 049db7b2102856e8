"""EREN's claim: questions that the notes answer follow the notes, all others get the unedited model's answer.

What can be known exactly is checked on the embedded model. Retrieval is measured on statements about invented people.
The comparison of two-step with one-step reading corrects facts of the built-in world (or, with ``--data``, those of
CounterFact-Hard); the gate and its threshold are found on other facts than those reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.eren_data import FILE, Job, counterfact_hard_job, world_job
from keeps.claims.eren_people import statements, two_note_questions
from keeps.edit.eren import ERENRouter, ERENSettings, Gate, find_gate
from keeps.models.encoder import SentenceEncoder
from keeps.models.language_model import LanguageModel
from keeps.models.notebook import Note, Notebook
from keeps.models.routed import RoutedModel
from keeps.numerics.editing_scores import edit_quality
from keeps.numerics.statistics import wilson
from keeps.probe.matching import normalised

FORM = "published"  # the reading prompt
PEOPLE = 40  # five statements each
PAIRS = 30


@dataclass(frozen=True)
class Report:
    """Edit success, and behaviour preserved by kind of question: shares in [0, 1], and how many were asked."""

    success: float
    asked: int
    preserved: Mapping[str, float]
    outside: int

    @property
    def preservation(self) -> float:
        """BP: the mean over the kinds."""
        return sum(self.preserved.values()) / len(self.preserved)

    @property
    def quality(self) -> float:
        """EQ."""
        return edit_quality(self.success, self.preservation)


def edit_report(changed: RoutedModel, job: Job, unedited: Mapping[str, Sequence[str]]) -> Report:
    """ES, and BP by kind of question, against what the ``unedited`` model answers to the same questions."""
    said = [answer.text for answer in changed.answer([prompt for prompt, _ in job.inside])]
    right = [job.right(text, target) for text, (_, target) in zip(said, job.inside, strict=True)]
    preserved = {}
    for kind, prompts in job.outside.items():
        ours = [answer.text for answer in changed.answer(prompts)]
        same = [normalised(a) == normalised(b) for a, b in zip(ours, unedited[kind], strict=True)]
        preserved[kind] = sum(same) / len(same)
    return Report(sum(right) / len(right), len(right), preserved, sum(map(len, job.outside.values())))


def experiment(run: ClaimRun) -> Iterator[Check]:
    """Exactness, retrieval, two steps against one, several notes."""
    model = run.model()
    encoder = SentenceEncoder.load()
    job = world_job() if run.data is None else counterfact_hard_job(run.data)
    run.progress.message("retrieval of statements about invented people")
    yield from retrieval_checks(encoder)
    settings = ERENSettings(form=FORM)
    run.progress.message("finding the gate on facts that are not reported")
    gate, shares = find_gate(model, settings, job.calibration, encoder, job.calibration_notes)
    run.tables["gates on calibration data"] = {"chosen": gate.kind, "threshold": gate.threshold, "accuracy": shares}
    yield from exactness_checks(model, encoder, job, gate)
    run.progress.message(f"two steps ({gate.kind}) against one")
    yield from _comparison(model, encoder, job, gate, run)
    run.progress.message("questions that need two notes")
    yield _several_notes(model, encoder, run)


def changed_model(
    model: LanguageModel, encoder: SentenceEncoder, notes: Sequence[Note], settings: ERENSettings, gate: Gate
) -> RoutedModel:
    """``model`` with a notebook of ``notes`` before it."""
    notebook = Notebook(encoder)
    notebook.add(notes)
    return RoutedModel(model, ERENRouter(model, notebook, settings, gate), name="eren", fingerprint="")


def exactness_checks(model: LanguageModel, encoder: SentenceEncoder, job: Job, gate: Gate) -> Iterator[Check]:
    """What must hold to the letter."""
    settings = ERENSettings(form=FORM)
    outside = [prompt for prompts in job.outside.values() for prompt in prompts[:10]]
    changed = changed_model(model, encoder, job.notes, settings, gate)
    answers = changed.answer(outside)
    plain = model.generate(outside, sentence=True)
    refused = [n for n, answer in enumerate(answers) if answer.trace["fallback"]]
    differ = sum(answers[n].text != plain[n] for n in refused)
    threshold = "0, of at least one"
    note = f"{len(refused)} of {len(outside)} questions were refused"
    yield Check("refused questions with another text than the unedited model's", differ, threshold,
                differ == 0 and bool(refused), note=note)  # fmt: skip
    empty = changed_model(model, encoder, [], settings, gate)
    asked = [*outside, *(prompt for prompt, _ in job.inside[:20])]
    differ = sum(a.text != b for a, b in zip(empty.answer(asked), model.generate(asked, sentence=True), strict=True))
    yield Check("answers of an empty notebook that differ from the unedited model's", differ, "0", differ == 0)
    quality = max(edit_quality(0.0, 1.0), edit_quality(1.0, 0.0))
    yield Check("EQ where ES or BP is 0", quality, "0", quality == 0)
    once, twice = Notebook(encoder), Notebook(encoder)
    once.add(job.notes)
    twice.add(job.notes[: len(job.notes) // 2])
    twice.add(job.notes[len(job.notes) // 2 :])
    found = [[[hit.note.id for hit in hits] for hits in book.search(asked, 5)] for book in (once, twice)]
    differ = sum(a != b for a, b in zip(*found, strict=True))
    yield Check("questions whose notes differ when notes are added in two calls", differ, "0", differ == 0)


def retrieval_checks(encoder: SentenceEncoder) -> Iterator[Check]:
    """200 invented statements, each asked for in other words."""
    pairs = list(statements(PEOPLE))
    notebook = Notebook(encoder)
    notebook.add([note for note, _ in pairs])
    hits = notebook.search([question for _, question in pairs], 5)
    for k, least in ((5, 0.95), (1, 0.80)):
        found = sum(
            any(hit.note.id == note.id for hit in some[:k]) for some, (note, _) in zip(hits, pairs, strict=True)
        )
        share = wilson(found, len(pairs))
        name = f"share of {len(pairs)} invented statements among the {k} nearest to a paraphrased question"
        yield Check(name, share.value, f"at least {least:g}", share.value >= least, interval=(share.low, share.high))


def _comparison(model: LanguageModel, encoder: SentenceEncoder, job: Job, gate: Gate, run: ClaimRun) -> Iterator[Check]:
    unedited = {kind: model.generate(prompts, sentence=True) for kind, prompts in job.outside.items()}
    two = edit_report(changed_model(model, encoder, job.notes, ERENSettings(form=FORM), gate), job, unedited)
    one_step = ERENSettings(form=FORM, steps=1)
    one = edit_report(changed_model(model, encoder, job.notes, one_step, Gate("auto")), job, unedited)
    said = model.generate([prompt for prompt, _ in job.inside], sentence=True)
    plain = sum(job.right(text, target) for text, (_, target) in zip(said, job.inside, strict=True)) / len(said)
    run.tables["reports"] = {
        name: {**vars(report), "preservation": report.preservation, "quality": report.quality}
        for name, report in (("two steps", two), ("one step", one))
    }
    run.tables["edit success of the unedited model"] = plain
    gate_note = f"{len(job.notes)} edits at once, {job.name}; gate {gate.kind}, threshold {gate.threshold:.3f}"
    for kind, share in two.preserved.items():
        gain = share - one.preserved[kind]
        yield Check(f"behaviour preserved by two steps, {kind} questions", share, "at least 0.30 above one step",
                    gain >= 0.30, one.preserved[kind], note=gate_note)  # fmt: skip
    interval = wilson(round(two.success * two.asked), two.asked)
    yield Check("edit success of two steps", two.success, "at least 90 % of one step's",
                two.success >= 0.9 * one.success, one.success, (interval.low, interval.high),
                f"unedited {plain:.2f}; {two.asked} questions")  # fmt: skip
    yield Check("EQ of two steps", two.quality, "above one step's", two.quality > one.quality, one.quality)


def _several_notes(model: LanguageModel, encoder: SentenceEncoder, run: ClaimRun) -> Check:
    questions = two_note_questions(PAIRS)
    notes = [note for question in questions for note in question.notes]
    prompts = [question.prompt for question in questions]
    right = {}
    for k in (1, 5):
        changed = changed_model(model, encoder, notes, ERENSettings(form=FORM, steps=1, k=k), Gate("auto"))
        said = [answer.text for answer in changed.answer(prompts)]
        right[k] = sum(all(name in text for name in q.answers) for text, q in zip(said, questions, strict=True))
    run.tables["two notes"] = {f"k = {k}": count for k, count in right.items()}
    share = wilson(right[5], PAIRS)
    name = f"share of {PAIRS} questions that need two notes, answered from five"
    return Check(name, share.value, "above one note's", right[5] > right[1], right[1] / PAIRS, (share.low, share.high))


CLAIM = Claim(
    card="eren",
    statement="A model that reads the nearest notes, and is asked without them where it refuses, follows a notebook "
    "of corrections on every question about them and stays what it was on hard neighbours.",
    published="CounterFact-Hard, 1,024 edits at once, ES / BP / EQ: EREN 96.9 / 96.8 / 96.9, one-step reading "
    "98.4 / 24.5 / 39.2, SERAC 96.9 / 51.4 / 67.2 (Flan-T5-XL)",
    paper="arXiv:2403.17431",
    seeds=(0,),
    minutes=10,
    experiment=experiment,
    files=(FILE,),
)
