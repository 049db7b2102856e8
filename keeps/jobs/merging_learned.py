"""Merges that need a running model: the base is loaded, fine-tunes are read beside it, with texts of each task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Progress, Run
from keeps.errors import EmptySetError, ModelLoadError, SettingsError, UnknownNameError, nearest
from keeps.jobs.folders import check_new
from keeps.jobs.merging_sources import folder_of
from keeps.registry import MethodInfo
from keeps.settings import Settings
from keeps.weights.files import atomic_folder, atomic_write_bytes, check_writable, folder_size

if TYPE_CHECKING:
    from keeps.data.records import RecordSet
    from keeps.models.fine_tunes import FineTune
    from keeps.models.language_model import LanguageModel

Texts = Mapping[str, "str | Path | RecordSet"]


@dataclass(frozen=True)
class LearnedMerge:
    """What came of it.

    Attributes:
        folder: None of a dry run.
        names: of the tasks, in the order of the models.
        measures: what the method measured on itself.
    """

    folder: Path | None
    names: tuple[str, ...]
    bytes_read: int
    bytes_written: int
    measures: Mapping[str, Any]


def named_model(word: str) -> tuple[str, str]:
    """The name of a task and its model, of ``NAME=MODEL`` or a model alone, which is called as its folder is.

    >>> named_model("law=./runs/a"), named_model("./runs/full-3f+1/")
    (('law', './runs/a'), ('full-3f-1', './runs/full-3f+1/'))
    """
    name, sign, model = word.partition("=")
    if sign and re.fullmatch(r"[\w.-]+", name) and model and not Path(word).expanduser().exists():
        return name, model
    return re.sub(r"[^\w.-]+", "-", Path(word).expanduser().resolve().name).strip("-") or "model", word


def named_texts(words: Sequence[str]) -> dict[str, str]:
    """``NAME=FILE`` words as a mapping.

    Raises:
        SettingsError: one is none, or a name comes twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, sign, spec = word.partition("=")
        if not sign or not name or not spec:
            mend = "write NAME=FILE, with the name of a model, such as law=prompts.jsonl"
            raise SettingsError(f'"{word}" names no task', where="--texts", mend=mend)
        if name in found:
            what = f'the texts of "{name}" are given twice'
            raise SettingsError(
                what, where="--texts", mend="several files go behind one name, with commas between them"
            )
        found[name] = spec
    return found


def takes_fine_tunes(info: MethodInfo) -> bool:
    """Whether a method is a :class:`~keeps.contracts.FineTuneMerge`."""
    return info.verb == "merge" and getattr(info.implementation, "takes_fine_tunes", False)


def merge_learned(
    info: MethodInfo,
    models: Sequence[str],
    base: str | LanguageModel | None,
    *,
    settings: Mapping[str, Any] | Settings | None,
    texts: Texts | None,
    out: Path | None,
    seed: int,
    device: str | None,
    dry_run: bool,
    workspace: str | Path | None,
    progress: Progress,
) -> LearnedMerge:
    """Call the method with the base, the fine-tunes and their texts, and write what it makes into the new ``out``.

    Raises:
        SettingsError: a wrong setting, no base, too many models, or texts that are missing.
        UnknownNameError: texts of a task that no model is called by.
        KeepsError: anything else that can be mended; nothing is left of a merge that fails.
    """
    from keeps.models.fine_tunes import FineTune, check_fine_tunes

    chosen: Any = settings if isinstance(settings, info.settings) else _settings(info, settings)
    most = getattr(info.implementation, "most", None)
    if base is None:
        mend = "name the model that all of them started from with --base"
        raise SettingsError(f"{info.name} works on differences from a base model", where="base", mend=mend)
    if not models:
        raise SettingsError("there is no fine-tune to work with", where="models", mend="name at least one")
    if most is not None and len(models) > most:
        raise SettingsError(f"{info.name} takes {most} model", where="models", mend="merge them one after the other")
    named = [named_model(word) for word in models]
    check_texts(info, [name for name, _ in named], texts or {})
    tuned = [FineTune(name, _weights_folder(model, workspace)) for name, model in named]
    check_fine_tunes(tuned)
    size = sum(folder_size(item.folder) for item in tuned)
    names = tuple(item.name for item in tuned)
    if out is not None:
        check_new(out)
    if dry_run or out is None:
        return LearnedMerge(None, names, size, 0, {})
    _check_apart(out, tuned)
    check_writable(out.parent)
    model = base if not isinstance(base, str) else load_plain(base, device, workspace, progress)
    tuned = with_texts(tuned, texts or {}, model, progress)
    with atomic_folder(out) as temporary:
        run = Run(temporary, seed=seed, device=str(model.device), progress=progress)
        made = info.implementation(chosen)
        if most == 1:
            change = made(model, tuned[0], tuned[0].records, run=run)
        else:
            change = made(model, tuned, run=run)
        _write_card(temporary, out.name, info, change.record, names)
    return LearnedMerge(out, names, size, folder_size(out), dict(change.record.measures))


