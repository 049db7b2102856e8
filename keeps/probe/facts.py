"""Ask facts by completion in every wording; choices by length-normalised log-probability; texts by perplexity.

    known = at least half of its wordings are answered rightly

One fixed wording is no test of knowledge: the same 215 capitals score 25 to 62 by wording alone. An answer is right
when it begins with an accepted one at the end of a word, whatever its case and accents; a choice when it has the
highest log-probability per token; running text has no right answer and is measured by its loss.

Use when: you want to know what a model knows before you change it, or what two models know in the same words; your
questions lie in a file with prompts and answers.

``--shots`` puts solved questions of the same group before each one, so that a base model sees what form of answer is
wanted; what it does not know it will still not know.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from keeps.contracts import Probe, Question, Row, Run
from keeps.data.select import load_records
from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.probe.base import ProbingSystem, Selection
from keeps.probe.matching import matches
from keeps.probe.sampling import limited
from keeps.probe.several import SeveralProbes
from keeps.probe.shots import with_shots
from keeps.probe.text import TextProbe
from keeps.registry import method
from keeps.settings import Settings, setting

MIN_ANSWER_TOKENS = 6  # enough to see what kind of wrong answer was given
CHUNK = 256  # prompts between two steps of the progress bar

Job = tuple[Question, str]  # a question and one of its wordings
Wording = dict[str, Any]  # what came of it: prompt, answer, correct, logprob


class FactProbe:
    """Questions with accepted answers, asked of anything that answers.

    A :class:`keeps.models.LanguageModel` gives log-probabilities too; other answerers are asked for
    text alone, and multiple choice is then put into the question.

    >>> from keeps.contracts import Answer
    >>> class Atlas:
    ...     def answer(self, questions, contexts=None):
    ...         return [Answer("Oslo, of course") for question in questions]
    >>> norway = Question("no", "capital", ("The capital of Norway is", "Norway's capital is"), ("Oslo",))
    >>> FactProbe([norway])(Atlas())[0].score
    1.0

    Raises:
        EmptySetError: there is no question.
        RecordError: an accepted answer of a multiple choice is not among its choices.
    """

    def __init__(self, questions: Sequence[Question], *, name: str = "facts") -> None:
        if not questions:
            mend = "select facts or examples that have answers"
            raise EmptySetError("there is no question to ask", where=name, mend=mend)
        for question in questions:
            _check_answers(question)
        self.questions = list(questions)
        self.name = name

    @property
    def fingerprint(self) -> str:
        """Hash of the questions and of the rule by which they are scored (16 hexadecimal digits)."""
        content = json.dumps(["facts-1", [asdict(question) for question in self.questions]], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def ids(self) -> list[str]:
        """The ids of the rows to come, in order."""
        return [question.id for question in self.questions]

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """One row per question, in order."""
        jobs = [(question, prompt) for question in self.questions for prompt in question.prompts]
        asked: list[Wording] = []
        with run.progress.task(f"probe {self.name}", len(jobs)) if run else nullcontext() as task:
            for start in range(0, len(jobs), CHUNK):
                part = jobs[start : start + CHUNK]
                asked += _ask(answerer, part)
                if task:
                    task.advance(len(part))
        wordings = iter(asked)
        return [_row(question, [next(wordings) for _ in question.prompts]) for question in self.questions]


@dataclass(frozen=True, kw_only=True)
class FactsSettings(Settings):
    """Settings of the plain probe."""

    shots: int = setting(0, "Solved questions of the same group before each one", ge=0)


@method(
    "facts",
    verb="probe",
    paper="the common measure",
    summary="Ask facts in several wordings, choices and running text: known, probability, perplexity.",
    card="",
    needs=("questions",),
)
class Facts(ProbingSystem):
    """Everything in a set that has an answer, and its running text."""

    Settings = FactsSettings

    def probe(self, selection: Selection) -> Probe:
        """See :meth:`keeps.probe.base.ProbingSystem.probe`.

        Raises:
            SettingsError: shots or a limit that the set cannot give.
        """
        records = load_records(self.default_data if selection.data is None else selection.data, marks=selection.marks)
        everything = records.questions()
        questions = limited(everything, selection.limit, selection.seed) if everything else []
        questions = with_shots(questions, self.settings.shots, selection.seed, pool=everything)
        probes: list[Probe] = [FactProbe(questions, name=records.source)] if questions else []
        passages = records.passages()[: selection.limit]
        if passages:
            probes.append(TextProbe(passages, group="text", name=records.source))
            if self.settings.shots and not questions:
                mend = "leave --shots out, or give questions"
                raise SettingsError("running text takes no solved examples", where=records.source, mend=mend)
        return SeveralProbes(probes, name=records.source)


def answer_room(answerer: Any, answers: Iterable[str]) -> int:
    """Tokens to decode: the longest accepted answer, what may stand before it, and the word's end."""
    longest = max(len(answerer.encode_pair("It is", answer)[1]) for answer in set(answers))
    return max(MIN_ANSWER_TOKENS, longest + 3)


