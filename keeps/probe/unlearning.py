"""Unlearning: is what was to be forgotten gone, what did that cost, and can one still tell that it was learned.

Forgotten, for the forget set: probability of the answer, ROUGE-L recall of what is said, exact memorisation (share of
the tokens that are the most likely ones), extraction strength, and the truth ratio R = P(wrong answers) / P(right
answer), of which min(R, 1/R) is shown. Kept, for each other set: probability, ROUGE-L recall and max(0, 1 - R);
the probability of general knowledge is taken among its options. ``model_utility`` is the harmonic mean of the nine.

Against a model that never learned it (``retain_model``, trained on the retain set alone): ``forget_quality`` is the
p-value of a Kolmogorov-Smirnov test that the truth ratios of both come from one distribution. Near 1 the models
cannot be told apart; near 0 they can, because too little was forgotten or too much. ``privleak`` compares the areas
under the curve of a membership attack: ``direct`` above 0 still leaks, ``muse`` has the sign of MUSE's tables.

Attacks (``mia``): loss, loss over zlib, loss less that of ``reference_model``, Min-K %, Min-K %++ and, with
``gradient_norm``, how strongly a text pulls at the weights. Their area is 1 where the forget set looks like training
data beside the holdout set, and 1/2 where it cannot be told from it.

Use when: a model was to forget persons, texts or facts and you want to know whether it did; you compare unlearning
methods; you fear that a model memorised its training data or leaks who is in it.

Say which ``--model`` is which by its position: ``--model original --model unlearned --model retrained
--retain-model 3``. Of a model that forgets only in a prompt, the measures on its parameters do not change.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import Probe, Row, Run
from keeps.data.records import RecordSet
from keeps.data.unlearning import Item, check_items, items_fingerprint, load_items
from keeps.errors import SettingsError
from keeps.numerics.rouge import rouge_l
from keeps.probe.base import Findings, ModelRows, ProbingSystem, Selection
from keeps.probe.facts import answer_room
from keeps.probe.matching import matches
from keeps.probe.sampling import stratified
from keeps.probe.unlearning_measures import Roles, draw_unlearning, unlearning_findings
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ATTACKED = ("forget", "holdout")  # parts whose tokens are compared with the whole vocabulary
NONE = "none"  # no gradient is taken
FORMS = {"plain": "{question}", "question_answer": "Question: {question}\nAnswer:"}


@dataclass(frozen=True)
class Question:
    """An item with the prompt that it is asked in; texts go without, and are continued from their first half."""

    item: Item
    prompt: str  # before the answer that is scored; "" of texts
    beginning: str  # what is continued
    reference: str  # what the continuation is compared with

    @classmethod
    def of(cls, item: Item, form: str) -> Question:
        if item.question:
            prompt = FORMS[form].replace("{question}", item.question)
            return cls(item, prompt, prompt, item.answer)
        ends = [word.end() for word in re.finditer(r"\S+", item.answer)]
        half = ends[max(1, len(ends) // 2) - 1] if ends else 0
        return cls(item, "", item.answer[:half], item.answer[half:].strip())  # to the letter, line breaks too

    @property
    def alternatives(self) -> tuple[str, ...]:
        """The right answer in other words and the wrong ones, where there are wrong ones."""
        item = self.item
        return (item.paraphrased_answer or item.answer, *item.perturbed_answers) if item.perturbed_answers else ()


class UnlearningProbe:
    """The items, asked of a model with token probabilities.

    Args:
        form: how a question is put: ``"plain"``, as keeps trains on it, or ``"question_answer"``, with these two
            words before it and after it.
        new_tokens: most tokens of an answer; 0 takes as many as the longest reference has, and three.
        gradient_norm: ``"whole"`` or ``"per_tensor"`` takes the norm of the gradient of forget and holdout items, at
            a backward pass each; ``"none"`` does not.

    Raises:
        KeepsError: as :func:`keeps.data.unlearning.check_items`.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        name: str = "items",
        form: str = "plain",
        new_tokens: int = 0,
        gradient_norm: str = NONE,
    ) -> None:
        check_items(items, name)
        self.name, self.form, self.new_tokens, self.gradient_norm = name, form, new_tokens, gradient_norm
        self.items = list(items)
        self.questions = [Question.of(item, form) for item in self.items]

    @property
    def fingerprint(self) -> str:
        """Hash of the items and of the way they are asked (16 hexadecimal digits)."""
        content = ["unlearning-2", items_fingerprint(self.items), self.form, self.new_tokens]
        content += [] if self.gradient_norm == NONE else [self.gradient_norm]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def ids(self) -> list[str]:
        """The ids of the rows to come, in order."""
        return [item.id for item in self.items]

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """One row an item, in order.

        Raises:
            SettingsError: the answerer gives no token probabilities.
        """
        if not all(hasattr(answerer, name) for name in ("token_logprobs", "logprob", "generate")):
            mend = "probe a local model: forgetting does not show in what is said alone"
            raise SettingsError("this answerer gives no token probabilities", where=self.name, mend=mend)
        if self.gradient_norm != NONE and not hasattr(answerer, "gradient_norms"):
            mend = "probe a local model, or leave gradient_norm out"
            raise SettingsError("this answerer has no weights to take gradients by", where=self.name, mend=mend)
        said = [question for question in self.questions if question.reference]
        pulled = [] if self.gradient_norm == NONE else [q for q in self.questions if q.item.part in ATTACKED]
        total = (
            len(self.questions)
            + len(said)
            + len(pulled)
            + sum(len(question.alternatives) for question in self.questions)
        )
        with run.progress.task(f"probe {self.name}", total) if run else nullcontext() as task:
            advance = {"advance": task.advance} if task else {}
            scored = self._answers(answerer, advance)
            others = self._alternatives(answerer, advance)
            pulls = self._gradients(answerer, pulled, advance)
            room = self.new_tokens or answer_room(answerer, (question.reference for question in said))
            written: dict[str, str] = {}
            for stop in (("\n",), ()):  # a text goes on behind the end of a line
                part = [question for question in said if bool(question.item.question) == bool(stop)]
                beginnings = [question.beginning for question in part]
                texts = answerer.generate(beginnings, max_new_tokens=room, stop=stop, **advance) if part else []
                written.update(zip((question.item.id for question in part), texts, strict=True))
        return [
            _row(question, score, alternatives, written.get(question.item.id, ""), pulls.get(question.item.id))
            for question, score, alternatives in zip(self.questions, scored, others, strict=True)
        ]

    def _answers(self, answerer: Any, advance: Mapping[str, Any]) -> list[Any]:
        """Token scores of every answer; with the moments over the vocabulary where membership is attacked."""
        found: dict[str, Any] = {}
        for attacked in (True, False):
            part = [question for question in self.questions if (question.item.part in ATTACKED) == attacked]
            prompts, answers = [q.prompt for q in part], [q.item.answer for q in part]
            scores = answerer.token_logprobs(prompts, answers, moments=attacked, **advance) if part else []
            found.update(zip((question.item.id for question in part), scores, strict=True))
        return [found[question.item.id] for question in self.questions]

    def _gradients(self, answerer: Any, questions: Sequence[Question], advance: Mapping[str, Any]) -> dict[str, float]:
        """The norm of the gradient of each of ``questions``, by its id."""
        if not questions:
            return {}
        prompts, answers = [q.prompt for q in questions], [q.item.answer for q in questions]
        norms = answerer.gradient_norms(prompts, answers, kind=self.gradient_norm, **advance)
        return {question.item.id: norm for question, norm in zip(questions, norms, strict=True)}

    def _alternatives(self, answerer: Any, advance: Mapping[str, Any]) -> list[list[float]]:
        """Mean log-probability of a token of each alternative, a list a question."""
        flat = [(question.prompt, text) for question in self.questions for text in question.alternatives]
        if not flat:
            return [[] for _ in self.questions]
        scores = iter(answerer.logprob([prompt for prompt, _ in flat], [text for _, text in flat], **advance))
        return [[next(scores).per_token for _ in question.alternatives] for question in self.questions]


