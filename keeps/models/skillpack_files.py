"""A skill pack on disk, ``skillpack.safetensors``, and the change that it makes: attached, detached, added, routed.

One file. Tensors are called ``PARAMETER:PART``; the metadata has the format's version, the fingerprint of the base,
and of every parameter how it was packed. Detaching restores the base's own numbers: nothing is subtracted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from keeps.errors import StorageError
from keeps.models.adapters import copy_into, overwritten
from keeps.models.changes import ChangedModel, StoredChange, check_base, copy_files
from keeps.models.checkpoint_files import load_checkpoint, save_checkpoint
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits
from keeps.numerics.skillpack import Packed, decoded
from keeps.weights.files import load_metadata, load_tensors, save_tensors

PACK_FILE = "skillpack.safetensors"
FORMAT = "1"  # raise it when an older reader would misread a newer file
KINDS = ("sparse", "low_rank", "banded", "exact")


@dataclass(frozen=True)
class PackedTensor:
    """How one parameter was packed.

    Attributes:
        shape: of what is decoded; of a weight stored as (in, out) that of its transpose.
        bands: of ``"banded"``.
    """

    kind: str
    shape: tuple[int, ...]
    bands: tuple[tuple[int, int], ...] = ()
    group: int = 128
    transposed: bool = False


def write_pack(folder: Path, base: str, plan: Mapping[str, PackedTensor], parts: Mapping[str, Packed]) -> None:
    """Write the pack for the base with this fingerprint.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    tensors = {f"{name}:{part}": tensor for name, packed in parts.items() for part, tensor in packed.items()}
    described = json.dumps({name: asdict(how) for name, how in plan.items()}, separators=(",", ":"))
    save_tensors(folder / PACK_FILE, tensors, {"format": FORMAT, "base": base, "tensors": described})


def read_pack(folder: Path) -> tuple[dict[str, PackedTensor], dict[str, Packed]]:
    """How each parameter was packed, and its parts.

    Raises:
        StorageError: the file is missing, damaged, or of another version.
    """
    path = folder / PACK_FILE
    metadata, tensors = load_metadata(path), load_tensors(path)
    mend = "make the pack again"
    if metadata.get("format") != FORMAT:
        what = f"the pack has format {metadata.get('format')}, this version of keeps reads {FORMAT}"
        raise StorageError(what, where=str(path), mend="use the version of keeps that wrote it")
    parts: dict[str, Packed] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(":")
        parts.setdefault(name, {})[part] = tensor
    try:
        plan = {}
        for name, values in json.loads(metadata["tensors"]).items():
            bands = tuple((int(count), int(bits)) for count, bits in values["bands"])
            shape = tuple(int(size) for size in values["shape"])
            plan[name] = PackedTensor(**{**values, "shape": shape, "bands": bands})
            if plan[name].kind not in KINDS:
                raise ValueError(f'no kind "{plan[name].kind}"')
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"the pack cannot be understood ({error})", where=str(path), mend=mend) from None
    if plan.keys() != parts.keys():
        odd = sorted(plan.keys() ^ parts.keys())[0]
        raise StorageError(f"{odd} is described or stored, and not both", where=str(path), mend=mend)
    return plan, parts


def targets_of(folder: Path, parameters: Mapping[str, Tensor], weight: float = 1.0) -> dict[str, Tensor]:
    """What the pack makes of each parameter, in its dtype: theta + weight * difference.

    Raises:
        StorageError: a file is damaged, or does not fit the parameters.
    """
    plan, parts = read_pack(folder)
    found = {}
    for name, how in plan.items():
        if name not in parameters:
            mend = "load the base that change.json names"
            raise StorageError(f"the model has no parameter {name}", where=str(folder), mend=mend)
        base, exact = parameters[name].detach(), how.kind == "exact"
        try:
            if exact:
                stored = parts[name]["value"].to(base.device)
            else:
                stored = decoded(how.kind, parts[name], how.shape, how.bands, how.group).to(base.device)
                stored = stored.T if how.transposed else stored
            if stored.shape != base.shape:
                raise ValueError(f"{tuple(stored.shape)} for {tuple(base.shape)}")
        except (KeyError, ValueError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            what = f"the pack does not fit {name} ({reason})"
            raise StorageError(what, where=str(folder), mend="make the pack again") from None
        if not (exact and weight == 1):  # nothing is rounded where the fine-tuned values themselves are wanted
            delta = stored.float() - base.float() if exact else stored
            stored = base.float() + weight * delta
        found[name] = stored.to(base.dtype)
    return found


@contextmanager
def attached(model: LanguageModel, packs: Sequence[tuple[SkillPackChange, float]]) -> Iterator[LanguageModel]:
    """The model with the sum of weighted packs inside the block; its own numbers come back bit for bit.

    Raises:
        StorageError: a pack was made for another base, or is damaged.
    """
    parameters = dict(model.model.named_parameters())
    totals: dict[str, Tensor] = {}
    for change, weight in packs:
        check_base(change.record, model, change.folder)
        for name, value in targets_of(change.folder, parameters, weight).items():
            totals[name] = value if name not in totals else totals[name] + (value - parameters[name].detach())
    with overwritten(parameters, totals.items()):
        yield model


class SkillPackChange(StoredChange):
    """A compressed difference for the untouched base."""

    forms: ClassVar[tuple[str, ...]] = ("skillpack", "merged")
    reason: ClassVar[str] = "a pack holds sparse and quantised parts too"

    def apply(self, model: LanguageModel, weight: float = 1.0) -> ChangedModel:
        """``model`` with the pack attached; ``undo()`` detaches it bit for bit.

        Args:
            weight: factor of the difference.

        Raises:
            StorageError: the base is not the one that the pack was made for, or a file is damaged. The model is as
                it was then.
        """
        check_base(self.record, model, self.folder)
        parameters = dict(model.model.named_parameters())
        values = targets_of(self.folder, parameters, weight)
        originals = {name: parameters[name].detach().clone() for name in values}
        copy_into(parameters, values)
        undo = partial(copy_into, parameters, originals)
        return ChangedModel(model, model.model, name=self.folder.name, fingerprint=self.fingerprint, undo=undo)

    def _write(self, form: str, folder: Path, final: Path, model: LanguageModel) -> None:
        del final
        if form == "skillpack":
            copy_files(self.folder, folder, PACK_FILE, "change.json", "README.md")
            return
        changed = self.apply(model)
        try:
            save_checkpoint(changed.model, model.tokenizer, folder)
        finally:
            changed.undo()

    def _logits_of(self, form: str, folder: Path, model: LanguageModel) -> list[Tensor]:
        if form == "merged":
            return check_logits(load_checkpoint(folder, model.model), model.tokenizer)
        changed = SkillPackChange(folder, self.record).apply(model)
        try:
            return check_logits(changed.model, model.tokenizer)
        finally:
            changed.undo()


def report(folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes of the tensors by kind, and how many parameters each has; the header of the file comes on top."""
    return sizes(*read_pack(folder))


def sizes(plan: Mapping[str, PackedTensor], parts: Mapping[str, Packed]) -> dict[str, dict[str, Any]]:
    """:func:`report` of a pack that lies in memory."""
    found: dict[str, dict[str, Any]] = {}
    for name, how in plan.items():
        entry = found.setdefault(how.kind, {"parameters": 0, "bytes": 0})
        entry["parameters"] += int(torch.Size(how.shape).numel())
        entry["bytes"] += sum(tensor.numel() * tensor.element_size() for tensor in parts[name].values())
    return found
