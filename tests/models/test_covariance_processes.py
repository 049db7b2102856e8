"""Covariances collected by several processes of one launch."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from keeps.models.covariance_files import load_covariances

LENGTHS = (3, 9, 5, 9, 1, 7)
WORKER = """
import json, os, sys
import torch
import torch.distributed as distributed
from torch import nn
from keeps.errors import EmptySetError
from keeps.models.covariance_files import save_covariances
from keeps.models.covariances import collect_covariance, token_batches

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.q, self.k, self.o = nn.Embedding(61, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
    def forward(self, input_ids, attention_mask, use_cache):
        x = self.table(input_ids)
        return self.o(self.q(x) * self.k(x))

folder, samples, splits = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
batches = [token_batches([sample], pad_token_id=0)[0] for sample in samples]
children = []
for rank in range(2):
    child = os.fork()  # torch is imported once
    if child == 0:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
        for number, split in enumerate(splits):
            found = collect_covariance(Block(), [batches[index] for index in split[rank]])
            save_covariances(f"{folder}/{number}-{rank}.safetensors", found)
        try:
            collect_covariance(Block(), [])
        except EmptySetError:
            os._exit(0)
        os._exit(1)
    children.append(child)
save_covariances(f"{folder}/whole.safetensors", collect_covariance(Block(), batches))
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_every_process_of_a_launch_gets_the_whole_even_one_without_batches(tmp_path: Path) -> None:
    generator = random.Random(0)
    samples = [[generator.randrange(1, 61) for _ in range(length)] for length in LENGTHS]
    splits = [[[0, 1, 2], [3, 4, 5]], [[], [0, 1, 2, 3, 4, 5]], [[5, 3, 0, 2, 1, 4], []]]
    command = [sys.executable, "-W", "ignore", "-c", WORKER, str(tmp_path), json.dumps(samples), json.dumps(splits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = load_covariances(tmp_path / "whole.safetensors")
    for number in range(len(splits)):
        first, second = (load_covariances(tmp_path / f"{number}-{rank}.safetensors") for rank in (0, 1))
        for name, covariance in whole.items():
            torch.testing.assert_close(first[name].matrix(), covariance.matrix(), rtol=1e-5, atol=1e-6)
            assert torch.equal(first[name].total, second[name].total)
            assert first[name].n_tokens == second[name].n_tokens == covariance.n_tokens == sum(LENGTHS)
            assert first[name].n_samples == len(LENGTHS)
        assert first["q"] is first["k"] is not first["o"]