def _check_answers(question: Question) -> None:
    if not question.prompts or not question.answers:
        mend = "give it at least one prompt and one answer"
        raise RecordError("the question has no prompt or no answer", where=question.id, mend=mend)
    odd = [answer for answer in question.answers if question.choices and answer not in question.choices]
    if odd:
        what = f'the answer "{odd[0]}" is not among the choices'
        raise RecordError(what, where=question.id, mend="add it to the choices, or correct it")


def _row(question: Question, wordings: list[Wording]) -> Row:
    right = sum(wording["correct"] for wording in wordings)
    logprobs = [wording["logprob"] for wording in wordings if wording["logprob"] is not None]
    return Row(
        id=question.id,
        group=question.group,
        prompt=question.prompts[0],
        expected=question.answers[0],
        answer=wordings[0]["answer"],
        correct=2 * right >= len(wordings),
        score=right / len(wordings),
        logprob=sum(logprobs) / len(logprobs) if logprobs else None,
        kind="choice" if question.choices else "fact",
        details={"wordings": wordings},
    )


def _ask(answerer: Any, jobs: Sequence[Job]) -> list[Wording]:
    scores = hasattr(answerer, "ask") and hasattr(answerer, "rank")
    if not scores:
        return _answer(answerer, jobs)
    result: list[Wording] = [{} for _ in jobs]
    for choice, ask in ((False, _complete), (True, _choose)):
        indices = [index for index, (question, _) in enumerate(jobs) if bool(question.choices) == choice]
        part = [jobs[index] for index in indices]
        for index, wording in zip(indices, ask(answerer, part) if part else [], strict=True):
            result[index] = wording
    return result


def _complete(answerer: Any, jobs: Sequence[Job]) -> list[Wording]:
    expected = [question.answers[0] for question, _ in jobs]
    room = answer_room(answerer, (answer for question, _ in jobs for answer in question.answers))
    asked = answerer.ask([prompt for _, prompt in jobs], expected, max_new_tokens=room)
    return [
        _wording(prompt, said.text.strip(), matches(said.text, question.answers), said.logprob)
        for (question, prompt), said in zip(jobs, asked, strict=True)
    ]


def _choose(answerer: Any, jobs: Sequence[Job]) -> list[Wording]:
    ranked = answerer.rank([prompt for _, prompt in jobs], [question.choices for question, _ in jobs])
    wordings = []
    for (question, prompt), score in zip(jobs, ranked, strict=True):
        picked = question.choices[score.best]
        expected = score.logprobs[question.choices.index(question.answers[0])]
        wordings.append(_wording(prompt, picked, picked in question.answers, expected))
    return wordings


def _answer(answerer: Any, jobs: Sequence[Job]) -> list[Wording]:
    """Text alone; the choices, where there are any, stand below the question."""
    prompts = []
    for question, prompt in jobs:
        options = "\nAnswer with one of: " + "; ".join(question.choices) if question.choices else ""
        prompts.append(prompt + options)
    said = answerer.answer(prompts)
    return [
        _wording(prompt, answer.text.strip(), matches(answer.text, question.answers), None)
        for (question, prompt), answer in zip(jobs, said, strict=True)
    ]


def _wording(prompt: str, answer: str, correct: bool, logprob: float | None) -> Wording:
    return {"prompt": prompt, "answer": answer, "correct": correct, "logprob": logprob}
