"""LoRAMoE: several small experts and a router in place of one adapter (Dou et al. 2024, arXiv:2312.09979).

Fine-tuning on many samples of other tasks erodes what a model answers without a source. LoRAMoE freezes
the model and puts N low-rank experts with a router beside the linear layers of every feed-forward block,

    y = W x + b + s sum_i g_i(x) B_i A_i x,   g(x) = softmax(R x),   s = alpha / rank

and adds beta times the *localised balancing constraint* to the loss: in a batch, Q_nm is how much of
sample m went to expert n, I_nm is 1 + delta where their types agree and 1 - delta elsewhere, and the
spread of I * Q over all entries is to be small. All experts stay in use, and the halves part by type of
data. Facts are type 1 (world knowledge), examples, dialogues and texts are type 0 (other tasks); when the
model answers, nothing has to be labelled. ``keeps diff RUN --router`` shows which data went to which expert.

Use when: instruction tuning on many examples of a new task makes the model forget world knowledge; facts
and other tasks are learned together and should not disturb each other; it should be visible which part of
the adapter serves which data.

Needs: facts and other examples to learn, best mixed. Guarantees: step 0 equals the base exactly; the base
is never changed. The gate depends on the token, so the result cannot be merged or loaded by peft.

Where paper and code differ: the paper divides the variance by the mean, the code by its square, which
does not grow with the number of tokens (``measure``). The formula gives a type's own experts *less* of it,
(1 - delta) / 2 with two halves, though the text says more; ``direction="paper_text"`` turns that round.
The published sum over layers, to which the published beta belongs, makes the constraint stronger in deeper
models; with ``reduction="mean_layers"`` it does not, and needs a beta as many times as large. The published
sum over tokens makes it punish unequal lengths; ``per_token`` (ours, the default) counts samples alike. The
code counts padding too, which is left out here, and leaves the constraint switched off.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keeps.contracts import Run
from keeps.data.records import Fact, Record, RecordSet
from keeps.errors import SettingsError
from keeps.models.changes import source_of
from keeps.models.expert_files import ExpertsChange, write_experts
from keeps.models.expert_gates import REDUCTIONS, Gates, recorded_gates
from keeps.models.expert_usage import expert_usage as expert_usage
from keeps.models.experts import ExpertsConfig, WrappedExperts, wrap_experts
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits
from keeps.models.plain_layers import on_plain_layers
from keeps.models.targets import find_targets, layer_ranks
from keeps.numerics.balance import DIRECTIONS, MEASURES
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import finished_record, measure_export
from keeps.training.batches import Batch, TokenizedExample
from keeps.training.circumstances import own_random_numbers
from keeps.training.loop import train
from keeps.training.losses import PackedLoss
from keeps.training.routing import router_report, typed_examples
from keeps.training.settings import TrainingSettings

FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
TYPES = ("other tasks", "facts")  # by number


@dataclass(frozen=True, kw_only=True)
class LoRAMoESettings(TrainingSettings):
    """Settings of LoRAMoE; the defaults are the paper's."""

    learning_rate: float = setting(2e-4, "largest learning rate, reached after the warm-up", gt=0, lt=10)
    experts: int = setting(6, "Experts N in every target layer", ge=2)
    rank: int = setting(4, "Rank r of each expert; together they have the capacity of rank N r", ge=1)
    alpha: float = setting(32.0, "Every expert is scaled by alpha / rank", gt=0)
    dropout: float = setting(0.05, "Dropout on the experts' input; the router sees all of it", ge=0, lt=1)
    targets: tuple[str, ...] = setting(FEED_FORWARD, "Ends of the names of the layers that get experts")
    expert_types: tuple[int, ...] = setting(
        (), "Type of each expert, 1 (facts) or 0 (other tasks), as 1,1,1,0,0,0 (default: the first half 1)"
    )
    beta: float = setting(0.1, "Weight of the balancing constraint; 0 leaves the router alone", ge=0)
    delta: float = setting(0.1, "How uneven the use of experts may be by type; 0 asks for equal use", ge=0, le=1)
    measure: str = setting("cv2", "Spread: variance / mean² (code), or / mean (dispersion, paper)", choices=MEASURES)
    direction: str = setting(
        "objective", "As the published formula has it, or as the paper's text has it", choices=DIRECTIONS, advanced=True
    )
    reduction: str = setting(
        "sum_layers", "The constraint over layers; mean_layers needs a beta as many times larger", choices=REDUCTIONS
    )
    per_token: bool = setting(True, "Count each sample alike, however long (no, as published)", advanced=True)

    @property
    def types(self) -> tuple[int, ...]:
        """The type of each expert."""
        half = self.experts // 2
        return self.expert_types or (1,) * half + (0,) * (self.experts - half)

    @property
    def config(self) -> ExpertsConfig:
        """What the layers are made of."""
        return ExpertsConfig(self.types, self.rank, self.alpha, dropout=self.dropout)

    def check(self) -> None:
        """Refuse types that are not one for each expert, or a half without an expert."""
        if len(self.types) != self.experts:
            what = f"{len(self.types)} expert types are given for {self.experts} experts"
            raise SettingsError(what, where="expert_types", mend="give one for each")
        if set(self.types) != {0, 1}:
            what = f"the types of the experts are {sorted(set(self.types))}, those of the data 0 and 1"
            raise SettingsError(what, where="expert_types", mend="give experts to 0 and to 1, and to no other type")

    @on_plain_layers
    def check_model(self, model: LanguageModel) -> None:
        """Refuse targets that match no layer and a rank that does not fit one."""
        layer_ranks(find_targets(model.model, self.targets), self.rank, {})


