"""A transformers language model and its tokenizer, as everything in keeps asks it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from keeps.contracts import Answer, Progress
from keeps.errors import RecordError, SettingsError
from keeps.models.checks import Pair, check_context, check_lengths, check_list, checked_pairs, located, short
from keeps.models.encoded import EncodedScoring
from keeps.models.generation import Ending, continue_greedily
from keeps.models.limits import context_length, engine_for
from keeps.models.plain_layers import own_layout
from keeps.models.pooling import mean_states
from keeps.models.projection import evaluating, hidden_states
from keeps.models.sampling import Sampling
from keeps.models.scores import AnswerScore, Asked, ChoiceScore, TextScore
from keeps.models.scoring import Advance, Engine, score_pairs, text_config
from keeps.models.stopping import StopRule
from keeps.models.token_scores import TokenScoring
from keeps.models.tokens import TextEncoder
from keeps.models.windows import text_windows
from keeps.weights import fingerprint_tensors


class LanguageModel(TokenScoring, EncodedScoring, Sampling):
    """Scores and generates over any number of items: batched by length, common beginnings shared.

    ``model`` may be a transformers causal language model or a PeftModel over one, and its weights may
    change between calls. Results do not depend on what else is in a call (to 1e-4 in float32).

    >>> model = LanguageModel.load()
    >>> model.ask(["The capital of France is"], ["Paris"])[0].text
    'Paris'
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, name: str = "", chat: str = "never") -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name or str(getattr(getattr(model, "config", None), "name_or_path", "")) or type(model).__name__
        self.encoder = TextEncoder(tokenizer, chat)
        self.tokens_per_batch: int | None = None  # None: by the kind of device

    @classmethod
    def load(
        cls,
        spec: str | Path = "smollm2-135m",
        *,
        device: str = "cpu",
        precision: str = "float32",
        chat: str = "never",
        trust_remote_code: bool = False,
        cache: Path | str | None = None,
        progress: Progress | None = None,
    ) -> LanguageModel:
        """Load a model by short name, folder, hub id or ``.gguf`` file.

        Args:
            spec: ``"smollm2-135m"`` (embedded), a transformers folder, a hub id, or a GGUF file.
            device: torch device, such as ``"cpu"`` or ``"cuda:0"``.
            precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
            chat: whether prompts go through the chat template: ``"never"``, ``"always"``, ``"auto"``.
            trust_remote_code: run code that comes with the model; off unless the user asks.
            cache: folder of converted models; default ``$KEEPS_CACHE``, else the user's. ``progress`` is told of them.

        Raises:
            ModelLoadError: the model is missing, damaged, of an unsafe format, or does not fit the device.
        """
        from keeps.models.load import load_model

        model, tokenizer = load_model(
            str(spec),
            device=device,
            precision=precision,
            trust_remote_code=trust_remote_code,
            cache=Path(cache) if cache else None,
            progress=progress,
        )
        return cls(model, tokenizer, name=str(spec), chat=chat)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Content hash of the weights as they are now (16 hexadecimal digits); computed at each access."""
        with own_layout(self.model):
            return fingerprint_tensors(self.model.state_dict())

    @property
    def context_length(self) -> int:
        """Most tokens that the model takes, prompt and answer together."""
        return context_length(self.model, self.tokenizer)

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt, with special tokens and chat template as configured."""
        return self.encoder.prompt(prompt)

    def encode_pair(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of its answer; the one place that knows special tokens and spaces.

        Raises:
            RecordError: the prompt or the answer is empty.
        """
        return self.encoder.pair(prompt, answer)

    def logprob(
        self, prompts: Sequence[str], answers: Sequence[str], *, advance: Advance | None = None
    ) -> list[AnswerScore]:
        """Log-probability of each answer after its prompt. ``advance`` is told of items done.

        Raises:
            RecordError: unequal lengths, or an empty prompt or answer.
            ContextLengthError: a prompt with its answer is longer than the context.
        """
        pairs = self._pairs(prompts, answers)
        with self._reading() as engine:
            scores = score_pairs(engine, pairs, advance=advance)
        return [
            AnswerScore(score.logprob, len(answer), score.greedy)
            for score, (_, answer) in zip(scores, pairs, strict=True)
        ]

    def rank(
        self, prompts: Sequence[str], choices: Sequence[Sequence[str]], *, advance: Advance | None = None
    ) -> list[ChoiceScore]:
        """The choice with the highest log-probability per token after each prompt (which is computed once).

        Raises:
            RecordError: unequal lengths, a prompt without choices, or an empty text.
            ContextLengthError: a prompt with a choice is longer than the context.
        """
        check_lengths(prompts, choices, "choices")
        for number, options in enumerate(choices):
            if not options or isinstance(options, str):
                where = f"item {number + 1}: {short(prompts[number])}"
                raise RecordError("the prompt has no list of choices", where=where, mend="give at least one choice")
        flat_prompts = [prompt for prompt, options in zip(prompts, choices, strict=True) for _ in options]
        scores = iter(self.logprob(flat_prompts, [c for options in choices for c in options], advance=advance))
        return [ChoiceScore.of([next(scores) for _ in options]) for options in choices]

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 16,
        stop: Sequence[str] = ("\n",),
        sentence: bool = False,
        advance: Advance | None = None,
    ) -> list[str]:
        """Greedy continuations, cut before the first of ``stop`` and stripped of surrounding white space.

        With ``sentence`` they are cut before the end of their first sentence too.

        Raises:
            RecordError: a prompt is empty.
            ContextLengthError: a prompt leaves no room for ``max_new_tokens``.
        """
        check_list(prompts, "prompts")
        contexts = [located(number, self.encode_prompt, prompt) for number, prompt in enumerate(prompts)]
        rule = StopRule(tuple(stop), sentence)
        found = self.continue_tokens(contexts, prompts, max_new_tokens=max_new_tokens, rule=rule, advance=advance)
        return [text for text, _ in found]

    def ask(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        *,
        max_new_tokens: int = 12,
        stop: Sequence[str] = ("\n",),
        sentence: bool = True,
        advance: Advance | None = None,
    ) -> list[Asked]:
        """What the model says to each prompt, and how likely it finds the expected answer, in one pass.

        The text is the greedy continuation, cut before the first of ``stop`` and (``sentence``) before
        the end of its first sentence.

        Raises:
            RecordError: unequal lengths, or an empty prompt or answer.
            ContextLengthError: a prompt with its answer or continuation is longer than the context.
        """
        pairs = self._pairs(prompts, answers, room=max_new_tokens)
        contexts, drafts = [context for context, _ in pairs], [draft for _, draft in pairs]
        ending = self._ending(max_new_tokens, StopRule(tuple(stop), sentence))
        with self._reading() as engine:
            found = continue_greedily(engine, contexts, drafts, ending, advance=advance)
        return [
            Asked(ending.text(item.tokens), item.logprob, len(draft), item.greedy)
            for item, draft in zip(found, drafts, strict=True)
        ]

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """Answer each question, its context on lines before it, greedily to the end of the first line or sentence."""
        if contexts is not None:
            check_lengths(questions, contexts, "contexts")
            questions = [f"{c}\n\n{q}" if c else q for q, c in zip(questions, contexts, strict=True)]
        return [Answer(text) for text in self.generate(questions, sentence=True)]

    def text_logprob(
        self, texts: Sequence[str], *, window: int | None = None, advance: Advance | None = None
    ) -> list[TextScore]:
        """Log-probability of running texts; long ones in overlapping windows, each token counted once.

        Args:
            texts: any text of two tokens or more. No chat template is used.
            window: tokens a window; default the model's context.
            advance: told of texts done (in parts).

        Raises:
            RecordError: a text has nothing to score.
            SettingsError: the window is too short for a token and one to score.
        """
        check_list(texts, "texts")
        width = self.context_length if window is None else min(window, self.context_length)
        if width < len(self.encoder.leading) + 2:
            raise SettingsError(f"a window of {width} tokens is too short", mend="leave it out, or choose a longer one")
        windows: list[Pair] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            mine = text_windows(self.encoder.text(text), len(self.encoder.leading), width)
            if not mine:
                raise RecordError("the text has no token to score", where=f"item {number + 1}: {short(text)}")
            windows += mine
            owners += [number] * len(mine)
        share = (lambda done: advance(done * len(texts) / len(windows))) if advance else None
        with self._reading() as engine:
            scores = score_pairs(engine, windows, advance=share)
        totals, tokens = [0.0] * len(texts), [0] * len(texts)
        for owner, score, (_, targets) in zip(owners, scores, windows, strict=True):
            totals[owner] += score.logprob
            tokens[owner] += len(targets)
        return [TextScore(*values) for values in zip(totals, tokens, strict=True)]

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Mean of the last hidden states over each text's tokens.

        Returns:
            ``(len(texts), hidden)`` float32, on the CPU.

        Raises:
            RecordError: a text is empty.
            ContextLengthError: a text is longer than the context.
        """
        check_list(texts, "texts")
        rows = [self.encoder.text(text) for text in texts]
        for number, row in enumerate(rows):
            if not texts[number].strip():
                raise RecordError("the text is empty", where=f"item {number + 1}", mend="give some text")
            check_context(number, texts[number], len(row), self.context_length, self.name)
        width, states = int(text_config(self.model).hidden_size), partial(hidden_states, self.model)
        with self._reading() as engine:
            pad, budget = engine.pad_token_id, engine.budget
            return mean_states(states, rows, width=width, device=engine.device, pad=pad, budget=budget)

    def continue_tokens(
        self,
        contexts: Sequence[list[int]],
        labels: Sequence[str],
        *,
        max_new_tokens: int,
        rule: StopRule | None = None,
        advance: Advance | None = None,
    ) -> list[tuple[str, bool]]:
        """Greedy continuations of encoded contexts (``labels`` name them in errors).

        Returns:
            Each text, and whether it ended by itself rather than at ``max_new_tokens``.
        """
        for number, (context, label) in enumerate(zip(contexts, labels, strict=True)):
            check_context(number, label, len(context) + max_new_tokens, self.context_length, self.name)
        ending = self._ending(max_new_tokens, rule or StopRule(()))
        with self._reading() as engine:
            found = continue_greedily(engine, contexts, [[] for _ in contexts], ending, advance=advance)
        return [(ending.text(item.tokens), ending.ended(item.tokens)) for item in found]

    def _ending(self, max_new_tokens: int, rule: StopRule) -> Ending:
        if max_new_tokens < 1:
            raise SettingsError(f"max_new_tokens is {max_new_tokens}", mend="choose a value of at least 1")
        return Ending(max_new_tokens, rule, self.encoder.end_ids, self.encoder.decode)

    def _pairs(self, prompts: Sequence[str], answers: Sequence[str], *, room: int = 0) -> list[Pair]:
        return checked_pairs(self.encode_pair, prompts, answers, room=room, limit=self.context_length, model=self.name)

    @contextmanager
    def _reading(self) -> Iterator[Engine]:
        """No gradients, evaluation mode, and the limits of a batch on this device."""
        engine = engine_for(self.model, self.encoder.pad_token_id, self.tokens_per_batch)
        with evaluating(self.model), torch.inference_mode():
            yield engine
