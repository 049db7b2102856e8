"""An interrupted claim goes on behind its last finished part, and never takes what other code measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.claims import parts as module
from keeps.claims.base import Check, Claim, ClaimRun, run_claim
from keeps.claims.parts import Parts, parts_folder
from keeps.errors import StorageError


class Counted:
    """A step that says how often it was taken."""

    def __init__(self, value: Any) -> None:
        self.value, self.taken = value, 0

    def __call__(self) -> Any:
        self.taken += 1
        return self.value


def test_a_part_is_measured_once_and_is_the_same_when_found(tmp_path: Path) -> None:
    step = Counted({"shares": (0.5, float("inf")), "n": 3})
    first = Parts(tmp_path / "parts")("share", step)
    again = Parts(tmp_path / "parts")
    assert again("share", step) == first == {"shares": [0.5, None], "n": 3}
    assert step.taken == 1
    assert again.seconds > 0
    assert again("other", step) == first
    assert step.taken == 2


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_any_json_comes_back_as_it_was(value: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        assert Parts(Path(folder))("x", lambda: value) == value
        assert Parts(Path(folder))("x", lambda: 1 / 0) == value


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "other", "seconds": 1, "value": 2}', '{"name": "share"}'])
def test_a_damaged_part_is_measured_anew(content: str, tmp_path: Path) -> None:
    step = Counted(7)
    Parts(tmp_path)("share", step)
    next(tmp_path.iterdir()).write_text(content)
    assert Parts(tmp_path)("share", step) == 7
    assert step.taken == 2
    assert Parts(tmp_path)("share", step) == 7
    assert step.taken == 2


def test_without_a_folder_nothing_is_kept_and_a_failed_part_neither(tmp_path: Path) -> None:
    step = Counted(1)
    assert [Parts()("a", step), Parts()("a", step)] == [1, 1]
    assert step.taken == 2
    with pytest.raises(ZeroDivisionError):
        Parts(tmp_path / "parts")("a", lambda: 1 / 0)
    assert not (tmp_path / "parts").exists()


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(module, "atomic_write_bytes", full)
    with pytest.raises(StorageError, match="full"):
        Parts(tmp_path)("a", Counted(1))


def test_parts_belong_to_a_claim_its_circumstances_and_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(module.keeps, "__file__", str(package / "__init__.py"))
    found = [
        parts_folder(tmp_path, "corda", ("default", None)),
        parts_folder(tmp_path, "corda", ("full", None)),
        parts_folder(tmp_path, "kasa", ("default", None)),
    ]
    (package / "more.py").write_text("1")
    found.append(parts_folder(tmp_path, "corda", ("default", None)))
    assert len(set(found)) == 4
    assert parts_folder(tmp_path, "corda", ("default", None)) == found[-1]


def test_an_interrupted_claim_goes_on_and_leaves_nothing_when_it_ends(tmp_path: Path) -> None:
    steps = {name: Counted(value) for name, value in (("first", 0.25), ("second", 0.75))}
    broken = [True]

    def experiment(run: ClaimRun) -> Iterator[Check]:
        for name, step in steps.items():
            yield Check(name, run.parts(name, step), "any", True)
            if broken.pop() if broken else False:
                raise KeyboardInterrupt

    claim = Claim("toy", "A toy.", "1", "arXiv:0", (0,), 1, experiment)
    with pytest.raises(KeyboardInterrupt):
        run_claim(claim, ClaimRun(workspace=tmp_path))
    assert len(list((tmp_path / "claims").glob("toy-*/*.json"))) == 1
    found = run_claim(claim, ClaimRun(workspace=tmp_path))
    assert [check.measured for check in found.checks] == [0.25, 0.75]
    assert [step.taken for step in steps.values()] == [1, 1]
    assert not list((tmp_path / "claims").iterdir())


def test_a_claim_without_parts_writes_nothing(tmp_path: Path) -> None:
    claim = Claim("toy", "A toy.", "1", "arXiv:0", (0,), 1, lambda _: [Check("a", 1.0, "1", True)])
    run_claim(claim, ClaimRun(workspace=tmp_path))
    assert not list(tmp_path.iterdir())
