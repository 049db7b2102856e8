"""WISE: a side memory of one layer, and a routing activation that says when to use it.

    W' = copy of one MLP down-projection W, trained on the edits;   Delta(x) = mean over tokens of ||A(x) (W' - W)^T||
    Delta(x) > eps: the layer multiplies by W';  else by W                          (arXiv:2405.14768)

A(x) is the layer's input. Beside the loss of the target, a margin loss teaches the activation where the edits are:

    [Delta(x_irr) - alpha]_+  +  [beta - Delta(x_e)]_+  +  [gamma - (Delta(x_e) - Delta(x_irr))]_+

for unrelated prompts x_irr. The edits are divided into ``shards``; each trains a random share ``rho`` of the entries
of W', starting from W, and the shards are merged into one side memory by TIES. eps is ``threshold_ratio`` times the
smallest Delta seen on an edit. With ``retrieve`` the shards stay apart, and the one with the largest Delta answers.

Use when: many edits must generalise to other wordings and still leave unrelated prompts alone; edits come in
batches for a long time; one more copy of one matrix is affordable.

A prompt is routed as a whole, before it is asked: what is not an edit is answered by the unedited model in a call of
its own, bit for bit. Unrelated prompts are taken from ``unrelated`` (facts of the built-in world or a file of edits),
or from the keep set.

What is small-scale, and differs: the published margins (5, 20, 10) are those of Llama-2-7B, whose activations are
larger. ``margin_scale`` multiplies all three; by default it makes beta the mean norm of what the layer itself gives
on the edits, so that the memory adds there as much again. A step of SGD is at most as long as the learning rate; the
published code takes longer ones and keeps every entry of W' - W within 1 instead. The edits of a shard are trained
together (``order="batch"``) or one after another (``order="sequential"``). Edits that share a side memory cannot be
taken out of it one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit, check_edits
from keeps.data.other_edits import other_edits
from keeps.data.records import Example, Fact, RecordSet
from keeps.errors import SettingsError
from keeps.models.language_model import LanguageModel
from keeps.models.layer_inputs import TargetBatch, late_layer, layer_inputs, replaced_output
from keeps.models.memory import MemoryChange, MemoryMethod, finish_memory
from keeps.models.projection import evaluating
from keeps.models.routed import Route, Router
from keeps.numerics.ties import ties
from keeps.registry import method
from keeps.settings import Settings, setting
from keeps.weights.files import load_tensors, save_tensors

TENSORS = "side_memory.safetensors"
STOP_LOSS = 0.01  # targets and margins together, below which nothing is left to learn


@dataclass(frozen=True, kw_only=True)
class WISESettings(Settings):
    """Settings of WISE; the defaults are those published for Llama-2-7B where a model's size does not matter."""

    layer: int | None = setting(None, "Block whose MLP gets the side memory (default: 27/32 of the depth)", ge=0)
    order: str = setting("batch", "Train a shard's edits together, or one after another",
                         choices=("batch", "sequential"))  # fmt: skip
    steps: int = setting(70, "Steps a shard (batch) or an edit (sequential)", ge=1)
    learning_rate: float = setting(1.0, "Of SGD on the side memory", gt=0)
    rho: float = setting(0.2, "Share of the entries of the matrix that a shard may change", gt=0, le=1)
    shards: int = setting(2, "Shards of the edits, each with entries of its own choice", ge=1)
    density: float = setting(0.53, "Share of a shard's changes that TIES keeps", gt=0, le=1)
    retrieve: bool = setting(False, "Keep the shards apart and use the one with the largest activation")
    alpha: float = setting(5.0, "Most activation that an unrelated prompt may have", ge=0)
    beta: float = setting(20.0, "Least activation that an edit should have", ge=0)
    gamma: float = setting(10.0, "Least distance between the two", ge=0)
    margin_scale: float | None = setting(None, "Multiplies alpha, beta and gamma (default: by this model's scale)",
                                         gt=0)  # fmt: skip
    threshold_ratio: float = setting(0.88, "The threshold, as a share of the smallest activation of an edit", gt=0)
    unrelated: str = setting(
        "world:capital#20,world:symbol#20", "Facts or a file of edits; their prompts are unrelated"
    )

    def check(self) -> None:
        """Refuse what would do nothing."""
        if self.retrieve and self.shards == 1:
            raise SettingsError("there is nothing to retrieve from one shard", mend="give more shards")


