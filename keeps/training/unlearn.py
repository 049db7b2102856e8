"""One engine for all methods that unlearn by gradients: a loss on the forget set, a term on the retain set.

A method says what the loss is (:meth:`Unlearner.objective`); the engine reads what the unchanged model said, trains
an adapter or all weights in the common loop, stops early where asked to, and writes a plain peft folder or a
transformers checkpoint. It continues from a checkpoint as every training does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.models.changes import StoredChange
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import plain_layers
from keeps.settings import setting
from keeps.training.adapter import AdapterSettings, train_and_write, wrap
from keeps.training.batches import TokenizedExample
from keeps.training.examples import tokenise
from keeps.training.extraction import ExtractionStop
from keeps.training.forgetting import Weighted
from keeps.training.keeping import WINDOW, Replay
from keeps.training.loop import AfterStep, total_steps, train
from keeps.training.reference import Leash, Reference
from keeps.training.steps import Loss, Regulariser
from keeps.training.whole import write_whole

ADAPTER_ONLY = ("rank", "alpha", "targets", "dropout", "rank_stabilised", "rank_pattern")


@dataclass(frozen=True, kw_only=True)
class UnlearnSettings(AdapterSettings):
    """Settings of every method that unlearns by gradients."""

    parameters: str = setting(
        "adapter", "Train a low-rank adapter, or every weight of the model", choices=("adapter", "full")
    )
    epochs: int = setting(10, "passes over the forget set", ge=1)
    learning_rate: float = setting(
        5e-4, "largest learning rate; a tenth to a fiftieth of this suits all weights", gt=0, lt=10
    )
    window: int = setting(WINDOW, "Tokens of running text that make one example", ge=8, advanced=True)
    stop: str = setting(
        "steps",
        "Train all steps, or until the forget set is extracted and memorised no more than unseen text",
        choices=("steps", "extraction"),
    )
    stop_every: int | None = setting(
        None, "Steps between two looks at extraction (default: once an epoch)", ge=1, advanced=True
    )
    stop_ngram: int = setting(10, "Tokens of the n-grams of extraction likelihood", ge=1, advanced=True)

    loss_falls: ClassVar[bool] = False  # whether the loss is one that training brings to 0

    def check(self) -> None:
        """Refuse settings that would do nothing, or nothing sensible."""
        if self.stop_loss is not None and not self.loss_falls:
            what = "stop_loss ends training at once, since this loss has no such floor"
            raise SettingsError(what, where="unlearn", mend="use stop=extraction, or fewer steps")
        self.refuse_idle(ADAPTER_ONLY, self.parameters == "full", 'parameters is "full"')
        self.refuse_idle(("stop_every", "stop_ngram"), self.stop == "steps", 'stop is "steps"')

    def refuse_idle(self, names: Sequence[str], idle: bool, because: str) -> None:
        """Refuse those of ``names`` that were set although ``idle``.

        Raises:
            SettingsError: one was.
        """
        defaults = {info.name: info.default for info in self.fields()}
        for name in names if idle else ():
            if getattr(self, name) != defaults[name]:
                mend = f"leave {name} out, or change what switches it off"
                raise SettingsError(f"{name} would do nothing, since {because}", where="unlearn", mend=mend)

    def check_model(self, model: LanguageModel) -> None:
        """Refuse layers that do not fit the adapter."""
        if self.parameters == "adapter":
            super().check_model(model)


@dataclass(frozen=True, kw_only=True)
class RetainSettings(UnlearnSettings):
    """Settings of methods that hold on to a retain set."""

    forget_weight: float = setting(1.0, "Weight gamma of the loss on the forget set", gt=0)
    retain_weight: float = setting(1.0, "Weight alpha of the term on the retain set; 0 leaves it out", ge=0)
    retain_loss: str = setting(
        "nll",
        "The term on the retain set: its right answers (nll), or what the model said before (kl)",
        choices=("nll", "kl"),
    )
    retain_batch: int = setting(16, "Retain examples read in each forward pass", ge=1)


def check_sets(forget: RecordSet, retain: RecordSet | None) -> None:
    """Refuse an empty forget set, and one that overlaps with what is to be retained.

    Raises:
        EmptySetError: nothing is to be forgotten.
        RecordError: a record is in both.
    """
    if not len(forget):
        mend = "name what is to be forgotten with --forget"
        raise EmptySetError("there is nothing to forget", where=forget.source, mend=mend)
    contents = {RecordSet("", (replace(record, id=""),)).fingerprint: record.id for record in forget}
    for record in retain or ():
        mate = contents.get(RecordSet("", (replace(record, id=""),)).fingerprint)
        if mate is not None:
            what = f'the record "{record.id}" is to be retained and, as "{mate}", to be forgotten'
            raise RecordError(what, where=f"{forget.source}, {(retain or forget).source}", mend="take it out of one")


def forget_examples(model: LanguageModel, forget: RecordSet, window: int = WINDOW) -> list[TokenizedExample]:
    """The forget set as tokens, without the line break that ends an answer: how to stop is not what must go.

    Raises:
        RecordError: an answer has no token.
        EmptySetError, ContextLengthError: as :func:`keeps.training.examples.tokenise`.
    """
    examples = tokenise(model, forget, end="", window=window)
    if any(not example.answer_tokens for example in examples):
        mend = "give every answer a text"
        raise RecordError("an answer to be forgotten has no token", where=forget.source, mend=mend)
    return examples


@dataclass(frozen=True)
class Objective:
    """What a method minimises.

    Attributes:
        examples: what the loop deals out.
        loss: makes the module that gives the summed loss of a batch of them.
        regulariser: instead of the common retain term.
        besides: what is added to the common retain term.
        after_step: called after each step, before what else may end training.
    """

    examples: Sequence[TokenizedExample]
    loss: Loss
    regulariser: Regulariser | None = None
    besides: Regulariser | None = None
    after_step: AfterStep | None = None


class Unlearner(ABC):
    """Base of the methods: ``objective`` is all that a method has to write.

    Attributes:
        holds: whether it has a term on the retain set: ``"needs"`` it, ``"may"`` have it, or has ``"none"``.
    """

    holds: ClassVar[str] = "may"
    info: ClassVar[Any]

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @staticmethod
    def forms(settings: UnlearnSettings) -> tuple[str, ...]:
        """A whole checkpoint, or an adapter."""
        return ("merged",) if settings.parameters == "full" else ("lora", "merged")

    @abstractmethod
    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """The loss, made while ``model`` is still as it was."""

    def __call__(
        self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None = None, *, run: Run
    ) -> StoredChange:
        """Train ``model`` to forget, write ``run.folder``, and give the model back as it was.

        Raises:
            EmptySetError: nothing is to be forgotten.
            RecordError: the sets overlap, or an answer has no token.
            SettingsError: the method needs a retain set and there is none.
        """
        self.settings.check_model(model)
        check_sets(forget, retain)
        forget_examples(model, forget, self.settings.window)  # a bad answer is refused, whatever is trained on
        retain = self.retained(retain)
        objective = self.objective(model, forget, retain, run)
        regulariser = objective.regulariser or summed(objective.besides, self.retain_term(model, retain, run))
        hooks: dict[str, Any] = {"loss": objective.loss, "regulariser": regulariser}
        enough = self.stopping(model, forget, len(objective.examples), run)
        hooks["after_step"] = in_turn(objective.after_step, enough)
        pad = model.encoder.pad_token_id

        def training(module: Any) -> None:
            train(module, objective.examples, self.settings, run, pad_token_id=pad, **hooks)

        data = {"forget": forget.fingerprint} | ({} if retain is None else {"retain": retain.fingerprint})
        return self.write(model, forget, training, run, data)

    def write(
        self, model: LanguageModel, forget: RecordSet, training: Callable[[Any], object], run: Run, data: Any
    ) -> StoredChange:
        """Train and write; a method that trains some layers alone does it its own way."""
        return written(model, forget, training, self.settings, run, method=self.info.name, data=data)

    def retained(self, retain: RecordSet | None) -> RecordSet | None:
        """The retain set, if there is one and the method holds on to it.

        Raises:
            SettingsError: the method cannot do without.
        """
        given = retain if retain is not None and len(retain) else None
        weight = getattr(self.settings, "retain_weight", 0.0)
        if self.holds == "needs" and (given is None or not weight):
            what = "there is nothing to retain" if given is None else "retain_weight is 0"
            mend = "give --retain, or take a method that does without (gradient_ascent, npo)"
            raise SettingsError(what, where=self.info.name, mend=mend)
        return given if weight else None

    def retain_term(self, model: LanguageModel, retain: RecordSet | None, run: Run) -> Regulariser | None:
        """alpha times the mean loss on right answers, or the mean divergence from what the model said."""
        if retain is None:
            return None
        s = self.settings
        examples = tokenise(model, retain, window=s.window)
        options: dict[str, Any] = {"weight": s.retain_weight, "batch_size": s.retain_batch}
        options["pad_token_id"] = model.encoder.pad_token_id
        if s.retain_loss == "nll":
            return Replay(examples, **options)
        return Leash(reference_of(model, examples, s, run), examples, **options)

    def stopping(self, model: LanguageModel, forget: RecordSet, examples: int, run: Run) -> Any:
        """The hook that ends training early, if it is asked for."""
        s = self.settings
        if s.stop == "steps":
            return None
        every = s.stop_every or min(s.steps_per_epoch(examples), total_steps(s, examples))
        return ExtractionStop(model, forget_examples(model, forget, s.window), every=every, n=s.stop_ngram, run=run)

    def weighted(self, loss: Loss) -> Loss:
        """``loss`` times the weight of the forget set."""
        weight = getattr(self.settings, "forget_weight", 1.0)
        return loss if weight == 1.0 else lambda module: Weighted(loss(module), weight)


def summed(first: Regulariser | None, second: Regulariser | None) -> Regulariser | None:
    """The sum of two terms, the first one read first; or the one that there is."""
    if first is None or second is None:
        return first or second

    def both(module: nn.Module) -> Tensor | None:
        found = [value for value in (first(module), second(module)) if value is not None]
        return torch.stack(found).sum() if found else None

    return both


def in_turn(first: AfterStep | None, second: AfterStep | None) -> AfterStep | None:
    """Both hooks, of which either may end training (the second is not called then); or the one that there is."""
    if first is None or second is None:
        return first or second
    return lambda *state: bool(first(*state)) or second(*state)


def reference_of(
    model: LanguageModel, examples: Sequence[TokenizedExample], settings: UnlearnSettings, run: Run
) -> Reference:
    """What ``model`` says now about ``examples``."""
    return Reference.of(model, examples, run=run, head_changes=settings.parameters == "full")


def written(
    model: LanguageModel,
    forget: RecordSet,
    training: Callable[[Any], object],
    settings: UnlearnSettings,
    run: Run,
    *,
    method: str,
    data: Mapping[str, str],
    wrapping: AdapterSettings | None = None,
) -> StoredChange:
    """Call ``training`` with an adapter on ``model``, or with all of its weights, and write what came of it.

    Args:
        wrapping: says where the adapter goes, instead of ``settings``.
    """
    named: dict[str, Any] = {"method": method, "data": data}
    if settings.parameters == "full":
        return write_whole(model, lambda module, _: training(module), settings, run, **named)
    with plain_layers(model.model):
        wrapped = wrap(model, wrapping or settings, seed=run.seed)
        return train_and_write(model, wrapped, forget, settings, run, training=training, **named)
