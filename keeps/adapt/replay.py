"""Replay: mix data that the model must keep into the training on new data; the first thing people try.

Each step also takes the loss on a few examples of the keep set, of ordinary running text, or of both. Rehearsal
of old data is as old as the study of forgetting in networks (Robins 1995, "Catastrophic forgetting, rehearsal
and pseudorehearsal"); for language models a few per cent of general data in the mix go a long way (Scialom et
al. 2022, arXiv:2205.12393).

Use when: old data is at hand and may be trained on again; a strong and simple baseline against forgetting is
wanted; general text should be mixed into fine-tuning.

Needs: data to learn; data to keep unless only built-in text is replayed. Guarantees: nothing; facts that were
not replayed are kept by likeness alone.

How it is mixed: the loss on the new data and ``weight`` times the loss on the replayed data are two means, and
``ratio`` says how many examples stand behind the second for each one behind the first. In one common mean a
paragraph of text would outweigh a fact of three tokens by twenty to one, and ``stop_loss`` would watch the text.
"""

from __future__ import annotations

from dataclasses import dataclass

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.data.select import load_records
from keeps.models.changes import AdapterChange
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import on_plain_layers
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import AdapterSettings, train_and_write, wrap
from keeps.training.examples import tokenise
from keeps.training.keeping import WINDOW, Replay, needs_keep

SOURCES = ("keep", "text", "both")


@dataclass(frozen=True, kw_only=True)
class ReplaySettings(AdapterSettings):
    """Settings of replay."""

    ratio: float = setting(1.0, "Replayed examples for each learned example of a step", gt=0, le=64)
    weight: float = setting(1.0, "Weight of the mean loss on replayed examples", gt=0)
    source: str = setting("keep", "What is replayed: the keep set, built-in running text, or both", choices=SOURCES)
    window: int = setting(WINDOW, "Tokens of running text that make one example", ge=8, advanced=True)


@method(
    "replay",
    verb="adapt",
    paper="arXiv:2205.12393",
    summary="LoRA with old data mixed into training: what people try first, and strong where old data is at hand.",
    card="baselines",
    needs=("learn",),
    uses=("keep",),
    forms=("lora", "merged"),
)
class ReplayLoRA:
    """Low-rank adaptation on new and old data together."""

    Settings = ReplaySettings

    def __init__(self, settings: ReplaySettings) -> None:
        self.settings = settings

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Train A and B on ``learn`` and on draws of what is replayed; write a peft folder of rank r."""
        settings = self.settings
        replayed = self.replayed(keep)
        replay = Replay(
            tokenise(model, replayed, window=settings.window),
            weight=settings.weight,
            batch_size=max(1, round(settings.ratio * settings.batch_size)),
            pad_token_id=model.encoder.pad_token_id,
        )
        run.measures["replayed_examples"] = len(replay.examples)
        wrapped = wrap(model, settings, seed=run.seed)
        data = {"learn": learn.fingerprint, "replay": replayed.fingerprint}
        return train_and_write(model, wrapped, learn, settings, run, method="replay", data=data, regulariser=replay)

    def replayed(self, keep: RecordSet | None) -> RecordSet:
        """The records that are replayed; of built-in text the train part, of which nothing is ever reported.

        Raises:
            SettingsError: the keep set is wanted and there is none.
        """
        text = load_records("text").part("train")
        if self.settings.source == "text":
            return text
        keep = needs_keep(keep, "replay", "give --keep, or choose --source text")
        if self.settings.source == "keep":
            return keep
        known = {record.id for record in keep}
        more = tuple(record for record in text if record.id not in known)
        return RecordSet(f"{keep.source},text", keep.records + more)
