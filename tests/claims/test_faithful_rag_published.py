"""FaithfulRAG on published conflicts: whom it asks, behind which passages, and that each check can fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conflict_files import published_sets
from stream_models import pico_once

from keeps.claims import faithful_rag, faithful_rag_published
from keeps.claims.base import ClaimRun
from keeps.claims.conflicting_passages import FAITHEVAL, MUSIQUE, SQUAD, Asked
from keeps.claims.faithful_rag_published import CHANGED, TRUE, Set, aligned, faithful_checks
from keeps.contracts import Answer
from keeps.models import LanguageModel
from keeps.models.chat import Conversation, Reply, Usage
from keeps.models.scores import ChoiceScore


@pytest.fixture
def model(smollm2: LanguageModel) -> LanguageModel:
    return pico_once("llama", smollm2.tokenizer)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return published_sets(tmp_path)


def results(changed: tuple[int, int], true: tuple[int, int]) -> tuple[list[Set], dict[str, dict[str, list[bool]]]]:
    """One set both ways: how many of 100 are faithful with facts and plainly."""
    item = Asked("q", "Where?", "In Oslo.", "Oslo", ("Oslo", "Lima"))
    given = [Set("SQuAD", kind, [item] * 100) for kind in (CHANGED, TRUE)]
    hits = {"faithful": (changed[0], true[0]), "plain": (changed[1], true[1])}
    found = {
        each.title: {name: [n < counts[place] for n in range(100)] for name, counts in hits.items()}
        for place, each in enumerate(given)
    }
    return given, found


@pytest.mark.parametrize(
    ("changed", "true", "holds"),
    [
        ((60, 50), (60, 60), [True, True, True]),
        ((50, 50), (58, 60), [True, True, False]),
        ((49, 50), (57, 60), [False, False, False]),
        ((53, 50), (60, 60), [True, True, False]),
        ((50, 60), (60, 60), [False, True, False]),
    ],
)
def test_each_check_of_faithful_answers_can_fail(
    changed: tuple[int, int], true: tuple[int, int], holds: list[bool]
) -> None:
    assert [check.holds for check in faithful_checks(*results(changed, true))] == holds


def test_chunks_that_hold_the_answer_are_counted() -> None:
    items = [Asked("q", "Where?", "In Oslo.", "Oslo", ("Oslo", "Lima"))] * 2
    trace = {"self_facts": ["It is in Lima."], "aligned": [{"chunk": "It is in Oslo."}]}
    answers = [Answer("Oslo", (), trace), Answer("Lima", (), {"self_facts": [], "aligned": []})]
    assert aligned(items, answers) == {"with mined facts": 0.5, "answer in an aligned chunk": 0.5}


class Reading:
    """A chat that believes what it reads: the choice that stands in the conversation, unless it hears of ``deaf``."""

    deaf = "nothing of the kind"

    def __init__(self, model: Any) -> None:
        del model

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 256) -> list[Reply]:
        del max_new_tokens
        return [Reply("1. It is in Lima.", True, Usage())] * len(conversations)

    def weigh(
        self, conversations: Sequence[Conversation], choices: Sequence[Sequence[str]]
    ) -> list[tuple[ChoiceScore, Usage]]:
        return [self._weigh(turn[-1].content, options) for turn, options in zip(conversations, choices, strict=True)]

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def _weigh(self, text: str, options: Sequence[str]) -> tuple[ChoiceScore, Usage]:
        assert sum(option in text for option in options) == 1, "the candidates stand in the prompt"
        heard = [option in text and self.deaf not in text for option in options]
        scores = tuple(0.0 if each else -1.0 for each in heard)
        best = scores.index(0.0) if any(heard) else next(n for n, option in enumerate(options) if option not in text)
        return ChoiceScore(best, scores, scores), Usage()


class OneFact:
    """An encoder to which everything is alike."""

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.ones(len(texts), 3), dim=1)


@pytest.mark.parametrize(
    ("deaf", "plain", "holds"),
    [
        ("nothing of the kind", 1.0, [True] * 5 + [False]),
        ("Read the question. Answer it from Facts", 1.0, [False] * 6),
        ("Give the answer itself", 0.0, [True] * 6),
    ],
)
def test_faithful_rag_is_asked_the_published_passages_alone(
    deaf: str, plain: float, holds: list[bool], model: LanguageModel, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faithful_rag.SentenceEncoder, "load", lambda *_, **__: OneFact())
    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: model)
    monkeypatch.setattr(faithful_rag, "LocalChat", Reading)
    monkeypatch.setattr(Reading, "deaf", deaf)
    monkeypatch.setattr(faithful_rag, "alignment_checks", lambda _: ())
    monkeypatch.setattr(faithful_rag_published, "ITEMS", 2)
    run = ClaimRun(data=data)
    contract, *checks = faithful_rag.experiment(run)
    assert contract.holds
    assert [check.name.partition(": ")[2] for check in checks] == [
        "SQuAD, changed passages", "SQuAD, true passages", "MuSiQue, changed passages", "MuSiQue, true passages",
        "FaithEval, changed passages", "all changed passages",
    ]  # fmt: skip
    assert [check.baseline for check in checks] == [plain] * 6
    assert [check.holds for check in checks] == holds
    assert len(run.tables["share of planted answers, in the decoder"]) == 3
    assert set(SQUAD) | set(MUSIQUE) | {FAITHEVAL} == set(faithful_rag.CLAIM.files)
