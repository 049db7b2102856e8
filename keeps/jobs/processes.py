"""What several processes of one ``accelerate launch`` agree on before they work together."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

from keeps.errors import InterruptedRunError, KeepsError

T = TypeVar("T")
PATIENCE = timedelta(hours=12)  # how long the others wait while the main process probes a model


def process_count() -> int:
    """Processes of this launch; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1") or 1)


def is_main_process() -> bool:
    """Whether this process writes files and the ledger."""
    return int(os.environ.get("RANK", "0") or 0) == 0


def own_device(device: str | None = None) -> str:
    """``device``, by default ``"cuda"`` where there is a GPU, else ``"cpu"``; a GPU of its own for each process.

    >>> own_device("cpu")
    'cpu'
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() and not _launched_for_cpu() else "cpu"
    if device == "cuda" and process_count() > 1:
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device


def from_main(make: Callable[[], T], *, device: str = "cpu") -> T:
    """What ``make()`` gives in the main process, in every process; the others wait for it.

    An error of the main process is raised in every process, so that none waits for ever.

    Args:
        make: called in the main process only.
        device: where this process computes; decides how the processes talk to each other.

    >>> from_main(lambda: 3)
    3
    """
    if process_count() == 1:
        return make()
    from keeps.training.sharding import wants_sharding

    wants_sharding()  # refuses, before minutes are spent, what cannot be done
    if not is_main_process():
        found = _broadcast(None, device)
        if isinstance(found, _Failure):
            raise found.error
        return found
    try:
        value = make()
    except Exception as error:
        ended = InterruptedRunError(f"the main process ended with {type(error).__name__}", mend="see its message")
        _broadcast(_Failure(error if isinstance(error, KeepsError) else ended), device)
        raise
    return cast(T, _broadcast(value, device))


@dataclass(frozen=True)
class _Failure:
    error: Exception


def _broadcast(value: Any, device: str) -> Any:
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=device == "cpu" or _launched_for_cpu(), timeout=PATIENCE)
    return broadcast_object_list([value])[0]


def _launched_for_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
