"""Models of a merge as people name them: a folder, a run, an adapter (alone or as ``MODEL+ADAPTER``), a hub id."""

from __future__ import annotations

from pathlib import Path

from keeps.errors import ModelLoadError, StorageError
from keeps.weights.checkpoints import Checkpoint, TensorSource
from keeps.weights.low_rank_inputs import CONFIG, AdaptedCheckpoint, is_adapter, settings_of

BASE_FOLDER = "base"  # of a residual export: the reduced weights that its adapter belongs to


def open_source(name: str, base: str | None = None, workspace: str | Path | None = None) -> TensorSource:
    """The tensors of a model. Nothing but headers is read, and folders need no tensor library.

    Args:
        name: a folder with safetensors weights, one safetensors file, an adapter's folder, ``MODEL+ADAPTER``, a
            finished run, a built-in model or a hub id.
        base: what an adapter is put on that does not say which folder it belongs to.

    Raises:
        ModelLoadError: there is no such model, or it cannot be merged.
        StorageError: a file is missing or damaged.
    """
    if not Path(name).expanduser().exists() and "+" in name:
        model, _, adapter = name.rpartition("+")
        return AdaptedCheckpoint(
            Checkpoint.open(folder_of(model, workspace), model), folder_of(adapter, workspace), name
        )
    folder = folder_of(name, workspace)
    if not is_adapter(folder):
        return Checkpoint.open(folder, name)
    return AdaptedCheckpoint(Checkpoint.open(_base_of(folder, name, base, workspace)), folder, name)


def _base_of(folder: Path, name: str, base: str | None, workspace: str | Path | None) -> Path:
    if (folder / BASE_FOLDER).is_dir():
        return folder / BASE_FOLDER
    said = settings_of(folder / CONFIG).get("base_model_name_or_path")
    if isinstance(said, str) and Path(said).expanduser().is_dir():
        return Path(said).expanduser()
    if base is None:
        mend = f"name its model too: MODEL+{name}, or give --base"
        raise ModelLoadError("this is an adapter, and its base model is not at hand", where=name, mend=mend)
    return folder_of(base, workspace)


def folder_of(name: str, workspace: str | Path | None = None) -> Path:
    """The folder (or file) of a model; other names than paths are looked up as runs, built-in models, or on the hub."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    from keeps.jobs.models import resolve as resolve_run
    from keeps.ledger.workspace import Workspace
    from keeps.models.load import resolve

    named = resolve_run(name, Workspace(workspace))
    if named.folder is not None:
        if not named.folder.exists():
            raise StorageError("the run has no model yet", where=name, mend="finish it with --resume")
        return named.folder
    found = resolve(named.model)
    return Path(found) if Path(found).is_dir() else _from_hub(found)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        what = f"there is no such folder or run, and the hub does not give it ({type(error).__name__})"
        raise ModelLoadError(what, where=name, mend="check the name, or name a folder") from None