@dataclass(frozen=True, kw_only=True)
class UnlearningSettings(Settings):
    """Settings of the unlearning probe."""

    retain_model: int = setting(
        0, "Which --model, counted from 1, never saw the forget set; 0: none of them", ge=0, unit="position"
    )
    reference_model: int = setting(
        0, "Which --model the reference attack takes losses from; 0: none of them", ge=0, unit="position"
    )
    truth_ratio: str = setting(
        "geometric",
        "How wrong answers are averaged: losses (geometric, the code of TOFU) or probabilities (arithmetic)",
        choices=("geometric", "arithmetic"),
    )
    extraction: str = setting(
        "definition",
        "Extraction strength where no suffix is right: 0, or 1/T as open_unlearning has it",
        choices=("definition", "open_unlearning"),
        advanced=True,
    )
    min_k: float = setting(0.4, "Share of the least likely tokens in the Min-K attacks", gt=0, le=1)
    gradient_norm: str = setting(
        NONE,
        "Attack by the norm of the gradient too: of all weights, or the mean over tensors as open-unlearning has it; "
        "a backward pass for each item",
        choices=(NONE, "whole", "per_tensor"),
    )
    form: str = setting(
        "plain", "How a question is put: as it stands, or between Question: and Answer:", choices=tuple(FORMS)
    )
    new_tokens: int = setting(0, "Most tokens of an answer; 0: as many as the references need", ge=0, unit="tokens")


