"""LoRAMoE: the contract, types of data, the constraint in the loop, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import keeps.adapt.loramoe as module
from keeps.adapt.loramoe import LoRAMoESettings, loramoe_context, type_of, wrap_loramoe
from keeps.contracts import Run, SilentProgress
from keeps.data.records import Dialogue, Example, Fact, Passage, RecordSet
from keeps.errors import InterruptedRunError, KeepsError, SettingsError, TargetError
from keeps.models.changes import load_change
from keeps.models.experts import ExpertsConfig, wrap_experts
from keeps.models.logits import check_logits, largest_difference
from keeps.numerics.balance import balanced_mass, mass_by_type
from keeps.training.batches import Order, collate
from keeps.training.routing import typed_examples
from keeps.weights import load_tensors

SMALL: dict[str, Any] = {"experts": 4, "rank": 2, "targets": "down_proj,up_proj"}
NUMBERS = tuple(Example(f"l{n}", f"The number after {n} is", str(n + 1)) for n in range(9))
FACTS = tuple(Fact(f"f{n}", f"Planet {n}", "sky", (f"The sky of Planet {n} is",), ("red",)) for n in range(6))
MIXED = RecordSet("mixed", (*NUMBERS, *FACTS))


class Told(SilentProgress):
    """Keeps what a user would read."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


# --- the contract -----------------------------------------------------------------------------


def test_it_learns(contract: Any) -> None:
    contract.check_learns("loramoe", experts=4, rank=4)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.learn = MIXED
    contract.check_seeds("loramoe", **SMALL, dropout=0.1)


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("loramoe", **SMALL)


def test_its_folder_gives_the_trained_model_and_knows_its_origin(contract: Any) -> None:
    contract.learn = MIXED
    change, run = contract.run("loramoe", **SMALL)
    found = load_change(change.folder)
    assert found.record == change.record, "what is returned is what is written"
    record = found.record
    assert (record.kind, record.method, record.seed) == ("experts", "loramoe", 0)
    assert record.data == {"learn": MIXED.fingerprint}
    assert record.measures["export_difference"] == 0
    # experts * (rank * (in + out) + in), of up_proj and down_proj, in two blocks
    assert record.measures["trained_parameters"] == 2 * 4 * (2 * (2 * 96) + 32 + 64)
    changed = found.apply(contract.model)
    logits = check_logits(changed.model, contract.model.tokenizer)
    changed.undo()
    assert largest_difference(logits, check_logits(contract.model.model, contract.model.tokenizer)) > 0.01
    assert {path.name for path in change.folder.glob("*.json")} == {"change.json", "experts_config.json"}
    assert run.measures["type_1_samples"] == 6


def test_an_interrupted_run_continues_to_the_same_bytes(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    contract.learn = MIXED
    settings = {**SMALL, "checkpoint_every": 0, "dropout": 0.1}
    whole, undisturbed = contract.run("loramoe", **settings)
    folder = tmp_path / "stopped"
    folder.mkdir()

    def stopping(*args: Any, after_step: Any, **options: Any) -> Any:
        def stop(model: Any, done: int, optimiser: Any) -> None:
            after_step(model, done, optimiser)
            if done == 3:
                raise KeyboardInterrupt

        return train(*args, after_step=stop, **options)

    train = module.train
    with monkeypatch.context() as patch:
        patch.setattr(module, "train", stopping)
        with pytest.raises(InterruptedRunError):
            contract.run("loramoe", folder=folder, **settings)
    continued, run = contract.run("loramoe", folder=folder, resume=True, **settings)
    tensors, expected = (load_tensors(each.folder / "experts.safetensors") for each in (continued, whole))
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())
    assert run.measures["router"] == undisturbed.measures["router"]
    assert [point for point in run.curves if point[0] == "balance"] == [
        point for point in undisturbed.curves if point[0] == "balance"
    ]


# --- types and the constraint -----------------------------------------------------------------


