"""EditCoT: the model answers, says why, and a trained editor corrects the reasons with new facts until they agree.

    answer -> thoughts -> [nearest fact -> in conflict? -> the editor rewrites the thoughts]  up to T times -> answer

Base weights never change (arXiv:2412.17727). Thoughts are written after the answer, one fact a line, so that they
say what the model believes. Each line, and at first the question, looks for the nearest new fact; a fact that
contradicts the thoughts goes to the editor, the same model with an adapter trained once on examples that have nothing
to do with the edits; the answer is read off the thoughts that come out. An empty memory, or a question whose thoughts
no fact contradicts, leaves the model's own answer.

Use when: what follows from an edit must be answered too, over several steps of reasoning; edits are free sentences;
questions need a corrected fact that they do not name.

``index="old"`` looks for what the edits replace (their old objects must be known) and passes on what replaces it.
``on_no_conflict="stop"`` ends at the first fact without a conflict, as published; ``"continue"`` goes on with
the next line, which finds several edits more often. ``detect="words"`` compares the likelihoods of the words
Contradict, Support and Unrelated and their synonyms, by length, and less what they are on an empty input;
``"first_token"`` the logits of their first tokens, as published, which differ by word anyhow. ``detect="likeness"`` is
for models too small to tell: a fact near enough is in conflict unless the thoughts hold its object.

The editor: ``"trained"`` on ``examples``, pairs of chains made from other facts or read from a file of records with
``question``, ``right_steps``, ``changed_steps``, ``right_answer``, ``changed_answer``, ``diff_idx``, ``right_fact`` and
``changed_fact`` (:func:`keeps.training.cot_editor.build_editor_data` makes such records as the paper does, from
questions with documents); ``"prompted"`` shows the untrained model an example. Published: all weights of an 8 billion
model for one epoch; here an adapter. It belongs to the style of its base, whose name is in the record.

Later facts win: on the same subject and relation, or from a cosine of ``near``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from keeps.contracts import Answer, Run
from keeps.data.edits import Edit, check_edits
from keeps.data.other_edits import other_edits
from keeps.data.records import RecordSet
from keeps.data.rows import path_mode
from keeps.errors import RecordError, SettingsError
from keeps.models.adapters import Factors, added
from keeps.models.changes import check_base
from keeps.models.edit_files import read_entries
from keeps.models.language_model import LanguageModel
from keeps.models.memory import MemoryChange, MemoryMethod, finish_memory
from keeps.models.notebook import Notebook, notes_of, stated
from keeps.models.routed import Router
from keeps.models.scores import AnswerScore
from keeps.models.thoughts import DETECTORS, Detector, Loop, Thinking, think
from keeps.registry import method
from keeps.settings import setting
from keeps.training.cot_editor import EditorPair, EditorRecord, pairs_of, train_editor
from keeps.training.settings import TrainingSettings
from keeps.weights.files import load_tensors, save_tensors

EDITOR_FILE = "editor.safetensors"
LEAST_WORDS = 3  # of a sentence


@dataclass(frozen=True, kw_only=True)
class EditCoTSettings(TrainingSettings):
    """Settings of EditCoT; those of training belong to the editor."""

    max_iterations: int = setting(4, "Most corrections of a chain, T", ge=1)
    on_no_conflict: str = setting("stop", "At a fact without a conflict", choices=("stop", "continue"))
    detect: str = setting("words", "How a conflict is told", choices=DETECTORS)
    index: str = setting("new", "Look for the new facts, or for what they replace", choices=("new", "old"))
    floor: float = setting(0.5, "Cosine below which the nearest fact counts as none", ge=-1, le=1)
    near: float = setting(0.95, "Cosine from which a new fact replaces an older one", gt=0, le=1)
    answer_first: bool = setting(True, "Ask for the reasons of the answer; else for reasons alone")
    editor: str = setting("trained", "An adapter, or the model itself with an example", choices=("trained", "prompted"))
    examples: str = setting(
        "world:country_of_city#150", "Facts, a file of edits or a file of records, that the editor is trained on"
    )
    rank: int = setting(16, "Rank of the editor's adapter", ge=1)
    targets: tuple[str, ...] = setting(("all-linear",), "Ends of the names of the layers that it adapts")
    epochs: int = setting(1, "passes over the pairs", ge=1)
    learning_rate: float = setting(5e-4, "largest learning rate, reached after the warm-up", gt=0, lt=10)
    batch_size: int = setting(8, "examples per forward pass, over all processes together", ge=1)
    beta2: float = setting(0.98, "decay of AdamW's mean of squared gradients", ge=0, lt=1, advanced=True)
    weight_decay: float = setting(1e-5, "decay of matrices in AdamW (vectors are not decayed)", ge=0, lt=1)
    warmup: float = setting(0.0, "share of the steps over which the learning rate rises", ge=0, le=1)


class EditedThinker:
    """Answers by corrected thoughts; :meth:`answer` gives their whole way as the trace."""

    def __init__(self, base: LanguageModel, memory: Notebook, settings: EditCoTSettings, factors: Factors) -> None:
        self.base: LanguageModel = base
        self.memory, self.settings, self.factors = memory, settings, factors
        self.new_of: dict[str, str] | None = None
        self._detector = Detector(base, settings.detect)

    def think(self, questions: Sequence[str]) -> list[Thinking]:
        """Each question with what was thought of it."""
        settings = self.settings
        loop = Loop(
            _Editor(self.base, self.factors),
            self.memory,
            self._detector,
            settings.max_iterations,
            settings.floor,
            settings.on_no_conflict,
            self.new_of,
            shots=settings.editor == "prompted",
        )
        return think(self.base, loop, questions, answer_first=settings.answer_first)

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """See :class:`keeps.contracts.Answerer`."""
        if contexts is not None:
            questions = [f"{c}\n\n{q}" if c else q for q, c in zip(questions, contexts, strict=True)]
        return [
            Answer(
                item.answer,
                trace={
                    "old_answer": item.old_answer,
                    "old_thoughts": list(item.old_thoughts),
                    "thoughts": list(item.thoughts),
                    "steps": [asdict(step) for step in item.steps],
                },
            )
            for item in self.think(list(questions))
        ]

    def undo(self) -> None:
        """Answer without a memory from now on."""
        self.memory = Notebook(self.memory.encoder)


class _Editor:
    """The base with the editor's adapter in its weights while it writes; they are restored bit by bit."""

    def __init__(self, base: LanguageModel, factors: Factors) -> None:
        self.base, self.factors = base, factors

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 16, stop: Sequence[str] = ("\n",), sentence: bool = False
    ) -> list[str]:
        with self._editing():
            return self.base.generate(prompts, max_new_tokens=max_new_tokens, stop=stop, sentence=sentence)

    def logprob(self, prompts: Sequence[str], answers: Sequence[str]) -> list[AnswerScore]:
        with self._editing():
            return self.base.logprob(prompts, answers)

    @contextmanager
    def _editing(self) -> Iterator[None]:
        with added(self.base.model, self.factors, 1.0):
            yield


