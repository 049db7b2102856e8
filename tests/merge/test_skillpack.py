"""Skill packs: what is packed comes back, detaching is exact, packs add, route, forget nothing; damage is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tune_folders import PROMPTS, adapter_folder, fine_tunes, moved, same_bits, state_of, whole_folder
from pico_models import pico

from keeps.contracts import Run
from keeps.errors import KeepsError, SettingsError, StorageError
from keeps.merge.skillpack import SkillPack, SkillPackSettings, fuse
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.fine_tunes import FineTune
from keeps.models.logits import check_logits, largest_difference
from keeps.models.skillpack_files import PACK_FILE, SkillPackChange, attached, report

ALL: dict[str, Any] = {"embedding_share": 1.0, "energy": 1.0, "bands": ("64:16",)}
SMALL: dict[str, Any] = {"bands": ("8:8", "8:4", "16:2"), "energy": 0.8, "group": 16}


def packed(model: LanguageModel, tuned: FineTune, folder: Path, **settings: Any) -> SkillPackChange:
    folder.mkdir()
    return SkillPack(SkillPackSettings(**settings))(model, tuned, run=Run(folder))


@pytest.fixture(scope="module")
def made(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, three fine-tunes of it, their parameters, and a small pack of each."""
    folder = tmp_path_factory.mktemp("packs")
    model = pico("llama", tokenizer)
    tuned, values = fine_tunes(model, folder)
    packs = {item.name: packed(model, item, folder / f"pack_{item.name}", **SMALL) for item in tuned}
    return model, tuned, values, packs


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_packed_whole_a_fine_tune_comes_back(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    """Full rank, 16 bits, every entry: to the rounding of float16, and norms and biases to the bit."""
    model = pico(kind, tokenizer)
    values = moved(model, 1)
    tuned = FineTune("x", whole_folder(model, tmp_path / "x", values), PROMPTS["sums"])
    state = state_of(model)
    changed = packed(model, tuned, tmp_path / "run", **ALL).apply(model)
    base = {name: state[name] for name in values}
    for name, parameter in model.model.named_parameters():
        delta = values[name] - base[name]
        if parameter.dim() == 1:
            assert torch.equal(parameter, values[name])
        else:
            assert float((parameter.detach() - values[name]).norm()) < 2e-3 * float(delta.norm())
    changed.undo()
    assert same_bits(model, state)


def test_detaching_gives_the_base_back_bit_for_bit(made: Any) -> None:
    model, _, _, packs = made
    state, before = state_of(model), model.fingerprint
    pack = packs["sums"]
    changed = load_change(pack.folder).apply(model)
    assert not same_bits(model, state)
    with pytest.raises(StorageError, match="made for a base"):
        pack.apply(model)
    changed.undo()
    changed.undo()
    assert same_bits(model, state)
    assert model.fingerprint == before
    with pytest.raises(RuntimeError, match="inside"), attached(model, [(pack, 0.5), (packs["towns"], 0.5)]):
        raise RuntimeError("inside")
    assert same_bits(model, state)


def test_packs_add_as_their_differences_do(made: Any) -> None:
    model, _, _, packs = made
    base = {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}
    deltas = []
    for pack in (packs["sums"], packs["towns"]):
        with attached(model, [(pack, 1.0)]):
            deltas.append({name: p.detach() - base[name] for name, p in model.model.named_parameters()})
    with attached(model, [(packs["sums"], 1.0), (packs["towns"], 0.5)]):
        for name, parameter in model.model.named_parameters():
            wanted = base[name] + deltas[0][name] + 0.5 * deltas[1][name]
            assert torch.allclose(parameter.detach(), wanted, atol=1e-5)


def test_a_small_pack_is_nearer_to_the_fine_tune_than_the_base_and_its_bytes_are_those_reported(made: Any) -> None:
    model, _, values, packs = made
    pack = packs["sums"]
    base = {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}
    with attached(model, [(pack, 1.0)]):
        for name, parameter in model.model.named_parameters():
            far = float((base[name] - values[0][name]).norm())
            assert float((parameter.detach() - values[0][name]).norm()) < 0.95 * far
    path = pack.folder / PACK_FILE
    header = int.from_bytes(path.read_bytes()[:8], "little") + 8
    counted = sum(entry["bytes"] for entry in report(pack.folder).values())
    assert path.stat().st_size == counted + header
    assert pack.record.measures["bytes"] == report(pack.folder)
    assert 0 < pack.record.measures["relative_error"] < 1


def test_learning_another_task_leaves_an_old_pack_and_its_answers_as_they_were(made: Any, tmp_path: Path) -> None:
    model, tuned, _, packs = made
    first = {"sums": packs["sums"]}
    alone = fuse(model, first)
    alone.use("sums")
    prompts, answers = list(PROMPTS["sums"][:3]), ["5", "8", "8"]
    before = [score.logprob for score in alone.logprob(prompts, answers)]
    stored = (packs["sums"].folder / PACK_FILE).read_bytes()
    second = packed(model, tuned[1], tmp_path / "second", **SMALL)
    both = fuse(model, {**first, "towns": second})
    both.use("sums")
    assert [score.logprob for score in both.logprob(prompts, answers)] == before
    assert (packs["sums"].folder / PACK_FILE).read_bytes() == stored
    both.use("")
    assert [s.logprob for s in both.logprob(prompts, answers)] == [s.logprob for s in model.logprob(prompts, answers)]
    with pytest.raises(SettingsError, match="no pack"):
        both.use("nonsense")
    with pytest.raises(SettingsError, match="no router"):
        both.use(None)


def test_a_router_sends_prompts_to_their_packs_and_unsure_ones_to_the_base(made: Any) -> None:
    model, _, _, packs = made
    state = state_of(model)
    options: dict[str, Any] = {"hidden": 32, "epochs": 60, "learning_rate": 0.01}
    fused = fuse(model, packs, PROMPTS, **options)
    asked = [prompt for prompts in PROMPTS.values() for prompt in prompts]
    routes = fused.named(asked)
    wanted = [name for name, prompts in PROMPTS.items() for _ in prompts]
    assert sum(a == b for a, b in zip(routes, wanted, strict=True)) > 0.8 * len(wanted)
    found = fused.logprob(["2 + 3 ="], ["5"])[0].logprob
    name = fused.named(["2 + 3 ="])[0]
    with attached(model, [(packs[name], 1.0)]):
        assert found == model.logprob(["2 + 3 ="], ["5"])[0].logprob
    assert name in packs
    never = fuse(model, packs, PROMPTS, least=1.1, **options)
    assert never.logprob(["2 + 3 ="], ["5"])[0].logprob == model.logprob(["2 + 3 ="], ["5"])[0].logprob
    assert same_bits(model, state)


def test_any_change_in_the_weights_can_be_packed(made: Any, tmp_path: Path) -> None:
    """A LoRA of rank 3: all of its energy is in three triples, in 16 bits."""
    model = made[0]
    folder = adapter_folder(model, tmp_path / "run", 1, ("q_proj", "up_proj"))
    changed = load_change(folder).apply(model)
    wanted = check_logits(changed.model, model.tokenizer)
    changed.undo()
    tuned = FineTune("lora", folder)
    pack = packed(model, tuned, tmp_path / "pack", energy=1.0, feed_forward="low_rank")
    changed = pack.apply(model)
    assert largest_difference(check_logits(changed.model, model.tokenizer), wanted) < 0.05
    changed.undo()
    # ranks are those of the product, plus at most what rounding to float32 left above its own size
    assert report(pack.folder)["low_rank"]["bytes"] <= 2 * 3 * 3 * (32 + 32 + 1 + 48 + 32 + 1)


def test_rounding_against_inputs_is_calibrated_on_the_fine_tuned_model_and_restores_it(
    made: Any, tmp_path: Path
) -> None:
    model, tuned, _, _ = made
    state = state_of(model)
    nearest = packed(model, tuned[0], tmp_path / "nearest", **SMALL, rounding="nearest")
    assert same_bits(model, state)
    assert "calibration_tokens" not in nearest.record.measures
    silent = FineTune("sums", tuned[0].folder)
    with pytest.raises(SettingsError, match="nothing to calibrate"):
        packed(model, silent, tmp_path / "silent", **SMALL)
    assert same_bits(model, state)
    (tmp_path / "kept").mkdir()
    pack = SkillPack(SkillPackSettings(**SMALL))(model, silent, ["Some text to read."], run=Run(tmp_path / "kept"))
    assert pack.record.measures["calibration_tokens"] > 3


def test_a_pack_is_exported_and_as_a_checkpoint_is_the_same_model(made: Any, tmp_path: Path) -> None:
    model, _, _, packs = made
    state = state_of(model)
    assert packs["sums"].export("skillpack", tmp_path / "pack", model=model) == 0
    assert packs["sums"].export("merged", tmp_path / "whole", model=model) == 0
    assert same_bits(model, state)
    with pytest.raises(SettingsError, match="not possible"):
        packs["sums"].export("lora", tmp_path / "lora", model=model)


def test_a_damaged_pack_or_another_base_is_refused_and_the_model_stays(
    made: Any, tokenizer: Any, tmp_path: Path
) -> None:
    from keeps.weights import load_metadata, load_tensors, save_tensors

    model, _, _, packs = made
    state = state_of(model)
    pack = packs["sums"]
    with pytest.raises(StorageError, match="made for a base"):
        pack.apply(pico("llama", tokenizer, seed=5))
    with pytest.raises(StorageError, match="made for a base"):
        fuse(pico("llama", tokenizer, seed=5), packs)
    tensors, metadata = load_tensors(pack.folder / PACK_FILE), load_metadata(pack.folder / PACK_FILE)
    one = next(name for name in tensors if name.endswith(".codes"))
    other = next(name for name in tensors if name.endswith(":u"))
    exact = next(name for name in tensors if name.endswith(":value"))
    damages: list[tuple[dict[str, torch.Tensor], dict[str, str]]] = [
        ({name: tensor for name, tensor in tensors.items() if name != one}, metadata),
        ({**tensors, one: tensors[one][:-1]}, metadata),
        ({**tensors, other: tensors[other][:, :1]}, metadata),
        ({**tensors, exact: tensors[exact][:1]}, metadata),  # it would be spread over the whole vector
        ({**tensors, "nonsense:value": torch.ones(2)}, metadata),
        (tensors, {**metadata, "format": "9"}),
        (tensors, {**metadata, "tensors": "[]"}),
    ]
    for number, (held, described) in enumerate(damages):
        folder = tmp_path / str(number)
        shutil.copytree(pack.folder, folder)
        save_tensors(folder / PACK_FILE, held, described)
        with pytest.raises(StorageError):
            load_change(folder).apply(model)
        assert same_bits(model, state)
    folder = tmp_path / "cut"
    shutil.copytree(pack.folder, folder)
    (folder / PACK_FILE).write_bytes((folder / PACK_FILE).read_bytes()[:-50])
    with pytest.raises(StorageError, match="damaged"):
        load_change(folder).apply(model)


def test_wrong_settings_and_input_are_refused(made: Any, tmp_path: Path) -> None:
    model, tuned, _, packs = made
    wrong: list[dict[str, Any]] = [{"bands": ("8",)}, {"bands": ("8:5",)}, {"bands": ()}, {"energy": 0.0}]
    wrong.append({"embedding_share": 2.0})
    for settings in wrong:
        with pytest.raises(SettingsError):
            SkillPackSettings(**settings)
    same = FineTune("x", whole_folder(model, tmp_path / "same", moved(model, 1, size=0.0)), PROMPTS["sums"])
    with pytest.raises(SettingsError, match="moved nothing"):
        packed(model, same, tmp_path / "run")
    with pytest.raises(KeepsError, match="beside the weights"):
        packed(model, FineTune("x", packs["sums"].folder, PROMPTS["sums"]), tmp_path / "again")
    with pytest.raises(SettingsError, match="same tasks"):
        fuse(model, packs, {"sums": PROMPTS["sums"]})
    assert tuned
