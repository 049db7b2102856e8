"""Encoders as an index needs them: with a name and a fingerprint, prefixes of queries and passages, and a length."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from keeps.errors import ModelLoadError, SettingsError
from keeps.models.encoder import SentenceEncoder
from keeps.retrieval.dense import unit_rows
from keeps.weights.fingerprints import fingerprint_tensors

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
_POOLING = "1_Pooling/config.json"
_MODULES = ("Transformer", "Pooling", "Normalize")
_PASSAGE_PROMPTS = ("passage", "document", "corpus")


class Embedder(Protocol):
    """Texts as vectors of length 1, ``(len(texts), width)`` float32, by an encoder that can be told from others.

    Attributes:
        name: by which it is loaded again.
        fingerprint: of its weights; an index is never searched with vectors of another one.
        truncated: texts so far of which only the beginning was encoded.
    """

    name: str
    truncated: int

    @property
    def fingerprint(self) -> str: ...

    @property
    def width(self) -> int: ...

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of what is searched."""
        ...

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of what is asked."""
        ...


class SentenceEmbedder:
    """A sentence encoder with the prompts and the length that stand in its folder; loaded when first used.

    Of a longer text the beginning is encoded, and ``truncated`` counts it; search by words still sees all of it.

    >>> embedder = SentenceEmbedder()
    >>> embedder.name
    'all-MiniLM-L6-v2'
    """

    def __init__(self, spec: str | Path | None = None, *, device: str = "cpu") -> None:
        self.name = DEFAULT_ENCODER if spec is None or str(spec) == DEFAULT_ENCODER else str(spec)
        self.device = device
        self.truncated = 0

    @cached_property
    def encoder(self) -> SentenceEncoder:
        """The encoder itself.

        Raises:
            MissingDependencyError: the embedded encoder is not installed.
            ModelLoadError: the name gives no model.
            SettingsError: its vectors are neither the mean over tokens nor the first state, or are changed afterwards.
        """
        found = SentenceEncoder.load(None if self.name == DEFAULT_ENCODER else self.name, device=self.device)
        ways = _ways(_config(found, _POOLING))
        modules = [str(module.get("type")).rsplit(".", 1)[-1] for module in _listed(found, "modules.json")]
        further = [name for name in modules if name not in _MODULES]
        if ways not in ({"mean"}, {"cls"}) or further:
            what = f"the encoder takes {' and '.join(sorted({*ways, *further}))}, which is not known here"
            mend = "choose an encoder with mean pooling, or with the first state (cls), and nothing behind it"
            raise SettingsError(what, where=self.name, mend=mend)
        found.first = ways == {"cls"}
        return found

    @property
    def fingerprint(self) -> str:
        """Hash of the weights (16 hexadecimal digits)."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint_tensors(self.encoder.model.state_dict())

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.encoder.model.config.hidden_size)

    @cached_property
    def longest(self) -> int:
        """Tokens of a text that are encoded: as many as the encoder was tuned on."""
        most = int(self.encoder.model.config.max_position_embeddings)
        return min(most, int(_config(self.encoder, "sentence_bert_config.json").get("max_seq_length") or most))

    @cached_property
    def prompts(self) -> tuple[str, str]:
        """What is put before queries and before passages."""
        given = _config(self.encoder, "config_sentence_transformers.json").get("prompts") or {}
        passage = next((given[name] for name in _PASSAGE_PROMPTS if given.get(name)), "")
        return given.get("query") or "", passage

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of what is searched; see :class:`Embedder`."""
        return self._encode([self.prompts[1] + text for text in texts])

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of what is asked; see :class:`Embedder`."""
        return self._encode([self.prompts[0] + text for text in texts])

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return unit_rows(self.encoder.encode([self._cut(text) for text in texts]).numpy())

    def _cut(self, text: str) -> str:
        if len(text) + 2 <= self.longest:  # no text has more tokens than characters, besides the two around it
            return text
        tokens = self.encoder.tokenizer(text, truncation=False, verbose=False, return_offsets_mapping=True)
        if len(tokens.input_ids) <= self.longest:
            return text
        self.truncated += 1
        cut = self.longest - 1  # the last token closes the text
        while cut > 1:
            shorter = text[: tokens.offset_mapping[cut - 1][1]]
            if len(self.encoder.tokenizer(shorter, truncation=False, verbose=False).input_ids) <= self.longest:
                return shorter
            cut -= 1  # cut text may be split into more tokens than it was as a part
        return text[:1]


def make_embedder(encoder: Embedder | str | Path | None) -> Embedder | None:
    """An encoder by its name or folder; one that is given stays as it is, and None is none."""
    return SentenceEmbedder(encoder) if isinstance(encoder, (str, Path)) else encoder


def _ways(pooling: Mapping[str, Any]) -> set[str]:
    """How an encoder pools by its settings file, in either form that sentence-transformers writes."""
    said = pooling.get("pooling_mode")
    if said:
        return {said} if isinstance(said, str) else set(map(str, said))
    named = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    ways = {named.get(key, key) for key, on in pooling.items() if key.startswith("pooling_mode_") and on is True}
    return ways or {"mean"}


def _config(encoder: SentenceEncoder, name: str) -> dict[str, Any]:
    """A settings file of sentence-transformers beside the weights; empty if there is none."""
    read = _read(encoder, name)
    return read if isinstance(read, dict) else {}


def _listed(encoder: SentenceEncoder, name: str) -> list[dict[str, Any]]:
    """As :func:`_config`, of a file that holds a list."""
    read = _read(encoder, name)
    return [item for item in read if isinstance(item, dict)] if isinstance(read, list) else []


def _read(encoder: SentenceEncoder, name: str) -> Any:
    spec = str(encoder.model.config._name_or_path)
    path: Path | None = Path(spec) / name
    if not Path(spec).is_dir():
        from transformers.utils.hub import cached_file

        options = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        found = cached_file(spec, name, **options)
        path = Path(found) if found else None
    if path is None or not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        what = f"a settings file of the encoder is damaged ({error})"
        raise ModelLoadError(what, where=str(path), mend="fetch the encoder again") from None
