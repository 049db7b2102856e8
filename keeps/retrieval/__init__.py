"""Outside knowledge as text: chunked with exact places, indexed by words and by meaning, found, shown and cited.

from keeps.retrieval import Corpus, HybridRetriever

corpus = Corpus.create("kb")
corpus.add(["Oslo is the capital of Norway."], ids=["norway"])
corpus.save()
hits = HybridRetriever(corpus).search("capital of Norway", k=5)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keeps.retrieval.assembly import Assembled as Assembled
    from keeps.retrieval.assembly import assemble as assemble
    from keeps.retrieval.citations import CitationCheck as CitationCheck
    from keeps.retrieval.citations import verify_citations as verify_citations
    from keeps.retrieval.corpus import Corpus as Corpus
    from keeps.retrieval.documents import Document as Document
    from keeps.retrieval.embedders import Embedder as Embedder
    from keeps.retrieval.embedders import SentenceEmbedder as SentenceEmbedder
    from keeps.retrieval.evaluation import evaluate as evaluate
    from keeps.retrieval.hybrid import HybridRetriever as HybridRetriever
    from keeps.retrieval.reading import read_documents as read_documents
    from keeps.retrieval.rerank import CrossEncoder as CrossEncoder
    from keeps.retrieval.settings import IndexSettings as IndexSettings

_HOMES = {
    **dict.fromkeys(("Assembled", "assemble"), "assembly"),
    **dict.fromkeys(("CitationCheck", "verify_citations"), "citations"),
    "Corpus": "corpus",
    "CrossEncoder": "rerank",
    "Document": "documents",
    **dict.fromkeys(("Embedder", "SentenceEmbedder"), "embedders"),
    "HybridRetriever": "hybrid",
    "IndexSettings": "settings",
    "evaluate": "evaluation",
    "read_documents": "reading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"keeps.retrieval.{_HOMES[name]}"), name)
