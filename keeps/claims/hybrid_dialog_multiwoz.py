"""Published data of JointLM's claim: MultiWOZ tables and dialogues, DSTC9's documents; a small model of their words.

The published dialogues have placeholders where the values were. Here each dialogue is about one restaurant of the
table, drawn at random, whose values stand in for them; what users want is what their turns named. Learned from are the
training dialogues over tables whose columns were dealt out anew, so that no restaurant of the table that is asked
about is known: its values stand in its row or a document, and nowhere else.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keeps.claims.published import published_file, published_rows
from keeps.data.entities import NAME, Entity, EntityBase
from keeps.data.entity_dialogs import EXPLAIN, LABEL, NO, RESPOND, RESPONSE, SELECT, YES, Reply
from keeps.data.entity_files import read_entities
from keeps.errors import InputFileError
from keeps.models.language_model import LanguageModel
from keeps.models.untrained import Size, untrained

DOMAIN = "restaurant"  # of the dialogues
DOMAINS = (DOMAIN, "hotel", "attraction")
TABLES = tuple(f"multiwoz/db_{domain}.jsonl" for domain in DOMAINS)
SNIPPETS = "dstc9_knowledge/snippets.jsonl"
LEARNED_FROM, ASKED = "multiwoz/delexicalised_train.jsonl", "multiwoz/delexicalised_test.jsonl"
FILES = (*TABLES, SNIPPETS, LEARNED_FROM, ASKED)
LEFT_OUT = ("location", "introduction")  # coordinates, and a free text
SLOTS: Mapping[str, str] = {
    "[value_area]": "area", "[value_food]": "food", "[value_price]": "pricerange", "[restaurant_address]": "address",
    "[restaurant_phone]": "phone", "[restaurant_postcode]": "postcode",
}  # fmt: skip
NAMED = "[restaurant_name]"
WANTED = ("area", "food", "pricerange")
TOLD = ("address", "phone", "postcode")  # asked for of a restaurant that has been named
DOCUMENTS = 2  # documents of DSTC9 an entity that the small model's prompt has room for
MARKS = tuple(f"<{mark}>" for mark in ("db", "kb", "slot", "value", "doc", "doc_title", "doc_body", "user", "system"))
END, UNKNOWN = "</s>", "<unk>"
_PLACE = re.compile(r"\[[a-z_]+\]")
_PARTS = re.compile(r"[.,?!;](?=\s|$)|(?:(?![.,?!;](?:\s|$))\S)+")


def knowledge(data: Path) -> EntityBase:
    """Restaurants, hotels and attractions of MultiWOZ with the documents that DSTC9 has of them.

    Raises:
        InputFileError, RecordError, EmptySetError: a file is not there, or not as published.
    """
    base = read_entities([published_file(data, name) for name in (*TABLES, SNIPPETS)], leave_out=LEFT_OUT)
    return replace(base, entities=tuple(entity for entity in base if entity.domain in DOMAINS))


def dialogues(data: Path, name: str) -> list[dict[str, Any]]:
    """The dialogues of a file: as many turns of the user as of the system.

    Raises:
        InputFileError: they are not as published.
    """
    rows = published_rows(data, name, "id", "user", "system")
    for row in rows:
        turns = (row["user"], row["system"])
        if not all(isinstance(said, list) and all(isinstance(t, str) for t in said) for said in turns):
            raise InputFileError("the turns are no texts", where=f"{name}, {row['id']}", mend="fetch the file again")
        if len(turns[0]) != len(turns[1]):
            what = f"{len(turns[0])} turns of the user and {len(turns[1])} of the system"
            raise InputFileError(what, where=f"{name}, {row['id']}", mend="fetch the file again")
    return rows


def restaurants(base: EntityBase, documents: int = DOCUMENTS) -> EntityBase:
    """The restaurants that have all that is asked for, with at most so many of their documents."""
    wanted = {*WANTED, *TOLD}
    own = [e for e in base.of(DOMAIN) if wanted <= {slot for slot, value in e.slots.items() if isinstance(value, str)}]
    few = (replace(e, slots={s: e.slots[s] for s in sorted(wanted)}, documents=e.documents[:documents]) for e in own)
    return replace(base, entities=tuple(few))


def dealt(base: EntityBase, seed: int) -> EntityBase:
    """The same names, values and documents, each column dealt out anew."""
    chance = random.Random(f"dealt:{seed}")

    def shuffled(items: Sequence[Any]) -> list[Any]:
        return chance.sample(items, len(items))

    rows = list(base)
    columns = {slot: shuffled([row.slots[slot] for row in rows]) for slot in rows[0].slots}
    names, texts = shuffled([row.name for row in rows]), shuffled([row.documents for row in rows])
    entities = [
        Entity(rows[0].domain, names[n], {slot: values[n] for slot, values in columns.items()}, texts[n])
        for n in range(len(rows))
    ]
    return EntityBase(tuple(entities), f"{base.source}, dealt {seed}")


def conversations(rows: Sequence[Mapping[str, Any]], base: EntityBase, seed: int) -> list[Reply]:
    """Every reply of the dialogues that follows a wish, each dialogue about one restaurant of ``base``.

    The belief of a reply is what the user's turns so far named of area, food and price; the name too, once it was said.
    """
    chance, found = random.Random(f"dialogues:{seed}"), []
    for row in rows:
        entity = chance.choice(base.entities)
        found += _replies(row, entity, str(chance.randint(2, 30)))
    return found


def _replies(row: Mapping[str, Any], entity: Entity, count: str) -> list[Reply]:
    values = dict(entity.values())
    filled = {place: values[slot] for place, slot in SLOTS.items()} | {NAMED: entity.name, "[value_count]": count}
    history: list[tuple[str, str]] = []
    belief: dict[str, str] = {}
    replies = []
    for number, (asked, said) in enumerate(zip(row["user"], row["system"], strict=True)):
        belief |= {SLOTS[place]: filled[place] for place in _PLACE.findall(asked) if SLOTS.get(place) in WANTED}
        belief |= {NAME: entity.name} if NAMED in asked else {}
        history.append(("user", _filled(asked, filled)))
        told = {SLOTS[place] for place in _PLACE.findall(said) if place in SLOTS}
        if belief and (told or NAMED in said):
            identity = f"{row['id']}:{number}"
            replies.append(Reply(identity, tuple(history), _filled(said, filled), DOMAIN, dict(belief)))
        history.append(("system", _filled(said, filled)))
        belief |= {NAME: entity.name} if NAMED in said else {}
    return replies


def _filled(text: str, values: Mapping[str, str]) -> str:
    """``text`` with values in the places that have one, in lower case."""
    shown = _PLACE.sub(lambda found: values.get(found.group(), found.group()), text)
    return " ".join(shown.lower().split()) or "."


def told_slots(reply: Reply, entity: Entity) -> set[str]:
    """The slots of :data:`TOLD` whose values the reply tells of ``entity``."""
    values = dict(entity.values())
    return {slot for slot in TOLD if f" {' '.join(values[slot].lower().split())} " in f" {reply.text} "}


# --- a small model of these words --------------------------------------------------------------------


def words(text: str) -> list[str]:
    """What :func:`word_model` reads ``text`` as: words, and marks at their end, in lower case.

    >>> words("At Regent Street, or <db> 09:15.")
    ['at', 'regent', 'street', ',', 'or', '<db>', '09:15', '.']
    """
    return _PARTS.findall(text.lower())


def vocabulary(texts: Sequence[str], least: int) -> list[str]:
    """Words that stand in at least so many of ``texts``."""
    counts = Counter(word for text in texts for word in dict.fromkeys(words(text)))
    return [word for word, count in counts.items() if count >= least]


def phrases(base: EntityBase) -> list[str]:
    """Names and values of several words, in lower case."""
    texts = {" ".join(text.lower().split()) for e in base for text in (e.name, *(value for _, value in e.values()))}
    return sorted(text for text in texts if " " in text)


def word_model(
    known: Sequence[str],
    seed: int,
    *,
    width: int,
    layers: int,
    heads: int,
    positions: int,
    whole: Sequence[str] = (),
) -> LanguageModel:
    """A model from random weights whose tokens are words and the phrases ``whole``, which it copies at one step."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = [SELECT, RESPOND, LABEL, RESPONSE, EXPLAIN, *MARKS, YES, NO, "\n"]
    names = list(dict.fromkeys([UNKNOWN, END, *marks, *known]))
    plain = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token=UNKNOWN))
    plain.normalizer = normalizers.Lowercase()
    forms = ((r"\n", "isolated"), (r"[.,?!;](?=\s|$)", "isolated"), (r"[^\S\n]+", "removed"))
    plain.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(form), kind) for form, kind in forms])
    plain.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=END, pad_token=END, unk_token=UNKNOWN)
    added: Any = [AddedToken(text, single_word=True, normalized=True) for text in whole]
    tokenizer.add_tokens(added)
    size = Size(len(tokenizer), positions, width=width, layers=layers, heads=heads)
    return LanguageModel(untrained("gpt2-rotary", size, seed=seed), tokenizer, name="words of restaurants")