def routing_activation(inputs: Sequence[Tensor], update: Tensor) -> Tensor:
    """Delta of each prompt: the mean over its tokens of the norm of what the side memory adds there.

    Args:
        inputs: ``(time, in)`` of each prompt.
        update: W' - W, ``(out, in)``.
    """
    lengths = torch.tensor([len(rows) for rows in inputs], device=update.device)
    added = torch.cat([rows.to(update) for rows in inputs]) @ update.T
    owner = torch.repeat_interleave(torch.arange(len(inputs), device=update.device), lengths)
    # the norm has no gradient at 0, where training starts: a grain beneath the root gives it one
    norms = (added.square().sum(-1) + 1e-12).sqrt()
    return torch.zeros(len(inputs), device=update.device).index_add(0, owner, norms) / lengths


def margin_loss(edited: Tensor, unrelated: Tensor, alpha: float, beta: float, gamma: float) -> Tensor:
    """The three hinges, each as a mean; ``edited`` ``(n,)`` and ``unrelated`` ``(m,)`` are activations.

    >>> float(margin_loss(torch.tensor([30.0]), torch.tensor([1.0]), 5, 20, 10))
    0.0
    """
    apart = gamma - (edited[:, None] - unrelated[None, :])
    return (unrelated - alpha).relu().mean() + (beta - edited).relu().mean() + apart.relu().mean()


@dataclass(frozen=True)
class SideMemory:
    """W' - W as ``(out, in)``, and the activation above which it is used."""

    update: Tensor
    threshold: float


class WISERouter(Router):
    """Measures the activation of each prompt; the memory with the largest one above its threshold answers."""

    def __init__(self, base: LanguageModel, memories: Sequence[SideMemory], layer: int) -> None:
        super().__init__(base)
        self.memories, self.layer = list(memories), layer
        self._found: dict[str, Route | None] = {}

    def routes(self, prompts: Sequence[str]) -> list[Route | None]:
        """See :class:`Router`."""
        fresh = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._found]
        if fresh:
            inputs = layer_inputs(self.base, fresh, self.layer)
            table = torch.stack([routing_activation(inputs, memory.update) for memory in self.memories])
            for prompt, column in zip(fresh, table.T, strict=True):
                best = int(column.argmax())
                used = float(column[best]) > self.memories[best].threshold
                self._found[prompt] = Route(prompt, str(best)) if used else None
        return [self._found[prompt] for prompt in prompts]

    @contextmanager
    def switched(self, switch: str) -> Iterator[LanguageModel]:
        """The base with W' in place of W."""
        _, ref = late_layer(self.base, self.layer)
        update = self.memories[int(switch)].update
        with replaced_output(ref.module, lambda given, output: output + given @ update.to(given).T):
            yield self.base


class WISEChange(MemoryChange):
    """One side memory, or several."""

    def router(self, model: LanguageModel) -> WISERouter:
        """See :class:`MemoryChange`."""
        tensors = load_tensors(self.folder / TENSORS)
        thresholds = tensors.pop("thresholds").tolist()
        memories = [SideMemory(tensors[f"update.{n}"], threshold) for n, threshold in enumerate(thresholds)]
        return WISERouter(model, memories, int(self.record.measures["layer"]))

    def without(self, ids: Sequence[str], target: Path) -> None:
        """Refused: the edits of a side memory share its entries.

        Raises:
            SettingsError: always.
        """
        del target
        what = f"the edits {', '.join(ids)} cannot be taken out of a side memory that was trained on several"
        mend = "run the edit again without them, or use grace or eren, whose edits can be withdrawn"
        raise SettingsError(what, where=str(self.folder), mend=mend)


