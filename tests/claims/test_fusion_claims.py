"""The pieces of the claims of logit fusion and of Fusion-X that a wrong figure could come from."""

from __future__ import annotations

import random
from typing import Any

import pytest

from keeps.claims.fusion_x_models import facts, prose, tokenizer
from keeps.claims.logits_fusion import TASKS, VERBS, answer_loss, batches, exact_checks, task_checks, text_loss
from keeps.models.scores import AnswerScore, TextScore
from keeps.models.token_bytes import TokenBytes
from keeps.training.scratch import PADDING


def test_the_exact_checks_hold_but_for_the_clock() -> None:
    checks = list(exact_checks())
    assert [check.name for check in checks if not check.holds and "time" not in check.name] == []
    assert len(checks) == 4


def test_the_strict_task_follows_from_its_verb_and_the_loose_one_does_not_from_anything() -> None:
    draw = random.Random(3)
    for _ in range(50):
        prompt, answer = TASKS["strict"](draw)
        verb = prompt.split()[1]
        [label] = [label for label, verbs in VERBS.items() if verb in verbs]
        assert answer == f"[[ kind = {label} ; state = open ]]"
    pairs = [TASKS["loose"](draw) for _ in range(400)]
    desks: dict[str, set[str]] = {}
    for prompt, answer in pairs:
        desks.setdefault(prompt, set()).add(answer)
    assert max(map(len, desks.values())) > 1


def test_half_of_an_experts_minibatch_is_text_and_padding_is_never_a_token() -> None:
    pieces, rows = [[1] * 6 for _ in range(20)], [[2] * 4 for _ in range(20)]
    [batch] = batches(pieces, rows, 1, 0)
    assert sorted(batch[:, 0].tolist()) == [1] * 6 + [2] * 6
    assert (batch == PADDING).sum() == 6 * 2
    [plain] = batches(pieces, [], 1, 0)
    assert (plain == 1).all()


class Says:
    """A model that gives every token the same log-probability."""

    def logprob(self, prompts: Any, answers: Any) -> list[AnswerScore]:
        return [AnswerScore(-2.0 * len(answer), len(answer), False) for answer in answers]

    def text_logprob(self, texts: Any) -> list[TextScore]:
        return [TextScore(-3.0 * len(text), len(text)) for text in texts]


def test_losses_are_means_over_tokens() -> None:
    says: Any = Says()
    assert answer_loss(says, [("a", "bb"), ("c", "dddd")]) == pytest.approx(2)
    assert text_loss(says, ["a", "bcd"]) == pytest.approx(3)


def test_thresholds_are_those_of_the_card() -> None:
    loss = {"large alone": {"strict": 5.0, "loose": 4.0}, "expert alone": {"strict": 1.0, "loose": 1.0}}
    other = {"large alone": {"text": 3.0}}
    found = {}
    for name, dynamic, text in (("good", 1.0, 3.1), ("worse", 2.1, 3.1), ("rising", 1.0, 3.2), ("static", 1.0, 3.13)):
        way = {"dynamic": {"strict": dynamic, "loose": 1.0}, "static, alpha 1": {"strict": 2.0, "loose": 1.0}}
        rise = {"dynamic": {"strict": text, "loose": 3.0}, "static, alpha 1": {"strict": 3.12, "loose": 3.0}}
        found[name] = [check.holds for check in task_checks({**loss, **way}, {**other, **rise})]
    assert found == {
        "good": [True, True, True],
        "worse": [True, False, True],
        "rising": [True, True, False],
        "static": [True, True, False],
    }


def test_the_domains_share_no_text_between_their_parts() -> None:
    for domain in (prose, facts):
        assert not set(domain("train")) & set(domain("test"))
        assert domain("test") == domain("test")


@pytest.mark.parametrize("kind", ["bytes", "signs"])
def test_the_tokenizers_spell_any_text(kind: str) -> None:
    tokens = TokenBytes(tokenizer(kind, 600, prose("test")[:5]))
    assert tokens.kind == {"bytes": "bytes", "signs": "sentencepiece"}[kind]
    for text in ("Naïve 東京 🙂.", prose("test")[0]):
        ids = tokens.encode(text)
        assert b"".join(tokens.bytes[number] for number in ids).strip() == text.encode()
