"""YAML of mergekit: the same merge as by hand, settings by depth and name, layers put together, and named refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from merge_models import family, read

from keeps.errors import KeepsError
from keeps.jobs.merging import merge
from keeps.weights.mergekit_yaml import evaluate

UP = "model.layers.{}.mlp.up_proj.weight"


def run(folder: Path, document: dict[str, Any], name: str = "out") -> dict[str, Any]:
    """Merge as the document says, with BASE, A, B, C standing for the folders of :func:`family`."""
    text = yaml.safe_dump(document)
    for word, path in {"BASE": "base", "A_MODEL": "a", "B_MODEL": "b", "C_MODEL": "c"}.items():
        text = text.replace(word, str(folder / path))
    (folder / f"{name}.yml").write_text(text)
    merge(recipe=folder / f"{name}.yml", out=folder / name)
    return read(folder / name)


def models(*names: str, **parameters: Any) -> list[dict[str, Any]]:
    """Entries of ``models``."""
    return [{"model": f"{name}_MODEL", **({"parameters": parameters} if parameters else {})} for name in names]


@pytest.mark.parametrize(
    ("document", "method", "settings"),
    [
        ({"merge_method": "linear", "models": models("A", "B", weight=1.0)}, "average", {}),
        ({"merge_method": "task_arithmetic", "models": models("A", "B", weight=0.3)}, "task_arithmetic",
         {"weights": (0.3, 0.3), "scale": 1.0}),
        ({"merge_method": "ties", "models": models("A", "B", weight=1.0, density=0.3),
          "parameters": {"lambda": 0.5, "int8_mask": True}}, "ties",
         {"density": 0.3, "scale": 0.5, "scope": "tensor", "zero_sign": "plus"}),
        ({"merge_method": "dare_ties", "models": models("A", "B", weight=0.5, density=0.4)}, "dare",
         {"density": 0.4, "weights": (0.5, 0.5), "scale": 1.0, "rescale": "l1", "then": "ties"}),
        ({"merge_method": "breadcrumbs", "models": models("A", "B", weight=1.0, density=0.4, gamma=0.05)},
         "breadcrumbs", {"density": 0.4, "gamma": 0.05, "scale": 1.0}),
        ({"merge_method": "model_stock", "models": models("A", "B")}, "model_stock", {}),
    ],
)  # fmt: skip
def test_a_file_means_what_the_options_mean(
    tmp_path: Path, document: dict[str, Any], method: str, settings: dict[str, Any]
) -> None:
    base, (a, b) = family(tmp_path, 2)
    found = run(tmp_path, {**document, "base_model": "BASE", "dtype": "float32"})
    merge([str(a), str(b)], str(base), method=method, settings=settings, out=tmp_path / "by_hand")
    for name, value in read(tmp_path / "by_hand").items():
        np.testing.assert_allclose(found[name], value, atol=1e-7, err_msg=name)


def test_slerp_goes_from_the_base_with_a_gradient_by_depth_and_filters_by_name(tmp_path: Path) -> None:
    family(tmp_path, 2)
    t = [{"filter": "mlp", "value": [0.0, 0.5, 1.0]}, {"value": 0.0}]
    document = {"merge_method": "slerp", "base_model": "A_MODEL", "parameters": {"t": t}}
    found = run(tmp_path, {**document, "models": models("B", "A")})
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    np.testing.assert_array_equal(found[UP.format(0)], a[UP.format(0)])
    np.testing.assert_array_equal(found[UP.format(2)], b[UP.format(2)])
    np.testing.assert_allclose(found[UP.format(1)], (a[UP.format(1)] + b[UP.format(1)]) / 2, atol=1e-3)
    np.testing.assert_array_equal(found["model.norm.weight"], a["model.norm.weight"])


def test_layers_are_stacked_and_the_config_counts_them(tmp_path: Path) -> None:
    family(tmp_path, 2)
    ranges = [("A_MODEL", [0, 2]), ("A_MODEL", [1, 3]), ("B_MODEL", [0, 1])]
    slices = [{"sources": [{"model": model, "layer_range": layers}]} for model, layers in ranges]
    found = run(tmp_path, {"merge_method": "passthrough", "slices": slices})
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    for layer, (source, old) in enumerate([(a, 0), (a, 1), (a, 1), (a, 2), (b, 0)]):
        np.testing.assert_array_equal(found[UP.format(layer)], source[UP.format(old)])
    np.testing.assert_array_equal(found["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    np.testing.assert_array_equal(found["model.norm.weight"], b["model.norm.weight"])
    assert len(found) == len(a) + 2 * 2
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 5


def test_slices_of_two_models_are_merged_layer_by_layer(tmp_path: Path) -> None:
    family(tmp_path, 2)
    sources = [{"model": name, "layer_range": [1, 3], "parameters": {"weight": w}}
               for name, w in (("A_MODEL", [1.0, 0.0]), ("B_MODEL", [0.0, 1.0]))]  # fmt: skip
    found = run(tmp_path, {"merge_method": "linear", "slices": [{"sources": sources}]})
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    np.testing.assert_array_equal(found[UP.format(0)], a[UP.format(1)])
    np.testing.assert_array_equal(found[UP.format(1)], b[UP.format(2)])


def test_a_filter_of_a_source_names_tensors_as_the_source_does(tmp_path: Path) -> None:
    family(tmp_path, 2)
    weight = [{"filter": "layers.1", "value": 3.0}, {"value": 1.0}]
    sources = [{"model": "A_MODEL", "layer_range": [0, 2], "parameters": {"weight": 1.0}},
               {"model": "B_MODEL", "layer_range": [1, 3], "parameters": {"weight": weight}}]  # fmt: skip
    found = run(tmp_path, {"merge_method": "linear", "slices": [{"sources": sources}]})
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    np.testing.assert_allclose(found[UP.format(0)], (a[UP.format(0)] + 3 * b[UP.format(1)]) / 4, atol=1e-6)
    np.testing.assert_allclose(found[UP.format(1)], (a[UP.format(1)] + b[UP.format(2)]) / 2, atol=1e-6)


@pytest.mark.parametrize(("method", "settings"), [("slerp", {"t": 0.3}), ("karcher", {"iterations": 10})])
def test_a_base_that_is_not_listed_is_one_of_the_models_of_slerp_and_karcher(
    tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    base, (a, _) = family(tmp_path, 2)
    parameters = {"t": 0.3} if method == "slerp" else {}
    document = {"merge_method": method, "base_model": "BASE", "models": models("A"), "parameters": parameters}
    found = run(tmp_path, document)
    merge([str(base), str(a)], method=method, settings=settings, out=tmp_path / "by_hand")
    for name, value in read(tmp_path / "by_hand").items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(0, 1))
def test_a_gradient_is_a_straight_line_between_its_points(points: list[float], depth: float) -> None:
    wanted = np.interp(depth * (len(points) - 1), range(len(points)), points)
    assert evaluate(points, "w", depth) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"modules": {}}, '"modules" is not supported'),
        ({"tokenizer": {}}, '"tokenizer" is not supported'),
        ({"chat_template": "auto"}, '"chat_template" is not supported'),
        ({"tokenizer_source": "union"}, '"union" is not supported'),
        ({"merge_method": "della"}, 'merge_method is "della"'),
        ({"parameters": {"epsilon": 0.1}}, 'parameter "epsilon" of ties is not supported'),
        ({"parameters": {"rescale": True}}, 'parameter "rescale" of ties is not supported'),
        ({"parameters": {"density": "much"}}, "density"),
        ({"parameters": {"density": [{"filter": "mlp"}]}}, 'parameter "density"'),
        ({"slices": []}, "models or slices"),
        ({"models": [{"model": "A_MODEL", "weight": 1}]}, '"weight" is not supported'),
        ({"models": "A_MODEL"}, "no list"),
        ({"dtype": 32}, "dtype is 32"),
        ({"dtype": "int4"}, 'dtype is "int4"'),
    ],
)
def test_what_is_not_supported_is_named_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    family(tmp_path, 2)
    document = {"merge_method": "ties", "base_model": "BASE", "models": models("A", "B", weight=1.0), **change}
    with pytest.raises(KeepsError) as caught:
        run(tmp_path, document)
    assert named in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    family(tmp_path, 1)
    slices = [{"sources": [{"model": "A_MODEL", "layer_range": [2, 4]}]}]
    with pytest.raises(KeepsError, match="has 3 layers"):
        run(tmp_path, {"merge_method": "passthrough", "slices": slices})
