"""The layers that make queries and values in every block, found from a model's structure as in keeps.models.locate."""

from __future__ import annotations

from torch import nn

from keeps.errors import TargetError
from keeps.models.locate import ModuleRef, blocks, is_linear
from keeps.models.projection import unwrapped

ATTENTION_PARTS = ("attn", "attention")  # of names
_QUERIES_AND_VALUES = ("q_proj", "v_proj", "query", "value")


def attention_inputs(model: nn.Module) -> list[ModuleRef]:
    """The query and value projections of each block, or the first layer of its attention where they are joined.

    Raises:
        TargetError: a block has no linear layer in its attention; a weight is quantised; the model has an adapter.
    """
    names = {id(module): name for name, module in unwrapped(model).named_modules()}
    found: list[ModuleRef] = []
    for block in blocks(model):
        inside = [
            (path, module)
            for path, module in block.named_modules()
            if any(part in path.lower() for part in ATTENTION_PARTS) and is_linear(module)
        ]
        if not inside or any(hasattr(module, "base_layer") for module in block.modules()):
            mend = "take an adapter out with undo(), or choose where=mlp"
            raise TargetError("the block has no plain linear layer in its attention", where=names[id(block)], mend=mend)
        chosen = [pair for pair in inside if pair[0].rpartition(".")[2] in _QUERIES_AND_VALUES] or inside[:1]
        for path, module in chosen:
            weight = module.weight
            if not (isinstance(weight, nn.Parameter) and weight.is_floating_point() and not weight.is_meta):
                mend = "load the model in float32; the edit can go onto a quantised copy later"
                raise TargetError("the weight is quantised or not loaded", where=path, mend=mend)
            found.append(ModuleRef.of(names[id(module)], module))
    return found
