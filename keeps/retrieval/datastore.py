"""A datastore of contexts: for every token of some texts, the state of the model before it, and the token itself.

    datastore/manifest.json           model, site, texts: what it may be used with
    datastore/version-.../keys.npy    (entries, width) float16, mapped into memory
    .../entries.safetensors           token, document and place of each entry
    .../documents.jsonl               id, title and digest of each text

It is what kNN-LM searches (Khandelwal et al. 2020, arXiv:1911.00172). The keys are those of one model: another model,
or the same one after training, is refused. Folders are written and checked as those of an index are
(:mod:`keeps.retrieval.generations`). A token needs ``2 width + 28`` bytes: 100 MB for 85 000 tokens of a model of
width 576.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from keeps.contracts import Progress, SilentProgress
from keeps.errors import EmptySetError, SettingsError, StorageError
from keeps.models.context_states import Site
from keeps.models.language_model import LanguageModel
from keeps.numerics.nearest import nearest
from keeps.retrieval.context_keys import Keyed, fill_keys, keyed
from keeps.retrieval.dense import BLOCK, HELD_BYTES, in_float32
from keeps.retrieval.documents import Document, given_documents
from keeps.retrieval.generations import MANIFEST, check_files, read_manifest, write_version
from keeps.retrieval.words import digest
from keeps.versions import __version__
from keeps.weights.files import load_tensors, save_tensors, storage_error

KIND = "contexts"
KEYS, ENTRIES, DOCUMENTS = "keys.npy", "entries.safetensors", "documents.jsonl"
SAMPLE = 256  # keys whose nearest other one says how far apart neighbours are
_COLUMNS = ("token", "document", "start", "end")


@dataclass(frozen=True)
class Told:
    """A text of the datastore, without the text: how it is cited, and the digest of what was read."""

    id: str
    title: str
    digest: str


class Datastore:
    """Contexts and what followed them. Made by :meth:`build` or :meth:`open`.

    Attributes:
        keys: ``(entries, width)`` float16.
        token: ``(entries,)`` int64, what followed each context.
        document, start, end: ``(entries,)`` int64: the text that the token stands in, and its characters there (-1
            where the tokenizer does not tell).
        documents: the texts.
        site: where the keys were read.
        model: name and fingerprint of the model.
        scale: mean squared distance of a key from the nearest other one, over a sample.
    """

    def __init__(
        self,
        keys: NDArray[np.float16],
        columns: Mapping[str, Tensor],
        documents: Sequence[Told],
        site: Site,
        model: Mapping[str, str],
        scale: float,
    ) -> None:
        self.keys, self.documents, self.site, self.model, self.scale = keys, tuple(documents), site, dict(model), scale
        self.token, self.document, self.start, self.end = (columns[name] for name in _COLUMNS)
        self._held: Tensor | None = None

    @classmethod
    def build(
        cls,
        model: LanguageModel,
        texts: Iterable[str | Document],
        ids: Sequence[str] | None = None,
        *,
        site: Site | None = None,
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Datastore:
        """Read ``texts`` once, and keep the state before every token of them.

        Args:
            ids: of the texts; without them a text is called by its hash.
            site: where states are read.
            folder: new folder that it is written to; None keeps it in memory.

        Raises:
            EmptySetError: no text has a token that follows another one.
            RecordError: a text cannot be taken.
            StorageError: there is a datastore in the folder already, or the disk is full.
            StatisticsError: a state is not finite in float16.
            TargetError: the model has no such site.
        """
        documents, site, progress = (
            given_documents(texts, ids, None, None),
            site or Site(),
            progress or SilentProgress(),
        )
        found = [keyed(model, document.text) for document in documents]
        count, width = sum(len(one.tokens) for one in found), site.width(model.model)
        if not count:
            raise EmptySetError("no text has a token that follows another one", mend="give longer texts")
        told = [Told(document.id, document.title, document.digest) for document in documents]
        columns = _columns(found)
        about = {"name": model.name, "fingerprint": model.fingerprint}
        if folder is None:
            keys = np.empty((count, width), np.float16)
            fill_keys(model, found, site, keys, progress)
            return cls(keys, columns, told, site, about, _scale(keys))

        def write(version: Path) -> dict[str, Any]:
            keys = np.lib.format.open_memmap(version / KEYS, "w+", np.float16, (count, width))
            fill_keys(model, found, site, keys, progress)
            keys.flush()
            save_tensors(version / ENTRIES, columns)
            lines = [json.dumps(asdict(each), ensure_ascii=False) for each in told]
            (version / DOCUMENTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            said = {"kind": KIND, "keeps": __version__, "model": about, "site": asdict(site), "texts": _digest(told)}
            return {**said, "entries": count, "width": width, "scale": _scale(keys)}

        write_version(Path(folder), None, write)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path, *, check_all: bool = False) -> Datastore:
        """The datastore in ``folder``; keys are mapped into memory, not read.

        Args:
            check_all: compare every byte with what was written, also of a large one.

        Raises:
            StorageError: there is none, it is something else, or it is damaged.
        """
        path = Path(folder)
        manifest = read_manifest(path)
        if manifest.get("kind") != KIND:
            what = "the folder holds an index of passages, not a datastore of contexts"
            raise StorageError(what, where=str(path), mend="name another folder, or build one")
        version = check_files(path, manifest, every=check_all)
        try:
            keys = np.load(version / KEYS, mmap_mode="r", allow_pickle=False)
            lines = (version / DOCUMENTS).read_text(encoding="utf-8").splitlines()
            documents = [Told(**json.loads(line)) for line in lines]
            columns = load_tensors(version / ENTRIES)
            count, width = int(manifest["entries"]), int(manifest["width"])
            whole = (
                keys.shape == (count, width) and keys.dtype == np.float16 and _digest(documents) == manifest["texts"]
            )
            whole = whole and all(columns[name].shape == (count,) for name in _COLUMNS)
            whole = whole and 0 <= int(columns["document"].min()) <= int(columns["document"].max()) < len(documents)
            found = cls(keys, columns, documents, Site(**manifest["site"]), manifest["model"], float(manifest["scale"]))
        except OSError as error:
            raise storage_error(error, version, "read") from None
        except (ValueError, TypeError, KeyError, EOFError) as error:
            what = f"the datastore cannot be read ({str(error)[:100]})"
            raise StorageError(what, where=str(path), mend="build it again") from None
        if not whole:
            what = "the files of the datastore do not belong together"
            raise StorageError(what, where=str(path), mend="build it again")
        return found

    @classmethod
    def at(
        cls,
        folder: str | Path,
        model: LanguageModel,
        documents: Sequence[Document] | None,
        *,
        site: Site | None = None,
        progress: Progress | None = None,
    ) -> Datastore:
        """The datastore in ``folder``, checked against the model and the texts; built where there is none.

        Args:
            documents: what it should have been made of; None takes it as it is.

        Raises:
            SettingsError: it was made with another model, at another site, or of other texts.
            KeepsError: as :meth:`open` and :meth:`build`.
        """
        if documents is not None and not (Path(folder) / MANIFEST).exists():
            return cls.build(model, documents, site=site, folder=folder, progress=progress)
        found = cls.open(folder)
        found.check(model, site)
        if documents is not None:
            wanted = _digest([Told(one.id, one.title, one.digest) for one in documents])
            if wanted != _digest(found.documents):
                what = "the texts have changed since the datastore was made"
                raise SettingsError(what, where=str(folder), mend="build it again in a new folder")
        return found

    def check(self, model: LanguageModel, site: Site | None = None) -> None:
        """Refuse another model than the one that the keys are of, or another site where one is named.

        Raises:
            SettingsError: it is.
        """
        fingerprint = model.fingerprint
        if fingerprint != self.model["fingerprint"]:
            this, that = f"{model.name} ({fingerprint})", f"{self.model['name']} ({self.model['fingerprint']})"
            what = f"the datastore was made with the model {that}, and this is {this}"
            raise SettingsError(what, where="datastore", mend="take that model, or build the datastore again")
        if site is not None and site != self.site:
            what = f"the datastore was made at the site {self.site}, not {site}"
            raise SettingsError(what, where="datastore", mend="leave the site out, or build the datastore again")

    def __len__(self) -> int:
        return len(self.token)

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The nearest entries to each query, exactly; see :func:`keeps.numerics.nearest.nearest`."""
        return nearest(queries, self._blocks(), k)

    def _blocks(self) -> Iterator[Tensor]:
        if 4 * self.keys.size <= HELD_BYTES:
            if self._held is None:
                self._held = torch.from_numpy(in_float32(self.keys))
            yield from self._held.split(BLOCK)
            return
        for start in range(0, len(self), BLOCK):
            yield torch.from_numpy(in_float32(self.keys[start : start + BLOCK]))


