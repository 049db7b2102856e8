"""Adaptive-Note: keep a note, look up what it lacks, take the new note only if it is better, stop by itself.

    N* = write(q, search(q));  z = 0
    up to max_rounds times:  s = propose(q, N*, asked);  R = search(s);  N = refine(q, R, N*)
        if better(N, N*):  N* = N   else:  z += 1, stop at max_fails            (arXiv:2410.08821)
    answer = generate(q, N*)

One retrieval is not enough for questions whose answer hangs on another answer, and asking a model when to retrieve is
unreliable. Here it keeps a note. Each round proposes questions that the note cannot answer, looks them up, and writes
the note anew; a reviewer compares both notes and keeps the better one. The answer is made from the note alone.

Use when: one look-up does not find everything (several hops, long answers); the number of look-ups should depend on
the question; the way to an answer must be shown step by step.

It stops where ``max_rounds`` are done, where ``max_fails`` notes in all were no better, where ``max_passages`` have
been seen, or where a round finds no new passage; ``stop`` names which. A model on this machine decides between two
notes by the probability of its two replies; a server's reply must be JSON or begin with the word, everything else
counts as no. The second note is always the longer one: ``both_orders`` asks twice with the notes exchanged and accepts
only what holds both times. Proposed questions go into one search together with the question (``queries=joined``, as
published, which suits lexical search) or into one search each, fused by rank (``separate``, which suits dense search).

The published code shows passages again that were seen already, and takes every verdict that contains "true"; ``compat``
does so too. Its notes lose where their sentences come from; here they keep the passages' numbers, and are cut to
``note_tokens``. Published figures are of models of 7 billion weights and more.

Needs: documents, any model that chats. Guarantees: the note changes only by a verdict for it; 2 + 3 * rounds calls
and 1 + rounds look-ups at most, and one call more for each proposal that only repeats what was asked (with
``both_orders`` two for a verdict); never more than ``max_passages`` passages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keeps.contracts import Run
from keeps.errors import SettingsError
from keeps.ground.base import Finished, Grounded, GroundSettings, Record
from keeps.ground.note_prompts import (
    answer_prompt,
    compare_prompt,
    proposed,
    query_prompt,
    refine_prompt,
    shortened,
    write_prompt,
)
from keeps.ground.passages import token_counter
from keeps.models.in_step import Decide, Decision, Say, Talk
from keeps.registry import method
from keeps.retrieval.ranking import reciprocal_ranks
from keeps.settings import setting
from keeps.sources import Hit, Retriever

LONGEST_SEARCH = 500  # characters of what is looked up
STATUS = ("true", "false")


@dataclass(frozen=True, kw_only=True)
class AdaptiveNoteSettings(GroundSettings):
    """Settings of Adaptive-Note."""

    max_rounds: int = setting(3, "Most rounds after the first look-up", ge=0, le=50)
    max_fails: int = setting(1, "Notes that may be no better, over all rounds, before it stops", ge=1)
    max_passages: int = setting(15, "Most different passages that are read", ge=1, le=1000)
    note_tokens: int = setting(1024, "Longest note", ge=16, unit="tokens")
    queries: str = setting(
        "joined", "Proposed questions in one search, or one search each", choices=("joined", "separate")
    )
    both_orders: bool = setting(False, "Compare notes in both orders, and accept only what holds in both")
    compat: bool = setting(False, "See passages again and read verdicts as the published code does", advanced=True)

    def check(self) -> None:
        """Refuse a budget that the first look-up would break."""
        if self.max_passages < self.k:
            what = f"max_passages is {self.max_passages} and k is {self.k}"
            raise SettingsError(what, mend="let max_passages be at least k")


@method(
    "adaptive_note",
    verb="ground",
    paper="arXiv:2410.08821",
    summary="Keep a note, look up what it lacks, take the new note only if it is better, and stop by itself.",
    needs=("documents",),
    fits=("causal-lm", "chat"),
)
class AdaptiveNote:
    """Retriever and memory."""

    Settings = AdaptiveNoteSettings

    def __init__(self, settings: AdaptiveNoteSettings) -> None:
        self.settings = settings

    def __call__(self, model: Any, source: Retriever | None = None, *, run: Run) -> NoteAnswerer:
        """See :class:`keeps.sources.GroundMethod`. A context that is given is read as the first look-up would be."""
        return NoteAnswerer(model, source, self.settings, run)


@dataclass
class Memory:
    """What is known so far.

    Attributes:
        note: the best one, N*.
        read_for: numbers of the passages that it was written from.
        asked: every proposed question, QL; none twice.
        fails: notes that were no better, z.
        rounds: what was done in each.
    """

    note: str = ""
    read_for: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    fails: int = 0
    rounds: list[dict[str, Any]] = field(default_factory=list)


class NoteAnswerer(Grounded[AdaptiveNoteSettings]):
    """Collects, reviews, answers."""

    method = "adaptive_note"

    def talk(
        self, question: str, context: Sequence[Hit] | None, record: Record, choices: tuple[str, ...]
    ) -> Talk[Finished]:
        """The three stages."""
        hits = self.search(record, question, self.settings.k) if context is None else context
        if not hits:
            return (yield from self.without(question, record, choices))
        passages = record.add(hits)
        memory = Memory(read_for=[item.number for item in passages])
        memory.note = yield from self._note("write note", write_prompt(question, passages), record)
        stop = yield from self.collect(question, memory, record)
        turn = answer_prompt(question, memory.note, self.settings.style, cite=self.settings.cite in ("auto", "markers"))
        said, extras = yield from self.ask("answer", turn, record, choices)
        extras |= {"note": memory.note, "note_passages": memory.read_for, "queries": memory.asked}
        return Finished(said, stop, f"{said} {memory.note}", extras | {"rounds": memory.rounds})

    def collect(self, question: str, memory: Memory, record: Record) -> Talk[str]:
        """Stage 1: rounds until one of the stop conditions, which is returned."""
        if self.source is None:
            return "no_source"
        for _ in range(self.settings.max_rounds):
            if len(record.passages) >= self.settings.max_passages:
                return "max_passages"
            queries = yield from self._propose(question, memory, record)
            if queries:
                stop = yield from self._round(question, queries, memory, record)
                if stop:
                    return stop
            else:  # nothing new comes to its mind: as little gained as by a note that is no better
                memory.fails += 1
                memory.rounds.append({"queries": [], "passages": [], "note": "", "accepted": False})
                record.step("review", "no new question", accepted=False, fails=memory.fails)
            if memory.fails >= self.settings.max_fails:
                return "max_fails"
        return "max_rounds"

    def _round(self, question: str, queries: Sequence[str], memory: Memory, record: Record) -> Talk[str]:
        """Look up, refine, compare; the stop condition where there is nothing to refine from, else ""."""
        memory.asked += queries
        found = self._find(question, queries, record)
        seen = {item.hit.id for item in record.passages}
        room = self.settings.max_passages - len(record.passages)
        fresh = [hit for hit in found if hit.id not in seen]
        crowded = len(record.passages) + self.settings.k > self.settings.max_passages
        taken = found if self.settings.compat and not crowded else fresh[:room]
        if not taken:
            return "max_passages" if fresh else "no_new_passages"
        passages = record.add(taken)
        prompt = refine_prompt(question, passages, memory.note)
        note = yield from self._note("refine note", prompt, record)
        accepted, verdicts = yield from self._better(question, memory.note, note)
        numbers = [item.number for item in passages]
        memory.rounds.append(
            {"queries": list(queries), "passages": numbers, "note": note, "accepted": accepted, "verdicts": verdicts}
        )
        if accepted:
            memory.note = note
            memory.read_for = list(dict.fromkeys([*memory.read_for, *numbers]))
        else:
            memory.fails += 1
        verdict = "the new note is better" if accepted else "the new note is no better"
        record.step("review", verdict, accepted=accepted, fails=memory.fails, verdicts=verdicts)
        return ""

    def _propose(self, question: str, memory: Memory, record: Record) -> Talk[list[str]]:
        """New questions; a reply that only repeats is asked for once more, and given up then."""
        for again in (False, True):
            turn = query_prompt(question, memory.note, memory.asked, again=again)
            reply = yield Say("propose queries", turn, self.settings.max_new_tokens)
            queries = proposed(reply.text, [question, *memory.asked])
            record.step("propose queries", reply.text, queries=queries)
            if queries:
                return queries
        return []

    def _find(self, question: str, queries: Sequence[str], record: Record) -> list[Hit]:
        if self.settings.queries == "joined":
            return self.search(record, f"{' '.join(queries)}\n{question}"[:LONGEST_SEARCH], self.settings.k)
        lists = [self.search(record, f"{query}\n{question}"[:LONGEST_SEARCH], self.settings.k) for query in queries]
        return fused(lists)[: self.settings.k]

    def _note(self, name: str, turn: Any, record: Record) -> Talk[str]:
        reply = yield Say(name, turn, self.settings.note_tokens)
        note = shortened(reply.text, self.settings.note_tokens, token_counter(self.chat))
        record.step(name, note, complete=reply.complete)
        return note

    def _better(self, question: str, best: str, new: str) -> Talk[tuple[bool, list[bool]]]:
        """Whether ``new`` is better, and each verdict that this rests on."""
        if not new or new == best:
            return False, []
        first = yield Decide("compare notes", compare_prompt(question, best, new), STATUS, "status")
        verdicts = [self._status(first)]
        if self.settings.both_orders:
            second = yield Decide("compare notes", compare_prompt(question, new, best), STATUS, "status")
            verdicts.append(not self._status(second))
        return all(verdicts), verdicts

    def _status(self, found: Decision) -> bool:
        if self.settings.compat and not found.logprobs:
            return published_status(found.said)
        return found.choice == 0


def published_status(said: str) -> bool:
    """As the published code reads a verdict: a text under ``status``, else whether there is a "true" anywhere.

    >>> published_status('{"status": "False", "why": "what note 1 says is true"}'), published_status("It is not true")
    (False, True)
    """
    try:
        status = json.loads(said)["status"]
    except (ValueError, LookupError, TypeError):
        status = None
    return status.lower() == "true" if isinstance(status, str) else "true" in said.lower()


def fused(lists: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Hits of several searches by reciprocal rank, each once; of equal ones the one that was found first."""
    hits = list({hit.id: hit for found in reversed(lists) for hit in reversed(found)}.values())[::-1]
    row_of = {hit.id: row for row, hit in enumerate(hits)}
    rows, _ = reciprocal_ranks([np.array([row_of[hit.id] for hit in found], np.int64) for found in lists])
    return [hits[row] for row in rows.tolist()]
