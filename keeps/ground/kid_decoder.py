"""KID's loop: rows in batches, two policies fused, tokens drawn, several samples a prompt, the likeliest text kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from keeps.decoding.choosing import Choice, Chooser
from keeps.decoding.combine import Combined
from keeps.decoding.engine import Spoken, speak
from keeps.decoding.perturbed import Nudge, PerturbedVoice
from keeps.decoding.streams import check_has_logits
from keeps.errors import EmptySetError, SettingsError
from keeps.ground.kid_guide import Seeking, TermGuide, word_pieces
from keeps.ground.knowledge_trie import Found, KnowledgeTrie
from keeps.models.batching import length_batches
from keeps.models.checks import check_context, check_lengths, located
from keeps.models.generation import Ending
from keeps.models.language_model import LanguageModel
from keeps.models.limits import engine_for
from keeps.models.scoring import Advance
from keeps.models.stopping import StopRule
from keeps.numerics.knowledge_infusion import completing, fused
from keeps.training.edit_losses import frozen

CACHES = 6  # a row's cache, its change, gradient and float copies of them stand side by side
PUBLISHED_SEEKING, PUBLISHED_NUDGE, PUBLISHED_CHOICE = Seeking(), Nudge(), Choice(1.0, 20, 0.92)
NO_RULE = StopRule(())


@dataclass(frozen=True)
class Infused:
    """One text.

    Attributes:
        tokens: the chosen ids.
        complete: whether it ended by itself.
        steps: for each token what was wanted, the probability of it before and after, nats, β.
        found: every term that was wanted.
        perplexity: of the tokens under the model as it is, after the prompt.
        sample: which of the samples this is, from 0; ``perplexities`` are those of all.
        prompt_tokens: of the prompt, once.
    """

    text: str
    tokens: tuple[int, ...]
    complete: bool
    steps: tuple[dict[str, Any], ...]
    found: tuple[Found, ...]
    perplexity: float
    sample: int = 0
    prompt_tokens: int = 0
    perplexities: tuple[float, ...] = field(default=())


@dataclass(frozen=True)
class KIDDecoder:
    """Decodes with a frozen model and a knowledge trie.

    Attributes:
        fusion: λ, share of the nudged policy in the geometric mean.
        beta: weight of the divergence at the first token.
        no_repeat: no n-gram of this size twice, prompt included; 0 allows all.
        rule: ends a text before a string or sentence.

    Raises:
        SettingsError: the model's logits are not to be had, or a setting is out of range.
    """

    model: LanguageModel
    seeking: Seeking = PUBLISHED_SEEKING
    nudge: Nudge = PUBLISHED_NUDGE
    beta: float = 0.01
    fusion: float = 0.99
    choice: Choice = PUBLISHED_CHOICE
    samples: int = 5
    no_repeat: int = 2
    max_new_tokens: int = 64
    rule: StopRule = NO_RULE

    def __post_init__(self) -> None:
        check_has_logits(self.model)
        if not 0 <= self.fusion <= 1:
            raise SettingsError(f"fusion is {self.fusion}", mend="choose a share in [0, 1]")
        if self.samples < 1 or self.max_new_tokens < 1:
            raise SettingsError("samples and max_new_tokens are at least 1", mend="choose larger ones")
        if not self.choice.temperature and self.samples > 1:
            raise SettingsError("several samples are all the same at temperature 0", mend="take 1, or draw")

    def generate(
        self,
        prompts: Sequence[str],
        tries: Sequence[KnowledgeTrie | None],
        *,
        seed: int = 0,
        advance: Advance | None = None,
    ) -> list[Infused]:
        """The text of lowest perplexity among the samples of each prompt.

        Sample ``s`` of prompt ``n`` draws with seed ``seed + samples * n + s``: a prompt's text depends on its place.

        Args:
            tries: of each prompt; None decodes it plainly.
            advance: told of prompts done.

        Raises:
            RecordError: a prompt is empty, or there are not as many tries.
            SettingsError: the model's cache cannot be moved.
            ContextLengthError: a prompt leaves no room for ``max_new_tokens``.
        """
        check_lengths(prompts, tries, "tries")
        rows = [self._encoded(number, prompt) for number, prompt in enumerate(prompts)]
        pieces = word_pieces(self.model.tokenizer)
        items = [number for number in range(len(prompts)) for _ in range(self.samples)]
        guides = [self._guide(prompts[number], rows[number], tries[number], pieces) for number in items]
        spoken = self._spoken([rows[number] for number in items], guides, seed, advance)
        perplexities = self._perplexities([rows[number] for number in items], spoken)
        found: list[Infused] = []
        for number in range(len(prompts)):
            own = range(number * self.samples, (number + 1) * self.samples)
            best = min(own, key=lambda item: (perplexities[item], item))
            said, guide = spoken[best], guides[best]
            found.append(
                Infused(
                    said.text,
                    tuple(said.tokens),
                    said.complete,
                    tuple(guide.steps[: len(said.tokens)]),
                    tuple(guide.found.values()),
                    perplexities[best],
                    best - own.start,
                    len(rows[number]),
                    tuple(perplexities[item] for item in own),
                )
            )
        return found

    def fuse(self, voice: PerturbedVoice) -> Callable[[Tensor], Combined]:
        """What makes scores of both policies' logits for the rows of ``voice``."""

        def combine(logits: Tensor) -> Combined:
            scores = fused(logits[1], logits[0], self.fusion)
            for row, guide in enumerate(voice.guides):
                assert isinstance(guide, TermGuide)
                banned = completing([*guide.given, *guide.tokens], self.no_repeat)
                scores[row, banned] = -math.inf
            return Combined(scores)

        return combine

    def _encoded(self, number: int, prompt: str) -> list[int]:
        """The prompt as tokens: two at least, so that something is cached before the last one."""
        ids = located(number, self.model.encode_prompt, prompt)
        if len(ids) == 1:
            tokenizer = self.model.tokenizer
            begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
            ids = [int(begin), *ids]
        check_context(number, prompt, len(ids) + self.max_new_tokens, self.model.context_length, self.model.name)
        return ids

    def _guide(
        self, prompt: str, row: Sequence[int], trie: KnowledgeTrie | None, pieces: Callable[[str], tuple[int, ...]]
    ) -> TermGuide:
        return TermGuide(trie, prompt, self.seeking, self.beta, self.model.encoder.decode, pieces, row)

    def _spoken(
        self, rows: Sequence[list[int]], guides: Sequence[TermGuide], seed: int, advance: Advance | None
    ) -> list[Spoken]:
        encoder = self.model.encoder
        ending = Ending(self.max_new_tokens, self.rule, encoder.end_ids, encoder.decode)
        chooser = Chooser(self.choice, [seed + item for item in range(len(rows))])
        spoken = [Spoken() for _ in rows]
        with frozen(self.model), torch.no_grad():
            engine = engine_for(self.model.model, encoder.pad_token_id, self.model.tokens_per_batch)
            longest = max(map(len, rows), default=0) + self.max_new_tokens
            if rows and not engine.may_cache(longest):
                what = f"the cache of {self.model.name} cannot be used for rows of {longest} tokens"
                mend = "take a model that caches all keys and values, or shorter texts"
                raise SettingsError(what, where="cached activations", mend=mend)
            slots = max(engine.slots // CACHES, longest)
            lengths = [len(row) for row in rows]
            for batch in length_batches(lengths, budget=slots, past=self.max_new_tokens, slots=slots):
                voice = PerturbedVoice(engine, [rows[n] for n in batch], [guides[n] for n in batch], self.nudge)
                speak([voice], self.fuse(voice), chooser, ending, [(n, spoken[n]) for n in batch])
                if advance:
                    advance(len(batch) / self.samples)
        for said in spoken:
            said.text, said.complete = ending.text(said.tokens), ending.ended(said.tokens)
        return spoken

    def _perplexities(self, rows: Sequence[list[int]], spoken: Sequence[Spoken]) -> list[float]:
        scores = self.model.logprob_encoded(rows, [said.tokens for said in spoken])
        return [math.exp(-score.per_token) for score in scores]


def trie_of(documents: Sequence[tuple[str, str]], rule: str) -> KnowledgeTrie | None:
    """A trie of ``(id, text)`` documents; None where nothing in them names anything."""
    try:
        return KnowledgeTrie.from_documents(documents, rule=rule)
    except EmptySetError:
        return None
