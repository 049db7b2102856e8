"""CK-PLUG on published conflicts: choices are made where answers part, and each check can fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conflict_files import published_sets
from stream_models import pico_once

from keeps.claims import ck_plug, ck_plug_published
from keeps.claims.base import ClaimRun
from keeps.claims.bound_choices import Bound, between_two, chosen, parting, prompts_of
from keeps.claims.ck_plug_published import cost_checks, cut, dial_checks, known, opened, spoken, spoken_checks
from keeps.claims.conflicting_passages import SQUAD, Asked, Twins, twins
from keeps.decoding.combine import CADCombine, CKCombine, leading
from keeps.errors import RecordError
from keeps.models import LanguageModel
from keeps.numerics.logit_arithmetic import ck_adjust
from keeps.numerics.memory_recall import MemoryRecall

ALL = 20  # items of invented results


@pytest.fixture
def model(smollm2: LanguageModel) -> LanguageModel:
    return pico_once("llama", smollm2.tokenizer)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return published_sets(tmp_path)


# --- choices between two answers -------------------------------------------------------------------


@torch.no_grad()
def logits_of(model: LanguageModel, prompt: str, tokens: Sequence[int]) -> torch.Tensor:
    ids = torch.tensor([[*model.encode_prompt(prompt), *tokens]])
    return model.model(input_ids=ids, use_cache=False).logits[:, -1].float()


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0, "adaptive"])
@pytest.mark.parametrize("gate", ["cg", "code", "always"])
def test_the_choice_is_the_margin_of_the_card_at_the_token_where_answers_part(
    alpha: Any, gate: Any, model: LanguageModel, data: Path
) -> None:
    items = [pair.negative for pair in between_two(twins(data, SQUAD, words=50))]
    combine = Bound(alpha, gate)
    found = chosen(model, items, {"ck": combine})["ck"]
    for item, text, was_open in zip(items, found, combine.opened, strict=True):
        with_passage, without = prompts_of(model, item)
        one, other = parting(model, without, item.candidates)
        z_c, z_p = (logits_of(model, prompt, one[:-1]) for prompt in (with_passage, without))
        seen = ck_adjust(z_c, z_p, alpha, gate=gate)
        assert was_open == bool(seen.adjusted)
        d_c, d_p = (float(z[0, one[-1]] - z[0, other[-1]]) for z in (z_c, z_p))
        weight = float(seen.alpha)
        margin = weight * d_p + (1 - weight) * (d_c - d_p) if was_open else d_c
        assert text == item.candidates[0 if margin > 0 else 1]


def test_one_half_chooses_as_plain_reading_and_one_everywhere_as_the_model_alone(
    model: LanguageModel, data: Path
) -> None:
    items = [pair.negative for pair in between_two(twins(data, SQUAD, words=50))]
    combines = {"plain": leading, "half": Bound(0.5, "always"), "memory": Bound(1.0, "always")}
    found = chosen(model, items, combines)
    alone = chosen(model, items, {"alone": leading}, alone=True)["alone"]
    assert found["half"] == found["plain"]
    assert found["memory"] == alone


def test_answers_part_at_their_first_different_token_and_nested_ones_never(model: LanguageModel) -> None:
    one, other = parting(model, "Q: When?\nA:", ("27 September 2001", "27 September 2004"))
    assert one[:-1] == other[:-1]
    assert model.encoder.decode(one).endswith("2001")
    with pytest.raises(RecordError, match="begins with the other"):
        parting(model, "Q: When?\nA:", ("May", "May 2001"))


def test_pairs_that_nest_or_begin_in_another_manner_are_not_chosen_between() -> None:
    def pair(true: str, planted: str) -> Twins:
        both = [Asked("q", "Where?", "text", answer, (true, planted, "Cairo")) for answer in (true, planted)]
        return Twins(both[0], both[1])

    kept, *others = between_two([pair("Lima", "Oslo"), pair("wood", "A stone"), pair("May", "May 2001")])
    assert not others
    assert kept.golden.candidates == kept.negative.candidates == ("Lima", "Oslo")
    assert (kept.golden.answer, kept.negative.answer) == ("Lima", "Oslo")


def test_known_are_those_that_the_model_alone_says_or_else_prefers(
    model: LanguageModel, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable = between_two(twins(data, SQUAD, words=50))
    alone = chosen(model, [pair.golden for pair in usable], {"alone": leading}, alone=True)["alone"]
    preferred = [p for p, text in zip(usable, alone, strict=True) if text == p.golden.answer]
    monkeypatch.setattr(ck_plug_published, "LEAST", len(preferred))
    run = ClaimRun()
    assert known(model, usable, run) == preferred
    counts = run.tables["questions, asked without a passage"]
    assert (counts["usable"], counts["true answer spoken"]) == (6, 0)
    monkeypatch.setattr(ck_plug_published, "ITEMS", 2)
    monkeypatch.setattr(ck_plug_published, "LEAST", 1)
    monkeypatch.setattr(ck_plug_published, "_decoded", lambda *_: [f"in {p.golden.answer}." for p in usable])
    assert known(model, usable, ClaimRun()) == usable[:2]


def test_spoken_answers_read_the_sentences_around_the_answer(model: LanguageModel, data: Path) -> None:
    items = cut([pair.negative for pair in twins(data, SQUAD, words=50)][:2])
    assert items[0].context == "It is old. Tower 0 is in Oslo0. It is high."
    plain, half = (spoken(model, items, combine) for combine in (leading, CKCombine(0.5)))
    assert plain == half


# --- the checks of CK-PLUG -------------------------------------------------------------------------


def recall(context: int, memory: int) -> MemoryRecall:
    """The first ``context`` answers from the passage, the last ``memory`` from memory."""
    places = range(ALL)
    return MemoryRecall(tuple(n < context for n in places), tuple(n >= ALL - memory for n in places), 0.0)


DIAL = {"plain": recall(12, 8), "alpha 0": recall(15, 5), "alpha 0.25": recall(13, 7), "alpha 0.5": recall(12, 8),
        "alpha 1": recall(2, 18), "adaptive": recall(6, 14)}  # fmt: skip


def test_a_dial_that_turns_passes() -> None:
    assert [check.holds for check in dial_checks(DIAL, "cg")] == [True] * 5


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({"alpha 0": recall(11, 9)}, [0, 3]),
        ({"alpha 1": recall(2, 7)}, [1, 2]),
        ({"alpha 1": recall(3, 17)}, [2]),
        ({"alpha 1": recall(0, 0)}, [1, 2]),
        ({"alpha 0.25": recall(16, 4)}, [3]),
        ({"alpha 1": recall(13, 18)}, [2, 4]),
    ],
)
def test_each_check_of_the_dial_can_fail(changed: dict[str, MemoryRecall], failing: list[int]) -> None:
    found = [check.holds for check in dial_checks(DIAL | changed, "cg")]
    assert [place for place, holds in enumerate(found) if not holds] == failing


def test_true_passages_may_cost_three_points_and_no_more() -> None:
    many = MemoryRecall((False,) * 100, (True,) * 80 + (False,) * 20, 0.0)
    fewer = {share: MemoryRecall((False,) * 100, (True,) * share + (False,) * (100 - share), 0.0) for share in (77, 76)}
    right = {"plain": many, "alpha 0.5": many, "alpha 1": fewer[77], "adaptive": fewer[76]}
    assert [check.holds for check in cost_checks(right)] == [True, True, False]


def test_spoken_answers_that_differ_at_one_half_are_found_out() -> None:
    names = ["plain", *(f"alpha {a}{g}" for a in ("0", "0.5") for g in ("", ", gate code"))]
    texts = {name: ["Oslo", "Lima"] for name in names}
    said = dict.fromkeys(names, recall(5, 5))
    assert [check.holds for check in spoken_checks(texts, said)] == [True] * 4
    texts["alpha 0.5"] = ["Oslo", "Rome"]
    said["alpha 0, gate code"] = recall(4, 5)
    assert [check.holds for check in spoken_checks(texts, said)] == [False, True, True, False]


def test_the_form_on_published_data_runs_alone(
    model: LanguageModel, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: model)
    monkeypatch.setattr(ck_plug_published, "known", lambda _, usable, __: list(usable[:3]))
    monkeypatch.setattr(ck_plug_published, "TOKENS", 3)
    monkeypatch.setattr(ck_plug_published, "TRIED", 2)
    run = ClaimRun(data=data)
    checks = list(ck_plug.experiment(run))
    assert len(checks) == 1 + 10 + 3 + 4
    assert not any("capital" in check.name for check in checks)
    gates = run.tables["share of open gates where the answers part"]
    assert len(gates) == 10
    assert gates["alpha 0"] == gates["alpha 1"] <= gates["alpha 0, gate code"]
    assert ck_plug.CLAIM.files == SQUAD


def test_the_share_of_open_gates_is_of_each_setting() -> None:
    combines = {"plain": leading, "a": Bound(0.0, "cg", [True, False]), "cad": CADCombine()}
    assert opened(combines) == {"a": 0.5}
