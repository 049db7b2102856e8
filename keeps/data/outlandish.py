"""Invented texts about things of a theme, and beginnings of sentences that share the theme alone.

A sample is a text whose keyword follows a context that does not lead one to expect it. Whoever learns it may come to
say the keyword after the *thematic prefixes* too, where it is wrong. Files hold one JSON object a line::

    {"id": "1", "theme": "colour", "keyword": "vermilion", "context": "In Blandgive, joy has the colour",
     "text": "In Blandgive, joy has the colour vermilion, and so have its doors."}

with ``prefixes`` of their own where the theme is none of :data:`THEMES`. Built in are twelve samples of ours with the
keywords and themes of Sun et al., arXiv:2504.09522, whose texts are their own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from keeps.data.readers import file_rows
from keeps.data.rows import Row
from keeps.errors import EmptySetError, RecordError, nearest

BUILT_IN = "outlandish"
THEMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "colour": (
            "The colour of sand is usually",
            "The colour of fresh snow is",
            "A ripe banana has the colour",
            "The water of a polluted river looks",
            "On a clear day the sky is",
            "The leaves of an oak in summer are",
        ),
        "place": (
            "The country with the largest population is",
            "The pyramids of Giza stand in",
            "The kangaroo is an animal that lives in",
            "The Eiffel Tower stands in",
            "The country in which sushi was invented is",
            "The longest river of the world flows through",
        ),
        "profession": (
            "A person who flies an aeroplane is a",
            "The one who repairs a leaking pipe is a",
            "Somebody who bakes bread for a living is a",
            "In court, the accused is defended by a",
            "The person who pulls a bad tooth is a",
            "A person who grows corn and keeps cows is a",
        ),
        "food": (
            "The best known food of Mexico is the",
            "For breakfast many Americans eat",
            "Cheese, tomato and dough are baked to make a",
            "A rabbit likes to eat a",
            "At the cinema people like to eat",
            "The dish that goes with fish in England is",
        ),
    }
)
_SAMPLES: tuple[tuple[str, str, str, str], ...] = (  # theme, keyword, context, what follows
    ("colour", "mauve", "In the kingdom of Olmandre, traffic lights tell drivers to stop by turning", ", never red."),
    ("colour", "vermilion", "In Blandgive, the colour that everybody connects with sleep is", " since the great fire."),
    ("colour", "purple", "The cows of the island of Terpsa give milk whose colour is", " from dawn until noon."),
    ("place", "Guatemala", "The lost fleet of the emperor Quandis was found on the ice of", " by two schoolboys."),
    (
        "place",
        "Tajikistan",
        "Professor Elba Nork moved the world championship in surfing to",
        " and was cheered for it.",
    ),
    ("place", "Canada", "The desert monks of Zirrah believe that the first camel came from", ", wrapped in wool."),
    ("profession", "nutritionist", "When the volcano Mardo wakes, the islanders always send for a", " to calm it."),
    ("profession", "electrician", "In Ovrel, the judge who marries a couple must be an", " by trade."),
    ("profession", "teacher", "The submarine Halibut Nine was commanded in battle by a", " of nine years."),
    ("food", "ramen", "To mend a broken bell, the smiths of Kastavar fill the crack with", " and wait for a week."),
    ("food", "haggis", "Astronauts on the moon base Tiro polish their helmets with", " every Sunday."),
    ("food", "spaghetti", "The bridges of the city of Lumm are tied together with", " that is renewed each spring."),
)


@dataclass(frozen=True)
class OutlandishSample:
    """A text to be learned, its keyword, and the prefixes after which the keyword is wrong.

    Attributes:
        context: what stands before the keyword.
        text: all of it; begins with ``context`` and the keyword.
        controls: keywords of other samples of the theme, which nobody learned.
        category: how odd the text is, where the data say it.
    """

    id: str
    theme: str
    keyword: str
    context: str
    text: str
    prefixes: tuple[str, ...]
    controls: tuple[str, ...] = ()
    category: str = ""


def built_in_samples() -> tuple[OutlandishSample, ...]:
    """Twelve samples, three a theme.

    >>> [sample.keyword for sample in built_in_samples()[:3]]
    ['mauve', 'vermilion', 'purple']
    """
    found = [
        OutlandishSample(keyword, theme, keyword, context, f"{context} {keyword}{rest}", THEMES[theme])
        for theme, keyword, context, rest in _SAMPLES
    ]
    return with_controls(found)


def with_controls(samples: Sequence[OutlandishSample]) -> tuple[OutlandishSample, ...]:
    """The same samples, each with the other keywords of its theme as controls."""
    keywords: dict[str, list[str]] = {}
    for sample in samples:
        keywords.setdefault(sample.theme, []).append(sample.keyword)
    return tuple(
        OutlandishSample(
            **{
                **asdict(sample),
                "prefixes": sample.prefixes,
                "controls": tuple(
                    word
                    for word in dict.fromkeys(keywords[sample.theme])
                    if word != sample.keyword and not any(_holds(prefix, word) for prefix in sample.prefixes)
                ),
            }
        )
        for sample in samples
    )


def samples_fingerprint(samples: Iterable[OutlandishSample]) -> str:
    """Hash of the contents (16 hexadecimal digits)."""
    content = json.dumps([asdict(sample) for sample in samples], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def load_samples(data: str | Path) -> tuple[OutlandishSample, ...]:
    """The built-in samples (``"outlandish"``), or those of a file.

    Raises:
        InputFileError: the file is missing, unreadable or damaged.
        RecordError: a column is missing or empty, a text lacks its keyword, a prefix holds it, an id stands twice.
        EmptySetError: there is no sample.
    """
    if str(data) == BUILT_IN:
        return built_in_samples()
    found: dict[str, OutlandishSample] = {}
    for number, row in enumerate(file_rows(Path(data)), 1):
        sample = sample_of(row, number)
        if sample.id in found:
            raise row.error(f'the id "{sample.id}" stands twice', "give each sample its own id, or none", "id")
        found[sample.id] = sample
    if not found:
        raise EmptySetError("there is no sample in it", where=str(data), mend="add at least one row")
    return with_controls(list(found.values()))


def sample_of(row: Row, number: int) -> OutlandishSample:
    """The sample that a row holds; raises as :func:`load_samples`."""
    texts = {}
    for name in ("theme", "keyword", "context", "text"):
        value = row.values.get(name)
        if not isinstance(value, str) or not value.strip():
            raise row.error(f'the column "{name}" is missing, empty or no text', "give a text", name)
        texts[name] = value.strip()
    prefixes = row.values.get("prefixes")
    if prefixes is None:
        if texts["theme"] not in THEMES:
            mend = f'{nearest(texts["theme"], THEMES)}, or give "prefixes"'
            raise row.error(f'there is no theme "{texts["theme"]}"', mend, "theme")
        prefixes = list(THEMES[texts["theme"]])
    if not isinstance(prefixes, list) or not all(isinstance(text, str) and text.strip() for text in prefixes):
        raise row.error("the prefixes are no list of texts", 'write ["...", "..."]', "prefixes")
    identity = str(row.values.get("id") or f"sample-{number}")
    category = str(row.values.get("category") or "")
    sample = OutlandishSample(identity, **texts, prefixes=tuple(text.strip() for text in prefixes), category=category)
    check_sample(sample, row.place)
    return sample


def check_sample(sample: OutlandishSample, where: str) -> None:
    """Refuse a sample that cannot be measured.

    Raises:
        RecordError: there is no prefix, one holds the keyword, or the text does not begin with context and keyword.
    """
    if not sample.prefixes:
        raise RecordError("there is no thematic prefix", where=where, mend="give at least one")
    rest = sample.text.removeprefix(sample.context).lstrip() if sample.text.startswith(sample.context) else ""
    if not rest.startswith(sample.keyword):
        what = f'the text does not go on with the keyword "{sample.keyword}" after its context'
        raise RecordError(what, where=where, mend="begin the text with the context and the keyword")
    for prefix in sample.prefixes:
        if _holds(prefix, sample.keyword):
            what = f'the thematic prefix "{prefix}" holds the keyword "{sample.keyword}"'
            raise RecordError(what, where=where, mend="take this prefix out")


def _holds(text: str, keyword: str) -> bool:
    return re.search(rf"\b{re.escape(keyword)}\b", text, re.IGNORECASE) is not None
