from __future__ import annotations

from typing import Any

import pytest
import torch
from stream_models import pico_once

from keeps.claims import ck_plug
from keeps.claims.base import ClaimRun, run_claim
from keeps.claims.ck_plug import Asking, Capitals, Margins, capitals, dial_checks, identity_checks
from keeps.models import LanguageModel
from keeps.numerics.logit_arithmetic import ck_adjust

ITEMS = Capitals(("Norway", "Peru", "Haiti"), (("Oslo",), ("Lima",), ("Port-au-Prince",)))


def test_wrong_capitals_are_those_of_the_next_country_and_never_the_right_one() -> None:
    assert ITEMS.others == [("Lima",), ("Port-au-Prince",), ("Oslo",)]
    assert ITEMS.false()[2] == "Recently, the capital of Haiti was moved. Oslo is the capital city of Haiti."
    assert ITEMS.true()[1] == "Lima is the capital city of Peru."
    assert ITEMS.asked[0] == "The capital of Norway is"
    asked = capitals(ck_plug.CAPITALS)
    assert len(asked.countries) == 24
    assert all(not set(wrong) & set(right) for wrong, right in zip(asked.others, asked.known, strict=True))


def test_margins_find_a_combination_that_is_not_affine(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.stack([torch.tensor([[1, 1.2, 0, -1]]), torch.tensor([[4.0, 0, 0, 0]])])
    right = Margins()
    right(logits)
    assert (right.steps, right.worst < 1e-12) == (1, True)

    def squared(z_c: torch.Tensor, z_p: torch.Tensor, alpha: float) -> Any:
        return ck_adjust(z_c, z_p, alpha**2)

    monkeypatch.setattr(ck_plug, "ck_adjust", squared)
    wrong = Margins()
    wrong(logits)
    assert wrong.worst > 0.1


def test_checks_are_made_of_what_a_model_says(smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico_once("llama", smollm2.tokenizer)
    monkeypatch.setattr(ck_plug, "capitals", lambda _: ITEMS)
    assert [check.holds for check in identity_checks(model)] == [True] * 3
    run = ClaimRun()
    checks = {check.name: check for check in dial_checks(Asking(model, ITEMS, ITEMS.false()), run)}
    assert not checks["MR at alpha 1"].holds, "a model of random weights knows no capital"
    assert not checks["ConR at alpha 0"].holds
    assert {"plain", "alpha 0", "adaptive", "CAD 0.5", "alpha 0, gate code"} <= set(run.tables["false contexts"])


def test_the_model_that_the_thresholds_are_of_is_asked_in_full_size(
    smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load(spec: str, **_: Any) -> LanguageModel:
        asked.append(spec)
        return pico_once("llama", smollm2.tokenizer)

    monkeypatch.setattr(LanguageModel, "load", load)
    monkeypatch.setattr(ck_plug, "capitals", lambda _: ITEMS)
    for size in ("default", "full"):
        assert run_claim(ck_plug.CLAIM, ClaimRun(size=size)).verdict == "does not hold"  # type: ignore[arg-type]
    assert asked == ["smollm2-135m", "HuggingFaceTB/SmolLM2-135M"]
