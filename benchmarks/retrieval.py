"""Search of 100,000 chunks: seconds to open, milliseconds a query, recall against brute force; BM25 against its peers.

    OMP_NUM_THREADS=1 python benchmarks/retrieval.py --chunks 100000 --queries 200

Texts are invented words with the frequencies of a language (Zipf), 60 to a chunk; vectors are random, since encoding a
query is not counted. Opening is measured in a process that has imported everything and has read nothing. The ratio of
BM25 is that of CPU seconds, turn by turn in one run: bm25s' own indexing and top-k, and rank-bm25 where installed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 384
WORDS_PER_CHUNK = 60
VOCABULARY = 50_000
PEER_CHUNKS = 10_000
DEPTH = 10


class RandomVectors:
    """An encoder that costs nothing: a vector that depends on the text alone."""

    name, truncated, fingerprint, width = "random", 0, "random", WIDTH

    def passages(self, texts: Sequence[str]) -> Any:
        seeds = [int.from_bytes(text.encode()[-8:], "little") for text in texts]
        found = np.stack([np.random.default_rng(seed).standard_normal(WIDTH, np.float32) for seed in seeds])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    queries = passages


def invented(count: int, seed: int) -> list[str]:
    """Texts, each with a number of its own at the end."""
    chance = random.Random(seed)
    words = [f"w{number}" for number in range(VOCABULARY)]
    weights = np.cumsum(1 / (np.arange(VOCABULARY) + 3)).tolist()
    texts = (chance.choices(words, cum_weights=weights, k=WORDS_PER_CHUNK - 1) for _ in range(count))
    return [" ".join([*text, f"n{number:07d}"]) for number, text in enumerate(texts)]


def make(folder: Path, count: int) -> dict[str, float]:
    """Build and save the index; seconds of each."""
    from keeps.retrieval import Corpus

    corpus = Corpus.create(folder, encoder=RandomVectors())
    corpus.add(invented(count, 0), ids=[f"d{number:07d}" for number in range(count)])
    started = time.perf_counter()
    corpus.table()
    indexed = time.perf_counter()
    corpus.save()
    saved = time.perf_counter()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    corpus.update("d0000007", "another text")
    changed = time.perf_counter()
    corpus.table()
    seconds = {"index_s": indexed - started, "save_s": saved - indexed, "update_one_s": time.perf_counter() - changed}
    return {**seconds, "bytes_per_chunk": size / count}


def search(folder: Path, count: int, queries: int) -> dict[str, Any]:
    """Open and query; recall against every product and every BM25 sum written out with numpy."""
    import bm25s  # noqa: F401  (imports are no part of opening)

    from keeps.retrieval import Corpus, HybridRetriever
    from keeps.retrieval.words import words_of

    Corpus.create(encoder=RandomVectors())
    started, used = time.perf_counter(), time.process_time()
    corpus = Corpus.open(folder, encoder=RandomVectors())
    opened = {"open_s": time.perf_counter() - started, "open_cpu_s": time.process_time() - used}
    hybrid = HybridRetriever(corpus)
    words, meaning = HybridRetriever(corpus, dense=False), HybridRetriever(corpus, lexical=False)
    texts = invented(count, 0)
    chance = random.Random(1)
    asked = [" ".join(chance.sample(texts[chance.randrange(count)].split(), 8)) for _ in range(queries)]
    clock, cpu = [], []
    for query in asked:
        started, used = time.perf_counter(), time.process_time()
        hybrid.search(query, DEPTH)
        clock.append(1000 * (time.perf_counter() - started))
        cpu.append(1000 * (time.process_time() - used))
    table = corpus.table()
    assert table.vectors is not None
    every = table.vectors.rows.astype(np.float32)
    reference = ByHand(table)
    recall_words, recall_meaning = [], []
    for query in asked[:50]:
        scores = every @ RandomVectors().queries([query])[0]
        wanted = np.argsort(-np.round(scores.astype(np.float64), 6), kind="stable")[:DEPTH]
        found = {hit.id for hit in meaning.search(query, DEPTH)}
        recall_meaning.append(len(found & {table.chunk_id(int(row)) for row in wanted}) / DEPTH)
        exact = reference.scores(words_of(query))
        top = np.argsort(-np.round(exact, 6), kind="stable")[:DEPTH]
        top = top[exact[top] > 0]
        found = {hit.id for hit in words.search(query, DEPTH)}
        recall_words.append(len(found & {table.chunk_id(int(row)) for row in top}) / len(top))
    p95 = float(np.quantile(clock[1:], 0.95))
    quantiles = {"p50_ms": statistics.median(clock), "p95_ms": p95, "first_ms": clock[0]}
    cpu_quantiles = {"p50_cpu_ms": statistics.median(cpu), "p95_cpu_ms": float(np.quantile(cpu[1:], 0.95))}
    recalls = {"recall_words": statistics.mean(recall_words), "recall_meaning": statistics.mean(recall_meaning)}
    return {**opened, **quantiles, **cpu_quantiles, **recalls}


class ByHand:
    """BM25 of every chunk from the counts, word by word in float64."""

    def __init__(self, table: Any) -> None:
        counts = table.lexical.counts()
        self.groups = table.groups
        self.places = {word: place for place, word in enumerate(counts.vocabulary)}
        self.columns = counts.matrix.tocsc().astype(np.float64)
        self.lengths = np.asarray(counts.matrix.sum(axis=1)).ravel().astype(np.float64)

    def scores(self, query: list[str]) -> Any:
        """``(chunks,)`` float64."""
        total = np.zeros(len(self.lengths))
        for word in query:
            tf = self.columns[:, [self.places[word]]].toarray().ravel()
            having = (tf > 0).sum()
            idf = np.log(1 + (len(total) - having + 0.5) / (having + 0.5))
            total += idf * tf / (tf + 1.5 * (0.25 + 0.75 * self.lengths / self.lengths.mean()))
        return total[self.groups]


def peers(rounds: int) -> dict[str, float]:
    """CPU seconds of indexing and of queries, peer / keeps."""
    import bm25s

    from keeps.retrieval.counts import Counts
    from keeps.retrieval.lexical import BM25
    from keeps.retrieval.ranking import best_rows

    texts = [text.split() for text in invented(PEER_CHUNKS, 2)]
    asked = [text[:8] for text in texts[::100]]

    def bm25s_index() -> Any:
        made = bm25s.BM25(k1=1.5, b=0.75, method="lucene", backend="numpy")
        made.index(texts, show_progress=False)
        return made

    theirs, ours = bm25s_index(), BM25.of(Counts.of(texts))
    worst = max(float(np.abs(ours.scores(query) - theirs.get_scores(query)).max()) for query in asked)
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "bm25s_index": (bm25s_index, lambda: BM25.of(Counts.of(texts))),
        "bm25s_query": (
            lambda: [theirs.retrieve([query], k=DEPTH, show_progress=False) for query in asked],
            lambda: [best_rows(ours.scores(query), DEPTH, above=0.0) for query in asked],
        ),
    }
    try:
        from rank_bm25 import BM25Okapi  # pyright: ignore[reportMissingImports]  (optional)

        okapi = BM25Okapi(texts)
        pairs["rank_bm25_query"] = (lambda: [okapi.get_top_n(q, texts, DEPTH) for q in asked], pairs["bm25s_query"][1])
    except ImportError:
        pass
    found = {"largest_difference": worst}
    for name, (peer, mine) in pairs.items():
        ratios = []
        for _ in range(rounds):
            seconds = []
            for run in (peer, mine):
                started = time.process_time()
                run()
                seconds.append(time.process_time() - started)
            ratios.append(seconds[0] / seconds[1])
        found[f"{name}_ratio"] = statistics.median(ratios)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the process that searches
    given = parser.parse_args()
    if given.folder is not None:
        print(json.dumps(search(given.folder, given.chunks, given.queries)))
        return
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder) / "kb", given.chunks)
        command = [sys.executable, __file__, "--folder", f"{folder}/kb", "--chunks", str(given.chunks)]
        command += ["--queries", str(given.queries)]
        searched = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    print(json.dumps({"chunks": given.chunks, **made, **json.loads(searched), **peers(given.rounds)}, indent=2))


if __name__ == "__main__":
    main()
