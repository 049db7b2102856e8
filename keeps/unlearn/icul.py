"""ICUL: forget in the prompt alone, by examples with wrong answers (Pawelczyk et al. 2023, arXiv:2310.07579).

Before every question stand first the questions that are to be forgotten, each with the answer of another one, then
``shots`` questions of the retain set with their right answers. The model, which learned the right answers, is thereby
told that they were wrong; nothing of its weights changes. Decoding is greedy, as all answers of keeps are.

Use when: the weights cannot be changed, or only a served model is at hand; forgetting must be undone at any moment;
a few facts are to be forgotten at once.

Needs: questions to be forgotten (running text asks nothing), two different answers among them, and a retain set for
the right examples. Guarantees: the weights are untouched.

It forgets only in that prompt: whoever gets at the model without it finds everything, and measures on running text or
on parameters do not change. The paper flips the label of a classification; where answers are texts, the answer of
another question of the same kind takes its place. Of many flipped questions those that share most words with the
question come first, as many as ``flipped`` says and the context holds.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from keeps.contracts import ChangeRecord, Run
from keeps.data.records import Example, Fact, RecordSet
from keeps.errors import RecordError, SettingsError, StorageError, UnknownNameError
from keeps.models.changes import ChangedModel, StoredChange, check_base, copy_files, source_of
from keeps.models.in_context import ContextEncoder, Solved
from keeps.models.language_model import LanguageModel
from keeps.registry import method
from keeps.settings import Settings, setting
from keeps.training.batches import stable_seed
from keeps.training.unlearn import check_sets
from keeps.versions import versions
from keeps.weights.files import atomic_write_bytes

FILE = "in_context.json"
SHARE = 0.75  # of the model's context that the examples may take


@dataclass(frozen=True, kw_only=True)
class ICULSettings(Settings):
    """Settings of in-context unlearning."""

    shots: int = setting(4, "Questions of the retain set with their right answers before each question", ge=0)
    flipped: int = setting(8, "Most questions with wrong answers before each question", ge=1)


class InContextChange(StoredChange):
    """Solved examples that are read before every question."""

    forms: ClassVar[tuple[str, ...]] = ("memory",)

    def apply(self, model: LanguageModel) -> ChangedModel:
        """``model`` with the examples before every prompt; its weights are not touched.

        Raises:
            StorageError: the base is another one, or the file is damaged.
        """
        check_base(self.record, model, self.folder)
        flipped, solved = read_examples(self.folder)
        room = int(SHARE * model.context_length)
        found = ChangedModel(model, model.model, name=self.folder.name, fingerprint=self.fingerprint, undo=partial(int))
        found.encoder = ContextEncoder(
            model.encoder, flipped, solved, most=int(self.record.settings["flipped"]), room=room
        )
        return found

    @property
    def fingerprint(self) -> str:
        """Identity of the changed model: its base and the examples."""
        import hashlib

        content = (self.folder / FILE).read_bytes() + json.dumps(self.record.settings, sort_keys=True).encode()
        return hashlib.sha256(self.record.base_fingerprint.encode() + content).hexdigest()[:16]

    def _write(self, form: str, folder: Path, final: Path, model: LanguageModel) -> None:
        del form, final, model
        copy_files(self.folder, folder, FILE, "change.json", "README.md")

    def _logits_of(self, form: str, folder: Path, model: LanguageModel) -> list[Tensor]:
        from keeps.models.logits import check_logits

        if form not in self.forms:
            raise UnknownNameError(f'there is no form "{form}"', mend="use memory")
        read_examples(folder)
        return check_logits(model.model, model.tokenizer)


@method(
    "icul",
    verb="unlearn",
    paper="arXiv:2310.07579",
    summary="Forget in the prompt: questions with wrong answers before every question; the weights stay.",
    card="unlearning",
    needs=("forget",),
    uses=("retain",),
    forms=("memory",),
)
class ICUL:
    """In-context unlearning."""

    Settings = ICULSettings

    def __init__(self, settings: ICULSettings) -> None:
        self.settings = settings

    @staticmethod
    def load(folder: Path, record: ChangeRecord) -> InContextChange:
        """The change that lies in ``folder``."""
        return InContextChange(folder, record)

    def __call__(
        self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None = None, *, run: Run
    ) -> InContextChange:
        """Flip the answers, choose the right examples, and write both down.

        Raises:
            EmptySetError, RecordError: as every method; a record asks nothing, or all have one answer.
            SettingsError: right examples are wanted and there is no retain set.
        """
        s = self.settings
        check_sets(forget, retain)
        flipped = flipped_answers(forget, run.seed)
        for each in flipped:
            model.encode_pair(each.prompt, each.answer)  # an empty one is refused as everywhere
        available = questions_of(retain) if retain is not None else []
        if len(available) < s.shots:
            what = f"{s.shots} right examples are wanted and the retain set has {len(available)}"
            raise SettingsError(what, where="icul", mend="give --retain, or --shots 0")
        solved = random.Random(stable_seed("icul", run.seed)).sample(available, s.shots)
        record = ChangeRecord(
            kind="memory",
            method="icul",
            settings=s.to_mapping(),
            base_model=source_of(model),
            base_fingerprint=model.fingerprint,
            seed=run.seed,
            data={"forget": forget.fingerprint} | ({} if retain is None else {"retain": retain.fingerprint}),
            versions=versions(),
            measures=dict(run.measures),
        )
        if run.is_main:
            document = {"flipped": [vars(each) for each in flipped], "solved": [vars(each) for each in solved]}
            text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
            atomic_write_bytes(run.folder / FILE, text.encode())
            record.write(run.folder)
        return InContextChange(run.folder, record)


def questions_of(records: RecordSet) -> list[Solved]:
    """The questions with their right answers, each in its first wording.

    Raises:
        RecordError: a record asks nothing.
    """
    found = []
    for record in records:
        if isinstance(record, Fact):
            found.append(Solved(record.prompts[0], record.answers[0]))
        elif isinstance(record, Example):
            found.append(Solved(record.prompt, record.answer))
        else:
            what = f'the record "{record.id}" asks nothing'
            raise RecordError(what, where=records.source, mend="give facts or examples")
    return found


def flipped_answers(forget: RecordSet, seed: int) -> list[Solved]:
    """Every question with the answer of another one; of facts, another one of the same relation where there is one.

    Raises:
        RecordError: a record asks nothing, or no other answer is there.
    """
    questions = questions_of(forget)
    kinds: list[Any] = [getattr(record, "relation", "") for record in forget]
    found = []
    for record, question, kind in zip(forget, questions, kinds, strict=True):
        others = _others(questions, question, [k == kind for k in kinds]) or _others(questions, question)
        if not others:
            what = "all answers to be forgotten are the same, so that none can be flipped"
            raise RecordError(what, where=forget.source, mend="give more of them, or take another method")
        draw = random.Random(stable_seed("flip", seed, record.id))
        found.append(Solved(question.prompt, draw.choice(others)))
    return found


def _others(questions: Sequence[Solved], own: Solved, allowed: Sequence[bool] | None = None) -> list[str]:
    flags = allowed or [True] * len(questions)
    return sorted({q.answer for q, flag in zip(questions, flags, strict=True) if flag and q.answer != own.answer})


def read_examples(folder: Path) -> tuple[list[Solved], list[Solved]]:
    """The flipped and the solved examples of a change.

    Raises:
        StorageError: the file is missing or damaged.
    """
    path = folder / FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [Solved(**each) for each in document["flipped"]], [Solved(**each) for each in document["solved"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{FILE} cannot be read ({error})", where=str(path), mend="run the job again") from None
