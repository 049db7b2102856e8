"""Each method whose training is its own, on two processes: the losses, the adapter and the folder of one."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.ledger.workspace import Workspace
from keeps.weights import load_tensors

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs fork")]

# Small rates: AdamW turns a gradient that is rounding error alone into a step of the learning rate, so elements that
# nothing uses may go another way than in one process. What they may differ by is stated in such steps.
COMMON = {"epochs": 2, "learning_rate": 1e-3}
# Each process draws its own keep examples for a replay or a leash, as it draws its own dropout: with draws that hold
# the whole keep set both ways see the same.
OWN: dict[str, dict[str, Any]] = {
    "null_lora": {},
    "null_lora_leash": {"leash": 0.5, "leash_batch": 64},
    "kasa": {},
    "dynamic_rank": {},
    "loramoe": {"dropout": 0.0},
    "eva": {},
    "lora_ga": {},
    "mix_cpt": {"parameters": "adapter", "sft_samples": 4, "dpo_samples": 4},
    "kl": {"keep_batch": 64},
    "replay": {"ratio": 64},
    "l2_sp": {},
}


def on_processes(commands: Any, words: list[str], folder: Path, count: int, **env: str) -> list[int]:
    """Run a command on ``count`` processes that talk to each other; their exit codes."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    size = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        commands.start(words, folder / f"output{rank}", RANK=str(rank), LOCAL_RANK=str(rank), **size, **env)
        for rank in range(count)
    ]
    return [commands.wait(process) for process in started]


def run_of(workspace: Path) -> tuple[str, dict[str, torch.Tensor], dict[int, float], set[str]]:
    """Name, tensors, losses by step and file names of the only run in ``workspace``."""
    with Workspace(workspace).ledger(read_only=True) as ledger:
        [run] = ledger.runs()
        assert run.status == "done"
        losses = {step: value for name, step, value in ledger.curves(run.id) if name == "loss"}
    folder = workspace / "runs" / run.id
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_tensors(path)
    assert losses
    assert tensors
    return run.id, tensors, losses, {path.name for path in folder.iterdir()}


SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_USE_CPU": "true"}


@pytest.mark.parametrize("name", OWN)
def test_two_processes_give_the_losses_and_the_adapter_of_one(
    commands: Any, small_job: Any, tmp_path: Path, name: str
) -> None:
    check_two_processes(commands, small_job, tmp_path, name.removesuffix("_leash"), OWN[name])


@pytest.mark.parametrize("method", ["lora", "corda", "full"])
def test_two_processes_that_shard_the_model_give_the_losses_and_the_result_of_one(
    commands: Any, small_job: Any, tmp_path: Path, method: str
) -> None:
    own: dict[str, Any] = {"rank": None} if method == "full" else {}
    check_two_processes(commands, small_job, tmp_path, method, own, **SHARDED)


def check_two_processes(
    commands: Any, small_job: Any, tmp_path: Path, method: str, own: dict[str, Any], **env: str
) -> None:
    """One process and two (with ``env``) end with the same losses, tensors and files."""
    settings = {**COMMON, **own}
    found = []
    for count in (1, 2):
        workspace = tmp_path / str(count)
        words = small_job.words(workspace, method=method, **settings)
        codes = on_processes(commands, words, tmp_path, count, **(env if count > 1 else {}))
        assert codes == [0] * count, "".join(path.read_text()[-3000:] for path in tmp_path.glob("output*"))
        found.append(run_of(workspace))
    (one_id, one, one_losses, one_files), (two_id, two, two_losses, two_files) = found
    assert one_id == two_id
    assert one_files == two_files
    assert one_losses.keys() == two_losses.keys()
    for step, loss in one_losses.items():
        assert two_losses[step] == pytest.approx(loss, rel=1e-4), f"step {step}"
    assert one.keys() == two.keys()
    apart = {key: (tensor.float() - two[key].float()).abs() for key, tensor in one.items()}
    worst = {key: float(value.max()) for key, value in apart.items() if float(value.max()) > 1e-4}
    share = sum(int((value > 1e-4).sum()) for value in apart.values()) / sum(value.numel() for value in apart.values())
    assert share <= 0.01, worst
    assert all(value < 1e-2 for value in worst.values()), worst


def test_a_method_that_reads_whole_weights_refuses_to_be_sharded(commands: Any, small_job: Any, tmp_path: Path) -> None:
    words = small_job.words(tmp_path / "space", method="kl", **COMMON)
    assert on_processes(commands, words, tmp_path, 2, **SHARDED) == [2, 2]
    for rank in range(2):
        said = (tmp_path / f"output{rank}").read_text()
        assert "keeps: error: this method reads or changes whole weights while it trains" in said
        assert "leave --use_fsdp out" in said


def test_the_first_version_of_fsdp_is_refused_by_every_process(commands: Any, small_job: Any, tmp_path: Path) -> None:
    words = small_job.words(tmp_path / "space", **COMMON)
    assert on_processes(commands, words, tmp_path, 2, **{**SHARDED, "FSDP_VERSION": "1"}) == [2, 2]
    for rank in range(2):
        assert "--fsdp_version 2" in (tmp_path / f"output{rank}").read_text()
