"""Targets in the model's own tokens, the selection network, and the loss against the formula written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers_of_texts import TEXTS, trained

from keeps.models import LanguageModel
from keeps.models.logit_dumps import Piece, dump_logits, piece_tokens
from keeps.models.token_alignment import align_tokens
from keeps.models.token_bytes import TokenBytes
from keeps.models.vocabulary_map import VocabularyMap
from keeps.numerics.source_fusion import feedback, selected_weights
from keeps.training.batches import TokenizedExample, collate
from keeps.training.source_fusion import (
    SELECTOR,
    FusionLoss,
    FusionRule,
    Matches,
    SelectionNetwork,
    SourceReading,
    Targets,
    aligned_targets,
    selecting,
)

PIECES = [Piece(text) for text in TEXTS[:3]]


def made(bare_llama: Any, kind: str, seed: int, size: int = 400) -> LanguageModel:
    tokenizer = trained(kind, size)
    model = bare_llama(seed=seed, vocab_size=len(tokenizer), max_position_embeddings=128)
    return LanguageModel(model, tokenizer, name=f"{kind}{seed}")


def reading(model: LanguageModel, target: TokenBytes, mapping: str = "mined", top_k: int = 6) -> SourceReading:
    tokens = TokenBytes(model.tokenizer)
    vocabulary = VocabularyMap.build(tokens, target, mapping)
    return SourceReading(model.name, dump_logits(model, PIECES, top_k=top_k), tokens, vocabulary)


def targets_of(
    target: LanguageModel, readings: list[SourceReading], **options: Any
) -> tuple[dict[tuple[int, ...], Targets], dict[str, Matches]]:
    tokens = TokenBytes(target.tokenizer)
    matches = {each.name: Matches() for each in readings}
    found = {}
    for number, piece in enumerate(PIECES):
        ids = piece_tokens(target, tokens, piece)
        found[tuple(ids)] = aligned_targets(piece.text, number, ids, readings, tokens, matches, **options)
    return found, matches


def test_a_source_of_the_same_tokenizer_is_heard_everywhere_as_it_spoke(bare_llama: Any) -> None:
    target, source = made(bare_llama, "bytes", 0), made(bare_llama, "bytes", 1)
    tokens = TokenBytes(target.tokenizer)
    given = reading(source, tokens)
    found, matches = targets_of(target, [given])
    assert matches[source.name].share == 1
    for number, (ids, targets) in enumerate(found.items()):
        with torch.no_grad():
            logits = source.model(torch.tensor([ids])).logits[0, :-1]
        best = logits.topk(6)
        for position in range(len(ids) - 1):
            spoken = dict(zip(targets.ids[position, 0].tolist(), targets.p[position, 0].tolist(), strict=True))
            wanted = {
                token: p
                for token, p in zip(
                    best.indices[position].tolist(), best.values[position].softmax(-1).tolist(), strict=True
                )
                if token not in tokens.special or token in tokens.roles().values()
            }
            total = sum(wanted.values())
            assert {t: p for t, p in spoken.items() if p > 0} == pytest.approx(
                {t: p / total for t, p in wanted.items()}, abs=1e-4
            )
        assert float(targets.losses[0]) == pytest.approx(float(given.dump.losses[number]))


@pytest.mark.parametrize("alignment", ["bytes", "dtw"])
def test_where_tokens_differ_the_next_token_is_the_target_and_elsewhere_the_source_is_heard(
    bare_llama: Any, alignment: str
) -> None:
    target, source = made(bare_llama, "bytes", 0), made(bare_llama, "sentencepiece", 1, 300)
    ours, theirs = TokenBytes(target.tokenizer), TokenBytes(source.tokenizer)
    given = reading(source, ours)
    found, matches = targets_of(target, [given], alignment=alignment)
    heard = positions = 0
    for number, (ids, targets) in enumerate(found.items()):
        own = given.dump.tokens[given.dump.rows(number)].tolist()
        beside = align_tokens(PIECES[number].text, own, ids, theirs, ours, alignment)
        for position in range(len(ids) - 1):
            rows = beside[position]
            same = len(rows) == 1 and (
                given.vocabulary.targets[own[rows[0]]] == ids[position]
                or (theirs.bare(own[rows[0]]) == ours.bare(ids[position]) != b"")
            )
            positions, heard = positions + 1, heard + same
            p, tokens = targets.p[position, 0], targets.ids[position, 0]
            assert float(p.sum()) == pytest.approx(1, abs=1e-5)
            if not same:
                assert int(tokens[p.argmax()]) == ids[position + 1]
                assert float(p.max()) == 1
            else:
                row = given.dump.rows(number).start + rows[0]
                said = given.vocabulary.targets[given.dump.ids[row].numpy()]
                assert set(tokens[p > 0].tolist()) <= set(said.tolist())
    assert 0 < heard < positions
    assert (matches[source.name].positions, matches[source.name].matched) == (positions, heard)


def test_where_nothing_is_known_the_base_is_asked_and_without_one_the_text(bare_llama: Any) -> None:
    target, source = made(bare_llama, "bytes", 0), made(bare_llama, "bytes", 1)
    tokens = TokenBytes(target.tokenizer)
    deaf, base = reading(source, tokens), reading(target, tokens)
    nothing = deaf.vocabulary.targets.copy()
    nothing[deaf.dump.ids.unique().numpy()] = -1
    deaf = SourceReading(
        deaf.name, deaf.dump, deaf.tokens, VocabularyMap("exact", "", "", nothing, deaf.vocabulary.exact)
    )
    with_base, matches = targets_of(target, [deaf, base], base=1)
    without, _ = targets_of(target, [deaf, base])
    assert matches[deaf.name].unknown == matches[deaf.name].matched > 0
    assert matches[deaf.name].share == 0
    seen = 0
    for ids, targets in with_base.items():
        plain = without[ids]
        unknown = [n for n in range(len(ids) - 1) if not torch.equal(targets.p[n, 0], plain.p[n, 0])]
        seen += len(unknown)
        for position in unknown:
            assert torch.equal(targets.p[position, 0], targets.p[position, 1])
            assert torch.equal(targets.ids[position, 0], targets.ids[position, 1])
        assert all(int(plain.ids[n, 0, 0]) == ids[n + 1] and plain.p[n, 0, 0] == 1 for n in range(len(ids) - 1))
    assert seen


def test_the_selection_network_is_the_published_one_whatever_its_rate() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = SelectionNetwork(3)
        torch.manual_seed(0)
        fast = SelectionNetwork(3, rate=50.0)
    sure = torch.rand(4, 3)
    x = sure
    for number, layer in enumerate(plain.layers):
        x = x if number == 0 else torch.nn.functional.gelu(x)
        x = x @ layer.weight.T + layer.bias  # type: ignore[operator]
    assert torch.allclose(plain(sure), x.softmax(-1), atol=1e-6)
    assert torch.allclose(fast(sure), plain(sure), atol=1e-5)
    assert [layer.weight.shape for layer in plain.layers] == [(6, 3), (3, 6), (3, 3)]
    norms: list[float] = []
    for network, rate in ((plain, 0.05), (fast, 0.001)):  # equal steps of Adam in the function's own parameters
        optimiser = torch.optim.Adam(network.parameters(), lr=rate)
        network(sure)[:, 0].sum().backward()
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])))
        optimiser.step()
    assert torch.allclose(fast(sure), plain(sure), atol=1e-3)
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)  # what clips the gradients of the whole model


@pytest.mark.parametrize("strategy", ["adaptive", "min_ce", "avg_ce"])
@pytest.mark.parametrize("chunk", [512, 7])
def test_the_loss_is_the_published_sum(
    bare_llama: Any, strategy: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keeps.training.source_fusion.CHUNK", chunk)
    target, source, other = (made(bare_llama, kind, n) for n, kind in enumerate(("bytes", "bytes", "sentencepiece")))
    tokens = TokenBytes(target.tokenizer)
    targets, _ = targets_of(target, [reading(source, tokens), reading(other, tokens)], remainder="uniform")
    rule = FusionRule(strategy, language_weight=0.7, feedback=0.4, threshold=0.3)
    module: Any = target.model
    batch = collate([TokenizedExample(ids, 1) for ids in targets], 0)
    with selecting(module, 2, rate=10.0, seed=3) as selector:
        found = FusionLoss(module, targets, rule)(batch)
        losses = torch.stack([each.losses for each in targets.values()])
        if strategy == "adaptive":
            weights = selected_weights(selector((-losses).exp()), 0.3)
        elif strategy == "avg_ce":
            weights = (-losses).exp().softmax(-1)
        else:
            weights = torch.nn.functional.one_hot(losses.argmin(-1), 2).float()
        wanted = torch.zeros(())
        for ids, each, w in zip(targets, targets.values(), weights, strict=True):
            log_q = module(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            dense = torch.zeros(len(ids) - 1, 2, log_q.shape[-1]).scatter_add(-1, each.ids, each.p)
            dense += each.rest[..., None] / log_q.shape[-1]
            fused = (w[None, :, None] * dense).sum(1)
            plain = -log_q.gather(-1, torch.tensor(ids[1:])[:, None]).sum()
            wanted = wanted + 0.7 * plain - 0.3 * (fused * log_q).sum()
        if strategy == "adaptive":
            wanted = wanted + 0.4 * feedback(weights) * len(batch.targets)
        assert float(found) == pytest.approx(float(wanted), rel=1e-4)
        found.backward()
        moved = [parameter.grad for parameter in selector.parameters() if parameter.grad is not None]
        assert bool(moved) is (strategy == "adaptive")
    module.zero_grad(set_to_none=True)


def test_the_network_leaves_the_model_as_it_came_even_after_an_error(bare_llama: Any) -> None:
    module = made(bare_llama, "bytes", 0).model
    before = list(module.state_dict())
    seen: list[str] = []

    def interrupted() -> None:
        with selecting(module, 2, rate=1.0, seed=0):
            seen.extend(module.state_dict())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert any(name.startswith(SELECTOR) for name in seen)
    assert list(module.state_dict()) == before


def test_a_batch_without_positions_costs_nothing(bare_llama: Any) -> None:
    module = made(bare_llama, "bytes", 0).model
    idle = collate([TokenizedExample((5, 6, 7), 3)], 0)
    assert float(FusionLoss(module, {}, FusionRule("min_ce"))(idle)) == 0
