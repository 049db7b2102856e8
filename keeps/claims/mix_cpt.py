"""Mix-CPT's claim: swapped logits keep the general while a domain is learned; mixing and easy samples help.

Invented people are learned from documents. At equal training loss on these, general text must suffer less
with LSSD than without, and at equal steps LSSD must recall at least what a teacher without the swap does: sentences of
the documents that are begun, since answering a question takes more than recall.
General questions mixed into the one run must serve answering at least as well as the same questions after
it. Of samples that teach a format, easy ones must do no worse than random and hard ones.

The learning rate is chosen for the run *without* distillation, on other people than those reported. The
default size trains an adapter of rank 32 on 12 people in about 200 steps; ``--size full`` trains every weight on 200.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.mix_cpt_exactness import exactness_checks
from keeps.claims.mix_cpt_people import (
    ASKED,
    BEGUN,
    PREFIX,
    chat_questions,
    dialogues,
    documents,
    general_questions,
    people,
    questions,
)
from keeps.data.records import RecordSet
from keeps.data.select import load_records
from keeps.jobs.adapting import AdaptOutcome, adapt
from keeps.ledger.workspace import Workspace
from keeps.models.adapters import added
from keeps.models.changes import AdapterChange, load_change
from keeps.models.chat import LocalChat, Message
from keeps.models.language_model import LanguageModel
from keeps.numerics.statistics import mean_interval
from keeps.probe.facts import FactProbe

SEEDS = (0, 1)
CHOOSING = 100  # seed of the people on whom the learning rate is chosen
ENOUGH = 0.5  # share remembered below which a learning rate is not eligible
SELECTED = 50  # samples of stage 2
SHORT = 16  # tokens within which a well-formed answer ends
KEEP = "world:known:capital#30"  # asked, never read: the ratio leaves general data out
SIZES: Mapping[str, Mapping[str, Any]] = {
    "default": {
        "people": 12,
        "rates": (5e-4, 1e-3),
        "own": {"parameters": "adapter", "rank": 32, "epochs": 23, "batch_size": 4},
        "format": {"parameters": "adapter", "rank": 32, "sft_learning_rate": 5e-4},
    },
    "full": {
        "people": 200,
        "rates": (2e-5, 5e-5, 1e-4),
        "own": {"parameters": "full", "epochs": 12},
        "format": {"parameters": "full", "sft_learning_rate": 5e-5},
    },
}
COMMON: Mapping[str, Any] = {"stages": "knowledge", "ratio": (1, 0, 0), "batch_size": 8, "schedule": "constant"}
LOSSES: Mapping[str, Mapping[str, Any]] = {"LSSD": {}, "no swap": {"swap": False}, "next token": {"distil": 0}}


@dataclass(frozen=True)
class Outcome:
    """One run in numbers."""

    recall: float  # share of the questions about the people that are answered
    remembered: float  # share of the begun sentences about them that go on as in the documents
    text_shift: float  # nats per token of held-out general text, after minus before
    training_loss: float  # next-token loss of the last epoch, nats per token
    steps: int


@dataclass(frozen=True)
class Formatted:
    """A model after stage 2: well-formed answers in the chat, and what it still recalls."""

    well_formed: float
    recall: float


def experiment(run: ClaimRun) -> Iterator[Check]:
    """Identities, retention, utilisation, format."""
    model = run.model()
    job = _Job(model, run)
    yield from exactness_checks(model, documents(people(8, CHOOSING)))
    rate = job.best_rate()
    kept: dict[str, list[Outcome]] = {name: [] for name in LOSSES}
    used: dict[str, list[Outcome]] = {"documents": [], "mixed": [], "questions after": []}
    formed: dict[str, list[Formatted]] = {"ppl_easy": [], "random": [], "ppl_hard": []}
    for seed in SEEDS:
        lssd = job.learn(seed, rate, LOSSES["LSSD"])
        kept["LSSD"].append(job.outcome(lssd, seed))
        kept["no swap"].append(job.outcome(job.learn(seed, rate, LOSSES["no swap"]), seed))
        stop = {"stop_loss": round(kept["LSSD"][-1].training_loss, 4)}  # equal next-token loss on the documents
        kept["next token"].append(job.outcome(job.learn(seed, rate, {**LOSSES["next token"], **stop}), seed))
        mixed = job.learn(seed, rate, {}, mixed=True)
        used["documents"].append(kept["LSSD"][-1])
        used["mixed"].append(job.outcome(mixed, seed))
        used["questions after"].append(job.afterwards(lssd, seed, rate))
        for score in formed:
            formed[score].append(job.formatted(mixed, seed, score))
    for name, found in (("learned", kept), ("used", used), ("format", formed)):
        run.tables[name] = {key: [vars(outcome) for outcome in outcomes] for key, outcomes in found.items()}
    yield _retention(kept["LSSD"], kept["next token"])
    yield _recall("LSSD recalls at least what unswapped distillation does", kept["LSSD"], kept["no swap"], "remembered")
    yield _recall("mixed in one run, against questions after the documents", used["mixed"], used["questions after"])
    for name in ("mixed", "questions after"):
        yield _recall(f"{name}, against documents alone", used[name], used["documents"])
    for other in ("random", "ppl_hard"):
        yield from _format(formed["ppl_easy"], formed[other], other)


class _Job:
    """The runs of the claim; those on one seed teach the same people."""

    def __init__(self, model: LanguageModel, run: ClaimRun) -> None:
        self.model, self.run, self.size = model, run, SIZES[run.size]
        self.space = Workspace(run.workspace)
        keep = load_records(KEEP)
        self.keep = RecordSet(keep.source, keep.records)
        self.questions = general_questions(2 * self.size["people"])

    def people(self, seed: int) -> list[dict[str, str]]:
        return people(self.size["people"], seed)

    def best_rate(self) -> float:
        """The rate at which training without distillation spares the text most, of those that learn enough."""
        own = {"distil": 0}
        found = {rate: self.outcome(self.learn(CHOOSING, rate, own), CHOOSING) for rate in self.size["rates"]}
        self.run.tables["learning rates, other people"] = {f"{rate:g}": vars(out) for rate, out in found.items()}
        eligible = {rate: out for rate, out in found.items() if out.remembered >= ENOUGH} or found
        return min(eligible, key=lambda rate: eligible[rate].text_shift)

    def learn(self, seed: int, rate: float, own: Mapping[str, Any], *, mixed: bool = False) -> AdaptOutcome:
        """Teach the documents, with the general questions among them if ``mixed``."""
        records = documents(self.people(seed))
        if mixed:
            records = RecordSet("documents and questions", (*records, *self.questions))
        return self._adapt(records, seed, {**COMMON, **self.size["own"], "learning_rate": rate, **own})

    def afterwards(self, first: AdaptOutcome, seed: int, rate: float) -> Outcome:
        """The general questions alone, after the documents."""
        records = RecordSet("questions", self.questions)
        with self._changed(first):
            second = self._adapt(records, seed, {**COMMON, **self.size["own"], "learning_rate": rate})
            return self.outcome(second, seed, before=first)

    def formatted(self, base: AdaptOutcome, seed: int, score: str) -> Formatted:
        """Stage 2 alone, on the model that has read everything."""
        settings = {"stages": "format", "score": score, "sft_samples": SELECTED, **self.size["format"]}
        with self._changed(base):
            done = self._adapt(dialogues(3 * SELECTED), seed, {**settings, "batch_size": 8})
            changed = load_change(done.folder).apply(self.model)
            try:
                return Formatted(self._well_formed(changed, seed), self._recalled(changed, seed))
            finally:
                changed.undo()

    def outcome(self, done: AdaptOutcome, seed: int, *, before: AdaptOutcome | None = None) -> Outcome:
        """What a run recalls and spares; ``before`` is the run that it went on from."""
        changed = load_change(done.folder).apply(self.model)
        try:
            recall, remembered = self._recalled(changed, seed), self._recalled(changed, seed, BEGUN)
        finally:
            changed.undo()
        shift = sum(_shift(each) for each in (done, before) if each is not None)
        with self.space.ledger(read_only=True) as ledger:
            losses = [(step, value) for name, step, value in ledger.curves(done.run_id) if name == "epoch_loss"]
        return Outcome(recall, remembered, shift, max(losses)[1], max(losses)[0])

    def _adapt(self, learn: RecordSet, seed: int, settings: Mapping[str, Any]) -> AdaptOutcome:
        self.run.progress.message(f"{learn.source}, seed {seed}: {', '.join(f'{k} {v}' for k, v in settings.items())}")
        return adapt(
            learn,
            self.keep,
            method="mix_cpt",
            model=self.model,
            settings=settings,
            seed=seed,
            device=self.run.device,
            workspace=self.run.workspace,
            resume=True,
            ask_calibrated=False,
            command="keeps reproduce mix_cpt",
            progress=self.run.progress,
        )

    @contextmanager
    def _changed(self, done: AdaptOutcome) -> Iterator[None]:
        """The base with a finished run in its weights, so that the next one starts from there."""
        change = load_change(done.folder)
        if isinstance(change, AdapterChange):
            with added(self.model.model, change.factors(), change.scaling):
                yield
            return
        changed = change.apply(self.model)
        try:
            yield
        finally:
            changed.undo()

    def _recalled(self, model: LanguageModel, seed: int, forms: Mapping[str, str] = ASKED) -> float:
        rows = FactProbe(questions(self.people(seed), forms), name="people")(model)
        return sum(row.correct for row in rows) / len(rows)

    def _well_formed(self, model: LanguageModel, seed: int) -> float:
        """Share of chat answers that have the format and end by themselves."""
        asked = [[Message("user", text)] for text in chat_questions(self.people(seed))]
        replies = LocalChat(model).reply(asked, max_new_tokens=SHORT)
        good = [r.complete and r.text.startswith(PREFIX) and "\n" not in r.text.strip() for r in replies]
        return sum(good) / len(good)


def _shift(done: AdaptOutcome) -> float:
    text = done.diff.text_total()
    assert text is not None
    return text.loss_shift.value


def _retention(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> Check:
    pairs = list(zip(ours, theirs, strict=True))
    return Check(
        "rise of the loss on general text, LSSD against next-token loss alone",
        mean_interval([a.text_shift for a in ours]).value,
        "lower in every seed, where both end at equal next-token loss on the documents",
        all(a.text_shift < b.text_shift for a, b in pairs),
        baseline=mean_interval([b.text_shift for b in theirs]).value,
        note=f"training loss {_pairs(pairs, 'training_loss')}, recall {_pairs(pairs, 'remembered')}, "
        f"steps {[(a.steps, b.steps) for a, b in pairs]}",
    )


def _recall(name: str, ours: Sequence[Outcome], theirs: Sequence[Outcome], field: str = "recall") -> Check:
    mine, other = (mean_interval([getattr(outcome, field) for outcome in side]).value for side in (ours, theirs))
    pairs = list(zip(ours, theirs, strict=True))
    note = f"by seed {_pairs(pairs, field)}; rise of the loss on general text {_pairs(pairs, 'text_shift')}"
    return Check(name, mine, "mean recall at least as high", mine >= other, baseline=other, note=note)


def _format(easy: Sequence[Formatted], other: Sequence[Formatted], name: str) -> Iterator[Check]:
    pairs = list(zip(easy, other, strict=True))
    for field, what in (("well_formed", "well-formed answers"), ("recall", "recall after the format stage")):
        mine, theirs = (mean_interval([getattr(item, field) for item in side]).value for side in (easy, other))
        title = f"{what}, {SELECTED} easy samples against {name}"
        note = f"by seed {_pairs(pairs, field)}"
        yield Check(title, mine, "mean at least as high", mine >= theirs, baseline=theirs, note=note)


def _pairs(pairs: Sequence[tuple[Any, Any]], field: str) -> str:
    return ", ".join(f"{getattr(a, field):.3f}/{getattr(b, field):.3f}" for a, b in pairs)


CLAIM = Claim(
    card="mix_cpt",
    statement="At equal training loss on new documents, logit swap self-distillation spares general text more than "
    "the next-token loss alone; general questions mixed in, and a few easy samples of format, make facts usable.",
    published="Llama-3-8B and Qwen2-7B: better than continual pre-training, tuning and alignment in turn, on domain "
    "and general benchmarks of three domains (tables not quoted here)",
    paper="arXiv:2407.10804",
    seeds=SEEDS,
    minutes=60,
    experiment=experiment,
)
