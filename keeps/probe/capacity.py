"""How many bits of your facts a model holds: what its losses save against a guess that knows nothing.

    bits of a fact = log2 |A| - (-log2 p(answer))        A: the different answers of its relation

A relation of N facts with A equally likely answers is N log2 |A| bits; a model that finds each right answer with
probability p already holds all but -log2 p of them, whatever it would say aloud. This is the value term of the
theorem of Allen-Zhu and Li (arXiv:2404.05405): losses are summed over the tokens of an answer, in nats, and divided
by ln 2. Each relation counts at least 0; the figure before that is given too. It bounds from below what the
weights hold: the names of the subjects and the answers themselves, which the question and A give away, add nothing.

Use when: you want to know how much of a set of facts sits in a model, in a unit that models of any size and
tokenizer share; what rounding its weights costs in knowledge; whether a set fits into a small model at all.

- ``--shots 4`` shows a pretrained model what form an answer has; else much of its loss is about the form. The solved
  examples are other facts, given away to the guess too.
- ``--predictor hedged`` lets a reader of the model fall back on the guess, q = s p + (1 - s) / |A| with one s of 17 a
  relation, whose 1 or 5 bits are paid. It is a bound like the published one (``model``), and closer: one answer that
  a model finds next to impossible no longer undoes ten right ones. The published figure is among the measures too.
- ``--wordings mixture`` takes the mean of the probabilities in all wordings of a fact, ``mean`` that of the losses (the
  published p2). Either is a bound.
- ``--among text`` (as published) takes the probability of an answer among all texts; ``--among answers`` among the
  answers of its relation: tighter, at the price of asking every candidate.
- ``--guess frequencies`` lets the guess know how often each answer occurs. Take it where a few answers are common: a
  model that says "Europe" to every country would be credited with the difference.
- An answer that begins another one ("4" and "47") is too cheap among all texts, and a note counts these. Give
  ``--ending "."``, or ask among the answers.
- Only the first accepted answer counts. Where several are right, as for the neighbours of a country, a model that
  prefers another one pays for it.
- ``--weight-bits 4`` measures the model with every matrix rounded to nearest, in blocks of 64.

Parameters count once, tied or not, all experts included, with and without embeddings. The paper's models, trained
from nothing, reach 2 bits a parameter after 1000 exposures of each fact and 1 after 100. The estimate of what
fits is made of these ratios, and is one of an *empty* model: what yours holds besides these facts is not known.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import Probe, ProgressTask, Question, Row, Run
from keeps.data.select import load_records
from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.probe.base import Findings, ModelRows, ProbingSystem, Selection
from keeps.probe.capacity_figure import draw_bits
from keeps.probe.capacity_measures import Way, measure_bits
from keeps.probe.sampling import limited
from keeps.probe.shots import with_shots
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AMONG, GUESSES, WORDINGS = ("text", "answers"), ("uniform", "frequencies"), ("mixture", "mean")
WEIGHT_BITS = (2, 3, 4, 8)
PREDICTORS = ("hedged", "model")
BLOCK = 64  # weights that share a scale when they are rounded


@dataclass(frozen=True, kw_only=True)
class CapacitySettings(Settings):
    """Settings of the probe of capacity."""

    among: str = setting("text", "What an answer's probability is taken among: any text, or answers", choices=AMONG)
    guess: str = setting("uniform", "What knows nothing: all answers equal, or by their frequencies", choices=GUESSES)
    wordings: str = setting("mixture", "Of several wordings: a mixture, or the mean of their losses", choices=WORDINGS)
    predictor: str = setting(
        "hedged", "Whose losses count: the model hedged by the guess, or alone", choices=PREDICTORS
    )
    shots: int = setting(0, "Solved questions of the same group before each one", ge=0)
    ending: str = setting("", "Text after an answer that counts as part of it, such as a full stop")
    weight_bits: int | None = setting(None, "Round every matrix to this many bits first: 2, 3, 4 or 8", ge=2, le=8)

    def check(self) -> None:
        """Refuse a number of bits that no quantiser has."""
        if self.weight_bits is not None and self.weight_bits not in WEIGHT_BITS:
            mend = f"choose {', '.join(map(str, WEIGHT_BITS))}, or leave it out"
            raise SettingsError(f"weight_bits is {self.weight_bits}", where="capacity", mend=mend)


@dataclass(frozen=True)
class Relation:
    """What there is to know of a group of questions.

    Attributes:
        answers: each canonical answer with the number of facts that have it.
    """

    name: str
    answers: Mapping[str, int]

    @property
    def facts(self) -> int:
        """N."""
        return sum(self.answers.values())


class CapacityProbe:
    """Answers scored against the guess among those of their relation.

    Raises:
        EmptySetError: there is no question.
        RecordError: a question has no prompt or no answer, or its answer is not among its choices.
        SettingsError: every question has only one possible answer, so there is nothing to know.
    """

    def __init__(
        self, questions: Sequence[Question], everything: Sequence[Question], settings: CapacitySettings, *, name: str
    ) -> None:
        if not questions:
            raise EmptySetError("there is no fact to ask", where=name, mend="give facts or examples with answers")
        for question in everything:
            _check(question)
        self.questions, self.settings, self.name = list(questions), settings, name
        self.relations = relations(everything)
        if all(len(self._candidates(question)) < 2 for question in everything):
            mend = "give facts whose answers differ, or questions with choices"
            raise SettingsError("all facts have the same answer, so there is nothing to know", where=name, mend=mend)

    @property
    def fingerprint(self) -> str:
        """Hash of the questions, of all answers of their relations, and of the way of asking (16 digits)."""
        own = self.settings
        asked = [asdict(question) for question in self.questions]
        groups = [[relation.name, sorted(relation.answers.items())] for relation in self.relations.values()]
        content = ["capacity-1", own.among, own.ending, own.weight_bits, asked, groups]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]

    @property
    def ids(self) -> list[str]:
        """The ids of the rows to come, in order."""
        return [question.id for question in self.questions]

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """One row per question, in order.

        Raises:
            SettingsError: the answerer gives no log-probabilities, or its weights are not at hand to be rounded.
        """
        wanted = "rank" if self.settings.among == "answers" else "logprob"
        if not hasattr(answerer, wanted):
            mend = "probe a local model"
            raise SettingsError("this answerer gives no log-probabilities", where=self.name, mend=mend)
        total = sum(len(question.prompts) for question in self.questions)
        if self.settings.among == "answers":
            total = sum(len(q.prompts) * len(self._candidates(q)) for q in self.questions)
        with _at_bits(answerer, self.settings.weight_bits, self.name):
            with run.progress.task(f"capacity {self.name}", total) if run else nullcontext() as task:
                scored = iter(self._scores(answerer, task))
            counts = _counts(answerer)
        return [self._row(question, [next(scored) for _ in question.prompts], counts) for question in self.questions]

    def _scores(self, answerer: Any, task: ProgressTask | None) -> list[tuple[float, bool]]:
        """Log-probability of the answer of each prompt, and whether it is the most likely one."""
        advance = task.advance if task else None
        prompts = [prompt for question in self.questions for prompt in question.prompts]
        owners = [question for question in self.questions for _ in question.prompts]
        ending = self.settings.ending
        if self.settings.among == "text":
            found = answerer.logprob(prompts, [q.answers[0] + ending for q in owners], advance=advance)
            return [(min(0.0, score.logprob), score.greedy) for score in found]
        candidates = [self._candidates(question) for question in owners]
        lists = [[candidate + ending for candidate in each] for each in candidates]
        ranked = answerer.rank(prompts, lists, advance=advance)
        return [
            renormalised(score.logprobs, each.index(question.answers[0]))
            for question, each, score in zip(owners, candidates, ranked, strict=True)
        ]

    def _candidates(self, question: Question) -> list[str]:
        """A, in a fixed order: the choices, or all answers of the relation."""
        return list(dict.fromkeys(question.choices)) or sorted(self.relations[question.group].answers)

    def _row(self, question: Question, scored: list[tuple[float, bool]], counts: Mapping[str, int]) -> Row:
        relation = self.relations[question.group]
        answer = question.answers[0]
        candidates = self._candidates(question)
        longer = any(other != answer and other.startswith(answer) for other in candidates)
        share = 1 / len(candidates) if question.choices else relation.answers[answer] / relation.facts
        right = sum(greedy for _, greedy in scored)
        wordings = [
            {"prompt": prompt, "logprob": logprob, "greedy": greedy}
            for prompt, (logprob, greedy) in zip(question.prompts, scored, strict=True)
        ]
        return Row(
            id=question.id,
            group=question.group,
            prompt=question.prompts[0],
            expected=answer,
            answer=answer if scored[0][1] else "",
            correct=2 * right >= len(scored),
            score=right / len(scored),
            logprob=sum(logprob for logprob, _ in scored) / len(scored),
            kind="choice" if question.choices else "fact",
            details={
                "wordings": wordings,
                "candidates": len(candidates),
                "frequency": share,
                "facts": relation.facts,
                "begins_another": longer and self.settings.among == "text" and not self.settings.ending,
                **counts,
            },
        )


@method(
    "capacity",
    verb="probe",
    paper="arXiv:2404.05405",
    summary="How many bits of a set of facts a model holds, a share of what there is to know, and bits a parameter.",
    needs=("questions",),
)
class Capacity(ProbingSystem):
    """Bits per relation, bits a parameter, and what would fit."""

    Settings = CapacitySettings

    def probe(self, selection: Selection) -> Probe:
        """See :meth:`keeps.probe.base.ProbingSystem.probe`; a limit leaves the sets of answers whole.

        Raises:
            SettingsError: a limit below 1, facts that all have one answer, or fewer of a group than shots to show.
        """
        records = load_records(self.default_data if selection.data is None else selection.data, marks=selection.marks)
        everything = records.questions()
        chosen = limited(everything, selection.limit, selection.seed)
        chosen = with_shots(chosen, self.settings.shots, selection.seed, pool=everything)
        return CapacityProbe(chosen, everything, self.settings, name=records.source)

    def measure(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
        """Bits by relation and together, bits a parameter, and room."""
        way = Way(self.settings.guess, self.settings.wordings, self.settings.predictor)
        return measure_bits(asked, way, seed=seed)

    def draw(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Figure | None:
        """Bits held of what there is to know, a bar a relation."""
        return draw_bits(self.measure(asked, seed=seed).measures)


def relations(questions: Sequence[Question]) -> dict[str, Relation]:
    """The canonical answers of each group, with how often they occur."""
    counts: dict[str, Counter[str]] = {}
    for question in questions:
        counts.setdefault(question.group, Counter())[question.answers[0]] += 1
    return {name: Relation(name, dict(found)) for name, found in counts.items()}


def renormalised(logprobs: Sequence[float], place: int) -> tuple[float, bool]:
    """ln of p(answer) / Σ p(candidate), and whether no candidate has more.

    >>> round(math.exp(renormalised([math.log(0.3), math.log(0.1)], 0)[0]), 9)
    0.75
    """
    largest = max(logprobs)
    total = largest + math.log(math.fsum(math.exp(value - largest) for value in logprobs))
    return min(0.0, logprobs[place] - total), logprobs[place] == largest


def _check(question: Question) -> None:
    if not question.prompts or not question.answers:
        mend = "give it at least one prompt and one answer"
        raise RecordError("the question has no prompt or no answer", where=question.id, mend=mend)
    if question.choices and question.answers[0] not in question.choices:
        what = f'the answer "{question.answers[0]}" is not among the choices'
        raise RecordError(what, where=question.id, mend="add it to the choices, or correct it")


def _counts(answerer: Any) -> dict[str, int]:
    """Parameters of the model behind the answerer; nothing where it is not at hand."""
    model = getattr(answerer, "model", None)
    if not hasattr(model, "parameters"):
        return {}
    from keeps.models.parameters import count_parameters

    counted = count_parameters(model)  # type: ignore[arg-type]
    return {"parameters": counted.total, "embeddings": counted.embeddings}


@contextmanager
def _at_bits(answerer: Any, bits: int | None, where: str) -> Iterator[None]:
    """The answerer's model rounded to ``bits``, or as it is."""
    if bits is None:
        yield
        return
    model = getattr(answerer, "model", None)
    if not hasattr(model, "parameters"):
        mend = "probe a local model, or leave weight_bits out"
        raise SettingsError("the weights of this answerer cannot be rounded here", where=where, mend=mend)
    from keeps.models.rounding import rounded
    from keeps.numerics.quantisation import Quantiser

    with rounded(model, Quantiser(bits, "uniform_absmax", BLOCK)):  # type: ignore[arg-type]
        yield
