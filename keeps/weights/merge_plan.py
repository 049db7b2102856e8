"""What a merge is going to read and write, known from the headers alone: names, types, places, problems.

Rules for embeddings:

- A head that a model does not store is tied, and read from its embedding; the result is tied only if every model is.
- Embeddings with different numbers of rows are refused, unless ``rows="base"``: then the result has the rows of the
  base (without a base: of the first model), rows that a model lacks count as unchanged, and its further ones are left
  out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeps.errors import ModelLoadError, SettingsError, nearest
from keeps.weights.checkpoints import INDEX, SINGLE, TensorSource
from keeps.weights.halves import FLOAT_TYPES, NAMES
from keeps.weights.headers import SIZES, Layout, Stored, lay_out
from keeps.weights.merge_method import MergeMethod

HEADS = ("lm_head.weight", "embed_out.weight")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
ROWS = ("refuse", "base")
LISTED = 3  # names in an error

Place = tuple[int, str]  # position of a source, name of its tensor


@dataclass(frozen=True)
class Output:
    """One tensor of the result.

    Attributes:
        inputs: where it comes from, one place a model; a copied one has one.
        values: the method's settings for this tensor.
        copied: its bytes are those of its input (integers and truth values, which cannot be averaged).
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    inputs: tuple[Place, ...]
    base: Place | None
    values: Mapping[str, Any]
    copied: bool = False

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class MergePlan:
    """Everything that decides the bytes of a merge, and what it costs."""

    name: str
    method: MergeMethod
    sources: tuple[TensorSource, ...]
    outputs: tuple[Output, ...]
    layouts: tuple[Layout, ...]
    seed: int = 0
    delta_kind: str = "F32"
    config: Mapping[str, Any] = field(default_factory=dict)  # what differs from the config of ``sources[0]``
    notes: tuple[str, ...] = ()

    @property
    def bytes_written(self) -> int:
        """Bytes of the files with weights."""
        return sum(layout.size for layout in self.layouts)

    @property
    def passes(self) -> int:
        """How often the inputs are read."""
        return 1 + len(self.method.stages())

    @property
    def bytes_read(self) -> int:
        """Bytes of the inputs, in all passes."""
        places = (place for output in self.outputs for place in (*output.inputs, output.base) if place is not None)
        return self.passes * sum(self.sources[source].tensors[name].nbytes for source, name in places)

    def memory_bound(self, chunk: int, threads: int) -> int:
        """Bytes above the interpreter: pieces of all models with their temporaries, counts, the journal."""
        models = max((len(output.inputs) for output in self.outputs), default=1)
        pieces = threads * chunk * 4 * (5 * models + 8)
        counts = sum((threads + 2) * 8 * 65536 * 2 * models for _ in self.method.stages())
        return pieces + counts + 4096 * len(self.outputs) + (8 << 20)

    def identity(self) -> str:
        """Hash of everything that decides the result; the size of pieces and the threads do not."""
        decides = {
            "method": [self.name, self.method.settings.to_mapping()],
            "sources": [source.identity() for source in self.sources],
            "outputs": [[o.name, o.kind, o.shape, o.inputs, o.base, dict(o.values), o.copied] for o in self.outputs],
            "files": [[layout.path.name, layout.size] for layout in self.layouts],
            "circumstances": [self.seed, self.delta_kind, dict(self.config)],
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True, default=list).encode()).hexdigest()[:16]


def plan_merge(
    name: str,
    method: MergeMethod,
    models: Sequence[TensorSource],
    base: TensorSource | None = None,
    *,
    dtype: str | None = None,
    delta_dtype: str = "float32",
    rows: str = "refuse",
    shard_size: int = 5_000_000_000,
    seed: int = 0,
    overrides: Any = None,
) -> MergePlan:
    """Plan the merge of whole models.

    Args:
        dtype: of the result; by default each tensor keeps the type that the base (or first model) has.
        delta_dtype: differences are rounded to it ("float32": not rounded beyond float32).
        overrides: ``overrides(tensor name, model position or None)`` -> settings that hold for it, of a YAML file.

    Raises:
        ModelLoadError: tensors are missing or of different shapes.
        SettingsError: a wrong number of models, or an unknown type.
    """
    method.check_models(name, len(models), base is not None)
    sources = (base, *models) if base is not None else tuple(models)
    reference = sources[0]
    named = [stored_names(source, sources) for source in sources]
    _check_names(sources, named)
    first = 1 if base is not None else 0
    outputs = []
    for tensor, stored in _in_file_order(named[0], reference):
        places = tuple((position, names[tensor]) for position, names in enumerate(named))
        _check_shapes(tensor, places, sources, rows)
        merged = stored.kind in FLOAT_TYPES and stored.numel > 0
        kind = NAMES[_known(dtype, "dtype")] if dtype and merged else stored.kind
        values = tensor_values(method, tensor, len(models), overrides)
        if merged:
            outputs.append(Output(tensor, kind, stored.shape, places[first:], places[0] if first else None, values))
        else:
            outputs.append(Output(tensor, kind, stored.shape, places[:1], None, values, copied=True))
    return MergePlan(
        name,
        method,
        sources,
        tuple(outputs),
        shards(outputs, shard_size),
        seed,
        NAMES[_known(delta_dtype, "delta_dtype")],
        config_changes(reference, outputs, dtype),
        tuple(_notes(outputs, named, reference)),
    )


