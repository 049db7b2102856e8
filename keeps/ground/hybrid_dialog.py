"""JointLM: a conversation is answered from tables and documents without being told which fact lies where.

One model, two query prompts (Mishra et al. 2023, arXiv:2210.07295). Every entity is shown as one text, its row of the
table and then its documents. First the entity is found, then the reply is made from all that is known about it:

    P(yes | e) = softmax over {yes, no} of the logits behind ``:entity_selection: conversation e <entity_label>``
    reply      = beams behind ``:response_generation: conversation e* <response>``,   e* = argmax P(yes | e)

No belief state, no query, no placeholders: a fact that moves from the table to a document is found there.

Use when: an assistant answers from a table and from documents, such as FAQs or reviews; facts move between the two and
nothing may break; it must be seen which entity an answer is about and from which source each value comes.

The model learns both tasks from conversations: ``keeps.training.dialog_lessons.dialog_lessons`` makes the lessons,
``keeps adapt --learn FILE --method lora`` trains on them, and the adapted model answers here. One that has not learned
them chooses hardly better than by chance. ``keeps.training.relocation`` makes variants of the knowledge in which facts
lie elsewhere, by which it is seen whether an assistant memorised where each fact was.

Label probabilities are read behind the mark in one pass; the published code reads them at a fixed place of seven
decoded tokens. Too long inputs lose their oldest turns and then their last documents; there they lose the newest turn.
The marks are plain text, not tokens of their own, and the model is a decoder: the published one is BART.

Needs: a table of entities, documents about them if there are any, and a language model on this machine. Guarantees:
probabilities of entities do not depend on each other; each value of a reply is named with its source, and values that
the entity does not have are listed as ``hallucinated``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from keeps.contracts import Answer, Run
from keeps.data.entities import Entity, EntityBase
from keeps.data.entity_dialogs import (
    CUTS,
    EXPLAIN,
    LABEL,
    NO,
    RESPOND,
    SELECT,
    YES,
    History,
    fitted_prompt,
    parse_history,
)
from keeps.decoding.beams import beam_search
from keeps.decoding.streams import Stream
from keeps.errors import SettingsError, UnknownNameError, nearest
from keeps.ground.hybrid_sources import Used, used_values
from keeps.models.checks import check_questions
from keeps.models.language_model import LanguageModel
from keeps.models.stopping import StopRule
from keeps.numerics.dialog_scores import yes_probability
from keeps.registry import method
from keeps.retrieval.counts import Counts
from keeps.retrieval.lexical import BM25
from keeps.retrieval.words import words_of
from keeps.settings import Settings, setting

NO_ENTITY = "no_entity"
EXPLANATION_TOKENS = 24
LINE = StopRule(("\n",))


@dataclass(frozen=True, kw_only=True)
class HybridDialogSettings(Settings):
    """Settings of answering from tables and documents."""

    num_turns: int = setting(6, "Last turns of the conversation that are read", ge=1)
    max_input: int = setting(1024, "Longest prompt; the model's context if that is less", ge=16, unit="tokens")
    max_new_tokens: int = setting(100, "Longest reply", ge=1, unit="tokens")
    beams: int = setting(5, "Width of the search for the reply; 1 is greedy", ge=1, le=50)
    no_entity: bool = setting(False, "Answer without an entity where none is more likely right than wrong")
    candidates: int = setting(
        0, "Score only so many entities, those whose words are most like the conversation's; 0: all", ge=0
    )
    cut: str = setting(
        "oldest", "Turns that too long conversations lose first; newest is as published", choices=CUTS, advanced=True
    )
    domain: str = setting("", "Look among the entities of one domain; default: all")
    explain: bool = setting(False, "Let the model say what matched; for models that learned it")
    top: int = setting(5, "Entities listed in the trace", ge=1)


@dataclass(frozen=True)
class Ranked:
    """An entity and the probability that the conversation is about it."""

    entity: Entity
    probability: float


@method(
    "hybrid_dialog",
    verb="ground",
    paper="arXiv:2210.07295",
    summary="Answer conversations from tables and documents without saying which fact lies where.",
    needs=("tables",),
    uses=("documents",),
    fits=("causal-lm",),
)
class HybridDialog:
    """Find the entity, then answer with all that is known about it."""

    Settings = HybridDialogSettings

    def __init__(self, settings: HybridDialogSettings) -> None:
        self.settings = settings

    def __call__(self, model: Any, source: Any = None, *, run: Run) -> JointDialog:
        """See :class:`keeps.sources.GroundMethod`; ``source`` is an :class:`keeps.data.entities.EntityBase`.

        Raises:
            SettingsError: there are no entities, the model is not on this machine, or "yes" is no single token of it.
            UnknownNameError: there is no such domain.
        """
        if not isinstance(source, EntityBase):
            mend = "give a table of entities: --tables FILE, or keeps.data.entity_files.read_entities"
            raise SettingsError("there is no table to answer from", where="hybrid_dialog", mend=mend)
        if not isinstance(model, LanguageModel):
            mend = "name a model on this machine"
            raise SettingsError("the labels' logits are read from the model", where="hybrid_dialog", mend=mend)
        return JointDialog(model, source, self.settings, run)


class JointDialog:
    """An Answerer whose questions are conversations; see :func:`keeps.data.entity_dialogs.parse_history`."""

    def __init__(self, model: LanguageModel, base: EntityBase, settings: HybridDialogSettings, run: Run) -> None:
        self.model, self.base, self.settings, self.run = model, base, settings, run
        domains = sorted({entity.domain for entity in base})
        if settings.domain and settings.domain not in domains:
            mend = nearest(settings.domain, domains)
            raise UnknownNameError(f'there is no domain "{settings.domain}"', where=base.source, mend=mend)
        self.entities = base.of(settings.domain)
        self.ontology = base.ontology(settings.domain)
        self.texts: dict[str, str] = {}  # what was cited, by id, so that it can be graded
        self.most = min(settings.max_input, model.context_length - settings.max_new_tokens)
        for label in (YES, NO):
            if len(model.encode_pair(LABEL, label)[1]) != 1:
                what = f'"{label}" is no single token of the model, so its probability is not that of a label'
                raise SettingsError(what, where="hybrid_dialog", mend="choose another model")

    def rank_entities(self, conversations: Sequence[str], k: int | None = None) -> list[list[Ranked]]:
        """The ``k`` entities that each conversation is most probably about, the likeliest first; default: all scored.

        Raises:
            RecordError: a conversation is empty or does not end with the user.
            ContextLengthError: a turn with a table is longer than ``max_input``.
        """
        return [rows[:k] for rows, _ in self._ranked(self._histories(conversations))]

    def _ranked(self, histories: Sequence[History]) -> list[tuple[list[Ranked], int]]:
        """All scored entities of each conversation, the likeliest first, and the tokens that were read for it."""
        chosen = [self._candidates(history) for history in histories]
        prompts = [
            self._prompt(SELECT, history, entity)
            for history, own in zip(histories, chosen, strict=True)
            for entity in own
        ]
        lengths = iter(map(self._count, prompts))
        labels = [label for _ in prompts for label in (YES, NO)]
        with self.run.progress.task("finding entities", len(prompts)) as bar:
            found = self.model.logprob(
                [prompt for prompt in prompts for _ in (YES, NO)], labels, advance=lambda done: bar.advance(done / 2)
            )
        scores = iter(found)
        ranked = []
        for own in chosen:
            rows = [Ranked(e, yes_probability(next(scores).logprob, next(scores).logprob)) for e in own]
            read = sum(next(lengths) for _ in own)
            ranked.append((sorted(rows, key=lambda row: -row.probability), read))
        return ranked

    def respond(self, conversations: Sequence[str], entities: Sequence[Entity | None]) -> list[str]:
        """The reply to each conversation, made from an entity or from none.

        Raises:
            RecordError, ContextLengthError: as :meth:`rank_entities`.
        """
        return self._said(self._reply_prompts(self._histories(conversations), entities))

    def _reply_prompts(self, histories: Sequence[History], entities: Sequence[Entity | None]) -> list[str]:
        return [self._prompt(RESPOND, history, entity) for history, entity in zip(histories, entities, strict=True)]

    def _said(self, prompts: Sequence[str]) -> list[str]:
        room, beams = self.settings.max_new_tokens, self.settings.beams
        if beams == 1:
            return self.model.generate(prompts, max_new_tokens=room, stop=LINE.strings)
        found = beam_search(Stream.of(self.model, prompts), beams, max_new_tokens=room, rule=LINE)
        return [LINE.cut(self.model.encoder.decode(texts[0].tokens)) for texts in found]

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """One reply per conversation, in order.

        ``citations`` are the slots (``hotel/alpha lodge#phone``) and documents (``hotel/alpha lodge#doc1``) that values
        of the reply come from. The ``trace`` has ``entity`` and ``probability``, ``ranked``, ``used_values`` (slot,
        value and source), ``hallucinated``, ``explanation``, ``stop`` (``answered`` or ``no_entity``), ``calls``,
        ``prompt_tokens``, ``completion_tokens``, ``seconds``.

        Raises:
            RecordError: a conversation is empty or does not end with the user.
            SettingsError: contexts are given, which are not read.
        """
        check_questions(questions)
        if contexts is not None and any(context.strip() for context in contexts):
            mend = "leave the contexts out: documents belong to entities"
            raise SettingsError("contexts are not read", where="hybrid_dialog", mend=mend)
        started = time.perf_counter()
        histories = self._histories(questions)
        ranked = self._ranked(histories)
        entities = [self._chosen(rows) for rows, _ in ranked]
        prompts = self._reply_prompts(histories, entities)
        texts = self._said(prompts)
        reasons = self._explanations(histories, entities)
        seconds = (time.perf_counter() - started) / max(len(questions), 1)
        found = []
        for n, (rows, read) in enumerate(ranked):
            calls = len(rows) + 1 + bool(reasons[n])
            cost = {"calls": calls, "prompt_tokens": read + self._count(prompts[n])}
            cost |= {"completion_tokens": self._count(texts[n]) if texts[n] else 0, "seconds": round(seconds, 3)}
            found.append(self._answer(histories[n], texts[n], entities[n], rows, {**cost, "explanation": reasons[n]}))
        return found

    def _histories(self, conversations: Sequence[str]) -> list[History]:
        return [parse_history(text)[-self.settings.num_turns :] for text in conversations]

    def _prompt(self, task: str, history: History, entity: Entity | None) -> str:
        return fitted_prompt(task, history, entity, most=self.most, count=self._count, cut=self.settings.cut)

    def _count(self, text: str) -> int:
        return len(self.model.encode_prompt(text))

    @cached_property
    def _words(self) -> BM25:
        return BM25.of(Counts.of([words_of(entity.text()) for entity in self.entities]))

    def _candidates(self, history: History) -> list[Entity]:
        few = self.settings.candidates
        if not few or few >= len(self.entities):
            return self.entities
        scores = self._words.scores(words_of(" ".join(text for _, text in history))).tolist()
        return [self.entities[n] for n in sorted(range(len(scores)), key=lambda n: (-scores[n], n))[:few]]

    def _chosen(self, rows: Sequence[Ranked]) -> Entity | None:
        unsure = self.settings.no_entity and rows[0].probability < 0.5
        return None if unsure else rows[0].entity

    def _explanations(self, histories: Sequence[History], entities: Sequence[Entity | None]) -> list[str]:
        """What the model says of the entity that it took; nothing where it is not asked."""
        if not self.settings.explain:
            return [""] * len(entities)
        named = [n for n, entity in enumerate(entities) if entity is not None]
        prompts = [f"{self._prompt(SELECT, histories[n], entities[n])} {YES} {EXPLAIN}" for n in named]
        said = self.model.generate(prompts, max_new_tokens=EXPLANATION_TOKENS) if prompts else []
        found = dict(zip(named, said, strict=True))
        return [found.get(n, "") for n in range(len(entities))]

    def _answer(
        self, history: History, text: str, entity: Entity | None, rows: Sequence[Ranked], more: dict[str, Any]
    ) -> Answer:
        used, invented = used_values(text, entity, self.ontology, history[-1][1])
        cites = tuple(dict.fromkeys(item.source for item in used))
        self.texts.update((item.source, item.text) for item in used)
        best = rows[0]
        trace = {
            "method": "hybrid_dialog",
            **more,
            "retrievals": 0,
            "stop": NO_ENTITY if entity is None else "answered",
            "unsupported": not cites,
            "entity": None if entity is None else entity.id,
            "probability": best.probability,
            "ranked": [{"entity": r.entity.id, "probability": r.probability} for r in rows[: self.settings.top]],
            "used_values": [vars(item) for item in used],
            "hallucinated": [list(pair) for pair in sorted(invented)],
            "passages": [_passage(number, name, used, best) for number, name in enumerate(cites, 1)],
        }
        return Answer(text, cites, trace)


def _passage(number: int, source: str, used: Sequence[Used], best: Ranked) -> dict[str, Any]:
    item = next(one for one in used if one.source == source)
    return {"number": number, "id": source, "title": item.title, "score": best.probability}
