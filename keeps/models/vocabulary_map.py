"""Which token of one vocabulary stands for each token of another.

Three ways: the same bytes (``exact``), else the token of least edit distance (``mined``: FuseLLM's MinED,
arXiv:2401.10491), or the one that stands in the same place most often in a corpus (``statistics``: FuseChat,
arXiv:2402.16107).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keeps.errors import SettingsError, StorageError, nearest
from keeps.models.token_alignment import align_tokens
from keeps.models.token_bytes import TokenBytes
from keeps.weights.files import atomic_write_bytes

MAPPINGS = ("exact", "mined", "statistics")
FORMAT = 1
NONE = -1  # the target of a token that has none


@dataclass(frozen=True)
class VocabularyMap:
    """Which target token stands for each source token.

    Attributes:
        method: one of :data:`MAPPINGS`.
        source, target: fingerprints of the vocabularies.
        targets: ``(source vocabulary,)`` int64, -1 where there is none.
        exact: bool, where both tokens are the same bytes, or special tokens of the same role.
    """

    method: str
    source: str
    target: str
    targets: np.ndarray
    exact: np.ndarray

    @classmethod
    def build(
        cls,
        source: TokenBytes,
        target: TokenBytes,
        method: str = "exact",
        *,
        ids: Iterable[int] | None = None,
        texts: Sequence[str] = (),
    ) -> VocabularyMap:
        """Map a vocabulary.

        Args:
            ids: map these source tokens alone (``mined`` compares each with the whole target vocabulary).
            texts: a corpus, for ``statistics``.

        Raises:
            SettingsError: no such method, or statistics without texts.
        """
        if method not in MAPPINGS:
            raise SettingsError(f'there is no mapping "{method}"', mend=nearest(method, MAPPINGS))
        if method == "statistics" and not texts:
            raise SettingsError("statistics need texts", where="mapping", mend="give texts, or take another mapping")
        targets = np.full(source.size, NONE, dtype=np.int64)
        exact = np.zeros(source.size, dtype=bool)
        wanted = range(source.size) if ids is None else sorted(set(ids))
        roles = target.roles()
        for name, number in source.roles().items():
            if name in roles:
                targets[number], exact[number] = roles[name], True
        for number in wanted:
            same = target.of_bytes.get(source.bytes[number]) if source.bytes[number] else None
            if same is not None:
                targets[number], exact[number] = same, True
        missing = [number for number in wanted if targets[number] == NONE and source.bytes[number]]
        if method == "mined":
            for number, found in mined(missing, source, target).items():
                targets[number] = found
        elif method == "statistics":
            for number, found in together(texts, source, target).items():
                if targets[number] == NONE:
                    targets[number] = found
        return cls(method, source.fingerprint, target.fingerprint, targets, exact)

    @property
    def exact_share(self) -> float:
        """Share of the mapped tokens that are the same on both sides."""
        return float(self.exact.sum() / max((self.targets != NONE).sum(), 1))

    def check(self, source: TokenBytes, target: TokenBytes) -> None:
        """Refuse other vocabularies than those it was made for.

        Raises:
            SettingsError: a fingerprint differs.
        """
        if (self.source, self.target) != (source.fingerprint, target.fingerprint):
            raise SettingsError("the map is of other vocabularies", where="vocabulary map", mend="build it again")

    def save(self, path: str | Path) -> None:
        """Write a JSON file.

        Raises:
            StorageError: the disk is full or the folder is not writable.
        """
        mapped = {
            str(n): [int(t), bool(e)]
            for n, (t, e) in enumerate(zip(self.targets, self.exact, strict=True))
            if t != NONE
        }
        values = {"format": FORMAT, "method": self.method, "source": self.source, "target": self.target}
        text = json.dumps({**values, "size": len(self.targets), "map": mapped})
        atomic_write_bytes(Path(path), (text + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> VocabularyMap:
        """Read what :meth:`save` wrote.

        Raises:
            StorageError: the file is missing, damaged, or of another format.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']}")
            targets = np.full(int(values["size"]), NONE, dtype=np.int64)
            exact = np.zeros(len(targets), dtype=bool)
            for number, (found, same) in values["map"].items():
                targets[int(number)], exact[int(number)] = found, same
            return cls(values["method"], values["source"], values["target"], targets, exact)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise StorageError(
                f"the vocabulary map cannot be read ({error})", where=str(path), mend="build it again"
            ) from None


def mined(ids: Iterable[int], source: TokenBytes, target: TokenBytes) -> dict[int, int]:
    """The target token of least edit distance for each of ``ids``; of equals the one nearest in length, then the first.

    Target tokens are looked at by length, outwards from the source token's own; a length that differs by more than
    the best distance holds nothing better.
    """
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import extractOne

    by_length: Mapping[int, list[tuple[int, str]]] = defaultdict(list)
    for value, number in sorted(target.of_bytes.items(), key=lambda item: item[1]):
        by_length[len(value)].append((number, _text(value)))
    names = {length: [name for _, name in group] for length, group in by_length.items()}
    longest = max(by_length, default=0)
    found: dict[int, int] = {}
    for number in ids:
        text = _text(source.bytes[number])
        best: tuple[int, int] | None = None  # distance, token
        for apart in range(max(longest, len(text)) + 1):
            if best is not None and apart >= best[0]:
                break
            for length in sorted({len(text) - apart, len(text) + apart} & by_length.keys()):
                limit = None if best is None else best[0] - 1
                match = extractOne(text, names[length], scorer=Levenshtein.distance, score_cutoff=limit)
                if match is not None:
                    best = int(match[1]), by_length[length][match[2]][0]
        if best is not None:
            found[number] = best[1]
    return found


def together(texts: Sequence[str], source: TokenBytes, target: TokenBytes) -> dict[int, int]:
    """The target token that each source token stands beside most often; of equals the smallest id."""
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for text in texts:
        theirs, ours = source.encode(text), target.encode(text)
        for place, rows in enumerate(align_tokens(text, theirs, ours, source, target)):
            for row in rows:
                counts[theirs[row]][ours[place]] += 1
    return {number: min(beside, key=lambda t: (-beside[t], t)) for number, beside in counts.items()}


def _text(value: bytes) -> str:
    """Bytes as letters, one each."""
    return value.decode("latin-1")