def tensor_values(method: MergeMethod, tensor: str, models: int, overrides: Any) -> dict[str, Any]:
    """The method's settings for one tensor, with what a YAML file says of it."""
    values = method.values(models)
    if overrides is None:
        return values
    common = overrides(tensor, None)
    values |= {key: value for key, value in common.items() if key in values}
    for key in ("weight", *method.by_model):
        each = [overrides(tensor, model).get(key) for model in range(models)]
        if any(value is not None for value in each):
            plain = values[key] if isinstance(values[key], (tuple, list)) else (values[key],) * models
            values[key] = tuple(plain[m] if value is None else float(value) for m, value in enumerate(each))
    return values


def stored_names(source: TensorSource, sources: Sequence[TensorSource]) -> dict[str, str]:
    """Name in the result -> name in ``source``; see the rule for heads at the top of this file."""
    own = {name: name for name in source.tensors if not _is_tied_head(name, source)}
    for head in (name for other in sources for name in other.tensors if name.endswith(HEADS)):
        stored_elsewhere = any(head in other.tensors and not _is_tied_head(head, other) for other in sources)
        embedding = next((name for name in own if name.endswith(EMBEDDINGS)), None)
        if stored_elsewhere and head not in own and embedding is not None:
            own[head] = embedding
    return own


def _is_tied_head(name: str, source: TensorSource) -> bool:
    return name.endswith(HEADS) and source.config.get("tie_word_embeddings") is True


def _in_file_order(names: Mapping[str, str], source: TensorSource) -> list[tuple[str, Stored]]:
    """Tensors by element size (so that each is aligned in the result), then as they lie in the source."""
    stored = [(name, source.tensors[own]) for name, own in names.items()]
    return sorted(stored, key=lambda item: (-SIZES[item[1].kind], str(item[1].path), item[1].offset, item[0]))


def _check_names(sources: Sequence[TensorSource], named: Sequence[Mapping[str, str]]) -> None:
    for source, names in zip(sources[1:], named[1:], strict=True):
        missing, extra = sorted(set(named[0]) - set(names)), sorted(set(names) - set(named[0]))
        if missing or extra:
            parts = [f"lacks {_some(missing)}"] if missing else []
            parts += [f"has {_some(extra)} besides"] if extra else []
            what = f"{source.name} {' and '.join(parts)}, compared with {sources[0].name}"
            raise ModelLoadError(what, where="merge", mend="merge models of one architecture")


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(f'"{name}"' for name in names[:LISTED])
    return listed if len(names) <= LISTED else f"{listed} and {len(names) - LISTED} more"


def _check_shapes(tensor: str, places: Sequence[Place], sources: Sequence[TensorSource], rows: str) -> None:
    if rows not in ROWS:
        raise SettingsError(f'rows is "{rows}"', where="rows", mend=nearest(rows, ROWS))
    shapes = [sources[position].tensors[name].shape for position, name in places]
    for (position, _), shape in zip(places, shapes, strict=True):
        if shape == shapes[0]:
            continue
        what = f'"{tensor}" is {shape} in {sources[position].name} and {shapes[0]} in {sources[places[0][0]].name}'
        if not tensor.endswith((*HEADS, *EMBEDDINGS)) or shape[1:] != shapes[0][1:]:
            raise ModelLoadError(what, where="merge", mend="merge models of one architecture and size")
        if rows == "refuse":
            mend = (
                "give --rows base to keep the base's vocabulary, if the first rows of all of them are the same tokens"
            )
            raise ModelLoadError(what, where="merge", mend=mend)


def _known(dtype: str, where: str) -> str:
    if dtype not in NAMES:
        raise SettingsError(f'{where} is "{dtype}"', where=where, mend=nearest(dtype, NAMES))
    return dtype


def shards(outputs: Sequence[Output], shard_size: int) -> tuple[Layout, ...]:
    """The files of the result, none larger than ``shard_size`` bytes of tensors unless one tensor is."""
    if shard_size < 1:
        raise SettingsError(f"the shard size is {shard_size} bytes", where="shard_size", mend="give 1 MB or more")
    groups: list[list[Output]] = [[]]
    filled = 0
    for output in outputs:
        size = output.numel * SIZES[output.kind]
        if groups[-1] and filled + size > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(output)
        filled += size
    total = len(groups)
    names = [SINGLE] if total == 1 else [f"model-{i:05}-of-{total:05}.safetensors" for i in range(1, total + 1)]
    return tuple(
        lay_out(Path(file), [(output.name, output.kind, output.shape) for output in group])
        for file, group in zip(names, groups, strict=True)
    )


def index_of(layouts: Sequence[Layout]) -> dict[str, bytes]:
    """The index file of a sharded result; nothing for a single file."""
    if len(layouts) == 1:
        return {}
    places = {tensor.name: layout.path.name for layout in layouts for tensor in layout.tensors}
    size = sum(tensor.nbytes for layout in layouts for tensor in layout.tensors)
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    return {INDEX: (json.dumps(index, indent=2) + "\n").encode()}


def config_changes(reference: TensorSource, outputs: Sequence[Output], dtype: str | None) -> dict[str, Any]:
    """What in config.json is not as in the reference: the type, and a head that is no longer tied."""
    changes: dict[str, Any] = {}
    if dtype:
        changes["torch_dtype" if "torch_dtype" in reference.config else "dtype"] = dtype
    head = any(output.name.endswith(HEADS) for output in outputs)
    if head and reference.config.get("tie_word_embeddings", False):
        changes["tie_word_embeddings"] = False
    return changes


def _notes(outputs: Sequence[Output], named: Sequence[Mapping[str, str]], reference: TensorSource) -> list[str]:
    copied = [output.name for output in outputs if output.copied]
    notes = [f"copied from {reference.name}, since they hold no real numbers: {_some(copied)}"] if copied else []
    heads = [n for names in named for n, own in names.items() if n.endswith(HEADS) and n != own]
    return notes + (["a tied head was read from its embedding; the result has a head of its own"] if heads else [])
