"""GGUF files: one conversion, the same model, safe under two writers, clear about damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.errors import ModelLoadError, StorageError
from keeps.models import LanguageModel, embedded, gguf


class Messages:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)

    def task(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("a conversion shows a message")


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch, tiny_llama_folder: Path) -> list[Path]:
    """Reading a GGUF file gives the tiny model; returns the list of files read."""
    read: list[Path] = []
    model = LanguageModel.load(tiny_llama_folder)

    def replaced(source: Path) -> tuple[Any, Any]:
        read.append(source)
        return model.model, model.tokenizer

    monkeypatch.setattr(gguf, "_read", replaced)
    return read


def test_a_file_is_converted_once_and_named_by_its_content(reader: list[Path], tmp_path: Path) -> None:
    source, cache, shown = tmp_path / "tiny.gguf", tmp_path / "cache", Messages()
    source.write_bytes(b"GGUF one")
    first = gguf.converted(source, cache=cache, progress=shown)
    assert gguf.converted(source, cache=cache, progress=shown) == first
    assert len(reader) == len(shown.texts) == 1
    assert "converting tiny.gguf" in shown.texts[0]
    source.write_bytes(b"GGUF two")
    assert gguf.converted(source, cache=cache) != first


def test_the_fingerprint_beside_the_weights_is_theirs(
    reader: list[Path], tmp_path: Path, tiny_llama: LanguageModel
) -> None:
    source = tmp_path / "tiny.gguf"
    source.write_bytes(b"GGUF")
    folder = gguf.converted(source, cache=tmp_path / "cache")
    assert gguf.stored_fingerprint(folder) == tiny_llama.fingerprint == LanguageModel.load(folder).fingerprint
    assert gguf.stored_fingerprint(tmp_path) is None
    assert reader == [source]


def test_two_writers_at_once_leave_one_whole_folder(
    tiny_llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=30)

    def together(source: Path) -> tuple[Any, Any]:
        both.wait()  # neither has written when the other begins
        return tiny_llama.model, tiny_llama.tokenizer

    monkeypatch.setattr(gguf, "_read", together)
    source, cache = tmp_path / "tiny.gguf", tmp_path / "cache"
    source.write_bytes(b"GGUF")
    with ThreadPoolExecutor(2) as pool:
        folders = set(pool.map(lambda _: gguf.converted(source, cache=cache), range(2)))
    (folder,) = folders
    assert [path.name for path in (cache / "models").iterdir()] == [folder.name]
    assert LanguageModel.load(folder).fingerprint == gguf.stored_fingerprint(folder)


def test_a_conversion_that_fails_leaves_nothing(
    reader: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = tmp_path / "tiny.gguf", tmp_path / "cache"
    source.write_bytes(b"GGUF")

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(gguf, "atomic_write_bytes", full)
        with pytest.raises(StorageError, match="disk is full"):
            gguf.converted(source, cache=cache)
    assert list((cache / "models").iterdir()) == []
    assert gguf.converted(source, cache=cache).is_dir()
    assert len(reader) == 2


def test_files_that_are_no_gguf_are_refused(tmp_path: Path) -> None:
    wrong, damaged = tmp_path / "wrong.gguf", tmp_path / "damaged.gguf"
    wrong.write_bytes(b"PK\x03\x04")
    damaged.write_bytes(b"GGUF" + b"\x00" * 50)
    with pytest.raises(ModelLoadError, match="does not begin with GGUF"):
        LanguageModel.load(wrong, cache=tmp_path / "cache")
    with pytest.raises(ModelLoadError, match="GGUF file cannot be read") as caught:
        LanguageModel.load(damaged, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEEPS_CACHE", str(tmp_path / "here"))
    assert gguf.cache_folder() == tmp_path / "here"
    assert gguf.cache_folder(tmp_path) == tmp_path
    monkeypatch.delenv("KEEPS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert gguf.cache_folder() == tmp_path / "keeps"


def test_the_default_model_has_its_stored_fingerprint(smollm2: LanguageModel) -> None:
    folder = Path(str(getattr(smollm2.model.config, "_name_or_path")))  # noqa: B009
    note = json.loads((folder / gguf.NOTE).read_text(encoding="utf-8"))
    assert note["fingerprint"] == smollm2.fingerprint
    assert not hasattr(smollm2.model.config, "quantization_config")


@pytest.mark.slow
def test_the_cached_conversion_is_the_gguf_model(smollm2: LanguageModel) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = embedded.find(embedded.LANGUAGE_MODELS["smollm2-135m"])
    assert file is not None
    where = {"pretrained_model_name_or_path": str(file.path.parent), "gguf_file": file.path.name}
    direct = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(**where)
    text = "The capital of France is Paris, 東京 and 42."
    assert tokenizer(text).input_ids == smollm2.tokenizer(text).input_ids
    assert tokenizer.chat_template == smollm2.tokenizer.chat_template
    ids = torch.tensor([tokenizer(text).input_ids])
    with torch.no_grad():
        torch.testing.assert_close(smollm2.model(ids).logits, direct(ids).logits, atol=1e-4, rtol=1e-4)
    for name, tensor in direct.state_dict().items():
        assert torch.equal(tensor, smollm2.model.state_dict()[name])


@pytest.mark.slow
def test_two_processes_converting_at_once_leave_one_whole_folder(smollm2: LanguageModel, tmp_path: Path) -> None:
    code = "from keeps.models import LanguageModel; print(LanguageModel.load().fingerprint)"
    environment = {**os.environ, "KEEPS_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0].strip() for process in started]
    assert printed == [smollm2.fingerprint] * 2
    assert len(list((tmp_path / "models").iterdir())) == 1
