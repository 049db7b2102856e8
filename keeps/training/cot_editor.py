"""The editor of chains of thought: its training data, made by the model itself without labels, and its training.

a. steps and answer with documents       [STEP] ... [STEP] ... [ANSWER] ...
b. for each step, without documents: the steps before it and its first word are forced, and the model goes on
c. kept where the two answers differ, the two steps conflict, and still do when both are stated as facts
d. each record trains both ways: (question, old steps, new fact) -> new steps           (arXiv:2412.17727)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from keeps.contracts import Run
from keeps.errors import EmptySetError, RecordError
from keeps.models.language_model import LanguageModel
from keeps.models.thoughts import Thinker, editor_prompt, same_sentence
from keeps.training.batches import TokenizedExample
from keeps.training.lora_factors import lora_factors
from keeps.training.settings import TrainingSettings

STEP, ANSWER = "[STEP]", "[ANSWER]"
CONFLICT_RATIO = 0.6
MOST_ANSWER_WORDS, MOST_MORE_WORDS = 20, 10
LEAST_STEPS, LEAST_OTHER_STEPS = 2, 3  # of chains with documents, and of those without
LACK = "insufficient information"
NO_ANSWERS = ("unknown", "none", "no answer", LACK)
MENTIONS = ("document", "mention", "according to", LACK)
_SHOT = (
    f"Question: What is the language of the country whose capital is Lisbon?\n{STEP} Lisbon is the capital of "
    f"Portugal. {STEP} The language of Portugal is Portuguese. {ANSWER} Portuguese"
)


@dataclass(frozen=True)
class EditorRecord:
    """Two chains on one question that part at ``diff_idx``, and the facts that part them.

    Raises:
        RecordError: there is no such step, the answers or the facts are the same, or a text is empty.
    """

    question: str
    right_steps: tuple[str, ...]
    changed_steps: tuple[str, ...]
    right_answer: str
    changed_answer: str
    diff_idx: int
    right_fact: str
    changed_fact: str

    def __post_init__(self) -> None:
        where = f"question {self.question!r}"
        if not 0 <= self.diff_idx < min(len(self.right_steps), len(self.changed_steps)):
            what = f"diff_idx is {self.diff_idx} of {len(self.right_steps)} and {len(self.changed_steps)} steps"
            raise RecordError(what, where=where, mend="count steps from 0")
        if same_sentence(self.right_answer, self.changed_answer):
            raise RecordError("the two answers are the same", where=where, mend="take the record out")
        if same_sentence(self.right_fact, self.changed_fact):
            raise RecordError("the two facts are the same", where=where, mend="take the record out")


@dataclass(frozen=True)
class EditorPair:
    """What the editor is trained on: thoughts and a fact in, thoughts out."""

    question: str
    old: tuple[str, ...]
    fact: str
    new: tuple[str, ...]


def pairs_of(records: Sequence[EditorRecord]) -> list[EditorPair]:
    """Both directions of each record."""
    return [
        pair
        for r in records
        for pair in (
            EditorPair(r.question, r.right_steps, r.changed_fact, r.changed_steps),
            EditorPair(r.question, r.changed_steps, r.right_fact, r.right_steps),
        )
    ]


def build_editor_data(
    model: Thinker,
    questions: Sequence[tuple[str, Sequence[str]]],
    *,
    conflict_ratio: float = CONFLICT_RATIO,
    least_steps: int = LEAST_OTHER_STEPS,
) -> list[EditorRecord]:
    """Records made of questions with their documents, by the model alone.

    Args:
        questions: each with its documents.
        least_steps: of the alternative chains; chains with documents need 2. Of questions of two hops the published 3
            leave only what takes a detour.
        conflict_ratio: probability from which two answers count as inconsistent, and two steps as in conflict.
    """
    prompts = [_with_documents(question, documents) for question, documents in questions]
    texts = model.generate(prompts, max_new_tokens=200, stop=("\n\n", "\nQuestion"))
    found = []
    for (question, _), text in zip(questions, texts, strict=True):
        chain = parse_chain(text)
        if chain is not None and _usable(*chain):
            found += list(_variants(model, question, *chain, conflict_ratio, least_steps))
    return found


def parse_chain(text: str) -> tuple[tuple[str, ...], str] | None:
    """Steps and answer of ``"[STEP] ... [STEP] ... [ANSWER] ..."``; None of a text without an answer or a step.

    >>> parse_chain("[STEP] A is B. [STEP] B is C. [ANSWER] C")
    (('A is B.', 'B is C.'), 'C')
    """
    before, mark, answer = text.partition(ANSWER)
    steps = tuple(part.strip() for part in before.split(STEP) if part.strip())
    answer = answer.partition(STEP)[0].partition("\n")[0].strip()
    return (steps, answer) if mark and steps and answer else None


def _usable(steps: Sequence[str], answer: str) -> bool:
    return len(steps) >= LEAST_STEPS and len(answer.split()) <= MOST_ANSWER_WORDS and _answered(steps, answer)


def _answered(steps: Sequence[str], answer: str) -> bool:
    """Whether there is an answer, and no step speaks of where it comes from."""
    whole = " ".join(steps).casefold()
    said = not any(word in answer.casefold() for word in NO_ANSWERS)
    return said and not any(word in whole for word in MENTIONS)


def _variants(
    model: Thinker, question: str, steps: tuple[str, ...], answer: str, ratio: float, least: int
) -> Iterator[EditorRecord]:
    """What becomes of the chain when the model goes on by itself from the first word of each step."""
    starts = []
    for index, step in enumerate(steps):
        forced = "".join(f"{STEP} {before} " for before in steps[:index]) + f"{STEP} {step.split()[0]}"
        starts.append(forced)
    prompts = [f"{_SHOT}\n\nQuestion: {question}\n{forced}" for forced in starts]
    texts = model.generate(prompts, max_new_tokens=200, stop=("\n\n", "\nQuestion"))
    for index, (forced, text) in enumerate(zip(starts, texts, strict=True)):
        chain = parse_chain(f"{forced} {text}")
        if chain is None:
            continue
        changed, other = chain
        if len(changed) <= index or abs(len(changed) - len(steps)) > 1 or len(changed) < least:
            continue
        if not _answered(changed, other):
            continue
        if len(other.split()) > len(answer.split()) + MOST_MORE_WORDS or same_sentence(changed[index], steps[index]):
            continue
        if same_sentence(other, answer) or not _inconsistent(model, question, answer, other, ratio):
            continue
        if not _conflict(model, steps[index], changed[index], ratio):
            continue
        right, wrong = (_rewritten(model, text) for text in (steps[index], changed[index]))
        if right and wrong and not same_sentence(right, wrong) and _conflict(model, right, wrong, ratio):
            yield EditorRecord(question, steps, changed, answer, other, index, right, wrong)


def _inconsistent(model: Thinker, question: str, a: str, b: str, ratio: float) -> bool:
    prompt = (
        f"Question: {question}\nFirst answer: {a}\nSecond answer: {b}\nDo the two answers say the same?\n"
        "A. They are consistent\nB. They are inconsistent\nAnswer:"
    )
    return _choice(model, prompt, "AB")[1] > ratio


def _conflict(model: Thinker, a: str, b: str, ratio: float) -> bool:
    prompt = (
        f"First statement: {a}\nSecond statement: {b}\nHow do the two statements stand to each other?\n"
        "A. They contradict each other\nB. They say the same\nC. They have nothing to do with each other\nAnswer:"
    )
    return _choice(model, prompt, "ABC")[0] > ratio


def _choice(model: Thinker, prompt: str, letters: str) -> list[float]:
    """Probabilities of the letters, as shares of their sum."""
    scores = [score.logprob for score in model.logprob([prompt] * len(letters), list(letters))]
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return [weight / sum(weights) for weight in weights]


def _rewritten(model: Thinker, step: str) -> str:
    prompt = (
        "Thought: I know that it was Hamlet's author, Shakespeare.\nSentence of an encyclopedia: William Shakespeare "
        f"wrote Hamlet.\n\nThought: {step}\nSentence of an encyclopedia:"
    )
    return model.generate([prompt], max_new_tokens=60, stop=("\n",))[0].strip()


def _with_documents(question: str, documents: Sequence[str]) -> str:
    known = "\n".join(documents)
    return f"{_SHOT}\n\n{known}\nQuestion: {question}\n{STEP}".replace("\n\n\n", "\n\n")


def train_editor(
    model: LanguageModel,
    pairs: Sequence[EditorPair],
    settings: TrainingSettings,
    run: Run,
    *,
    targets: tuple[str, ...],
    rank: int,
) -> dict[str, tuple[Tensor, Tensor]]:
    """An adapter trained by the cross-entropy of the new thoughts alone; ``model`` is as it was afterwards.

    Returns:
        A ``(rank, in)`` and B ``(out, rank)`` of each layer; their scaling is 1.

    Raises:
        EmptySetError: there is no pair.
    """
    if not pairs:
        raise EmptySetError("there is no pair to train the editor on", where="train_editor", mend="give examples")
    end = model.tokenizer.encode("\n\n", add_special_tokens=False)
    examples = []
    for pair in pairs:
        context, answer = model.encode_pair(editor_prompt(pair.question, pair.old, pair.fact), "\n".join(pair.new))
        examples.append(TokenizedExample((*context, *answer, *end), len(context)))
    return lora_factors(model, examples, settings, run, targets=targets, rank=rank)
