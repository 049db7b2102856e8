"""Tasks of the evaluation harness by name, folder or file; code that lies beside a task is run only where trusted."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from keeps.data.rows import path_mode
from keeps.errors import EmptySetError, InputFileError, KeepsError, SettingsError, UnknownNameError, nearest
from keeps.models.harness_model import harness_module

YAML = (".yaml", ".yml")


def load_tasks(spec: str, *, shots: int | None, seed: int, trust_code: bool) -> dict[str, Any]:
    """The tasks that ``spec`` names, by name: folders, YAML files and names of the harness, by commas.

    Args:
        shots: solved examples before each document; None leaves it to the task.
        seed: of the choice of examples, and of tasks that shuffle; ``lm_eval --seed`` with the same one agrees.
        trust_code: run Python that a task of a folder or file brings along.

    Raises:
        MissingDependencyError: the harness is not installed.
        EmptySetError: nothing is named, or a folder holds no task.
        UnknownNameError: the harness has no such task.
        InputFileError: a task or its data cannot be read.
        SettingsError: a task needs code, images or sound, or fixes another number of shots.
    """
    parts = [part.strip() for part in spec.split(",") if part.strip()]
    if not parts:
        raise EmptySetError("no task is named", where="harness", mend="name a folder of tasks, or tasks of the harness")
    places = [part for part in parts if path_mode(Path(part)) is not None]
    manager_of = harness_module("tasks").TaskManager
    found: dict[str, Any] = {}
    for part in places:
        files = _files(Path(part))
        if not trust_code:
            _refuse_code(files)
        with explained(part, seed):
            manager = manager_of(include_path=str(Path(part)), include_defaults=False) if Path(part).is_dir() else None
            names = _leaves(manager, part) if manager else [str(Path(part).resolve())]
            found |= (manager or manager_of(include_defaults=False)).load(names)["tasks"]
    names = [part for part in parts if part not in places]
    if names:
        with explained(", ".join(names), seed):
            manager = manager_of()  # reads every task that comes with the harness: most of a minute
            found |= manager.load(_known(manager, names))["tasks"]
    for name, task in found.items():
        _prepare(name, task, shots, seed)
    return found


def _leaves(manager: Any, folder: str) -> list[str]:
    if not manager.all_subtasks:
        raise EmptySetError("there is no task in it", where=folder, mend="give a folder with the YAML file of a task")
    return list(manager.all_subtasks)


def _known(manager: Any, names: Sequence[str]) -> list[str]:
    """The names, with patterns such as ``mmlu_*`` written out."""
    found: dict[str, None] = {}
    for name in names:
        matching = manager.match_tasks([name])
        if not matching:
            mend = f"{nearest(name, manager.all_tasks)}, or give the folder of a task of your own"
            raise UnknownNameError(f'the harness has no task "{name}"', where="harness", mend=mend)
        found |= dict.fromkeys(matching)
    return list(found)


def _prepare(name: str, task: Any, shots: int | None, seed: int) -> None:
    if getattr(task, "MULTIMODAL", False):
        raise SettingsError("the task needs images or sound", where=name, mend="name tasks of text")
    if getattr(task, "UNSAFE_CODE", False):
        mend = "run it with the harness itself, on a machine that may be lost"
        raise SettingsError("the task runs programs that the model wrote", where=name, mend=mend)
    fixed = task.get_config("num_fewshot")
    if shots is not None and fixed == 0 and shots != 0:
        mend = "leave --shots out, or change num_fewshot in its YAML file"
        raise SettingsError("the task fixes its number of shots at 0", where=name, mend=mend)
    task.set_config(key="num_fewshot", value=fixed or 0 if shots is None else shots)
    task.set_fewshot_seed(seed=seed)


@contextlib.contextmanager
def explained(what: str, seed: int) -> Iterator[None]:
    """Quietly, with random numbers of their own; what goes wrong inside becomes an InputFileError of the task."""
    try:
        with quiet(), seeded(seed):
            yield
    except KeepsError:
        raise
    except Exception as error:  # tasks are YAML, templates and functions: each raises its own kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        mend = "check its YAML file, and that its data are there or can be reached"
        raise InputFileError(f"the harness cannot load the task ({reason})", where=what, mend=mend) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and remarks of the harness, which know nothing of the progress that keeps shows."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's and numpy's random numbers begin anew inside the block and go on as before after it."""
    import numpy as np

    python, array = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        return sorted(place.rglob("*.yaml"))
    if place.suffix not in YAML:
        raise InputFileError("this is no task", where=str(place), mend="give a YAML file, or a folder of them")
    return [place]


def _refuse_code(files: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for file in files:
        reason = _code_in(file, seen)
        if reason:
            mend = "read it, and say --trust-code if it may run"
            raise SettingsError(f"the task runs code that comes with it ({reason})", where=str(file), mend=mend)


def _code_in(file: Path, seen: set[Path]) -> str:
    """What of a task's file, or of those it includes, would run code; "" for nothing."""
    file = file.resolve()
    if file in seen:
        return ""
    seen.add(file)
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputFileError(f"this is no YAML ({reason})", where=str(file), mend="correct it, or remove it") from None
    for key, node in _entries(root):
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq") and node.tag.startswith("!"):
            return f"{node.tag} {node.value}"
        if key == "metric" and node.value not in harness_module("api.registry").METRIC_REGISTRY:
            return f"the metric {node.value}, which the harness does not know and would fetch"
        if key == "hf_evaluate" and str(node.value).lower() == "true":
            return "a metric that is fetched"
        for included in _scalars(node) if key == "include" else ():
            reason = _code_in(file.parent / included, seen)
            if reason:
                return reason
    return ""


def _entries(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every node below ``node`` with the key that it stands under."""
    if node is None:
        return
    yield key, node
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _entries(name)
            yield from _entries(value, str(name.value))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _entries(value, key)


def _scalars(node: Any) -> list[str]:
    return [node.value] if isinstance(node, yaml.ScalarNode) else [item.value for item in node.value]
