"""EREN: a notebook of corrected statements that the model reads before it answers; else it answers as it was.

    notes = the k notes nearest to the question        answer, refused = read(notes, question)
    refused: the unedited model is asked the question; else: the answer         (arXiv:2403.17431)

Each edit is a statement in a notebook, found by a sentence encoder. The model reads the nearest notes as a reading
task in which a question may be unanswerable. Where it refuses, the question is not about an edit, and the
unedited model is asked, in one call that holds nothing of the notes: its answer is bit for bit what it was.
No weight changes, so a thousand edits are a thousand lines, and one of them can be taken out.

Use when: many facts must change at once and everything else must stay exactly as it was; corrections come in
as sentences, one after another; a single correction must be withdrawn later; several corrected facts are needed for
one answer.

``gate`` says what counts as a refusal. ``generate`` is the published one, the word in the answer; models far below
three billion weights never say it. ``loglik`` compares the likelihood of the word with that of the answer, ``score``
the likeness of the nearest note; both with a threshold. ``score`` decides before the notes are read, which are then
read without the offer to refuse. ``auto`` takes the one of the three that divides the
calibration data best. These are never the data reported on: edits made of facts of the built-in world
(``calibrate``), without those whose subject is edited.

``steps=1`` is one-step reading, the paper's ablation: no refusal, so every question is answered from the notes.
``task="nli"`` takes claims in place of questions, "Can we conclude that ...?", where "It's impossible to say" is the
refusal and "Is it true that ...?" the question to the unedited model; the options are compared by their likelihood
(published: generated), and one-step reading lists yes and no alone.

The published code asks the unedited model "Please answer this question: ..." too, and measures preservation against
that; ``plain="published"`` does so. Here it is asked what the user asked, so that it is the model the user had. The
published vectors are Contriever's, compared by inner product; here they are of length 1. The published batch path
stops at the word "unanswerable", and its index grows along the wrong axis; both are set right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keeps.contracts import Answer, Run
from keeps.data.edits import Edit, check_edits
from keeps.data.other_edits import other_edits
from keeps.data.records import RecordSet
from keeps.errors import SettingsError
from keeps.models.language_model import LanguageModel
from keeps.models.memory import MemoryChange, MemoryMethod, finish_memory
from keeps.models.notebook import Note, Notebook, notes_of
from keeps.models.reading import (
    FORMS,
    GATES,
    PLAIN_OPTIONS,
    SURE_OPTIONS,
    Reading,
    belief_prompt,
    best_threshold,
    option_margins,
    refusal_margins,
    refuses,
)
from keeps.models.routed import Route, RoutedModel, Router
from keeps.registry import method
from keeps.settings import Settings, setting

PLAIN = {"as_asked": "{question}", "published": "Please answer this question: {question}"}
SIDE = 50  # questions on each side, at most, that a threshold is found on


@dataclass(frozen=True, kw_only=True)
class ERENSettings(Settings):
    """Settings of EREN."""

    k: int = setting(5, "Notes that are read with a question", ge=1)
    steps: int = setting(2, "2: read, and ask the unedited model where reading refuses; 1: read only", ge=1, le=2)
    gate: str = setting(
        "auto", "What counts as a refusal; auto: what divides the calibration data best", choices=("auto", *GATES)
    )
    threshold: float | None = setting(None, "Of the gate loglik (in nats a token) or score (a cosine); default: found")
    calibrate: str = setting(
        "world:capital#25,world:symbol#25", "Facts or a file of edits that thresholds are found on"
    )
    task: str = setting("qa", "Questions, or claims to be judged by the notes", choices=("qa", "nli"))
    form: str = setting(
        "published", "The published reading prompt, or one that a model only goes on with", choices=FORMS
    )
    plain: str = setting("as_asked", "How the unedited model is asked", choices=tuple(PLAIN))
    max_new_tokens: int = setting(20, "Length of a read answer, where it is judged", ge=1, unit="tokens")
    near: float | None = setting(None, "Cosine from which a new note replaces an older one", gt=0, le=1, advanced=True)

    def check(self) -> None:
        """Refuse settings that would do nothing."""
        if self.threshold is not None and self.gate not in ("loglik", "score"):
            raise SettingsError(f'gate "{self.gate}" takes no threshold', mend='choose gate "loglik" or "score"')
        if self.steps == 1 and (self.gate != "auto" or self.threshold is not None):
            raise SettingsError("one-step reading has no gate", mend="leave gate and threshold out, or choose steps 2")
        if self.task == "nli" and self.plain != "as_asked":
            what = "the unedited model is asked in a form of their own whether claims are true"
            raise SettingsError(what, mend="leave plain out")


@dataclass
class Gate:
    """Decides from margins: refuse where the margin of the gate's kind says so."""

    kind: str
    threshold: float = 0.0


