"""Reading notes before a question, with the right to refuse: prompts, and three ways to tell a refusal.

The task is machine reading comprehension where a question may be unanswerable. A model that follows instructions
says so in words; one that does not still finds the word more or less likely; and a model that does neither leaves
the decision to how near the nearest note is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from keeps.errors import ContextLengthError, EmptySetError
from keeps.models.language_model import LanguageModel
from keeps.models.notebook import Hit

REFUSAL = "unanswerable"
GATES = ("generate", "loglik", "score")
TASK = "Read this and answer the question."
MAY_REFUSE = f'{TASK} If the question is unanswerable, say "{REFUSAL}".'
OPTIONS = ("Yes", "It's impossible to say", "No")  # of a claim, read with notes; the middle one refuses
SURE_OPTIONS = (OPTIONS[0], OPTIONS[2])  # where nothing may be refused
PLAIN_OPTIONS = ("yes", "no")
ROOM = 64  # tokens kept free for the answer
FORMS = ("published", "completion")


@dataclass(frozen=True)
class Reading:
    """How a model is shown notes.

    Attributes:
        refusal: whether it is told that it may refuse (two-step reading); of a claim, whether the middle option is
            listed.
        form: ``"published"`` puts instruction, notes and question behind each other; ``"completion"`` leaves out the
            instruction and ends a question or the options of a claim in ``Answer:``, for models that go on with a text.
        task: ``"qa"`` asks the question, ``"nli"`` whether the notes let one conclude the claim.
    """

    refusal: bool = True
    form: str = "published"
    task: str = "qa"

    def prompt(self, model: LanguageModel, hits: Sequence[Hit], question: str) -> str:
        """Notes and question; notes that do not fit into the context are left out, see :meth:`fitting`."""
        return self.text(self.fitting(model, hits, question), question)

    def fitting(self, model: LanguageModel, hits: Sequence[Hit], question: str) -> Sequence[Hit]:
        """The notes that fit into the context with the question, the most alike ones; there may be none.

        Raises:
            ContextLengthError: the question alone does not fit. It is never cut.
        """
        for count in range(len(hits), -1, -1):
            if len(model.encode_prompt(self.text(hits[:count], question))) + ROOM <= model.context_length:
                return hits[:count]
        what = f"the question leaves no room for an answer of {ROOM} tokens"
        raise ContextLengthError(what, where=question[:60], mend="shorten it, or choose a model with a longer context")

    def text(self, hits: Sequence[Hit], question: str) -> str:
        """All of ``hits`` and the question, whether or not they fit."""
        notes = ".\n".join(hit.note.statement for hit in arranged(hits))
        notes += "." if notes else ""
        if self.task == "nli":
            asked = f'{notes}\n\nCan we conclude that "{question}"?'
            return with_options(asked, OPTIONS if self.refusal else SURE_OPTIONS, self.form)
        if self.form == "completion":
            asked = f"Question: {question}\nAnswer:" if question.rstrip().endswith("?") else question
            return f"{notes}\n\n{asked}"
        return f"{MAY_REFUSE if self.refusal else TASK}\n\n{notes}\n\n{question}"


def belief_prompt(claim: str, form: str = "published") -> str:
    """A claim as a question to the unedited model.

    >>> belief_prompt("Bees make honey.")
    'Is it true that Bees make honey?\\n\\nOPTIONS:\\n- yes\\n- no'
    """
    return with_options(f"Is it true that {claim.strip().removesuffix('.')}?", PLAIN_OPTIONS, form)


def with_options(text: str, options: Sequence[str], form: str) -> str:
    """``text`` and the list of options behind it."""
    listed = "".join(f"\n- {option}" for option in options)
    return f"{text}\n\nOPTIONS:{listed}" + ("\n\nAnswer:" if form == "completion" else "")


def arranged(hits: Sequence[Hit]) -> list[Hit]:
    """Notes in the order in which they are read: the nearest first.

    Where notes do not say what they are about, two of them may contradict each other; a model tends to believe what
    it reads last, so they come from the oldest to the newest.
    """
    if all(hit.note.matter is not None for hit in hits):
        return list(hits)
    return sorted(hits, key=lambda hit: hit.age)


def refuses(text: str) -> bool:
    """Whether an answer is a refusal, however it goes on.

    >>> refuses(' "Unanswerable", because ...'), refuses("It is unanswerable"), refuses("Oslo")
    (True, False, False)
    """
    return text.strip().lstrip("\"'“‘*-([ ").casefold().startswith(REFUSAL)


def refusal_margins(model: LanguageModel, prompts: Sequence[str], *, max_new_tokens: int) -> list[float]:
    """Mean log-probability of a token of the refusal, less that of the greedy answer; above b it counts as refused.

    Where the greedy answer is empty or a refusal itself the margin is infinite.
    """
    said = model.generate(prompts, max_new_tokens=max_new_tokens, sentence=True)
    margins = [float("inf")] * len(prompts)
    open_ = [number for number, text in enumerate(said) if text and not refuses(text)]
    asked = [prompts[number] for number in open_]
    refusals = model.logprob(asked, [REFUSAL] * len(asked))
    answers = model.logprob(asked, [said[number] for number in open_])
    for number, refusal, answer in zip(open_, refusals, answers, strict=True):
        margins[number] = refusal.per_token - answer.per_token
    return margins


def option_margins(model: LanguageModel, prompts: Sequence[str]) -> list[float]:
    """The same of claims: the refusing option, less the better of yes and no."""
    ranked = model.rank(prompts, [OPTIONS] * len(prompts))
    return [item.normalised[1] - max(item.normalised[0], item.normalised[2]) for item in ranked]


def best_threshold(inside: Sequence[float], outside: Sequence[float]) -> tuple[float, float]:
    """The threshold t with the highest mean of P(inside ≥ t) and P(outside < t), and that mean.

    In the middle of the widest gap between two values where several are as good.

    >>> best_threshold([3.0, 4.0], [0.0, 1.0])
    (2.0, 1.0)

    Raises:
        EmptySetError: there is no value on one side.
    """
    if not inside or not outside:
        what = "there is no question inside, or none outside, the scope of the notes"
        raise EmptySetError(what, where="calibration", mend="give edits with paraphrases and with locality prompts")
    values = sorted({*inside, *outside})
    edges = [values[0] - 1e-6, *((a + b) / 2 for a, b in pairwise(values)), values[-1] + 1e-6]
    gaps = [0.0, *(b - a for a, b in pairwise(values)), 0.0]

    def balanced(t: float) -> float:
        hit = sum(value >= t for value in inside) / len(inside)
        return (hit + sum(value < t for value in outside) / len(outside)) / 2

    best = max(range(len(edges)), key=lambda index: (balanced(edges[index]), gaps[index]))
    return edges[best], balanced(edges[best])
