"""IKE: the new fact stands before the question, after solved examples of copying, applying and ignoring facts.

    New Fact: {fact}            k demonstrations, the most alike last
    Prompt: {query} {answer}
    ...
    New Fact: {new fact}
    Prompt: {question}                                        (Zheng et al. 2023, arXiv:2305.12740)

Demonstrations are of three kinds: *copy* asks the fact as it is stated, *update* in other words, *retain* asks about
something else, where the old answer stays right; 1 : 3 : 4 of them. Within each kind those are taken whose
sentence is most like the new fact and the question. No weight changes.

Use when: an edit must work at once, without training or statistics; the model is only reachable by prompts; you
want the in-context baseline beside an editor of the weights; a fact should be followed in other wordings too.

Every question is answered behind the nearest of the new facts: that is the published method, and it costs
locality, since a question about something else is asked behind a fact too. ``floor`` leaves questions to the unedited
model whose nearest fact is less alike (see ``eren``, which finds such a floor). With ``demonstrations=0`` it is ICE:
the fact and the question alone.

Demonstrations come from ``examples``, facts of the built-in world with other objects or a file of edits; none is
about a subject that is edited. Needs: edits, and for demonstrations a context of some 30 tokens each; those that do
not fit are left out, the least alike first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeps.contracts import Run
from keeps.data.edits import Edit, check_edits
from keeps.data.other_edits import other_edits
from keeps.data.records import RecordSet
from keeps.errors import ContextLengthError
from keeps.models.language_model import LanguageModel
from keeps.models.memory import MemoryChange, MemoryMethod, finish_memory
from keeps.models.notebook import Note, Notebook, notes_of
from keeps.models.reading import ROOM
from keeps.models.routed import Route, Router
from keeps.registry import method
from keeps.settings import Settings, setting

KINDS = ("copy", "update", "retain")
RATIO = (1, 3, 4)
DEMONSTRATIONS = "demonstrations"  # name of their files beside the notes


@dataclass(frozen=True, kw_only=True)
class IKESettings(Settings):
    """Settings of IKE."""

    demonstrations: int = setting(16, "Solved examples before the question; 0 is ICE, the fact alone", ge=0)
    facts: int = setting(1, "New facts that stand before a question, the nearest ones", ge=1)
    floor: float | None = setting(
        None, "Cosine below which the unedited model is asked; default: every question gets a fact", gt=-1, lt=1
    )
    examples: str = setting(
        "world:capital#40,world:symbol#40,world:currency#40", "Facts or a file of edits that examples are made of"
    )
    near: float | None = setting(None, "Cosine from which a new fact replaces an older one", gt=0, le=1, advanced=True)


def quotas(count: int) -> tuple[int, int, int]:
    """How many of ``count`` demonstrations copy, update and retain: 1 : 3 : 4, by largest remainders.

    >>> quotas(16), quotas(3)
    ((2, 6, 8), (0, 1, 2))
    """
    exact = [count * part / sum(RATIO) for part in RATIO]
    found = [int(value) for value in exact]
    order = sorted(range(3), key=lambda kind: (found[kind] - exact[kind], -kind))
    for kind in order[: count - sum(found)]:
        found[kind] += 1
    return found[0], found[1], found[2]


def demonstrations_of(edits: Sequence[Edit]) -> list[Note]:
    """Every demonstration that ``edits`` give; ``relation`` holds its kind, ``statement`` its text."""
    found = []
    for edit in edits:
        fact = f"{edit.prompt} {edit.target_new}"
        asked = [("copy", edit.prompt, edit.target_new)]
        asked += [("update", prompt, edit.target_new) for prompt in edit.paraphrases[:1]]
        asked += [("retain", other.prompt, other.answers[0]) for other in edit.locality[:1]]
        found += [
            Note(f"{edit.id}/{kind}", f"New Fact: {fact}\nPrompt: {prompt} {answer}", "", kind, prompt, answer)
            for kind, prompt, answer in asked
        ]
    return found


class IKERouter(Router):
    """Puts demonstrations and the nearest new facts before every question."""

    def __init__(self, base: LanguageModel, facts: Notebook, demonstrations: Notebook, settings: IKESettings) -> None:
        super().__init__(base)
        self.facts, self.settings = facts, settings
        self.by_kind = {kind: Notebook(facts.encoder, _known=facts._known) for kind in KINDS}
        for kind, notebook in self.by_kind.items():
            rows = [row for row, note in enumerate(demonstrations.notes) if note.relation == kind]
            notebook.notes = [demonstrations.notes[row] for row in rows]
            notebook.vectors = demonstrations.vectors[rows] if demonstrations.vectors is not None and rows else None

    def routes(self, prompts: Sequence[str]) -> list[Route | None]:
        """See :class:`Router`: None only below the floor, or where there is no fact."""
        hits = self.facts.search(prompts, self.settings.facts)
        found: list[Route | None] = []
        for prompt, some in zip(prompts, hits, strict=True):
            floor = self.settings.floor
            if not some or (floor is not None and some[0].likeness < floor):
                found.append(None)
                continue
            facts = [hit.note.statement for hit in reversed(some)]
            asked = "".join(f"New Fact: {fact}\n" for fact in facts) + f"Prompt: {prompt}"
            found.append(Route(self._fitted(asked), notes=tuple(hit.note.id for hit in some)))
        return found

    def _fitted(self, asked: str) -> str:
        """Demonstrations and ``asked``: as many as the context holds."""
        chosen: list[tuple[float, str]] = []
        for kind, count in zip(KINDS, quotas(self.settings.demonstrations), strict=True):
            if count:
                chosen += [(hit.likeness, hit.note.statement) for hit in self.by_kind[kind].search([asked], count)[0]]
        texts = [text for _, text in sorted(chosen)]  # the most alike stands next to the question
        for start in range(len(texts) + 1):
            whole = "\n\n".join([*texts[start:], asked])
            if len(self.base.encode_prompt(whole)) + ROOM <= self.base.context_length:
                return whole
        what = f"the new fact and the question leave no room for an answer of {ROOM} tokens"
        mend = "shorten them, or choose a model with a longer context"
        raise ContextLengthError(what, where=asked[:60], mend=mend)


class IKEChange(MemoryChange):
    """New facts and demonstrations."""

    def router(self, model: LanguageModel) -> IKERouter:
        """See :class:`MemoryChange`."""
        settings = IKESettings.from_mapping(self.record.settings)
        facts = Notebook.load(self.folder, near=settings.near)
        demonstrations = Notebook.load(self.folder, DEMONSTRATIONS) if settings.demonstrations else Notebook()
        return IKERouter(model, facts, demonstrations, settings)


@method(
    "ike",
    verb="edit",
    card="knowedit",
    paper="arXiv:2305.12740",
    summary="The new fact before the question, after solved examples of copying, applying and ignoring facts.",
    needs=("edits",),
    forms=("memory",),
)
class IKE(MemoryMethod):
    """In-context knowledge editing."""

    Settings = IKESettings
    change = IKEChange

    def __init__(self, settings: IKESettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> IKEChange:
        """Write the facts and the demonstrations; no weight is touched. ``keep`` is not needed."""
        del keep
        settings = self.settings
        check_edits(edits, "edits")
        facts = Notebook(near=settings.near)
        facts.add(notes_of(edits))
        facts.save(run.folder)
        if settings.demonstrations:
            shown = Notebook(facts.encoder)
            shown.add(demonstrations_of(other_edits(settings.examples, edits, seed=run.seed)))
            shown.save(run.folder, DEMONSTRATIONS)
            run.measures["demonstrations"] = len(shown)
        return IKEChange(run.folder, finish_memory("ike", settings, model, edits, run))