class ERENRouter(Router):
    """Reads, and decides who answers; what was decided on a question is kept."""

    def __init__(self, base: LanguageModel, notebook: Notebook, settings: ERENSettings, gate: Gate) -> None:
        super().__init__(base)
        self.notebook, self.settings, self.gate = notebook, settings, gate
        # the gate score decides before anything is read, so there is no refusal to offer to the reader
        offers = settings.steps == 2 and gate.kind != "score"
        self.reading = Reading(offers, settings.form, settings.task)
        self._decided: dict[str, Route | None] = {}

    def routes(self, prompts: Sequence[str]) -> list[Route | None]:
        """See :class:`Router`: None where the reading refuses, the notebook is empty, or no note fits."""
        fresh = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._decided]
        hits = self.notebook.search(fresh, self.settings.k)
        fits = [
            self.reading.fitting(self.base, some, ask) if some else [] for ask, some in zip(fresh, hits, strict=True)
        ]
        read = [
            Route(self.reading.text(some, ask), notes=tuple(hit.note.id for hit in some))
            for ask, some in zip(fresh, fits, strict=True)
        ]
        if not len(self.notebook):
            refused = [True] * len(fresh)
        elif self.settings.steps == 1:
            refused = [not some for some in fits]
        else:
            nearest = [found[0].likeness for found in hits]
            values = acceptances(self.base, self.gate.kind, [route.prompt for route in read], nearest, self.settings)
            refused = [not some or value < self.gate.threshold for some, value in zip(fits, values, strict=True)]
        self._decided.update(
            (prompt, None if no else route) for prompt, route, no in zip(fresh, read, refused, strict=True)
        )
        return [self._decided[prompt] for prompt in prompts]

    def plain(self, prompt: str) -> str:
        """The question as the unedited model gets it."""
        return PLAIN[self.settings.plain].replace("{question}", prompt)


def acceptances(
    model: LanguageModel, kind: str, prompts: Sequence[str], nearest: Sequence[float], settings: ERENSettings
) -> list[float]:
    """How much speaks for an answer from the notes, by the gate ``kind``: below the threshold it is a refusal.

    ``score``: likeness of the nearest note. ``loglik``: log-likelihood of the answer less that of the refusal, so that
    its threshold is -b. ``generate``: 1, or 0 where the model says the word (of claims: prefers the option).
    """
    if kind == "score" or not prompts:
        return list(nearest)
    if settings.task == "nli":
        margins = option_margins(model, prompts)
        return [-margin if kind == "loglik" else float(margin <= 0) for margin in margins]
    if kind == "loglik":
        return [-margin for margin in refusal_margins(model, prompts, max_new_tokens=settings.max_new_tokens)]
    said = model.generate(prompts, max_new_tokens=settings.max_new_tokens, sentence=True)
    return [float(not refuses(text)) for text in said]


def find_gate(
    model: LanguageModel,
    settings: ERENSettings,
    calibration: Sequence[Edit],
    encoder: Any = None,
    notes: Sequence[Note] | None = None,
) -> tuple[Gate, dict[str, float]]:
    """The gate and its threshold, and how well each gate that was tried divides the calibration data.

    Args:
        notes: what the calibration edits are stated as; default: see :func:`keeps.models.notebook.stated`.

    Raises:
        EmptySetError: the calibration edits have no paraphrase, or no locality prompt.
    """
    notebook = Notebook(encoder)
    notebook.add(notes_of(calibration) if notes is None else notes)
    inside, outside = calibration_questions(calibration, settings.task)
    asked = [*inside, *outside]
    hits = notebook.search(asked, settings.k)
    reading = Reading(True, settings.form, settings.task)
    prompts = [reading.prompt(model, found, question) for question, found in zip(asked, hits, strict=True)]
    nearest = [found[0].likeness for found in hits]
    found: dict[str, tuple[float, float]] = {}
    for kind in GATES if settings.gate == "auto" else (settings.gate,):
        values = acceptances(model, kind, prompts, nearest, settings)
        found[kind] = best_threshold(values[: len(inside)], values[len(inside) :])
        if kind == "generate":
            found[kind] = (0.5, found[kind][1])  # a word is said or not
    best = max(found, key=lambda kind: found[kind][1])
    return Gate(best, found[best][0]), {kind: share for kind, (_, share) in found.items()}


