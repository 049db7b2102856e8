"""The claim of knowledge cards: adapters of single domains teach a model that is left as it is, and come and go.

Three LoRA cards of the embedded model learn 40 invented facts each. The same model, unchanged, is asked all 120 facts
with four candidates, of which the most probable counts: alone, with all cards (bottom-up), with the one card that its
own reply leads to (top-down, automatic), and with one card taken away. Factuality is no filter here: this model is no
judge of facts, and no document can speak of invented ones; the score is checked exactly, on hand-set classifiers.

With ``--data`` the card is one of the 2022 U.S. midterm elections, made of the open questions of MidtermQA, and asked
with the four-choice questions about the same races.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeps.adapt.lora import LoRA
from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.cook_exactness import exactness
from keeps.claims.cook_world import DOMAINS, Asked, world
from keeps.claims.published import published_rows
from keeps.contracts import Answer, Run
from keeps.data.records import Passage, RecordSet
from keeps.ground.card_talks import Tools
from keeps.ground.cards import CardHub, CardLabel, KnowledgeCard
from keeps.ground.knowledge_cards import CardAnswerer, KnowledgeCardsSettings
from keeps.models.encoder import SentenceEncoder
from keeps.models.language_model import LanguageModel
from keeps.numerics.statistics import flips, mcnemar_exact, wilson

TRAINING: Mapping[str, Any] = {"rank": 8, "alpha": 32, "learning_rate": 2e-3, "epochs": 25, "batch_size": 10}
ASKING: Mapping[str, Any] = {
    "documents": 2, "card_tokens": 6, "with_query": True, "cite": "none", "filters": "relevance,brevity",
    "layout": "plain",
}  # fmt: skip
UP: Mapping[str, Any] = {**ASKING, "relevant": 4}
DOWN: Mapping[str, Any] = {**ASKING, "mode": "top_down", "min_rounds": 1, "max_rounds": 1}
GAIN = 0.40
WORLD = 1  # seed of the facts reported; recipe and settings were chosen on those of seed 0
TAKEN = "mines"  # the card that is taken away
RACES, OPTIONS = 40, 4
FILES = ("midtermqa/openbook.jsonl", "midtermqa/fourchoice.jsonl")
Asks = Sequence[Asked]


class Silent:
    """A card that has nothing to say, so that the model answers alone."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> list[str]:
        """Nothing."""
        del seeds, options
        return [""] * len(prompts)


def experiment(run: ClaimRun) -> Iterator[Check]:
    """What is exact; then cards on facts that nobody knows, or on the elections."""
    encoder = SentenceEncoder.load(device=run.device or "cpu")
    yield from exactness(encoder)
    model = run.model()
    before = model.fingerprint
    with tempfile.TemporaryDirectory() as folder:
        if run.data is None:
            yield from invented(model, encoder, Path(folder), run)
        else:
            yield from elections(model, encoder, Path(folder), run)
    same = model.fingerprint == before
    yield Check("weights of the answering model after all of it", float(same), "bit for bit those before", same)


def invented(model: LanguageModel, encoder: SentenceEncoder, folder: Path, run: ClaimRun) -> Iterator[Check]:
    """Three cards on 40 facts each."""
    asked, corpora = world(WORLD)
    cards = [card(model, CardLabel(d.name, d.line), corpora[d.name], folder, run) for d in DOMAINS]
    hub = CardHub(cards, model)
    tools = Tools(encoder, lambda text: len(model.tokenizer(text).input_ids))
    alone = choose(model, CardHub([KnowledgeCard(CardLabel("silent"), Silent())]), asked, UP, tools, run, "alone")
    up = choose(model, hub, asked, UP, tools, run, "all cards")
    down = choose(model, hub, asked, DOWN, tools, run, "one card")
    left = choose(model, hub.without(TAKEN), asked, UP, tools, run, f"without {TAKEN}")
    shares = {"alone": alone, "bottom-up": up, "top-down, automatic": down, f"bottom-up, without {TAKEN}": left}
    run.tables["share answered"] = {
        name: {domain.name: mean(right(asked, found), asked, domain.name) for domain in DOMAINS}
        for name, found in shares.items()
    }
    yield from gains(asked, alone, {"bottom-up": up, "top-down, automatic": down})
    picked = [answer.trace["rounds"][0]["card"] == item.domain for item, answer in zip(asked, down, strict=True)]
    share = wilson(sum(picked), len(picked))
    yield Check("share of questions for which the automatic choice is the right card", share.value, "at least 0.80",
                share.value >= 0.8, 1 / len(DOMAINS), (share.low, share.high))  # fmt: skip
    yield from modularity(asked, alone, up, left)
    examples = [answer for item, answer in zip(asked, down, strict=True) if item.subject == asked[0].subject]
    run.tables["an example"] = [
        {"query": asked[0].prompt, "rounds": answer.trace["rounds"], "answer": answer.text} for answer in examples
    ]


