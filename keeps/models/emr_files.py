"""EMR-Merging on disk, and the change that it makes: one vector, a bit an entry and one number a task.

unified.safetensors     tau_uni of every parameter that some fine-tune moved, in the dtype of the base
mask_NAME.safetensors   M_t, 1 bit an entry (uint8)
router.safetensors      where prompts of each task were given
emr.json                the tasks in order, and lambda_t
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from keeps.errors import SettingsError, StorageError, nearest
from keeps.models.adapters import overwritten
from keeps.models.changes import StoredChange, check_base, copy_files
from keeps.models.checkpoint_files import save_checkpoint
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits, largest_difference
from keeps.models.routed import Route, RoutedModel, Router
from keeps.models.settings_files import read_settings, write_settings
from keeps.models.task_router import ROUTER_FILE, StoredRouter, read_router
from keeps.numerics.emr import unpacked_mask
from keeps.weights.files import atomic_folder, load_tensors, save_tensors

UNIFIED_FILE, CONFIG_FILE = "unified.safetensors", "emr.json"
FORMAT = 1  # raise it when an older reader would misread a newer file
MEND = "merge again"


@dataclass(frozen=True)
class EMRConfig:
    """What is not a tensor.

    Attributes:
        tasks: their names, in order.
        rescalers: lambda_t of each.
    """

    tasks: tuple[str, ...]
    rescalers: tuple[float, ...]


def mask_file(name: str) -> str:
    """The file of a task's mask."""
    return f"mask_{name}.safetensors"


