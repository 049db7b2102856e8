"""p1, p2 and p3 of a corpus of invented persons, and the capacity ratio of the model that was trained on it.

Every person is read in a text that was never trained on, alone and from the start of a document, so that no other
person stands before it. Losses are summed over the tokens that touch the characters of a name or value; they are
found in the encoded text, not by encoding the value again. No value is the beginning of another one in these
corpora, so what follows a value is not needed to tell where it ends. (Allen-Zhu and Li, arXiv:2404.05405, sections
3 and 4.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from keeps.data.biographies import VALUES, BioS
from keeps.data.biography_tokens import END, PARTS, TokenBiographies, with_domain
from keeps.data.renderings import NAME, Rendering, Span
from keeps.data.synthetic_ids import BioD
from keeps.errors import RecordError, SettingsError
from keeps.models.cache import CacheState
from keeps.models.language_model import LanguageModel
from keeps.models.limits import engine_for
from keeps.models.parameters import ParameterCount, count_parameters
from keeps.models.projection import evaluating
from keeps.models.scoring import Advance, Engine, Tokens, Wanted, read_pairs, token_logprobs
from keeps.numerics.capacity import BioDSize, BioSSize, Bits, Losses, capacity_ratio, log2_values

FRESH = -1  # an exposure that no training counts: its texts are new

Scored = tuple[list[int], list[int]]  # token ids of a context and of the text after it


@dataclass(frozen=True)
class CapacityReport:
    """What a model holds of a corpus.

    Attributes:
        losses: p1, p2, p3 in nats.
        size: of the corpus, which turns losses into bits.
        parameters: of the model.
    """

    losses: Losses
    size: BioSSize | BioDSize
    parameters: ParameterCount

    @property
    def bits(self) -> Bits:
        """The terms of the capacity ratio, negative where a guess would do better."""
        return self.size.stored(self.losses)

    @property
    def ratio(self) -> float:
        """R, bits a parameter, with each term at least 0."""
        return capacity_ratio(self.bits.clamped.total, self.parameters.total)

    @property
    def unclamped(self) -> float:
        """R as published, which is negative where the model is worse than a guess."""
        return capacity_ratio(self.bits.total, self.parameters.total)

    @property
    def most(self) -> float:
        """R_max, of a model that knows everything."""
        return capacity_ratio(self.size.most, self.parameters.total)

    def to_mapping(self) -> dict[str, float]:
        """Every figure, for tables."""
        bits = self.bits
        return {
            "p1": self.losses.p1,
            "p2": self.losses.p2,
            "p3": self.losses.p3,
            "bits_name": bits.name,
            "bits_value": bits.value,
            "bits_diversity": bits.diversity,
            "R": self.ratio,
            "R_unclamped": self.unclamped,
            "R_max": self.most,
            "R_without_embeddings": bits.clamped.total / max(1, self.parameters.body),
            "parameters": self.parameters.total,
            "parameters_without_embeddings": self.parameters.body,
        }


def capacity_report(
    model: LanguageModel,
    corpus: BioS | BioD,
    *,
    exposure: int = FRESH,
    prefix: str = "",
    advance: Advance | None = None,
) -> CapacityReport:
    """What ``model`` holds of ``corpus``, by the texts of one exposure.

    Args:
        exposure: whose texts are read; by default new ones.
        prefix: the domain token that training put before every useful text.

    Raises:
        SettingsError: the tokenizer does not say which characters a token stands for, or has no end-of-text token.
        RecordError: no token stands for a span.
    """
    texts = [corpus.rendering(person, exposure) for person in corpus.persons]
    spans = _token_spans(model, texts)
    start = [*_end(model), *(_ids(model, prefix) if prefix else [])]
    pairs = [(start, _ids(model, text.text)) for text in texts]
    scores = token_scores(model.model, pairs, pad=model.encoder.pad_token_id, advance=advance)
    sums = [
        {name: -math.fsum(own[token] for token in tokens) for name, tokens in of_text.items()}
        for own, of_text in zip(scores, spans, strict=True)
    ]
    p1 = _mean(each[NAME] for each in sums)
    if isinstance(corpus, BioS):
        losses = Losses(p1, _mean(math.fsum(each[name] for name in VALUES) for each in sums))
    else:
        attributes = range(1, corpus.k + 1)
        p2 = _mean(each[f"id:{number}"] for each in sums for number in attributes)
        losses = Losses(p1, p2, _mean(each[f"first:{number}"] for each in sums for number in attributes))
    return CapacityReport(losses, size_of(corpus), count_parameters(model.model))


def token_capacity(
    model: nn.Module, corpus: TokenBiographies, *, seed: int, domain: bool = False, rows: Tensor | None = None
) -> CapacityReport:
    """What ``model`` holds of a corpus of whole words, in documents of a new order.

    Args:
        domain: documents begin with the domain token, as the useful ones of a mixture do.
        rows: positions of the persons to read; everybody by default. The size stays that of the corpus.
    """
    documents = corpus.documents(torch.Generator().manual_seed(seed), rows=rows)
    documents = with_domain(documents) if domain else documents
    start = documents[0, : 1 + domain].tolist()
    scores = token_scores(model, [(start, row) for row in documents[:, len(start) :].tolist()], pad=END)
    losses = -torch.tensor(scores, dtype=torch.float64)  # (N, 3 + 2 K): name parts, then markers and values in turn
    p1, p2 = losses[:, :PARTS].sum(1).mean(), losses[:, PARTS + 1 :: 2].sum(1).mean()
    return CapacityReport(Losses(float(p1), float(p2)), size_of(corpus), count_parameters(model))


def answer_accuracy(model: nn.Module, corpus: TokenBiographies, rows: Tensor) -> float:
    """Share of questions about the persons in ``rows`` whose right value is the most likely token (extraction)."""
    right = 0
    for attribute in range(len(corpus.attribute_sizes)):
        asked = corpus.questions(rows, attribute)
        with evaluating(model), torch.inference_mode():
            logits = model(input_ids=asked[:, :-1], use_cache=False).logits[:, -1]
        right += int((logits.argmax(1) == asked[:, -1]).sum())
    return right / (len(rows) * len(corpus.attribute_sizes))


def size_of(corpus: BioS | BioD | TokenBiographies) -> BioSSize | BioDSize:
    """How much there is to know in ``corpus``."""
    if isinstance(corpus, BioS):
        return BioSSize(corpus.n, corpus.lists.names, log2_values(corpus.lists.value_sizes))
    if isinstance(corpus, TokenBiographies):
        return BioSSize(corpus.n, corpus.names, log2_values(corpus.attribute_sizes))
    shape = (corpus.n, corpus.k, corpus.c, corpus.d, corpus.length, corpus.alphabet)
    return BioDSize(*shape, names=corpus.lists.names)


def token_scores(
    model: nn.Module, pairs: Sequence[Scored], *, pad: int, advance: Advance | None = None
) -> list[list[float]]:
    """The natural logarithm of each token's probability, for each text after its context; any causal language model."""
    found: list[list[float]] = [[] for _ in pairs]

    def read(engine: Engine, rows: list[Tokens], wanted: list[Wanted], state: CacheState | None) -> None:
        logprobs, _ = token_logprobs(engine, rows, wanted, state)
        for want, logprob in zip(wanted, logprobs, strict=True):
            found[want.number].append(min(logprob, 0.0))  # rounding may end a hair above certainty

    with evaluating(model), torch.inference_mode():
        read_pairs(engine_for(model, pad), pairs, read, advance=advance)
    return found


