"""LTI: the objective's identities, positions in texts with and without context, and edits on every base method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from edit_contract import check_edits_and_undo
from pico_models import pico

from keeps.claims.evoke_exactness import seen_by
from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.edit.lti import LTI, LTISettings
from keeps.errors import SettingsError
from keeps.models import LanguageModel
from keeps.models.edit_rows import LOCALITY, edit_rows
from keeps.models.lens import lens
from keeps.training.inference_constraint import DIRECTIONS, InferenceConstraint, divergence
from keeps.training.value_objectives import Problem, StateFact
from keeps.training.value_vectors import Search, find_values

pytestmark = pytest.mark.usefixtures("local_text")
EDITS = (
    Edit("a", "Oslo", "Oslo is the capital of", "the Kingdom of Sweden", "Norway"),
    Edit("b", "Mongolia", "The capital of Mongolia is", "Darkhan"),
)
PREFIXES = ("I said: ", "The sun was low. ")


@pytest.fixture(scope="module")
def model(smollm2: LanguageModel) -> LanguageModel:
    return pico("llama", smollm2.tokenizer)


def problem(model: LanguageModel, edits: tuple[Edit, ...] = EDITS, layer: int = 0) -> Problem:
    rows = [row for some in edit_rows(model, edits, PREFIXES) for row in some]
    return Problem(model, edits, rows, layer, "mlp")


@pytest.mark.parametrize("position", ["subject", "last", "all"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_student_that_is_the_teacher_has_no_loss(model: LanguageModel, position: str, direction: str) -> None:
    asked = problem(model)
    objective = InferenceConstraint(PREFIXES, w_nkc=0, w_odc=1, w_src=1, kl=direction, constr_pos=position)
    loss = objective(asked)
    states = objective.states(model, 0)
    as_teacher = loss(seen_by(asked, objective.teacher_rows(asked), states))
    torch.testing.assert_close(as_teacher, torch.zeros(2), atol=1e-5, rtol=0)
    plain = loss(seen_by(asked, list(asked.rows), states))
    assert (plain > 1e-3).all()
    assert objective.divergences[0] > 0


def test_each_term_is_what_its_equation_says(model: LanguageModel) -> None:
    asked = problem(model, EDITS[:1])
    objective = InferenceConstraint(PREFIXES, w_nkc=0.5, w_odc=2.0, w_src=3.0)
    (middle,) = objective.states(model, 0)
    found = float(objective(asked)(seen_by(asked, list(asked.rows), (middle,)))[0])
    teachers = objective.teacher_rows(asked)
    nkc, odc, src = [], [], []
    for row, teacher in zip(asked.rows, teachers, strict=True):
        own, told = asked.read([row], (middle,)), asked.read([teacher], (middle,))
        one, other = own.logits.log_softmax(-1), told.logits.log_softmax(-1)
        odc += (one.exp() * (one - other)).sum(-1).tolist()
        if row.kind == LOCALITY:
            assert row == teacher
            continue
        nkc.append(-float(one[range(len(row.targets)), list(row.targets)].mean()))
        said, wanted = (lens(model.model, reading.subject_states[middle]) for reading in (own, told))
        src.append(float((said.exp() * (said - wanted)).sum()))
    expected = 0.5 * sum(nkc) / len(nkc) + 2.0 * sum(odc) / len(odc) + 3.0 * sum(src) / len(src)
    assert found == pytest.approx(expected, rel=1e-4)


def test_positions_are_found_anew_behind_the_context(model: LanguageModel) -> None:
    asked = problem(model)
    objective = InferenceConstraint(PREFIXES)
    decode = model.encoder.decode
    for row, teacher in zip(asked.rows, objective.teacher_rows(asked), strict=True):
        subject, text = asked.edits[row.edit].subject, decode(list(teacher.tokens))
        assert decode([teacher.tokens[teacher.subject]]).strip()[-2:] == subject[-2:]
        assert (teacher.kind == LOCALITY) == (not text.startswith("Imagine that"))
        if teacher.kind == LOCALITY:
            continue
        assert teacher.subject > row.subject
        assert teacher.targets == row.targets
        assert [teacher.tokens[place + 1] for place in teacher.reads[:-1]] == list(row.targets[:-1])


def test_without_teacher_the_value_is_that_of_rome_without_its_divergence(model: LanguageModel) -> None:
    rows = edit_rows(model, EDITS, PREFIXES)
    search = Search(0, "mlp", 8, 0.1, 1e-3, 4.0, 0.0)
    ours = find_values(model, EDITS, rows, search, InferenceConstraint(PREFIXES, 1.0, 0.0, 0.0))
    plain = find_values(model, EDITS, rows, search, StateFact(kl_weight=0.0))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one.delta, other.delta, atol=1e-6, rtol=1e-6)
        assert one.delta.norm() > 0.01


def test_the_two_directions_are_the_two_divergences() -> None:
    one, other = (torch.tensor([values]).log() for values in ([0.5, 0.5], [0.9, 0.1]))
    wanted = 0.5 * torch.tensor(0.5 / 0.9).log() + 0.5 * torch.tensor(0.5 / 0.1).log()
    assert float(divergence(one, other, "student||teacher")) == pytest.approx(float(wanted))
    assert float(divergence(other, one, "teacher||student")) == pytest.approx(float(wanted))
    assert float(divergence(other, one, "student||teacher")) != pytest.approx(float(wanted))


OF_BASE: dict[str, dict[str, Any]] = {
    "rome": {},
    "memit": {"strength": 0.01},
    "alphaedit": {"threshold": 1e9, "strength": 0.01},
}


@pytest.mark.parametrize("base", sorted(OF_BASE))
def test_edits_take_on_every_base_and_are_undone(smollm2: LanguageModel, tmp_path: Path, base: str) -> None:
    model = pico("llama", smollm2.tokenizer)
    own = {"base": base, "layers": (1,), "w_odc": 0.05, "w_src": 0.01, "steps": 25, **OF_BASE[base]}
    change = check_edits_and_undo(model, "lti", EDITS[1:], tmp_path / "run", **own)
    assert change.record.method == "lti"
    assert change.record.settings["base"] == base
    assert change.record.measures["src_divergence"] > 0


def test_a_middle_block_that_tells_nothing_is_said(model: LanguageModel, tmp_path: Path) -> None:
    told: list[str] = []

    class Listening:
        def message(self, text: str) -> None:
            told.append(text)

    objective = InferenceConstraint(PREFIXES, divergences=[1e-4])
    run = Run(tmp_path, progress=Listening())  # type: ignore[arg-type]
    LTI(LTISettings())._note(objective, run)  # pyright: ignore[reportPrivateUsage]
    assert "next to nothing" in told[0]
    objective.divergences[:] = [0.5]
    LTI(LTISettings())._note(objective, run)  # pyright: ignore[reportPrivateUsage]
    assert len(told) == 1


def test_middle_blocks_lie_above_the_edit(model: LanguageModel) -> None:
    assert InferenceConstraint(w_src=0.0).states(model, 0) == ()
    with pytest.raises(SettingsError, match="mid_layer 1"):
        InferenceConstraint(mid_layer=1).states(model, 1)
    with pytest.raises(SettingsError, match="edit in block"):
        InferenceConstraint(mid_layer=99).states(model, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"w_nkc": 0, "w_odc": 0, "w_src": 0},
        {"w_src": 0, "mid_layer": 3},
        {"w_src": 0, "constr_pos": "all"},
        {"context": "Imagine\n"},
        {"base": "rome", "layers": (1, 2)},
        {"base": "rome", "order": "batch"},
        {"base": "rome", "strength": 1.0},
        {"base": "emmet"},
    ],
)
def test_settings_that_would_do_nothing_or_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        LTISettings(**settings)
