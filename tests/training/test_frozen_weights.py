from __future__ import annotations

import pytest
import torch
from torch import nn

from keeps.training.frozen_weights import frozen_weights_in


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4, bias=False))
    return module.requires_grad_(False)


def test_products_are_those_of_mixed_precision_bit_for_bit() -> None:
    module, x = layers(), torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        plain = module(x)
        with frozen_weights_in(module, "bfloat16"):
            once = module(x)
    assert once.dtype == plain.dtype == torch.bfloat16
    assert torch.equal(once, plain)


def test_gradients_that_pass_through_are_the_same_bits() -> None:
    module, found = layers(), []
    for precision in ("float32", "bfloat16"):
        x = torch.ones(5, 6, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16), frozen_weights_in(module, precision):
            module(x).float().square().sum().backward()
        found.append(x.grad)
    assert found[0].any()
    assert torch.equal(found[0], found[1])


def test_outside_mixed_precision_the_weights_themselves_multiply() -> None:
    module, x = layers(), torch.randn(5, 6)
    plain = module(x)
    with frozen_weights_in(module, "bfloat16"):
        assert torch.equal(module(x), plain)


def test_weights_stay_and_the_layers_are_given_back_after_an_error() -> None:
    module = layers()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ZeroDivisionError), frozen_weights_in(module, "bfloat16"):
        module[0].forward(1 / 0)
    assert all("forward" not in vars(layer) for layer in module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_trained_layers_and_other_kinds_are_left_alone() -> None:
    class Doubled(nn.Linear):
        pass

    module = nn.Sequential(nn.Linear(4, 4), Doubled(4, 4).requires_grad_(False), nn.LayerNorm(4))
    with frozen_weights_in(module, "bfloat16"):
        assert all("forward" not in vars(layer) for layer in module)


def test_a_layer_whose_forward_pass_was_replaced_keeps_the_replacement() -> None:
    module = nn.Sequential(nn.Linear(6, 6)).requires_grad_(False)
    module[0].forward = torch.zeros_like
    with torch.autocast("cpu", torch.bfloat16), frozen_weights_in(module, "bfloat16"):
        assert not module(torch.randn(5, 6)).any()
    assert vars(module[0])["forward"] is torch.zeros_like
