"""Losses of names and values against a plain forward pass over whole documents, and the ratio of a trained toy."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from keeps.data.biographies import VALUES, BioS
from keeps.data.biography_tokens import FIRST_MARKER, TokenBiographies, with_domain
from keeps.data.synthetic_ids import BioD
from keeps.errors import SettingsError
from keeps.models import LanguageModel
from keeps.models.untrained import ARCHITECTURES, Size, untrained
from keeps.numerics.capacity import LN2
from keeps.probe.capacity_report import answer_accuracy, capacity_report, size_of, token_capacity
from keeps.training.scratch import train_windows
from keeps.training.settings import TrainingSettings

SMALL = TokenBiographies(12, seed=1, name_sizes=(3, 4, 5), attribute_sizes=(6, 5))


def direct_losses(model: LanguageModel, text: str, prefix: str = "") -> tuple[list[float], list[tuple[int, int]]]:
    """The loss of each token of ``text`` behind the end-of-text token, and its characters."""
    encoded = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    before = [model.tokenizer.eos_token_id, *model.tokenizer(prefix, add_special_tokens=False).input_ids]
    ids = torch.tensor([[*before, *encoded.input_ids]])
    with torch.inference_mode():
        losses = functional.cross_entropy(model.model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    return losses[len(before) - 1 :].tolist(), encoded["offset_mapping"]


@pytest.mark.parametrize("prefix", ["", "<a>"])
def test_losses_of_biographies_are_those_of_a_plain_forward_pass(tiny_llama: LanguageModel, prefix: str) -> None:
    corpus = BioS(3, seed=4)
    report = capacity_report(tiny_llama, corpus, prefix=prefix)
    p1 = p2 = 0.0
    for person in corpus.persons:
        rendering = corpus.rendering(person, -1)
        losses, offsets = direct_losses(tiny_llama, rendering.text, prefix)
        for name, (start, end) in rendering.spans.items():
            own = sum(
                x for x, (a, b) in zip(losses, offsets, strict=True) if any(start <= c < end for c in range(a, b))
            )
            p1 += own / 3 if name == "name" else 0
            p2 += own / 3 if name in VALUES else 0
    assert report.losses.p1 == pytest.approx(p1, rel=1e-4)
    assert report.losses.p2 == pytest.approx(p2, rel=1e-4)
    assert report.ratio == 0  # random weights know nobody
    assert report.unclamped < 0 < report.most


def test_losses_of_identifiers_are_means_over_attributes(tiny_llama: LanguageModel) -> None:
    corpus = BioD(2, k=2, c=2, d=5, length=3, alphabet=26, seed=4)
    report = capacity_report(tiny_llama, corpus)
    firsts, values = [], []
    for person in corpus.persons:
        rendering = corpus.rendering(person, -1)
        losses, offsets = direct_losses(tiny_llama, rendering.text)
        for name, (start, end) in rendering.spans.items():
            own = sum(x for x, (a, b) in zip(losses, offsets, strict=True) if a < end and b > start)
            firsts += [own] if name.startswith("first") else []
            values += [own] if name.startswith("id") else []
    assert report.losses.p2 == pytest.approx(sum(values) / 4, rel=1e-4)
    assert report.losses.p3 == pytest.approx(sum(firsts) / 4, rel=1e-4)
    assert set(report.to_mapping()) >= {"p3", "bits_diversity", "R", "R_max"}


def test_losses_of_whole_words_are_those_of_a_plain_forward_pass() -> None:
    model = untrained("gpt2", Size(SMALL.vocabulary, SMALL.longest), seed=0)
    for domain in (False, True):
        report = token_capacity(model, SMALL, seed=7, domain=domain)
        documents = SMALL.documents(torch.Generator().manual_seed(7))
        documents = with_domain(documents) if domain else documents
        with torch.inference_mode():
            logits = model(input_ids=documents[:, :-1]).logits
        losses = functional.cross_entropy(logits.transpose(1, 2), documents[:, 1:], reduction="none")[:, domain:]
        values = documents[:, 1 + domain :] >= FIRST_MARKER + 2 + 12  # neither markers nor names
        assert report.losses.p1 == pytest.approx(float(losses[:, :3].sum(1).mean()), rel=1e-4)
        assert report.losses.p2 == pytest.approx(float((losses * values).sum(1).mean()), rel=1e-4)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_learns_a_small_corpus_and_none_is_credited_with_more_than_all(architecture: str) -> None:
    model = untrained(architecture, Size(SMALL.vocabulary, SMALL.longest, experts=2), seed=0)
    before = token_capacity(model, SMALL, seed=5).ratio
    settings = TrainingSettings(learning_rate=1e-2, beta2=0.98, warmup=0.1)
    losses = train_windows(model, SMALL.batches(120, 12, seed=3), settings, 120)
    after = token_capacity(model, SMALL, seed=5)
    assert losses[-1] < losses[0] / 2
    assert before < 0.3 * after.ratio
    assert 0.8 * after.most < after.ratio <= after.most
    assert (
        answer_accuracy(untrained("gpt2", Size(SMALL.vocabulary, SMALL.longest), seed=0), SMALL, torch.arange(12)) < 0.9
    )


def test_sizes_of_corpora_are_those_of_their_lists() -> None:
    assert size_of(SMALL).most == pytest.approx(12 * (math.log(60 / 12) / LN2 + math.log2(30)))
    assert size_of(BioS(10)).most == pytest.approx(10 * (math.log2(16_000_000) + 47.5916), abs=1e-2)
    assert size_of(BioD(10, k=2, c=3, d=4, length=5, alphabet=6)).most == pytest.approx(
        10 * math.log2(16_000_000) + 10 * 2 * 3 * 2 + 2 * 4 * (5 * math.log2(6) - 2)
    )


def test_a_tokenizer_that_does_not_say_where_tokens_stand_is_refused(tiny_llama: LanguageModel) -> None:
    class Slow:
        is_fast = False

    tiny_llama.tokenizer = Slow()
    with pytest.raises(SettingsError, match="where its tokens stand"):
        capacity_report(tiny_llama, BioS(1))
