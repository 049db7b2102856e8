"""A small graph and a small encoder for tests of KGQuiz."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from keeps.data.triples import Triple, TripleSet


class Letters:
    """An encoder that counts letters: enough to tell equal texts from others."""

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        counts = torch.tensor([[text.lower().count(chr(97 + n)) for n in range(26)] + [1] for text in texts]).float()
        return torch.nn.functional.normalize(counts, dim=1)


def ring(size: int = 12) -> TripleSet:
    """Towns along a river, with mayors: chains of any length, and seven facts of the first town."""
    towns = [f"{'ABCDEFGHIJKLMNOP'[n]}{'aeiou'[n % 5]}ville" for n in range(size)]
    rows = [Triple(town, "flows to", towns[(n + 1) % size]) for n, town in enumerate(towns)]
    rows += [Triple(town, "has mayor", f"Mayor {town[:3]}") for town in towns]
    rows += [Triple(towns[0], f"fact {n}", f"Thing{n}") for n in range(5)]
    return TripleSet.of("ring.tsv", rows)