class EditCoTChange(MemoryChange):
    """A memory of facts and an editor."""

    def apply(self, model: LanguageModel) -> EditedThinker:
        """See :class:`MemoryChange`."""
        check_base(self.record, model, self.folder)
        settings = EditCoTSettings.from_mapping(self.record.settings)
        stored = load_tensors(self.folder / EDITOR_FILE) if settings.editor == "trained" else {}
        names = sorted({key.rpartition(".")[0] for key in stored})
        factors = {name: (stored[f"{name}.A"], stored[f"{name}.B"]) for name in names}
        thinker = EditedThinker(model, Notebook.load(self.folder, near=settings.near), settings, factors)
        if settings.index == "old":
            thinker.new_of = {entry.id: stated(entry.edit) for entry in read_entries(self.folder)}
        return thinker

    def router(self, model: LanguageModel) -> Router:
        """Not used: thoughts are no routing of prompts."""
        return Router(model)


@method(
    "editcot",
    verb="edit",
    paper="arXiv:2412.17727",
    summary="The model's chain of thought is corrected step by step with new facts, and the answer read off it.",
    needs=("edits",),
    forms=("memory",),
)
class EditCoT(MemoryMethod):
    """Knowledge editing through chain-of-thought."""

    Settings = EditCoTSettings
    change = EditCoTChange

    def __init__(self, settings: EditCoTSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> EditCoTChange:
        """Train the editor on other facts, write it and the memory; ``keep`` is not needed."""
        del keep
        settings = self.settings
        check_edits(edits, "edits")
        notes = notes_of(edits)
        odd = [note.statement for note in notes if len(note.statement.split()) < LEAST_WORDS]
        if odd:
            run.progress.message(f'"{odd[0]}" is no sentence, and thoughts are: write edits as statements')
        if settings.index == "old":
            if not all(edit.target_true for edit in edits):
                mend = 'give every edit its target_true, or choose index "new"'
                raise SettingsError('index "old" needs what the edits replace', where="edits", mend=mend)
            olds = [f"{edit.prompt} {edit.target_true}" for edit in edits]
            notes = [type(note)(**{**asdict(note), "statement": old}) for note, old in zip(notes, olds, strict=True)]
        memory = Notebook(near=settings.near)
        memory.add(notes)
        if settings.editor == "trained":
            pairs = editor_pairs(settings.examples, edits, run.seed)
            run.measures["editor_pairs"] = len(pairs)
            factors = train_editor(model, pairs, settings, run, targets=settings.targets, rank=settings.rank)
            named = {f"{n}.{part}": value for n, ab in factors.items() for part, value in zip("AB", ab, strict=True)}
            save_tensors(run.folder / EDITOR_FILE, named)
        memory.save(run.folder)
        return EditCoTChange(run.folder, finish_memory("editcot", settings, model, edits, run))


def editor_pairs(spec: str, edits: Sequence[Edit], seed: int) -> list[EditorPair]:
    """Training pairs: of a file of records, or chains of two facts whose first one is edited.

    Raises:
        RecordError: the file holds other rows than records.
        EmptySetError: every example is about what is being edited.
    """
    if path_mode(Path(spec)) is not None:
        return pairs_of(read_editor_records(Path(spec)))
    return [pair for edit in other_edits(spec, edits, seed=seed) for pair in _chain_pairs(edit)]


def read_editor_records(path: Path) -> list[EditorRecord]:
    """Records in JSONL; keys that begin with ``_`` are passed over.

    Raises:
        RecordError: a row is no record.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = {key: value for key, value in json.loads(line).items() if not key.startswith("_")}
            steps = {name: tuple(row[name]) for name in ("right_steps", "changed_steps")}
            found.append(EditorRecord(**{**row, **steps}))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            where, mend = f"{path.name}, line {number}", "give the fields of an editor record"
            raise RecordError(f"this is no editor record ({error})", where=where, mend=mend) from None
    return found


def _chain_pairs(edit: Edit) -> Iterator[EditorPair]:
    """A fact and what follows from it, before and after the edit, in both directions."""
    for asked in edit.portability[:1]:
        if not (asked.original and edit.target_true):
            continue
        tail = asked.prompt.replace(f"the country in which the city of {edit.subject} lies", "{place}")
        if "{place}" not in tail:
            continue
        chains = {}
        for place, result in ((edit.target_true, asked.original), (edit.target_new, asked.answers[0])):
            lines = (f"{edit.prompt} {place}.", f"{tail.replace('{place}', place)} {result}.")
            chains[place] = lines
        old, new = chains[edit.target_true], chains[edit.target_new]
        yield EditorPair(asked.prompt, old, new[0], new)
        yield EditorPair(asked.prompt, new, old[0], old)
