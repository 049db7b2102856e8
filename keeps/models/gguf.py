"""GGUF files: converted once to a transformers folder in the cache, named by their content."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch

from keeps.contracts import Progress, SilentProgress
from keeps.errors import KeepsError, ModelLoadError, StorageError
from keeps.models.quiet import quiet
from keeps.weights import atomic_folder, atomic_write_bytes, fingerprint_file, fingerprint_tensors

CONVERSION = 1  # raise it when a newer keeps must convert again
NOTE = "keeps.json"  # beside the weights: where they come from, and their fingerprint; written last


def cache_folder(chosen: Path | None = None) -> Path:
    """The folder of converted models: ``chosen``, ``$KEEPS_CACHE``, or the user's cache folder."""
    if chosen is not None:
        return chosen
    if os.environ.get("KEEPS_CACHE"):
        return Path(os.environ["KEEPS_CACHE"])
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "keeps"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "keeps"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keeps"


def converted(source: Path, *, digest: str = "", cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The transformers folder of a GGUF file: float32 safetensors and tokenizer, made on first use.

    Two processes may convert at once: each writes a folder of its own, and the first to finish keeps it.

    Args:
        source: the ``.gguf`` file.
        digest: its SHA-256 if that is known; computed otherwise.
        cache: see :func:`cache_folder`.
        progress: told that a conversion begins.

    Raises:
        ModelLoadError: the file is damaged, or of an architecture that transformers cannot read.
        StorageError: the cache cannot be written.
    """
    key = digest[:16] or fingerprint_file(source)
    folder = cache_folder(cache) / "models" / f"{source.stem}-{key}-v{CONVERSION}"
    if (folder / NOTE).is_file():
        return folder
    (progress or SilentProgress()).message(f"converting {source.name} to {folder} (once, about 15 seconds)")
    model, tokenizer = _read(source)
    try:
        with atomic_folder(folder) as temporary, quiet():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            fingerprint = fingerprint_tensors(model.state_dict())
            note = {"source": source.name, "sha256": key, "fingerprint": fingerprint, "conversion": CONVERSION}
            atomic_write_bytes(temporary / NOTE, (json.dumps(note, indent=2) + "\n").encode())
    except StorageError:
        if not (folder / NOTE).is_file():  # otherwise another process was faster, with the same content
            raise
    return folder


def stored_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the weights in a converted folder, without reading them; None for other folders."""
    try:
        found = json.loads((folder / NOTE).read_text(encoding="utf-8")).get("fingerprint")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _read(source: Path) -> tuple[Any, Any]:
    """Model in float32 and tokenizer of a GGUF file, through transformers' own reader."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _check_magic(source)
    options: dict[str, Any] = {"gguf_file": source.name, "dtype": torch.float32, **_dequantised()}
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # the reader draws a bar that has no switch
            tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
            model = AutoModelForCausalLM.from_pretrained(str(source.parent), **options)
            return _plain(model), tokenizer
    except KeepsError:
        raise
    except Exception as error:  # the readers raise whatever a damaged header leads to
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelLoadError(
            f"the GGUF file cannot be read ({reason[:200]})",
            where=str(source),
            mend="fetch it again, or convert it to safetensors if transformers does not know its architecture",
        ) from None


def _check_magic(source: Path) -> None:
    with source.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelLoadError("the file does not begin with GGUF", where=str(source), mend="give a GGUF file")


def _dequantised() -> dict[str, Any]:
    """The option that asks for plain tensors; older versions of transformers know no other way."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _plain(model: Any) -> Any:
    """The same weights in a model that knows nothing of its quantised past, which could not be saved."""
    if not all(tensor.is_floating_point() for tensor in model.parameters()):
        raise ModelLoadError("the weights are still quantised after reading", mend="update transformers")
    config = model.config
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain
