"""A small job from files, and real `keeps` commands in processes that can be killed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keeps.models import LanguageModel

WORKER = Path(__file__).with_name("command_worker.py")
COLOURS = ("red", "green", "blue", "black", "white", "brown")


@dataclass(frozen=True)
class SmallJob:
    """A job that takes seconds on the tiny model: six facts to learn, twenty-four examples to keep.

    To half of the examples the tiny model's own answer is the right one, so that it knows something.
    """

    learn: str
    keep: str
    model: str
    settings: dict[str, Any] = field(default_factory=lambda: {"rank": 2, "epochs": 2, "batch_size": 8})

    def arguments(self, workspace: Path, **more: Any) -> dict[str, Any]:
        """Keyword arguments of ``keeps.adapt``."""
        return {
            "learn": self.learn,
            "keep": self.keep,
            "method": "lora",
            "settings": self.settings,
            "workspace": workspace,
            **more,
        }

    def words(self, workspace: Path, *more: str, method: str = "lora", **settings: Any) -> list[str]:
        """The same as words of the command line; a setting of None is left out."""
        options = {name: value for name, value in {**self.settings, **settings}.items() if value is not None}
        words = ["adapt", "--learn", self.learn, "--keep", self.keep, "--model", self.model, "--method", method]
        words += [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return [*words, "--workspace", str(workspace), "--device", "cpu", "--quiet", *more]


@pytest.fixture(scope="module", autouse=True)
def little_text() -> Iterator[None]:
    """Two passages to read instead of twenty-four: over a vocabulary of 49 thousand they cost most of a job."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keeps.jobs.data.PROBE_PASSAGES", 2)
        patch.setattr("keeps.jobs.data.CALIBRATION_PASSAGES", 2)
        yield


@pytest.fixture(scope="session")
def small_job(tmp_path_factory: pytest.TempPathFactory, tiny_llama_folder: Path, model: LanguageModel) -> SmallJob:
    """New facts as JSONL, known ones as CSV, and the folder of the tiny model."""
    folder = tmp_path_factory.mktemp("data")
    with (folder / "new.jsonl").open("w", encoding="utf-8") as file:
        for number, colour in enumerate(COLOURS):
            name = f"Planet {number}"
            prompts = [
                f"The sky of {name} is",
                f"{name} has a sky of",
                f"Look up on {name} and see",
                f"{name}'s sky is",
            ]
            fact = {"subject": name, "relation": "sky", "object": colour, "prompts": prompts}
            file.write(json.dumps(fact) + "\n")
    prompts = [f"After {number} comes" for number in range(24)]
    said = model.ask(prompts, ["1"] * 24, max_new_tokens=4)
    with (folder / "known.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt", "answer"])
        for number, (prompt, own) in enumerate(zip(prompts, said, strict=True)):
            usable = number % 2 == 0 and own.text.strip() and own.text.isprintable()
            rows.writerow([prompt, own.text if usable else str(number + 1)])
    return SmallJob(str(folder / "new.jsonl"), str(folder / "known.csv"), str(tiny_llama_folder))


@pytest.fixture(scope="session")
def model(tiny_llama_folder: Path) -> Iterator[LanguageModel]:
    """The tiny model, loaded once for all jobs: each has to give it back as it was."""
    loaded = LanguageModel.load(tiny_llama_folder)
    before = loaded.fingerprint
    yield loaded
    assert loaded.fingerprint == before


class Commands:
    """A process that forks one process per command line; importing torch is paid once."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore", str(WORKER)]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.server.stdout is not None
        self.server.stdout.readline()  # it is ready: its imports are in nobody's time

    def start(self, words: list[str], output: Path, **env: str) -> int:
        """Start ``keeps WORDS``, its output going to the file ``output``; returns its process number."""
        return self._ask({"words": words, "output": str(output), "env": env})

    def wait(self, process: int) -> int:
        """The exit code of a process, or minus the signal that ended it."""
        return self._ask({"wait": process})

    def run(self, words: list[str], output: Path, **env: str) -> int:
        """Run to the end; returns the exit code."""
        return self.wait(self.start(words, output, **env))

    def _ask(self, request: dict[str, Any]) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(json.loads(self.server.stdout.readline()))

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(timeout=30)


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Command lines as real processes."""
    if sys.platform == "win32":
        pytest.skip("needs fork and SIGKILL")
    found = Commands()
    yield found
    found.close()
