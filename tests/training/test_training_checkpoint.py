"""Checkpoints: damage is noticed, another job's is refused, an older good one is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from keeps.errors import StorageError
from keeps.training import TokenizedExample, TrainingSettings
from keeps.training.checkpoint import CheckpointStore, Position, job_fingerprint
from keeps.weights import load_metadata, load_tensors, save_tensors


def saved(folder: Path, step: int, job: str = "job") -> Path:
    """One checkpoint file at ``step``, without touching those that are there."""
    store = CheckpointStore(folder / "one", job)
    store.save({"value/w": torch.full((200,), float(step))}, Position(step=step, losses=[0.1] * step))
    (source,) = (folder / "one").iterdir()
    (folder / "all").mkdir(exist_ok=True)
    return source.rename(folder / "all" / source.name)


def test_position_and_tensors_come_back_exactly(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint", "job")
    position = Position(3, 1.5, 70, 1 / 3, 9, [0.1, 1e-17, 3.0], [2.0], [("loss", 1, 0.1), ("epoch_loss", 3, 1 / 7)])
    tensors = {"value/w": torch.randn(3), "step/w": torch.tensor(3.0)}
    store.save(tensors, position)
    found = store.load()
    assert found is not None
    assert found[1] == position
    assert all(torch.equal(found[0][name], tensors[name]) for name in tensors)
    store.remove()
    assert store.load() is None


def test_only_the_newest_checkpoint_stays(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "job")
    (tmp_path / ".step-00000009.safetensors.1-2.partial").write_bytes(b"half")
    (tmp_path / ".tmpA1b2C3").write_bytes(b"half")  # as safetensors calls what it writes
    for step in (1, 2, 12):
        store.save({"value/w": torch.zeros(2)}, Position(step=step))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000012.safetensors"]


def test_what_a_kill_left_beside_the_newest_goes_when_that_is_continued(tmp_path: Path) -> None:
    saved(tmp_path, 4)
    newest = saved(tmp_path, 5)
    (tmp_path / "all" / ".step-00000006.safetensors.1-2.partial").write_bytes(b"half")
    found = CheckpointStore(tmp_path / "all", "job").load()
    assert found is not None
    assert found[1].step == 5
    assert list((tmp_path / "all").iterdir()) == [newest]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_newest_checkpoint_gives_way_to_an_older_good_one(tmp_path: Path, damage: str) -> None:
    saved(tmp_path, 4)
    newest = saved(tmp_path, 5)
    content = newest.read_bytes()
    flipped = content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]
    newest.write_bytes({"truncate": content[:-20], "flip": flipped, "empty": b""}[damage])
    store = CheckpointStore(tmp_path / "all", "job")
    found = store.load()
    assert found is not None
    assert found[1].step == 4
    (tmp_path / "all" / "step-00000004.safetensors").unlink()
    with pytest.raises(StorageError, match=r"damaged.*step-00000005.*--resume"):
        store.load()


def test_a_checkpoint_of_another_job_or_version_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, 2)
    with pytest.raises(StorageError, match="another job"):
        CheckpointStore(tmp_path / "all", "other").load()
    metadata = {**load_metadata(path), "format": "99"}
    save_tensors(path, load_tensors(path), metadata)
    with pytest.raises(StorageError, match="format 99"):
        CheckpointStore(tmp_path / "all", "job").load()


def test_a_job_is_its_settings_seed_data_and_parameters() -> None:
    settings, examples = TrainingSettings(), [TokenizedExample((1, 2, 3), 1)]
    weights = {"w": torch.zeros(2, 3)}
    base = job_fingerprint(settings, 0, examples, weights)
    assert base == job_fingerprint(TrainingSettings(checkpoint_every=5), 0, examples, {"w": torch.ones(2, 3)})
    others = [
        job_fingerprint(TrainingSettings(clip=0.5), 0, examples, weights),
        job_fingerprint(settings, 1, examples, weights),
        job_fingerprint(settings, 0, [TokenizedExample((1, 2, 3), 2)], weights),
        job_fingerprint(settings, 0, examples * 2, weights),
        job_fingerprint(settings, 0, examples, {"v": torch.zeros(2, 3)}),
        job_fingerprint(settings, 0, examples, {"w": torch.zeros(3, 2)}),
    ]
    assert len({base, *others}) == 7