def check_texts(info: MethodInfo, names: Sequence[str], texts: Texts) -> None:
    """Refuse texts that belong to no model or that nobody reads, and the lack of those that are read.

    Raises:
        SettingsError, UnknownNameError: one of these.
        KeepsError: a file cannot be read.
    """
    from keeps.data.select import load_records
    from keeps.jobs.data import names_marks

    for name in texts:
        if name not in names:
            raise UnknownNameError(f'there are texts of "{name}", and no model of that name', mend=nearest(name, names))
    lacking = [name for name in names if name not in texts]
    if "texts" in info.needs and lacking:
        what = f'{info.name} reads texts of each task, and "{lacking[0]}" has none'
        raise SettingsError(what, where="texts", mend=f"give some: --texts {lacking[0]}=FILE")
    for spec in texts.values():
        try:
            load_records(spec)
        except EmptySetError:
            if not names_marks(spec):  # what the base at hand knows is found out when it is loaded
                raise


def with_texts(
    tuned: Sequence[FineTune], texts: Texts, model: LanguageModel, progress: Progress | None = None
) -> list[FineTune]:
    """The fine-tunes with the records of their tasks; facts are chosen by what ``model`` knows."""
    from keeps.data.select import load_records
    from keeps.jobs.models import marks_for

    marks = marks_for(model, *texts.values(), progress=progress)
    found = {name: load_records(spec, marks=marks) for name, spec in texts.items()}
    return [replace(item, records=found.get(item.name)) for item in tuned]


def load_plain(
    name: str, device: str | None, workspace: str | Path | None, progress: Progress | None = None
) -> LanguageModel:
    """The model called ``name``, which may be a run that wrote whole weights.

    Raises:
        ModelLoadError: it is an adapter, or another change beside its base's weights.
    """
    from keeps.jobs.models import load_base, resolve
    from keeps.jobs.processes import own_device
    from keeps.ledger.workspace import Workspace
    from keeps.models.language_model import LanguageModel

    named = resolve(name, Workspace(workspace))
    if named.folder is None:
        return load_base(named, device=device, progress=progress)
    if not (named.folder / "config.json").is_file():
        mend = "export it as merged first, or name its base"
        raise ModelLoadError("the base of a merge has to be whole weights", where=name, mend=mend)
    return LanguageModel.load(named.folder, device=own_device(device), progress=progress)


def _settings(info: MethodInfo, given: Mapping[str, Any] | Settings | None) -> Settings:
    values = given.to_mapping() if isinstance(given, Settings) else given or {}
    return info.settings.from_mapping(values, where=info.name)


def _weights_folder(model: str, workspace: str | Path | None) -> Path:
    folder = folder_of(model, workspace)
    if not folder.is_dir():
        raise ModelLoadError("this is no folder of a model", where=model, mend="name the folder that the file lies in")
    return folder


def _check_apart(out: Path, tuned: Sequence[FineTune]) -> None:
    place = out.resolve()
    for item in tuned:
        if item.folder.resolve() in place.parents:
            mend = "write to a folder outside of all models"
            raise SettingsError(f"the result would lie in the model {item.name}", where=str(out), mend=mend)


def _write_card(folder: Path, name: str, info: MethodInfo, record: Any, names: Sequence[str]) -> None:
    from keeps.jobs.card import model_card

    facts = {"method": info.name, "paper": info.paper, "model": record.base_model, "seed": record.seed}
    listed = ", ".join(names)
    card = model_card(
        record.kind, name, record.base_model, record.settings, verb="merge", learn=listed, keep="", **facts
    )
    atomic_write_bytes(folder / "README.md", card.encode())
