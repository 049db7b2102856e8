"""The committed evidence of each claim: what was measured, and whether the claim holds."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from keeps.errors import InputFileError

NOT_RUN = "not run"
NO_CLAIM = "no claim"


def evidence_folder() -> Path:
    """Where the evidence lies: inside an installed package, or in ``docs`` of a checkout."""
    package = Path(str(files("keeps")))
    packaged = package / "evidence"
    return packaged if packaged.is_dir() else package.parent / "docs" / "evidence"


def read_evidence(card: str, folder: Path | None = None) -> dict[str, Any] | None:
    """The evidence of ``card``, or None when its claim has not been run.

    Raises:
        InputFileError: the file is there and cannot be read.
    """
    path = (folder or evidence_folder()) / f"{card}.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        mend = f"run keeps reproduce {card} again"
        raise InputFileError(f"the evidence cannot be read ({error})", where=str(path), mend=mend) from None
    if not isinstance(found, dict):
        raise InputFileError("the evidence is no mapping", where=str(path), mend=f"run keeps reproduce {card} again")
    return found


def on_published_data(card: str) -> str:
    """What the evidence of a claim's form on published data is called.

    >>> on_published_data("ck_plug")
    'ck_plug_data'
    """
    return f"{card}_data"


def verdict(card: str, folder: Path | None = None) -> str:
    """``holds``, ``does not hold``, ``not run``, or ``no claim`` of what implements no published system."""
    found = read_evidence(card, folder)
    if not card:
        return NO_CLAIM
    return NOT_RUN if found is None else str(found.get("verdict", NOT_RUN))


def verdict_line(name: str, card: str, folder: Path | None = None) -> str:
    """The verdict with its count of checks, and the card where that is not the method's own.

    >>> verdict_line("mine", "never-run")
    'never-run: not run'
    """
    if not card:
        return NO_CLAIM
    found = read_evidence(card, folder) or {}
    checks = [check for check in found.get("checks", []) if isinstance(check, dict)]
    held = sum(check.get("holds") is True for check in checks)
    count = f" ({held} of {len(checks)} checks hold)" if checks else ""
    return ("" if name == card else f"{card}: ") + str(found.get("verdict", NOT_RUN)) + count


def figure(value: Any) -> str:
    """A figure of an evidence file as text: three digits, intervals as ``low to high``.

    >>> figure([0.12345, 0.5]), figure(None), figure(True)
    ('0.123 to 0.5', '', 'yes')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:.3g}" if isinstance(value, float) else str(value)
    if isinstance(value, (list, tuple)):
        numbers = len(value) == 2 and all(isinstance(item, float) for item in value)
        return (" to " if numbers else ", ").join(figure(item) for item in value)
    return str(value)
