"""FaithfulRAG: the model writes down what it believes, finds where the context speaks of it, and weighs both.

    claims = extract(q);  background = write(q, claims);  facts = statements(background)
    aligned = best(max over facts of cos(fact, chunk) for chunk in context)
    answer = think(q, aligned, context)                                              (arXiv:2506.08938)

A model that reads a passage either ignores it or follows it blindly. Here its own knowledge is made explicit first:
what the question needs to know, a short text about it from memory, and the single statements of that text. These
are queries, never evidence: chunks of the context that are most like one of them are where context and belief meet,
so where they can conflict. The model then answers from these chunks (Facts), and from the whole context where they do
not suffice. Nothing is trained, each stage runs once.

Use when: passages contradict what the model believes and should win; answers must be faithful to the context without
muting the model; a trace should show which belief met which passage.

``mode`` says how it thinks: ``wo_cot`` answers at once, ``normal_cot`` reasons freely, ``scheduled_cot`` in fixed
steps. ``label_conflicts`` also judges whether each fact agrees with its best chunk, at one more call a fact.

The published code extracts facts with the prompt of stage 1.1 and reads lists up to the next digit; ``compat`` does
so too. Its chunks are joined by score; ``order=document`` keeps their reading order. Prompts are in our own words,
with examples that are valid JSON. A weak model invents its background; since that never reaches the answer, it costs
recall of chunks, not truth. The published figures are of models of 7 billion weights and more, in the measures of
:mod:`keeps.numerics.context_scores`.

Needs: documents or a context, any model that chats, a sentence encoder. Guarantees: four calls a question, in the
order claims, background, facts, answer; the first three never see the context, the last never the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from keeps.contracts import Run
from keeps.ground.alignment import Aligned, Encoder, align, chunked, cleaned, sentences
from keeps.ground.base import Finished, Grounded, GroundSettings, Record
from keeps.ground.faithful_prompts import (
    MODES,
    MOST_STATEMENTS,
    RELATIONS,
    answer_prompt,
    background_prompt,
    claims_prompt,
    facts_prompt,
    published_statements,
    relation_prompt,
    statements,
)
from keeps.ground.passages import Numbered, shown, token_counter
from keeps.models.chat import Message
from keeps.models.in_step import Decide, Say, Talk
from keeps.models.json_replies import field, read_object
from keeps.numerics.text_scores import exact_match
from keeps.registry import method
from keeps.retrieval.assembly import assemble, restored
from keeps.settings import setting
from keeps.sources import Hit, Retriever


@dataclass(frozen=True, kw_only=True)
class FaithfulRAGSettings(GroundSettings):
    """Settings of FaithfulRAG."""

    mode: str = setting("scheduled_cot", "How the model thinks before it answers", choices=MODES)
    chunk_words: int = setting(20, "Longest chunk of the context", ge=5, unit="words")
    per_fact: int = setting(5, "Chunks that are taken for each fact", ge=1)
    keep: int = setting(5, "Chunks that are kept of all", ge=1)
    order: str = setting("score", "Order of the kept chunks", choices=("score", "document"))
    max_new_tokens: int = setting(500, "Longest answer with its reasons", ge=1, unit="tokens")
    mining_tokens: int = setting(500, "Longest reply of each of the first three stages", ge=1, unit="tokens")
    budget: int = setting(3000, "Most tokens of all passages together", ge=1, unit="tokens")
    highlight: bool = setting(False, "Mark the kept chunks in the context too")
    list_choices: bool = setting(True, "Show the options to choose from in the prompt; small models do better without")
    label_conflicts: bool = setting(False, "Judge whether each fact agrees with its best chunk (one call a fact)")
    encoder: str | None = setting(None, "Sentence encoder: a folder or hub id; default: the embedded one")
    compat: bool = setting(False, "Extract and read facts as the published code does", advanced=True)


@method(
    "faithful_rag",
    verb="ground",
    paper="arXiv:2506.08938",
    summary="Write down what the model believes, find where the passages speak of it, and answer from both.",
    needs=("documents",),
    fits=("causal-lm", "chat"),
)
class FaithfulRAG:
    """Fact-level conflict modelling. ``encoder`` replaces the one that the settings name."""

    Settings = FaithfulRAGSettings

    def __init__(self, settings: FaithfulRAGSettings, encoder: Encoder | None = None) -> None:
        self.settings, self.encoder = settings, encoder

    def __call__(self, model: Any, source: Retriever | None = None, *, run: Run) -> FaithfulAnswerer:
        """See :class:`keeps.sources.GroundMethod`."""
        encoder = self.encoder or _encoder(self.settings.encoder, run.device)
        return FaithfulAnswerer(model, source, self.settings, run, encoder)


@lru_cache(maxsize=1)
def _encoder(spec: str | None, device: str) -> Encoder:
    from keeps.models.encoder import SentenceEncoder

    return SentenceEncoder.load(spec, device=device)


class FaithfulAnswerer(Grounded[FaithfulRAGSettings]):
    """Mines beliefs, aligns the context with them, thinks."""

    method = "faithful_rag"

    def __init__(
        self, model: Any, source: Retriever | None, settings: FaithfulRAGSettings, run: Run, encoder: Encoder
    ) -> None:
        super().__init__(model, source, settings, run)
        self.encoder = encoder

    def talk(
        self, question: str, context: Sequence[Hit] | None, record: Record, choices: tuple[str, ...]
    ) -> Talk[Finished]:
        """The three modules."""
        hits = self.search(record, question, self.settings.k) if context is None else context
        if not hits:
            return (yield from self.without(question, record, choices))
        read = assemble(hits, self.settings.budget, count=token_counter(self.chat))
        record.add(list(read.passages.values()))
        facts = yield from self.mine_facts(question, record)
        aligned = self.align(facts, record.passages)
        record.step("align", " ".join(item.chunk for item in aligned), kept=len(aligned))
        extras: dict[str, Any] = {"self_facts": facts, "aligned": [vars(item) for item in aligned]}
        extras["left_out"] = [hit.id for hit in read.left_out]
        if self.settings.label_conflicts:
            extras["conflicts"] = yield from self.label_conflicts(facts, record)
        done = yield from self.think(question, aligned, record, choices)
        return Finished(done.text, done.stop, done.cites, extras | done.extras)

    def mine_facts(self, question: str, record: Record) -> Talk[list[str]]:
        """Module 1: three calls that see nothing of the context."""
        room, read = self.settings.mining_tokens, published_statements if self.settings.compat else statements
        claims = read((yield from self._say("claims", claims_prompt(question), room, record)))
        background = yield from self._say("background", background_prompt(question, claims), room, record)
        if not background.strip():
            return []
        prompt = claims_prompt(background) if self.settings.compat else facts_prompt(background)
        said = yield from self._say("facts", prompt, room, record)
        if self.settings.compat:
            return read(said)
        return read(said) or sentences(said)[:MOST_STATEMENTS]  # small models forget the numbers

    def align(self, facts: Sequence[str], passages: Sequence[Numbered]) -> list[Aligned]:
        """Module 2: chunks of the passages that speak about the facts."""
        chunks = [text for item in passages for text in chunked(cleaned(item.hit.text), self.settings.chunk_words)]
        chosen = align(facts, chunks, self.encoder, per_fact=self.settings.per_fact, keep=self.settings.keep)
        return sorted(chosen, key=lambda item: item.place) if self.settings.order == "document" else chosen

    def label_conflicts(self, facts: Sequence[str], record: Record) -> Talk[list[dict[str, Any]]]:
        """What each fact and its best chunk have to do with each other."""
        chunks = [t for item in record.passages for t in chunked(cleaned(item.hit.text), self.settings.chunk_words)]
        found = []
        for fact in facts:
            best = align([fact], chunks, self.encoder, per_fact=1, keep=1)
            if best:
                said = yield Decide("relation", relation_prompt(fact, best[0].chunk), RELATIONS, "relation")
                label = "" if said.choice is None else RELATIONS[said.choice]
                record.step("relation", label, fact=fact, chunk=best[0].chunk)
                found.append({"fact": fact, "chunk": best[0].chunk, "relation": label})
        return found

    def think(
        self, question: str, aligned: Sequence[Aligned], record: Record, choices: tuple[str, ...]
    ) -> Talk[Finished]:
        """Module 3: answer from aligned chunks, and from the whole context where they are not enough."""
        mode, cite = self.settings.mode, self.settings.cite in ("auto", "markers")
        context = shown(self._highlighted(aligned, record.passages) if self.settings.highlight else record.passages)
        facts = " ".join(item.chunk for item in aligned)
        listed = choices if self.settings.list_choices else ()
        turn = answer_prompt(question, facts, context, listed, mode, cite=cite)
        stop = "answered" if aligned else "answered_without_facts"
        if mode == "wo_cot":
            said, extras = yield from self.ask("answer", turn, record, choices)
            return Finished(said, stop, extras={"reason": "", "parsed": True, **extras})
        reply = yield Say("answer", turn, self.settings.max_new_tokens)
        found = read_object(reply.text)
        answer, reason = field(found, "Answer"), restored(field(found, "Reason"))
        record.step("answer", reply.text, parsed=bool(answer))
        extras = {"reason": reason, "parsed": bool(answer), "complete": reply.complete}
        said = answer or reply.text
        if choices:
            matching = [n for n, choice in enumerate(choices) if exact_match(said, choice)]
            if not matching:  # reasons without one of the options: the options are put to it once more
                said, more = yield from self.ask("choose", turn, record, choices)
                return Finished(said, stop, said, extras | more)
            said, extras["choice"] = choices[matching[0]], matching[0]
        return Finished(said, stop, f"{reason} {said}", extras)

    def _say(self, name: str, turn: tuple[Message, ...], room: int, record: Record) -> Talk[str]:
        reply = yield Say(name, turn, room)
        record.step(name, reply.text, complete=reply.complete)
        return reply.text

    def _highlighted(self, aligned: Sequence[Aligned], passages: Sequence[Numbered]) -> list[Numbered]:
        """The passages as their chunks, the kept ones marked in place."""
        kept, found = {item.chunk for item in aligned}, []
        for item in passages:
            chunks = chunked(cleaned(item.hit.text), self.settings.chunk_words)
            texts = [f"[important facts: {chunk}]" if chunk in kept else chunk for chunk in chunks]
            found.append(Numbered(item.number, replace(item.hit, text=" ".join(texts))))
        return found
