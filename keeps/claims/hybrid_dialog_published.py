"""JointLM's claim on published data: the tables and dialogues of MultiWOZ with the documents of DSTC9.

What the data tool must give is checked on all 222 entities. A small model from random weights learns both tasks from
the training dialogues, over tables dealt out anew whose facts lie on both sides of a large cut. On the test dialogues
it looks for the restaurant beside TF-IDF and BM25, over the real table: with facts in the table, in both places, and
in documents. What is drawn from the restaurant found are the values that the published reply tells. Sizes and learning
rate were taken from the claim on invented towns; nothing was chosen on the test dialogues.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from keeps.claims.base import Check, ClaimRun
from keeps.claims.hybrid_dialog_models import (
    SEED,
    Measured,
    fall,
    ids,
    ranked,
    successes,
    tf_idf_successes,
    tool_checks,
)
from keeps.claims.hybrid_dialog_multiwoz import (
    ASKED,
    DOMAIN,
    LEARNED_FROM,
    conversations,
    dealt,
    dialogues,
    knowledge,
    phrases,
    restaurants,
    told_slots,
    vocabulary,
    word_model,
    words,
)
from keeps.claims.hybrid_dialog_world import as_text
from keeps.contracts import Run
from keeps.data.entities import NAME, Entity, EntityBase
from keeps.data.entity_dialogs import Reply
from keeps.errors import EmptySetError
from keeps.ground.hybrid_dialog import HybridDialog, HybridDialogSettings
from keeps.ground.hybrid_sources import entity_values
from keeps.models.language_model import LanguageModel
from keeps.numerics.dialog_scores import SlotCounts, SlotValue, find_values, plain, sentence_bleu, slot_counts
from keeps.numerics.statistics import flips, mcnemar_exact, wilson
from keeps.retrieval.counts import Counts
from keeps.retrieval.lexical import BM25
from keeps.retrieval.words import words_of
from keeps.training.dialog_labels import oracle
from keeps.training.dialog_lessons import Lessons, dialog_lessons
from keeps.training.examples import tokenise
from keeps.training.loop import train
from keeps.training.relocation import relocated, unstructured
from keeps.training.settings import TrainingSettings

TRAINING: Mapping[str, Any] = {
    "batch_size": 32, "learning_rate": 3e-3, "beta2": 0.98, "warmup": 0.1, "checkpoint_every": 1e9,
}  # fmt: skip
LESSONS = Lessons(most=400)
CUT_BY = 40  # replies of a dealt table that its cut is made by, where the model learns
EXACT = 101.0  # a likeness in per cent that nothing reaches
WIDEST, LEAST, DROP = 3.0, 50.0, 15.0  # points of F1: the card's bound, a model that finds anything, the published fall
P_VALUE = 0.05


@dataclass(frozen=True)
class PublishedScale:
    """Of the experiment: dealt tables, passes, replies that are asked about, replies written, width and layers."""

    tables: int = 40
    epochs: int = 2
    asked: int = 60
    written: int = 30
    width: int = 64
    layers: int = 3


SCALES = {"default": PublishedScale(), "full": PublishedScale(120, 6, 1000, 200, 128, 4)}


def published(data: Path, run: ClaimRun) -> Iterator[Check]:
    """Data tool, choice of the restaurant, source invariance.

    Raises:
        InputFileError, RecordError, EmptySetError: a file is not there, or not as published.
    """
    scale = SCALES[run.size]
    whole = knowledge(data)
    full = restaurants(whole)
    learning, asking = (dialogues(data, name) for name in (LEARNED_FROM, ASKED))
    asked = conversations(asking, full, SEED)
    cut = relocated(whole, asked, seed=SEED)
    made = {"original": whole, "hybrid": cut.base, "unstructured": unstructured(whole)}
    yield from tool_checks(whole, asked, made, cut, documents=True)
    variants = {
        "original": full,
        "hybrid": relocated(full, asked, seed=SEED).base,
        "unstructured": unstructured(full),
    }
    few = random.Random(f"asked:{SEED}").sample(asked, min(scale.asked, len(asked)))
    model = learned(learning, full, scale, run)
    found = {name: ranked(model, base, few) for name, base in variants.items()}
    first = {name: [own[0].entity for own in rows] for name, rows in found.items()}
    yield from choice_checks(successes(found["hybrid"], few, full), few, variants["hybrid"], full, run)
    yield from invariance_checks(first, variants, few, full, run)
    run.tables["replies written about the right restaurant"] = {
        name: written(model, base, few[: scale.written], full) for name, base in variants.items()
    }
    # the same word indexes over every document of DSTC9, of which the small model's prompts hold two an entity
    everything = relocated(restaurants(whole, 1000), asked, seed=SEED).base
    run.tables["success@1 of words over all documents"] = {
        "TF-IDF": round(mean(tf_idf_successes(everything, few, full)), 3),
        "BM25": round(mean(bm25_successes(everything, few, full)), 3),
    }


def learned(rows: Sequence[Mapping[str, Any]], full: EntityBase, scale: PublishedScale, run: ClaimRun) -> LanguageModel:
    """A small model of both tasks; the table ``full`` lends it values, and none of its rows."""
    run.progress.message(f"a model learns from {len(rows)} dialogues over {scale.tables} tables dealt out anew")
    said = [text for reply in conversations(rows, full, SEED) for _, text in (*reply.history, ("", reply.text))]
    told = [entity.text() for base in (full, unstructured(full)) for entity in base]
    known = [*vocabulary(said, 1), *vocabulary([e.text(0) for e in full], 1), *vocabulary(told, 2)]
    size = {"width": scale.width, "layers": scale.layers, "heads": 4, "positions": 512}
    model = word_model(known, SEED, **size, whole=phrases(full))
    examples = []
    for number in range(1, scale.tables + 1):
        base = dealt(full, number)
        replies = conversations(rows, base, number)
        by = random.Random(number).sample(replies, min(CUT_BY, len(replies)))
        mixed = relocated(base, by, seed=number, restarts=3).base
        lessons = dialog_lessons(replies, mixed, base, LESSONS, count=lambda text: len(words(text)), seed=number)
        examples += tokenise(model, lessons)
    settings = TrainingSettings.from_mapping({**TRAINING, "epochs": scale.epochs})
    with tempfile.TemporaryDirectory() as folder:
        circumstances = run.inside(Path(folder), seed=SEED)
        train(model.model, examples, settings, circumstances, pad_token_id=model.encoder.pad_token_id)
    return model


# --- the choice of the restaurant ------------------------------------------------------------------


def choice_checks(
    ours: Sequence[bool], asked: Sequence[Reply], base: EntityBase, full: EntityBase, run: ClaimRun
) -> Iterator[Check]:
    """Card, point 3, against two word indexes over the same texts."""
    share = wilson(sum(ours), len(ours))
    named = [NAME in reply.belief for reply in asked]
    table: dict[str, dict[str, float]] = {"JointLM": _by_kind(ours, named)}
    for name, method in (("TF-IDF", tf_idf_successes), ("BM25", bm25_successes)):
        theirs = method(base, asked, full)
        table[name] = _by_kind(theirs, named)
        gained, lost = flips(ours, theirs)
        p = mcnemar_exact(gained, lost)
        note = f"{len(ours)} replies; JointLM alone {gained}, {name} alone {lost}, exact McNemar p = {p:.2g}"
        yield Check(f"right restaurant in the first place (success@1), against {name}", share.value,
                    f"above it, p below {P_VALUE}", gained > lost and p < P_VALUE, mean(theirs),
                    (share.low, share.high), note)  # fmt: skip
    run.tables["success@1"] = table


def _by_kind(found: Sequence[bool], named: Sequence[bool]) -> dict[str, float]:
    """In all, where the restaurant had been named, and where it was sought by its properties."""
    kinds = {"all": [True] * len(named), "named": list(named), "sought": [not name for name in named]}
    shares = {kind: [hit for hit, counts in zip(found, own, strict=True) if counts] for kind, own in kinds.items()}
    return {kind: round(mean(hits), 3) for kind, hits in shares.items() if hits}


def bm25_successes(base: EntityBase, asked: Sequence[Reply], full: EntityBase) -> list[bool]:
    """Whether the entity whose text is most like the conversation by BM25 is right."""
    entities = base.of(DOMAIN)
    index = BM25.of(Counts.of([words_of(entity.text()) for entity in entities]))
    queries = [words_of(" ".join(text for _, text in reply.history)) for reply in asked]
    best = [int(index.scores(query).argmax()) for query in queries]
    return [entities[n].id in ids(reply, full) for n, reply in zip(best, asked, strict=True)]


# --- values of the restaurant found -----------------------------------------------------------------


def invariance_checks(
    first: Mapping[str, Sequence[Entity]],
    variants: Mapping[str, EntityBase],
    asked: Sequence[Reply],
    full: EntityBase,
    run: ClaimRun,
) -> Iterator[Check]:
    """Card, point 2, of the values that a reply tells of a restaurant which has been named."""
    right = [oracle(reply, full)[0] for reply in asked]
    wanted = [told_slots(reply, entity) for reply, entity in zip(asked, right, strict=True)]
    places = [n for n, reply in enumerate(asked) if wanted[n] and NAME in reply.belief]
    if not places:
        raise EmptySetError("no reply tells a value of a named restaurant", where=ASKED, mend="give more dialogues")
    truth = [{(slot, plain(dict(right[n].values())[slot])) for slot in wanted[n]} for n in places]
    scores: dict[str, dict[str, Measured]] = {"JointLM": {}, "table alone": {}}
    for name, base in variants.items():
        drawn = [values(base.by_id[first[name][n].id], wanted[n], full) for n in places]
        asked_table = [queried(base, asked[n], wanted[n]) for n in places]
        scores["JointLM"][name] = _measured(drawn, truth)
        scores["table alone"][name] = _measured(asked_table, truth)
    run.tables["slot F1 of drawn values"] = {
        who: {name: round(100 * one.total.f1, 1) for name, one in found.items()} for who, found in scores.items()
    }
    ours, table = scores["JointLM"], scores["table alone"]
    points = [100 * one.total.f1 for one in ours.values()]
    widest = max(points) - min(points)
    _, low, high = fall(ours["original"], ours["unstructured"])
    note = f"{len(places)} replies; " + ", ".join(f"{n} {p:.1f}" for n, p in zip(ours, points, strict=True))
    yield Check("largest difference of slot F1 between variants, in points", widest,
                f"at most {WIDEST:g}, with an F1 above {LEAST:g}", widest <= WIDEST and min(points) > LEAST,
                interval=(low, high), note=f"{note}; interval: original less unstructured")  # fmt: skip
    drop, low, high = fall(table["original"], table["unstructured"])
    yield Check("slot F1 that queries to the table alone lose where everything is in documents, in points", drop,
                f"at least {DROP:g}, interval above 0", drop >= DROP and low > 0, interval=(low, high))  # fmt: skip


def values(entity: Entity, wanted: AbstractSet[str], full: EntityBase) -> set[SlotValue]:
    """What is known of the ``wanted`` slots of an entity: its cell, or else what its documents say."""
    row, ontology = dict(entity.values()), full.ontology(DOMAIN)
    said = " ".join(document.body for document in entity.documents)
    found: set[SlotValue] = set()
    for slot in wanted:
        known = {(slot, plain(row[slot]))} if slot in row else find_values(said, {slot: ontology[slot]}, fuzzy=EXACT)
        found |= known
    return found


def queried(base: EntityBase, reply: Reply, wanted: AbstractSet[str]) -> set[SlotValue]:
    """The wanted cells of the first row that meets the gold belief; nothing where there is none."""
    rows = base.matching(reply.domain, reply.belief)
    cells = dict(rows[0].values()) if rows else {}
    return {(slot, plain(cells[slot])) for slot in wanted if slot in cells}


def _measured(said: Sequence[set[SlotValue]], truth: Sequence[set[SlotValue]]) -> Measured:
    counts = tuple(slot_counts(a, b, a) for a, b in zip(said, truth, strict=True))
    return Measured(counts, tuple(a == b for a, b in zip(said, truth, strict=True)), (0.0, 0.0))


def written(model: LanguageModel, base: EntityBase, asked: Sequence[Reply], full: EntityBase) -> dict[str, float]:
    """Slot F1 and BLEU, in per cent, of replies that the small model writes about the right restaurant."""
    settings = HybridDialogSettings(beams=1, max_new_tokens=32)
    answerer = HybridDialog(settings)(model, base, run=Run(Path(), seed=SEED, device=str(model.device)))
    right = [base.by_id[oracle(reply, full)[0].id] for reply in asked]
    said = answerer.respond([as_text(reply) for reply in asked], right)
    ontology = {slot: found for slot, found in full.ontology(DOMAIN).items() if slot != NAME}
    total = SlotCounts()
    for text, reply, entity in zip(said, asked, right, strict=True):
        told, gold = find_values(text, ontology), find_values(reply.text, ontology)
        total += slot_counts(told, gold, entity_values(entity))
    bleu = [mean(sentence_bleu(t, r.text, n) for t, r in zip(said, asked, strict=True)) for n in (1, 4)]
    return {"F1": round(100 * total.f1, 1), "BLEU-1": round(100 * bleu[0], 1), "BLEU-4": round(100 * bleu[1], 1)}