def gains(asked: Asks, alone: Sequence[Answer], others: Mapping[str, Sequence[Answer]]) -> Iterator[Check]:
    """Each way with cards against the model alone."""
    before = right(asked, alone)
    base = wilson(sum(before), len(before))
    yield Check("share of invented facts that the model alone chooses rightly among four", base.value, "at most 0.40",
                base.value <= 0.4, 0.25, (base.low, base.high), "baseline: chance")  # fmt: skip
    for name, answers in others.items():
        after = right(asked, answers)
        share, gain = wilson(sum(after), len(after)), (sum(after) - sum(before)) / len(after)
        gained, lost = flips(after, before)
        note = f"gain {gain:+.2f}; {gained} gained, {lost} lost, exact McNemar p = {mcnemar_exact(gained, lost):.2g}"
        yield Check(f"share chosen rightly with cards, {name}", share.value, f"{GAIN:.0%} points or more above alone",
                    gain >= GAIN, base.value, (share.low, share.high), note)  # fmt: skip


def modularity(asked: Asks, alone: Sequence[Answer], up: Sequence[Answer], left: Sequence[Answer]) -> Iterator[Check]:
    """One card fewer: its domain is as it was before, the others as they were with it."""
    before, with_card, without = (right(asked, found) for found in (alone, up, left))
    taken = [n for n, item in enumerate(asked) if item.domain == TAKEN]
    gained, lost = flips((without[n] for n in taken), (before[n] for n in taken))
    p = mcnemar_exact(gained, lost)
    note = f"p = {p:.2g}; with the card {mean(with_card, asked, TAKEN):.2f}"
    yield Check(f"share of the facts of {TAKEN} without that card", mean(without, asked, TAKEN),
                "no better than alone: exact McNemar p at least 0.05, or worse", p >= 0.05 or gained < lost,
                mean(before, asked, TAKEN), note=note)  # fmt: skip
    others = [n for n, item in enumerate(asked) if item.domain != TAKEN]
    shares = [sum(found[n] for n in others) / len(others) for found in (without, with_card)]
    yield Check("share of the facts of the other domains without that card", shares[0],
                "at most 2 points below what it is with it", shares[0] >= shares[1] - 0.02, shares[1])  # fmt: skip


# --- the elections ---------------------------------------------------------------------------------


def elections(model: LanguageModel, encoder: SentenceEncoder, folder: Path, run: ClaimRun) -> Iterator[Check]:
    """One card on races of 2022, asked with the published four-choice questions about the same races."""
    assert run.data is not None
    asked, corpus = races(run.data)
    label = CardLabel("midterm", "results of the 2022 U.S. midterm elections", licence="MIT")
    hub = CardHub([card(model, label, corpus, folder, run)], model)
    tools = Tools(encoder, lambda text: len(model.tokenizer(text).input_ids))
    settings = {**UP, "card_tokens": 12}
    alone = choose(model, CardHub([KnowledgeCard(CardLabel("silent"), Silent())]), asked, settings, tools, run, "alone")
    up = choose(model, hub, asked, settings, tools, run, "the midterm card")
    before, after = right(asked, alone), right(asked, up)
    base, share = (wilson(sum(found), len(found)) for found in (before, after))
    gained, lost = flips(after, before)
    p = mcnemar_exact(gained, lost)
    yield Check(f"share of {len(asked)} four-choice questions on the 2022 midterms with one card", share.value,
                "above the model alone, exact McNemar p below 0.05", gained > lost and p < 0.05, base.value,
                (share.low, share.high), f"p = {p:.2g}")  # fmt: skip