def touching(offsets: Sequence[Span], span: Span) -> list[int]:
    """Positions of the tokens that stand for at least one character of ``span``.

    >>> touching([(0, 3), (3, 4), (4, 7)], (2, 4))
    [0, 1]
    """
    start, end = span
    return [place for place, (a, b) in enumerate(offsets) if a < end and b > start]


def _token_spans(model: LanguageModel, texts: Iterable[Rendering]) -> list[dict[str, list[int]]]:
    if not getattr(model.tokenizer, "is_fast", False):
        mend = "take a model whose tokenizer has a tokenizer.json"
        raise SettingsError("the tokenizer does not say where its tokens stand", where=model.name, mend=mend)
    found = []
    for text in texts:
        encoded = model.tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = {name: touching(encoded["offset_mapping"], span) for name, span in text.spans.items()}
        empty = [name for name, places in tokens.items() if not places]
        if empty:
            where = f'text "{text.id}"'
            raise RecordError(f'no token stands for "{text.value(empty[0])}"', where=where, mend="correct the span")
        found.append(tokens)
    return found


def _ids(model: LanguageModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False).input_ids)


def _end(model: LanguageModel) -> list[int]:
    end = model.tokenizer.eos_token_id
    if end is None:
        mend = "give the tokenizer an end-of-text token: documents begin after it"
        raise SettingsError("the tokenizer has no end-of-text token", where=model.name, mend=mend)
    return [int(end)]


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return max(0.0, math.fsum(numbers) / len(numbers))
