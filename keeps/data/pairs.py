"""Question-answer pairs as units of knowledge, and passages in which the answers of pairs are masked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keeps.data.records import Example, Fact, RecordSet
from keeps.data.select import load_records
from keeps.errors import EmptySetError, RecordError

LONGEST = 2000  # characters of a question or an answer: a pair is one small piece of knowledge
SENTINELS = 100  # marks of masked spans that T5 knows


@dataclass(frozen=True)
class QA:
    """A question and its answer, with the name by which it is edited, deleted and cited.

    ``id`` defaults to a hash of question and answer; ``source`` names where the pair comes from.

    Raises:
        RecordError: question or answer is empty, or longer than 2,000 characters.

    >>> QA("What is the capital of Norway?", "Oslo").id
    'qa-fcc03e00253d'
    """

    question: str
    answer: str
    id: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("question", "answer"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
                what = f"the {name} of a pair is empty or longer than {LONGEST} characters"
                raise RecordError(what, where=self.id or repr(self.question)[:60], mend=f"give a short {name}")
        if not self.id:
            data = f"{len(self.question)}:{self.question}{self.answer}".encode()
            object.__setattr__(self, "id", f"qa-{hashlib.sha256(data).hexdigest()[:12]}")


@dataclass(frozen=True)
class ReadingExample:
    """What a reader of pairs learns from.

    Attributes:
        text: X, as the encoder reads it.
        target: Y, what is to be said.
        pairs: the pairs that the text brings along, for a memory of the batch; may be empty.
        relevant: ids of the pairs known to help, one tuple a round; empty where nobody knows.
        hidden: ids of pairs that it must not read, such as the one that it was made from.
    """

    text: str
    target: str
    pairs: tuple[QA, ...] = ()
    relevant: tuple[tuple[str, ...], ...] = ()
    hidden: tuple[str, ...] = ()


def read_pairs(spec: str | Path | RecordSet) -> list[QA]:
    """Pairs from a file of questions and answers (JSONL, CSV, Parquet), or a part of the built-in world.

    Raises:
        EmptySetError: nothing in it is a question with an answer.
        KeepsError: the file is missing or damaged; a record is refused.

    >>> read_pairs("world:capital#2")[0].source
    'world:capital#2'
    """
    records = load_records(spec)
    pairs = []
    for record in records:
        if isinstance(record, Fact):
            pairs.append(QA(record.prompts[0], record.answers[0], record.id, records.source))
        elif isinstance(record, Example):
            pairs.append(QA(record.prompt, record.answer, record.id, records.source))
    if not pairs:
        mend = "give rows with question (or prompt) and answer"
        raise EmptySetError("there is no question with an answer", where=records.source, mend=mend)
    return pairs


def masked_passage(text: str, pairs: Sequence[QA], masked: Iterable[str] | None = None) -> ReadingExample:
    """``text`` with the answers of ``pairs`` masked, the missing spans as target: each is answered by its own pair.

    The first place of each answer as whole words is masked; pairs whose answer does not stand in the text, or only
    inside another span, are left out.

    Args:
        masked: ids of the pairs whose spans are masked; None: all.

    Raises:
        EmptySetError: no answer that is to be masked stands in the text.

    >>> pair = QA("Where was Ada born?", "London", "a")
    >>> found = masked_passage("Ada was born in London.", [pair])
    >>> found.text, found.target, found.relevant
    ('Ada was born in <extra_id_0>.', '<extra_id_0> London', (('a',),))
    """
    wanted = None if masked is None else frozenset(masked)
    spans: list[tuple[int, int, QA]] = []
    held: list[QA] = []
    for pair in pairs:
        places = re.finditer(rf"(?<!\w){re.escape(pair.answer.strip())}(?!\w)", text)
        found = next((p.span() for p in places if not any(p.start() < b and a < p.end() for a, b, _ in spans)), None)
        if found is None:
            continue
        held.append(pair)
        if (wanted is None or pair.id in wanted) and len(spans) < SENTINELS:
            spans.append((*found, pair))
    if not spans:
        mend = "give pairs whose answers stand in the passage, word for word"
        raise EmptySetError("no answer stands in the passage", where=text[:60], mend=mend)
    spans.sort(key=lambda span: span[0])
    parts, target, end = [], [], 0
    for number, (first, last, _) in enumerate(spans):
        parts += [text[end:first], f"<extra_id_{number}>"]
        target += [f"<extra_id_{number}>", text[first:last]]
        end = last
    relevant = tuple(pair.id for _, _, pair in spans)
    return ReadingExample("".join([*parts, text[end:]]), " ".join(target), tuple(held), (relevant,))
