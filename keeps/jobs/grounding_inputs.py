"""What methods of ``keeps ground`` look into: documents, a graph, cards, tables or pairs, as named and as opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Progress
from keeps.data.entities import EntityBase
from keeps.errors import SettingsError
from keeps.jobs.grounding_cards import NamedCard, check_cards, open_cards
from keeps.jobs.grounding_ledger import source_fingerprint
from keeps.jobs.grounding_memory import open_memory
from keeps.jobs.grounding_sources import Remembering, check_sources, open_source
from keeps.jobs.grounding_tables import documents_to_search, open_tables
from keeps.ledger.workspace import Workspace
from keeps.registry import MethodInfo
from keeps.sources import READERS

if TYPE_CHECKING:
    from keeps.ground.cards import CardHub


@dataclass(frozen=True)
class Inputs:
    """What a user names; None stands for what is not given.

    Attributes:
        documents: a folder or file of documents, the folder of an index, or a retriever.
        graph: a file of triples, or a ``keeps.graphs.KnowledgeGraph``.
        cards: models of single domains, as ``--card`` names them (one alone may be a text), or a
            ``keeps.ground.cards.CardHub``.
        tables: files of entities, or a ``keeps.data.entities.EntityBase``; documents that name an entity are then
            about it.
        pairs: question-answer pairs: a file, ``world:RELATION``, or the folder of a memory or a trained reader.
        retriever: how documents are searched: ``"lexical"``, ``"dense"`` or ``"hybrid"``.
    """

    documents: Any = None
    graph: Any = None
    cards: Any = None
    tables: Any = None
    pairs: Any = None
    retriever: str = "hybrid"

    @property
    def card_texts(self) -> Sequence[str]:
        """Cards that are named, not open; often none.

        >>> Inputs(cards="law=RUN").card_texts, Inputs(cards=["law=RUN"]).card_texts
        (('law=RUN',), ['law=RUN'])
        """
        if isinstance(self.cards, str):
            return (self.cards,)
        return self.cards if isinstance(self.cards, (list, tuple)) else ()

    @property
    def given(self) -> frozenset[str]:
        """The names of what there is, as methods name what they need.

        >>> sorted(Inputs(documents="./docs", tables="hotels.csv").given)
        ['documents', 'tables']
        """
        named = {name: value for name, value in vars(self).items() if name != "retriever"}
        return frozenset(name for name, value in named.items() if value is not None and value not in ([], ()))

    def check(self, infos: Sequence[MethodInfo], workspace: str | Path | None = None) -> list[NamedCard]:
        """Refuse what cannot be there together, what no method uses, and paths where nothing is.

        Returns:
            The cards that are named, for :meth:`OpenInputs.open_cards`.

        Raises:
            SettingsError: one of these.
            KeepsError: a path, a card or the retriever is wrong.
        """
        given = self.given
        if not given:
            mend = "give documents or a graph, and methods that use it"
            raise SettingsError("name documents, or a graph", where="docs", mend=mend)
        if {"documents", "graph"} <= given:
            mend = "give one of --docs and --graph, and methods that use it"
            raise SettingsError("documents and a graph are given", where="docs", mend=mend)
        if "pairs" in given and len(given) > 1:
            mend = "give --memory alone, to methods that answer from pairs"
            raise SettingsError("a memory and another source are given", where="memory", mend=mend)
        for name, verb in (("cards", "asks"), ("tables", "reads")):
            if name in given and not any(name in info.needs for info in infos):
                mend = f"choose one: --method {READERS[name]}"
                raise SettingsError(f"no method {verb} the {name}", where=name, mend=mend)
        check_sources(self.documents, self.retriever)
        return check_cards(self.card_texts, Workspace(workspace))

    def open(self, infos: Sequence[MethodInfo], *, device: str | None = None, progress: Progress) -> OpenInputs:
        """Everything but named cards, which need the model that answers (:meth:`OpenInputs.open_cards`).

        Raises:
            KeepsError: something cannot be read.
        """
        pairs, texts = open_memory(self.pairs, device=device, progress=progress)
        entities = open_tables(self.tables, self.documents, progress=progress)
        documents = documents_to_search(self.documents, infos, tables=self.tables is not None)
        opened = open_source(documents, self.graph, self.retriever, progress=progress)
        alone = documents is None and self.graph is None  # of entities beside something else nothing is stored
        fingerprint = source_fingerprint(documents, self.graph, entities if alone else opened)
        if self.given & {"cards", "pairs"} or (entities is not None and not alone):
            fingerprint = None
        cards = None if self.card_texts else self.cards
        if documents is None:
            return OpenInputs(opened, entities, pairs, texts, fingerprint, cards)
        remembering = Remembering(opened)
        return OpenInputs(remembering, entities, pairs, remembering.texts, fingerprint, cards)


@dataclass
class OpenInputs:
    """What methods look into, ready.

    Attributes:
        source: documents or a graph; None where there are neither.
        texts: by id, what was read so far.
        fingerprint: hash of all of it; None where there is none, so that answers cannot be stored.
    """

    source: Any
    entities: EntityBase | None
    pairs: Any
    texts: dict[str, str]
    fingerprint: str | None
    cards: CardHub | None = None

    def open_cards(
        self, named: Sequence[NamedCard], model: Any, *, device: str | None = None, progress: Progress
    ) -> None:
        """Open the cards that were named over the model that answers; documents are what their words are judged by.

        Args:
            named: of :meth:`Inputs.check`; often none.

        Raises:
            KeepsError: as :func:`keeps.jobs.grounding_cards.open_cards`.
        """
        if named:
            evidence = self.source if isinstance(self.source, Remembering) else None
            self.cards = open_cards(named, model, evidence, device=device, progress=progress)

    def of(self, info: MethodInfo) -> Any:
        """What the method ``info`` looks into."""
        special = {"pairs": self.pairs, "cards": self.cards, "tables": self.entities}
        return next((source for name, source in special.items() if name in info.needs), self.source)
