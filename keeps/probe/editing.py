"""Edited models: did the edit take, does it generalise, what follows from it, what else changed, is it overfitted.

    edit success, rephrases, portability: the new answer is given      (exact, token, probability)
    locality: what the unedited model said is still said               (exact, token, probability)
    overfitting: P(target | prompt) where the target is the wrong answer

Each is measured in three ways. ``exact``: greedy decoding begins with the answer. ``token``: the share of its
tokens that are the most likely ones when the ones before are given (teacher forcing, as papers print it; it
overstates edits). ``probability``: the geometric mean of its tokens' probabilities. Portability and locality are
means over the kinds of prompts that an edit has, then over edits; an edit without such prompts counts for neither.

Name the unedited model first, then the edited ones: locality compares with what the first one answers.
``locality_truth`` compares with the stored answers instead, and needs no second model. ``locality.exact`` is the
share of prompts with the same answer, ``locality.token`` the share of the same most likely tokens, and
``locality.probability`` the smaller of both probabilities of the stored answer divided by the larger.

The overfit scores are those of EVOKE (arXiv:2410.07819), a task at a time: direct probability of the target (DP),
probability of the correct (CAP) and of the original answer (OAP), the share of prompts on which the correct answer
beats the target (EOS, 100 % is no overfitting), and the original one (AMS). Prefix distraction, which puts the
sentence of the edit in front of a prompt about another subject, is made from the data where they bring none.

Fluency is the weighted entropy of word bigrams and trigrams of generated text in bits (papers print it times 100).

Use when: you want to know whether a model editor really changed a fact, and what else it changed; an edited model
repeats the new answer wherever it is asked; you compare model editors such as ROME, MEMIT or fine-tuning.

``--data`` takes edits in a file of our own layout, in those of CounterFact, EVOKE, KnowEdit, zsRE or UnKE, or facts
of the world, which are given other objects of their relation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Probe, Row, Run
from keeps.data.edit_facts import edits_from_facts
from keeps.data.edits import Edit, EditPrompt, check_edits, edits_fingerprint, read_edits
from keeps.data.records import Fact, RecordSet
from keeps.data.rows import path_mode
from keeps.data.select import load_records
from keeps.errors import EmptySetError
from keeps.models.stopping import StopRule
from keeps.probe.base import Findings, ModelRows, ProbingSystem, Selection
from keeps.probe.editing_measures import draw_scopes, editing_findings
from keeps.probe.facts import answer_room
from keeps.probe.matching import matches
from keeps.probe.sampling import stratified
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MULTI_HOP_FORM = "{question} The answer to this question, most simply, is"  # arXiv:2410.07819, as the data are asked


@dataclass(frozen=True)
class Asked:
    """One prompt of an edit: where it counts, and whose probabilities are wanted."""

    edit: Edit
    scope: str
    prompt: str
    answers: tuple[str, ...]
    kind: str = ""
    number: int = 1
    original: str = ""

    @property
    def id(self) -> str:
        return "/".join(part for part in (self.edit.id, self.scope, self.kind, str(self.number)) if part)

    @property
    def group(self) -> str:
        return f"{self.scope}: {self.kind}" if self.kind else self.scope

    @property
    def texts(self) -> tuple[str, ...]:
        """Every continuation that is scored."""
        wanted = (*self.answers, self.edit.target_new, self.original)
        return tuple(dict.fromkeys(text for text in wanted if text))


class EditingProbe:
    """The prompts of ``edits``, asked of anything that answers.

    Without token probabilities (a remote server, a pipeline) only the exact scores are there.

    Args:
        distraction: make prefix distraction where an edit brings none.
        generation_tokens: length of the text whose fluency is measured; 0 generates none.

    Raises:
        EmptySetError: there is no edit.
        RecordError: an edit contradicts itself.
    """

    def __init__(
        self, edits: Sequence[Edit], *, name: str = "edits", distraction: bool = True, generation_tokens: int = 100
    ) -> None:
        check_edits(edits, name)
        self.edits = list(edits)
        self.name = name
        self.distraction = distraction
        self.generation_tokens = generation_tokens
        self.asked = [item for edit in self.edits for item in prompts_of(edit, distraction=distraction)]

    @property
    def fingerprint(self) -> str:
        """Hash of the edits and of the way they are asked (16 hexadecimal digits)."""
        content = json.dumps(["editing-1", edits_fingerprint(self.edits), self.distraction, self.generation_tokens])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def ids(self) -> list[str]:
        """The ids of the rows to come, in order."""
        return [item.id for item in self.asked]

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """One row a prompt, in order."""
        scores = hasattr(answerer, "ask") and hasattr(answerer, "token_logprobs")
        begins = self._beginnings() if scores else {}
        total = len(self.asked) + sum(len(item.texts) for item in self.asked) * scores + len(begins)
        with run.progress.task(f"probe {self.name}", total) if run else nullcontext() as task:
            advance = {"advance": task.advance} if task and scores else {}
            if not scores:
                said = [answer.text.strip() for answer in answerer.answer([item.prompt for item in self.asked])]
                return [_row(item, text, {}) for item, text in zip(self.asked, said, strict=True)]
            said = _complete(answerer, self.asked, advance)
            found = _score(answerer, self.asked, advance)
            options = {"max_new_tokens": self.generation_tokens, "stop": (), **advance}
            generated = answerer.generate(list(begins.values()), **options) if begins else []
        written = dict(zip(begins, generated, strict=True))
        rows = zip(self.asked, said, found, strict=True)
        return [_row(item, text, scored, written.get(item.id)) for item, text, scored in rows]

    def _beginnings(self) -> dict[str, str]:
        """What text is generated from, by the id of the row that keeps it."""
        if not self.generation_tokens:
            return {}
        return {
            item.id: item.edit.generation_prompts[0] if item.edit.generation_prompts else item.edit.prompt
            for item in self.asked
            if item.scope == "rewrite"
        }


def prompts_of(edit: Edit, *, distraction: bool = True) -> Iterator[Asked]:
    """Everything that is asked about an edit."""
    yield Asked(edit, "rewrite", edit.prompt, (edit.target_new,), original=edit.target_true)
    for number, prompt in enumerate(edit.paraphrases, 1):
        yield Asked(edit, "rephrase", prompt, (edit.target_new,), number=number, original=edit.target_true)
    yield from _numbered(edit, "portability", edit.portability)
    yield from _numbered(edit, "locality", [*edit.locality, *(distractions(edit) if distraction else ())])


def distractions(edit: Edit) -> list[EditPrompt]:
    """The sentence of the edit in front of its prompts about other subjects; none where the data bring their own."""
    if any(asked.kind == "prefix_distraction" for asked in edit.locality) or not edit.subject:
        return []
    neighbours = [asked for asked in edit.locality if asked.kind == "same_relation"]
    return [replace(asked, kind="prefix_distraction", prompt=f"{edit.sentence} {asked.prompt}") for asked in neighbours]


def _numbered(edit: Edit, scope: str, prompts: Sequence[EditPrompt]) -> Iterator[Asked]:
    counts: dict[str, int] = {}
    for asked in prompts:
        counts[asked.kind] = counts.get(asked.kind, 0) + 1
        question = asked.kind == "multi_hop" and asked.prompt.endswith("?")
        prompt = MULTI_HOP_FORM.replace("{question}", asked.prompt) if question else asked.prompt
        yield Asked(edit, scope, prompt, asked.answers, asked.kind, counts[asked.kind], asked.original)


@dataclass(frozen=True, kw_only=True)
class EditingSettings(Settings):
    """Settings of the editing probe."""

    distraction: bool = setting(True, "Make prefix distraction where the data bring none")
    generation_tokens: int = setting(
        100, "Length of the text whose fluency is measured; 0 generates none", ge=0, unit="tokens"
    )


@method(
    "editing",
    verb="probe",
    card="knowedit",
    paper="arXiv:2401.01286",
    summary="Edit success, rephrases, portability, locality, fluency and overfitting of edited models.",
    needs=("edits",),
)
class Editing(ProbingSystem):
    """Edits, or facts that edits are made from; ``limit`` counts edits, each with all of its prompts."""

    Settings = EditingSettings
    default_data = "world:country_of_city#60,world:capital#60"

    def probe(self, selection: Selection) -> Probe:
        """See :meth:`keeps.probe.base.ProbingSystem.probe`."""
        data = self.default_data if selection.data is None else selection.data
        edits = load_edits(data, seed=selection.seed, marks=selection.marks)
        chosen = stratified(
            edits, selection.limit, selection.seed, group=lambda edit: edit.relation, identity=lambda edit: edit.id
        )
        name = data.source if isinstance(data, RecordSet) else str(data)
        settings = self.settings
        return EditingProbe(
            chosen, name=name, distraction=settings.distraction, generation_tokens=settings.generation_tokens
        )

    def measure(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
        """The scores of each model; locality of all but the first against the first."""
        return editing_findings(asked, seed=seed)

    def draw(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Figure | None:
        """Exact answers by scope, a colour a model."""
        return draw_scopes(self.measure(asked, seed=seed).measures)


def load_edits(
    data: str | Path | RecordSet, *, seed: int = 0, marks: Mapping[str, str] | None = None
) -> tuple[Edit, ...]:
    """The edits of a file, or edits made from the facts of a set.

    Raises:
        EmptySetError: the set holds no fact.
        KeepsError: as :func:`keeps.data.edits.read_edits` and :func:`keeps.data.select.load_records`.
    """
    named_file = isinstance(data, (str, Path)) and path_mode(Path(data)) is not None
    if named_file or (isinstance(data, (str, Path)) and Path(data).suffix and not str(data).startswith("world")):
        return read_edits(Path(data))  # type: ignore[arg-type]
    records = load_records(data, marks=marks)
    facts = [record for record in records if isinstance(record, Fact)]
    if not facts:
        mend = "name facts of the world, or a file of edits"
        raise EmptySetError("there is no fact to make an edit of", where=records.source, mend=mend)
    of_world = all(fact.id.startswith("world:") for fact in facts)
    pool = [record for record in load_records("world", marks=marks) if isinstance(record, Fact)] if of_world else facts
    return edits_from_facts(facts, pool=pool, seed=seed)


def _complete(answerer: Any, asked: Sequence[Asked], advance: Mapping[str, Any]) -> list[str]:
    """Greedy answers; decoding stops at the end of a sentence where the answer has no more than one."""
    said = [""] * len(asked)
    rule = StopRule(("\n",), sentence=True)
    for short in (True, False):
        part = [n for n, item in enumerate(asked) if short == all(not rule.reached(text) for text in item.answers)]
        if not part:
            continue
        room = answer_room(answerer, (text for n in part for text in asked[n].answers))
        prompts, answers = [asked[n].prompt for n in part], [asked[n].answers[0] for n in part]
        for n, found in zip(
            part, answerer.ask(prompts, answers, max_new_tokens=room, sentence=short, **advance), strict=True
        ):
            said[n] = found.text
    return said


def _score(answerer: Any, asked: Sequence[Asked], advance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each prompt: its continuations by text, each with log-probability, tokens, hits and most likely tokens."""
    flat = [(item.prompt, text) for item in asked for text in item.texts]
    scores = iter(answerer.token_logprobs([prompt for prompt, _ in flat], [text for _, text in flat], **advance))
    found = []
    for item in asked:
        of_texts = {text: next(scores) for text in item.texts}
        found.append(
            {
                text: {"logprob": each.logprob, "tokens": each.tokens, "hits": sum(each.greedy), "best": each.best}
                for text, each in of_texts.items()
            }
        )
    return found


def _row(item: Asked, text: str, scored: Mapping[str, Any], generated: str | None = None) -> Row:
    right = matches(text, item.answers)
    details: dict[str, Any] = {
        "edit": item.edit.id,
        "scope": item.scope,
        "kind": item.kind,
        "answers": list(item.answers),
        "target": item.edit.target_new,
        "original": item.original,
        "scores": {key: {**value, "best": list(value["best"])} for key, value in scored.items()},
    }
    if generated is not None:
        details["generated"] = generated
    logprob = scored[item.answers[0]]["logprob"] if scored else None
    score = (
        max((scored[a]["hits"] / scored[a]["tokens"] for a in item.answers), default=0.0) if scored else float(right)
    )
    return Row(item.id, item.group, item.prompt, item.answers[0], text, right, score, logprob, "fact", details)
