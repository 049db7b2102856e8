"""Transposed layers seen as plain ones: the same numbers at the same place, the same model, and all given back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pico_models import pico
from torch import nn

from keeps.errors import TargetError
from keeps.models import LanguageModel
from keeps.models.locate import is_transposed
from keeps.models.plain_layers import LinearView, is_view, on_plain_layers, own_layout, plain_layers
from keeps.models.targets import find_targets


@pytest.fixture
def gpt2(smollm2: LanguageModel) -> LanguageModel:
    return pico("gpt2", smollm2.tokenizer)


def layer_of(model: LanguageModel, name: str) -> Any:
    return model.model.get_submodule(name)


def test_the_model_says_the_same_and_comes_back_as_it_was(gpt2: LanguageModel) -> None:
    ids, module = torch.arange(3, 40)[None], gpt2.model
    layers = {name: layer for name, layer in module.named_modules() if is_transposed(layer)}
    pointers = {name: value.data_ptr() for name, value in module.named_parameters()}
    assert len(layers) == 12
    with torch.no_grad():
        before = module(ids).logits
        with plain_layers(module):
            assert is_view(module)
            assert not any(is_transposed(layer) for layer in module.modules())
            assert list(find_targets(module)) == list(layers)
            assert torch.allclose(module(ids).logits, before, atol=1e-5)
            with plain_layers(module):  # a second one finds nothing to do
                assert is_view(module)
            assert is_view(module)
        assert not is_view(module)
        assert torch.equal(module(ids).logits, before)
    assert all(module.get_submodule(name) is layer for name, layer in layers.items())
    assert {name: value.data_ptr() for name, value in module.named_parameters()} == pointers
    with pytest.raises(TargetError, match="transposed"):
        find_targets(module)


def test_what_is_written_to_one_is_written_to_the_other(gpt2: LanguageModel) -> None:
    layer = layer_of(gpt2, "transformer.h.1.mlp.c_fc")
    before = layer.weight.detach().clone()
    with plain_layers(gpt2.model):
        view = layer_of(gpt2, "transformer.h.1.mlp.c_fc")
        assert (view.weight.shape, view.bias is layer.bias) == ((32, 32), True)
        with torch.no_grad():
            view.weight[3, 5] += 1.0  # output 3, input 5
        assert layer.weight[5, 3] == before[5, 3] + 1
        view.weight = nn.Parameter(view.weight.detach() * 2)  # another tensor in its place is copied at the end
    changed = before.clone()
    changed[5, 3] += 1.0
    assert torch.equal(layer.weight, 2 * changed)


def test_a_gradient_belongs_to_the_view_and_the_flag_to_both(gpt2: LanguageModel) -> None:
    gpt2.model.requires_grad_(False)
    layer = layer_of(gpt2, "transformer.h.0.attn.c_attn")
    layer.weight.requires_grad_(True)
    ids = torch.arange(3, 20)[None]
    gpt2.model(ids, labels=ids).loss.backward()
    with plain_layers(gpt2.model):
        view = layer_of(gpt2, "transformer.h.0.attn.c_attn")
        gpt2.model(ids, labels=ids).loss.backward()
        assert torch.allclose(view.weight.grad.T, layer.weight.grad, atol=1e-6)
        assert not layer_of(gpt2, "transformer.h.0.mlp.c_proj").weight.requires_grad


def test_a_fingerprint_and_a_file_are_those_of_the_own_layout(gpt2: LanguageModel, tmp_path: Any) -> None:
    from keeps.models.checkpoint_files import save_checkpoint

    before = gpt2.fingerprint
    with plain_layers(gpt2.model):
        assert gpt2.fingerprint == before
        save_checkpoint(gpt2.model, gpt2.tokenizer, tmp_path / "saved")
        with own_layout(gpt2.model):
            assert not is_view(gpt2.model)
        assert is_view(gpt2.model)
    assert LanguageModel.load(tmp_path / "saved").fingerprint == before


def test_an_error_inside_gives_the_layers_back(gpt2: LanguageModel) -> None:
    class Method:
        @on_plain_layers
        def __call__(self, model: LanguageModel, *, number: int) -> int:
            assert is_view(model.model)
            return 12 // number

    assert Method()(gpt2, number=4) == 3
    with pytest.raises(ZeroDivisionError):
        Method()(gpt2, number=0)
    assert not is_view(gpt2.model)


def test_a_model_of_plain_layers_is_left_alone(smollm2: LanguageModel) -> None:
    llama = pico("llama", smollm2.tokenizer)
    with plain_layers(llama.model):
        assert not any(isinstance(layer, LinearView) for layer in llama.model.modules())
