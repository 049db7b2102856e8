"""Is it really gone: extraction, membership, other wordings, and a few steps of relearning.

Each attack is made on the model before and after, so that what it finds afterwards can be read. The model that lies
on disk is attacked, not the one in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Progress, Question, Run
from keeps.data.records import Example, Fact, Record, RecordSet
from keeps.data.select import load_records
from keeps.data.unlearning import check_items, items_of
from keeps.errors import SettingsError
from keeps.jobs.asking import Asking, asked
from keeps.jobs.models import resolve
from keeps.jobs.unlearning_data import reported
from keeps.ledger.tables import Table
from keeps.ledger.workspace import Workspace
from keeps.probe.base import Findings, ModelRows
from keeps.probe.facts import FactProbe
from keeps.probe.unlearning import UnlearningProbe
from keeps.probe.unlearning_measures import Roles, unlearning_findings

if TYPE_CHECKING:
    from keeps.models.changes import StoredChange
    from keeps.models.language_model import LanguageModel

ITEMS = 60  # of the retain set at most, in the measures of memorisation
WORDINGS = ("Question: {prompt} what?\nAnswer:", "Complete the sentence. {prompt}", "It is well known that {prompt}")
RELEARNING = {"rank": 8, "learning_rate": 5e-4, "batch_size": 8, "warmup": 0.0, "schedule": "constant"}


@dataclass(frozen=True)
class Attack:
    """Shares of the forget set that an attack brings to light, in [0, 1].

    Attributes:
        found: by the attack on the unlearned model; ``before`` without unlearning, ``after`` without the attack.
    """

    name: str
    n: int
    before: float
    after: float
    found: float


@dataclass(frozen=True)
class Verification:
    """What the attacks found.

    Attributes:
        findings: the measures of the unlearning probe: memorisation, extraction, forget quality, membership.
        attacks: other wordings; a few steps of training on half of the forget set, and what of the other half it
            brought back.
        notes: what was left out, and why.
    """

    findings: Findings
    attacks: tuple[Attack, ...]
    notes: tuple[str, ...] = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """All of it as tables."""
        rows = [
            (each.name, str(each.n), *(f"{100 * value:.0f}" for value in (each.before, each.after, each.found)))
            for each in self.attacks
        ]
        columns = ("attack", "n", "right before (%)", "right after (%)", "right under attack (%)")
        note = " ".join(self.notes)
        mine = Table("What attacks bring back", columns, tuple(rows), note=note)
        return (*self.findings.tables, mine)


def check_verification(
    forget: str | RecordSet, holdout: str | RecordSet | None, retain_model: str | None, *, wanted: bool
) -> None:
    """Refuse options that would do nothing, and a holdout set that overlaps, before a model is loaded.

    Raises:
        SettingsError: an option of the verification without it.
        RecordError: something is to be forgotten and held out.
    """
    named = {"holdout": holdout, "retain_model": retain_model}
    idle = [name for name, value in named.items() if value is not None]
    if idle and not wanted:
        what = f"{idle[0]} would do nothing without the verification"
        raise SettingsError(what, where="unlearn", mend="give --verify, or leave it out")
    if holdout is not None:
        check_items((*items_of(load_records(forget), "forget"), *items_of(load_records(holdout), "holdout")), "holdout")


def verify_unlearning(
    model: LanguageModel,
    folder: Path,
    forget: RecordSet,
    retain: str | RecordSet | None,
    *,
    holdout: str | RecordSet | None,
    retain_model: str | None,
    relearn_steps: int,
    seed: int,
    marks: Mapping[str, str] | None,
    space: Workspace,
    device: str,
    progress: Progress,
) -> Verification:
    """Attack the change in ``folder``; ``model`` is its base, and is given back as it was."""
    from keeps.models.changes import load_change

    change, notes = load_change(folder), []
    items = [*items_of(forget, "forget", seed=seed)]
    items += items_of(reported(retain, forget, marks).records[:ITEMS], "retain", seed=seed)
    if holdout is None:
        notes.append("Membership was not attacked: it needs --holdout.")
    else:
        items += items_of(load_records(holdout, marks=marks), "holdout", seed=seed)
    check_items(items, "forget, retain, holdout")
    probe = UnlearningProbe(items, name="verification", gradient_norm="none" if holdout is None else "whole")
    wordings = _other_wordings(forget)
    with space.ledger() as ledger:

        def rows(subject: Any, questions: Any, name: str) -> list[Any]:
            return ledger.rows(asked(ledger, subject, questions, name, progress, seed=seed)[0])

        models = [ModelRows(model.name, rows(model, probe, model.name))]
        before = rows(model, wordings, model.name) if wordings else []
        changed = change.apply(model)
        try:
            models.append(ModelRows(folder.name, rows(changed, probe, folder.name)))
            after = rows(changed, wordings, folder.name) if wordings else []
        finally:
            changed.undo()
        if retain_model is None:
            notes.append("Forget quality needs --retain-model, a model that never saw the forget set.")
        else:
            asking = Asking(ledger, device, progress)
            result, _ = asking.result(resolve(retain_model, space), probe, seed=seed)
            models.append(ModelRows(retain_model, ledger.rows(result)))
    attacks = [_paraphrased(before, after)] if wordings else []
    found = relearning(model, change, forget, steps=relearn_steps, seed=seed, progress=progress)
    attacks += [found] if found is not None else []
    if found is None:
        notes.append("Relearning was left out: there is nothing to train on, or no weight was changed.")
    roles = Roles(retain=3 if retain_model is not None else 0)
    options: dict[str, Any] = {"averaging": "geometric", "suffix": "definition", "min_k": 0.4, "seed": seed}
    return Verification(unlearning_findings(models, roles=roles, **options), tuple(attacks), tuple(notes))


# --- other wordings ---------------------------------------------------------------------------


def _other_wordings(forget: RecordSet) -> FactProbe | None:
    """Every question in the wording that training never sees, where it has one, and in the common other ones."""
    questions = []
    for record in forget:
        if not isinstance(record, (Fact, Example)):
            continue
        prompt = record.prompts[0] if isinstance(record, Fact) else record.prompt
        own = [text for text in record.prompts if text not in record.seen_prompts] if isinstance(record, Fact) else []
        texts = (prompt, *own, *(form.replace("{prompt}", prompt) for form in WORDINGS))
        answers = record.answers if isinstance(record, Fact) else (record.answer, *record.aliases)
        questions.append(Question(record.id, "paraphrase", texts, answers))
    return FactProbe(questions, name="other wordings") if questions else None


def _paraphrased(before: Sequence[Any], after: Sequence[Any]) -> Attack:
    first = [_mean([row.details["wordings"][0]["correct"] for row in rows]) for rows in (before, after)]
    found = _mean([any(each["correct"] for each in row.details["wordings"][1:]) for row in after])
    return Attack("any of several other wordings", len(after), first[0], first[1], found)


# --- relearning -------------------------------------------------------------------------------


def relearning(
    model: LanguageModel,
    change: StoredChange,
    forget: RecordSet,
    *,
    steps: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Attack | None:
    """Train an adapter on half of the forget set for a few steps, and ask the other half.

    Knowledge that was hidden rather than removed comes back with what stood beside it. None where nothing can be
    trained: no steps, fewer than two records, or a change that leaves the weights as they are.
    """
    from keeps.training.adapter import AdapterSettings, wrap
    from keeps.training.examples import tokenise
    from keeps.training.loop import train

    asks = [record for record in forget if isinstance(record, (Fact, Example))]
    shown, hidden = asks[::2], asks[1::2]
    if not steps or not hidden or change.record.kind == "memory":
        return None
    before = right(model, hidden)
    with _in_place(change, model):
        after = right(model, hidden)
        settings = AdapterSettings(steps=steps, **RELEARNING)
        wrapped = wrap(model, settings, seed=seed)
        try:
            examples = tokenise(model, RecordSet("relearned", tuple(shown)))
            with tempfile.TemporaryDirectory() as folder:
                run = Run(Path(folder), seed=seed, device=str(model.device))
                if progress is not None:
                    run.progress = progress
                train(wrapped.peft_model, examples, settings, run, pad_token_id=model.encoder.pad_token_id)
            found = right(model, hidden)
        finally:
            wrapped.unwrap()
    name = f"{steps} steps of training on the other half"
    return Attack(name, len(hidden), _mean(before), _mean(after), _mean(found))


def right(model: Any, records: Sequence[Record]) -> list[bool]:
    """Whether each record is answered rightly in its first wording."""
    questions = [
        Question(question.id, question.group, question.prompts[:1], question.answers, question.choices)
        for question in RecordSet("asked", tuple(records)).questions()
    ]
    return [row.correct for row in FactProbe(questions)(model)]


@contextmanager
def _in_place(change: StoredChange, model: LanguageModel) -> Iterator[None]:
    """``model`` with the change in its own weights, where an adapter can be trained on top of it."""
    from keeps.models.adapter_files import read_magnitudes
    from keeps.models.adapters import added
    from keeps.models.changes import AdapterChange, check_base

    if isinstance(change, AdapterChange):
        check_base(change.record, model, change.folder)
        with added(model.model, change.factors(), change.scaling, read_magnitudes(change.folder)):
            yield
        return
    changed = change.apply(model)
    try:
        yield
    finally:
        changed.undo()


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
