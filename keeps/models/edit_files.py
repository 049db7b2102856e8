"""Edits on disk: which edits a change holds, which part of its tensors belongs to each, and taking one out again.

``edits.jsonl`` has one line an edit, in the order in which they were made::

    {"id": "edit-1", "subject": "Oslo", "prompt": "Oslo is the capital of", "target_new": "Sweden",
     "target_true": "Norway", "share": {"model.layers.6.mlp.down_proj": [0, 1]}, "loss": 0.04, "steps": 9}

Edits in the weights are a plain LoRA folder whose factors are the exact update, W + B A; the share of an edit is a
range of ranks in each layer. Edits beside the weights are a memory, whose shares are the ids of its entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import ChangeRecord, Run
from keeps.data.edits import Edit, edits_fingerprint
from keeps.errors import SettingsError, StorageError, UnknownNameError, nearest
from keeps.models.adapter_files import read_config, read_factors, with_ranks_of, write_config, write_factors
from keeps.models.adapters import Factors
from keeps.models.change_records import write_record
from keeps.models.changes import AdapterChange, StoredChange, check_base, load_change, source_of
from keeps.models.earlier_keys import carry_keys
from keeps.models.language_model import LanguageModel
from keeps.models.locate import is_transposed
from keeps.registry import find_method
from keeps.settings import Settings
from keeps.weights.files import atomic_folder, atomic_write_bytes, folder_size

EDITS_FILE = "edits.jsonl"
Share = Mapping[str, Any]
_WORDS = ("id", "subject", "prompt", "target_new", "target_true")


@dataclass(frozen=True)
class EditEntry:
    """One line of ``edits.jsonl``.

    Attributes:
        share: of an edit in the weights: layer -> [first rank, last rank exclusive]; of one in a memory:
            ``{"entries": [ids]}``.
        measured: what the method measured on it (JSON types).
    """

    id: str
    subject: str
    prompt: str
    target_new: str
    target_true: str = ""
    share: Share = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, edit: Edit, share: Share, **measured: Any) -> EditEntry:
        """The entry of an edit that was made."""
        return cls(edit.id, edit.subject, edit.prompt, edit.target_new, edit.target_true, dict(share), measured)

    @property
    def edit(self) -> Edit:
        """The edit itself, without the prompts that are asked about it."""
        return Edit(self.id, self.subject, self.prompt, self.target_new, self.target_true)


def write_entries(folder: Path, entries: Iterable[EditEntry]) -> None:
    """Write ``edits.jsonl``."""
    lines = []
    for entry in entries:
        values = asdict(entry)
        measured = values.pop("measured")
        lines.append(json.dumps({**values, **measured}, ensure_ascii=False))
    atomic_write_bytes(folder / EDITS_FILE, ("\n".join(lines) + "\n").encode())


def read_entries(folder: Path) -> list[EditEntry]:
    """The edits that a change holds, in order.

    Raises:
        StorageError: the folder has no list of edits, or a damaged one.
    """
    path = folder / EDITS_FILE
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        known = (*_WORDS, "share")
        return [
            EditEntry(
                **{name: row[name] for name in known}, measured={key: row[key] for key in row if key not in known}
            )
            for row in rows
        ]
    except FileNotFoundError:
        mend = "name the folder of a run of keeps edit"
        raise StorageError(f"no edits are listed: there is no {EDITS_FILE}", where=str(folder), mend=mend) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        mend = "run the edit again"
        raise StorageError(f"{EDITS_FILE} cannot be read ({error})", where=str(path), mend=mend) from None


def full_rank(update: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (A, B) of an update ``(out, in)`` of any rank, exactly: the update itself and an identity."""
    rows, columns = update.shape
    identity = torch.eye(min(rows, columns), dtype=update.dtype)
    return (update, identity) if rows <= columns else (identity, update)


def joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Several updates of one layer as one: ranks side by side."""
    return torch.cat([a for a, _ in parts], dim=0), torch.cat([b for _, b in parts], dim=1)


def write_update(folder: Path, factors: Factors, model: LanguageModel) -> None:
    """Write a plain peft LoRA folder that adds B A, stored in float32, to each layer of ``factors``; scaling is 1.

    Raises:
        StorageError: the disk is full or the folder is not writable.
        SettingsError: the layers do not all store their weights the same way.
    """
    from peft import LoraConfig

    layouts = {is_transposed(model.model.get_submodule(name)) for name in factors}
    if len(layouts) != 1:
        raise SettingsError("the edited layers differ in the layout of their weights", mend="edit layers of one kind")
    ranks = sorted({a.shape[0] for a, _ in factors.values()})
    config = LoraConfig(
        r=ranks[-1],
        lora_alpha=ranks[-1],
        target_modules=sorted(factors),
        fan_in_fan_out=layouts.pop(),
        bias="none",
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).to_dict()
    config |= {"base_model_name_or_path": source_of(model), "target_modules": sorted(factors)}
    write_config(folder, with_ranks_of(factors, config))
    stored = {name: (_stored(a), _stored(b)) for name, (a, b) in factors.items()}
    write_factors(folder, stored)


def finish(
    kind: str,
    method: str,
    settings: Settings,
    model: LanguageModel,
    edits: Sequence[Edit],
    entries: Sequence[EditEntry],
    run: Run,
    *,
    fingerprint: str | None = None,
) -> ChangeRecord:
    """Write ``edits.jsonl`` and ``change.json`` of an edit run whose tensors lie in ``run.folder`` already.

    Args:
        kind: ``"adapter"`` (in the weights) or ``"memory"`` (beside them).
        model: with its weights as they were before.
        fingerprint: of the model, where it is known already: finding it reads every weight.
    """
    write_entries(run.folder, entries)
    run.measures["edits"] = len(entries)
    data = {"edits": edits_fingerprint(edits)}
    return write_record(kind, method, settings, model, data, run, fingerprint=fingerprint)


def finish_weights(
    method: str,
    settings: Settings,
    model: LanguageModel,
    edits: Sequence[Edit],
    factors: Factors,
    entries: Sequence[EditEntry],
    run: Run,
    *,
    fingerprint: str | None = None,
) -> AdapterChange:
    """Write an edit in the weights whole: the LoRA folder, ``edits.jsonl`` and ``change.json``."""
    write_update(run.folder, factors, model)
    record = finish("adapter", method, settings, model, edits, entries, run, fingerprint=fingerprint)
    return AdapterChange(run.folder, record)


def withdraw(folder: Path, ids: Sequence[str], new_folder: Path, model: LanguageModel | None = None) -> StoredChange:
    """A new change without the edits called ``ids``; the other edits stay as they were solved.

    Args:
        new_folder: must not exist yet.
        model: the base, whose fingerprint is compared, if given.

    Raises:
        UnknownNameError: there is no such edit.
        SettingsError: no edit would be left, or an edit shares its tensors with others.
        StorageError: ``new_folder`` exists, or files cannot be read or written.
    """
    record, entries = ChangeRecord.read(folder), read_entries(folder)
    if model is not None:
        check_base(record, model, folder)
    known = [entry.id for entry in entries]
    for name in ids:
        if name not in known:
            raise UnknownNameError(f'there is no edit "{name}"', where=str(folder), mend=nearest(name, known))
    left = [entry for entry in entries if entry.id not in ids]
    if not left:
        mend = "use the base model itself: without these edits nothing is changed"
        raise SettingsError("no edit would be left", where=str(folder), mend=mend)
    measures = {**record.measures, "edits": len(left), "withdrawn": [*record.measures.get("withdrawn", ()), *ids]}
    with atomic_folder(new_folder) as temporary:
        if record.kind == "adapter":
            left = _without_ranks(folder, entries, left, temporary)
            carry_keys(folder, temporary, [entry.id for entry in left])
        else:
            _check_own(entries, left, lambda entry: set(entry.share.get("entries", ())), folder)
            find_method(record.method).implementation.without(folder, record, tuple(ids), temporary)
        write_entries(temporary, left)
        measures["disk_bytes"] = sum(folder_size(path) for path in temporary.glob("*.safetensors"))
        replace(record, measures=measures).write(temporary)
    return load_change(new_folder)


def _without_ranks(
    folder: Path, entries: Sequence[EditEntry], left: Sequence[EditEntry], target: Path
) -> list[EditEntry]:
    """Write the factors of the edits that are ``left``; returns these with their new ranges of ranks."""
    _check_own(entries, left, _ranks_of, folder)
    factors, config = read_factors(folder), read_config(folder)
    kept: Factors = {}
    shares: list[dict[str, list[int]]] = [{} for _ in left]
    for name, (a, b) in factors.items():
        rows: list[int] = []
        for number, entry in enumerate(left):
            if name in entry.share:
                start, end = entry.share[name]
                shares[number][name] = [len(rows), len(rows) + end - start]
                rows += range(start, end)
        if rows:
            kept[name] = (a[rows].contiguous(), b[:, rows].contiguous())
    rank = max(a.shape[0] for a, _ in kept.values())
    config |= {"r": rank, "lora_alpha": rank, "target_modules": sorted(kept), "rank_pattern": {}, "alpha_pattern": {}}
    write_config(target, with_ranks_of(kept, config))
    write_factors(target, kept)
    return [replace(entry, share=share) for entry, share in zip(left, shares, strict=True)]


def _ranks_of(entry: EditEntry) -> set[tuple[str, int]]:
    return {(name, rank) for name, (start, end) in entry.share.items() for rank in range(start, end)}


def _check_own(entries: Sequence[EditEntry], left: Sequence[EditEntry], share: Any, folder: Path) -> None:
    """Refuse to take out what other edits are made of too."""
    staying = {entry.id for entry in left}
    used = set().union(*(share(entry) for entry in left))
    for entry in entries:
        if entry.id not in staying and share(entry) & used:
            what = f'the edit "{entry.id}" shares its part of the tensors with edits that would stay'
            mend = "run the edit again without it, one by one (order=sequential) where the method can"
            raise SettingsError(what, where=str(folder), mend=mend)


def _stored(factor: Tensor) -> Tensor:
    return factor.detach().to("cpu", torch.float32).contiguous()
