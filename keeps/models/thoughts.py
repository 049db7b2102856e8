"""Editing a chain of thought: prompts, verdicts on a new fact, and the loop that corrects the thoughts with facts.

What a model thinks is written down one fact a line, after its answer, so that it says what the model believes. A fact
that contradicts a line goes to an editor, which writes the thoughts anew; the answer is read off the last ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from keeps.models.notebook import Note, Notebook
from keeps.models.scores import AnswerScore

CONTRADICT, SUPPORT, UNRELATED = "Contradict", "Support", "Unrelated"
WORDS = {CONTRADICT: ("Contradict", "Modify"), SUPPORT: ("Support", "Related"), UNRELATED: ("Unrelated", "Irrelevant")}
DETECTORS = ("words", "first_token", "likeness")
EDITOR_TASK = "You can edit the following chains of thought based on the new knowledge."
CONTENT_FREE = ("N/A", ("N/A",), "N/A")  # question, thoughts and fact that say nothing
_QA = (
    ("In which country is the city of Lyon?", "France"),
    ("What do bees make?", "Honey"),
    ("Who wrote the play Hamlet?", "William Shakespeare"),
    ("What is the language of the country whose capital is Lisbon?", "Portuguese"),
    ("On which continent does the river Nile flow?", "Africa"),
)
_CHAINS = (
    ("What is the language of the country whose capital is Lisbon?", "Portuguese",
     ("Lisbon is the capital of Portugal.", "The language of Portugal is Portuguese.")),
    ("On which continent was the author of Hamlet born?", "Europe",
     ("The author of Hamlet is William Shakespeare.", "William Shakespeare was born in England.",
      "England is in Europe.")),
)  # fmt: skip
_VERDICTS = (
    (0, "Lisbon is the capital of Brazil.", CONTRADICT),
    (0, "The language of Portugal is Portuguese.", SUPPORT),
    (0, "Honey is made by bees.", UNRELATED),
)
_NEW_CHAIN = ("Lisbon is the capital of Brazil.", "The language of Brazil is Portuguese.")
_BREAK = ("\n\n", "\nQuestion")


class Thinker(Protocol):
    """What the loop asks of a language model."""

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 16, stop: Sequence[str] = ("\n",), sentence: bool = False
    ) -> list[str]:
        """Greedy continuations, cut and stripped."""
        ...

    def logprob(self, prompts: Sequence[str], answers: Sequence[str]) -> list[AnswerScore]:
        """Of each answer after its prompt."""
        ...


def answer_prompt(question: str) -> str:
    """Five solved questions, then the question."""
    shots = "".join(f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in _QA)
    return f"{shots}Question: {question}\nAnswer:"


def thoughts_prompt(question: str, answer: str | None) -> str:
    """The question and, if there is one yet, its answer; the reasons are to follow."""
    parts = []
    for asked, said, lines in (*_CHAINS, (question, answer or "", ())):
        stated = f"\nAnswer: {said}" if answer is not None else ""
        parts.append(f"Question: {asked}{stated}\nThoughts:\n" + "\n".join(lines))
    return "\n\n".join(parts)


def verdict_prompt(question: str, thoughts: Sequence[str], fact: str) -> str:
    """Three judged facts, then the one to be judged."""
    shots = [(_CHAINS[n][0], _CHAINS[n][2], known, word) for n, known, word in _VERDICTS]
    parts = [
        f"Question: {asked}\nOld Thoughts:\n" + "\n".join(lines) + f"\nNew knowledge: {known}\n"
        f"Relevance of knowledge and chain of thought: {word}"
        for asked, lines, known, word in (*shots, (question, tuple(thoughts), fact, ""))
    ]
    return "\n\n".join(parts).rstrip()


def editor_prompt(question: str, thoughts: Sequence[str], fact: str, *, shots: bool = False) -> str:
    """What the editor is given; a trained one needs no example (``shots``)."""
    asked = f"Question: {question}\nOld Thoughts:\n" + "\n".join(thoughts) + f"\nNew knowledge: {fact}\nNew Thoughts:\n"
    if not shots:
        return f"{EDITOR_TASK}\n\n{asked}"
    example = editor_prompt(_CHAINS[0][0], _CHAINS[0][2], _VERDICTS[0][1])
    return f"{example}{chr(10).join(_NEW_CHAIN)}\n\n{asked}"


def final_prompt(question: str, thoughts: Sequence[str]) -> str:
    """Answers are to be read off the thoughts, whatever the model knows."""
    parts = [
        f"Question: {asked}\nNew Thoughts:\n" + "\n".join(lines) + f"\nAnswer from [New Thoughts]: {said}"
        for asked, said, lines in (*_CHAINS, (_CHAINS[0][0], "Portuguese", _NEW_CHAIN), (question, "", tuple(thoughts)))
    ]
    return ("Trust the new thoughts more than what you know.\n\n" + "\n\n".join(parts)).rstrip()


def split_lines(text: str) -> tuple[str, ...]:
    """Thoughts as single sentences: lines without numbers or bullets, long ones cut where a sentence ends.

    >>> split_lines("1. Oslo is in Norway.\\n- Norway is cold. It snows there.")
    ('Oslo is in Norway.', 'Norway is cold.', 'It snows there.')
    >>> split_lines("3.5 million people live there.")
    ('3.5 million people live there.',)
    """
    lines = [re.sub(r"^\s*(?:[-*•]|\(?\d+[.)])(?!\d)\s*", "", line).strip() for line in text.split("\n")]
    parts = [part.strip() for line in lines for part in re.split(r"(?<=[a-z0-9)\"'][.!?])\s+(?=[A-Z\"'])", line)]
    return tuple(part for part in parts if part)


def same_sentence(a: str, b: str) -> bool:
    """Whether two sentences are one but for case, spaces and the full stop."""
    return _bare(a) == _bare(b)


@dataclass
class Detector:
    """Says how a fact stands to thoughts.

    ``words`` compares the length-normalised log-likelihoods of the three words (each with its synonym added), less
    what they are on an input without content, since words differ in how likely they are anyhow. ``first_token`` is
    published: the logits of the first tokens of both words are added, without calibration; it takes a model that
    scores tokens. ``likeness`` is for models that cannot tell: a fact that was found contradicts the thoughts unless
    they hold its object already.
    """

    model: Thinker
    kind: str = "words"
    _calibration: dict[str, float] | None = field(default=None, repr=False)

    def __call__(self, question: str, thoughts: Sequence[str], fact: str, target: str = "") -> str:
        """The verdict: a fact that stands in the thoughts is never in conflict with them."""
        if any(same_sentence(line, fact) for line in thoughts):
            return SUPPORT
        if self.kind == "likeness":
            held = target and any(f" {_bare(target)} " in f" {_bare(line)} " for line in thoughts)
            return SUPPORT if held else CONTRADICT
        if self.kind == "first_token":
            sums = self._first_tokens(verdict_prompt(question, thoughts, fact))
            return max(sums, key=lambda verdict: sums[verdict])
        if self._calibration is None:
            self._calibration = self._scores(verdict_prompt(*CONTENT_FREE))
        scores = self._scores(verdict_prompt(question, thoughts, fact))
        return max(WORDS, key=lambda verdict: scores[verdict] - self._calibration[verdict])  # type: ignore[index]

    def _first_tokens(self, prompt: str) -> dict[str, float]:
        """Sums of log-probabilities, which differ from sums of as many logits by the same number."""
        words = [word for pair in WORDS.values() for word in pair]
        found = iter(cast(Any, self.model).token_logprobs([prompt] * len(words), words))
        return {verdict: math.fsum(next(found).logprobs[0] for _ in pair) for verdict, pair in WORDS.items()}

    def _scores(self, prompt: str) -> dict[str, float]:
        words = [word for pair in WORDS.values() for word in pair]
        found = iter(self.model.logprob([prompt] * len(words), words))
        return {
            verdict: math.log(sum(math.exp(next(found).per_token) for _ in pair)) for verdict, pair in WORDS.items()
        }


@dataclass(frozen=True)
class Step:
    """One fact that was looked at: the sentence that found it, and the verdict."""

    sentence: str
    fact: str
    note: str
    verdict: str


@dataclass
class Thinking:
    """A question on its way: what was said and thought first, what is thought now, and what was looked at."""

    question: str
    old_answer: str
    old_thoughts: tuple[str, ...] = ()
    thoughts: tuple[str, ...] = ()
    answer: str = ""
    steps: list[Step] = field(default_factory=list)

    @property
    def edits(self) -> int:
        """How often the thoughts were edited."""
        return sum(step.verdict == CONTRADICT for step in self.steps)


@dataclass
class Loop:
    """Retrieve, judge, edit, at most ``max_iterations`` times.

    Attributes:
        memory: the facts; with ``new_of`` what stood before the edits, and its values are the new facts.
        floor: cosine below which what is nearest counts as nothing.
        on_no_conflict: ``"stop"`` ends at the first fact that is not in conflict, as published; ``"continue"`` goes
            on with the next sentence.
    """

    editor: Thinker
    memory: Notebook
    detector: Detector
    max_iterations: int = 4
    floor: float = 0.0
    on_no_conflict: str = "stop"
    new_of: dict[str, str] | None = None
    shots: bool = False
    max_new_tokens: int = 256

    def run(self, thinking: Thinking) -> None:
        """Correct ``thinking.thoughts`` in place."""
        used: set[str] = set()
        for round_ in range(self.max_iterations):
            sentences = [*([thinking.question] if round_ == 0 else []), *thinking.thoughts]
            fact = self._conflicting(thinking, sentences, used)
            if fact is None:
                return
            prompt = editor_prompt(thinking.question, thinking.thoughts, fact, shots=self.shots)
            (text,) = self.editor.generate([prompt], max_new_tokens=self.max_new_tokens, stop=_BREAK)
            thinking.thoughts = split_lines(text) or thinking.thoughts

    def _conflicting(self, thinking: Thinking, sentences: Sequence[str], used: set[str]) -> str | None:
        """The first fact that contradicts the thoughts, marked as used; None ends the loop."""
        found = self.memory.search(sentences, 1) if sentences else []
        judged: set[str] = set()  # against these thoughts; once they are others a fact may stand otherwise to them
        for sentence, hits in zip(sentences, found, strict=True):
            if not hits or hits[0].likeness < self.floor or hits[0].note.id in used | judged:
                continue
            note = hits[0].note
            judged.add(note.id)
            if self.new_of is not None and note.id not in self.new_of:
                continue  # nothing about this one has changed
            fact = self._fact(note)
            verdict = self.detector(thinking.question, thinking.thoughts, fact, note.target)
            thinking.steps.append(Step(sentence, fact, note.id, verdict))
            if verdict == CONTRADICT:
                used.add(note.id)
                return fact
            if self.on_no_conflict == "stop":
                return None
        return None

    def _fact(self, note: Note) -> str:
        statement = note.statement if self.new_of is None else self.new_of[note.id]
        return statement if statement.endswith((".", "!", "?")) else f"{statement}."


def think(model: Thinker, loop: Loop, questions: Sequence[str], *, answer_first: bool = True) -> list[Thinking]:
    """Answer, give reasons, correct them with the memory, answer again from what they have become.

    Without a fact in the memory the first answer stands, and no reasons are asked for.
    """
    firsts = model.generate([answer_prompt(q) for q in questions], max_new_tokens=20, sentence=True)
    found = [Thinking(question, first, answer=first) for question, first in zip(questions, firsts, strict=True)]
    if not len(loop.memory) or not questions:
        return found
    asked = [thoughts_prompt(item.question, item.old_answer if answer_first else None) for item in found]
    texts = model.generate(asked, max_new_tokens=128, stop=_BREAK)
    for item, text in zip(found, texts, strict=True):
        item.old_thoughts = item.thoughts = split_lines(text)
        loop.run(item)
    edited = [item for item in found if item.edits]
    prompts = [final_prompt(item.question, item.thoughts) for item in edited]
    answers = model.generate(prompts, max_new_tokens=50, stop=("\n",)) if edited else []
    for item, answer in zip(edited, answers, strict=True):
        item.answer = answer
    return found


def _bare(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.casefold()).split())