def races(folder: Path, most: int = RACES) -> tuple[list[Asked], RecordSet]:
    """Races that both the open and the four-choice questions of MidtermQA are about: what is asked, what is told.

    Raises:
        InputFileError: a file is not there, or not as published.
    """
    told, choices = (published_rows(folder, name, "question", "answer") for name in FILES)
    winners = {str(row["question"]).strip(): str(row["answer"]).strip() for row in told}
    asked: list[Asked] = []
    for row in choices:
        question, _, listed = str(row["question"]).partition("\n")
        options = [part.strip() for part in re.split(r"\s*\b[A-D]\.\s", listed) if part.strip()]
        if len(set(options)) == len(options) == OPTIONS and winners.get(question) in options:
            asked.append(Asked("midterm", question, question, winners[question], tuple(options)))
    asked = list({item.prompt: item for item in asked}.values())[:most]
    passages = [Passage(f"midterm/{n}", f"{item.prompt} {item.answer} won.") for n, item in enumerate(asked)]
    return asked, RecordSet("claim:cook/midterm", tuple(passages))


# --- cards and answers -----------------------------------------------------------------------------


def card(model: LanguageModel, label: CardLabel, corpus: RecordSet, folder: Path, run: ClaimRun) -> KnowledgeCard:
    """A LoRA run on ``corpus``."""
    run.progress.message(f"the card {label.name} learns {len(corpus)} sentences")
    where = folder / label.name
    where.mkdir()
    change = LoRA(LoRA.Settings.from_mapping(TRAINING))(model, corpus, run=Run(where, device=str(model.device)))
    label.write(where)
    return KnowledgeCard(label, change)


def choose(
    model: LanguageModel,
    hub: CardHub,
    asked: Asks,
    settings: Mapping[str, Any],
    tools: Tools,
    run: ClaimRun,
    name: str,
) -> list[Answer]:
    """The choice for every question."""
    run.progress.message(f"{len(asked)} questions: {name}")
    answerer = CardAnswerer(model, hub, KnowledgeCardsSettings.from_mapping(settings), Run(Path()), tools)
    found = answerer.choose([item.prompt for item in asked], [item.candidates for item in asked])
    count = answerer.chat.count_tokens  # type: ignore[attr-defined]  (a chat with a model on this machine)
    return [
        Answer(likeliest(item, answer, count), trace=answer.trace) for item, answer in zip(asked, found, strict=True)
    ]


def likeliest(item: Asked, answer: Answer, count: Callable[[str], int]) -> str:
    """The candidate with the highest probability as a whole, not for each of its tokens.

    A rare word of several tokens is likely token by token once it has begun, which says nothing of the whole.
    """
    sums = [mean * count(text) for mean, text in zip(answer.trace["logprobs"], item.candidates, strict=True)]
    return item.candidates[max(range(len(sums)), key=sums.__getitem__)]


def right(asked: Asks, answers: Sequence[Answer]) -> list[bool]:
    """Which answers are right."""
    return [answer.text == item.answer for item, answer in zip(asked, answers, strict=True)]


def mean(found: Sequence[bool], asked: Asks, domain: str) -> float:
    """The share of right answers of a domain."""
    mine = [hit for hit, item in zip(found, asked, strict=True) if item.domain == domain]
    return sum(mine) / len(mine)


CLAIM = Claim(
    card="cook",
    statement="Small models of single domains teach a model that is left as it is: facts that it cannot know are "
    "answered with cards, the right card is found by what the model says it needs, and taking one away takes its "
    "domain alone.",
    published="Knowledge cards raise Codex on MMLU by about 6.6 % (relative; top-down, automatic), and one card of "
    "midterm news on MidtermQA by tens of points",
    paper="arXiv:2305.09955",
    seeds=(0,),
    minutes=9,
    experiment=experiment,
    files=FILES,
)
