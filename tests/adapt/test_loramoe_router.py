"""What a LoRAMoE run tells of its router, and whole jobs from the command line and from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import keeps
import keeps.adapt.loramoe as module
from keeps.adapt.loramoe import loramoe_context, type_of, wrap_loramoe
from keeps.cli.main import main
from keeps.data.records import Example, Fact, RecordSet
from keeps.errors import LedgerError
from keeps.ledger.router import router_table
from keeps.models.changes import load_change
from keeps.training.routing import router_report, typed_examples
from keeps.weights import load_tensors

SMALL: dict[str, Any] = {"experts": 4, "rank": 2, "targets": "down_proj,up_proj"}
NUMBERS = tuple(Example(f"l{n}", f"The number after {n} is", str(n + 1)) for n in range(9))
FACTS = tuple(Fact(f"f{n}", f"Planet {n}", "sky", (f"The sky of Planet {n} is",), ("red",)) for n in range(6))
MIXED = RecordSet("mixed", (*NUMBERS, *FACTS))


def test_the_report_tells_groups_types_and_layers_apart(contract: Any) -> None:
    contract.learn = MIXED
    change, _ = contract.run("loramoe", **SMALL, expert_types="0,1,1,0")
    report = json.loads(json.dumps(change.record.measures["router"]))
    assert [(row["name"], row["type"]) for row in report["groups"]] == [
        ("learn: examples", 0),
        ("learn: sky", 1),
        ("keep: examples", 0),
    ]
    assert all(sum(row["mass"]) == pytest.approx(1, abs=1e-3) for row in report["groups"])
    assert report["expert_types"] == [0, 1, 1, 0]
    assert set(report["mass"]) == {"0", "1"}
    assert len(report["layers"]) == 4
    assert 0 <= report["load_variation"] < 2
    learned = {str(row["type"]): row["tokens"] for row in report["groups"] if row["name"].startswith("learn")}
    assert report["tokens"] == learned


def test_experts_are_named_by_what_they_serve_and_not_by_their_type(contract: Any) -> None:
    """A router that sends facts to the experts of type 0, as the published sign does."""
    wrapped = wrap_loramoe(contract.model.model, ("layers.0.mlp.up_proj",), n_experts=4, r=2)
    examples = typed_examples(contract.model, MIXED, type_of)
    with loramoe_context(contract.model.model) as gates, torch.no_grad():
        [layer] = wrapped.layers.values()
        inputs: list[torch.Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0].mean(0)))
        for example in (examples[0], examples[-1]):
            contract.model.model(input_ids=torch.tensor([example.input_ids]))
        hook.remove()
        difference = inputs[1] - inputs[0]  # of a fact from an example
        layer.router.copy_(torch.stack([-difference, -difference, difference, difference]))
    assert gates.by_layer
    report = router_report(contract.model, {"learn": MIXED}, type_of, module.TYPES)
    assert report["serves"] == [1, 0], "type 0 serves facts and type 1 serves the rest"
    wrapped.unwrap()


# --- whole jobs -------------------------------------------------------------------------------


@pytest.fixture
def job(tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words of a small job from files."""
    monkeypatch.setattr("keeps.jobs.data.PROBE_PASSAGES", 2)
    monkeypatch.setattr("keeps.jobs.data.CALIBRATION_PASSAGES", 2)
    lines = [{"prompt": record.prompt, "answer": record.answer} for record in NUMBERS]
    facts = [{"subject": f.subject, "relation": f.relation, "object": "red", "prompts": list(f.prompts)} for f in FACTS]
    for name, rows in (
        ("new.jsonl", lines),
        ("facts.jsonl", facts),
        ("known.jsonl", [{"prompt": f"After {n} comes", "answer": str(n + 1)} for n in range(24)]),
    ):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    learn = f"{tmp_path / 'new.jsonl'},{tmp_path / 'facts.jsonl'}"
    words = ["adapt", "--method", "loramoe", "--learn", learn, "--keep", str(tmp_path / "known.jsonl")]
    words += ["--model", str(tiny_llama_folder), "--experts", "4", "--rank", "2", "--steps", "3", "--batch-size", "8"]
    return [*words, "--workspace", str(tmp_path / "space"), "--device", "cpu", "--quiet"]


def test_the_command_trains_shows_and_exports_and_the_diff_is_there_again(
    job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--workspace", str(tmp_path / "space"), "--quiet"]
    assert main([*job, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["largest_logit_difference"] == 0
    assert {group["name"] for group in done["diff"]["groups"]} >= {"learn: sky", "learn: examples"}
    run = done["run"]
    assert main(["diff", run, *place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"] == done["diff"]["groups"]

    assert main(["diff", run, "--router", *place]) == 0
    shown = capsys.readouterr().out
    for words in ("which data went to which expert", "learn: sky", "learned, facts", "coefficient of variation"):
        assert words in " ".join(shown.split()), shown
    assert main(["diff", run, "--router", "--probe", "world", *place]) == 2

    folder = Path(done["folder"])
    assert "load_change(Path(" in (folder / "README.md").read_text()
    assert main(["export", run, "--form", "merged", "--out", str(tmp_path / "merged"), *place]) == 2
    assert "depends on the token" in capsys.readouterr().err
    assert main(["export", run, "--form", "experts", "--out", str(tmp_path / "out"), "--device", "cpu", *place]) == 0
    written, copied = (load_tensors(each / "experts.safetensors") for each in (folder, tmp_path / "out"))
    assert all(torch.equal(copied[name], value) for name, value in written.items())


def test_a_run_without_experts_has_no_router_to_show() -> None:
    with pytest.raises(LedgerError, match=r"no router to show \(lora-1\)"):
        router_table({"train_seconds": 1.0}, "lora-1")


def test_a_finished_run_is_asked_again_from_disk(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("keeps.jobs.data.PROBE_PASSAGES", 2)
    job: dict[str, Any] = {"method": "loramoe", "settings": {**SMALL, "steps": 2}, "workspace": tmp_path}
    outcome = keeps.adapt(MIXED, contract.keep, model=contract.model, device="cpu", **job)
    assert outcome.export_difference == 0
    assert "router" in outcome.diff.cost
    rows = {item.id: item.logprob_after for item in outcome.diff.items}
    changed = load_change(outcome.folder).apply(contract.model)
    scores = changed.logprob([example.prompt for example in NUMBERS], [example.answer for example in NUMBERS])
    changed.undo()
    assert [score.logprob for score in scores] == pytest.approx([rows[example.id] for example in NUMBERS], abs=1e-4)
