"""The set-up script: which way torch is installed, and that interruption and repetition do no harm."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("keeps_setup_script", ROOT / "scripts" / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


class Machine:
    """Stands in for the machine: remembers commands, fails those that contain a word, makes the environment."""

    def __init__(self, root: Path, failing: tuple[str, ...] = ()) -> None:
        self.root = root
        self.failing = failing
        self.commands: list[str] = []

    def __call__(self, command: Sequence[str]) -> int:
        text = " ".join(command)
        self.commands.append(text)
        if any(word in text for word in self.failing):
            return 1
        if "-m venv" in text:
            python = script.environment_python(self.root / ".venv")
            python.parent.mkdir(parents=True)
            python.write_text("")
        return 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "scripts" / "setup.py").write_text("")
    return tmp_path


def no_torch(_: str) -> str:
    return ""


def test_the_whole_set_up_runs_once_and_then_does_nothing(root: Path) -> None:
    machine = Machine(root)
    assert script.setup(root, machine, no_torch) is True
    assert any("world,dev" in command for command in machine.commands)
    assert any(
        "--no-deps" in command and all(name in command for name in script.EMBEDDED) for command in machine.commands
    )
    again = Machine(root)
    started = time.monotonic()
    assert script.setup(root, again, no_torch) is False
    assert time.monotonic() - started < 1
    assert again.commands == []


@pytest.mark.parametrize("failing", ["world,dev", "--no-deps"])
def test_a_failed_or_interrupted_set_up_is_done_again(root: Path, failing: str) -> None:
    with pytest.raises(script.SetupError, match="repeat"):
        script.setup(root, Machine(root, (failing,)), no_torch)
    repaired = Machine(root)
    assert script.setup(root, repaired, no_torch) is True
    assert any(failing in command for command in repaired.commands)
    assert script.setup(root, Machine(root), no_torch) is False


def test_a_change_of_the_requirements_sets_up_anew(root: Path) -> None:
    script.setup(root, Machine(root), no_torch)
    (root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert script.setup(root, Machine(root), no_torch) is True


@pytest.mark.parametrize("stamp", ["", "{", "[]", '{"fingerprint": "other"}'])
def test_a_damaged_stamp_counts_as_none(root: Path, stamp: str) -> None:
    script.setup(root, Machine(root), no_torch)
    (root / ".venv" / "keeps-setup.json").write_text(stamp)
    assert script.setup(root, Machine(root), no_torch) is True


def test_an_environment_whose_creation_was_interrupted_is_made_anew(root: Path) -> None:
    python = script.environment_python(root / ".venv")
    python.parent.mkdir(parents=True)
    python.write_text("")
    machine = Machine(root, ("pip --version",))
    python.unlink()
    python.parent.rmdir()
    script.make_environment(root / ".venv", machine)
    assert any("--clear" in command for command in machine.commands)


def test_torch_that_is_there_is_left_alone(root: Path) -> None:
    machine = Machine(root)
    script.install_torch("python", machine, platform="linux", gpu=False, found="2.13.0+cpu")
    assert machine.commands == []


@pytest.mark.parametrize(
    ("version", "enough"), [("2.6.0", True), ("2.13.0+cpu", True), ("3.0.0a1", True), ("2.5.1", False), ("", False)]
)
def test_the_lower_bound_of_torch(version: str, enough: bool) -> None:
    assert script.new_enough(version) is enough


def test_without_a_gpu_the_cpu_builds_come_first_and_plain_torch_last(root: Path) -> None:
    machine = Machine(root, ("+cpu", "torch-backend"))
    script.install_torch("python", machine, platform="linux", gpu=False, found="2.5.0")
    kinds = [
        "cpu build" if "+cpu" in c else "uv" if "-m uv" in c else "get uv" if c.endswith(" uv") else "plain"
        for c in machine.commands
    ]
    assert kinds == [*["cpu build"] * len(script.CPU_BUILDS), "get uv", "uv", "plain"]


def test_the_first_way_that_works_is_the_last_one_tried(root: Path) -> None:
    machine = Machine(root)
    script.install_torch("python", machine, platform="linux", gpu=False, found="")
    assert len(machine.commands) == 1
    assert "+cpu" in machine.commands[0]


@pytest.mark.parametrize(("platform", "gpu"), [("linux", True), ("darwin", False), ("win32", False)])
def test_with_a_gpu_or_on_another_system_torch_is_the_plain_one(platform: str, gpu: bool) -> None:
    assert [len(chain) for chain in script.torch_attempts("python", platform, gpu)] == [1]
    assert script.torch_attempts("python", platform, gpu)[0][0][-1] == "torch>=2.6"


def test_when_no_way_works_the_message_says_what_to_do(root: Path) -> None:
    with pytest.raises(script.SetupError, match="index"):
        script.install_torch("python", Machine(root, ("torch",)), platform="linux", gpu=False, found="")


def test_a_gpu_is_seen_by_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.shutil, "which", lambda _: None)
    assert script.has_gpu(tmp_path) is False
    (tmp_path / "nvidia0").touch()
    assert script.has_gpu(tmp_path) is True


def test_a_command_that_fails_shows_its_last_lines(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('first'); print('the reason', file=sys.stderr); sys.exit(3)"
    assert script.execute([sys.executable, "-c", code]) == 3
    assert "the reason" in capsys.readouterr().out
    assert script.execute([sys.executable, "-c", "print('fine')"]) == 0
    assert capsys.readouterr().out == ""
    assert script.execute(["no-such-program-at-all"]) == 127
