"""Stage 2: each new question goes to the expert language of its topic, and is answered there in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keeps.contracts import Answer
from keeps.data.languages import ENGLISH, language, language_prompt
from keeps.data.multilingual import MultilingualSet
from keeps.errors import RecordError
from keeps.models.chat import Chat, Message
from keeps.probe.kgquiz_extract import write
from keeps.probe.language_map import LanguageMap, question_vectors
from keeps.probe.similarity import TextSimilarity

Translator = Callable[[Sequence[str], str], list[str]]  # English texts, code of the language wanted
ROOM = 512  # most new tokens, as in the official code


class LanguageRouter:
    """Any answerer, asked in the language that knows most about the question's topic.

    >>> router = LanguageRouter(model, LanguageMap.load("map"), translate=by_chat(chat))  # doctest: +SKIP
    >>> router.answer(["Which dish is eaten at Nowruz?"])[0].trace["language"]  # doctest: +SKIP
    'fa'

    Args:
        answerer: a model, a chat, or anything that answers in text.
        encoder: anything with ``encode``; by default the map's own one.
        translate: English questions into a language. Without it the question stays in English, and only the
            instruction and the thinking are in the expert language.
        form: ``"reasoning"`` (think first), ``"direct"``, or ``"completion"`` for base models.
    """

    def __init__(
        self,
        answerer: Any,
        language_map: LanguageMap,
        *,
        encoder: Any = None,
        translate: Translator | None = None,
        form: str = "reasoning",
        room: int = ROOM,
    ) -> None:
        self.answerer, self.map, self.translate = answerer, language_map, translate
        self.form, self.room = form, room
        self.similarity = TextSimilarity(encoder, name=language_map.encoder)

    def clusters(self, questions: Sequence[str]) -> list[int]:
        """The topic of each English question."""
        if not questions:
            return []
        return self.map.clusters_of(question_vectors(questions, self.similarity, self.map.prefix)).tolist()

    def route(self, questions: Sequence[str]) -> list[str]:
        """The expert language of each English question."""
        return [self.map.experts[cluster] for cluster in self.clusters(questions)]

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """See :class:`keeps.contracts.Answerer`; ``trace`` names language and topic, one call a question.

        Raises:
            RecordError: another number of contexts or translations than questions.
        """
        if contexts is not None and len(contexts) != len(questions):
            what = f"there are {len(questions)} questions and {len(contexts)} contexts"
            raise RecordError(what, mend="give one context for each question")
        if not questions:
            return []
        clusters = self.clusters(questions)
        codes = [self.map.experts[cluster] for cluster in clusters]
        texts = self._translated(questions, codes)
        given = contexts or [""] * len(questions)
        prompts = [
            language_prompt(code, text, form=self.form, context=context)
            for code, text, context in zip(codes, texts, given, strict=True)
        ]
        stop = ("\n",) if self.form == "completion" else ()
        told = write(self.answerer, prompts, room=self.room, stop=stop)
        return [
            Answer(text.strip(), trace={"language": code, "cluster": cluster, "prompt": prompt})
            for text, code, cluster, prompt in zip(told, codes, clusters, prompts, strict=True)
        ]

    def _translated(self, questions: Sequence[str], codes: Sequence[str]) -> list[str]:
        texts = list(questions)
        for code in dict.fromkeys(codes):
            if code == ENGLISH or self.translate is None:
                continue
            own = [index for index, other in enumerate(codes) if other == code]
            said = self.translate([texts[index] for index in own], code)
            if len(said) != len(own):
                what = f"{len(said)} translations of {len(own)} questions into {code}"
                raise RecordError(what, where="translate", mend="return one translation a question")
            for index, text in zip(own, said, strict=True):
                texts[index] = text
        return texts


def by_chat(chat: Chat, *, room: int = 256) -> Translator:
    """A translator that asks an instruction-following model."""

    def translate(texts: Sequence[str], code: str) -> list[str]:
        order = f"Translate the question into {language(code).name}. Reply with the translation alone."
        turns = [[Message("user", f"{order}\n\n{text}")] for text in texts]
        return [reply.text.strip() for reply in chat.reply(turns, max_new_tokens=room)]

    return translate


def by_table(known: MultilingualSet) -> Translator:
    """A translator of the questions of a set; others are refused."""
    english = {question.text: question.id for question in known.questions[ENGLISH]}
    texts: Mapping[str, Mapping[str, str]] = {
        code: {question.id: question.text for question in own} for code, own in known.questions.items()
    }

    def translate(questions: Sequence[str], code: str) -> list[str]:
        odd = [text for text in questions if text not in english or code not in texts]
        if odd:
            mend = "give a translator that can translate it, such as by_chat"
            raise RecordError(f'there is no translation into {code} of "{odd[0]}"', where=known.source, mend=mend)
        return [texts[code][english[text]] for text in questions]

    return translate
