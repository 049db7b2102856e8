"""A twin on disk, and the change that it makes: one shared expert, a small file a task, a router.

shared.safetensors      theta_s: the parameters in which the shared expert differs from the base
task_NAME.safetensors   v_t: ``PARAMETER.u``, ``.s`` and ``.v`` of a matrix, ``PARAMETER`` of a vector
router.safetensors      absent where there is one task
twin.json               the tasks in order, and how weights are used
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from keeps.errors import SettingsError, StorageError
from keeps.models.adapters import copy_into, overwritten
from keeps.models.changes import StoredChange, check_base, copy_files
from keeps.models.checkpoint_files import load_checkpoint, save_checkpoint
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits, largest_difference
from keeps.models.settings_files import read_settings, write_settings
from keeps.models.task_router import ROUTER_FILE, read_router
from keeps.models.twin_layers import Part, Twin, wrap_twin
from keeps.models.twin_model import TwinModel
from keeps.numerics.twin import LowRank
from keeps.weights.files import atomic_folder, load_tensors, save_tensors

SHARED_FILE, CONFIG_FILE = "shared.safetensors", "twin.json"
FORMAT = 1  # raise it when an older reader would misread a newer file
MEND = "merge again"


@dataclass(frozen=True)
class TwinConfig:
    """What is not a tensor.

    Attributes:
        tasks: their names, in the order of the router's outputs.
        routing: ``"soft"`` or ``"top"``.
        resolution: weights are multiples of 1 / resolution; 0: as the router gives them.
    """

    tasks: tuple[str, ...]
    routing: str = "soft"
    resolution: int = 20


def task_file(name: str) -> str:
    """The file of a task's exclusive part."""
    return f"task_{name}.safetensors"


def write_twin(
    folder: Path, config: TwinConfig, shared: Mapping[str, Tensor], parts: Sequence[Mapping[str, Part]]
) -> None:
    """Write all but the router.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    save_tensors(folder / SHARED_FILE, shared, {"format": "pt"})
    for name, mapping in zip(config.tasks, parts, strict=True):
        tensors: dict[str, Tensor] = {}
        for parameter, part in mapping.items():
            if isinstance(part, LowRank):
                tensors |= {f"{parameter}.u": part.u, f"{parameter}.s": part.s, f"{parameter}.v": part.v}
            else:
                tensors[parameter] = part
        save_tensors(folder / task_file(name), tensors, {"format": "pt"})
    write_settings(folder / CONFIG_FILE, asdict(config), number=FORMAT)


def read_config(folder: Path) -> TwinConfig:
    """The configuration of the twin in ``folder``.

    Raises:
        StorageError: the file is missing, damaged, or of another version.
    """
    path = folder / CONFIG_FILE

    def made(values: Mapping[str, Any]) -> TwinConfig:
        return TwinConfig(**{**values, "tasks": tuple(map(str, values["tasks"]))})

    config = read_settings(path, made, number=FORMAT, mend=MEND)
    if not config.tasks or config.routing not in ("soft", "top") or not isinstance(config.resolution, int):
        raise StorageError(f"{path.name} is not that of a twin", where=str(path), mend=MEND)
    return config


def read_part(path: Path) -> dict[str, Part]:
    """The exclusive part of one task by parameter.

    Raises:
        StorageError: the file is missing or damaged, or a matrix lacks one of its factors.
    """
    tensors = load_tensors(path)
    low = {key.removesuffix(".s") for key in tensors if f"{key.removesuffix('.s')}.u" in tensors and key.endswith(".s")}
    found: dict[str, Part] = {}
    for name in low:
        u, s, v = (tensors.pop(f"{name}.{part}", torch.empty(0)) for part in "usv")
        if not (u.dim() == v.dim() == 2 and u.shape[1] == v.shape[1] == len(s)):
            raise StorageError(f"the factors of {name} do not fit each other", where=str(path), mend=MEND)
        found[name] = LowRank(u, s, v)
    odd = [name for name, tensor in tensors.items() if tensor.dim() != 1]
    if odd:
        raise StorageError(f"{odd[0]} is no vector and no factor of a matrix", where=str(path), mend=MEND)
    return found | tensors


def place(module: Any, shared: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Overwrite parameters with those of the shared expert; returns what they were.

    Raises:
        StorageError: there is no such parameter, or it is of another shape. Nothing is overwritten then.
    """
    parameters = dict(module.named_parameters())
    for name, tensor in shared.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            mend = "load the base that change.json names"
            raise StorageError(f"the shared expert does not fit the model's {name}", where=str(where), mend=mend)
    originals = {name: parameters[name].detach().clone() for name in shared}
    copy_into(parameters, shared)
    return originals


