"""Whole models on disk: a plain transformers folder, written and read with errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from keeps.errors import StorageError
from keeps.models.plain_layers import own_layout
from keeps.models.quiet import quiet
from keeps.weights.files import storage_error


def save_checkpoint(module: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights, configuration and tokenizer, as ``AutoModelForCausalLM.from_pretrained`` reads them.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    try:
        with quiet(), own_layout(module):
            module.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise storage_error(error, folder) from error


def load_checkpoint(folder: Path, like: Any) -> Any:
    """The model in ``folder``, of the class, dtype and device of ``like``, in evaluation mode.

    Raises:
        StorageError: a file is missing or damaged, or the weights are not those of such a model.
    """
    first = next(like.parameters())
    mend = "run the job again, or export it again"
    if not (folder / "config.json").is_file():  # without one transformers builds a default model of any size
        raise StorageError("the checkpoint has no config.json", where=str(folder), mend=mend)
    try:
        with quiet():
            loaded, found = type(like).from_pretrained(
                folder, dtype=first.dtype, output_loading_info=True, local_files_only=True, use_safetensors=True
            )
    except Exception as error:  # file system, json, safetensors and transformers each raise their own kinds
        reason = (str(error).strip().split("\n")[0] or type(error).__name__)[:300]
        raise StorageError(f"the checkpoint cannot be read ({reason})", where=str(folder), mend=mend) from error
    odd = sorted(map(str, [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]))
    if odd:
        what = f"the checkpoint does not fit a {type(like).__name__}: {odd[0]}"
        raise StorageError(what, where=str(folder), mend=mend)
    return loaded.to(first.device).eval()
