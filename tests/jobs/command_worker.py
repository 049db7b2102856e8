"""Forks a process for each command line that arrives as one JSON line, and answers its number.

``{"words": [...], "output": FILE, "env": {...}}`` starts ``keeps WORDS``; ``{"wait": NUMBER}`` answers
its exit code. The variable ``KEEPS_TEST_DIE`` lets a process die, or wait, around one function of an
attempt ("before publish", "after publish", "wait publish"). Importing torch, transformers and peft takes
seconds, so it is done once, before the forks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process with idle threads cannot be forked
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import accelerate  # noqa: F401
import peft  # noqa: F401
import torch
import transformers  # noqa: F401

import keeps.adapt.corda
import keeps.jobs.adapting
import keeps.jobs.data
from keeps.cli.main import main


def serve() -> None:
    """Answer requests until the input ends; the first line says that it is ready."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _child(request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _die_as_told(words: str, workspace: Path) -> None:
    when, name = words.split()
    step = getattr(keeps.jobs.attempt, name)

    def fatal(*args: Any, **values: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if when == "wait":
            (workspace / "waiting").write_text("")
            while not (workspace / "go").exists():
                time.sleep(0.02)
        result = step(*args, **values)
        if when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(keeps.jobs.attempt, name, fatal)


def _child(request: dict[str, Any]) -> None:
    os.environ.update(request["env"])
    status = 1
    try:
        with Path(request["output"]).open("w", encoding="utf-8") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            words = request["words"]
            if os.environ.get("KEEPS_TEST_DIE"):
                _die_as_told(os.environ["KEEPS_TEST_DIE"], Path(words[words.index("--workspace") + 1]))
            status = main(words)
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    keeps.jobs.data.PROBE_PASSAGES = keeps.jobs.data.CALIBRATION_PASSAGES = 2  # as in the tests themselves
    serve()
