"""Records, named by what they hold: facts, examples, dialogues, preferences, passages; and sets of them.

Every record has an ``id`` that is unique in its set, and a ``split`` that depends on its subject
alone, so that no subject is calibrated or trained on in one part and reported in another.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from keeps.contracts import Question

Split = Literal["train", "validation", "test"]
SPLIT_SEED = "keeps-split-1"  # changing it changes every reported number: never change it
UNSEEN_FROM = 4  # a fact with this many wordings keeps its last one unseen, to test what was learned
SPLIT_SHARES = (40, 60)  # per cent below which a subject is "train", then "validation", else "test"


def split_of(subject: str) -> Split:
    """The fixed part that a subject belongs to: 40 % train, 20 % validation, 40 % test.

    >>> split_of("Norway") == split_of("norway ")
    True
    """
    key = f"{SPLIT_SEED}:{subject.strip().casefold()}"
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    if bucket < SPLIT_SHARES[0]:
        return "train"
    return "validation" if bucket < SPLIT_SHARES[1] else "test"


@dataclass(frozen=True)
class Fact:
    """A subject, a relation and its objects, asked in several wordings.

    ``prompts`` are texts that the answer completes, without a trailing space. ``answers`` holds all
    accepted spellings or objects, the canonical one first. ``mark`` is ``"known"``, ``"uncertain"``
    or ``"unknown"`` to the model that the set was marked for, or ``""``. ``split_key`` names what the
    fact is about where the subject is another name for it (an element's symbol).
    """

    id: str
    subject: str
    relation: str
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    provenance: str = ""
    mark: str = ""
    split_key: str = ""

    @property
    def split(self) -> Split:
        """The fixed part of this fact's subject, or of ``split_key`` where its subject has another name."""
        return split_of(self.split_key or self.subject)

    @property
    def seen_prompts(self) -> tuple[str, ...]:
        """The wordings that training and calibration may use: all but the last of four or more."""
        return self.prompts[:-1] if len(self.prompts) >= UNSEEN_FROM else self.prompts

    @property
    def group(self) -> str:
        """The line of the diff that the fact counts in."""
        return self.relation


@dataclass(frozen=True)
class Example:
    """A prompt and its answer; with ``choices`` the answer is one of them."""

    id: str
    prompt: str
    answer: str
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def split(self) -> Split:
        """The fixed part of this example's prompt."""
        return split_of(self.prompt)

    @property
    def group(self) -> str:
        """The line of the diff that the example counts in."""
        return "choices" if self.choices else "examples"


@dataclass(frozen=True)
class Dialogue:
    """Chat messages as ``(role, content)`` pairs; the last one is the assistant's answer."""

    id: str
    messages: tuple[tuple[str, str], ...]

    @property
    def split(self) -> Split:
        """The fixed part of this dialogue's first message."""
        return split_of(self.messages[0][1])

    @property
    def group(self) -> str:
        """The line of the diff that the dialogue counts in."""
        return "dialogues"


@dataclass(frozen=True)
class Preference:
    """A prompt with a response that is preferred and one that is not."""

    id: str
    prompt: str
    chosen: str
    rejected: str

    @property
    def answer(self) -> str:
        """What should be said."""
        return self.chosen

    @property
    def split(self) -> Split:
        """The fixed part of this pair's prompt."""
        return split_of(self.prompt)

    @property
    def group(self) -> str:
        """The line of the diff that the pair counts in."""
        return "preferences"


@dataclass(frozen=True)
class Passage:
    """Running text: learned as it is, kept by perplexity.

    ``subject`` names what the text is cut from, so that its pieces fall into one split.
    """

    id: str
    text: str
    subject: str = ""

    @property
    def split(self) -> Split:
        """The fixed part of this passage's subject, or of its text where it has none."""
        return split_of(self.subject or self.text)

    @property
    def group(self) -> str:
        """The line of the diff that the passage counts in."""
        return "text"


Record = Fact | Example | Dialogue | Preference | Passage


@dataclass(frozen=True)
class RecordSet:
    """Records with the name of where they came from.

    >>> facts = RecordSet("mine", (Example("1", "The capital of Norway is", "Oslo"),))
    >>> len(facts), facts.questions("learn")[0].group
    (1, 'learn: examples')
    """

    source: str
    records: tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the contents (16 hexadecimal digits), whatever file they came from and whatever their marks."""
        digest = hashlib.sha256()
        for record in self.records:
            values = {
                key: value
                for key, value in dataclasses.asdict(record).items()
                if key not in ("mark", "provenance", "split_key")
            }
            line = json.dumps([type(record).__name__, values], sort_keys=True, ensure_ascii=False)
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()[:16]

    def part(self, *splits: Split) -> RecordSet:
        """The records of the given splits, in order."""
        return RecordSet(self.source, tuple(record for record in self.records if record.split in splits))

    def passages(self) -> list[Passage]:
        """The running texts of the set."""
        return [record for record in self.records if isinstance(record, Passage)]

    def questions(self, role: str = "") -> list[Question]:
        """Everything in the set that has an answer, as questions grouped ``"role: group"``."""
        prefix = f"{role}: " if role else ""
        return [
            _question(record, f"{prefix}{record.group}") for record in self.records if not isinstance(record, Passage)
        ]


def _question(record: Fact | Example | Dialogue | Preference, group: str) -> Question:
    if isinstance(record, Fact):
        return Question(record.id, group, record.prompts, record.answers, record.choices)
    if isinstance(record, Preference):
        return Question(record.id, group, (record.prompt,), (record.chosen,))
    if isinstance(record, Example):
        return Question(record.id, group, (record.prompt,), (record.answer, *record.aliases), record.choices)
    # A dialogue is asked by its last user turn; models with a chat template see all turns in training.
    prompt = "\n".join(content for _, content in record.messages[:-1])
    return Question(record.id, group, (prompt,), (record.messages[-1][1],))
