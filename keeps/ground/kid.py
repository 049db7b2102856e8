"""KID: at every token, nudge the model's cached activations towards words that documents connect with the text so far.

The passages that are found become a trie of their statements. At each step the mentions in the text (local memory)
look up terms in it, and a few gradient steps move the cached keys and values H, not a weight, so that one of the terms
becomes likely while the policy stays near the unchanged one (Liu et al. 2022, arXiv:2204.03084):

    L(H') = -log Σ_j p'(w_j) + β KL(p' ‖ p),   δ ← δ - η g / ‖g‖^γ,   p_fused ∝ p'^λ p^(1-λ)

Tokens are drawn from the fused policy's top-k and top-p; of several samples the one of lowest perplexity under the
unchanged model is the answer. Nothing of the documents stands in the prompt.

Use when: a text should stay with a pile of documents that does not fit into the prompt; a base model follows no
instructions, so that passages in the prompt do not help; no weight may change and fluency must be kept on a leash.

``kl`` adapts β as in PPO (the paper) or leaves it (the official code). The reward of a term is that of its first token,
as published; ``pieces`` follows a term that has begun. Other than the official code: found terms are looked up at most
once, words match as words, a token counts once, H holds no token twice, texts without terms are decoded plainly, and
the n-gram ban bans n-grams. Nouns are found by a stated rule in place of a tagger, statements by their verb in place
of OpenIE (``keeps.data.terms``).

Needs: a language model on this machine with a plain cache; documents, or a file of a trie (``trie``). Guarantees:
weights bit for bit the same; ``steps`` or ``step_size`` of 0 decodes exactly as without knowledge. About four forward
and three backward passes of one token a step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keeps.contracts import Answer, Run
from keeps.data.terms import RULES, find_terms
from keeps.decoding.answering import FORMS
from keeps.decoding.choosing import Choice
from keeps.decoding.perturbed import Nudge
from keeps.errors import SettingsError
from keeps.ground.kid_decoder import Infused, KIDDecoder, trie_of
from keeps.ground.kid_guide import Seeking
from keeps.ground.knowledge_trie import MATCHES, KnowledgeTrie
from keeps.models.checks import check_lengths, check_questions
from keeps.models.language_model import LanguageModel
from keeps.models.stopping import StopRule
from keeps.registry import method
from keeps.settings import Settings, setting
from keeps.sources import Hit, Retriever


@dataclass(frozen=True, kw_only=True)
class KIDSettings(Settings):
    """Settings of knowledge-infused decoding."""

    k: int = setting(5, "Passages that are looked up for a question", ge=1, le=1000)
    trie: str | None = setting(None, "File of a knowledge trie, used in place of passages")
    steps: int = setting(3, "Gradient steps a token", ge=0, le=100)
    step_size: float = setting(0.01, "η, the length of a step before its division by the norm", ge=0)
    gamma: float = setting(1.5, "γ, the power of the gradient's norm that a step is divided by", ge=0, le=3)
    bound: float = setting(1.0, "Longest change of a layer, as a share of its activations' length", gt=0)
    beta: float = setting(0.01, "β, weight of the divergence at the first token", ge=0)
    kl: str = setting("adaptive", "Adapt β to a target, or leave it fixed", choices=("adaptive", "fixed"))
    kl_target: float = setting(0.05, "Divergence that β is adapted to", gt=0, unit="nats")
    fusion: float = setting(0.99, "λ, share of the nudged policy in the geometric mean", ge=0, le=1)
    persist: bool = setting(True, "Following tokens see the changed activations")
    hops: int = setting(1, "Lookups from found term to found term", ge=1, le=20)
    memory: int = setting(64, "Most mentions in local memory, the oldest leave first; 0: all", ge=0)
    match: str = setting("word", "Entries that begin with a mention, or with the longest run of them", choices=MATCHES)
    reward: str = setting("all", "Reward all terms found, or those not mentioned yet", choices=("all", "new"))
    pieces: str = setting(
        "first", "Reward a term's first token, or what continues one that has begun", choices=("first", "next")
    )
    terms: str = setting("words", "Rule by which words are terms; wordnet needs its files", choices=RULES)
    spelling: str = setting(
        "written", "Terms as the source writes them, or in small letters as the code", choices=("written", "lower"),
        advanced=True,
    )  # fmt: skip
    repeated: bool = setting(False, "Count a token once for every term that begins with it (code)", advanced=True)
    temperature: float = setting(1.0, "0 takes the best token, above it tokens are drawn", ge=0)
    top_k: int | None = setting(None, "Draw from so many best tokens; 0: all (default 20 where tokens are drawn)", ge=0)
    top_p: float | None = setting(
        None, "Draw from the likeliest tokens that hold this probability (default 0.92 where drawn)", gt=0, le=1
    )
    samples: int | None = setting(None, "Texts a question, the likeliest is kept (default 5 where drawn)", ge=1)
    no_repeat: int = setting(2, "No n-gram of this size twice; 0 allows all", ge=0)
    max_new_tokens: int = setting(64, "Longest answer", ge=1, unit="tokens")
    form: str = setting("qa", "Question and answer, or a text that the answer continues", choices=("qa", "completion"))

    def check(self) -> None:
        """Refuse what would do nothing."""
        self.choice()
        if not self.temperature and (self.samples or 1) > 1:
            mend = "take 1, or a temperature above 0"
            raise SettingsError("several samples are all the same at temperature 0", where="samples", mend=mend)

    def choice(self) -> Choice:
        """How tokens are taken."""
        drawn = self.temperature > 0
        top_k = (20 if drawn else 0) if self.top_k is None else self.top_k
        return Choice(self.temperature, top_k, (0.92 if drawn else 1.0) if self.top_p is None else self.top_p)

    def decoder(self, model: LanguageModel) -> KIDDecoder:
        """The decoder that these settings describe."""
        seeking = Seeking(
            self.hops,
            self.match,
            self.memory,
            self.terms,
            self.reward,
            self.spelling,
            self.repeated,
            self.pieces,
            self.kl_target if self.kl == "adaptive" else None,
        )
        return KIDDecoder(
            model,
            seeking,
            Nudge(self.steps, self.step_size, self.gamma, self.bound, self.persist),
            self.beta,
            self.fusion,
            self.choice(),
            self.samples or (5 if self.temperature else 1),
            self.no_repeat,
            self.max_new_tokens,
            StopRule(("\n",) if self.form == "qa" else ()),
        )


@method(
    "kid",
    verb="ground",
    paper="arXiv:2204.03084",
    card="kid",
    summary="Nudge cached activations at every token towards what documents connect with the text so far.",
    needs=("documents",),
)
class KID:
    """Knowledge as a reward while decoding."""

    Settings = KIDSettings

    def __init__(self, settings: KIDSettings) -> None:
        self.settings = settings

    def __call__(self, model: LanguageModel, source: Retriever | None = None, *, run: Run) -> KIDAnswerer:
        """See :class:`keeps.sources.GroundMethod`; ``source`` may be left out with a trie, or with contexts.

        Raises:
            SettingsError: the model is a server, a chat, or has a memory before it.
            InputFileError: the trie's file is missing or damaged.
        """
        return KIDAnswerer(model, source, self.settings, run)


class KIDAnswerer:
    """An Answerer that decodes each question with the knowledge of its own passages."""

    def __init__(self, model: LanguageModel, source: Retriever | None, settings: KIDSettings, run: Run) -> None:
        self.decoder = settings.decoder(model)
        self.source, self.settings, self.run = source, settings, run
        self.trie = KnowledgeTrie.load(settings.trie) if settings.trie else None

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """One answer per question, in order.

        ``citations`` are the sources of terms that the answer has and the question lacks. The ``trace`` has
        ``passages``, ``entries`` (of the trie), ``stop`` (``ended``, ``max_new_tokens``, ``no_knowledge`` where
        nothing was found or nothing in it names anything: decoded plainly), ``unsupported``, ``perplexities`` of the
        samples, ``seconds``, and ``steps``: for each token its terms, their probability before and after, nats, β.

        Args:
            contexts: read instead of passages that would be looked up, one a question; an empty one gives none.

        Raises:
            RecordError: a question is empty, or there are not as many contexts.
            SettingsError: there is nothing to read: neither a source nor a trie nor contexts.
            ContextLengthError: a question leaves no room for the answer.
        """
        check_questions(questions)
        hits = self._read(questions, contexts)
        tries = [self._trie(found) for found in hits]
        prompts = [FORMS[self.settings.form][1].format(question=question) for question in questions]
        started = time.perf_counter()
        with self.run.progress.task("decoding", len(questions)) as bar:
            said = self.decoder.generate(prompts, tries, seed=self.run.seed, advance=bar.advance)
        seconds = (time.perf_counter() - started) / max(len(questions), 1)
        return [
            self._answer(question, found, trie, text, seconds)
            for question, found, trie, text in zip(questions, hits, tries, said, strict=True)
        ]

    def _read(self, questions: Sequence[str], contexts: Sequence[str] | None) -> list[list[Hit]]:
        if contexts is not None:
            check_lengths(questions, contexts, "contexts")
            one = [Hit(f"context#0-{len(text)}", text, 1.0, "context", (0, len(text))) for text in contexts]
            return [[hit] if hit.text.strip() else [] for hit in one]
        if self.trie is not None:
            return [[] for _ in questions]
        if self.source is None:
            mend = "give a retriever as source, a trie, or contexts"
            raise SettingsError("there is nothing to read", where="kid", mend=mend)
        return [list(self.source.search(question, self.settings.k)) for question in questions]

    def _trie(self, hits: Sequence[Hit]) -> KnowledgeTrie | None:
        """Of the passages; of the file where no passage is given."""
        if not hits:
            return self.trie
        return trie_of([(hit.id, hit.text) for hit in hits], self.settings.terms)

    def _answer(
        self, question: str, hits: Sequence[Hit], trie: KnowledgeTrie | None, said: Infused, seconds: float
    ) -> Answer:
        asked = {term.key for term in find_terms(question, self.settings.terms)}
        told = {term.key for term in find_terms(said.text, self.settings.terms)} - asked
        sources = [source for term in said.found if term.key in told for source in term.sources if source]
        citations = tuple(dict.fromkeys(sources))
        decode: Any = self.decoder.model.encoder.decode
        steps = [
            {"token": decode([token]), **step} for token, step in zip(said.tokens, said.steps, strict=True)
        ]  # fmt: skip
        trace = {
            "method": "kid",
            "calls": self.decoder.samples,
            "retrievals": int(self.source is not None and any(hit.document != "context" for hit in hits)),
            "prompt_tokens": said.prompt_tokens,
            "completion_tokens": len(said.tokens),
            "seconds": round(seconds, 3),
            "passages": [{"id": hit.id, "score": float(hit.score), "title": hit.title} for hit in hits],
            "entries": 0 if trie is None else len(trie),
            "stop": "no_knowledge" if trie is None else "ended" if said.complete else "max_new_tokens",
            "unsupported": not citations,
            "sample": said.sample,
            "perplexities": list(said.perplexities),
            "steps": steps,
        }
        return Answer(said.text, citations, trace)
