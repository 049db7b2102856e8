"""Knowledge cards: models that each know one domain, and the hub that asks them.

A card is asked for a text and continues it; what it says is a document. Cards that are adapters on one base share it:
the base is in memory once, and the adapters are switched on and off (:mod:`keeps.models.hosting`). Any other change
of that base is put in and taken out; whole models and served ones are asked as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from keeps.errors import EmptySetError, InputFileError, SettingsError, StorageError, UnknownNameError, nearest
from keeps.models.changes import AdapterChange, StoredChange, check_base
from keeps.models.chat import Usage
from keeps.models.hosting import AdapterHost, completing, hosted
from keeps.models.language_model import LanguageModel
from keeps.models.remote_completion import RemoteModel
from keeps.sources import Retriever
from keeps.weights.files import atomic_write_bytes

CARD_FILE = "card.json"


@dataclass(frozen=True)
class CardLabel:
    """What people, and the model that chooses, are told of a card.

    Attributes:
        name: unique in a hub, whatever the case.
        description: its domain in one line.
        licence: of what it was trained on.
        corpus: fingerprint of what it was trained on.
        made: date, as 2026-11-28.
    """

    name: str
    description: str = ""
    licence: str = ""
    corpus: str = ""
    made: str = ""

    def __post_init__(self) -> None:
        for value in (self.name, self.description):
            if value != " ".join(value.split()) or "<" in value or ">" in value:
                mend = "write one line, without pointed brackets"
                raise SettingsError("a card's name or description is no plain line", where=repr(value), mend=mend)
        if not self.name:
            raise SettingsError("a card has no name", where=self.description, mend="name it")

    def write(self, folder: Path) -> None:
        """Write ``folder/card.json``, beside the weights that it describes.

        Raises:
            StorageError: the folder is not there or not writable.
        """
        if not folder.is_dir():
            raise StorageError("there is no such folder", where=str(folder), mend="name the folder of the card")
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        atomic_write_bytes(folder / CARD_FILE, f"{text}\n".encode())

    @classmethod
    def read(cls, folder: Path) -> CardLabel | None:
        """The label in ``folder``; None where there is none.

        Raises:
            InputFileError: it is damaged.
        """
        path = folder / CARD_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not all(isinstance(value, str) for value in values.values()):
                raise TypeError("a field is no text")
            return cls(**values)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            mend = "write name and description as texts"
            raise InputFileError(f"{CARD_FILE} cannot be read ({error})", where=str(path), mend=mend) from None


@dataclass(frozen=True)
class KnowledgeCard:
    """A label and what it stands on: a change of the hub's base, or anything with a method ``sample``."""

    label: CardLabel
    model: Any

    @property
    def name(self) -> str:
        """Of the label."""
        return self.label.name


@dataclass(frozen=True)
class Speaking:
    """How cards are asked to continue.

    Attributes:
        max_new_tokens: longest document.
    """

    max_new_tokens: int = 100
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Consult:
    """Asks ``cards`` for ``draws`` documents each on ``query``; the first has the number ``first``."""

    query: str
    cards: tuple[str, ...]
    draws: int
    first: int = 1


@dataclass(frozen=True)
class Document:
    """What a card said: its ``draw``-th document on a query."""

    card: str
    draw: int
    text: str


@dataclass(frozen=True)
class Consulted:
    """All documents of a request, card after card; ``usage`` counts nothing, since no call of the answering model."""

    documents: tuple[Document, ...]
    tokens: int
    usage: Usage = field(default_factory=Usage)


