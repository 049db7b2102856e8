"""Tiny models for exact checks, and processes to run, pair and kill them in."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

WORKER = Path(__file__).with_name("process_worker.py")


@pytest.fixture(scope="session")
def tiny() -> Any:
    """``tiny.model(kind)``, ``tiny.examples(count)`` and ``tiny.trained(model)`` of the worker script."""
    names = runpy.run_path(str(WORKER), run_name="worker")
    return SimpleNamespace(model=names["tiny_model"], examples=names["tiny_examples"], trained=names["trained"])


class Workers:
    """A process that forks one process per training job."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore", str(WORKER), "serve"]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, job: dict[str, Any], **env: str) -> int:
        """Start a job; returns its process number."""
        return self._ask({"job": job, "env": env})

    def wait(self, process: int) -> int:
        """The exit status of a process, minus the signal if one ended it."""
        return self._ask({"wait": process})

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
def workers() -> Iterator[Workers]:
    """Training jobs as real processes."""
    found = Workers()
    yield found
    found.close()