@method(
    "unlearning",
    verb="probe",
    card="unlearning",
    paper="arXiv:2311.15766",
    summary="Forget quality, model utility, memorisation, extraction and membership inference after unlearning.",
    needs=("forget set",),
    uses=("retain set", "holdout set", "general knowledge"),
)
class Unlearning(ProbingSystem):
    """Sets of questions or texts; ``limit`` is shared out over the sets."""

    Settings = UnlearningSettings
    default_data = "world:capital"

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.roles = Roles(settings.retain_model, settings.reference_model)
        self.fewest_models = max(1, self.roles.retain, self.roles.reference)

    def probe(self, selection: Selection) -> Probe:
        """See :meth:`keeps.probe.base.ProbingSystem.probe`."""
        data = self.default_data if selection.data is None else selection.data
        items = load_items(data, seed=selection.seed, marks=selection.marks)
        chosen = stratified(
            items, selection.limit, selection.seed, group=lambda item: item.part, identity=lambda item: item.id
        )
        name = data.source if isinstance(data, RecordSet) else str(data)
        how = {name: getattr(self.settings, name) for name in ("form", "new_tokens", "gradient_norm")}
        return UnlearningProbe(chosen, name=name, **how)

    def measure(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
        """Everything of each model, and what needs the retain-only or the reference model.

        Raises:
            SettingsError: fewer models were named than the settings point at.
        """
        return unlearning_findings(
            asked,
            roles=self.roles,
            averaging=self.settings.truth_ratio,
            suffix=self.settings.extraction,
            min_k=self.settings.min_k,
            seed=seed,
        )

    def draw(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Figure | None:
        """What is left of the forget set against what is left of the rest, a point a model."""
        return draw_unlearning(self.measure(asked, seed=seed).measures)


def _row(question: Question, scored: Any, alternatives: Sequence[float], text: str, pull: float | None) -> Row:
    item = question.item
    recall, f1 = 0.0, 0.0
    if question.reference:
        if not item.question:  # how long the other texts are must not count
            text = " ".join(text.split()[: len(question.reference.split())])
        found = rouge_l(text, question.reference)
        recall, f1 = found.recall, found.f1
    details: dict[str, Any] = {
        "part": item.part,
        "tokens": scored.tokens,
        "logprobs": list(scored.logprobs),
        "greedy": [int(flag) for flag in scored.greedy],
        "means": list(scored.means),
        "deviations": list(scored.deviations),
        "zlib": len(zlib.compress(item.answer.encode())),
        "rouge_l_recall": recall,
        "rouge_l_f1": f1,
    }
    if pull is not None:
        details["gradient_norm"] = pull
    if alternatives:
        details |= {"right": alternatives[0], "wrong": list(alternatives[1:])}
    if not item.question:
        details["continued"] = text
        per_token = scored.logprob / scored.tokens
        return Row(item.id, item.part, item.answer[:80], "", "", False, per_token, scored.logprob, "text", details)
    right = matches(text, [item.answer])
    return Row(item.id, item.part, question.prompt, item.answer, text, right, recall, scored.logprob, "fact", details)