@contextmanager
def placed(module: Any, shared: Mapping[str, Tensor], where: Path) -> Iterator[None]:
    """:func:`place` inside the block; the parameters come back bit by bit."""
    originals = place(module, shared, where)
    try:
        yield
    finally:
        copy_into(dict(module.named_parameters()), originals)


class TwinChange(StoredChange):
    """A shared expert with exclusive parts, mixed for every prompt by a router; merged, the shared expert alone."""

    forms: ClassVar[tuple[str, ...]] = ("twin", "merged")
    reason: ClassVar[str] = "the weights depend on the prompt, and merged they are the shared expert alone"

    def apply(self, model: LanguageModel) -> TwinModel:
        """``model`` with the twin in place; ``undo()`` takes it out bit by bit.

        Raises:
            StorageError: the base is not the one that the twin was made for, or a file is damaged. The model is
                as it was then.
        """
        check_base(self.record, model, self.folder)
        config = read_config(self.folder)
        router = read_router(self.folder) if len(config.tasks) > 1 else None
        if router is not None and router.names != config.tasks:
            what = "the router is that of other tasks"
            raise StorageError(what, where=str(self.folder / ROUTER_FILE), mend=MEND)
        parts = [read_part(self.folder / task_file(name)) for name in config.tasks]
        originals = place(model.model, load_tensors(self.folder / SHARED_FILE), self.folder / SHARED_FILE)
        parameters = dict(model.model.named_parameters())
        try:
            twin = wrap_twin(model.model, parts)
        except BaseException:
            copy_into(parameters, originals)
            raise
        return TwinModel(
            model,
            twin,
            config.tasks,
            None if router is None else router.router.to(model.device),
            top=config.routing == "top",
            resolution=config.resolution,
            name=self.folder.name,
            fingerprint=self.fingerprint,
            undo=partial(_take_out, twin, parameters, originals),
        )

    def write_task(self, task: str, folder: Path, model: LanguageModel) -> None:
        """Write theta_s + v_t of one task as an ordinary transformers checkpoint: that expert, retrieved.

        Raises:
            SettingsError: there is no such task.
            StorageError: ``folder`` exists, the base is another one, or files cannot be read or written.
        """
        tasks = read_config(self.folder).tasks
        if task not in tasks:
            raise SettingsError(f'there is no task "{task}"', mend=f"name one of {', '.join(tasks)}")
        check_base(self.record, model, self.folder)
        parts = read_part(self.folder / task_file(task))
        parameters = dict(model.model.named_parameters())

        def values() -> Iterator[tuple[str, Tensor]]:
            for name, part in parts.items():
                whole = part.product if isinstance(part, LowRank) else part
                yield name, parameters[name].float() + whole.to(parameters[name].device)

        with (
            placed(model.model, load_tensors(self.folder / SHARED_FILE), self.folder / SHARED_FILE),
            overwritten(parameters, values()),
            atomic_folder(folder) as temporary,
        ):
            save_checkpoint(model.model, model.tokenizer, temporary)

    def _write(self, form: str, folder: Path, final: Path, model: LanguageModel) -> None:
        del final
        if form == "twin":
            names = [task_file(name) for name in read_config(self.folder).tasks]
            copy_files(self.folder, folder, SHARED_FILE, CONFIG_FILE, ROUTER_FILE, *names, "change.json", "README.md")
            return
        with placed(model.model, load_tensors(self.folder / SHARED_FILE), self.folder / SHARED_FILE):
            save_checkpoint(model.model, model.tokenizer, folder)

    def _logits_of(self, form: str, folder: Path, model: LanguageModel) -> list[Tensor]:
        if form == "merged":
            return check_logits(load_checkpoint(folder, model.model), model.tokenizer)
        copied = TwinChange(folder, self.record)
        changed, difference = copied.apply(model), 0.0
        try:
            logits = check_logits(changed.model, model.tokenizer)
            theirs = changed.every_task_logits()
        finally:
            changed.undo()
        own = self.apply(model)
        try:
            difference = largest_difference(own.every_task_logits(), theirs)
        finally:
            own.undo()
        return [logits[0] + difference, *logits[1:]]  # what the parts lost counts as what the expert lost


def _take_out(twin: Twin, parameters: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> None:
    twin.unwrap()
    copy_into(parameters, originals)