def _columns(found: Sequence[Keyed]) -> dict[str, Tensor]:
    """Tokens, documents and places of all texts, one behind another."""
    owners = [number for number, one in enumerate(found) for _ in one.tokens]
    places = np.array([place for one in found for place in one.places], np.int64).reshape(-1, 2)
    values = ([token for one in found for token in one.tokens], owners, places[:, 0], places[:, 1])
    return {name: torch.tensor(np.asarray(value, np.int64)) for name, value in zip(_COLUMNS, values, strict=True)}


def _digest(documents: Sequence[Told]) -> str:
    return digest(*(part for one in documents for part in (one.id, one.title, one.digest)))


def _scale(keys: NDArray[np.float16]) -> float:
    """Mean squared distance of a sample of keys from the nearest other key; 1 where there is one key."""
    if len(keys) < 2:
        return 1.0
    rows = np.unique(np.linspace(0, len(keys) - 1, SAMPLE).astype(np.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a mapped file is not writable, and nothing is written
        queries = torch.from_numpy(in_float32(keys[rows]))
        pieces = (torch.from_numpy(in_float32(keys[n : n + BLOCK])) for n in range(0, len(keys), BLOCK))
        distances, _ = nearest(queries, pieces, 2)
    return max(float(distances[:, 1].mean()), 1e-6)
