"""Merges written down in the YAML of mergekit (arcee-ai/mergekit, 0.1.4), read without it.

Read are ``merge_method``, ``base_model``, ``models``, ``slices`` with ``layer_range``, ``parameters`` at every place
with gradients and filters, ``dtype``, ``out_dtype``, and ``tokenizer_source: base``. Any other key is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.errors import InputFileError, SettingsError, nearest
from keeps.registry import find_method

# mergekit's method -> ours, with the settings that make ours the same.
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "linear": ("average", {}),
    "task_arithmetic": ("task_arithmetic", {}),
    "ties": ("ties", {}),
    "dare_linear": ("dare", {"then": "sum"}),
    "dare_ties": ("dare", {"then": "ties"}),
    "breadcrumbs": ("breadcrumbs", {}),
    "slerp": ("slerp", {}),
    "karcher": ("karcher", {}),
    "model_stock": ("model_stock", {}),
    "passthrough": ("passthrough", {}),
}
KEYS = ("merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "tokenizer_source")
WITHOUT_EFFECT = ("int8_mask",)  # how mergekit computes, not what
BETWEEN = ("slerp", "karcher")  # a base that `models` leaves out is one of the models all the same

Parameter = Any  # a number, a gradient (numbers over depth), or a list of {value, filter}


@dataclass(frozen=True)
class Source:
    """A range of layers of one model (all of them where ``layers`` is None), and what is set for it."""

    model: str
    layers: tuple[int, int] | None
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True)
class Slice:
    """Layers of the result, and where they come from."""

    sources: tuple[Source, ...]
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True)
class MergeRecipe:
    """A merge as a YAML file says it.

    Attributes:
        models: all that are read, the base first.
        settings: of the method as a whole.
        slices: one where the file names whole models.
        parameters: that hold everywhere, and may differ by tensor.
    """

    path: str
    method: str
    settings: Mapping[str, Any]
    base: str | None
    models: tuple[str, ...]
    slices: tuple[Slice, ...]
    parameters: Mapping[str, Parameter]
    dtype: str | None = None


def read_merge_recipe(path: str | Path) -> MergeRecipe:
    """Read a file in mergekit's format.

    Raises:
        InputFileError: it is missing, no YAML, or a part of it is not what it should be.
        SettingsError: it has a key, method or parameter that is not supported; the message names it.
    """
    import yaml

    where = str(path)
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputFileError("there is no such file", where=where, mend="check the path") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputFileError(f"this is not plain YAML ({reason})", where=where, mend="give a text file") from None
    if not isinstance(document, Mapping):
        raise InputFileError("a merge is a mapping", where=where, mend="begin with a line such as `merge_method: ties`")
    return parse_merge_recipe(document, where)


def parse_merge_recipe(document: Mapping[str, Any], where: str) -> MergeRecipe:
    """The recipe in a document that has been read; raises as :func:`read_merge_recipe`."""
    _known_keys(document, KEYS, where)
    name = str(document.get("merge_method"))
    if name not in METHODS:
        raise SettingsError(f'merge_method is "{name}"', where=where, mend=nearest(name, METHODS))
    if ("models" in document) == ("slices" in document):
        raise InputFileError("give models or slices, and not both", where=where, mend="leave one of them out")
    if document.get("tokenizer_source", "base") != "base":
        what = f'tokenizer_source "{document["tokenizer_source"]}" is not supported'
        raise SettingsError(what, where=where, mend='leave it out, or give "base"')
    method, settings = METHODS[name]
    base = _text(document.get("base_model"), "base_model", where)
    if "models" in document:
        sources = _sources(document["models"], ("model", "parameters"), where)
        if name in BETWEEN and base is not None and all(source.model != base for source in sources):
            sources += (Source(base, None, {}),)
        slices = (Slice(sources, {}),)
    else:
        slices = tuple(_slice(item, where) for item in _items(document["slices"], "slices", where))
    common = _parameters(document.get("parameters"), where)
    everywhere, by_tensor = _settings(method, common, where)
    named = [source.model for piece in slices for source in piece.sources]
    return MergeRecipe(
        where,
        method,
        {**everywhere, **settings},
        base,
        tuple(dict.fromkeys([*([base] if base else []), *named])),
        tuple(_translated(piece, method, where) for piece in slices),
        by_tensor,
        _text(document.get("out_dtype") or document.get("dtype"), "dtype", where),
    )


def evaluate(parameter: Parameter, tensor: str, depth: float) -> Any:
    """The value of a parameter for one tensor; None where no filter fits.

    Args:
        depth: in [0, 1], where the tensor's layer lies in its slice; a list of numbers is interpolated over it.

    >>> evaluate([0.0, 1.0, 0.0], "layers.1.w", 0.25)
    0.5
    >>> evaluate([{"filter": "mlp", "value": 1}, {"value": 0}], "mlp.w", 0)
    1
    """
    if not isinstance(parameter, Sequence) or isinstance(parameter, str):
        return parameter
    if all(isinstance(value, (int, float)) for value in parameter):
        place = depth * (len(parameter) - 1)
        left = min(int(place), len(parameter) - 1)
        right = min(left + 1, len(parameter) - 1)
        return (1 - (place - left)) * parameter[left] + (place - left) * parameter[right]
    for choice in parameter:
        wanted = choice.get("filter")
        if wanted in (None, "*") or wanted in tensor:
            return evaluate(choice["value"], tensor, depth)
    return None


def _settings(method: str, parameters: Mapping[str, Parameter], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of the whole merge: those with one value as settings, and all that may differ by tensor."""
    everywhere, by_tensor = {}, {}
    implementation = find_method(method, "merge").implementation
    for key, value in parameters.items():
        if key in WITHOUT_EFFECT:
            continue
        found = implementation.from_yaml(key, value)
        if found is None:
            raise _unsupported(key, method, where)
        name, plain = found
        if name == "weight" or (isinstance(plain, Sequence) and not isinstance(plain, str)):
            by_tensor[name] = plain
        else:
            everywhere[name] = plain
    return everywhere, by_tensor


