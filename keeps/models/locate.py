"""Where facts are written: the blocks of a model, their MLP down-projections, and the subject of a prompt.

Everything is found from the structure of the model (which modules are there, what they multiply), never from a list
of model names. A layer is told to hold its matrix transposed by its class, not by its shape: a square one would pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from keeps.errors import RecordError, TargetError
from keeps.models.projection import unwrapped
from keeps.models.scoring import text_config
from keeps.models.tokens import TextEncoder

_ATTENTION = ("attn", "attention")  # parts of the names of the modules whose products are not the MLP's


@dataclass(frozen=True)
class ModuleRef:
    """A linear layer by its name in the model.

    Attributes:
        transposed: its weight is stored as ``(in, out)``, as GPT-2's ``Conv1D`` does.
    """

    name: str
    module: nn.Module
    transposed: bool

    @classmethod
    def of(cls, name: str, module: nn.Module) -> ModuleRef:
        """The reference to a layer, whose class says how it stores its weight."""
        return cls(name, module, is_transposed(module))

    @property
    def weight(self) -> nn.Parameter:
        """The parameter, in the layout that the module stores."""
        return cast(nn.Parameter, self.module.weight)

    @property
    def matrix(self) -> Tensor:
        """W as ``(out, in)``: a detached view of the parameter."""
        weight = self.weight.detach()
        return weight.T if self.transposed else weight

    @property
    def in_features(self) -> int:
        """Width of the layer's input."""
        return int(self.matrix.shape[1])

    @property
    def out_features(self) -> int:
        """Width of the layer's output."""
        return int(self.matrix.shape[0])


def is_transposed(module: object) -> bool:
    """Whether a layer's weight is stored as ``(in, out)``; by its class."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def is_linear(module: object) -> bool:
    """Whether a module multiplies its input with one matrix, in either layout."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder blocks in order.

    Raises:
        TargetError: the model has no list of as many blocks as its configuration says.
    """
    return list(_blocks(model)[1])


def mlp_outputs(model: nn.Module) -> list[ModuleRef]:
    """The down-projection of each block's MLP, in order: the last linear layer outside attention.

    Raises:
        TargetError: a block has none, or several experts; a weight is quantised; the model carries an adapter.
    """
    name, found = _blocks(model)
    width = int(text_config(model).hidden_size)
    return [_down_projection(f"{name}.{number}", block, width) for number, block in enumerate(found)]


def checked_layer(layer: int, count: int, where: str = "layer") -> int:
    """``layer``, which must be one of ``count``; counted from 0.

    Raises:
        TargetError: it is out of range.
    """
    if not 0 <= layer < count:
        what = f"there is no layer {layer}: the model has {count} blocks"
        raise TargetError(what, where=where, mend=f"choose 0 to {count - 1}")
    return layer


@contextmanager
def first_blocks(model: nn.Module, count: int) -> Iterator[None]:
    """The model with its first ``count`` blocks alone, for passes that read nothing above; whole again afterwards."""
    name, found = _blocks(model)
    parent_name, _, attribute = name.rpartition(".")
    parent = unwrapped(model).get_submodule(parent_name)
    setattr(parent, attribute, nn.ModuleList(list(found)[:count]))
    try:
        yield
    finally:
        setattr(parent, attribute, found)


def mention(text: str, subject: str) -> tuple[int, int]:
    """The characters of ``text`` that hold the last occurrence of ``subject`` in any case: the first, and one after.

    Comparing in one case makes some letters longer ("ß" is "ss"), so each counts where it stands in ``text``.

    >>> mention("Die Straße in BERLIN", "Berlin")
    (14, 20)

    Raises:
        RecordError: the subject is empty or not in the text.
    """
    wanted = subject.strip().casefold()
    folded = [letter.casefold() for letter in text]
    place = "".join(folded).rfind(wanted) if wanted else -1
    if place < 0:
        what = f'the prompt does not name the subject "{subject}"' if wanted else "the subject is empty"
        raise RecordError(what, where=f"prompt {text!r}", mend="name the subject as it stands in the prompt")
    owners = [number for number, letters in enumerate(folded) for _ in letters]
    return owners[place], owners[place + len(wanted) - 1] + 1


def subject_end(encoder: TextEncoder, text: str, subject: str) -> int:
    """The token that holds the last character of the last occurrence of ``subject`` in a prompt.

    The position counts in ``encoder.prompt(text)``, special tokens and chat template included.

    Raises:
        RecordError: the subject is empty or not in the text.
    """
    return subject_span(encoder, text, subject)[1]


def subject_span(encoder: TextEncoder, text: str, subject: str) -> tuple[int, int]:
    """The tokens that hold the first and the last character of the last occurrence of ``subject`` in a prompt.

    The positions count as those of :func:`subject_end`.

    Raises:
        RecordError: the subject is empty or not in the text.
    """
    begin, end = mention(text, subject)
    tokens = encoder.prompt(text)
    whole, leading, shift = text, len(encoder.leading), 0
    if encoder.templated:
        whole = encoder.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        begun = len(text) - len(text.lstrip())  # some templates take the spaces around a turn away
        shift, leading = whole.rfind(text.strip()) - begun, 0
    found = []
    for character, holding in ((begin + shift, 0), (end - 1 + shift, -1)):
        by_offsets = _by_offsets(encoder.tokenizer, whole, character)
        place = by_offsets[holding] if by_offsets else _by_lengths(encoder.tokenizer, whole, character)
        found.append(min(place + leading, len(tokens) - 1))
    return found[0], found[1]


def _by_offsets(tokenizer: Any, text: str, character: int) -> list[int]:
    """The tokens that hold a character, from the offsets of a fast tokenizer; none of one that gives none."""
    if not getattr(tokenizer, "is_fast", False):
        return []
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [number for number, (start, end) in enumerate(encoded["offset_mapping"]) if start <= character < end]


def _by_lengths(tokenizer: Any, text: str, character: int) -> int:
    """From decoding ever longer beginnings, for tokenizers without offsets."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for number in range(len(ids)):
        if len(tokenizer.decode(ids[: number + 1], clean_up_tokenization_spaces=False)) > character:
            return number
    return len(ids) - 1


