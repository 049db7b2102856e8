"""From the rows of one model to its map, and to what each way of choosing a language would have got right."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from keeps.contracts import Row
from keeps.data.languages import ENGLISH
from keeps.data.multilingual_world import country_languages
from keeps.errors import MissingDependencyError, SettingsError
from keeps.numerics.routing import chosen_languages, majority, oracle, permutation_p, random_language, routed, top_votes
from keeps.probe.language_ask import unpacked
from keeps.probe.language_map import LanguageMap, fit_map

if TYPE_CHECKING:
    from keeps.probe.language_specific import LanguageSpecificSettings

ENGLISH_ONLY, SINGLE, ROUTED = "english", "best_single_on_train", "routed"
TRANSFERRED, COUNTRY, SELECTED = "transferred_map", "country_map", "self_selected"
VOTE, TOP3, RANDOM, ORACLE = "majority_vote", "top3_vote", "random_language", "oracle"
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Answers:
    """What one model said: n questions in L languages.

    Attributes:
        vectors: of the English questions, ``(n, d)`` float32.
        correct: ``(n, L)`` bool; ``picks``: option of each answer, ``(n, L)`` int64, -1 for none.
        right: right options, one list a question, or None where the languages have them at different places.
    """

    ids: tuple[str, ...]
    languages: tuple[str, ...]
    texts: tuple[str, ...]
    vectors: Tensor
    correct: Tensor
    picks: Tensor
    right: tuple[tuple[int, ...], ...] | None
    countries: tuple[str, ...]
    selected: tuple[str, ...]
    routes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Analysis:
    """A map, and the share right of each way on questions that the map has not seen.

    Attributes:
        map: fitted on the train questions.
        train, test: indices of questions.
        labels: cluster of each test question.
        outcomes: way to flags ``(n_test,)``, bool; chances for the random language; None where it is not defined.
        p: of the permutation test.
    """

    answers: Answers
    map: LanguageMap
    train: Tensor
    test: Tensor
    labels: Tensor
    outcomes: Mapping[str, Tensor | None]
    p: float

    @property
    def significant(self) -> bool:
        """Whether topics say which language answers best."""
        return self.p <= SIGNIFICANT


def answers_of(rows: Sequence[Row]) -> Answers:
    """The rows of one model as tables, English first as it stands in the rows."""
    languages = tuple(dict.fromkeys(row.details["language"] for row in rows))
    found = {(row.details["question"], row.details["language"]): row for row in rows}
    english = [row for row in rows if row.details["language"] == ENGLISH]
    ids = tuple(row.details["question"] for row in english)
    table = [[found[key, code] for code in languages] for key in ids]
    same = all(len({tuple(row.details["right"]) for row in own}) == 1 for own in table)
    votable = same and all(row.details["right"] for row in english)
    return Answers(
        ids,
        languages,
        tuple(row.details["text"] for row in english),
        torch.stack([unpacked(row.details["embedding"]) for row in english]),
        torch.tensor([[row.correct for row in own] for own in table]),
        torch.tensor([[row.details["told"] for row in own] for own in table]),
        tuple(tuple(row.details["right"]) for row in english) if votable else None,
        tuple(row.details["country"] for row in english),
        tuple(row.details.get("selected", "") for row in english),
        tuple(tuple(own[column].details["route"] for own in table) for column in range(len(languages))),
    )


def split(ids: Sequence[str], test_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of train and test questions, by a hash of seed and id: other questions do not move one.

    >>> train, test = split([str(n) for n in range(1000)], 0.3, 0)
    >>> len(train) + len(test), abs(len(test) - 300) < 50
    (1000, True)
    """
    flags = [_uniform(seed, identity) < test_share for identity in ids]
    return tuple(torch.tensor([n for n, flag in enumerate(flags) if flag is wanted]).long() for wanted in (False, True))  # type: ignore[return-value]


def check_split(count_train: int, count_test: int, settings: LanguageSpecificSettings) -> None:
    """Refuse too few questions for a map and for its test.

    Raises:
        SettingsError: there are fewer train questions than clusters, or no test question.
    """
    least = settings.min_cluster + 1 if settings.clustering == "hdbscan" else settings.clusters
    if count_train < least or not count_test:
        what = f"{count_train} train and {count_test} test questions are too few for {least} clusters"
        mend = "ask more questions, choose fewer --clusters, or another --test-share"
        raise SettingsError(what, where="clusters", mend=mend)


