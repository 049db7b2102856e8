"""Ask the same questions in every language, by log-probability or by what is written, and make a row of each."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from keeps.contracts import Row
from keeps.data.languages import ENGLISH, language, language_prompt
from keeps.data.multilingual import LanguageQuestion, MultilingualSet
from keeps.errors import SettingsError
from keeps.models.tokens import TextEncoder
from keeps.probe.kgquiz_extract import write
from keeps.probe.language_map import question_vectors
from keeps.probe.language_parse import LIKELIHOOD, NONE, SIMILAR, Told, free_answer, free_right, parse_option
from keeps.probe.similarity import TextSimilarity

if TYPE_CHECKING:
    from torch import Tensor

    from keeps.probe.language_specific import LanguageSpecificSettings

Advance = Callable[[float], object] | None


class LanguageAsker:
    """Asks one answerer; what it can do decides how.

    Raises:
        SettingsError: log-probabilities are wanted of an answerer that has none, or of free answers.
    """

    def __init__(
        self, answerer: Any, settings: LanguageSpecificSettings, similarity: TextSimilarity, *, free_text: bool
    ) -> None:
        self.answerer, self.settings, self.similarity = answerer, settings, similarity
        wanted = settings.asking
        if wanted == "likelihood" and not hasattr(answerer, "rank"):
            mend = "choose --asking reasoning or direct, or a local model"
            raise SettingsError("this answerer gives no log-probabilities", where="asking", mend=mend)
        scores = hasattr(answerer, "rank") and not free_text
        self.way = ("likelihood" if scores else "reasoning") if wanted == "auto" else wanted

    def rows(self, data: MultilingualSet, advance: Advance = None) -> list[Row]:
        """One row a language and question, language by language; ``advance`` is told of rows done."""
        english = data.questions[ENGLISH]
        texts = [question.text for question in english]
        vectors = question_vectors(texts, self.similarity, self.settings.prefix)
        more: list[dict[str, Any]] = [{"embedding": packed(vector)} for vector in vectors]
        if self.settings.self_selected:
            for own, code in zip(more, self._selected(english, data.languages), strict=True):
                own["selected"] = code
        rows = []
        for code, questions in data.questions.items():
            extra = more if code == ENGLISH else [{} for _ in questions]
            ask = self._ranked if self.way == "likelihood" else self._written
            rows += ask(questions, extra, advance)
        return rows

    def _ranked(
        self, questions: Sequence[LanguageQuestion], extra: Sequence[dict[str, Any]], advance: Advance
    ) -> list[Row]:
        prompts = [language_prompt(q.language, q.text, form="completion") for q in questions]
        choices = [list(q.choices) for q in questions]
        share = len(questions) / max(sum(map(len, choices)), 1)
        bar = {} if advance is None else {"advance": lambda done: advance(done * share)}
        rows = []
        ranked = self.answerer.rank(prompts, choices, **bar)
        for question, prompt, score, more in zip(questions, prompts, ranked, extra, strict=True):
            told = Told(score.best, LIKELIHOOD)
            expected = score.logprobs[question.choices.index(question.answers[0])]
            rows.append(_row(question, prompt, question.choices[score.best], told, more, expected))
        return rows

    def _written(
        self, questions: Sequence[LanguageQuestion], extra: Sequence[dict[str, Any]], advance: Advance
    ) -> list[Row]:
        form = self.way
        prompts = [language_prompt(q.language, q.text, q.choices, form=form) for q in questions]
        texts = self._texts(prompts, advance)
        told = [self._told(question, text) for question, text in zip(questions, texts, strict=True)]
        unread = [n for n, item in enumerate(told) if item is None]
        for n, option in zip(unread, self._nearest([(questions[n], texts[n]) for n in unread]), strict=True):
            told[n] = Told(option, SIMILAR if option >= 0 else NONE)
        together = zip(questions, prompts, texts, told, extra, strict=True)
        return [_row(q, prompt, text.strip(), item or Told(-1, NONE), more) for q, prompt, text, item, more in together]

    def _texts(self, prompts: Sequence[str], advance: Advance) -> list[str]:
        """What is written to each prompt, as a turn of a conversation where the model has a chat template."""
        room, answerer = self.settings.room, self.answerer
        tokenizer = getattr(answerer, "tokenizer", None)
        templated = self.settings.chat and bool(getattr(tokenizer, "chat_template", None))
        if templated and hasattr(answerer, "continue_encoded"):
            encoder = TextEncoder(tokenizer, "always")
            bar = {} if advance is None else {"advance": advance}
            return answerer.continue_encoded([encoder.prompt(text) for text in prompts], max_new_tokens=room, **bar)
        return write(answerer, prompts, room=room, advance=advance)

    def _told(self, question: LanguageQuestion, text: str) -> Told | None:
        if not question.choices:
            return Told(-1, "free answer" if text.strip() else NONE)
        if not text.strip():
            return Told(-1, NONE)
        own = self.settings
        return parse_option(text, question.choices, letter_rule=own.letter_rule, final_first=own.final_first)

    def _nearest(self, pairs: Sequence[tuple[LanguageQuestion, str]]) -> list[int]:
        """The option that is most like all that was written."""
        found = []
        for question, text in pairs:
            cosines = self.similarity.matrix([text], question.choices)[0]
            found.append(cosines.index(max(cosines)) if cosines else -1)
        return found

    def _selected(self, questions: Sequence[LanguageQuestion], codes: Sequence[str]) -> list[str]:
        """The language in which the model itself would answer."""
        names = [language(code).name for code in codes]
        listed = ", ".join(names)
        prompts = [
            f"{question.text}\nIn which language is this question answered best: {listed}?\nLanguage:"
            for question in questions
        ]
        if hasattr(self.answerer, "rank"):
            return [codes[int(score.best)] for score in self.answerer.rank(prompts, [names for _ in prompts])]
        texts = write(self.answerer, prompts, room=16)
        return [next((c for c, name in zip(codes, names, strict=True) if name in text), ENGLISH) for text in texts]


def packed(vector: Tensor) -> str:
    """A vector of length 1 as text: float16 in base64, which keeps cosines to 1e-3."""
    return base64.b64encode(vector.half().numpy().tobytes()).decode()


def unpacked(text: str) -> Tensor:
    """The vector that :func:`packed` wrote, float32."""
    import torch

    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float16).float()


def _row(
    question: LanguageQuestion,
    prompt: str,
    answer: str,
    told: Told,
    more: dict[str, Any],
    logprob: float | None = None,
) -> Row:
    if question.choices:
        correct = told.option >= 0 and question.choices[told.option] in question.answers
    else:
        correct = free_right(free_answer(answer), question.answers)
    own = {"question": question.id, "language": question.language, "told": told.option, "route": told.route}
    right = [n for n, choice in enumerate(question.choices) if choice in question.answers]
    about = {"country": question.country, "topic": question.topic, "right": right}
    if question.language == ENGLISH:
        about["text"] = question.text
    return Row(
        id=f"{question.id}@{question.language}",
        group=language(question.language).name,
        prompt=prompt,
        expected=question.answers[0],
        answer=answer,
        correct=correct,
        score=float(correct),
        logprob=logprob,
        kind="choice" if question.choices else "fact",
        details={**own, **about, **more},
    )
