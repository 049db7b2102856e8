"""How many parameters a model has, each counted once, with and without its embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from keeps.models.projection import unwrapped


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model; tied matrices count once, every expert of a mixture counts.

    Attributes:
        total: all of them.
        embeddings: those of token and position tables and of the projection onto the vocabulary.
    """

    total: int
    embeddings: int

    @property
    def body(self) -> int:
        """Those of the layers: all but the embeddings."""
        return self.total - self.embeddings


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the weights of ``model``, a transformers model or a PeftModel over one (whose adapter counts too).

    Weights that bitsandbytes keeps packed, two to a byte, count by the shape that they stand for.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    output = getattr(unwrapped(model), "get_output_embeddings", lambda: None)()
    tables += [output] if isinstance(output, nn.Module) else []
    in_tables = {parameter for table in tables for parameter in table.parameters()}
    own = list(model.parameters())  # gives a tied one once
    return ParameterCount(
        sum(_size(parameter) for parameter in own),
        sum(_size(parameter) for parameter in own if parameter in in_tables),
    )


def _size(parameter: Any) -> int:
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    return int(parameter.numel()) if shape is None else int(shape.numel())