@method(
    "loramoe",
    verb="adapt",
    paper="arXiv:2312.09979",
    summary="Several low-rank experts with a router in every feed-forward layer, parted by type of data.",
    needs=("learn",),
    forms=("experts",),
)
class LoRAMoE:
    """Mixture of LoRA experts with the localised balancing constraint."""

    Settings = LoRAMoESettings

    def __init__(self, settings: LoRAMoESettings) -> None:
        self.settings = settings

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> ExpertsChange:
        """Train the experts and their routers on ``learn``, and write them; ``keep`` is only shown to the router."""
        examples = typed_examples(model, learn, type_of)
        self._say(examples, run)
        with own_random_numbers(model.device):
            torch.manual_seed(run.seed)
            wrapped = wrap_experts(model.model, self.settings.config, self.settings.targets)
        try:
            hooks = Balance(self.settings, run).hooks() if self.settings.beta else {}
            train(model.model, examples, self.settings, run, pad_token_id=model.encoder.pad_token_id, **hooks)
            trained = check_logits(model.model, model.tokenizer)
            sets = {"learn": learn, "keep": keep or RecordSet("", ())}
            run.measures["router"] = router_report(model, sets, type_of, TYPES)
            if run.is_main:
                write_experts(run.folder, wrapped, base=source_of(model))
        finally:
            wrapped.unwrap()
        data = {"learn": learn.fingerprint}
        change = ExpertsChange(run.folder, finished_record("experts", "loramoe", self.settings, model, data, run))
        measure_export(change, model, trained, run)
        return change

    def _say(self, examples: Sequence[TokenizedExample], run: Run) -> None:
        """What the user should know about the types of the data."""
        facts = run.measures["type_1_samples"] = sum(example.kind for example in examples)
        if self.settings.beta and self.settings.delta and facts in (0, len(examples)):
            run.progress.message(
                f"all {len(examples)} samples are of one type ({TYPES[int(facts > 0)]}), so the constraint cannot part "
                "the experts by type: mix facts (type 1) with examples or texts (type 0), or set delta to 0"
            )


def type_of(record: Record) -> int:
    """1 for facts, 0 for everything else."""
    return int(isinstance(record, Fact))


class Balance:
    """The constraint of the step under way: the loss records the gates, the regulariser reads them."""

    def __init__(self, settings: LoRAMoESettings, run: Run) -> None:
        self.settings, self.run = settings, run
        self.gates: Gates | None = None
        self.values: list[Tensor] = []

    def hooks(self) -> dict[str, Any]:
        """What :func:`keeps.training.loop.train` is to be given; its loss stays the cross-entropy alone."""
        return {"loss": lambda model: _RecordedLoss(model, self), "regulariser": self.penalty, "after_step": self.log}

    def penalty(self, module: nn.Module) -> Tensor:
        """beta times the constraint of the last forward pass."""
        del module
        assert self.gates is not None, "the loss records before the regulariser is asked"
        settings: Any = self.settings
        options = {name: getattr(settings, name) for name in ("measure", "direction", "reduction", "per_token")}
        value = self.gates.balance_loss(settings.delta, **options)
        self.gates = None
        self.values.append(value.detach())
        return settings.beta * value

    def log(self, module: nn.Module, step: int, optimiser: torch.optim.Optimizer) -> None:
        """The constraint of the step, as a curve."""
        del module, optimiser
        self.run.log(step, balance=float(torch.stack(self.values).mean()))
        self.values.clear()


class _RecordedLoss(PackedLoss):
    """The cross-entropy, with the gates of the forward pass left in a :class:`Balance`."""

    def __init__(self, model: nn.Module, balance: Balance) -> None:
        super().__init__(model)
        self.balance = balance

    def forward(self, batch: Batch) -> Tensor:
        with recorded_gates(self.model, mask=batch.attention_mask, types=batch.kinds) as gates:
            loss = super().forward(batch)
        self.balance.gates = gates
        return loss


def wrap_loramoe(
    model: Any,
    targets: Sequence[str] = FEED_FORWARD,
    n_experts: int = 6,
    r: int = 4,
    alpha: float = 32.0,
    dropout: float = 0.05,
    expert_types: Sequence[int] = (),
) -> WrappedExperts:
    """Put experts into any transformers model, for a training loop of one's own; ``unwrap()`` takes them out.

    Raises:
        SettingsError: a value is out of range, or a type has no expert.
        TargetError: no layer matches, or the rank does not fit one.
    """
    types = tuple(expert_types) or LoRAMoESettings(experts=n_experts).types
    if len(types) != n_experts:
        raise SettingsError(f"{len(types)} expert types are given for {n_experts} experts", mend="give one for each")
    return wrap_experts(model, ExpertsConfig(types, r, alpha, dropout=dropout), targets)


def loramoe_context(
    model: nn.Module, task_types: Tensor | Sequence[int] | None = None, mask: Tensor | None = None
) -> AbstractContextManager[Gates]:
    """Record the gates of a forward pass; ``.balance_loss(delta=...)`` of what it gives is the constraint.

    >>> with loramoe_context(model, types, batch["attention_mask"]) as gates:  # doctest: +SKIP
    ...     loss = model(**batch).loss + 0.1 * gates.balance_loss(delta=0.1)
    """
    return recorded_gates(model, mask=mask, types=task_types)
