"""CorDA: start LoRA from the model's own weights, oriented by data (Yang et al. 2024, arXiv:2406.05223).

A few hundred unlabelled samples run through the frozen model and leave, for each layer, the
covariance C of its inputs. The decomposition W C' = U S V^T orders the weight's components by how
much that context uses them. *Knowledge-preserved mode* (``kpm``) trains the r components that the
keep set uses least; *instruction-previewed mode* (``ipm``) trains the r components that the learn set
uses most. Everything else is frozen. The result is an ordinary LoRA of rank 2r for the untouched base.

Use when: fine-tuning makes a model forget facts that it knew; the model must keep what it knows while it
learns something new; a task should be learned in as few steps as possible.

Needs: data to learn; for ``kpm`` also data to keep. Guarantees: step 0 equals the base to rounding.

From the follow-up CorDA++ (arXiv:2506.13187) come two settings. ``candidates`` collects several covariances
from different draws of the samples, and each layer takes the one with the most compact spectrum.
``rank_allocation="compactness"`` shares ranks out over the layers by the same score, so that the number of
*trained parameters* does not exceed that of one rank for all. The score (the exact one of the paper was not at
hand) is the share of the sum of squared singular values that the adapter's components hold in ``ipm``,
and leave to the others in ``kpm``. ``keeps adapt --spectrum`` shows it for every layer without training.

Where the paper and its code differ: the paper writes C = X X^T, the code divides each sample by its
signed maximum. Here a sample is divided by its largest absolute value (``normalise="absmax"``), since
a signed maximum can be zero or negative; ``max`` and ``none`` are the code's way and the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import EmptySetError, SettingsError
from keeps.models.calibration import calibration_sequences
from keeps.models.changes import AdapterChange
from keeps.models.covariances import collect_covariance, token_batches
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import on_plain_layers
from keeps.models.targets import check_dense, find_targets, layer_ranks
from keeps.numerics.covariance import NORMALISATIONS, Covariance
from keeps.numerics.oriented import AdapterStart
from keeps.numerics.spectrum import described, held
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import set_starts, stored_starts, train_and_write, wrap
from keeps.training.batches import stable_seed
from keeps.training.circumstances import process_of_launch
from keeps.training.oriented import RANK_CAP, OrientedSettings, allocated, most_compact, ranks_of
from keeps.training.oriented import adapter_starts as adapter_starts
from keeps.training.oriented import init_adapter as init_adapter
from keeps.training.oriented import oriented_spectrum as oriented_spectrum


@dataclass(frozen=True, kw_only=True)
class CorDASettings(OrientedSettings):
    """Settings of CorDA."""

    # The lowest of the grid that the claim chooses from, on facts other than those it reports: it kept most.
    learning_rate: float = setting(2.5e-4, "largest learning rate, reached after the warm-up", gt=0, lt=10)
    samples: int = setting(256, "Calibration samples at most", ge=1)
    sample_tokens: int = setting(256, "Tokens a sample: short texts are joined up to this length; 1 joins none", ge=1)
    answers: str = setting(
        "auto",
        "Calibrate on answers too: auto as in the paper (ipm yes, kpm questions only)",
        choices=("auto", "yes", "no"),
    )
    normalise: str = setting("absmax", "What a sample is divided by (max is the official code)", choices=NORMALISATIONS)
    candidates: int = setting(
        1, "Covariances from different draws of the samples; each layer takes the most compact", ge=1, le=64
    )


@method(
    "corda",
    verb="adapt",
    paper="arXiv:2406.05223",
    summary="LoRA that starts from the weight components the keep set uses least (kpm) or the learn set most (ipm).",
    needs=("learn",),
    uses=("keep",),
    forms=("lora", "residual", "merged"),
)
class CorDA:
    """Context-oriented decomposition adaptation, both modes."""

    Settings = CorDASettings

    def __init__(self, settings: CorDASettings) -> None:
        self.settings = settings

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Calibrate, decompose, train, and write a peft folder of rank 2r for the untouched base."""
        context = learn if self.settings.mode == "ipm" else keep
        if context is None or len(context) == 0:
            raise SettingsError(
                'mode "kpm" needs data to keep', where="CorDA", mend="give --keep, or choose --mode ipm"
            )
        layers = find_targets(model.model, self.settings.targets)
        check_dense(layers)
        layer_ranks(layers, self.settings.rank, self.settings.rank_pattern)  # refuse before the long work
        starts = stored_starts(run) or self.starts(model, context, run)
        settings = self.settings
        if settings.allocates:  # the ranks are those of the starts, also where a run is continued
            settings = replace(settings, rank_allocation="uniform", rank_cap=RANK_CAP, rank_pattern=ranks_of(starts))
        wrapped = wrap(model, settings, seed=run.seed)
        set_starts(wrapped, starts, run)
        data = {"learn": learn.fingerprint, "calibrate": context.fingerprint}
        return train_and_write(model, wrapped, learn, self.settings, run, method="corda", data=data)

    def starts(self, model: LanguageModel, context: RecordSet, run: Run) -> dict[str, AdapterStart]:
        """A0 and B0 of every target layer, oriented by ``context``."""
        layers = len(find_targets(model.model, self.settings.targets))
        with run.progress.task("decompose", self.settings.candidates * layers) as task:
            wide = most_compact(model.model, self.candidates(model, context, run), self.settings, advance=task.advance)
        starts = allocated(model.model, wide, self.settings)
        run.measures["damping"] = max(start.delta for start in starts.values())
        shares = [held(start.values, start.energy) for start in starts.values()]
        run.measures["adapter_energy"] = sum(shares) / len(shares)
        run.measures["largest_rank"] = max(ranks_of(starts).values())
        return starts

    @on_plain_layers
    def spectrum(
        self, model: LanguageModel, contexts: Mapping[str, RecordSet], run: Run
    ) -> dict[str, list[dict[str, Any]]]:
        """For each context (``"keep"``, ``"learn"``) one line a layer: how its spectrum lies; nothing is changed.

        A line has ``layer``, ``components``, ``rank``; ``kpm`` and ``ipm``, the shares of the energy
        that the ``rank`` smallest and largest components hold; ``compactness`` of this mode; ``components_99``,
        how many hold 99 %; ``damping`` and ``inverse_error``.
        """
        found = {}
        for name, context in contexts.items():
            reader = CorDA(replace(self.settings, mode="ipm" if name == "learn" else "kpm", candidates=1))
            covariances = reader.covariances(model, context, run)
            ranks = layer_ranks(
                find_targets(model.model, self.settings.targets), self.settings.rank, self.settings.rank_pattern
            )
            with run.progress.task(f"spectra, {name}", len(covariances)):
                spectra = oriented_spectrum(model.model, covariances)
            found[name] = [
                {"layer": layer, **described(spectra[layer]["singular_values"], rank, largest=reader.settings.largest)}
                | {key: spectra[layer][key] for key in ("damping", "inverse_error")}
                for layer, rank in ranks.items()
            ]
        return found

    def candidates(self, model: LanguageModel, context: RecordSet, run: Run) -> Iterator[dict[str, Covariance]]:
        """One collection of covariances for each draw, from at most ``samples`` samples of ``context``."""
        for draw in range(self.settings.candidates):
            yield self.covariances(model, context, run, draw=draw)

    def covariances(
        self, model: LanguageModel, context: RecordSet, run: Run, *, draw: int = 0
    ) -> dict[str, Covariance]:
        """One covariance per target layer from at most ``samples`` samples of ``context``."""
        answers = self.settings.answers == "yes" or (self.settings.answers == "auto" and self.settings.mode == "ipm")
        seed = run.seed if draw == 0 else stable_seed("draw", run.seed, draw)
        found = calibration_sequences(model, context, tokens=self.settings.sample_tokens, answers=answers, seed=seed)
        sequences = found[: self.settings.samples]
        if not sequences:
            mend = "give facts, examples or texts"
            raise EmptySetError("there is nothing to calibrate on", where=context.source, mend=mend)
        if self.settings.candidates > 1 and len(found) == len(sequences):
            what = f"every draw of candidates={self.settings.candidates} would take all {len(found)} samples there are"
            raise SettingsError(
                what, where=context.source, mend=f"choose samples below {len(found)}, or give more data"
            )
        batches = token_batches(sequences, pad_token_id=model.encoder.pad_token_id)
        tokens = run.measures["calibration_tokens"] = sum(len(sequence) for sequence in sequences)
        width = max(layer.in_features for layer in find_targets(model.model, self.settings.targets).values())
        if self.settings.mode == "kpm" and tokens < width:  # C is of lower rank than the layer is wide
            run.progress.message(
                f"{tokens} tokens to calibrate layers of up to {width} inputs: the components that they use least "
                "are partly chance; give more to keep"
            )
        index, count = process_of_launch()
        mine = batches[index::count]
        normalise: Any = self.settings.normalise
        return collect_covariance(model.model, mine, self.settings.targets, normalise, run=run, total=len(mine))
