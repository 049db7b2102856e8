"""Twin-Merging: what fine-tunes share is merged, what each has alone is kept small and mixed per prompt.

One static merge of several fine-tunes loses what they disagree about, and keeping all of them costs as many models.
Twin-Merging (Lu et al. 2024, arXiv:2406.15479) merges them into one *shared expert*, keeps of each the *exclusive*
part that the merge destroyed as a few singular triples, and trains a small router on the shared expert's hidden states:

    theta_s = theta_0 + lambda sum_t (theta_t - theta_0),   v_t = SVD_r(theta_t - theta_s),
    theta*(x) = theta_s + sum_t w_t(x) v_t,                 w(x) = softmax(MLP(mean hidden state of x))

The weights of a prompt are never materialised: a linear layer adds U_t (s_t * V_t^T x), weighed row by row, so that
prompts of different tasks stand in one batch.

Use when: one merge of several fine-tunes loses too much of each; several skills shall be served from one model, and
which one is needed depends on the prompt; keeping every fine-tune in full costs too much disk or memory.

Needs: fine-tunes of one base, as folders or runs of ``keeps adapt``, and some prompts of each task (a few hundred; 4
at least), from which the router learns. Guarantees: undoing it gives the base back bit for bit; with lambda 0 the
shared expert is the base bit for bit; at full rank a weight of one on a task is that fine-tune, to rounding.

Where paper and code differ: the code adds LoRA factors A and B of different tasks as if they were changes; here the
products are added. The code computes the weights of every test item beforehand and chooses the router on the test
set; here prompts are routed when they come, and the router's epoch is chosen on held-out prompts. The code's density
is a share of the rank, which costs about twice that share of a square matrix: ``measures`` has the bytes. Weights are
rounded to multiples of 1 / ``resolution`` (ours), so that prompts with like weights are continued together; 0 turns
that off. Biases and norms are kept exactly, as in the paper; ``exclude`` leaves parameters as the base has them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import ChangeRecord, Run
from keeps.errors import SettingsError, StorageError
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:  # a merge of files imports all merge methods, and no tensor library
    from torch import Tensor

    from keeps.models.fine_tunes import Deltas, FineTune
    from keeps.models.language_model import LanguageModel
    from keeps.models.twin_files import TwinChange
    from keeps.models.twin_layers import Part

SHARED = ("task_arithmetic", "average")


@dataclass(frozen=True, kw_only=True)
class TwinSettings(Settings):
    """Settings of Twin-Merging; the defaults are those of the published code for RoBERTa."""

    shared: str = setting("task_arithmetic", "How the shared expert is merged", choices=SHARED)
    scale: float = setting(0.29, "lambda of task arithmetic; average takes 1 / tasks", ge=-10, le=10)
    density: float = setting(0.1, "Share of the rank that is kept of an exclusive part", gt=0, le=1)
    rank: int | None = setting(None, "Rank of the exclusive parts, instead of density", ge=1)
    energy: float | None = setting(None, "As few triples as hold this share of the energy, instead", gt=0, le=1)
    exclude: tuple[str, ...] = setting((), "Patterns of parameters that stay as the base has them, as lm_head")
    routing: str = setting("soft", "Mix the tasks, or take the most likely one", choices=("soft", "top"))
    resolution: int = setting(20, "Weights are multiples of 1 / resolution; 0: as they come", ge=0, le=1000)
    hidden: int | None = setting(None, "Width of the router's two hidden layers (default: twice the model's)", ge=1)
    epochs: int = setting(50, "Passes of the router over the prompts", ge=1)
    learning_rate: float = setting(5e-4, "Of the router", gt=0, lt=10)
    batch_size: int = setting(1024, "Prompts in a step of the router", ge=2)
    dropout: float = setting(0.5, "In the router, while it is trained", ge=0, lt=1)
    most_prompts: int = setting(3000, "Prompts of a task that are used", ge=4)

    def check(self) -> None:
        """Refuse two ways to choose a rank, and patterns that are none."""
        if self.rank is not None and self.energy is not None:
            raise SettingsError("rank and energy contradict each other", where="twin", mend="give one of them")
        for pattern in self.exclude:
            try:
                re.compile(pattern)
            except re.error as error:
                mend = "give a regular expression, such as lm_head"
                raise SettingsError(f'"{pattern}" is no pattern ({error})', where="exclude", mend=mend) from None

    def left_out(self, name: str) -> bool:
        """Whether a parameter stays as the base has it."""
        return any(re.search(pattern, name) for pattern in self.exclude)


@method(
    "twin",
    verb="merge",
    paper="arXiv:2406.15479",
    summary="One shared expert, a small exclusive part of each fine-tune, and a router that mixes them per prompt.",
    card="twin_merging",
    needs=("learn",),
    forms=("twin", "merged"),
)
class Twin:
    """See the top of this file."""

    Settings = TwinSettings
    takes_fine_tunes = True

    def __init__(self, settings: TwinSettings) -> None:
        self.settings = settings

    @classmethod
    def load(cls, folder: Any, record: ChangeRecord) -> TwinChange:
        """The change in ``folder``."""
        from keeps.models.twin_files import TwinChange

        return TwinChange(folder, record)

    def __call__(self, model: LanguageModel, learn: Sequence[FineTune], keep: Any = None, *, run: Run) -> TwinChange:
        """Merge the fine-tunes ``learn`` of ``model``, write the twin to ``run.folder``, give ``model`` back as it was.

        Raises:
            SettingsError: no fine-tune, a name twice, or too few prompts of a task.
            StorageError, ModelLoadError: a fine-tune is missing, damaged, or not one of this base.
            TargetError: a parameter that was moved cannot be mixed row by row.
        """
        from keeps.models.fine_tunes import Deltas, check_fine_tunes
        from keeps.models.twin_files import TwinConfig, placed, write_twin

        del keep
        started = time.perf_counter()
        check_fine_tunes(learn)
        self._check_prompts(learn)
        before = model.fingerprint
        tuned = [Deltas(model, item) for item in learn]
        shared, parts = self.parted(model, tuned, run)
        config = TwinConfig(tuple(item.name for item in learn), self.settings.routing, self.settings.resolution)
        write_twin(run.folder, config, shared, parts)
        if len(learn) > 1:
            with placed(model.model, shared, run.folder):
                self._train_router(model, learn, run)
        run.measures["merge_seconds"] = time.perf_counter() - started
        return self._finished(model, learn, before, run)

    def parted(
        self, model: LanguageModel, tuned: Sequence[Deltas], run: Run
    ) -> tuple[dict[str, Tensor], list[dict[str, Part]]]:
        """theta_s where it differs from the base, and v_t of each task: low rank of matrices, vectors as they are."""
        from keeps.numerics.twin import leading, shared_expert

        settings = self.settings
        scale = settings.scale if settings.shared == "task_arithmetic" else 1 / len(tuned)
        parameters = dict(model.model.named_parameters())
        names = [name for name in parameters if any(name in deltas.names for deltas in tuned)]
        names = [name for name in names if not settings.left_out(name)]
        if not names:
            raise SettingsError("no fine-tune moved anything that is merged", mend="check the folders, and exclude")
        shared: dict[str, Tensor] = {}
        parts: list[dict[str, Part]] = [{} for _ in tuned]
        error = total = 0.0
        with run.progress.task("parting shared from exclusive", len(names)) as bar:
            for name in names:
                base = parameters[name].detach()
                taus = [deltas.of(name) for deltas in tuned]
                together = shared_expert(base, taus, scale)
                shared[name] = together.cpu()
                moved = together.float() - base.float()
                for part, tau in zip(parts, taus, strict=True):
                    residual = (tau - moved).cpu()
                    if residual.dim() == 1:
                        part[name] = residual
                        continue
                    low = leading(residual, rank=settings.rank, density=settings.density, energy=settings.energy)
                    part[name] = low
                    error += float((residual - low.product).square().sum())
                    total += float(residual.square().sum())
                bar.advance()
        run.measures["exclusive_error"] = (error / total) ** 0.5 if total else 0.0
        return shared, parts

    def _check_prompts(self, learn: Sequence[FineTune]) -> None:
        if len(learn) == 1:
            return
        for item in learn:
            if len(item.asked) < 4:
                what = f'"{item.name}" has {len(item.asked)} prompts, from which no router can learn'
                raise SettingsError(
                    what, where="prompts", mend="give some prompts of every task; a few hundred are good"
                )

    def _train_router(self, model: LanguageModel, learn: Sequence[FineTune], run: Run) -> None:
        from keeps.models.task_router import write_router
        from keeps.training.task_router import router_of

        settings = self.settings
        learned, report = router_of(
            model,
            {item.name: item.asked[: settings.most_prompts] for item in learn},
            hidden=settings.hidden,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            dropout=settings.dropout,
            seed=run.seed,
        )
        run.measures["router"] = vars(report)
        run.progress.message(
            f"router: {report.accuracy:.1%} of {report.held_out} held-out prompts, epoch {report.epoch}"
        )
        write_router(run.folder, learned.router, learned.names)

    def _finished(self, model: LanguageModel, learn: Sequence[FineTune], before: str, run: Run) -> TwinChange:
        from keeps.models.change_records import write_record
        from keeps.weights.files import folder_size

        if model.fingerprint != before:
            raise StorageError("the model is not as it was before the merge", mend="load it again")
        run.measures["bytes"] = {path.name: folder_size(path) for path in sorted(run.folder.glob("*.safetensors"))}
        data = {item.name: item.fingerprint for item in learn}
        record = write_record("twin", "twin", self.settings, model, data, run, fingerprint=before)
        return self.load(run.folder, record)
