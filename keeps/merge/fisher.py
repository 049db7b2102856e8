"""Fisher merging: an average in which every weight counts as much as its model depends on it.

A plain average treats all weights of all models alike. Matena and Raffel 2022 (arXiv:2111.09832) read each fine-tune as
a normal approximation to a posterior, with the diagonal of its Fisher information as the precision; the mean of these
posteriors is an average weighed entry by entry,

    theta_j = sum_t c_t F_tj theta_tj / sum_t c_t F_tj,    F_t = E_x E_(y ~ p_t(y | x)) (d log p_t(y | x) / d theta)^2

Use when: an average of fine-tunes loses what one of them is good at; a few examples of each task are at hand, and no
time to train; models of the same base contradict each other in weights that only one of them needs.

Needs: fine-tunes of one base, as folders or runs, and records of each task (a few hundred; running text will do). One
backward pass an example. Guarantees: with equal Fisher information it is the plain average; what no fine-tune moved
keeps the base's bits; the result is an ordinary transformers checkpoint, and the model is given back as it was.

Where paper and code differ: labels of classifiers are summed over in the code; a vocabulary is too wide for that, so
they are drawn from the model, which is the same in expectation (``labels=sampled``); ``labels=data`` is the empirical
Fisher information that many re-implementations take. The code raises only the first model's F to the floor, so that
entries that nobody depends on are the first model's (``floored=first``), and divides each F by its norm
(``normalise``), which is wanted where the losses of tasks differ in scale. Where nearly all entries
lie below the published floor of 1e-6, as those of a model that is sure of its answers may, the merge is a plain
average: the share of entries above it is measured (``above_floor``), and said where it is small.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import Run
from keeps.errors import SettingsError
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:  # a merge of files imports all merge methods, and no tensor library
    from torch import Tensor

    from keeps.models.changes import CheckpointChange
    from keeps.models.fine_tunes import Deltas, FineTune
    from keeps.models.language_model import LanguageModel


FEW = 0.05  # share of the entries above the floor below which the floor decides the merge


@dataclass(frozen=True, kw_only=True)
class FisherSettings(Settings):
    """Settings of Fisher merging."""

    weights: tuple[float, ...] = setting((), "Coefficient c of each model, above 0; none: 1 each")
    examples: int = setting(256, "Examples of each task that the Fisher information is averaged over", ge=1)
    labels: str = setting("sampled", "Labels drawn from the model, or those of the data", choices=("sampled", "data"))
    draws: int = setting(1, "Labels drawn for each example", ge=1, le=1000)
    floor: float = setting(1e-6, "Least Fisher information of an entry", gt=0, lt=1)
    floored: str = setting("all", "Which models' entries are raised to the floor", choices=("all", "first"))
    normalise: bool = setting(False, "Divide each model's Fisher information by its norm over the whole model")

    def check(self) -> None:
        """Refuse draws that nobody makes."""
        if self.labels == "data" and self.draws != 1:
            mend = "leave draws out, or take labels=sampled"
            raise SettingsError("the labels of the data are not drawn", where="draws", mend=mend)


@method(
    "fisher",
    verb="merge",
    paper="arXiv:2111.09832",
    summary="Averages each weight by how much its model depends on it.",
    card="twin_merging",
    needs=("learn", "texts"),
    forms=("merged",),
)
class Fisher:
    """See the top of this file."""

    Settings = FisherSettings
    takes_fine_tunes = True

    def __init__(self, settings: FisherSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, learn: Sequence[FineTune], keep: Any = None, *, run: Run
    ) -> CheckpointChange:
        """Merge the fine-tunes ``learn`` of ``model`` into a checkpoint in ``run.folder``; ``model`` stays as it was.

        Raises:
            SettingsError: no fine-tune, a name twice, no records of a task, or wrong weights.
            StorageError, ModelLoadError: a fine-tune is missing, damaged, or not one of this base.
            StatisticsError: a gradient is not finite.
        """
        import torch

        from keeps.models.fine_tunes import Deltas, check_fine_tunes, check_records
        from keeps.models.merged_files import coefficients_of, moved_by, moved_names, write_merged
        from keeps.numerics.fisher import norm_of, precision, share_above

        del keep
        started, settings = time.perf_counter(), self.settings
        check_fine_tunes(learn)
        check_records(learn, "fisher")
        coefficients = coefficients_of(settings.weights, len(learn))
        tuned = [Deltas(model, item) for item in learn]
        parameters = dict(model.model.named_parameters())
        names = moved_names(model, tuned)
        top = {name: torch.zeros_like(parameters[name], dtype=torch.float32) for name in names}
        bottom = {name: torch.zeros_like(total) for name, total in top.items()}
        norms, above = {}, {}
        for number, (item, deltas) in enumerate(zip(learn, tuned, strict=True)):
            found = self.information(model, item, deltas, run)
            norms[item.name] = norm_of(found.values())
            above[item.name] = share_above(found.values(), settings.floor)
            floor = settings.floor if settings.floored == "all" or number == 0 else 0.0
            scale = {"floor": floor, "norm": norms[item.name] if settings.normalise else 1.0}
            for name in names:
                weight = precision(found.pop(name), coefficients[number], **scale)
                top[name] += weight * deltas.of(name)
                bottom[name] += weight
        values = {name: moved_by(parameters[name].detach(), top[name] / bottom[name]) for name in names}
        run.measures |= {"fisher_norms": norms, "above_floor": above, "merge_seconds": time.perf_counter() - started}
        if max(above.values()) < FEW:
            what = f"at most {max(above.values()):.1%} of the entries have more Fisher information than the floor"
            run.progress.message(f"{what}: this is nearly the plain average; lower floor, such as to 1e-12")
        return write_merged(model, values, learn, method="fisher", settings=settings, run=run)

    def information(self, model: LanguageModel, item: FineTune, deltas: Deltas, run: Run) -> dict[str, Tensor]:
        """The diagonal of one fine-tune's Fisher information by parameter, float32, on records of its task."""
        from keeps.models.adapters import overwritten
        from keeps.models.merged_files import tuned_values
        from keeps.training.examples import some, tokenise
        from keeps.training.fisher_information import diagonal_fisher

        assert item.records is not None
        examples = some(tokenise(model, item.records), self.settings.examples, run.seed)
        parameters = dict(model.model.named_parameters())
        with (
            overwritten(parameters, tuned_values(model, deltas)),
            run.progress.task(f"Fisher information of {item.name}", len(examples)) as bar,
        ):
            return diagonal_fisher(
                model.model,
                examples,
                pad_token_id=model.encoder.pad_token_id,
                labels=self.settings.labels,
                draws=self.settings.draws,
                seed=run.seed,
                advance=lambda: bar.advance(1),
            )
