"""Documents as users name them: a folder of texts, one file, or the folder of an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keeps.contracts import Progress, SilentProgress
from keeps.errors import EmptySetError, InputFileError, SettingsError, nearest
from keeps.graphs.graph_files import read_graph
from keeps.retrieval.corpus import Corpus
from keeps.retrieval.generations import MANIFEST
from keeps.retrieval.hybrid import HybridRetriever
from keeps.retrieval.reading import read_documents
from keeps.sources import Hit, Retriever

KINDS = ("hybrid", "lexical", "dense")
NAMED = 3  # files that could not be read, in a message


class Remembering:
    """A retriever that remembers the texts it gave, by id, so that citations can be graded."""

    def __init__(self, source: Retriever) -> None:
        self.source = source
        self.texts: dict[str, str] = {}

    @property
    def corpus(self) -> Any:
        """What citations are verified against; None where the retriever has no corpus."""
        return getattr(self.source, "corpus", None)

    def __len__(self) -> int:
        size = getattr(self.source, "__len__", None)
        return 1 if size is None else size()

    def search(self, query: str, k: int) -> list[Hit]:
        """As the retriever itself."""
        hits = self.source.search(query, k)
        self.texts.update((hit.id, hit.text) for hit in hits)
        return hits


def check_documents(docs: str | Path) -> None:
    """Refuse a path where nothing is, before a model is loaded.

    Raises:
        InputFileError: there is no such file or folder.
        EmptySetError: the folder is empty.
    """
    path = Path(docs)
    if not path.exists():
        raise InputFileError("there is no such file or folder", where=str(docs), mend="check --docs")
    if path.is_dir() and not any(path.iterdir()):
        raise EmptySetError("the folder is empty", where=str(docs), mend="put documents into it")


def check_sources(docs: Any, retriever: str) -> None:
    """Refuse a path where nothing is and a way of searching that there is not, before a model is loaded.

    Raises:
        SettingsError: ``retriever`` is none of :data:`KINDS`.
        InputFileError, EmptySetError: as :func:`check_documents`.
    """
    if retriever not in KINDS:
        raise SettingsError(f'the retriever is "{retriever}"', where="retriever", mend=nearest(retriever, KINDS))
    if isinstance(docs, (str, Path)):
        check_documents(docs)


def open_source(docs: Any, graph: Any, retriever: str, *, progress: Progress | None = None) -> Any:
    """What methods look into: documents opened, a retriever as it is, or where there are neither, the graph."""
    if docs is None:
        return open_graph(graph)
    return open_documents(docs, retriever, progress=progress) if isinstance(docs, (str, Path)) else docs


def open_graph(graph: Any) -> Any:
    """The graph of a file of triples; a graph as it is.

    Raises:
        KeepsError: the file is missing, damaged or of no known format.
    """
    return read_graph(graph) if isinstance(graph, (str, Path)) else graph


def open_documents(docs: str | Path, retriever: str, *, progress: Progress | None = None) -> HybridRetriever:
    """A retriever over ``docs``: the index that lies there, or one in memory over what can be read.

    Files that cannot be read are named by ``progress``: an answer that stood in one would be missed.

    Raises:
        EmptySetError: nothing can be read, or the index is empty.
        KeepsError: the encoder or the index is not to be had.
    """
    path, progress = Path(docs), progress or SilentProgress()
    check_documents(path)
    if (path / MANIFEST).exists():
        corpus = Corpus.open(path)
    else:
        corpus = Corpus.create(encoder=None) if retriever == "lexical" else Corpus.create()
        found = read_documents(path, progress=progress)
        if found.skipped:
            named = "; ".join(f"{item.path}: {item.reason}" for item in found.skipped[:NAMED])
            more = f"; and {len(found.skipped) - NAMED} more" if len(found.skipped) > NAMED else ""
            progress.message(f"warning: {len(found.skipped)} files are not read ({named}{more})")
        corpus.add(found.documents)
        corpus.table(progress)
    if not len(corpus):
        raise EmptySetError("the index holds no document", where=str(docs), mend="add documents to it first")
    dense = {"hybrid": None, "lexical": False, "dense": True}[retriever]
    return HybridRetriever(corpus, lexical=retriever != "dense", dense=dense)
