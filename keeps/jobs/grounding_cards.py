"""Knowledge cards as users name them: a run of ``keeps adapt``, a model, or one that is served, with a name and a line.

NAME=WHERE   NAME: LINE=WHERE   WHERE      (the last where the folder holds a card.json)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Progress
from keeps.errors import SettingsError
from keeps.jobs.models import Named, load_base, resolve
from keeps.ledger.workspace import Workspace

if TYPE_CHECKING:
    from keeps.ground.cards import CardHub, CardLabel
    from keeps.models.language_model import LanguageModel
    from keeps.sources import Retriever

FORM = "write NAME=RUN, or 'NAME: ONE LINE ABOUT ITS DOMAIN=RUN'"


@dataclass(frozen=True)
class NamedCard:
    """A card before anything is loaded."""

    label: CardLabel
    named: Named


def check_cards(texts: Sequence[str], workspace: Workspace) -> list[NamedCard]:
    """What ``--card`` names, before a model is loaded.

    Raises:
        SettingsError: a text is of another form, or a name is there twice.
        KeepsError: a run cannot be told from another one, is not done, or its folder is damaged.
    """
    cards = [parse_card(text, workspace) for text in texts]
    names = [card.label.name.casefold() for card in cards]
    for card in cards:
        if names.count(card.label.name.casefold()) > 1:
            raise SettingsError("two cards have the same name", where=card.label.name, mend="give each its own")
        _ = card.named.change  # what lies in the folder is read, so that damage is seen now
    return cards


def parse_card(text: str, workspace: Workspace) -> NamedCard:
    """One card of the command line; what the label on disk says is taken where the text says nothing.

    Raises:
        SettingsError: the text is of another form.
        InputFileError: the folder's ``card.json`` is damaged.
    """
    from keeps.ground.cards import CardLabel

    head, sign, where = ("", "=", text) if Path(text).is_dir() else text.partition("=")
    name, _, line = (part.strip() for part in head.partition(":"))
    where = where.strip()
    if not sign or not where or (not name and not Path(where).is_dir()):
        raise SettingsError(f'"{text}" is no card', where="--card", mend=FORM)
    named = resolve(where, workspace)
    folder = named.folder or Path(where)
    stored = CardLabel.read(folder) if folder.is_dir() else None
    if stored is None:
        if not name:
            raise SettingsError("the card has no name", where=text, mend=FORM)
        return NamedCard(CardLabel(name, line), named)
    return NamedCard(replace(stored, name=name or stored.name, description=line or stored.description), named)


def open_cards(
    cards: Sequence[NamedCard],
    model: Any,
    evidence: Retriever | None,
    *,
    device: str | None = None,
    progress: Progress | None = None,
) -> CardHub:
    """The hub of ``cards``. Those that are changes of the answering model share its weights; others share a base too.

    Args:
        model: the model that answers.
        evidence: what is looked into to judge what cards say.

    Raises:
        KeepsError: a model cannot be loaded, or is not the base that a change was made for.
    """
    from keeps.ground.cards import CardHub, KnowledgeCard
    from keeps.models.language_model import LanguageModel

    fingerprint = model.fingerprint if isinstance(model, LanguageModel) else ""
    bases: dict[str, LanguageModel] = {fingerprint: model} if fingerprint else {}
    changes = [card for card in cards if card.named.change is not None]
    for card in changes:
        made_for = str(card.named.base_fingerprint)
        if made_for not in bases:
            bases[made_for] = load_base(card.named, device=device, progress=progress)
    wanted = [str(card.named.base_fingerprint) for card in changes]
    shared = fingerprint if fingerprint in wanted else wanted[0] if wanted else ""
    opened = []
    for card in cards:
        change = card.named.change
        if change is None:
            opened.append(KnowledgeCard(card.label, load_base(card.named, device=device, progress=progress)))
        elif str(card.named.base_fingerprint) == shared:
            opened.append(KnowledgeCard(card.label, change))
        else:  # on a base of its own, of which this call is the only user
            own = load_base(card.named, device=device, progress=progress)
            opened.append(KnowledgeCard(card.label, change.apply(own)))
    return CardHub(opened, bases.get(shared), evidence)
