"""One file a system: its headline claim as a small experiment, run by ``keeps reproduce NAME``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from keeps.claims.base import Evidence
    from keeps.contracts import Progress


def reproduce(
    card: str,
    *,
    size: str = "default",
    data: str | Path | None = None,
    device: str | None = None,
    workspace: str | Path | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Run the claim of ``card`` and say whether it holds.

    >>> evidence = reproduce("corda", out="./evidence")  # doctest: +SKIP
    >>> evidence.verdict, len(evidence.checks)  # doctest: +SKIP

    Args:
        size: ``"default"`` for minutes on two CPU cores, ``"full"`` for a GPU.
        data: folder with benchmark files, for claims that have a form on published data.
        out: folder that gets the evidence as ``CARD.json``, or as ``CARD_data.json`` where ``data`` is given.

    Raises:
        UnknownNameError: there is no such claim.
        SettingsError: there is no such size, or the claim has no form on published data.
        InputFileError: ``data`` lacks a file that the claim reads.
        StorageError: ``out`` cannot be written.
    """
    from keeps.claims.base import ClaimRun, run_claim
    from keeps.claims.published import published_file
    from keeps.contracts import SilentProgress
    from keeps.errors import SettingsError
    from keeps.registry import find_claim
    from keeps.weights.files import atomic_write_bytes, check_writable

    claim = find_claim(card)
    if data is not None:
        if not claim.files:
            what = f"the claim of {claim.card} has no form on published data"
            raise SettingsError(what, where=f"data {data}", mend="leave it out: this claim makes its own data")
        for name in claim.files:
            published_file(Path(data), name)  # before minutes are spent
    run = ClaimRun(
        workspace=Path(workspace) if workspace else None,
        size=cast(Any, size),  # checked by ClaimRun
        data=Path(data) if data else None,
        device=device,
        progress=progress or SilentProgress(),
    )
    if out is not None:
        check_writable(out)  # before minutes are spent
    evidence = run_claim(claim, run)
    if out is not None:
        atomic_write_bytes(Path(out) / f"{claim.card}{'_data' if data else ''}.json", evidence.to_json().encode())
    return evidence