def analyse(
    rows: Sequence[Row],
    settings: LanguageSpecificSettings,
    *,
    seed: int = 0,
    transferred: LanguageMap | None = None,
) -> Analysis:
    """Fit the map on the train questions and ask it, and every other way, the test questions.

    Raises:
        SettingsError: too few questions, or a transferred map of other languages or another encoder.
    """
    answers = answers_of(rows)
    train, test = split(answers.ids, settings.test_share, seed)
    check_split(len(train), len(test), settings)
    made = fitted(answers, train, settings, seed)
    labels = made.clusters_of(answers.vectors[test])
    correct = answers.correct[test]
    p = permutation_p(labels, correct, made.table.experts, permutations=settings.permutations, seed=seed)
    outcomes = _outcomes(answers, made, test, labels, transferred)
    return Analysis(answers, made, train, test, labels, outcomes, p)


def fitted(answers: Answers, chosen: Tensor, settings: LanguageSpecificSettings, seed: int) -> LanguageMap:
    """The map of the chosen questions with these settings."""
    return fit_map(
        answers.vectors[chosen],
        answers.correct[chosen],
        answers.languages,
        clusters=settings.clusters,
        clustering=settings.clustering,
        min_cluster=settings.min_cluster,
        support=settings.support,
        shrink=settings.shrink,
        seed=seed,
        encoder=settings.encoder,
        prefix=settings.prefix,
    )


def check_transfer(language_map: LanguageMap, languages: Sequence[str], settings: LanguageSpecificSettings) -> None:
    """Refuse a map that these questions and this encoder cannot use.

    Raises:
        SettingsError: it names a language that is not asked, or is of another encoder or prefix.
    """
    odd = [code for code in language_map.languages if code not in languages]
    if odd:
        what = f'the map has the language "{odd[0]}", which is not asked'
        raise SettingsError(what, where="transfer", mend="ask the languages of the map")
    if (language_map.encoder, language_map.prefix) != (settings.encoder, settings.prefix):
        what = f'the map is of the encoder "{language_map.encoder}" with the prefix "{language_map.prefix}"'
        raise SettingsError(what, where="transfer", mend="give the same --encoder and --prefix")


def _outcomes(
    answers: Answers, made: LanguageMap, test: Tensor, labels: Tensor, transferred: LanguageMap | None
) -> dict[str, Tensor | None]:
    correct, picks = answers.correct[test], answers.picks[test]
    english = answers.languages.index(ENGLISH)
    lines = torch.arange(len(test))
    found: dict[str, Tensor | None] = {
        ENGLISH_ONLY: correct[:, english],
        SINGLE: correct[:, made.table.best_single],
        ROUTED: routed(labels, correct, made.table.experts),
    }
    if transferred is not None:
        places = torch.tensor([answers.languages.index(code) for code in transferred.experts])
        found[TRANSFERRED] = routed(transferred.clusters_of(answers.vectors[test]), correct, places)
    spoken = [_spoken(answers.countries[n]) for n in test.tolist()]
    named = any(code in answers.languages for own in spoken for code in own)
    found[COUNTRY] = correct[lines, chosen_languages(spoken, answers.languages, english)] if named else None
    selected = [[answers.selected[n]] for n in test.tolist()]
    if any(own[0] for own in selected):
        found[SELECTED] = correct[lines, chosen_languages(selected, answers.languages, english)]
    found[VOTE] = found[TOP3] = None
    if answers.right is not None:
        right = [answers.right[n] for n in test.tolist()]
        found[VOTE] = _right(majority(picks[:, made.table.order]), right)
        found[TOP3] = _right(top_votes(labels, picks, made.table.ranked), right)
    return {**found, RANDOM: random_language(correct), ORACLE: oracle(correct)}


def _spoken(country: str) -> tuple[str, ...]:
    """Languages of a country; none where it has no name or the data package is not installed."""
    try:
        return country_languages(country) if country else ()
    except MissingDependencyError:
        return ()


def _right(options: Tensor, right: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([option in own for option, own in zip(options.tolist(), right, strict=True)])


def _uniform(seed: int, identity: str) -> float:
    # Limits take the smallest hashes of seed and id: with the same hash they would leave one part of the split.
    return int(hashlib.sha256(f"split {seed}\n{identity}".encode()).hexdigest()[:13], 16) / 16**13
