"""The models of JointLM's claim, and what is measured of them: replies over every variant, the choice of the entity."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from keeps.claims.base import Check, ClaimRun
from keeps.claims.hybrid_dialog_world import TEMPLATES, as_text, conversations, small_model, town
from keeps.contracts import Run
from keeps.data.entities import EntityBase
from keeps.data.entity_dialogs import Reply
from keeps.ground.hybrid_dialog import HybridDialog, HybridDialogSettings, JointDialog, Ranked
from keeps.ground.hybrid_sources import entity_values
from keeps.models.language_model import LanguageModel
from keeps.numerics.bootstrap import bootstrap_interval
from keeps.numerics.dialog_scores import SlotCounts, SlotValue, find_values, sentence_bleu, slot_counts, success_at
from keeps.numerics.max_cut import cut_weight
from keeps.training.dialog_labels import oracle
from keeps.training.dialog_lessons import Lessons, dialog_lessons
from keeps.training.examples import tokenise
from keeps.training.loop import train
from keeps.training.relocation import Relocation, moved_slots, relocated, unstructured, value_graph
from keeps.training.settings import TrainingSettings

SEED = 0
TOLD = ("pricerange", "stars")  # the slots that are in documents in the original variant
FIRST_TOWN = 1  # town 0 is asked about


TRAINING = {"batch_size": 32, "learning_rate": 3e-3, "beta2": 0.98, "warmup": 0.1, "checkpoint_every": 1e9}


@dataclass(frozen=True)
class Scale:
    """Of the experiment: towns to learn from, passes, conversations asked, width and layers of the model."""

    towns: int
    epochs: int
    asked: int
    width: int = 64
    layers: int = 3


@dataclass(frozen=True)
class Measured:
    """One model on one variant: by conversation, the slot values of the reply and whether the entity was right."""

    counts: tuple[SlotCounts, ...]
    success: tuple[bool, ...]
    bleu: tuple[float, float]  # of single words, and of up to four

    @property
    def total(self) -> SlotCounts:
        """All conversations together."""
        return sum(self.counts, SlotCounts())

    def to_mapping(self) -> dict[str, float]:
        """Figures in per cent, and hallucinated values in all."""
        total = self.total
        shares = {
            "precision": total.precision,
            "recall": total.recall,
            "F1": total.f1,
            "BLEU-1": self.bleu[0],
            "BLEU-4": self.bleu[1],
        }
        shares |= {"success@1": mean(self.success), "copy precision": total.copy_precision}
        return {name: round(100 * value, 1) for name, value in shares.items()} | {"hallucinated": total.hallucinated}


def variant(name: str, full: EntityBase, replies: Sequence[Reply], seed: int) -> EntityBase:
    """The knowledge of a town as one of :data:`VARIANTS`."""
    made: Mapping[str, Callable[[], EntityBase]] = {
        "original": lambda: moved_slots(full, TOLD, TEMPLATES),
        "hybrid": lambda: relocated(full, replies, TEMPLATES, seed=seed).base,
        "unstructured": lambda: unstructured(full, TEMPLATES),
    }
    return made[name]()


def learned(name: str, how: Lessons, scale: Scale, run: ClaimRun) -> LanguageModel:
    """A small model that learned from towns whose facts lie as in the variant ``name``."""
    run.progress.message(f"a model learns from {scale.towns} towns, {name}, lessons {how.positive}:{how.negative}:"
                         f"{how.responses}")  # fmt: skip
    model = small_model(SEED, width=scale.width, layers=scale.layers, heads=4)
    examples = []
    for number in range(FIRST_TOWN, FIRST_TOWN + scale.towns):
        full = town(number)
        replies = conversations(full, number)
        lessons = dialog_lessons(replies, variant(name, full, replies, number), full, how, seed=number)
        examples += tokenise(model, lessons)
    settings = TrainingSettings.from_mapping({**TRAINING, "epochs": scale.epochs})
    with tempfile.TemporaryDirectory() as folder:
        circumstances = run.inside(Path(folder), seed=SEED)
        train(model.model, examples, settings, circumstances, pad_token_id=model.encoder.pad_token_id)
    return model


def dialog(model: LanguageModel, base: EntityBase) -> JointDialog:
    """The method as users call it, with greedy replies."""
    settings = HybridDialogSettings(beams=1, max_new_tokens=16)
    return HybridDialog(settings)(model, base, run=Run(Path(), seed=SEED, device=str(model.device)))


def measured(
    model: LanguageModel, base: EntityBase, asked: Sequence[Reply], full: EntityBase, *, given: bool = False
) -> Measured:
    """What ``model`` says over ``base``, against the replies that were given.

    Args:
        given: whether the right entity is given, so that the choice of it plays no part.
    """
    answerer, texts = dialog(model, base), [as_text(reply) for reply in asked]
    if given:
        names = [oracle(reply, full)[0].id for reply in asked]
        said = answerer.respond(texts, [base.by_id[name] for name in names])
    else:
        answers = answerer.answer(texts)
        names, said = [answer.trace["entity"] for answer in answers], [answer.text for answer in answers]
    counts, success, bleu = [], [], []
    for reply, text, name in zip(asked, said, names, strict=True):
        entity = full.by_id[name]
        counts.append(slot_counts(values(text, full), values(reply.text, full), entity_values(entity)))
        success.append(entity in oracle(reply, full))
        bleu.append([sentence_bleu(text, reply.text, order) for order in (1, 4)])
    return Measured(tuple(counts), tuple(success), (mean(one for one, _ in bleu), mean(four for _, four in bleu)))


def tool_checks(
    full: EntityBase,
    replies: Sequence[Reply],
    variants: Mapping[str, EntityBase],
    cut: Relocation | None = None,
    *,
    documents: bool = False,
) -> Iterator[Check]:
    """What the data tool must give (card, point 1).

    Args:
        cut: how the hybrid variant came about; default: that of the invented town is made anew.
        documents: whether documents that nothing moved into are compared too.
    """
    lost = sum(len(base.facts() ^ full.facts()) for base in variants.values())
    yield Check(f"facts of {len(full)} entities that differ between the variants", lost, "0", lost == 0)
    if documents:
        changed = sum(len(_told(base) ^ _told(full)) for base in variants.values())
        name = f"of {sum(len(entity.documents) for entity in full)} documents those that differ between the variants"
        yield Check(name, changed, "0", changed == 0)
    nodes, weights = value_graph(full, replies)
    found = cut or relocated(full, replies, TEMPLATES, seed=SEED)
    chance = random.Random(SEED)
    sides = [chance.random() < 0.5 for _ in nodes]
    share, split = found.cut / found.total, cut_weight(weights, sides) / found.total
    holds = share >= 0.5 and share >= split
    yield Check("share of the weight that is cut", share, "at least 0.5, and a random split's", holds, split)
    left = sum(len(entity.slots) for entity in variants["unstructured"])
    yield Check("slots besides the name in the unstructured table", left, "0", left == 0)


def _told(base: EntityBase) -> set[tuple[str, str, str]]:
    """Documents that nothing moved into, with their entities."""
    return {(e.id, d.title, d.body) for e in base for d in e.documents if not d.states}


def fall(before: Measured, after: Measured) -> tuple[float, float, float]:
    """Points of F1 from ``before`` to ``after``, with an interval over conversations drawn anew in pairs."""
    pairs = list(zip(before.counts, after.counts, strict=True))

    def points(samples: Sequence[Sequence[tuple[SlotCounts, SlotCounts]]]) -> float:
        one, other = (sum((pair[side] for pair in samples[0]), SlotCounts()) for side in (0, 1))
        return 100 * (one.f1 - other.f1)

    return points([pairs]), *bootstrap_interval([pairs], points, seed=SEED)


def values(text: str, full: EntityBase) -> set[SlotValue]:
    """Slot values of a text; names are what was asked for and count as none."""
    return {pair for pair in find_values(text, full.ontology()) if pair[0] != "name"}


def table_only(base: EntityBase, asked: Sequence[Reply], full: EntityBase) -> SlotCounts:
    """A query of the gold belief to the table, and then all wanted values that the row of the first match has."""
    total = SlotCounts()
    for reply in asked:
        wanted = values(reply.text, full)
        found = base.matching(reply.domain, reply.belief)
        row = dict(found[0].values()) if found else {}
        said = {(slot, row[slot]) for slot, _ in wanted if slot in row}
        total += slot_counts(said, wanted, said)
    return total


def ranked(model: LanguageModel, base: EntityBase, asked: Sequence[Reply]) -> list[list[Ranked]]:
    """All entities by their probability, for each conversation."""
    return dialog(model, base).rank_entities([as_text(reply) for reply in asked])


def successes(rows: Sequence[Sequence[Ranked]], asked: Sequence[Reply], full: EntityBase, k: int = 1) -> list[bool]:
    """Whether one of the first ``k`` entities that were labelled yes is right, by conversation."""
    return [
        success_at([one.entity.id for one in own], [one.probability >= 0.5 for one in own], ids(reply, full), k)
        for reply, own in zip(asked, rows, strict=True)
    ]


def tf_idf_successes(base: EntityBase, asked: Sequence[Reply], full: EntityBase) -> list[bool]:
    """Whether the entity whose text is most like the conversation by TF-IDF is right."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    entities = list(base)
    vectors = TfidfVectorizer().fit([entity.text() for entity in entities])
    texts = vectors.transform([entity.text() for entity in entities])
    queries = vectors.transform([" ".join(text for _, text in reply.history) for reply in asked])
    best = (queries @ texts.T).toarray().argmax(axis=1)
    return [entities[int(n)].id in ids(reply, full) for n, reply in zip(best, asked, strict=True)]


def ids(reply: Reply, full: EntityBase) -> set[str]:
    """The entities that ``reply`` may be about."""
    return {entity.id for entity in oracle(reply, full)}
