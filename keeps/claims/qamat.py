"""QAMAT's claim: a small reader learns to find and read pairs, and what it says changes with the pairs alone.

An encoder-decoder of random weights (64 wide, two layers each) is trained in the three stages on invented people, and
asked in other words than the memory's about people of whom it has seen nothing but what the memory holds. The same
model without stage 1 and L_ret, trained as many steps, and one without a memory are the baselines. Then pairs are
replaced and deleted without training, and questions of two hops asked with one round and with two.

Steps, the number of companies and what two-hop questions ask were chosen in the world of seed 0; the report is on that
of seed 1. Asked for seats of companies never learned from, two rounds failed there (0.04 with 30 companies learned,
0.16 with 195); that figure is still reported, beside the check, which asks for seats that were replaced after training.

With ``--data`` the pairs are those of zsRE and Natural Questions; see :mod:`keeps.claims.qamat_published`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.qamat_pairs import FILES
from keeps.claims.qamat_people import Asked, PeopleWorld
from keeps.claims.qamat_published import published_checks
from keeps.contracts import Answer, Run
from keeps.data.pairs import ReadingExample
from keeps.ground.qamat import QAMAT, asked
from keeps.models.chat import LocalChat
from keeps.models.pair_reader import as_question
from keeps.numerics.pair_memory import relevance_losses, top_pairs
from keeps.numerics.statistics import Proportion, wilson
from keeps.numerics.text_scores import normalise_answer
from keeps.training.pair_reading import PairReadingSettings, batches
from keeps.training.scratch import train_batches

SEED = 1
WIDTH = {"default": 64, "full": 128}
STEPS: Mapping[str, Mapping[str, int]] = {
    "default": {"local": 1500, "global": 200, "fine-tuning": 700, "two hops": 700},
    "full": {"local": 3000, "global": 1000, "fine-tuning": 3000, "two hops": 2000},
}
RATE = 3e-3
K = 5
QUESTIONS = 200
EDITED = 100
FIXTURE = (2.0, 1.0, 0.0)  # the card's scores; the first two pairs are relevant


@dataclass(frozen=True)
class Stage:
    """How a stage is trained."""

    steps: int
    batch: int = 48
    rounds: int = 1
    retrieval: float = 1.0

    @property
    def settings(self) -> PairReadingSettings:
        """As the training takes it."""
        return PairReadingSettings(
            steps=self.steps,
            batch_size=self.batch,
            rounds=self.rounds,
            retrieval_weight=self.retrieval,
            k=K,
            learning_rate=RATE,
            warmup=0.05,
        )


def experiment(run: ClaimRun) -> Iterator[Check]:
    """Formulas, the three stages and their baselines, edits, two hops; or all but the hops on published pairs."""
    yield from formulas()
    if run.data is not None:
        chat = LocalChat(run.model())
        yield from published_checks(chat, run.data, _closed_book_for, run)
        return
    world = PeopleWorld(seed=SEED)
    steps = STEPS[run.size]
    training = Run(Path(), seed=SEED, progress=run.progress)
    learned = [asked(one.question, one.answer) for one in world.questions(6000, held_out=False)]
    tested = world.questions(QUESTIONS, held_out=True)

    model = _untrained(world, run)
    model.pretrain(world.passages(20000, strangers=True), "local", Stage(steps["local"], 24).settings, run=training)
    model.pretrain(world.passages(3000), "global", Stage(steps["global"]).settings, run=training)
    model.finetune(learned, Stage(steps["fine-tuning"]).settings, run=training)
    answers = model.ask([one.question for one in tested], max_new_tokens=8)
    found = wilson(sum(_hit(one, answer) for one, answer in zip(tested, answers, strict=True)), len(tested))
    yield _share("the right pair is among the five that are read", found, "at least 0.95", found.value >= 0.95)
    ours = _right(tested, answers)

    plain = _untrained(world, run)
    total = steps["local"] + steps["global"] + steps["fine-tuning"]
    plain.finetune(learned, Stage(total, retrieval=0.0).settings, run=training)
    without = _right(tested, plain.ask([one.question for one in tested], max_new_tokens=8))
    alone = _closed_book(_untrained(world, run), learned, Stage(steps["fine-tuning"]), training, tested)
    closed = _right(tested, alone)
    note = f"closed book {closed.value:.3f}, without stage 1 and L_ret {without.value:.3f}"
    yield _share("exact answers about people never learned from", ours, "at least 0.8", ours.value >= 0.8, note=note)
    yield _share("the same without stage 1 and L_ret", without, "at most 0.25", without.value <= 0.25)
    yield _share("the same closed book", closed, "at most 0.05", closed.value <= 0.05)
    yield from _edits(model, world, tested, answers)
    yield from _two_hops(model, world, steps["two hops"], training, run)


def formulas() -> Iterator[Check]:
    """Card, point 1, against plain numbers."""
    scores = torch.tensor([FIXTURE], dtype=torch.float64)
    powers = [math.exp(score) for score in FIXTURE]
    loss = float(relevance_losses(scores, torch.tensor([[True, True, False]]))[0])
    expected = math.log(sum(powers)) - math.log(powers[0] + powers[1])
    places, weights = top_pairs(scores, 2)
    by_hand = [powers[place] / (powers[0] + powers[1]) for place in places[0].tolist()]
    worst = max(abs(a - b) for a, b in zip([loss, *weights[0].tolist()], [expected, *by_hand], strict=True))
    holds = worst <= 1e-9 and abs(loss - 0.0943) <= 1e-4
    note = f"L_ret of the card's scores is {loss:.4f}"
    yield Check("weights and L_ret against formulas written out, largest error", worst,
                "at most 1e-9, and L_ret 0.0943 within 1e-4", holds, note=note)  # fmt: skip


def _untrained(world: PeopleWorld, run: ClaimRun) -> QAMAT:
    sizes = {"width": WIDTH[run.size], "vocabulary": 2500, "pair_tokens": 24}
    return QAMAT.untrained(world.pairs, world.texts, seed=SEED, **sizes)


def _closed_book_for(
    model: QAMAT, learned: Sequence[ReadingExample], steps: int, run: Run, tested: Sequence[Asked], tokens: int
) -> list[Answer]:
    return _closed_book(model, learned, Stage(steps), run, tested, tokens)


def _closed_book(
    model: QAMAT,
    learned: Sequence[ReadingExample],
    stage: Stage,
    run: Run,
    tested: Sequence[Asked],
    tokens: int = 8,
) -> list[Answer]:
    """The same model with nothing to read."""
    reader = model.reader

    def loss(batch: Sequence[ReadingExample]) -> torch.Tensor:
        return reader.loss(*reader.states([one.text for one in batch]), [one.target for one in batch])

    drawn = batches(learned, stage.batch, SEED)
    train_batches(reader.model, drawn, loss, stage.settings, stage.steps, name="closed book", progress=run.progress)
    with torch.inference_mode():
        states, mask = reader.states([as_question(one.question) for one in tested])
    return [Answer(text) for text in reader.say(states, mask, tokens)]


def _edits(model: QAMAT, world: PeopleWorld, tested: Sequence[Asked], before: Sequence[Answer]) -> Iterator[Check]:
    """Card, point 3: no training between the answers."""
    asked_once = {one.pairs[0]: place for place, one in enumerate(tested)}
    right = {name: place for name, place in asked_once.items() if _exact(tested[place].answer, before[place])}
    edited = list(asked_once)[:EDITED]
    others = [place for name, place in right.items() if name not in edited]
    keys, ids = model.memory.keys.copy(), [pair.id for pair in model.memory]
    new = {name: world.other(model.memory.get(name)) for name in edited}
    for name, answer in new.items():
        model.memory.update(name, answer=answer)
    after = model.ask([one.question for one in tested], max_new_tokens=8)
    took = [_exact(new[name], after[asked_once[name]]) for name in edited]
    share = wilson(sum(took), len(took))
    note = f"{sum(name in right for name in edited)} of the {len(edited)} were answered rightly before"
    yield _share("edited pairs whose new answer is given", share, "at least 0.95", share.value >= 0.95, note=note)
    same = bool(np.array_equal(keys, model.memory.keys))
    kept = wilson(sum(_exact(tested[place].answer, after[place]) for place in others), len(others))
    yield _share("right answers of other pairs that stay, every key bit for bit", kept, "1, and the same keys",
                 same and kept.value == 1)  # fmt: skip
    model.memory.delete(edited)
    gone = model.ask([tested[asked_once[name]].question for name in edited], max_new_tokens=8)
    left = wilson(sum(_exact(new[name], answer) for name, answer in zip(edited, gone, strict=True)), len(edited))
    stay = [place for place, name in enumerate(ids) if name not in new]
    same = bool(np.array_equal(keys[stay], model.memory.keys))
    yield _share("deleted pairs whose answer is still given", left, "at most 0.05, other keys bit for bit",
                 same and left.value <= 0.05)  # fmt: skip


def _two_hops(model: QAMAT, world: PeopleWorld, steps: int, training: Run, run: ClaimRun) -> Iterator[Check]:
    """Card, point 4: both trained as long, from the same model.

    The seats that are asked for are replaced after training, so that no answer can be known by heart: one round could
    else answer by what it was trained on. Companies of which nothing was learned stand in the table beside it.
    """
    model.memory.delete([pair.id for pair in model.memory])
    model.memory.add(world.pairs)
    taught = world.two_hops(6000, world.learned, world.learned_firms)
    learned = [asked(one.question, one.answer, *((name,) for name in one.pairs)) for one in taught]
    moved = world.moved(world.learned_firms)
    sets = {
        "seats replaced": world.two_hops(QUESTIONS, world.held_out, moved),
        "companies never learned from": world.two_hops(QUESTIONS, world.held_out, world.held_out_firms),
    }
    readers = {rounds: QAMAT(copy.deepcopy(model.reader), model.memory) for rounds in (1, 2)}
    for rounds, one in readers.items():
        one.finetune(learned, Stage(steps, 32, rounds).settings, run=training)
    for firm in moved:
        model.memory.update(f"{firm['name']}:seat", answer=firm["seat"])
    found: dict[tuple[str, int], Proportion] = {}
    for rounds, one in readers.items():
        for name, tested in sets.items():
            answers = one.ask([item.question for item in tested], max_new_tokens=8)
            found[name, rounds] = _right(tested, answers)
            run.tables[f"two hops, {rounds} rounds, {name}"] = {
                "exact": found[name, rounds].value,
                "first of each round": [
                    {"question": item.question, "expected": item.answer, "said": said.text, "read": _first(said)}
                    for item, said in zip(tested[:8], answers, strict=False)
                ],
            }
    two, one_round = found["seats replaced", 2], found["seats replaced", 1].value
    others = [found["companies never learned from", rounds].value for rounds in (2, 1)]
    note = f"people never learned from; companies never learned from: {others[0]:.3f} against {others[1]:.3f}"
    yield _share("two-hop questions answered with two rounds", two, "at least 0.3 above one round",
                 two.value - one_round >= 0.3, baseline=one_round, note=note)  # fmt: skip


def _first(answer: Answer) -> list[str]:
    return [f"{own[0]['question']} {own[0]['answer']}" for own in answer.trace["evidence"] if own]


def _hit(one: Asked, answer: Answer) -> bool:
    return one.pairs[0] in [item["id"] for item in answer.trace["evidence"][0][:5]]


def _exact(wanted: str, answer: Answer) -> bool:
    return normalise_answer(wanted) == normalise_answer(answer.text)


def _right(tested: Sequence[Asked], answers: Sequence[Answer]) -> Proportion:
    return wilson(sum(_exact(one.answer, said) for one, said in zip(tested, answers, strict=True)), len(tested))


def _share(
    name: str, share: Proportion, threshold: str, holds: bool, *, baseline: float | None = None, note: str = ""
) -> Check:
    return Check(name, share.value, threshold, holds, baseline, (share.low, share.high), note)


CLAIM = Claim(
    card="qamat",
    statement="A reader trained to retrieve and read question-answer pairs answers from pairs it never learned from, "
    "follows every edit of them without training, and combines two of them in two rounds.",
    published="exact match on TriviaQA, NaturalQuestions and WebQuestions above pair retrieval (RePAQ), and two rounds "
    "above one on HotpotQA and MuSiQue; the figures of the card are marked unsure",
    paper="arXiv:2204.04581",
    seeds=(SEED,),
    minutes=8,
    experiment=experiment,
    files=FILES,
)
