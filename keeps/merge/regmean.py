"""RegMean: the linear layers that are nearest to every model on that model's own inputs, in closed form.

What a linear layer does to the inputs that it sees matters, not its entries. Jin et al. 2023 ("Dataless Knowledge
Fusion by Merging Weights of Language Models", arXiv:2212.09849) take for each linear layer the map with the least
squared error against every fine-tune on that fine-tune's inputs X_t:

    W = argmin_W sum_t ||X_t W - X_t W_t||^2 = (sum_t G_t)^-1 sum_t G_t W_t,      G_t = X_t^T X_t

Inputs of later layers depend on the merge itself, so the off-diagonal entries of G_t are multiplied by ``alpha``; 0
leaves a weighted average of rows. All other parameters (embeddings, head, norms, biases) are averaged.

Use when: a plain average of fine-tunes loses much, and texts of each task are at hand, with no time to train; you
want a static merge with a closed form and one setting; gradients are too dear (only forward passes are needed).

Needs: fine-tunes of one base, as folders or runs, and records of each task (some hundred; no labels are read). One
forward pass over them, and memory for the Gram matrices of all linear layers. Guarantees: the normal equations are
solved in float64; layers that no input reached are averaged; what no fine-tune moved keeps the base's bits; the result
is an ordinary transformers checkpoint, and the model is given back as it was.

Where paper and code differ: G_t is a sum over tokens in the paper, so that a task with more text counts for more; the
code takes the mean (``per_token``). The code reduces off-diagonals by the same alpha, 0.9 by default and 0.1 for T5.
The minimiser that is taken where inputs leave directions out is the one nearest to the average.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import Run
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:  # a merge of files imports all merge methods, and no tensor library
    from torch import Tensor

    from keeps.models.changes import CheckpointChange
    from keeps.models.fine_tunes import Deltas, FineTune
    from keeps.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class RegMeanSettings(Settings):
    """Settings of RegMean."""

    alpha: float = setting(0.9, "Factor of the off-diagonal entries of the Gram matrices (0.1 for T5)", ge=0, le=1)
    examples: int = setting(1000, "Examples of each task that inputs are taken from", ge=1)
    per_token: bool = setting(False, "Divide each Gram matrix by its tokens, so that all tasks count alike")


@method(
    "regmean",
    verb="merge",
    paper="arXiv:2212.09849",
    summary="For each linear layer the map nearest to every model on that model's own inputs.",
    card="twin_merging",
    needs=("learn", "texts"),
    forms=("merged",),
)
class RegMean:
    """See the top of this file."""

    Settings = RegMeanSettings
    takes_fine_tunes = True

    def __init__(self, settings: RegMeanSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, learn: Sequence[FineTune], keep: Any = None, *, run: Run
    ) -> CheckpointChange:
        """Merge the fine-tunes ``learn`` of ``model`` into a checkpoint in ``run.folder``; ``model`` stays as it was.

        Raises:
            SettingsError: no fine-tune, a name twice, or no records of a task.
            StorageError, ModelLoadError: a fine-tune is missing, damaged, or not one of this base.
            StatisticsError: a layer sees something that is not finite.
        """
        import torch

        from keeps.models.fine_tunes import Deltas, check_fine_tunes, check_records
        from keeps.models.merged_files import moved_by, moved_names, write_merged

        del keep
        started = time.perf_counter()
        check_fine_tunes(learn)
        check_records(learn, "regmean")
        tuned = [Deltas(model, item) for item in learn]
        parameters = dict(model.model.named_parameters())
        names = moved_names(model, tuned)
        updates: dict[str, Tensor] = {}
        for name in names:
            updates[name] = torch.stack([deltas.of(name) for deltas in tuned]).mean(0)
        updates |= self.regressed(model, learn, tuned, names, run)
        values = {name: moved_by(parameters[name].detach(), updates[name]) for name in names}
        run.measures["merge_seconds"] = time.perf_counter() - started
        return write_merged(model, values, learn, method="regmean", settings=self.settings, run=run)

    def regressed(
        self,
        model: LanguageModel,
        learn: Sequence[FineTune],
        tuned: Sequence[Deltas],
        names: Sequence[str],
        run: Run,
    ) -> dict[str, Tensor]:
        """What is added to the weight of every linear layer that was moved, float32 in its own layout.

        Layers that read the same input share a Gram matrix, and are solved for together.
        """
        import torch

        from keeps.models.locate import is_linear, is_transposed
        from keeps.numerics.regression_fusion import damped, least_squares_update

        module: Any = model.model
        head = module.get_output_embeddings()
        linear = {
            f"{name}.weight": layer
            for name, layer in module.named_modules()
            if is_linear(layer) and layer is not head and f"{name}.weight" in names
        }
        turned = {name: is_transposed(layer) for name, layer in linear.items()}
        grams: dict[str, Tensor] = {}  # of the first layer of a group -> sum of Gram matrices
        rights: dict[str, Tensor] = {}  # layer -> sum of G_t tau_t, (in, out)
        groups: dict[str, str] = {}  # layer -> first layer of its group
        for item, deltas in zip(learn, tuned, strict=True):
            found = self._covariances(model, item, deltas, linear, run)
            first = {id(covariance): name for name, covariance in reversed(found.items())}
            for name, covariance in found.items():
                leader = groups.setdefault(name, first[id(covariance)])
                tokens = covariance.n_tokens if self.settings.per_token else 1
                gram = damped(covariance.total / max(1, tokens), self.settings.alpha)
                if leader == name:
                    grams[name] = grams[name] + gram if name in grams else gram
                delta = deltas.of(name).double()
                right = gram @ (delta if turned[name] else delta.T)
                rights[name] = rights[name] + right if name in rights else right
        updates = {}
        with run.progress.task("regression", len(grams)) as bar:
            for leader, gram in grams.items():
                members = [name for name in linear if groups[name] == leader]
                mean = torch.cat([self._mean(tuned, name, turned[name]) for name in members], 1)
                solved = least_squares_update(
                    mean, gram, torch.cat([rights.pop(name) for name in members], 1), alpha=self.settings.alpha
                )
                widths = [linear[name].weight.shape[1 if turned[name] else 0] for name in members]
                for name, part in zip(members, solved.split(widths, 1), strict=True):
                    updates[name] = (part if turned[name] else part.T).float().contiguous()
                bar.advance()
        run.measures["regressed_layers"] = len(updates)
        return updates

    def _mean(self, tuned: Sequence[Deltas], name: str, turned: bool) -> Tensor:
        """The mean difference, float64 ``(in, out)``."""
        import torch

        mean = torch.stack([deltas.of(name).double() for deltas in tuned]).mean(0)
        return mean if turned else mean.T

    def _covariances(self, model: LanguageModel, item: FineTune, deltas: Deltas, linear: Any, run: Run) -> Any:
        """X^T X of every layer in one fine-tune, float64, by the name of its weight."""
        import torch

        from keeps.models.adapters import overwritten
        from keeps.models.covariances import collect_covariance, token_batches
        from keeps.models.merged_files import tuned_values
        from keeps.training.examples import some, tokenise

        assert item.records is not None
        examples = some(tokenise(model, item.records), self.settings.examples, run.seed)
        rows = [example.input_ids for example in examples]
        batches = token_batches(rows, pad_token_id=model.encoder.pad_token_id)
        with overwritten(dict(model.model.named_parameters()), tuned_values(model, deltas)):
            return collect_covariance(
                model.model,
                batches,
                normalise="none",
                dtype=torch.float64,
                layers=linear,
                run=run,
                total=len(batches),
            )
