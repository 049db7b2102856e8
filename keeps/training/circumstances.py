"""What a training run needs from the process around it, borrowed and given back."""

from __future__ import annotations

import atexit
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from keeps.errors import SettingsError
from keeps.training.sharding import wants_sharding


@contextmanager
def fresh_accelerator(device: str, precision: str) -> Iterator[Any]:
    """An ``accelerate.Accelerator`` for this run alone.

    accelerate keeps its state in class attributes and refuses a second, different set-up in one
    process. The state is set aside for the duration and put back, so that two runs of differing
    precision, or a run inside a program that uses accelerate itself, do not meet.
    """
    sharded = wants_sharding()
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import DistributedType

    shared = [state._shared_state for state in (PartialState, AcceleratorState, GradientState)]  # pyright: ignore[reportPrivateUsage]
    before = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    try:
        accelerator = Accelerator(
            mixed_precision="bf16" if precision == "bfloat16" else "no", cpu=torch.device(device).type == "cpu"
        )
        plain = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if accelerator.distributed_type not in ((*plain, DistributedType.FSDP) if sharded else plain):
            raise SettingsError(
                f"training does not run under {accelerator.distributed_type.value}",
                where="accelerate configuration",
                mend="choose one process, data parallelism (--multi_gpu) or FSDP (--use_fsdp --fsdp_version 2)",
            )
        if accelerator.num_processes > 1:
            atexit.register(end_process_group)
        yield accelerator
    finally:
        for state, values in zip(shared, before, strict=True):
            state.clear()
            state.update(values)


def end_process_group() -> None:
    """Leave the other processes of a launch; a second call does nothing.

    A process that ends without it may be aborted: its communication threads still run when they are torn down.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


@dataclass
class StopRequest:
    """Set when the user asks the run to stop; the loop looks at it between two steps."""

    signal: int = 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request, so that no step is left half done.

    A second signal acts at once, as it would without this. Outside the main thread, where signals
    cannot be caught, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: object) -> None:
        del frame
        request.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: signal.SIG_DFL if handler is None else handler for number, handler in before.items()}
    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Give the caller's torch random state back afterwards, whatever the run draws."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def process_of_launch() -> tuple[int, int]:
    """Number of this process in a launch, and how many there are; (0, 1) without one."""
    import torch.distributed as distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory this process has held: on the device for CUDA, resident memory otherwise."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows has no such module
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere but on macOS


SHORT = 128  # tokens up to which plain attention beats the fused one on a CPU


@contextmanager
def attention_for(module: Any, longest: int, device: torch.device) -> Iterator[None]:
    """Plain attention while short sequences are trained on a CPU, the model's own otherwise.

    The fused kernel works in blocks made for long sequences: at 13 tokens its backward pass took a
    quarter of a training step of SmolLM2-135M (1.95 CPU-seconds a step with it, 1.21 without).
    """
    base = module.get_base_model() if hasattr(module, "get_base_model") else module
    before = getattr(getattr(base, "config", None), "_attn_implementation", None)
    choose = getattr(base, "set_attn_implementation", None)
    if device.type != "cpu" or longest > SHORT or before != "sdpa" or choose is None:
        yield
        return
    choose("eager")
    try:
        yield
    finally:
        choose(before)
