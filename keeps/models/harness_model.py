"""A keeps model as the evaluation harness of EleutherAI (lm-eval) wants one, so that its tasks can be run on it.

Texts become tokens by the harness's own rules, which are those of its Hugging Face model: white space at the end of
a context goes to the continuation, both are encoded as one text and cut where the context's own tokens end, and an
empty context is the token that begins texts. Scoring and decoding are those of keeps: every context once, common
beginnings shared, the vocabulary projected where it is read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, cast

from keeps.errors import ContextLengthError, MissingDependencyError, RecordError, SettingsError

EXTRA = 'pip install "keeps[bench]"'
CALLS = ("logprob_encoded", "continue_encoded")  # what an answerer needs for the harness
MOST_NEW_TOKENS = 256  # of an answer where the task names no limit, as in the harness


def harness_module(name: str) -> Any:
    """``lm_eval.NAME``, imported now.

    Raises:
        MissingDependencyError: the harness is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(f"lm_eval.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        what = "the evaluation harness (lm-eval) is not installed"
        raise MissingDependencyError(what, where="harness", mend=EXTRA) from None


class _Requests:
    """What the harness asks of a model, answered by ``answerer``; mixed into the harness's own base class."""

    answerer: Any
    truncate: bool
    advance: Callable[[float], None] | None
    scored: list[int]  # tokens behind each figure of the last call of loglikelihood_rolling

    @property
    def tokenizer(self) -> Any:
        return self.answerer.tokenizer

    @property
    def tokenizer_name(self) -> str:
        return str(self.answerer.name)

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands in front of a text that nothing comes before."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def max_length(self) -> int:
        return int(self.answerer.context_length)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; without being told, with the special tokens that the tokenizer puts in front of a text."""
        begins = self.tokenizer.bos_token
        if add_special_tokens is None:
            add_special_tokens = not (begins and string.startswith(begins))
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens, verbose=False).input_ids)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether greedy decoding gives it."""
        del disable_tqdm  # keeps shows its own progress
        return cast(Any, super()).loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        for text, context, continuation in requests:
            if not continuation:
                mend = "give the answers of the task a text of their own"
                raise RecordError("an answer adds no token to its prompt", where=repr(text)[-80:], mend=mend)
            self._check(len(context) + len(continuation) - 1)
        pairs = [self._fitting(context, continuation) for _, context, continuation in requests]
        contexts, continuations = [context for context, _ in pairs], [rest for _, rest in pairs]
        scores = self.answerer.logprob_encoded(contexts, continuations, **self._told())
        return [(score.logprob, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-probability of running texts, each token once, in the harness's windows."""
        del disable_tqdm
        utils = harness_module("utils")
        cut = {"prefix_token": self.prefix_token_id, "max_seq_len": self.max_length, "context_len": 1}
        windows = []
        for request in requests:
            found = utils.get_rolling_token_windows(token_list=self.tok_encode(request.args[0]), **cut)
            windows.append([utils.make_disjoint_window(window) for window in found])
        flat = [window for several in windows for window in several]
        scores = iter(self.answerer.logprob_encoded([a for a, _ in flat], [b for _, b in flat], **self._told()))
        self.scored = [sum(len(part) for _, part in several) for several in windows]
        return [sum(next(scores).logprob for _ in several) for several in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuations, each cut before its stop strings; requests of like options together.

        Raises:
            SettingsError: a task wants its answers sampled.
        """
        del disable_tqdm
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(self._options(request.args[1], request.task_name), []).append(place)
        found: dict[int, str] = {}
        for (room, stop), places in groups.items():
            contexts = [self.tok_encode(requests[place].args[0]) for place in places]
            for context in contexts:
                self._check(len(context) + room)
            kept = [context[-(self.max_length - room) :] for context in contexts]
            said = self.answerer.continue_encoded(kept, max_new_tokens=room, stop=stop, **self._told())
            found |= dict(zip(places, said, strict=True))
        return [found[place] for place in range(len(requests))]

    def _options(self, given: Any, task: str) -> tuple[int, tuple[str, ...]]:
        values = harness_module("models.utils").normalize_gen_kwargs(given, MOST_NEW_TOKENS)
        if values["do_sample"]:
            mend = "run a task that decodes greedily (do_sample: false)"
            raise SettingsError("the task samples its answers, and keeps decodes greedily", where=task, mend=mend)
        return values["max_gen_toks"], tuple(text for text in values["until"] if text)

    def _fitting(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """The end of the context, as much of it as fits with the continuation, of which the last token is not fed."""
        room = self.max_length + 1 - len(continuation)
        return (context[-room:] if room > 0 else context, continuation)

    def _check(self, tokens: int) -> None:
        if tokens > self.max_length and not self.truncate:
            what = f"a prompt needs {tokens} tokens and the context of {self.answerer.name} has {self.max_length}"
            mend = "choose fewer shots or a longer context, or cut prompts from the left with --truncate"
            raise ContextLengthError(what, where="harness", mend=mend)

    def _told(self) -> dict[str, Any]:
        return {} if self.advance is None else {"advance": self.advance}


def harness_model(answerer: Any, *, truncate: bool = False, advance: Callable[[float], None] | None = None) -> Any:
    """A model for ``lm_eval.simple_evaluate(model=...)``; it derives from the harness's ``lm_eval.api.model.LM``.

    >>> import lm_eval  # doctest: +SKIP
    >>> lm_eval.simple_evaluate(harness_model(LanguageModel.load()), tasks=["arc_easy"])  # doctest: +SKIP

    Args:
        answerer: a :class:`keeps.models.LanguageModel`, or what passes its calls on.
        truncate: cut prompts that do not fit the context from the left, as the harness does; else they are refused.
        advance: told of requests done.

    Raises:
        MissingDependencyError: the harness is not installed.
        SettingsError: the answerer gives no log-probabilities of tokens.
    """
    if not all(hasattr(answerer, name) for name in CALLS):
        mend = "name a local model; a server is asked by the harness itself (lm_eval --model local-completions)"
        raise SettingsError("this answerer does not score token ids", where="harness", mend=mend)
    base = harness_module("api.model").TemplateLM

    class HarnessModel(_Requests, base):
        """The requests of keeps on the harness's rules for texts."""

    made = HarnessModel()
    made.answerer, made.truncate, made.advance, made.scored = answerer, truncate, advance, []
    return made