def calibration_questions(edits: Sequence[Edit], task: str = "qa") -> tuple[list[str], list[str]]:
    """Up to 50 questions that the edits are about, and as many that they are not: neighbours and other relations.

    For ``task="nli"`` they are claims: each question with its answer behind it.
    """
    claims = task == "nli"
    inside = [edit.paraphrases[0] if edit.paraphrases else edit.prompt for edit in edits]
    if claims:
        inside = [f"{prompt} {edit.target_new}" for prompt, edit in zip(inside, edits, strict=True)]
    kinds: dict[str, list[str]] = {}
    for edit in edits:
        for kind in dict.fromkeys(asked.kind for asked in edit.locality):
            first = next(asked for asked in edit.locality if asked.kind == kind)
            kinds.setdefault(kind, []).append(f"{first.prompt} {first.answers[0]}" if claims else first.prompt)
    share = SIDE // max(len(kinds), 1)
    return inside[:SIDE], [prompt for prompts in kinds.values() for prompt in prompts[:share]]


class ERENChange(MemoryChange):
    """A notebook and a gate."""

    def router(self, model: LanguageModel) -> ERENRouter:
        """See :class:`MemoryChange`."""
        settings = ERENSettings.from_mapping(self.record.settings)
        gate = Gate(self.record.measures["gate"], float(self.record.measures["threshold"]))
        return ERENRouter(model, Notebook.load(self.folder, near=settings.near), settings, gate)

    def apply(self, model: LanguageModel) -> RoutedModel | NLIModel:
        """See :class:`MemoryChange`; of claims, an answerer that says yes or no."""
        changed = super().apply(model)
        settings = ERENSettings.from_mapping(self.record.settings)
        return NLIModel(changed, form=settings.form) if settings.task == "nli" else changed


@dataclass
class NLIModel:
    """Judges claims: by the notes, or, where they do not say, by what the unedited model believes."""

    changed: RoutedModel
    options: Sequence[str] = field(default=SURE_OPTIONS)
    form: str = "published"

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """ "yes" or "no" to each claim; the trace has the notes, or ``fallback``."""
        del contexts
        routes = self.changed._routes(questions)
        asked = [belief_prompt(claim, self.form) for claim in questions]
        plain = self.changed.base.rank(asked, [PLAIN_OPTIONS] * len(asked)) if any(r is None for r in routes) else []
        answers = []
        for number, route in enumerate(routes):
            if route is None:
                answers.append(Answer(PLAIN_OPTIONS[plain[number].best], trace={"notes": [], "fallback": True}))
                continue
            best = self.changed.base.rank([route.prompt], [self.options])[0].best
            answers.append(Answer(PLAIN_OPTIONS[best], trace={"notes": list(route.notes), "fallback": False}))
        return answers

    def undo(self) -> None:
        """Judge as the unedited model from now on."""
        self.changed.undo()


@method(
    "eren",
    verb="edit",
    paper="arXiv:2403.17431",
    summary="A notebook that is read before answering; without a note on the matter, the unedited model answers.",
    needs=("edits",),
    forms=("memory",),
)
class EREN(MemoryMethod):
    """Editing by reading notes."""

    Settings = ERENSettings
    change = ERENChange

    def __init__(self, settings: ERENSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> ERENChange:
        """Write the notebook and find the gate; no weight is touched. ``keep`` is not needed: nothing is lost."""
        del keep
        settings = self.settings
        check_edits(edits, "edits")
        notebook = Notebook(near=settings.near)
        notebook.add(notes_of(edits))
        gate = Gate(settings.gate, settings.threshold if settings.threshold is not None else 0.5)
        if settings.steps == 2 and settings.threshold is None and settings.gate != "generate":
            calibration = other_edits(settings.calibrate, edits, seed=run.seed)
            gate, shares = find_gate(model, settings, calibration, notebook.encoder)
            run.measures["gate_accuracy"] = shares
        run.measures |= {"gate": gate.kind, "threshold": gate.threshold, "notes": len(notebook)}
        if run.is_main:
            notebook.save(run.folder)
        return ERENChange(run.folder, finish_memory("eren", settings, model, edits, run))
