"""EVA: start LoRA's A from what the layer's inputs are made of (Paischer et al. 2024, arXiv:2410.07170).

    X^T X = V L V^T over the answer tokens of the learn set,   A = V[:, :r]^T,   B = 0,   W untouched

The adapter reads the directions that carry most of the task's activations. Ranks are then shared out over the
layers by the share of energy that a component explains: a layer whose inputs lie in few directions needs few.
No layer gets more than rho times the rank, and one may get none.

Use when: the adapter's parameters should go to the layers where the new data is rich; a start from data
should leave the base untouched, so that the adapter keeps its rank.

Needs: facts, examples or texts to learn. Guarantees: step 0 equals the base exactly; the ranks sum to at most
that of one rank for all. Nothing protects what the model knew.

The paper decomposes batch after batch and stops where the singular vectors agree. Here X^T X is summed in
float64 over ``samples`` examples and decomposed once: that is what the batches converge to, without a
threshold. ``centred`` subtracts the mean of the inputs first, as the incremental decomposition of the
published code does; the paper decomposes them as they are. Prompt tokens, on which no loss is taken, are
left out, as there; ``use_prompts`` counts them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import StorageError
from keeps.models.covariances import collect_covariance
from keeps.models.language_model import LanguageModel
from keeps.models.targets import find_targets, layer_ranks
from keeps.numerics.covariance import Covariance
from keeps.numerics.oriented import AdapterStart
from keeps.numerics.starts import principal_inputs, redistributed
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import START_FILE, AdapterSettings
from keeps.training.batches import TokenizedExample, collate
from keeps.training.examples import tokenise
from keeps.training.initialised import InitialisedAdapter


@dataclass(frozen=True, kw_only=True)
class EVASettings(AdapterSettings):
    """Settings of EVA."""

    samples: int = setting(256, "Examples of the learn set whose activations are read, at most", ge=1)
    rho: float = setting(2.0, "A layer gets at most rho times the rank; 1 gives every layer the same", ge=1)
    centred: bool = setting(False, "Subtract the inputs' mean before they are decomposed, as the published code does")
    use_prompts: bool = setting(False, "Read the prompt's tokens too, on which no loss is taken")


@method(
    "eva",
    verb="adapt",
    paper="arXiv:2410.07170",
    summary="LoRA whose A reads the directions of the task's activations, ranks shared out by what they explain.",
    card="corda",
    needs=("learn",),
    forms=("lora", "merged"),
)
class EVA(InitialisedAdapter):
    """Explained variance adaptation."""

    Settings = EVASettings
    settings: EVASettings

    def starts(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None, run: Run
    ) -> dict[str, AdapterStart]:
        """The leading input directions of every layer that is given a rank, and B = 0."""
        del keep
        layers = find_targets(model.model, self.settings.targets)
        most = self.most(model)
        directions: dict[str, Tensor] = {}
        shares: dict[str, Tensor] = {}
        seen: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # layers that read one input share its directions
        for name, covariance in self.covariances(model, learn, run).items():
            key = (id(covariance), most[name])
            if key not in seen:
                moment = covariance.centred() if self.settings.centred else covariance.matrix()
                seen[key] = principal_inputs(moment, most[name])
            directions[name], shares[name] = seen[key]
        budget = self.budget(model)
        ranks = redistributed(shares, budget)
        spent = sum(ranks.values())
        if spent < budget:
            run.progress.message(
                f"{spent} of {budget} ranks are used: the inputs of {learn.source} have no more directions"
            )
        run.measures["largest_rank"] = max(ranks.values())
        run.measures["layers_without_adapter"] = sum(rank == 0 for rank in ranks.values())
        return {
            name: AdapterStart(
                directions[name][:rank].clone(),
                torch.zeros(layers[name].out_features, rank, dtype=torch.float64, device=directions[name].device),
                shares[name][:rank].clone(),
            )
            for name, rank in ranks.items()
            if rank
        }

    def covariances(self, model: LanguageModel, learn: RecordSet, run: Run) -> Mapping[str, Covariance]:
        """The second moment of each layer's inputs over at most ``samples`` examples, in float64."""
        examples = tokenise(model, learn)
        random.Random(run.seed).shuffle(examples)
        examples = sorted(examples[: self.settings.samples], key=lambda example: -len(example.input_ids))
        size = self.settings.batch_size
        batches = [
            _batch(examples[start : start + size], model.encoder.pad_token_id, prompts=self.settings.use_prompts)
            for start in range(0, len(examples), size)
        ]
        options = {"dtype": torch.float64, "means": self.settings.centred, "run": run, "total": len(batches)}
        found = collect_covariance(model.model, batches, self.settings.targets, "none", **options)
        run.measures["calibration_tokens"] = next(iter(found.values())).n_tokens
        return found

    def most(self, model: LanguageModel) -> dict[str, int]:
        """The largest rank that each layer may get: rho times its own, if that fits."""
        layers = find_targets(model.model, self.settings.targets)
        ranks = layer_ranks(layers, self.settings.rank, self.settings.rank_pattern)
        sides = {name: min(layer.out_features, layer.in_features) for name, layer in layers.items()}
        return {name: min(round(self.settings.rho * rank), sides[name]) for name, rank in ranks.items()}

    def budget(self, model: LanguageModel) -> int:
        """The sum of the ranks that the settings name."""
        layers = find_targets(model.model, self.settings.targets)
        return sum(layer_ranks(layers, self.settings.rank, self.settings.rank_pattern).values())

    def layout(self, model: LanguageModel, starts: Mapping[str, AdapterStart], run: Run) -> AdapterSettings:
        """The layers and ranks of the starts.

        Raises:
            StorageError: an interrupted run left starts that these settings cannot have given.
        """
        ranks = {name: len(start.values) for name, start in starts.items()}
        most = self.most(model)
        if any(rank > most.get(name, 0) for name, rank in ranks.items()) or sum(ranks.values()) > self.budget(model):
            raise StorageError(
                "the interrupted run started from other layers or ranks",
                where=str(run.folder / START_FILE),
                mend="repeat its settings and model, or start anew without --resume",
            )
        return replace(self.settings, targets=tuple(ranks), rank_pattern=ranks)


def _batch(examples: list[TokenizedExample], pad_token_id: int, *, prompts: bool) -> dict[str, Tensor]:
    """Inputs of the model, and which of their tokens are counted."""
    batch = collate(examples, pad_token_id)
    counted = batch.attention_mask.clone()
    if not prompts:
        for row, example in enumerate(examples):
            counted[row, : example.answer_start] = 0
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "counted": counted}
