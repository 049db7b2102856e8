"""EMR-Merging: what each task gets back against a naive formula, masks in bits, tasks, routes, undo and damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tune_folders import MIXED, PROMPTS, adapter_folder, fine_tunes, moved, same_bits, state_of, whole_folder
from pico_models import pico

from keeps.contracts import Run
from keeps.errors import KeepsError, SettingsError, StorageError
from keeps.merge.emr import EMR, EMRSettings
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.emr_files import CONFIG_FILE, UNIFIED_FILE, EMRChange, mask_file, read_config, task_values
from keeps.models.fine_tunes import FineTune
from keeps.models.logits import check_logits
from keeps.weights import load_tensors
from keeps.weights.files import save_tensors


def made(model: LanguageModel, tuned: list[FineTune], folder: Path, **settings: Any) -> EMRChange:
    folder.mkdir()
    return EMR(EMRSettings(**settings))(model, tuned, run=Run(folder))


def bare(tuned: list[FineTune]) -> list[FineTune]:
    """The fine-tunes without prompts: no router."""
    return [FineTune(item.name, item.folder) for item in tuned]


def naive(values: list[dict[str, torch.Tensor]], base: dict[str, torch.Tensor], task: int) -> dict[str, torch.Tensor]:
    """theta_t as the paper has it, in float64 over one flat vector."""
    names = list(base)
    taus = [torch.cat([(each[n].double() - base[n].double()).flatten() for n in names]) for each in values]
    stacked = torch.stack(taus)
    sign = torch.sign(stacked.sum(0))
    together = sign * torch.where(torch.sign(stacked) == sign, stacked.abs(), 0.0).amax(0)
    mask = taus[task] * together > 0
    lam = taus[task].abs().sum() / together[mask].abs().sum()
    update, found, start = lam * mask * together, {}, 0
    for name in names:
        part = update[start : start + base[name].numel()].view_as(base[name])
        found[name], start = base[name].double() + part, start + base[name].numel()
    return found


@pytest.fixture(scope="module")
def three(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("emr")
    model = pico("llama", tokenizer)
    tuned, values = fine_tunes(model, folder)
    return model, made(model, bare(tuned), folder / "run"), tuned, values


def test_each_task_gets_what_the_paper_says(three: Any) -> None:
    model, change, _, values = three
    base = {name: parameter.detach() for name, parameter in model.model.named_parameters()}
    for task in range(3):
        found = task_values(change.folder, task, read_config(change.folder), base)
        for name, wanted in naive(values, base, task).items():
            assert torch.allclose(found[name].double(), wanted, atol=1e-6), name


def test_one_fine_tune_comes_back_as_it_is(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("gpt2", tokenizer)
    values = moved(model, 4)
    change = made(model, [FineTune("only", whole_folder(model, tmp_path / "a", values))], tmp_path / "run")
    assert change.record.measures["rescalers"] == {"only": 1.0}
    base = dict(model.model.named_parameters())
    found = task_values(change.folder, 0, read_config(change.folder), base)
    kept = {name: found.get(name, base[name].detach()) for name in values}  # biases are 0, and were not moved
    assert all(torch.allclose(kept[name], values[name], atol=1e-7) for name in values)
    assert len(change.apply(model).generate(["O rose"])) == 1  # with one task there is nothing to name


def test_masks_cost_one_bit_a_weight(three: Any) -> None:
    model, change, _, _ = three
    wanted = sum(-(-parameter.numel() // 8) for parameter in model.model.parameters())
    for task in PROMPTS:
        assert sum(tensor.numel() for tensor in load_tensors(change.folder / mask_file(task)).values()) == wanted


def test_answers_are_those_of_the_task_in_use_and_the_base_comes_back(three: Any, tmp_path: Path) -> None:
    model, change, _, _ = three
    state, wanted = state_of(model), {}
    for task in PROMPTS:
        change.write_task(task, tmp_path / task, model)
        expert = LanguageModel.load(tmp_path / task)
        wanted[task] = [score.logprob for score in expert.logprob(MIXED, ["five", "Norway", "sick"])]
    changed = change.apply(model)
    marks = set()
    for task, expected in wanted.items():
        changed.use(task)
        found = [score.logprob for score in changed.logprob(MIXED, ["five", "Norway", "sick"])]
        assert found == pytest.approx(expected, abs=1e-3)
        marks.add(changed.fingerprint)
    assert len(marks) == 3
    changed.undo()
    assert same_bits(model, state)
    plain = [score.logprob for score in model.logprob(MIXED, ["five", "Norway", "sick"])]
    assert all(plain != pytest.approx(expected, abs=1e-3) for expected in wanted.values())


def test_without_a_router_the_task_must_be_named(three: Any) -> None:
    model, change, _, _ = three
    changed = change.apply(model)
    with pytest.raises(SettingsError, match="not known"):
        changed.generate(["2 + 3 ="])
    with pytest.raises(SettingsError, match="no router"):
        changed.use(None)
    with pytest.raises(SettingsError, match='no task "sum"'):
        changed.use("sum")


def test_with_prompts_a_router_tells_the_tasks_apart(three: Any, tmp_path: Path) -> None:
    model, _, tuned, _ = three
    change = made(model, tuned, tmp_path / "run")
    changed: Any = load_change(tmp_path / "run").apply(model)
    prompts = [prompt for each in PROMPTS.values() for prompt in each]
    routes = changed.router.routes(prompts)
    right = sum(
        route.switch == task for route, task in zip(routes, [t for t in PROMPTS for _ in range(8)], strict=True)
    )
    assert right > 0.8 * len(prompts)
    assert len(changed.answer(MIXED)) == 3
    assert change.record.measures["router"]["held_out"] > 0


def test_adapters_are_merged_as_products(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    folders = [adapter_folder(model, tmp_path / str(seed), seed, ("q_proj",)) for seed in (1, 2)]
    change = made(model, [FineTune(str(n), folder) for n, folder in enumerate(folders)], tmp_path / "run")
    assert set(load_tensors(change.folder / UNIFIED_FILE)) == {
        f"model.layers.{n}.self_attn.q_proj.weight" for n in range(3)
    }


def test_it_is_exported_whole_and_in_no_plain_form(three: Any, tmp_path: Path) -> None:
    model, change, _, _ = three
    assert change.export("emr", tmp_path / "copy", model=model) == 0.0
    copied: Any = load_change(tmp_path / "copy").apply(model)
    assert copied.tasks == tuple(PROMPTS)
    with pytest.raises(SettingsError, match="depend on the task"):
        change.export("merged", tmp_path / "plain", model=model)


def test_wrong_input_is_refused_and_the_model_stays_as_it_was(three: Any, tmp_path: Path) -> None:
    model, change, tuned, _ = three
    state, logits = state_of(model), check_logits(model.model, model.tokenizer)
    cases: list[tuple[list[FineTune], str]] = [
        ([], "no fine-tune"),
        ([tuned[0], FineTune("other", tuned[1].folder)], "has none"),
        ([FineTune("x", tmp_path / "absent")], "no such folder"),
        ([FineTune("x", change.folder)], "beside the weights"),
    ]
    for number, (given, message) in enumerate(cases):
        with pytest.raises(KeepsError, match=message):
            made(model, given, tmp_path / f"run{number}")
        assert list((tmp_path / f"run{number}").iterdir()) == []
    assert same_bits(model, state)
    assert all(torch.equal(a, b) for a, b in zip(logits, check_logits(model.model, model.tokenizer), strict=True))


def test_damage_is_named_before_anything_is_asked(three: Any, tmp_path: Path) -> None:
    model, change, _, _ = three
    change.export("emr", tmp_path / "copy", model=model)
    folder = tmp_path / "copy"
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}

    def mended() -> None:
        for name, data in whole.items():
            (folder / name).write_bytes(data)

    def config(**values: Any) -> None:
        path = folder / CONFIG_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def masks(change_of: Any) -> None:
        path = folder / mask_file("sums")
        save_tensors(path, change_of(load_tensors(path)))

    harms: list[tuple[Any, str]] = [
        (lambda: (folder / CONFIG_FILE).unlink(), "there is no emr.json"),
        (lambda: (folder / CONFIG_FILE).write_text("{"), "cannot be read"),
        (lambda: config(format=9), "another format"),
        (lambda: config(rescalers=[1.0]), "not that of such a merge"),
        (lambda: config(rescalers=[1.0, 2.0, float("nan")]), "not that of such a merge"),
        (lambda: (folder / mask_file("sums")).write_bytes(b"xx"), "damaged"),
        (lambda: masks(lambda tensors: dict(list(tensors.items())[1:])), "not of the same parameters"),
        (lambda: masks(lambda tensors: {name: t[:-1] for name, t in tensors.items()}), "does not fit"),
    ]
    for harm, message in harms:
        mended()
        harm()
        with pytest.raises(StorageError, match=message):
            load_change(folder).apply(model)
    mended()
    with pytest.raises(StorageError, match="fingerprint"):
        load_change(folder).apply(pico("llama", model.tokenizer, seed=7))