def _blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of blocks and its name in the transformers model."""
    base = unwrapped(model)
    count = int(text_config(model).num_hidden_layers)
    for name, module in base.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and len({type(item) for item in module}) <= 2:
            return name, module
    what = f"the model has no list of {count} decoder blocks"
    raise TargetError(what, where=type(base).__name__, mend="choose a decoder-only transformer")


def _down_projection(name: str, block: nn.Module, width: int) -> ModuleRef:
    if any(hasattr(module, "base_layer") for module in block.modules()):
        raise TargetError("the model carries an adapter", where=name, mend="take it out with undo(), or merge it first")
    inside = dict(block.named_modules())
    if any("expert" in part.lower() for part in inside):
        mend = "choose a model with one MLP a block, or a method that works beside the weights (grace, ike)"
        raise TargetError("the block has several experts, so no single layer holds a fact", where=name, mend=mend)
    outside = {
        part: module
        for part, module in inside.items()
        if hasattr(module, "weight") and not any(word in part.lower() for word in _ATTENTION)
    }
    linear = [(part, module) for part, module in outside.items() if is_linear(module)]
    for part, module in linear:
        weight = cast(Tensor, module.weight)
        if weight.is_meta or not weight.is_floating_point() or weight.ndim != 2:
            kind = str(weight.dtype).removeprefix("torch.")
            mend = "load the model in float32; the edit can go onto a quantised copy later"
            raise TargetError(f"the weight is quantised or not loaded ({kind})", where=f"{name}.{part}", mend=mend)
    refs = [ModuleRef.of(f"{name}.{part}", module) for part, module in linear]
    refs = [ref for ref in refs if ref.out_features == width]
    if not refs:
        mend = "choose a transformer whose blocks end in a linear layer, not quantised"
        raise TargetError("the block has no MLP down-projection", where=name, mend=mend)
    return refs[-1]
