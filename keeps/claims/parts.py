"""What a claim has measured so far: an interrupted ``keeps reproduce`` goes on behind the last part that it finished.

Parts lie in the workspace under a digest of the claim, its data, the device and the code of keeps, so that nothing
that other code measured is ever taken for this run's. They go when the claim has ended.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keeps
from keeps.weights.files import atomic_write_bytes


class Parts:
    """The finished parts of one claim.

    Args:
        folder: where they lie, made with the first of them; None keeps nothing.

    Attributes:
        seconds: that the parts took which were found there, and not measured again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.seconds = folder, 0.0

    def __call__(self, name: str, compute: Callable[[], Any]) -> Any:
        """What ``compute`` gives, as JSON types, once a ``name``.

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> Parts(folder)("double", lambda: (2 * 21,))
        [42]
        >>> Parts(folder)("double", lambda: 1 / 0)
        [42]

        Raises:
            StorageError: the disk is full or the folder is not writable.
        """
        if self.folder is None:
            return plain(compute())
        path = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
        stored = _read(path, name)
        if stored is not None:
            self.seconds += stored["seconds"]
            return stored["value"]
        started = time.monotonic()
        value = plain(compute())
        found = {"name": name, "seconds": time.monotonic() - started, "value": value}
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, (json.dumps(found, ensure_ascii=False) + "\n").encode())
        return value

    def clear(self) -> None:
        """Forget them, once the evidence holds what they were for."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def parts_folder(root: Path, card: str, circumstances: Sequence[Any]) -> Path:
    """The folder of the parts of ``card`` in the workspace ``root``, under ``circumstances`` and the code of keeps."""
    digest = hashlib.sha256(json.dumps([card, *map(str, circumstances)]).encode())
    package = Path(keeps.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return root / "claims" / f"{card}-{digest.hexdigest()[:16]}"


def plain(value: Any) -> Any:
    """``value`` as JSON types; a figure that is no number becomes None.

    >>> plain({"shares": (0.5, float("nan")), 3: {"a"} })
    {'shares': [0.5, None], '3': "{'a'}"}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def _read(path: Path, name: str) -> dict[str, Any] | None:
    """A stored part; None where there is none, or a damaged one, which is measured anew."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if found["name"] == name and "value" in found and found["seconds"] >= 0 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
