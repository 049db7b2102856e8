"""Training of a model that is parted over the processes of a launch: torch's fully sharded data parallelism (FSDP2).

Each process keeps a part of every decoder layer, trained or frozen, and its part of the gradients and of the
optimiser's state; a layer is put together when it computes and taken apart again. What lies outside the layers
(embeddings, the last norm) stays whole in every process.

The module that was handed in stays as it is and where it is: a copy of it is sharded, and what was trained is copied
back at the end. So nothing that knows whole tensors (export, merging, the knowledge diff) has to know of shards.

Sources: Zhao et al., "PyTorch FSDP", VLDB 2023 (arXiv:2304.11277); torch.distributed.fsdp.fully_shard.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from keeps.errors import SettingsError
from keeps.models.packing import can_pack
from keeps.models.projection import unwrapped

TRUE = ("1", "true", "yes")


def wants_sharding() -> bool:
    """Whether the launch asks for FSDP (``accelerate launch --use_fsdp --fsdp_version 2``).

    Raises:
        SettingsError: it asks for the first version of FSDP, which is not what is done here.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() not in TRUE:
        return False
    if os.environ.get("FSDP_VERSION", "2") != "2":
        mend = "give --fsdp_version 2"
        raise SettingsError("training shards by the second version of FSDP alone", where="accelerate launch", mend=mend)
    return True


class Shards:
    """A sharded copy of ``original``, and the way back.

    All processes make it together. ``module`` is the copy, on ``device``.

    Raises:
        SettingsError: the model does not name its decoder layers.
    """

    def __init__(self, original: nn.Module, device: torch.device) -> None:
        import torch.distributed as distributed
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        can_pack(original)  # found out here: within a step processes may differ in whether they ask
        self.original = original
        self.module = copy.deepcopy(original)
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        for layer in decoder_layers(self.module):
            fully_shard(layer, mesh=mesh)  # layer by layer: no card ever holds the whole model
        self.module.to(device)

    def copy_back(self) -> None:
        """Give ``original`` what was trained. All processes call it together."""
        trained = dict(self.module.named_parameters())
        with torch.no_grad():
            for name, parameter in self.original.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(whole(trained[name]))


def decoder_layers(module: nn.Module) -> list[nn.Module]:
    """The layers that a transformers model is made of, as it names them itself.

    Raises:
        SettingsError: it names none.
    """
    names = set(getattr(unwrapped(module), "_no_split_modules", None) or ())
    found = [layer for layer in module.modules() if type(layer).__name__ in names]
    if not found:
        mend = "leave --use_fsdp out (accelerate launch --multi_gpu)"
        raise SettingsError("this model does not name its layers, so it cannot be sharded", mend=mend)
    return found


def is_shard(tensor: Tensor) -> bool:
    """Whether the tensor is one process's part of a larger one."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The tensor with the parts of all processes, who call this together; itself where it is whole."""
    return cast(Any, tensor).full_tensor() if is_shard(tensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of the tensor."""
    return cast(Any, tensor).to_local() if is_shard(tensor) else tensor


def parted_like(tensor: Tensor, other: Tensor) -> Tensor:
    """This process's part of ``tensor``, parted as ``other`` is; itself where ``other`` is whole."""
    if not is_shard(other) or tensor.ndim == 0:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    like = cast(Any, other)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def average_whole_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average over the processes the gradients of parameters that are not sharded; shards have theirs averaged."""
    import torch.distributed as distributed

    for parameter in parameters:
        if parameter.grad is not None and not is_shard(parameter):
            distributed.all_reduce(parameter.grad)
            parameter.grad /= distributed.get_world_size()


def clip_gradients(parameters: Mapping[str, nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients so that their common norm is at most ``limit``; returns the norm before.

    As :func:`torch.nn.utils.clip_grad_norm_`, for shards and whole parameters side by side.
    """
    import torch.distributed as distributed

    gradients = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
    local = [own_part(gradient) for gradient in gradients]
    device = local[0].device
    squares = torch.zeros(2, dtype=torch.float64, device=device)  # of shards, of whole ones
    for gradient, part in zip(gradients, local, strict=True):
        squares[0 if is_shard(gradient) else 1] += part.detach().float().square().sum().double()
    shards = squares[:1].clone()
    distributed.all_reduce(shards)
    norm = (shards[0] + squares[1]).sqrt().float()
    scale = torch.clamp(limit / (norm + 1e-6), max=1.0)
    for part in local:
        part.mul_(scale)
    return norm
