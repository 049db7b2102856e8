"""Where the tokens of one tokenizer stand beside those of another, in the same text.

Two ways: by the bytes that tokens cover (exact; the default), and by dynamic time warping of the edit distance between
token strings (FuseLLM, Wan et al. 2024, arXiv:2401.10491), for tokenizers that do not say where their tokens stand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from keeps.errors import SettingsError, nearest
from keeps.models.token_bytes import Span, TokenBytes
from keeps.numerics.warping import Costs, warped_costs, warping_path

ALIGNMENTS = ("bytes", "dtw")


def align_tokens(
    text: str,
    source_ids: Sequence[int],
    target_ids: Sequence[int],
    source: TokenBytes,
    target: TokenBytes,
    method: str = "bytes",
) -> list[list[int]]:
    """For each target position the source positions beside it, in order.

    Special tokens stand beside the special token of the same role (``bos``, ``eos``) at the same end of the text, or
    beside none.

    Args:
        text: what both are tokens of.
        method: ``"bytes"``: whose bytes overlap; ``"dtw"``: on the cheapest warping path.

    Raises:
        UnknownNameError, SettingsError: no such method, or bytes cannot be told (see :meth:`TokenBytes.spans`).

    Same tokenizer, same tokens: the identity, by either method.
    """
    if method not in ALIGNMENTS:
        raise SettingsError(f'there is no alignment "{method}"', mend=nearest(method, ALIGNMENTS))
    found: list[list[int]] = [[] for _ in target_ids]
    inner_source = _ends(source_ids, source)
    inner_target = _ends(target_ids, target)
    for side in (0, 1):
        _beside(found, source_ids, target_ids, source, target, inner_source, inner_target, side)
    ours = range(*inner_target)
    theirs = range(*inner_source)
    if not ours or not theirs:
        return found
    if method == "bytes":
        spans = source.spans(text, [source_ids[n] for n in theirs]), target.spans(text, [target_ids[n] for n in ours])
        inner = overlaps(*spans)
    else:
        cost = edit_costs([source.bare(source_ids[n]) for n in theirs], [target.bare(target_ids[n]) for n in ours])
        inner = [[] for _ in ours]
        for row, column in warping_path(warped_costs(cost)):
            inner[column].append(row)
    for place, rows in zip(ours, inner, strict=True):
        found[place] = [theirs[row] for row in rows]
    return found


def overlaps(source: Sequence[Span], target: Sequence[Span]) -> list[list[int]]:
    """For each target span the source spans that share a byte with it; both are in the order of the text.

    >>> overlaps([(0, 3), (3, 4), (4, 9)], [(0, 4), (4, 6), (6, 9), (9, 9)])
    [[0, 1], [2], [2], []]
    """
    found, first = [], 0
    for start, end in target:
        while first < len(source) and source[first][1] <= start:
            first += 1
        here, place = [], first
        while place < len(source) and source[place][0] < end:
            if source[place][1] > max(start, source[place][0]):
                here.append(place)
            place += 1
        found.append(here)
    return found


def edit_costs(source: Sequence[bytes], target: Sequence[bytes]) -> Costs:
    """Levenshtein distance of every pair, ``(source, target)``; each distinct pair is computed once.

    >>> edit_costs([b"cat", b"a"], [b"cut", b"a", b""]).tolist()
    [[1.0, 2.0, 3.0], [3.0, 0.0, 1.0]]
    """
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    rows, columns = (list(dict.fromkeys(side)) for side in (source, target))
    letters = ([value.decode("latin-1") for value in side] for side in (rows, columns))
    table = cdist(*letters, scorer=Levenshtein.distance)
    places = [{value: place for place, value in enumerate(side)} for side in (rows, columns)]
    chosen = np.ix_([places[0][value] for value in source], [places[1][value] for value in target])
    return table.astype(np.float64)[chosen]


def _ends(ids: Sequence[int], tokens: TokenBytes) -> tuple[int, int]:
    """Where the text begins and ends between special tokens."""
    start, end = 0, len(ids)
    while start < end and ids[start] in tokens.marks:
        start += 1
    while end > start and ids[end - 1] in tokens.marks:
        end -= 1
    return start, end


def _beside(
    found: list[list[int]],
    source_ids: Sequence[int],
    target_ids: Sequence[int],
    source: TokenBytes,
    target: TokenBytes,
    inner_source: tuple[int, int],
    inner_target: tuple[int, int],
    side: int,
) -> None:
    """Put special tokens in front of (side 0) or behind (1) the text beside those of the same role."""
    theirs = range(inner_source[0]) if side == 0 else range(inner_source[1], len(source_ids))
    ours = range(inner_target[0]) if side == 0 else range(inner_target[1], len(target_ids))
    # one token may have several roles: what begins a text may be what ends one
    roles = [defaultdict(set), defaultdict(set)]
    for which, tokens in enumerate((source, target)):
        for name, number in tokens.roles().items():
            roles[which][number].add(name)
    wanted = "bos" if side == 0 else "eos"
    for place in ours:
        names = roles[1][target_ids[place]] & {wanted, "bos", "eos"}
        found[place] = [row for row in theirs if names & roles[0][source_ids[row]]][:1]
