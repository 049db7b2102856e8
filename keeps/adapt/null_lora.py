"""LoRA kept out of what the keep set uses, with a bound on how far old answers can move (ours).

A few hundred texts to keep run through the frozen model. For each layer the leading eigenvectors V of its
inputs' second moment C that hold a share ``energy`` of the trace are closed to the adapter:

    W x + s B (A x),   A = A P,   P = I - V V^T

at the start, in every gradient and after every step, AdamW's division by its second moment included. What
then moves on the data that was kept is bounded, layer by layer, whatever was learned:

    E||s B A x||^2  <=  s^2 ||B A||_2^2 * (1 - energy) * tr(C)

The share that is left is told before training, and after it the bound is set against what the adapter really
does to the keep set's inputs: those it was calibrated on, for which the bound is a theorem, and those of subjects
held out of the calibration (``held_out``), for which it is a measurement. Figures of every layer are in
``null_lora.json``. The bound speaks of each layer's own inputs in the base model, not of what the layers add up to.

``init="corda"`` starts from CorDA's knowledge-preserved components, projected likewise, where the weight itself
says what the keep set does not need; ``leash`` adds the divergence from the base on keep examples to the loss.

Use when: new facts must not disturb old ones and a guarantee is wanted; a bound on the change is to be stated
before training; a high learning rate should not cost what the model knows.

Needs: data to learn and data to keep. Guarantees: the bound above; step 0 equals the base (``init="lora"``
exactly, ``corda`` to rounding); a plain LoRA of rank r (``corda``: 2r) on the untouched base.

Where it comes from: Adam-NSCL (arXiv:2103.07113) projects Adam's updates of whole weights onto the approximate
null space of old inputs, GPM (arXiv:2103.09762) projects gradients away from the leading directions of old
inputs, O-LoRA (arXiv:2310.14152) keeps the A of a new task orthogonal to those of old tasks, and CorDA
(arXiv:2406.05223) starts an adapter from what a context uses least. Ours is to hold the A of an adapter itself in
the null space of what a pretrained model must keep, so that no parameter outside it is ever written, the stated
and checked bound, and the combination with CorDA's start and the leash.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keeps.contracts import Run
from keeps.data.records import Record, RecordSet
from keeps.errors import EmptySetError, SettingsError
from keeps.models.calibration import calibration_sequences
from keeps.models.changes import AdapterChange
from keeps.models.covariances import collect_covariance, token_batches
from keeps.models.language_model import LanguageModel
from keeps.models.nullspaces import NullSpaces, keep_inside, load_spaces, null_spaces, save_spaces, second_moment
from keeps.models.plain_layers import on_plain_layers
from keeps.models.reach import CALIBRATED, HELD_OUT, bound_report, in_words, summary
from keeps.models.targets import check_dense, find_targets, layer_ranks
from keeps.numerics.covariance import Covariance
from keeps.numerics.nullspace import project
from keeps.numerics.oriented import AdapterStart, Damped, balanced, damped, oriented_start
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import AdapterSettings, same_everywhere, set_starts, stored_starts, train_and_write, wrap
from keeps.training.circumstances import process_of_launch
from keeps.training.keeping import leash, needs_keep
from keeps.weights.files import atomic_write_bytes

SPACES = "null_space/spaces.safetensors"  # so that a resumed run keeps to the very same room
REPORT = "null_lora.json"
LEASH_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class NullLoRASettings(AdapterSettings):
    """Settings of null-space LoRA."""

    # Four times LoRA's: what is kept does not pay for it here.
    learning_rate: float = setting(2e-3, "largest learning rate, reached after the warm-up", gt=0, lt=10)
    energy: float = setting(0.99, "Share of the keep set's input energy that is closed to the adapter", gt=0, lt=1)
    init: str = setting(
        "lora", "Where A and B start; corda: components the keep set uses least", choices=("lora", "corda")
    )
    leash: float = setting(0.0, "Weight of the KL divergence from the base on keep examples; 0 for none", ge=0)
    leash_batch: int | None = setting(None, f"Keep examples on the leash in each pass (default {LEASH_BATCH})", ge=1)
    samples: int = setting(256, "Calibration samples at most", ge=1)
    sample_tokens: int = setting(256, "Tokens a sample: short texts are joined up to this length; 1 joins none", ge=1)
    answers: bool = setting(True, "Calibrate on answers too, not on questions alone")
    held_out: float = setting(0.125, "Share of the keep set's subjects that only check the bound", ge=0, le=0.5)

    def check(self) -> None:
        """Refuse a leash without weight."""
        if self.leash_batch is not None and self.leash == 0:
            mend = "give leash a weight above 0, or leave leash_batch out"
            raise SettingsError("leash_batch would do nothing without a leash", mend=mend)


@method(
    "null_lora",
    verb="adapt",
    paper="ours, after arXiv:2103.07113 and arXiv:2103.09762",
    summary="LoRA kept out of the directions that the keep set uses, with a stated and checked bound on the change.",
    needs=("learn", "keep"),
)
class NullLoRA:
    """Low-rank adaptation in the null space of what is to be kept."""

    Settings = NullLoRASettings

    def __init__(self, settings: NullLoRASettings) -> None:
        self.settings = settings

    @staticmethod
    def forms(settings: NullLoRASettings) -> tuple[str, ...]:
        """Where training starts from the weights themselves, the base is reduced."""
        return ("lora", "residual", "merged") if settings.init == "corda" else ("lora", "merged")

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Calibrate, train in the room that is left, write a peft folder, and check the bound."""
        settings = self.settings
        keep = needs_keep(keep, "null_lora")
        check_dense(find_targets(model.model, settings.targets))
        calibrated, checked = divided(keep, settings.held_out)
        batches = self._batches(model, calibrated, run.seed)
        if not batches:
            raise EmptySetError("there is nothing to calibrate on", where=keep.source, mend="give facts or texts")
        spaces, starts = self._prepared(model, batches, run)
        hooks: dict[str, Any] = {}
        if settings.leash:
            size = settings.leash_batch or LEASH_BATCH
            hooks["regulariser"] = leash(model, calibrated, weight=settings.leash, batch_size=size, run=run)
        wrapped = wrap(model, settings, seed=run.seed)
        if starts:
            set_starts(wrapped, starts, run)
        try:
            hooks["after_step"] = keep_inside(wrapped, spaces)
        except BaseException:
            wrapped.unwrap()
            raise
        data = {"learn": learn.fingerprint, "calibrate": calibrated.fingerprint}
        change = train_and_write(model, wrapped, learn, settings, run, method="null_lora", data=data, **hooks)
        if run.is_main:
            texts = {CALIBRATED: batches, HELD_OUT: self._batches(model, checked, run.seed)}
            rows = bound_report(model.model, texts, change.factors(), change.scaling, spaces)
            atomic_write_bytes(run.folder / REPORT, (json.dumps(rows, indent=1) + "\n").encode())
            shutil.rmtree((run.folder / SPACES).parent, ignore_errors=True)
            run.measures |= summary(rows)
            run.progress.message(in_words(run.measures))
            change.record = change.record.with_measures(run.measures)
            change.record.write(run.folder)
        return change

    def _prepared(
        self, model: LanguageModel, batches: list[Any], run: Run
    ) -> tuple[NullSpaces, dict[str, AdapterStart]]:
        """The spaces, and the starts where LoRA's is not taken: those of an interrupted run, or new ones."""
        settings, path = self.settings, run.folder / SPACES
        starts = stored_starts(run)
        if same_everywhere(run.is_main and run.resume and path.exists() and bool(starts or settings.init == "lora")):
            spaces, measures = load_spaces(path, model.device)
            run.measures.update(measures)
            return spaces, starts
        layers = find_targets(model.model, settings.targets)
        ranks = layer_ranks(layers, settings.rank, settings.rank_pattern)
        index, count = process_of_launch()
        mine = batches[index::count]
        covariances = collect_covariance(model.model, mine, settings.targets, "none", run=run, total=len(mine))
        with run.progress.task("null spaces", len(covariances)) as task:
            spaces = null_spaces(covariances, settings.energy, ranks, advance=task.advance)
        self._tell(spaces, run)
        if settings.init == "corda":
            starts = {
                name: self._start(layer.weight, context, ranks[name], spaces[name].basis)
                for (name, layer), context in zip(layers.items(), _contexts(covariances), strict=True)
            }
        if run.is_main:
            save_spaces(path, spaces, run.measures)
        return spaces, starts

    def _start(self, weight: Any, context: Damped, rank: int, basis: Any) -> AdapterStart:
        """CorDA's knowledge-preserved start with A in the room; balanced, as KPM's A is large and its B small."""
        found = oriented_start(weight, context, rank, self.settings.scaling, "kpm")
        a, b = balanced(project(found.a, basis), found.b)
        return AdapterStart(a, b, found.values, found.delta, found.inverse_error)

    def _batches(self, model: LanguageModel, records: RecordSet, seed: int) -> list[Any]:
        """Token batches of at most ``samples`` samples of ``records``."""
        settings = self.settings
        sequences = calibration_sequences(
            model, records, tokens=settings.sample_tokens, answers=settings.answers, seed=seed
        )
        sequences = [sequence for sequence in sequences if sequence][: settings.samples]
        return token_batches(sequences, pad_token_id=model.encoder.pad_token_id)

    def _tell(self, spaces: NullSpaces, run: Run) -> None:
        """Say before training how much room and how much of the keep set's energy is left."""
        rooms = [space.room / space.basis.shape[0] for space in spaces.values()]
        left = [space.residual / space.total for space in spaces.values()]
        made = sum(space.made > 0 for space in spaces.values())
        run.measures |= {"free_share": statistics.median(rooms), "residual_energy": max(left), "room_made": made}
        run.progress.message(
            f"the adapter may read {min(rooms):.0%} to {max(rooms):.0%} of the dimensions of a layer's input, which "
            f"hold {min(left):.2%} to {max(left):.2%} of the keep set's energy: on it no output moves by more than "
            f"{max(left) ** 0.5:.3f} ||s B A|| rms(x)"
        )
        if made:
            run.progress.message(
                f"{made} of {len(spaces)} layers have less room than the rank: their energy is kept out to "
                f"{1 - max(left):.2%} only; lower energy or rank"
            )


def divided(keep: RecordSet, share: float) -> tuple[RecordSet, RecordSet]:
    """The records to calibrate on, and those of the subjects that are held out, by a hash of the subject.

    With so few subjects that one part would be empty, all are calibrated on.
    """
    held = [_bucket(record) < share for record in keep]
    if all(held):
        held = [False] * len(held)
    parts = [tuple(record for record, out in zip(keep, held, strict=True) if out is wanted) for wanted in (False, True)]
    return RecordSet(keep.source, parts[0]), RecordSet(keep.source, parts[1])


def _bucket(record: Record) -> float:
    """A number in [0, 1) that depends on what the record is about alone."""
    names = (getattr(record, name, "") for name in ("split_key", "subject", "prompt"))
    subject = next((name for name in names if name), record.id)
    digest = hashlib.sha256(f"held out:{subject.strip().casefold()}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _contexts(covariances: Mapping[str, Covariance]) -> Iterator[Damped]:
    """The damped second moment of each layer, formed once for neighbours that share it."""
    last: tuple[int, Damped] | None = None
    for covariance in covariances.values():
        if last is None or last[0] != id(covariance):
            last = (id(covariance), damped(second_moment(covariance)))
        yield last[1]