def _translated(piece: Slice, method: str, where: str) -> Slice:
    """A slice with the names of our settings."""
    implementation = find_method(method, "merge").implementation

    def renamed(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
        found = {key: implementation.from_yaml(key, value) for key, value in parameters.items()}
        unknown = [key for key, pair in found.items() if pair is None and key not in WITHOUT_EFFECT]
        if unknown:
            raise _unsupported(unknown[0], method, where)
        return dict(pair for pair in found.values() if pair is not None)

    sources = tuple(Source(one.model, one.layers, renamed(one.parameters)) for one in piece.sources)
    return Slice(sources, renamed(piece.parameters))


def _unsupported(key: str, method: str, where: str) -> SettingsError:
    return SettingsError(f'the parameter "{key}" of {method} is not supported', where=where, mend="leave it out")


def _slice(item: Any, where: str) -> Slice:
    if not isinstance(item, Mapping) or "sources" not in item:
        raise InputFileError("a slice has sources", where=where, mend="write `- sources:` with models below it")
    _known_keys(item, ("sources", "parameters"), where)
    sources = _sources(item["sources"], ("model", "layer_range", "parameters"), where)
    lengths = {source.layers[1] - source.layers[0] for source in sources if source.layers is not None}
    if len(lengths) != 1 or any(source.layers is None for source in sources):
        mend = "give every source of a slice a layer_range of the same length"
        raise InputFileError("the sources of a slice have different numbers of layers", where=where, mend=mend)
    return Slice(sources, _parameters(item.get("parameters"), where))


def _sources(items: Any, keys: Sequence[str], where: str) -> tuple[Source, ...]:
    found = []
    for item in _items(items, "models", where):
        if not isinstance(item, Mapping) or "model" not in item:
            raise InputFileError("a source names a model", where=where, mend="write `- model: FOLDER`")
        _known_keys(item, keys, where)
        found.append(
            Source(
                str(item["model"]), _range(item.get("layer_range"), where), _parameters(item.get("parameters"), where)
            )
        )
    return tuple(found)


def _range(value: Any, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(end) is int for end in value):
        raise InputFileError(f"layer_range is {value!r}", where=where, mend="give [first, behind the last]")
    if not 0 <= value[0] < value[1]:
        raise InputFileError(f"layer_range {value} holds no layer", where=where, mend="give [first, behind the last]")
    return value[0], value[1]


def _parameters(value: Any, where: str) -> Mapping[str, Parameter]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputFileError("parameters are no mapping", where=where, mend="indent `name: value` lines below it")
    for key, parameter in value.items():
        if not _is_parameter(parameter):
            mend = "give a number, a list of numbers, or a list of `value` and `filter`"
            raise InputFileError(f'the parameter "{key}" is {parameter!r}', where=where, mend=mend)
    return {str(key): parameter for key, parameter in value.items()}


def _is_parameter(value: Any) -> bool:
    if isinstance(value, list):
        numbers = all(isinstance(item, (int, float)) for item in value)
        return bool(value) and (numbers or all(_is_choice(item) for item in value))
    return isinstance(value, (bool, int, float, str))


def _is_choice(item: Any) -> bool:
    known = isinstance(item, Mapping) and set(item) <= {"value", "filter"} and "value" in item
    return known and _is_parameter(item["value"])


def _items(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputFileError(f"{name} is no list", where=where, mend="write one `- ` line for each")
    return value


def _known_keys(item: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in item:
        if key not in known:
            raise SettingsError(f'the key "{key}" is not supported', where=where, mend=nearest(str(key), known))


def _text(value: Any, key: str, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise InputFileError(f"{key} is {value!r}", where=where, mend="give a name")