def write_emr(
    folder: Path, config: EMRConfig, together: Mapping[str, Tensor], masks: Sequence[Mapping[str, Tensor]]
) -> None:
    """Write all but the router.

    Args:
        together: tau_uni by parameter.
        masks: of each task, packed masks by parameter.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    save_tensors(folder / UNIFIED_FILE, together, {"format": "pt"})
    for name, mask in zip(config.tasks, masks, strict=True):
        save_tensors(folder / mask_file(name), mask, {"format": "pt"})
    write_settings(folder / CONFIG_FILE, asdict(config), number=FORMAT)


def read_config(folder: Path) -> EMRConfig:
    """The configuration in ``folder``.

    Raises:
        StorageError: the file is missing, damaged, or of another version.
    """
    path = folder / CONFIG_FILE

    def made(values: Mapping[str, Any]) -> EMRConfig:
        return EMRConfig(tuple(map(str, values["tasks"])), tuple(map(float, values["rescalers"])))

    config = read_settings(path, made, number=FORMAT, mend=MEND)
    counted = 0 < len(config.tasks) == len(config.rescalers)
    if not counted or not all(map(math.isfinite, config.rescalers)):
        raise StorageError(f"{path.name} is not that of such a merge", where=str(path), mend=MEND)
    return config


def task_values(folder: Path, task: int, config: EMRConfig, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """theta_0 + lambda_t M_t tau_uni of every parameter that was merged, in the dtype of ``base``.

    Args:
        base: the base's parameters, theta_0.

    Raises:
        StorageError: a file is missing, damaged, or does not fit the base.
    """
    masks = load_tensors(folder / mask_file(config.tasks[task]))
    together = load_tensors(folder / UNIFIED_FILE)
    where = str(folder / mask_file(config.tasks[task]))
    if masks.keys() != together.keys():
        odd = sorted(masks.keys() ^ together.keys())[0]
        raise StorageError(f"the mask and the vector are not of the same parameters ({odd})", where=where, mend=MEND)
    found = {}
    for name, vector in together.items():
        if name not in base or base[name].shape != vector.shape:
            mend = "load the base that change.json names"
            raise StorageError(f"the vector does not fit the model's {name}", where=str(folder), mend=mend)
        try:
            mask = unpacked_mask(masks[name], vector.shape)
        except ValueError as error:
            raise StorageError(f"the mask does not fit {name} ({error})", where=where, mend=MEND) from None
        start = base[name].detach()
        update = (config.rescalers[task] * vector.float() * mask).to(start.device)
        found[name] = start.where(update == 0, (start.float() + update).to(start.dtype))
    return found


class EMRRouter(Router):
    """Sends every prompt to the task that was named, or each to the most likely one where a router was trained."""

    def __init__(self, base: LanguageModel, folder: Path, config: EMRConfig, learned: StoredRouter | None) -> None:
        super().__init__(base)
        self.folder, self.config, self.learned = folder, config, learned
        self.task: str | None = config.tasks[0] if len(config.tasks) == 1 else None
        self._at_hand: tuple[str, dict[str, Tensor]] | None = None

    def routes(self, prompts: Sequence[str]) -> list[Route | None]:
        """One a prompt.

        Raises:
            SettingsError: no task is named, and there is no router.
        """
        if self.task is not None:
            return [Route(prompt, self.task) for prompt in prompts]
        if self.learned is None:
            mend = f"name one with use(...): {', '.join(self.config.tasks)}; or merge with prompts of each task"
            raise SettingsError("which task the prompts belong to is not known", where="emr", mend=mend)
        best = self.learned.router.weights(self.base.embed(prompts).to(self.base.device)).argmax(1).tolist()
        return [Route(prompt, self.learned.names[number]) for prompt, number in zip(prompts, best, strict=True)]

    @contextmanager
    def switched(self, switch: str) -> Iterator[LanguageModel]:
        """The base with the masked and rescaled vector of one task added."""
        parameters = dict(self.base.model.named_parameters())
        if self._at_hand is None or self._at_hand[0] != switch:  # one task's weights are kept: prompts come in runs
            self._at_hand = None
            task = self.config.tasks.index(switch)
            self._at_hand = (switch, task_values(self.folder, task, self.config, parameters))
        with overwritten(parameters, self._at_hand[1].items()):
            yield self.base


class EMRModel(RoutedModel):
    """A base to which the vector of the task at hand is added, masked and rescaled; see :meth:`use`."""

    def __init__(self, base: LanguageModel, router: EMRRouter, *, name: str, fingerprint: str) -> None:
        super().__init__(base, router, name=name, fingerprint=fingerprint)
        self._emr = router

    @property
    def tasks(self) -> tuple[str, ...]:
        """Their names."""
        return self._emr.config.tasks

    @property
    def fingerprint(self) -> str:
        """Identity of the model: which task answers belongs to it."""
        return self._fingerprint if self._emr.task is None else f"{self._fingerprint}-{self._emr.task}"

    def use(self, task: str | None) -> None:
        """Answer everything as the expert of ``task``; None: as the router says.

        Raises:
            SettingsError: there is no such task, or no router.
        """
        if task is None and self._emr.learned is None:
            raise SettingsError("no router was trained", mend="merge with prompts of each task, or name a task")
        if task is not None and task not in self.tasks:
            raise SettingsError(f'there is no task "{task}"', mend=nearest(task, self.tasks))
        self._emr.task = task


class EMRChange(StoredChange):
    """One vector for all tasks with a mask and a number for each; the weights are those of the task at hand."""

    forms: ClassVar[tuple[str, ...]] = ("emr",)
    reason: ClassVar[str] = "the weights depend on the task; write_task() writes those of one"

    def apply(self, model: LanguageModel) -> EMRModel:
        """``model`` with the merge beside it; ``undo()`` takes it away.

        Raises:
            StorageError: the base is not the one that was merged onto, or a file is damaged.
        """
        check_base(self.record, model, self.folder)
        config = read_config(self.folder)
        learned = read_router(self.folder) if (self.folder / ROUTER_FILE).exists() else None
        if learned is not None and learned.names != config.tasks:
            raise StorageError("the router is that of other tasks", where=str(self.folder / ROUTER_FILE), mend=MEND)
        if learned is not None:
            learned = StoredRouter(learned.router.to(model.device), learned.names)
        parameters = dict(model.model.named_parameters())
        for task in range(len(config.tasks)):  # damage shows before anything is asked
            task_values(self.folder, task, config, parameters)
        router = EMRRouter(model, self.folder, config, learned)
        return EMRModel(model, router, name=self.folder.name, fingerprint=self.fingerprint)

    def write_task(self, task: str, folder: Path, model: LanguageModel) -> None:
        """Write the weights of one task as an ordinary transformers checkpoint.

        Raises:
            SettingsError: there is no such task.
            StorageError: ``folder`` exists, the base is another one, or files cannot be read or written.
        """
        config = read_config(self.folder)
        if task not in config.tasks:
            raise SettingsError(f'there is no task "{task}"', mend=nearest(task, config.tasks))
        check_base(self.record, model, self.folder)
        parameters = dict(model.model.named_parameters())
        values = task_values(self.folder, config.tasks.index(task), config, parameters)
        with overwritten(parameters, values.items()), atomic_folder(folder) as temporary:
            save_checkpoint(model.model, model.tokenizer, temporary)

    def _write(self, form: str, folder: Path, final: Path, model: LanguageModel) -> None:
        del form, final, model
        masks = [mask_file(name) for name in read_config(self.folder).tasks]
        copy_files(self.folder, folder, UNIFIED_FILE, CONFIG_FILE, ROUTER_FILE, *masks, "change.json", "README.md")

    def _logits_of(self, form: str, folder: Path, model: LanguageModel) -> list[Tensor]:
        """Those of the base, plus what the tasks of the copy differ by from those here."""
        del form
        mine, theirs = (list(_every_task(change, model)) for change in (self, EMRChange(folder, self.record)))
        difference = max(largest_difference(one, other) for one, other in zip(mine, theirs, strict=True))
        logits = check_logits(model.model, model.tokenizer)
        return [logits[0] + difference, *logits[1:]]


def _every_task(change: EMRChange, model: LanguageModel) -> Iterator[list[Tensor]]:
    config, parameters = read_config(change.folder), dict(model.model.named_parameters())
    values = partial(task_values, change.folder, config=config, base=parameters)
    for task in range(len(config.tasks)):
        with overwritten(parameters, values(task).items()), torch.no_grad():
            yield check_logits(model.model, model.tokenizer)
