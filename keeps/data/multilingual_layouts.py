"""Published multilingual question sets as they are distributed: GeoMLAMA and BLEnD.

GeoMLAMA (Yin et al., EMNLP 2022) has every question in five languages. Its options are in another order in some of
them, several answers stand in one text with commas, and some questions have an option twice: those are left out of
all languages, and counted. BLEnD (Myung et al., NeurIPS 2024) has short answers, in English and in the language of
each region, and multiple choice in English alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from keeps.data.languages import ENGLISH, language
from keeps.data.multilingual import LanguageQuestion, MultilingualSet, question_of, read_multilingual
from keeps.data.readers import file_rows
from keeps.data.rows import Row
from keeps.errors import SettingsError

# Language of each region of BLEnD, as its paper gives them.
REGIONS = MappingProxyType(
    {
        "Algeria": "ar",
        "Assam": "Assamese",
        "Azerbaijan": "Azerbaijani",
        "China": "zh",
        "Ethiopia": "Amharic",
        "Greece": "Greek",
        "Indonesia": "id",
        "Iran": "fa",
        "Mexico": "es",
        "North_Korea": "ko",
        "Northern_Nigeria": "Hausa",
        "South_Korea": "ko",
        "Spain": "es",
        "UK": ENGLISH,
        "US": ENGLISH,
        "West_Java": "Sundanese",
    }
)
# Words of a country in the English questions of GeoMLAMA, which has no column for it.
COUNTRIES = MappingProxyType(
    {
        "United States": ("United States", "America"),
        "China": ("China", "Chinese"),
        "India": ("India",),
        "Iran": ("Iran",),
        "Kenya": ("Kenya",),
    }
)


def read_questions(path: str | Path, *, countries: Sequence[str] = ()) -> MultilingualSet:
    """Any file or folder of questions: of the plain layout, GeoMLAMA's or BLEnD's, by its columns.

    Args:
        countries: keep the questions about these; BLEnD's short answers need regions of one language.

    Raises:
        KeepsError: as :func:`keeps.data.multilingual.read_multilingual`.
        SettingsError: regions of BLEnD that do not share a language.
    """
    path = Path(path)
    if path.is_dir():
        return read_multilingual(path).only(countries=countries)
    rows = list(file_rows(path))
    columns = set(rows[0].values) if rows else set()
    if {"candidates", "concept"} <= columns:
        return _set(str(path), [_geomlama(row) for row in rows]).only(countries=countries)
    if {"en_question", "answers"} <= columns:
        return _set(str(path), list(_short_answers(rows, str(path), countries)))
    if "language" not in columns and {"question", "choices"} <= columns:
        found = [replace(question_of(row, ENGLISH), id=f"{row.values['id']}:{n}") for n, row in enumerate(rows)]
        return _set(str(path), [replace(item, text=_bare(item.text)) for item in found]).only(countries=countries)
    return read_multilingual(path).only(countries=countries)


def _set(source: str, questions: Sequence[LanguageQuestion]) -> MultilingualSet:
    """The questions whose options are distinct and whose answers are among them in every language."""
    bad: dict[str, str] = {}
    for question in questions:
        if len(set(question.choices)) < len(question.choices):
            bad[question.id] = "questions with an option twice"
        elif question.choices and not set(question.answers) <= set(question.choices):
            bad.setdefault(question.id, "questions whose answer is not among the options")
    kept = [question for question in questions if question.id not in bad]
    return MultilingualSet.of(source, kept, left_out=Counter(bad.values()))


def _geomlama(row: Row) -> LanguageQuestion:
    values = row.values
    question = question_of(Row({**values, "id": values.get("row")}, row.place))
    answers = tuple(part.strip() for answer in question.answers for part in answer.split(",") if part.strip())
    if question.language != ENGLISH:
        return replace(question, answers=answers)
    about = f"{question.text} {values.get('prompt')}"
    country = next((name for name, words in COUNTRIES.items() if any(word in about for word in words)), "")
    return replace(question, answers=answers, topic=str(values["concept"]), country=country)


def _short_answers(rows: Sequence[Row], source: str, countries: Sequence[str]) -> Iterator[LanguageQuestion]:
    """Each question in English and in its region's language; texts of both are accepted."""
    chosen = [row for row in rows if not countries or row.values.get("country") in countries]
    spoken = {row.values.get("country"): REGIONS.get(str(row.values.get("country")), "") for row in chosen}
    local = set(spoken.values())
    if len(local) != 1 or local & {"", ENGLISH}:
        what = f"{len(spoken)} regions do not share one language beside English"
        mend = "name some that do with --countries, such as Spain,Mexico"
        raise SettingsError(what, where=source, mend=mend)
    code = language(local.pop()).code
    for row in chosen:
        values: dict[str, Any] = row.values
        texts = [text for answer in values["answers"] for key in ("local", "en") for text in answer[key]]
        answers = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
        if not answers:
            continue
        common = {"country": values["country"], "topic": values.get("topic", "")}
        identity = f"{values['country']}:{values['id']}"
        yield LanguageQuestion(identity, ENGLISH, values["en_question"], (), answers, **common)
        yield LanguageQuestion(identity, code, values["question"], (), answers, **common)


def _bare(text: str) -> str:
    """A question of BLEnD's multiple choice without the instruction and the options that follow it."""
    return text.partition(" Without any explanation, choose only one")[0]
