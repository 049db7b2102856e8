"""`keeps adapt --method loftq` as a real process, killed after quantising and in the middle of training."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from keeps.training.adapter import START_FILE

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")]
# The uniform code has a shift as well; a state is kept after every step.
OPTIONS = {"epochs": 5, "checkpoint_every": 0, "bits": 3, "code": "uniform", "targets": "q_proj,mlp.down_proj"}
WRITTEN = ("model.safetensors", "quantised/adapter_model.safetensors", "quantised/base/model.safetensors")


def killed_as_soon_as(found: str, process: int, workspace: Path, seconds: float = 60) -> None:
    """SIGKILL, once the folder of the unfinished run holds a file like ``found``."""
    deadline = time.monotonic() + seconds
    while not list(workspace.glob(f"runs/*.partial/{found}")):
        assert time.monotonic() < deadline, f"{found} never appeared: {(workspace / 'output').read_text()}"
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)


def written(workspace: Path) -> dict[str, bytes]:
    [folder] = (workspace / "runs").iterdir()
    assert not folder.name.endswith(".partial")
    assert not (folder / START_FILE).exists()
    return {name: (folder / name).read_bytes() for name in WRITTEN}


def test_it_ends_in_the_same_bytes(commands: Any, small_job: Any, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    words = small_job.words(whole, "--write-quantised", method="loftq", **OPTIONS)
    assert commands.run(words, whole / "output") == 0, (whole / "output").read_text()
    words = small_job.words(killed, "--write-quantised", "--resume", method="loftq", **OPTIONS)
    for moment in (START_FILE, "*/step-0000000[3-9].safetensors"):
        process = commands.start(words, killed / "output")
        killed_as_soon_as(moment, process, killed)
        assert commands.wait(process) == -signal.SIGKILL
        assert list(killed.glob(f"runs/*.partial/{START_FILE}"))
    assert commands.run(words, killed / "output") == 0, (killed / "output").read_text()
    assert written(killed) == written(whole)
