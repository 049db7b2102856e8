"""An adapter made on the real model, used where keeps is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.contracts import Run
from keeps.data.records import Example, RecordSet
from keeps.models.changes import source_of
from keeps.models.logits import CHECK_TEXTS, check_logits, largest_difference
from keeps.registry import find_method
from keeps.weights import load_tensors

TARGETS = "layers.0.self_attn.q_proj,layers.14.mlp.down_proj,layers.29.self_attn.v_proj"
LEARN = RecordSet("learn", tuple(Example(str(n), f"The code of box {n} is", str(n * n)) for n in range(8)))
KEEP = RecordSet("keep", tuple(Example(str(n), f"The number after {n} is", str(n + 1)) for n in range(24)))

ELSEWHERE = """
import json, sys
sys.modules["keeps"] = None  # importing it, or any of its modules, is an ImportError from here on
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, out, texts = *sys.argv[1:4], json.loads(sys.argv[4])
try:
    import keeps.models
    sys.exit("keeps could be imported")
except ImportError:
    pass
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
if adapter:
    model = PeftModel.from_pretrained(model, adapter)
model.eval()
with torch.no_grad():
    rows = {str(i): model(**tokenizer(text, return_tensors="pt")).logits[0] for i, text in enumerate(texts)}
save_file(rows, out)
"""


def logits_elsewhere(base: Path | str, adapter: Path | str, out: Path) -> list[torch.Tensor]:
    """Logits of the check texts in a fresh process that has transformers and peft alone."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        ELSEWHERE,
        str(base),
        str(adapter),
        str(out),
        json.dumps(CHECK_TEXTS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=out.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = load_tensors(out)
    return [rows[str(number)] for number in range(len(CHECK_TEXTS))]


@pytest.fixture(scope="module")
def trained(smollm2: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[torch.Tensor]]:
    """A CorDA run of two steps on three layers of the real model, and the logits of its result."""
    info = find_method("corda", "adapt")
    settings = info.settings.from_mapping({"rank": 8, "targets": TARGETS, "steps": 2, "batch_size": 8})
    before, plain = smollm2.fingerprint, check_logits(smollm2.model, smollm2.tokenizer)
    run = Run(tmp_path_factory.mktemp("real") / "run")
    run.folder.mkdir()
    change = info.implementation(settings)(smollm2, LEARN, KEEP, run=run)
    changed = change.apply(smollm2)
    logits = check_logits(changed.model, smollm2.tokenizer)
    changed.undo()
    assert smollm2.fingerprint == before
    assert largest_difference(logits, plain) > 0.01, "the adapter does something"
    return change, logits


def test_an_adapter_gives_the_same_logits_in_a_process_without_keeps(
    smollm2: Any, trained: tuple[Any, list[torch.Tensor]], tmp_path: Path
) -> None:
    change, logits = trained
    found = logits_elsewhere(source_of(smollm2), change.folder, tmp_path / "logits.safetensors")
    assert largest_difference(found, logits) < 1e-3
    assert change.record.measures["export_difference"] < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("form", ["residual", "merged"])
def test_every_form_gives_the_same_logits_in_a_process_without_keeps(
    smollm2: Any, trained: tuple[Any, list[torch.Tensor]], tmp_path: Path, form: str
) -> None:
    change, logits = trained
    out = tmp_path / "out"
    assert change.export(form, out, model=smollm2) < 1e-3
    parts = (out / "base", out) if form == "residual" else (out, "")
    found = logits_elsewhere(*parts, tmp_path / "logits.safetensors")
    assert largest_difference(found, logits) < 1e-3
