"""AdaMerging: how much of each task vector is added, layer by layer, learned without a label.

One scale for all of task arithmetic is too coarse, and to search for one a layer and task needs labels. Yang et al.
2024 (arXiv:2310.02575) found that the entropy of a merged model's predictions falls and rises with its loss, and
minimise it over the coefficients on unlabelled inputs of every task:

    theta^l = theta_0^l + sum_t lambda_t^l tau_t^l,       min_lambda sum_t mean_x H(p_theta(y | x)),  x of task t

Only the coefficients are trained, from 0.3; for a decoder H is the entropy of the next token behind each prompt. Their
gradient is that of the weights, projected: d H / d lambda_t^l = <d H / d theta^l, tau_t^l>.

Use when: task arithmetic with one scale leaves some tasks behind; there are prompts of each task and no answers to
them; a static merge may take as long as a short training run.

Needs: fine-tunes of one base, as folders or runs, and prompts of each task (some tens at least); memory for one copy
of the weights a task; two passes a step. Guarantees: without steps it is task arithmetic; what no fine-tune moved
keeps the base's bits; the result is an ordinary transformers checkpoint, and the model is given back as it was. Low
entropy is not truth: a model can be sure and wrong, so probe what comes out.

Where paper and code differ: the code learns a coefficient a *tensor* and calls it a layer (``level=tensor``; here
``layer`` is a block), keeps coefficients within 0 and 1 (``clamp``), and takes two batches a task and step.
AdaMerging++ trims the task vectors first (``density``, over the whole model, 0.2 in the paper).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import Run
from keeps.errors import TrainingError
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:  # a merge of files imports all merge methods, and no tensor library
    from torch import Tensor

    from keeps.models.changes import CheckpointChange
    from keeps.models.fine_tunes import FineTune
    from keeps.models.language_model import LanguageModel

LEVELS = ("layer", "tensor", "task")


@dataclass(frozen=True, kw_only=True)
class AdaMergingSettings(Settings):
    """Settings of AdaMerging; the defaults are the published ones."""

    level: str = setting("layer", "What has a coefficient of its own: a block, a tensor, or a task", choices=LEVELS)
    start: float = setting(0.3, "Coefficient that all begin with", ge=-10, le=10)
    steps: int = setting(500, "Steps; 0 is task arithmetic with start as its scale", ge=0)
    batch_size: int = setting(16, "Prompts of each task in a step", ge=1)
    learning_rate: float = setting(1e-3, "Of Adam, for the coefficients", gt=0, lt=10)
    density: float = setting(1.0, "Share of each task vector that is kept, the largest (AdaMerging++: 0.2)", gt=0, le=1)
    clamp: bool = setting(False, "Keep the coefficients within 0 and 1, as the published code does")


def group_of(name: str, level: str) -> str:
    """What a parameter shares its coefficients with.

    >>> group_of("model.layers.3.mlp.up_proj.weight", "layer"), group_of("model.embed_tokens.weight", "layer")
    ('block 3', 'model.embed_tokens')
    """
    if level == "task":
        return "all"
    block = re.search(r"\.(\d+)\.", name)
    if level == "tensor":
        return name
    return f"block {block.group(1)}" if block else name.rpartition(".")[0]


@method(
    "adamerging",
    verb="merge",
    paper="arXiv:2310.02575",
    summary="Learns how much of each task vector each layer gets, from unlabelled prompts.",
    card="twin_merging",
    needs=("learn", "texts"),
    forms=("merged",),
)
class AdaMerging:
    """See the top of this file."""

    Settings = AdaMergingSettings
    takes_fine_tunes = True

    def __init__(self, settings: AdaMergingSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, learn: Sequence[FineTune], keep: Any = None, *, run: Run
    ) -> CheckpointChange:
        """Merge the fine-tunes ``learn`` of ``model`` into a checkpoint in ``run.folder``; ``model`` stays as it was.

        Raises:
            SettingsError: no fine-tune, a name twice, or no prompts of a task.
            StorageError, ModelLoadError: a fine-tune is missing, damaged, or not one of this base.
            ContextLengthError: a prompt is longer than the context.
            TrainingError: the entropy is not finite.
        """
        from keeps.models.fine_tunes import check_fine_tunes, check_prompts
        from keeps.models.merged_files import moved_by, write_merged

        del keep
        started = time.perf_counter()
        check_fine_tunes(learn)
        if self.settings.steps:
            check_prompts(learn, "adamerging")
        taus = self.task_vectors(model, learn)
        groups = {name: group_of(name, self.settings.level) for name in taus}
        table = self.trained(model, learn, taus, groups, run)
        parameters = dict(model.model.named_parameters())
        updates = {name: mixed(taus[name], table[groups[name]]) for name in taus}
        values = {name: moved_by(parameters[name].detach(), update) for name, update in updates.items()}
        run.measures["coefficients"] = {
            group: dict(zip((item.name for item in learn), row.tolist(), strict=True)) for group, row in table.items()
        }
        run.measures["merge_seconds"] = time.perf_counter() - started
        return write_merged(model, values, learn, method="adamerging", settings=self.settings, run=run)

    def task_vectors(self, model: LanguageModel, learn: Sequence[FineTune]) -> dict[str, list[Tensor]]:
        """tau_t of every parameter that some fine-tune moved, one a task, float32; trimmed where that is asked for."""
        from keeps.models.fine_tunes import Deltas
        from keeps.models.merged_files import moved_names
        from keeps.numerics.ties import smallest_kept

        tuned = [Deltas(model, item) for item in learn]
        taus = {name: [deltas.of(name) for deltas in tuned] for name in moved_names(model, tuned)}
        if self.settings.density < 1:
            for task in range(len(tuned)):
                least = smallest_kept([each[task] for each in taus.values()], self.settings.density)
                for each in taus.values():
                    each[task].masked_fill_(each[task].abs() < least, 0.0)
        return taus

    def trained(
        self,
        model: LanguageModel,
        learn: Sequence[FineTune],
        taus: Mapping[str, Sequence[Tensor]],
        groups: Mapping[str, str],
        run: Run,
    ) -> dict[str, Tensor]:
        """The coefficients of each group, ``(tasks,)`` float32 on the CPU."""
        import torch

        from keeps.models.adapters import copy_into, untrained
        from keeps.models.projection import evaluating
        from keeps.training.batches import stable_seed

        settings, row = self.settings, {group: place for place, group in enumerate(dict.fromkeys(groups.values()))}
        table = torch.full((len(row), len(learn)), settings.start)
        if settings.steps == 0:
            return {group: table[place] for group, place in row.items()}
        asked = [self._encoded(model, item) for item in learn]
        parameters = {name: model.model.get_parameter(name) for name in taus}
        base = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        optimiser = torch.optim.Adam([table.requires_grad_(True)], lr=settings.learning_rate)
        chance = torch.Generator().manual_seed(stable_seed("adamerging", run.seed))
        with ExitStack() as stack:
            stack.callback(copy_into, parameters, base)
            stack.callback(lambda: [setattr(parameter, "grad", None) for parameter in parameters.values()])
            stack.enter_context(untrained(model.model))
            stack.enter_context(evaluating(model.model))
            bar = stack.enter_context(run.progress.task("learning coefficients", settings.steps))
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            for step in range(1, settings.steps + 1):
                now = table.detach()
                for name, each in taus.items():
                    value = base[name].float() + mixed(each, now[row[groups[name]]])
                    copy_into(parameters, {name: value})
                    parameters[name].grad = None
                found = self._entropy(model, asked, chance)
                if not math.isfinite(found):
                    mend = "lower learning_rate or start"
                    raise TrainingError("the entropy is not finite", where=f"step {step}", mend=mend)
                table.grad = torch.zeros_like(table)
                for name, each in taus.items():
                    table.grad[row[groups[name]]] += projected(parameters[name].grad, each)
                optimiser.step()
                if settings.clamp:
                    with torch.no_grad():
                        table.clamp_(0, 1)
                run.log(step, entropy=found)
                run.measures.setdefault("first_entropy", found)
                run.measures["last_entropy"] = found
                bar.note(f"entropy {found:.3f}")
                bar.advance(1)
        return {group: table.detach()[place] for group, place in row.items()}

    def _encoded(self, model: LanguageModel, item: FineTune) -> list[list[int]]:
        from keeps.models.checks import check_context, located

        rows = [located(number, model.encode_prompt, prompt) for number, prompt in enumerate(item.asked)]
        for number, (prompt, ids) in enumerate(zip(item.asked, rows, strict=True)):
            check_context(number, prompt, len(ids), model.context_length, model.name)
        return rows

    def _entropy(self, model: LanguageModel, asked: Sequence[Sequence[Sequence[int]]], chance: Any) -> float:
        """Entropy behind a batch of prompts of each task, in nats, averaged over prompts and tasks.

        The gradient of its sum over the tasks is left in the weights, as in the published code.
        """
        import torch

        from keeps.models.batching import pad_right
        from keeps.models.projection import last_logits
        from keeps.numerics.logit_arithmetic import entropy

        total = 0.0
        for prompts in asked:
            chosen = torch.randperm(len(prompts), generator=chance)[: self.settings.batch_size].tolist()
            rows = [prompts[place] for place in chosen]
            ids, mask = pad_right(rows, model.encoder.pad_token_id, model.device)
            logits = last_logits(model.model, ids, mask).float()
            mean = entropy(logits, torch.ones_like(logits, dtype=torch.bool)).mean()
            mean.backward()
            total += float(mean.detach())
        return total / len(asked)


def projected(gradient: Tensor | None, taus: Sequence[Tensor]) -> Tensor:
    """<d H / d theta, tau_t> of each task, ``(tasks,)`` float32 on the CPU; 0 where nothing depends on the weights."""
    import torch

    if gradient is None:
        return torch.zeros(len(taus))
    return torch.tensor([float((gradient.float() * tau).sum(dtype=torch.float64)) for tau in taus])


def mixed(taus: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """sum_t lambda_t tau_t, float32."""
    import torch

    total = torch.zeros_like(taus[0], dtype=torch.float32)
    for tau, coefficient in zip(taus, coefficients.tolist(), strict=True):
        total += coefficient * tau
    return total
