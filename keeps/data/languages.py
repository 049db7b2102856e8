"""Languages by code or English name: what they are called, and how a question is asked in them.

The wordings are in ``languages.json``: labels of question and answer, and the two instructions of Agarwal et al. 2025
(arXiv:2505.14990), to think in the language first and to answer at once. They are our own; the answer is wanted as
JSON with an English key and Latin letters in every language, so that answers of all are read in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

ENGLISH = "en"
FINAL = "final_answer"  # key of the answer in the JSON that is asked for


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        code: ISO 639-1 where it has one, such as ``"hi"``.
        name: in English.
        question, answer: labels before them.
        reason: instruction to think in this language, then to answer.
        direct: instruction to answer at once.
        worded: whether labels and instructions are in the language itself; English stands in for others.
    """

    code: str
    name: str
    question: str
    answer: str
    reason: str
    direct: str
    worded: bool = True


@cache
def languages() -> Mapping[str, Language]:
    """Every language with wordings of its own, by code."""
    rows = json.loads(files(__package__ or "").joinpath("languages.json").read_text(encoding="utf-8"))
    return MappingProxyType({row["code"]: Language(**row) for row in rows})


def language(name: str) -> Language:
    """The language with this code or English name; one that is not listed is asked in English words.

    >>> language("Hindi").code, language("zh_CN").code, language("Assamese").worded
    ('hi', 'zh', False)
    """
    plain = name.strip().replace("_", "-").casefold()
    for candidate in languages().values():
        if plain in (candidate.code, candidate.name.casefold()) or plain.startswith(f"{candidate.code}-"):
            return candidate
    base = languages()[ENGLISH]
    reason = base.reason.replace("English", name)
    return Language(name, name, base.question, base.answer, reason, base.direct, worded=False)


def language_prompt(
    code: str, text: str, choices: tuple[str, ...] = (), *, form: str = "direct", context: str = ""
) -> str:
    """A question as it is asked in a language.

    Args:
        form: ``"completion"`` (labels alone, for log-probabilities), ``"direct"`` or ``"reasoning"``.

    >>> print(language_prompt("de", "Was ist H2O?", ("Wasser", "Salz"), form="completion"))
    Frage: Was ist H2O?
    Antwort:
    """
    own = language(code)
    asked = f"{own.question}: {text}"
    if form != "completion":
        options = [f"{letter}. {choice}" for letter, choice in zip(letters(len(choices)), choices, strict=True)]
        asked = "\n".join([own.reason if form == "reasoning" else own.direct, "", asked, *options])
    return (f"{context}\n\n" if context else "") + f"{asked}\n{own.answer}:"


def letters(count: int) -> str:
    """The first ``count`` Latin letters, which name the options in every language.

    >>> letters(3)
    'ABC'
    """
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]
