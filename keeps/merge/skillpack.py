"""Skill packs (GraftLLM): a whole fine-tune as one small file that is attached to its base and taken off again.

A full fine-tune is as large as its model. A *skill pack* (Du et al. 2025, "Knowledge Grafting of Large Language
Models", arXiv:2505.18502) is its difference from the base, compressed by what each module does: the largest entries
of embeddings and head, the leading singular triples of attention, the same in bands of 8, 4 and 2 bits for the
feed-forward layers, rounded against the inputs that these layers see (:mod:`keeps.numerics.gptq`), and norms and
biases as they are. Packs of several tasks lie side by side on one base, which none of them touches: learning a new
task cannot hurt an old one. :func:`fuse` routes prompts to them.

Use when: a fine-tuned model shall be shipped or stored as a small file; skills shall be added to and taken from one
model at will; tasks are learned one after the other and none may be forgotten.

Needs: one fine-tune of the base, as a folder or a run of ``keeps adapt`` or ``keeps edit``, and texts to calibrate on
(its prompts, or ``keep``). Guarantees: detaching restores the base bit for bit; a pack is refused on another base; the
bytes that are reported are those of the tensors in the file.

Where paper and code differ: the code stores no pack at all, fixes ranks, and leaves embeddings as they are; here the
file, the rank by energy (``energy``) and the pruned embeddings (``embedding_share``) are as the paper describes them.
The code calibrates later bands on a model that holds earlier ones and, by a slip, on a layer's outputs; here every
band of a layer sees the inputs of the fine-tuned model. Grids of groups are those of the matrix before any column is
rounded, so that no order has to be stored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import ChangeRecord, Run
from keeps.data.records import RecordSet
from keeps.errors import SettingsError
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:  # a merge of files imports all merge methods, and no tensor library
    from torch import Tensor

    from keeps.models.fine_tunes import Deltas, FineTune
    from keeps.models.language_model import LanguageModel
    from keeps.models.skillpack_files import PackedTensor, SkillPackChange
    from keeps.models.skillpack_model import FusedModel
    from keeps.numerics.skillpack import Band, Packed

PACKINGS = ("low_rank", "banded")
ROUNDINGS = ("gptq", "nearest")
BITS = (1, 2, 3, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class SkillPackSettings(Settings):
    """Settings of a pack; bands are the published ones for feed-forward layers."""

    embedding_share: float = setting(0.1, "Share of the entries kept of embeddings and head", gt=0, le=1)
    attention: str = setting("low_rank", "How attention is packed", choices=PACKINGS)
    feed_forward: str = setting("banded", "How feed-forward layers are packed", choices=PACKINGS)
    energy: float = setting(0.9, "Share of the energy that low_rank keeps", gt=0, le=1)
    bands: tuple[str, ...] = setting(("20:8", "180:4", "1200:2"), "Triples and their bits, the largest triples first")
    group: int = setting(128, "Columns that share a scale", ge=1)
    rounding: str = setting("gptq", "Against the layer's inputs, or to the nearest level", choices=ROUNDINGS)
    calibration: int = setting(128, "Texts that inputs are taken from", ge=1)

    def check(self) -> None:
        """Refuse bands that are none."""
        _ = self.parsed_bands

    @property
    def parsed_bands(self) -> list[Band]:
        """Bands as ``(triples, bits)``."""
        found = []
        for text in self.bands:
            count, _, bits = text.partition(":")
            if not (count.isdigit() and bits.isdigit() and int(count) > 0 and int(bits) in BITS):
                mend = f"write TRIPLES:BITS with bits of {', '.join(map(str, BITS))}, such as 20:8"
                raise SettingsError(f'"{text}" is no band', where="bands", mend=mend)
            found.append((int(count), int(bits)))
        if not found:
            raise SettingsError("there is no band", where="bands", mend="give one at least, such as 20:8")
        return found


@method(
    "skillpack",
    verb="merge",
    paper="arXiv:2505.18502",
    summary="A fine-tune as one small file: pruned, low-rank and quantised by module, attached and detached exactly.",
    card="graftllm",
    needs=("learn",),
    uses=("keep",),
    forms=("skillpack", "merged"),
)
class SkillPack:
    """See the top of this file."""

    Settings = SkillPackSettings
    takes_fine_tunes = True
    most = 1  # fine-tunes that it takes

    def __init__(self, settings: SkillPackSettings) -> None:
        self.settings = settings

    @classmethod
    def load(cls, folder: Any, record: ChangeRecord) -> SkillPackChange:
        """The change in ``folder``."""
        from keeps.models.skillpack_files import SkillPackChange

        return SkillPackChange(folder, record)

    def __call__(
        self, model: LanguageModel, learn: FineTune, keep: Sequence[str] | RecordSet | None = None, *, run: Run
    ) -> SkillPackChange:
        """Pack what ``learn`` moved, write it to ``run.folder``, and give ``model`` back as it was.

        Args:
            keep: texts to calibrate on; default: the prompts of ``learn``.

        Raises:
            SettingsError: there is nothing to calibrate on, or nothing was moved.
            StorageError, ModelLoadError: the fine-tune is missing, damaged, or not one of this base.
        """
        from keeps.models.fine_tunes import Deltas, check_fine_tunes
        from keeps.models.skillpack_files import sizes, write_pack

        started = time.perf_counter()
        check_fine_tunes([learn])
        before = model.fingerprint
        deltas = Deltas(model, learn)
        if not deltas.names:
            raise SettingsError("the fine-tune moved nothing", where=str(learn.folder), mend="name another folder")
        plan = self.plan(model, deltas)
        moments = self._moments(model, deltas, plan, _texts(learn, keep), run)
        parts: dict[str, Packed] = {}
        error = total = 0.0
        with run.progress.task("packing", len(plan)) as bar:
            for name, how in plan.items():
                parts[name], plan[name], lost, whole = self._packed(model, deltas, name, how, moments)
                error, total = error + lost, total + whole
                bar.advance()
        write_pack(run.folder, before, plan, parts)
        run.measures |= {"bytes": sizes(plan, parts), "relative_error": (error / total) ** 0.5 if total else 0.0}
        return self._finished(model, learn, before, started, run)

    def plan(self, model: LanguageModel, deltas: Deltas) -> dict[str, PackedTensor]:
        """How each moved parameter is packed, by the module that it belongs to."""
        from torch import nn

        from keeps.models.locate import is_linear, is_transposed
        from keeps.models.skillpack_files import PackedTensor

        parameters = dict(model.model.named_parameters())
        module: Any = model.model
        head = module.get_output_embeddings()
        found = {}
        for name in deltas.names:
            owner = model.model.get_submodule(name.rpartition(".")[0])
            shape = tuple(parameters[name].shape)
            if isinstance(owner, nn.Embedding) or owner is head:
                kind = "sparse" if len(shape) == 2 else "exact"
            elif is_linear(owner) and len(shape) == 2:
                kind = self.settings.attention if "attn" in name or "attention" in name else self.settings.feed_forward
            else:
                kind = "exact"
            turned = kind in PACKINGS and is_transposed(owner)
            found[name] = PackedTensor(kind, shape[::-1] if turned else shape, (), self.settings.group, turned)
        return found

    def _packed(
        self, model: LanguageModel, deltas: Deltas, name: str, how: PackedTensor, moments: Mapping[str, Tensor]
    ) -> tuple[Packed, PackedTensor, float, float]:
        """The parts of one parameter, how it was packed, and squared norms of what is lost and of the whole."""
        from dataclasses import replace

        from keeps.numerics.skillpack import banded, clipped, decoded, low_rank, sparse

        delta = deltas.of(name).cpu()
        delta = delta.T.contiguous() if how.transposed else delta
        if how.kind == "exact":
            base = model.model.get_parameter(name).detach().cpu()
            return {"value": (base.float() + delta).to(base.dtype)}, how, 0.0, float(delta.square().sum())
        if how.kind == "sparse":
            parts = sparse(delta, self.settings.embedding_share)
        elif how.kind == "low_rank":
            parts = low_rank(delta, energy=self.settings.energy)
        else:
            bands, rounding = self.settings.parsed_bands, self.settings.rounding
            moment = moments.get(name)
            parts = banded(
                delta, bands, moment, group=how.group, rounding="nearest" if rounding == "nearest" else "gptq"
            )
            how = replace(how, bands=tuple(clipped(bands, len(parts["s"]))))
        lost = delta - decoded(how.kind, parts, how.shape, how.bands, how.group)
        return parts, how, float(lost.square().sum()), float(delta.square().sum())

    def _moments(
        self, model: LanguageModel, deltas: Deltas, plan: Mapping[str, PackedTensor], texts: Sequence[str], run: Run
    ) -> dict[str, Tensor]:
        """E[x x^T] of the inputs of every layer that is rounded against them, in the fine-tuned model."""
        from keeps.models.adapters import overwritten
        from keeps.models.covariances import collect_covariance, token_batches

        names = [name for name, how in plan.items() if how.kind == "banded"]
        if self.settings.rounding == "nearest" or not names:
            return {}
        rows = [model.encoder.text(text)[: model.context_length] for text in texts[: self.settings.calibration]]
        if not rows:
            mend = 'give prompts or texts, or choose rounding "nearest"'
            raise SettingsError("there is nothing to calibrate on", where="skillpack", mend=mend)
        tokens = sum(map(len, rows))
        widest = max(plan[name].shape[1] for name in names)
        if tokens < widest:
            run.progress.message(f"{tokens} tokens calibrate layers of {widest} inputs: more texts would be better")
        parameters = dict(model.model.named_parameters())
        layers = {name: model.model.get_submodule(name.removesuffix(".weight")) for name in names}
        batches = token_batches(rows, pad_token_id=model.encoder.pad_token_id)
        with overwritten(parameters, ((name, parameters[name].float() + deltas.of(name)) for name in deltas.names)):
            found = collect_covariance(
                model.model, batches, normalise="none", layers=layers, run=run, total=len(batches)
            )
        run.measures["calibration_tokens"] = tokens
        return {name: covariance.matrix().cpu() for name, covariance in found.items()}

    def _finished(
        self, model: LanguageModel, learn: FineTune, before: str, started: float, run: Run
    ) -> SkillPackChange:
        from keeps.models.change_records import write_record

        run.measures["pack_seconds"] = time.perf_counter() - started
        data = {learn.name: learn.fingerprint}
        record = write_record("skillpack", "skillpack", self.settings, model, data, run, fingerprint=before)
        return self.load(run.folder, record)


def fuse(
    model: LanguageModel,
    packs: Mapping[str, SkillPackChange],
    prompts: Mapping[str, Sequence[str]] | None = None,
    *,
    least: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> FusedModel:
    """The base with several packs, of which each prompt gets the one that a router on the base's states names.

    Args:
        packs: by task.
        prompts: of each task, for the router; None: tasks are named with ``use()``.
        least: probability below which the base answers.
        options: of :func:`keeps.training.task_router.fit_router`.

    Raises:
        SettingsError: no pack, or too few prompts of one.
        StorageError: a pack was made for another base.
    """
    from keeps.models.changes import check_base
    from keeps.models.skillpack_model import FusedModel, PackRouter
    from keeps.training.task_router import router_of

    if not packs or (prompts is not None and prompts.keys() != packs.keys()):
        raise SettingsError("packs and prompts are not of the same tasks", where="fuse", mend="give both for each task")
    for change in packs.values():
        check_base(change.record, model, change.folder)
    learned = None
    if prompts is not None and len(packs) > 1:
        learned, _ = router_of(model, {name: prompts[name] for name in packs}, seed=seed, **options)
    return FusedModel(model, PackRouter(model, packs, learned, least=least))


def _texts(learn: FineTune, keep: Sequence[str] | RecordSet | None) -> list[str]:
    """Texts to calibrate on."""
    if isinstance(keep, RecordSet):
        asked = [f"{question.prompts[0]} {question.answers[0]}" for question in keep.questions()]
        return [passage.text for passage in keep.passages()] + asked
    return list(keep) if keep is not None else list(learn.asked)
