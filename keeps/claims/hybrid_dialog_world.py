"""An invented town of guest houses, conversations about them, and a small model that knows only their words.

Values are drawn anew for every town, so that nothing can be answered from memory: what the phone of a house is stands
in its row or in one of its documents. Most conversations begin with a house that is not the one asked about in the end.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from keeps.data.entities import NAME, Entity, EntityBase
from keeps.data.entity_dialogs import EXPLAIN, LABEL, NO, RESPOND, RESPONSE, SELECT, YES, Reply
from keeps.models.language_model import LanguageModel
from keeps.models.untrained import Size, untrained
from keeps.training.relocation import Template

DOMAIN = "house"
NAMES = tuple(a + b for a, b in product(("al", "bel", "cor", "dun", "el", "fen", "gar", "hol"),
                                        ("mar", "ton", "wick", "dale", "more", "stone", "field", "gate")))  # fmt: skip
AREAS = ("north", "south", "east", "west", "centre")
PRICES = ("cheap", "moderate", "expensive", "fair")
STARS = ("two", "three", "four", "five")
PHONES = tuple(f"ph{n}" for n in range(100, 220))
POSTCODES = tuple(f"cb{n}" for n in range(300, 420))
ASKED = ("phone", "postcode", "stars", "area")
MARKS = tuple(f"<{mark}>" for mark in ("db", "kb", "slot", "value", "doc", "doc_title", "doc_body", "user", "system"))
END = "</s>"
TEMPLATES = {
    "area": Template("which part of town ?", ("{name} lies in the {value} of town .", "look for it in the {value} .")),
    "phone": Template("how can i call ?", ("you can reach {name} on {value} .", "dial {value} to speak to us .")),
    "postcode": Template("where do letters go ?", ("letters to {name} need {value} .", "write to us at {value} .")),
    "pricerange": Template("does it cost much ?", ("rooms at {name} are {value} .", "guests call it {value} .")),
    "stars": Template("how good is it ?", ("{name} was given {value} stars .", "inspectors gave {value} to us .")),
}


def town(seed: int, houses: int = 60) -> EntityBase:
    """Houses with different telephones and postcodes, everything in the table."""
    chance = random.Random(f"town:{seed}")
    names, phones, codes = (chance.sample(pool, houses) for pool in (NAMES, PHONES, POSTCODES))
    combinations = list(product(AREAS, PRICES, STARS))
    chosen = chance.sample(combinations, houses)
    rows = [
        {"area": area, "phone": phone, "postcode": code, "pricerange": price, "stars": stars}
        for (area, price, stars), phone, code in zip(chosen, phones, codes, strict=True)
    ]
    return EntityBase(tuple(Entity(DOMAIN, *pair) for pair in zip(names, rows, strict=True)), f"town {seed}")


def conversations(base: EntityBase, seed: int, each: int = 1) -> list[Reply]:
    """For each house ``each`` conversations of every kind: found by its properties, asked about by name."""
    chance = random.Random(f"conversations:{seed}")
    houses = list(base)
    found = []
    for house in houses:
        for number in range(each):
            other = chance.choice([e for e in houses if e is not house])
            opening = (("user", f"is {other.name} a good place ?"), ("system", f"{other.name} is full ."))
            found.append(_search(house, opening, f"{base.source}:{house.name}:search{number}"))
            found.append(_named(house, opening, chance.choice(ASKED), f"{base.source}:{house.name}:named{number}"))
    return found


def _search(house: Entity, opening: tuple[tuple[str, str], ...], identity: str) -> Reply:
    slot = dict(house.values())
    asked = f"then i want a {slot['pricerange']} place in the {slot['area']} with {slot['stars']} stars ."
    belief = {name: slot[name] for name in ("area", "pricerange", "stars")}
    reply = f"{house.name} has the phone {slot['phone']} and the postcode {slot['postcode']} ."
    return Reply(identity, (*opening, ("user", asked)), reply, DOMAIN, belief)


def _named(house: Entity, opening: tuple[tuple[str, str], ...], slot: str, identity: str) -> Reply:
    value = dict(house.values())[slot]
    asked = f"then what is the {slot} of {house.name} ?"
    reply = f"the {slot} of {house.name} is {value} ."
    return Reply(identity, (*opening, ("user", asked)), reply, DOMAIN, {NAME: house.name})


def as_text(reply: Reply) -> str:
    """The conversation as a user types it."""
    return "\n".join(f"{speaker}: {text}" for speaker, text in reply.history)


def vocabulary() -> list[str]:
    """Every word of towns and conversations."""
    house = town(0)
    told: Iterable[str] = [
        text.replace("{name}", "").replace("{value}", "")
        for template in TEMPLATES.values()
        for text in (template.title, *template.bodies)
    ]
    said = [text for reply in conversations(house, 0, 4) for text in (*(t for _, t in reply.history), reply.text)]
    marks = [SELECT, RESPOND, LABEL, RESPONSE, EXPLAIN, *MARKS, *["matched", "matched,", "did", "not", "and"]]
    fixed = [*marks, *NAMES, *AREAS, *PRICES, *STARS, *PHONES, *POSTCODES, *TEMPLATES, *ASKED, NAME, YES, NO, "\n"]
    return list(dict.fromkeys([*fixed, *(word for text in (*told, *said) for word in text.split())]))


def small_model(seed: int, *, width: int, layers: int, heads: int, positions: int = 256) -> LanguageModel:
    """A model from random weights whose tokens are the words of :func:`vocabulary`."""
    tokenizer = _tokenizer(vocabulary())
    size = Size(len(tokenizer), positions, width=width, layers=layers, heads=heads)
    return LanguageModel(untrained("gpt2-rotary", size, seed=seed), tokenizer, name="guest houses")


def _tokenizer(words: Sequence[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*words, END]
    plain = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token=END))
    pieces = pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed")
    plain.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.Split(Regex("\n"), "isolated")])
    plain.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=END, pad_token=END)