class CardHub:
    """Cards by name, over one base, and where evidence about what they say is looked up.

    Args:
        base: what cards that are changes belong to.
        evidence: a retriever; None where documents are judged without evidence.

    Raises:
        EmptySetError: there is no card.
        SettingsError: a name is there twice, a change has no base, or a card is nothing that continues texts.
        StorageError: a change was made for another base, or with another tokenizer.
    """

    def __init__(
        self, cards: Sequence[KnowledgeCard], base: LanguageModel | None = None, evidence: Retriever | None = None
    ) -> None:
        if not cards:
            raise EmptySetError("there is no card", where="cards", mend="give one or more: --card NAME=RUN")
        names = [card.name.casefold() for card in cards]
        twice = [card.name for card, name in zip(cards, names, strict=True) if names.count(name) > 1]
        if twice:
            raise SettingsError("two cards have the same name", where=twice[0], mend="give each its own")
        self.base, self.evidence = base, evidence
        self.cards: Mapping[str, KnowledgeCard] = {card.name: card for card in cards}
        self._host: AdapterHost | None = None
        changes = {card.name: card.model for card in cards if isinstance(card.model, StoredChange)}
        for card in cards:
            if not (card.name in changes or isinstance(card.model, RemoteModel) or hasattr(card.model, "sample")):
                mend = "give a model, or a change that was loaded from the folder of a run"
                raise SettingsError("the card cannot continue a text", where=card.name, mend=mend)
        self._changes = self._checked(changes)

    @property
    def labels(self) -> tuple[CardLabel, ...]:
        """Of all cards, in order."""
        return tuple(card.label for card in self.cards.values())

    def without(self, name: str) -> CardHub:
        """The hub without one card.

        Raises:
            UnknownNameError: there is no such card.
        """
        if name not in self.cards:
            raise UnknownNameError(f'there is no card "{name}"', mend=nearest(name, self.cards))
        return CardHub([card for card in self.cards.values() if card.name != name], self.base, self.evidence)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep adapters on the base while the block runs, all of them off until a card is asked."""
        adapters = {name: change.folder for name, change in self._changes.items() if isinstance(change, AdapterChange)}
        if self.base is None or not adapters or len(adapters) < len(self._changes) or self._host is not None:
            yield  # other changes overwrite weights that adapters would hang on: these are put in and taken out alone
            return
        with hosted(self.base, adapters) as self._host:
            try:
                yield
            finally:
                self._host = None

    def consult(self, requests: Sequence[Consult], speaking: Speaking, seed: int) -> list[Consulted]:
        """What the cards say to all requests; each card is switched on once, however many requests name it.

        What a card says hangs on the seed, the query, its name and the number of the draw, not on what else is asked.

        Raises:
            ContextLengthError: a query leaves no room for a document.
            KeepsError: a served card fails.
        """
        said: dict[tuple[int, str], list[str]] = {}
        tokens = [0] * len(requests)
        for name in dict.fromkeys(name for request in requests for name in request.cards):
            wanted = [(n, d) for n, one in enumerate(requests) if name in one.cards for d in range(one.draws)]
            seeds = [draw_seed(seed, requests[n].query, name, requests[n].first + d) for n, d in wanted]
            with self._speaking(name) as model:
                texts = model.sample(
                    [requests[n].query for n, _ in wanted], seeds, temperature=speaking.temperature,
                    top_p=speaking.top_p, max_new_tokens=speaking.max_new_tokens, stop=(),
                )  # fmt: skip
                count = getattr(model, "tokenizer", None)
            for (n, _), text in zip(wanted, texts, strict=True):
                said.setdefault((n, name), []).append(text)
                tokens[n] += len(count(text, add_special_tokens=False).input_ids) if count and text else 0
        return [
            Consulted(
                tuple(
                    Document(name, one.first + draw, text)
                    for name in one.cards
                    for draw, text in enumerate(said[n, name])
                ),
                tokens[n],
            )
            for n, one in enumerate(requests)
        ]

    @contextmanager
    def _speaking(self, name: str) -> Iterator[Any]:
        change = self._changes.get(name)
        if change is None:
            model = self.cards[name].model
            yield completing(model, name) if isinstance(model, LanguageModel) else model
        elif self._host is not None:
            with self._host.using(name) as model:
                yield model
        else:
            assert self.base is not None
            model = change.apply(self.base)
            try:
                yield completing(model, name)
            finally:
                model.undo()

    def _checked(self, changes: Mapping[str, StoredChange]) -> Mapping[str, StoredChange]:
        seen: set[str] = set()
        for name, change in changes.items():
            if self.base is None:
                raise SettingsError("the card is a change of a model", where=name, mend="give that model as base")
            if change.record.base_fingerprint not in seen:  # hashing the base's weights takes a while
                check_base(change.record, self.base, change.folder)
                seen.add(change.record.base_fingerprint)
            check_tokenizer(change.folder, self.base.tokenizer)
        return changes


def check_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Refuse a change whose folder brings another tokenizer than the base's: it would say other words.

    Raises:
        StorageError: the tokens differ.
    """
    if not (folder / "tokenizer.json").exists():
        return
    from transformers import AutoTokenizer

    own: Any = AutoTokenizer.from_pretrained(str(folder))
    if own.get_vocab() != tokenizer.get_vocab():
        mend = "train the card on this base, or give the whole model as a card"
        raise StorageError("the card was made with another tokenizer than the base has", where=str(folder), mend=mend)


def draw_seed(seed: int, query: str, card: str, draw: int) -> int:
    """The seed of one document: the same wherever and with whatever it is asked."""
    digest = hashlib.sha256(f"{seed}\n{card}\n{draw}\n{query}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
