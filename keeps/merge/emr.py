"""EMR-Merging: one vector for all fine-tunes, and a bit mask and a number for each; nothing is tuned.

No single set of weights is good at everything that several fine-tunes learned. Huang et al. 2024 (arXiv:2405.17461)
keep one *unified* vector, of every entry the sign that the task vectors elect and the largest size among those that
agree, and for each task which entries it agrees with, and by what its length differs:

    theta_t ~ theta_0 + lambda_t M_t * tau_uni
    M_t = 1[tau_t * tau_uni > 0],    lambda_t = sum |tau_t| / sum |M_t * tau_uni|

A task costs 1 bit a weight, a thirty-second of a copy in float32.

Use when: several fine-tunes shall be served at nearly their own quality and there is neither data nor time to tune a
merge; which task is asked is known, or prompts of each are at hand to tell; many fine-tunes shall be stored in little
more than the room of one.

Needs: fine-tunes of one base, as folders or runs; no data. Which task a prompt belongs to must be said
(``use("law")``), unless a few prompts of each task are given: then a router is trained on the base's own states, as in
Twin-Merging (ours). Guarantees: one fine-tune comes back as it is, to rounding; signs of a task's entries are its own
or zero; the base is untouched, and undoing gives it back bit for bit.

Where paper and code differ: an entry whose task vectors sum to exactly 0 has no sign in the paper and is negative in
the code (``zero_sign=minus``); the code's lambda is a ratio of sums of tensor *means*, in which a norm counts as much
as an embedding (``rescaling=tensors``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import ChangeRecord, Run
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:  # a merge of files imports all merge methods, and no tensor library
    from keeps.models.emr_files import EMRChange
    from keeps.models.fine_tunes import FineTune
    from keeps.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class EMRSettings(Settings):
    """Settings of EMR-Merging: how published paper and code differ, and nothing to tune."""

    zero_sign: str = setting("none", "Sign of entries whose sum is exactly 0", choices=("none", "minus"))
    rescaling: str = setting("elements", "What lengths are summed over", choices=("elements", "tensors"))


@method(
    "emr",
    verb="merge",
    paper="arXiv:2405.17461",
    summary="One vector for all fine-tunes, with a bit mask and a rescaler for each; nothing to tune.",
    card="twin_merging",
    needs=("learn",),
    uses=("texts",),
    forms=("emr",),
)
class EMR:
    """See the top of this file."""

    Settings = EMRSettings
    takes_fine_tunes = True

    def __init__(self, settings: EMRSettings) -> None:
        self.settings = settings

    @classmethod
    def load(cls, folder: Any, record: ChangeRecord) -> EMRChange:
        """The change in ``folder``."""
        from keeps.models.emr_files import EMRChange

        return EMRChange(folder, record)

    def __call__(self, model: LanguageModel, learn: Sequence[FineTune], keep: Any = None, *, run: Run) -> EMRChange:
        """Merge the fine-tunes ``learn`` of ``model`` into ``run.folder``; ``model`` stays as it was.

        Raises:
            SettingsError: no fine-tune, a name twice, or prompts of some tasks and not of others.
            StorageError, ModelLoadError: a fine-tune is missing, damaged, or not one of this base.
        """
        from keeps.models.change_records import write_record
        from keeps.models.emr_files import EMRConfig, write_emr
        from keeps.models.fine_tunes import Deltas, check_fine_tunes, check_prompts
        from keeps.models.merged_files import moved_names
        from keeps.numerics.emr import agreeing, length, packed_mask, unified

        del keep
        started, settings = time.perf_counter(), self.settings
        check_fine_tunes(learn)
        routed = len(learn) > 1 and any(item.asked for item in learn)
        if routed:
            check_prompts(learn, "the router of emr")
        before = model.fingerprint
        tuned = [Deltas(model, item) for item in learn]
        together, masks = {}, [{} for _ in tuned]
        own, shared = [0.0] * len(tuned), [0.0] * len(tuned)
        names = moved_names(model, tuned)
        with run.progress.task("electing, masking", len(names)) as bar:
            for name in names:
                taus = [deltas.of(name) for deltas in tuned]
                vector = unified(taus, zero_sign=settings.zero_sign).to(model.model.get_parameter(name).dtype)
                together[name] = vector.cpu()
                for task, tau in enumerate(taus):
                    mask = agreeing(tau, vector)
                    masks[task][name] = packed_mask(mask)
                    own[task] += length(tau, rescaling=settings.rescaling)
                    shared[task] += length(vector.float() * mask, rescaling=settings.rescaling)
                bar.advance()
        rescalers = tuple(mine / ours if ours else 0.0 for mine, ours in zip(own, shared, strict=True))
        write_emr(run.folder, EMRConfig(tuple(item.name for item in learn), rescalers), together, masks)
        if routed:
            self._train_router(model, learn, run)
        run.measures["rescalers"] = dict(zip((item.name for item in learn), rescalers, strict=True))
        run.measures["merge_seconds"] = time.perf_counter() - started
        data = {item.name: item.fingerprint for item in learn}
        record = write_record("emr", "emr", settings, model, data, run, fingerprint=before)
        return self.load(run.folder, record)

    def _train_router(self, model: LanguageModel, learn: Sequence[FineTune], run: Run) -> None:
        from keeps.models.task_router import write_router
        from keeps.training.task_router import router_of

        learned, report = router_of(model, {item.name: item.asked for item in learn}, seed=run.seed)
        run.measures["router"] = vars(report)
        write_router(run.folder, learned.router, learned.names)
