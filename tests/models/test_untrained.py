"""Random models of four architectures, parameters counted once, and weights that come back after rounding."""

from __future__ import annotations

import pytest
import torch

from keeps.errors import SettingsError, TargetError, UnknownNameError
from keeps.models.parameters import count_parameters
from keeps.models.rounding import rounded
from keeps.models.untrained import ARCHITECTURES, Size, untrained
from keeps.numerics.quantisation import Quantiser

SIZE = Size(vocabulary=50, positions=12, width=16, layers=2, heads=2, experts=4)


def test_gpt2_has_the_parameters_that_its_shapes_add_up_to() -> None:
    counted = count_parameters(untrained("gpt2", SIZE, seed=0))
    layer = 12 * 16**2 + 13 * 16
    assert counted.embeddings == 16 * (50 + 12)
    assert counted.total == counted.embeddings + 2 * layer + 2 * 16
    assert counted.body == 2 * layer + 2 * 16


def test_tied_embeddings_count_once_untied_ones_twice_and_every_expert() -> None:
    assert count_parameters(untrained("gpt2-rotary", SIZE, seed=0)).embeddings == 16 * 50
    assert count_parameters(untrained("llama", SIZE, seed=0)).embeddings == 2 * 16 * 50
    few, many = (count_parameters(untrained("moe", Size(50, 12, experts=n), seed=0)).body for n in (2, 4))
    assert many - few == 2 * 2 * (3 * 16 * 16 + 16)  # layers, experts, gated MLP and a row of the router


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_same_seed_gives_the_same_model_and_draws_nothing_from_others(architecture: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = (untrained(architecture, SIZE, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        logits = [model(input_ids=ids).logits for model in (one, again, other)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_rotary_positions_turn_all_dimensions_of_a_head() -> None:
    model = untrained("gpt2-rotary", SIZE, seed=0)
    assert len(model.get_buffer("gpt_neox.rotary_emb.inv_freq")) == 16 // 2 // 2


@pytest.mark.parametrize("wrong", [{"width": 0}, {"width": 15}, {"heads": 16}])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError):
        Size(**{"vocabulary": 50, "positions": 12, **wrong})


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(UnknownNameError, match='"gpt3"'):
        untrained("gpt3", SIZE, seed=0)


def test_rounded_matrices_take_few_values_and_come_back_after_an_error() -> None:
    model = untrained("gpt2", SIZE, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), rounded(model, Quantiser(4, "uniform_absmax", 16)) as count:  # noqa: PT012
        weight = model.get_parameter("transformer.h.0.mlp.c_fc.weight")
        assert all(len(set(block)) <= 16 for block in weight.reshape(-1, 16).tolist())
        scale = before["transformer.h.0.mlp.c_fc.weight"].abs().reshape(-1, 16).amax(1)
        error = (weight - before["transformer.h.0.mlp.c_fc.weight"]).abs().reshape(-1, 16).amax(1)
        assert bool((error <= scale / 15 * 1.0001).all())  # half a step of 2 / 15
        assert torch.equal(model.get_parameter("transformer.ln_f.weight"), before["transformer.ln_f.weight"])
        assert count == sum(p.numel() for p in model.parameters() if p.ndim == 2)
        raise RuntimeError("stop")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_matrices_cannot_be_rounded() -> None:
    with pytest.raises(TargetError, match="no matrix"), rounded(torch.nn.LayerNorm(4), Quantiser(4)):
        pass