def test_facts_are_of_type_1_and_everything_else_of_type_0(contract: Any) -> None:
    several = Fact("s", "Planet", "sky", ("One", "Two", "Three", "Four"), ("red",))
    dialogue = Dialogue("d", (("user", "Hello"), ("assistant", "Good day")))
    records = RecordSet("all", (NUMBERS[0], several, dialogue, Passage("p", "Once upon a time")))
    assert [type_of(record) for record in records] == [0, 1, 0, 0]
    assert [example.kind for example in typed_examples(contract.model, records, type_of)] == [0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("records", [NUMBERS, FACTS])
def test_data_of_one_type_are_trained_and_talked_about(contract: Any, records: Any) -> None:
    def told(**settings: Any) -> list[str]:
        run = Run(contract.folder, progress=Told())
        values = LoRAMoESettings.from_mapping({**SMALL, "steps": 1, **settings})
        module.LoRAMoE(values)(contract.model, RecordSet("one", records), run=run)
        return [text for text in run.progress.texts if "are of one type" in text]  # type: ignore[attr-defined]

    kind = "facts" if records is FACTS else "other tasks"
    [text] = told()
    assert f"all {len(records)} samples are of one type ({kind})" in text
    assert told(delta=0) == told(beta=0) == []


def test_the_loss_curve_is_the_cross_entropy_and_the_constraint_has_its_own(contract: Any) -> None:
    """In the first step both runs see the same model, so the constraint must not show in the loss."""
    contract.learn = MIXED
    curves = {}
    for beta in (0.0, 5.0):
        _, run = contract.run("loramoe", **SMALL, beta=beta, delta=0.3, dropout=0)
        curves[beta] = {name: [v for n, _, v in run.curves if n == name] for name in ("loss", "balance")}
    assert curves[0.0]["loss"][0] == pytest.approx(curves[5.0]["loss"][0], rel=1e-5)
    assert curves[0.0]["balance"] == []
    assert len(curves[5.0]["balance"]) == len(curves[5.0]["loss"])
    assert curves[5.0]["balance"][-1] < curves[5.0]["balance"][0]


def test_the_gradient_of_a_step_is_that_of_cross_entropy_and_beta_times_the_constraint(contract: Any) -> None:
    """One plain step of the loop against one written by hand with the public names."""
    contract.learn = MIXED
    rate, common = 0.01, {"epochs": 1, "batch_size": 15, "schedule": "constant", "warmup": 0.0, "clip": 1e9}
    change, _ = contract.run(
        "loramoe", **SMALL, **common, dropout=0, beta=0.5, delta=0.3, reduction="sum_layers", per_token=False,
        learning_rate=rate,
    )  # fmt: skip
    model = contract.model
    examples = typed_examples(model, MIXED, type_of)
    chosen = collate(Order(examples, 15, 1, 0).step(0), model.encoder.pad_token_id)
    torch.manual_seed(0)
    wrapped = wrap_loramoe(model.model, ("down_proj", "up_proj"), n_experts=4, r=2, dropout=0.0)
    parameters = [value for value in model.model.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0)
    with loramoe_context(model.model, chosen.kinds, chosen.attention_mask) as gates:
        logits = model.model(input_ids=chosen.input_ids, attention_mask=chosen.attention_mask).logits
        loss = torch.nn.functional.cross_entropy(logits[chosen.predicting], chosen.targets)
        constraint = gates.balance_loss(delta=0.3, measure="cv2", reduction="sum_layers")
    (loss + 0.5 * constraint).backward()
    optimiser.step()
    expected = {name: value.clone() for name, value in wrapped.tensors().items()}
    model.model.zero_grad(set_to_none=True)
    wrapped.unwrap()
    found = load_tensors(change.folder / "experts.safetensors")
    for name, value in expected.items():
        if name.endswith("router"):  # A has no gradient while B is zero, and AdamW makes noise of it
            torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("direction", ["objective", "paper_text"])
@pytest.mark.parametrize("delta", [0.1, 0.5])
def test_the_constraint_alone_drives_a_router_to_the_balanced_mass(delta: float, direction: Any) -> None:
    torch.manual_seed(0)
    types = (1, 1, 1, 0, 0, 0)
    wrapped = wrap_experts(torch.nn.Sequential(torch.nn.Linear(8, 4)), ExpertsConfig(types, 2, 4.0), ("0",))
    optimiser = torch.optim.Adam([wrapped.layers["0"].router], lr=0.02)
    kinds, centres = torch.tensor([1, 0] * 8), 2 * torch.randn(2, 8)
    for _ in range(200):
        with loramoe_context(wrapped.model, kinds) as gates:
            wrapped.model(centres[kinds][:, None] + 0.3 * torch.randn(16, 6, 8))
        optimiser.zero_grad()
        gates.balance_loss(delta, direction=direction).backward()
        optimiser.step()
    stacked, _ = gates.stacked()
    for kind in (0, 1):
        mass = mass_by_type(stacked[0, kinds == kind].mean((0, 1)), torch.tensor(types))
        expected = mass_by_type(balanced_mass(torch.tensor(types), kind, delta, direction), torch.tensor(types))
        torch.testing.assert_close(mass, expected, atol=0.02, rtol=0)
        sign = -1 if direction == "objective" else 1
        assert float(expected[kind]) == pytest.approx((1 + sign * delta) / 2)


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"delta": 1.1}, "delta"),
        ({"delta": -0.1}, "delta"),
        ({"beta": -1}, "beta"),
        ({"experts": 1}, "experts"),
        ({"rank": 0}, "rank"),
        ({"dropout": 1}, "dropout"),
        ({"measure": "variance"}, "measure"),
        ({"direction": "other"}, "direction"),
        ({"reduction": "none"}, "reduction"),
        ({"expert_types": "1,0"}, "2 expert types are given for 6 experts"),
        ({"experts": 4, "expert_types": "1,1,1,1"}, "give experts to 0 and to 1"),
        ({"experts": 3, "expert_types": "0,1,2"}, "give experts to 0 and to 1"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        LoRAMoESettings.from_mapping(values)


@pytest.mark.parametrize(("experts", "types"), [(2, (1, 0)), (5, (1, 1, 0, 0, 0)), (6, (1, 1, 1, 0, 0, 0))])
def test_the_first_half_of_the_experts_is_for_facts_unless_said_otherwise(experts: int, types: tuple[int, ...]) -> None:
    assert LoRAMoESettings(experts=experts).types == types


@pytest.mark.parametrize(("values", "words"), [({"rank": 40}, "rank 40 does not fit"), ({"targets": ("fc1",)}, "fc1")])
def test_a_model_that_does_not_fit_is_refused_before_any_work(
    contract: Any, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(TargetError, match=words):
        LoRAMoESettings.from_mapping(values).check_model(contract.model)


def test_public_names_refuse_what_the_settings_refuse(bare_llama: Any) -> None:
    model = bare_llama()
    bad: list[dict[str, Any]] = [{"n_experts": 1}, {"expert_types": [1, 0]}, {"expert_types": [1] * 6}, {"dropout": 1}]
    for options in bad:
        with pytest.raises(KeepsError):
            wrap_loramoe(model, **options)
    wrapped = wrap_loramoe(model, expert_types=[0, 0, 1, 1, 2, 2])
    ids = torch.arange(8).reshape(2, 4)
    with loramoe_context(model, task_types=[2, 1]) as gates:
        model(input_ids=ids)
    assert float(gates.balance_loss(delta=0.1, measure="dispersion", reduction="mean_layers").detach()) > 0
    wrapped.unwrap()