@method(
    "wise",
    verb="edit",
    card="knowedit",
    paper="arXiv:2405.14768",
    summary="A trained copy of one layer that is used only where its activation says that a prompt is about an edit.",
    needs=("edits",),
    uses=("keep",),
    forms=("memory",),
)
class WISE(MemoryMethod):
    """Side memory with routing, shards and merging."""

    Settings = WISESettings
    change = WISEChange

    def __init__(self, settings: WISESettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> WISEChange:
        """Train the shards, merge them, find the threshold; ``model`` is not touched."""
        settings = self.settings
        check_edits(edits, "edits")
        layer, ref = late_layer(model, settings.layer)
        asked = unrelated_prompts(settings, edits, keep, run.seed)
        apart = layer_inputs(model, asked, layer)
        near = layer_inputs(model, [edit.prompt for edit in edits], layer)
        weight = ref.matrix.float()
        scale = settings.margin_scale or default_scale(near, weight)
        run.measures |= {"layer": layer, "margin_scale": scale}
        shards = [list(range(start, len(edits), settings.shards)) for start in range(min(settings.shards, len(edits)))]
        updates = []
        with run.progress.task("train shards", len(shards)) as task:
            for number, members in enumerate(shards):
                trainer = _Shard(model, ref, settings, scale, apart, run.seed + number)
                groups = [members] if settings.order == "batch" else [[member] for member in members]
                for group in groups:
                    trainer.train([edits[index] for index in group], [near[index] for index in group])
                updates.append(trainer.update.detach().cpu())
                task.advance(1)
        merged = updates if settings.retrieve or len(updates) == 1 else [ties(updates, settings.density)]
        owners = shards if len(merged) == len(shards) else [list(range(len(edits)))]
        thresholds = [
            settings.threshold_ratio * float(routing_activation([near[i] for i in members], update).min())
            for members, update in zip(owners, merged, strict=True)
        ]
        tensors = {f"update.{number}": update for number, update in enumerate(merged)}
        save_tensors(run.folder / TENSORS, {**tensors, "thresholds": torch.tensor(thresholds, dtype=torch.float64)})
        return WISEChange(run.folder, finish_memory("wise", settings, model, edits, run))


def default_scale(inputs: Sequence[Tensor], weight: Tensor) -> float:
    """The margins' scale: the mean norm of the layer's own output over 20, so that beta is as large as that norm.

    At beta the side memory then adds as much as the layer gives by itself.
    """
    outputs = torch.cat([rows.to(weight) for rows in inputs]) @ weight.T
    return float(outputs.norm(dim=-1).mean()) / 20.0


def unrelated_prompts(settings: WISESettings, edits: Sequence[Edit], keep: RecordSet | None, seed: int) -> list[str]:
    """Prompts that are about none of the edits: of the keep set, else of ``settings.unrelated``."""
    taken = {edit.prompt.casefold() for edit in edits}
    subjects = {edit.subject.casefold() for edit in edits if edit.subject}
    if keep is not None and len(keep):
        facts = [r.prompts[0] for r in keep if isinstance(r, Fact) and r.subject.casefold() not in subjects]
        found = [*facts, *(record.prompt for record in keep if isinstance(record, Example))]
        found = [prompt for prompt in found if prompt.casefold() not in taken][:40]
        if found:
            return found
    return [edit.prompt for edit in other_edits(settings.unrelated, edits, seed=seed)]


class _Shard:
    """W' of one shard while it is trained."""

    def __init__(
        self, model: LanguageModel, ref: Any, settings: WISESettings, scale: float, apart: Sequence[Tensor], seed: int
    ) -> None:
        self.model, self.ref, self.settings, self.apart = model, ref, settings, apart
        self.margins = [scale * value for value in (settings.alpha, settings.beta, settings.gamma)]
        generator = torch.Generator().manual_seed(seed)
        shape = ref.matrix.shape
        self.mask = (torch.rand(shape, generator=generator) < settings.rho).float().to(model.device)
        self.update = torch.zeros(shape, device=model.device).requires_grad_(True)

    def train(self, edits: Sequence[Edit], inputs: Sequence[Tensor]) -> None:
        """SGD on the loss of the targets and the margin loss; only masked entries move, and the best step is kept."""
        batch = TargetBatch.of(self.model, [edit.prompt for edit in edits], [edit.target_new for edit in edits])

        def side(given: Tensor, output: Tensor) -> Tensor:
            return output + (given.float() @ self.update.T).to(output.dtype)

        best, lowest = self.update.detach().clone(), float("inf")
        with evaluating(self.model.model):
            for step in range(self.settings.steps + 1):
                with replaced_output(self.ref.module, side):
                    losses, _right = batch.losses(self.model)
                edited, unrelated = (routing_activation(rows, self.update) for rows in (inputs, self.apart))
                loss = losses.mean() + margin_loss(edited, unrelated, *self.margins)
                if loss.item() < lowest:
                    best, lowest = self.update.detach().clone(), loss.item()
                if step == self.settings.steps or lowest < STOP_LOSS:
                    break
                (gradient,) = torch.autograd.grad(loss, self.update)
                with torch.no_grad():
                    gradient = gradient * self.mask
                    self.update -= self.settings.learning_rate * gradient / gradient.norm().clamp_min(1.0)
        with torch.no_grad():
            self.update.copy_(best)
