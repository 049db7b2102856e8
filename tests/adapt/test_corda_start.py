"""Where CorDA starts: the layers of a model decomposed, against torch's SVD and against peft's own CorDA."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from keeps.adapt.corda import CorDASettings, adapter_starts, init_adapter, oriented_spectrum
from keeps.errors import SettingsError, StatisticsError, TargetError, UnknownNameError
from keeps.models.adapters import lora_layers
from keeps.models.covariances import collect_covariance, token_batches
from keeps.models.targets import find_targets
from keeps.numerics.covariance import Covariance

RANK = 3


@pytest.fixture
def llama(bare_llama: Callable[..., Any]) -> Any:
    return bare_llama()


@pytest.fixture
def covariances(llama: Any) -> dict[str, Covariance]:
    generator = torch.Generator().manual_seed(0)
    samples = [torch.randint(0, 61, (12,), generator=generator).tolist() for _ in range(20)]
    return collect_covariance(llama, token_batches(samples, pad_token_id=0))


def products(wrapped: Any) -> dict[str, Tensor]:
    """s B A of every layer, float64."""
    return {name: wrapped.scaling[name] * b.double() @ a.double() for name, (a, b) in wrapped.factors().items()}


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in find_targets(model).items()}


# --- without a context: PiSSA and MiLoRA ------------------------------------------------------


@pytest.mark.parametrize(("mode", "alpha"), [("ipm", 3.0), ("kpm", 3.0), ("ipm", 12.0)])
def test_plain_is_pissa_for_ipm_and_milora_for_kpm(llama: Any, mode: str, alpha: float) -> None:
    """PiSSA, arXiv:2404.02948, and MiLoRA, arXiv:2406.09044, from a full SVD of W."""
    weights, scaling = weights_of(llama), alpha / RANK
    wrapped = init_adapter(llama, r=RANK, alpha=alpha, method="plain", mode=mode)
    layers = lora_layers(wrapped.peft_model)
    for name, (a, b) in wrapped.factors().items():
        u, s, vt = torch.linalg.svd(weights[name].double(), full_matrices=False)
        part = slice(0, RANK) if mode == "ipm" else slice(-RANK, None)
        expected = u[:, part] @ torch.diag(s[part]) @ vt[part]
        size = weights[name].abs().max()
        assert (products(wrapped)[name] - expected).abs().max() < 1e-5 * size
        assert (layers[name].base_layer.weight - (weights[name] - expected)).abs().max() < 1e-5 * size
        root = (s[part] / scaling).sqrt()  # each singular vector has a sign of its own
        torch.testing.assert_close(b.double().abs(), (u[:, part] * root).abs(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(a.double().abs(), (root[:, None] * vt[part]).abs(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_a_context_without_direction_is_no_context(llama: Any, mode: str) -> None:
    white = {
        name: Covariance(5 * torch.eye(layer.in_features), n_tokens=9, n_samples=2)
        for name, layer in find_targets(llama).items()
    }
    wrapped = init_adapter(llama, r=RANK, mode=mode, covariance=white)
    oriented = products(wrapped)
    wrapped.unwrap()
    plain = products(init_adapter(llama, r=RANK, method="plain", mode=mode))
    for name, product in plain.items():
        torch.testing.assert_close(oriented[name], product, rtol=0, atol=1e-5)


def test_a_context_with_directions_is_felt(llama: Any, covariances: dict[str, Covariance]) -> None:
    wrapped = init_adapter(llama, r=RANK, covariance=covariances)
    oriented = products(wrapped)
    wrapped.unwrap()
    plain = products(init_adapter(llama, r=RANK, method="plain"))
    assert all(torch.linalg.norm(oriented[name] - plain[name]) > 0.1 * torch.linalg.norm(plain[name]) for name in plain)


# --- options ----------------------------------------------------------------------------------


def test_balance_gives_equal_norms_and_the_same_product(llama: Any, covariances: dict[str, Covariance]) -> None:
    found = []
    for balance in (False, True):
        wrapped = init_adapter(llama, r=RANK, covariance=covariances, balance=balance)
        found.append((products(wrapped), wrapped.factors()))
        wrapped.unwrap()
    for name, (a, b) in found[1][1].items():
        assert float(a.norm()) == pytest.approx(float(b.norm()), rel=1e-4)
        torch.testing.assert_close(found[1][0][name], found[0][0][name], rtol=0, atol=1e-5)
    assert any(float(a.norm() / b.norm()) > 1.5 or float(b.norm() / a.norm()) > 1.5 for a, b in found[0][1].values())


def test_rank_pattern_targets_and_dropout_reach_the_layers(llama: Any, covariances: dict[str, Covariance]) -> None:
    targets = ("q_proj", "down_proj")
    expected = {name: 5 if name.endswith("q_proj") else 2 for name in find_targets(llama, targets)}
    wrapped = init_adapter(llama, targets, 2, covariance=covariances, rank_pattern={"q_proj": 5}, dropout=0.25)
    assert {name: a.shape[0] for name, (a, _) in wrapped.factors().items()} == expected
    drops = [module.p for module in wrapped.peft_model.modules() if isinstance(module, nn.Dropout)]
    assert set(drops) == {0.25}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"covariance": None}, StatisticsError, r"no covariance \(model\.layers\.0\.self_attn\.q_proj\)"),
        ({"method": "pissa"}, SettingsError, 'choose "corda" or "plain"'),
        ({"mode": "kmp"}, SettingsError, 'did you mean "kpm"'),
        ({"r": 13}, TargetError, "rank 13 does not fit"),
        ({"targets": ("qproj",)}, TargetError, 'did you mean "q_proj"'),
        ({"balanced": True}, UnknownNameError, 'did you mean "balance"'),
        ({"epochs": 3}, UnknownNameError, 'unknown option "epochs"'),  # of training: nothing is trained here
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_the_model_alone(
    llama: Any, covariances: dict[str, Covariance], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    with pytest.raises(error, match=words):
        init_adapter(llama, **{"covariance": covariances, "r": RANK, **options})
    assert llama.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in llama.state_dict().items())


@pytest.mark.parametrize(
    ("total", "words"),
    [
        (torch.eye(7), "has 7 features, the layer 24"),
        (torch.full((24, 24), torch.nan), "NaN"),
        (torch.zeros(24, 24), "all zero"),
    ],
)
def test_a_covariance_that_is_none_of_this_layer_is_refused(
    llama: Any, covariances: dict[str, Covariance], total: Tensor, words: str
) -> None:
    covariances["model.layers.1.self_attn.o_proj"] = Covariance(total, 3, 1, "model.layers.1.self_attn.o_proj")
    with pytest.raises(StatisticsError, match=words):
        init_adapter(llama, r=RANK, covariance=covariances)


def test_a_quantised_weight_is_refused(llama: Any, covariances: dict[str, Covariance]) -> None:
    layer = llama.get_submodule("model.layers.0.mlp.up_proj")
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    for method in ("corda", "plain"):
        with pytest.raises(TargetError, match=r"quantised .*int8.*up_proj"):
            init_adapter(llama, r=RANK, method=method, covariance=covariances)


# --- the spectrum -----------------------------------------------------------------------------


def test_the_oriented_spectrum_is_descending_and_holds_what_both_modes_choose(
    llama: Any, covariances: dict[str, Covariance]
) -> None:
    report = oriented_spectrum(llama, covariances)
    starts = {mode: adapter_starts(llama, covariances, CorDASettings(rank=RANK, mode=mode)) for mode in ("ipm", "kpm")}
    assert report.keys() == find_targets(llama).keys()
    for name, layer in find_targets(llama).items():
        values, delta = report[name]["singular_values"], report[name]["damping"]
        assert values.shape == (min(layer.in_features, layer.out_features),)
        assert (values.diff() <= 0).all()
        c = covariances[name].matrix().double()
        oriented = layer.weight.detach().double() @ (c + delta * c.diagonal().mean() * torch.eye(len(c)).double())
        torch.testing.assert_close(values, torch.linalg.svdvals(oriented), rtol=1e-6, atol=0)
        torch.testing.assert_close(starts["ipm"][name].values, values[:RANK], rtol=1e-6, atol=0)
        torch.testing.assert_close(starts["kpm"][name].values, values[-RANK:], rtol=1e-4, atol=0)
        assert delta >= 0.01
        assert report[name]["inverse_error"] < 0.05


# --- against the official code ----------------------------------------------------------------


@pytest.fixture(scope="module")
def two_blocks(smollm2: Any) -> Any:
    """The first two blocks of the real model, its embeddings shared with it."""
    from transformers import LlamaForCausalLM

    config = copy.deepcopy(smollm2.model.config)
    config.num_hidden_layers = 2
    with torch.device("meta"):
        small = LlamaForCausalLM(config)
    kept = {name: value for name, value in smollm2.model.state_dict().items() if name in small.state_dict()}
    small.load_state_dict({name: value.clone() for name, value in kept.items()}, assign=True)
    small.model.rotary_emb = copy.deepcopy(smollm2.model.model.rotary_emb)
    small.tie_weights()
    return small.eval()


def samples_of(tokenizer: Any, count: int = 32) -> list[list[int]]:
    from keeps.data.select import load_records

    passages = load_records("text").passages()[:count]
    return [tokenizer(passage.text)["input_ids"] for passage in passages]


def products_of_peft(
    model: Any, targets: list[str], samples: list[list[int]], mode: str, rank: int
) -> dict[str, Tensor]:
    """s B A of peft's own CorDA, one sample at a time; the model gets its weights back."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    originals = {name: layer.weight.detach().clone() for name, layer in find_targets(model, targets).items()}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=targets,
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method=mode),  # type: ignore[arg-type]
    )

    def read_samples() -> None:
        for sample in samples:
            model(torch.tensor([sample]))

    preprocess_corda(model, config, run_model=read_samples)
    peft_model: Any = get_peft_model(model, config)
    base = peft_model.get_base_model()
    found = {}
    for name in targets:
        layer = base.get_submodule(name)
        found[name] = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach()
    peft_model.unload()
    with torch.no_grad():
        for name, weight in originals.items():
            model.get_submodule(name).weight.data = weight
    return found


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_the_start_equals_that_of_pefts_own_corda(two_blocks: Any, smollm2: Any, mode: str) -> None:
    """On real weights and real inputs: the same samples, its normalisation, its float32 damping loop.

    peft takes the SVD in float32, where the smallest singular values of W C' drown: its smallest
    components are compared more loosely than its largest. B A does not depend on how C is averaged.
    """
    targets = ["model.layers.1.self_attn.k_proj", "model.layers.1.mlp.gate_proj"]  # wide and tall
    samples, rank = samples_of(smollm2.tokenizer), 16
    batches = token_batches(samples, pad_token_id=0)
    covariances = collect_covariance(two_blocks, batches, targets, "max")
    settings = CorDASettings(rank=rank, mode=mode, targets=tuple(targets), normalise="max", damping="float32")
    starts = adapter_starts(two_blocks, covariances, settings)
    theirs = products_of_peft(two_blocks, targets, samples, mode, rank)
    for name in targets:
        ours = (starts[name].b @ starts[name].a).float()
        error = torch.linalg.norm(ours - theirs[name]) / torch.linalg.norm(theirs[name])
        assert error < (1e-2 if mode == "ipm" else 3e-2), (name, float(error))
