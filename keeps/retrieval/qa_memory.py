"""A memory of question-answer pairs that are read, edited and deleted one by one, and found by their questions.

    memory = QAMemory()
    memory.add([QA("What is the capital of Norway?", "Oslo", "norway")])
    memory.search("Name Norway's capital", k=1)
    memory.update("norway", answer="Bergen")
    memory.delete("norway")
    memory.save("memory")

A pair's key depends on its question alone, so that a query without an answer matches it: another answer leaves every
key as it is, to the last bit, and so does everything that is done to other pairs. Keys are kept in float16 beside the
pairs (arXiv:2204.04581 keeps token states too, terabytes of them; they are made again from the text when read).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeps.contracts import Progress, SilentProgress
from keeps.data.pairs import QA
from keeps.errors import RecordError, SettingsError, StorageError, UnknownNameError, nearest
from keeps.retrieval.dense import DTYPE, Vectors
from keeps.retrieval.embedders import Embedder, SentenceEmbedder, make_embedder
from keeps.retrieval.generations import MANIFEST, check_files, read_manifest, write_version
from keeps.retrieval.ranking import best_rows
from keeps.retrieval.words import normalised
from keeps.versions import __version__
from keeps.weights.files import storage_error

KIND = "question-answer memory"
PAIRS, KEYS = "pairs.jsonl", "keys.npy"
AT_ONCE = 256  # questions
FIELDS = tuple(QA.__dataclass_fields__)


class QAMemory:
    """Pairs and their keys, in the order in which they were added; ``encoder`` is the embedded one by default.

    ``len(memory)`` is the number of pairs, ``id in memory`` asks for one, iteration gives the pairs.
    """

    def __init__(self, encoder: Embedder | str | Path | None = None) -> None:
        self.encoder = _embedder(encoder)
        self._pairs: dict[str, QA] = {}
        self._keys: NDArray[np.float16] = np.empty((0, self.encoder.width), DTYPE)
        self._vectors: Vectors | None = None
        self._folder: Path | None = None
        self._version: str | None = None

    def __len__(self) -> int:
        return len(self._pairs)

    def __contains__(self, name: object) -> bool:
        return name in self._pairs

    def __iter__(self) -> Iterator[QA]:
        return iter(self._pairs.values())

    @property
    def keys(self) -> NDArray[np.float16]:
        """``(pairs, width)`` float16, a row a pair in order; not to be written to."""
        view = self._keys.view()
        view.flags.writeable = False
        return view

    def get(self, id: str) -> QA:  # noqa: A002
        """A pair.

        Raises:
            UnknownNameError: there is none of this id.
        """
        if id not in self._pairs:
            raise UnknownNameError(f'there is no pair "{id}"', where="QAMemory", mend=nearest(id, list(self._pairs)))
        return self._pairs[id]

    # --- changing ---------------------------------------------------------------------------------

    def add(self, pairs: Iterable[QA], *, progress: Progress | None = None) -> list[str]:
        """Add pairs; all of them, or none if one is refused. The same question and answer stand in the memory once.

        Returns:
            Of each pair its id, or that of the pair that says the same already.

        Raises:
            RecordError: an id belongs to another pair already.
        """
        same = {_words(pair): pair.id for pair in self}
        fresh: dict[str, QA] = {}
        ids = []
        for pair in pairs:
            known = self._pairs.get(pair.id) or fresh.get(pair.id)
            if known is not None and _words(known) != _words(pair):
                mend = "choose another id, or update the pair that is there"
                raise RecordError(f'the id "{pair.id[:80]}" is there already', where="QAMemory.add", mend=mend)
            if _words(pair) not in same:
                same[_words(pair)] = pair.id
                fresh[pair.id] = pair
            ids.append(same[_words(pair)])
        made = self._encoded([pair.question for pair in fresh.values()], progress)
        self._put({**self._pairs, **fresh}, np.concatenate([self._keys, made]))
        return ids

    def update(self, id: str, *, question: str | None = None, answer: str | None = None) -> QA:  # noqa: A002
        """Replace question or answer of a pair; its place stays, and its key where the question does.

        Raises:
            UnknownNameError: there is no such pair.
            RecordError: question or answer is empty or too long, or neither is given.
        """
        old = self.get(id)
        if question is None and answer is None:
            raise RecordError("neither question nor answer is given", where=id, mend="say what the pair becomes")
        given = {"question": question, "answer": answer}
        new = replace(old, **{name: text for name, text in given.items() if text is not None})
        keys = self._keys
        if new.question != old.question:
            keys = keys.copy()
            keys[list(self._pairs).index(id)] = self._encoded([new.question])[0]
        self._put({**self._pairs, id: new}, keys)
        return new

    def delete(self, ids: str | Iterable[str]) -> None:
        """Take pairs out; all of them, or none if one is unknown.

        Raises:
            UnknownNameError: there is no such pair.
        """
        gone = {self.get(name).id for name in ([ids] if isinstance(ids, str) else ids)}
        kept = [place for place, name in enumerate(self._pairs) if name not in gone]
        self._put({name: pair for name, pair in self._pairs.items() if name not in gone}, self._keys[kept])

    def refresh(self, progress: Progress | None = None) -> None:
        """Make every key anew by the encoder, whose weights have changed."""
        self._put(self._pairs, self._encoded([pair.question for pair in self], progress))

    def _put(self, pairs: Mapping[str, QA], keys: NDArray[np.float16]) -> None:
        self._pairs, self._keys, self._vectors = dict(pairs), keys, None

    def _encoded(self, questions: Sequence[str], progress: Progress | None = None) -> NDArray[np.float16]:
        """``(questions, width)``.

        Raises:
            RecordError: the encoder gives numbers that are not finite in float16.
        """
        made = [np.empty((0, self.encoder.width), DTYPE)]
        with (progress or SilentProgress()).task("Encode questions", len(questions)) as task:
            for start in range(0, len(questions), AT_ONCE):
                batch = questions[start : start + AT_ONCE]
                with np.errstate(over="ignore"):
                    made.append(np.asarray(self.encoder.passages(batch)).astype(DTYPE))
                task.advance(len(batch))
        keys = np.concatenate(made)
        if not np.isfinite(keys).all():
            raise RecordError("a key holds a number that is not finite", where="QAMemory", mend="check the encoder")
        return keys

    # --- searching --------------------------------------------------------------------------------

    def search(self, question: str, k: int = 8, *, per_answer: int = 0) -> list[tuple[QA, float]]:
        """The ``k`` pairs whose keys have the largest inner products with the question's vector, best first.

        Args:
            per_answer: most pairs with one answer, so that rewordings of one question leave room; 0: any number.

        Raises:
            RecordError: the question is empty.
            SettingsError: ``k`` is below 1.
        """
        if not question.strip():
            raise RecordError("the question is empty", where="QAMemory.search", mend="give a question")
        return self.nearest(self.encoder.queries([question])[0], k, per_answer=per_answer)

    def nearest(
        self, query: NDArray, k: int, *, per_answer: int = 0, without: Iterable[str] = ()
    ) -> list[tuple[QA, float]]:
        """As :meth:`search`, of a vector ``(width,)``; pairs whose id is in ``without`` are passed over."""
        if k < 1 or per_answer < 0:
            what = f"k is {k} and per_answer is {per_answer}"
            raise SettingsError(what, where="QAMemory.search", mend="search for at least one pair")
        if not len(self):
            return []
        query = np.asarray(query, np.float32)
        if query.shape != (self.encoder.width,) or not np.isfinite(query).all():
            what = f"a query of shape {query.shape} does not fit keys of {self.encoder.width} finite numbers"
            raise RecordError(what, where="QAMemory.search", mend="encode it with the memory's encoder")
        self._vectors = self._vectors or Vectors(self._keys)
        scores = self._vectors.products(query)
        pairs, left_out = list(self), frozenset(without)
        wanted = len(pairs) if per_answer else min(len(pairs), k + len(left_out))
        found: list[tuple[QA, float]] = []
        answers: Counter[str] = Counter()
        for row in best_rows(scores, wanted).tolist():
            pair = pairs[row]
            said = normalised(pair.answer)
            if pair.id in left_out or (per_answer and answers[said] >= per_answer):
                continue
            answers[said] += 1
            found.append((pair, float(scores[row])))
            if len(found) == k:
                break
        return found

    # --- on the disk ------------------------------------------------------------------------------

    def save(self, folder: str | Path | None = None) -> None:
        """Write the memory: ``pairs.jsonl``, ``keys.npy`` and which encoder made the keys; whole or not at all.

        Args:
            folder: default: where it was opened or last saved.

        Raises:
            SettingsError: there is no folder.
            StorageError: another process has changed it since, something else lies there, or the disk is full.
        """
        path = self._folder if folder is None else Path(folder)
        if path is None:
            raise SettingsError("the memory has no folder", where="QAMemory.save", mend="name one")
        self._version = self._write(path, self._version if path == self._folder else None)
        self._folder = path

    def copy_to(self, folder: str | Path) -> None:
        """As :meth:`save` into another folder; later saves go where they went before."""
        self._write(Path(folder), None)

    def _write(self, folder: Path, before: str | None) -> str:
        def write(version: Path) -> dict[str, Any]:
            lines = [json.dumps(asdict(pair), ensure_ascii=False) for pair in self]
            (version / PAIRS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            np.save(version / KEYS, self._keys, allow_pickle=False)
            made_by = {name: getattr(self.encoder, name) for name in ("name", "fingerprint", "width")}
            return {"keeps": __version__, "kind": KIND, "encoder": made_by, "pairs": len(self)}

        return write_version(folder, before, write)["version"]

    @classmethod
    def open(cls, folder: str | Path, *, encoder: Embedder | str | Path | None = None) -> QAMemory:
        """The memory in ``folder``.

        Args:
            encoder: the one that made the keys, where its name does not lead to it.

        Raises:
            StorageError: there is none, it is damaged, or its files do not belong together.
            SettingsError: the encoder is another one than that of the keys.
        """
        path = Path(folder)
        manifest = read_manifest(path)
        said = manifest.get("encoder")
        if manifest.get("kind") != KIND or not isinstance(said, dict) or not {"name", "fingerprint"} <= said.keys():
            mend = "name the folder of a memory, or a file of pairs"
            raise StorageError("this folder holds no memory of pairs", where=str(path / MANIFEST), mend=mend)
        version = check_files(path, manifest, every=True)
        chosen = _embedder(said["name"] if encoder is None else encoder)
        if chosen.fingerprint != said["fingerprint"]:
            what = f'the keys were made by "{said["name"]}" ({said["fingerprint"]}), and this is "{chosen.name}"'
            mend = "give the encoder that made them, or make the memory again"
            raise SettingsError(f"{what} ({chosen.fingerprint})", where=str(path), mend=mend)
        found = cls(chosen)
        pairs, keys = _read(version, chosen.width)
        found._put(pairs, keys)
        found._folder, found._version = path, manifest["version"]
        return found


def _read(version: Path, width: int) -> tuple[dict[str, QA], NDArray[np.float16]]:
    try:
        lines = (version / PAIRS).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        if any(not isinstance(row, dict) or set(row) != set(FIELDS) for row in rows):
            raise ValueError("a pair has another form")
        pairs = {row["id"]: QA(**row) for row in rows}
        keys = np.load(version / KEYS, allow_pickle=False)
    except OSError as error:
        raise storage_error(error, version, "read") from None
    except (ValueError, TypeError, RecursionError, EOFError, RecordError) as error:
        what = f"the memory cannot be read ({str(error)[:200]})"
        raise StorageError(what, where=str(version), mend="make it again") from None
    whole = keys.dtype == DTYPE and keys.shape == (len(rows), width) and len(pairs) == len(rows)
    if not whole or not np.isfinite(keys).all():
        raise StorageError("pairs and keys do not belong together", where=str(version), mend="make the memory again")
    return pairs, keys


def _embedder(encoder: Embedder | str | Path | None) -> Embedder:
    return make_embedder(encoder) or SentenceEmbedder()


def _words(pair: QA) -> tuple[str, str]:
    return normalised(pair.question), normalised(pair.answer)
