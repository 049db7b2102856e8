"""A model behind an OpenAI-compatible server as an answerer, with log-probabilities where the server gives them.

``openai:http://localhost:8000/v1#MODEL`` names it. Log-probabilities of a prompt's own tokens come in two forms:
``echo`` with ``logprobs``, as the completions protocol has it, and ``prompt_logprobs``, which vLLM adds. Which one a
server gives is found out once, by a prompt of one line; a server that gives neither is asked for text alone, and
one that only chats is asked in turns. An access key is taken from the environment variable ``KEEPS_API_KEY``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from keeps.contracts import Answer
from keeps.errors import RecordError, SettingsError
from keeps.models.checks import check_lengths, check_list, short
from keeps.models.remote import RemoteChat
from keeps.models.remote_forms import Echo, Form, PromptLogprobs, Read
from keeps.models.remote_names import KEY, PREFIX, address_and_model
from keeps.models.remote_names import is_remote as is_remote
from keeps.models.remote_transport import UNKNOWN
from keeps.models.scores import AnswerScore, Asked, ChoiceScore, TextScore
from keeps.models.stopping import StopRule
from keeps.models.tokens import space_before

WORKERS = 8  # requests under way at once: servers batch what arrives together
MOST_STOPS = 4  # stop strings that the protocol allows; the rest is cut here
TRIAL = "The capital of France is"
MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError)  # what reading a reply of another form raises

Advance = Callable[[float], None]


@dataclass(frozen=True)
class RemoteText:
    """A server that completes text and gives no log-probabilities of a prompt."""

    chat: RemoteChat

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 16,
        stop: Sequence[str] = ("\n",),
        sentence: bool = False,
        advance: Advance | None = None,
    ) -> list[str]:
        """See :meth:`keeps.models.LanguageModel.generate`; what does not fit is for the server to refuse.

        Raises:
            ModelLoadError: the server cannot be reached, refuses, or answers something else.
        """
        check_list(prompts, "prompts")
        rule, stops = StopRule(tuple(stop), sentence), {"stop": list(stop)[:MOST_STOPS]} if stop else {}
        ask = self._asker(_text_of, max_new_tokens, stops)
        return [rule.cut(text) for text in self._each(ask, prompts, advance)]

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        temperature: float,
        top_p: float = 1.0,
        max_new_tokens: int = 16,
        stop: Sequence[str] = ("\n",),
        advance: Advance | None = None,
    ) -> list[str]:
        """See :meth:`keeps.models.LanguageModel.sample`; servers that know no seeds draw as they like."""
        check_lengths(prompts, seeds, "seeds")
        rule = StopRule(tuple(stop))
        options = {"temperature": temperature, "top_p": top_p, **({"stop": list(stop)[:MOST_STOPS]} if stop else {})}

        def ask(item: tuple[str, int]) -> str:
            return self._asker(_text_of, max_new_tokens, {**options, "seed": item[1]})(item[0])

        return [rule.cut(text) for text in self._each(ask, list(zip(prompts, seeds, strict=True)), advance)]

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """See :meth:`keeps.models.LanguageModel.answer`."""
        if contexts is not None:
            check_lengths(questions, contexts, "contexts")
            questions = [f"{c}\n\n{q}" if c else q for q, c in zip(questions, contexts, strict=True)]
        return [Answer(text) for text in self.generate(questions, sentence=True)]

    def _asker(self, read: Callable[[str, Any], Any], room: int, options: dict[str, Any]) -> Callable[[str], Any]:
        def ask(prompt: str) -> Any:
            if not prompt.strip():
                raise RecordError("the prompt is empty", where=repr(prompt), mend="give a text that is to go on")
            body = {"model": self.chat.model, "prompt": prompt, "max_tokens": room, "temperature": 0.0, **options}
            reply = self.chat.post("/completions", body)
            try:
                return read(prompt, reply)
            except MALFORMED as error:
                what = f"the server's reply to {short(prompt)} is of another form ({type(error).__name__}: {error})"
                raise self.chat.error(what, "check that it speaks the completions protocol") from None

        return ask

    def _each(self, ask: Callable[[Any], Any], texts: Sequence[Any], advance: Advance | None = None) -> list[Any]:
        """``ask`` of every text, several at once, in order."""
        found = []
        with ThreadPoolExecutor(max(self.chat.workers, 1)) as pool:
            for value in pool.map(ask, texts):
                found.append(value)
                if advance:
                    advance(1)
        return found


@dataclass(frozen=True)
class RemoteCompletion(RemoteText):
    """A server that gives the log-probabilities of a prompt: it scores, ranks and reads as a local model does.

    An answer's tokens are those behind the tokens that its prompt has alone. Where the server's tokenizer joins the
    end of a prompt and the beginning of an answer in one token, that token counts as the answer's.
    """

    form: Form
    lengths: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = field(default_factory=dict, compare=False)

    def logprob(
        self, prompts: Sequence[str], answers: Sequence[str], *, advance: Advance | None = None
    ) -> list[AnswerScore]:
        """See :meth:`keeps.models.LanguageModel.logprob`; raises as :meth:`generate`."""
        found = self._scored(prompts, answers, 1, advance)
        return [AnswerScore(logprob, tokens, greedy) for _, logprob, tokens, greedy in found]

    def rank(
        self, prompts: Sequence[str], choices: Sequence[Sequence[str]], *, advance: Advance | None = None
    ) -> list[ChoiceScore]:
        """See :meth:`keeps.models.LanguageModel.rank`; raises as :meth:`generate`."""
        check_lengths(prompts, choices, "choices")
        flat = [(prompt, choice) for prompt, options in zip(prompts, choices, strict=True) for choice in options]
        scores = iter(self.logprob([prompt for prompt, _ in flat], [choice for _, choice in flat], advance=advance))
        return [ChoiceScore.of([next(scores) for _ in options]) for options in choices]

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
        """See :meth:`keeps.models.LanguageModel.ask`; raises as :meth:`generate`."""
        rule = StopRule(tuple(stop), sentence)
        found = self._scored(prompts, answers, max_new_tokens, advance)
        return [Asked(rule.cut(text), logprob, tokens, greedy) for text, logprob, tokens, greedy in found]

    def text_logprob(self, texts: Sequence[str], *, advance: Advance | None = None) -> list[TextScore]:
        """See :meth:`keeps.models.LanguageModel.text_logprob`; each text in one request, so it must fit the context."""
        check_list(texts, "texts")
        reads = self._each(self._reader(1), texts, advance)
        return [TextScore(logprob, tokens) for logprob, _, tokens in (read.rest(1) for read in reads)]

    def encode_pair(self, prompt: str, answer: str) -> tuple[list[Any], list[Any]]:
        """The tokens of a prompt and of its answer as the server cuts them; asked once for each pair."""
        whole = _joined(prompt, answer)
        if whole not in self.lengths:
            alone, both = self._each(self._reader(1), [prompt, whole])
            start = _common(alone.tokens, both.tokens)
            self.lengths[whole] = both.tokens[:start], both.tokens[start:]
        start, rest = self.lengths[whole]
        return list(start), list(rest)

    def _scored(
        self, prompts: Sequence[str], answers: Sequence[str], room: int, advance: Advance | None
    ) -> list[tuple[str, float, int, bool]]:
        """What the model says after each prompt; log-probability, tokens and greediness of the answer there."""
        check_lengths(prompts, answers, "answers")
        for number, answer in enumerate(answers):
            if not answer.strip():
                raise RecordError("the answer is empty", where=f"item {number + 1}", mend="give the text to be scored")
        alone = list(dict.fromkeys(prompts))
        starts = dict(zip(alone, self._each(self._reader(room), alone), strict=True))
        whole = [
            prompt + space_before(prompt, answer) + answer for prompt, answer in zip(prompts, answers, strict=True)
        ]
        found = []
        for prompt, read in zip(prompts, self._each(self._reader(1), whole, advance), strict=True):
            logprob, greedy, tokens = read.rest(_common(starts[prompt].tokens, read.tokens))
            if not tokens:
                raise self.chat.error(f"no token of the answer to {short(prompt)} was scored", "see its log")
            found.append((starts[prompt].text, logprob, tokens, greedy))
        return found

    def _reader(self, room: int) -> Callable[[str], Read]:
        return self._asker(self.form.read, room, self.form.options())


class RemoteModel:
    """What ``openai:URL#MODEL`` names. The server is tried at the first question, and never for the fingerprint.

    Attributes:
        answerer: a :class:`RemoteCompletion`, :class:`RemoteText` or :class:`RemoteChat`, by what the server gives;
            its methods are this one's.
        device: where tensors go that are made for it on this machine.
    """

    device = "cpu"  # a plain attribute: what is not here is looked for in the answerer, which asks the server

    def __init__(self, chat: RemoteChat) -> None:
        self.chat = chat
        self.name = f"{PREFIX}{chat.base_url}#{chat.model}"

    @property
    def fingerprint(self) -> str:
        """Hash of address and model (16 hexadecimal digits): what the server does behind them is its own affair."""
        return hashlib.sha256(f"{self.chat.base_url}\n{self.chat.model}".encode()).hexdigest()[:16]

    @cached_property
    def answerer(self) -> RemoteText | RemoteChat:
        """Found out by a small trial.

        Raises:
            ModelLoadError: the server cannot be reached, or completes neither texts nor turns.
        """
        body = {"model": self.chat.model, "prompt": TRIAL, "max_tokens": 1, "temperature": 0.0}
        for form in (Echo(), PromptLogprobs()):
            reply = self.chat.post("/completions", body | form.options(), refusals=UNKNOWN)
            try:
                plausible = form.read(TRIAL, reply).plausible
            except MALFORMED:
                continue
            if plausible:
                return RemoteCompletion(self.chat, form)
        try:
            _text_of(TRIAL, self.chat.post("/completions", body, refusals=UNKNOWN))
        except MALFORMED:
            self.chat.answer([TRIAL])  # the last form; what is wrong with it is what the user should read
            return self.chat
        return RemoteText(self.chat)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "answerer":
            raise AttributeError(name)
        return getattr(self.answerer, name)


def remote_model(spec: str, **options: Any) -> RemoteModel:
    """The model that ``openai:URL#MODEL`` names; nothing is asked yet.

    The address of a server alone (``http://localhost:8000``) names the one model that it has, for which it is asked.

    Args:
        options: further fields of :class:`RemoteChat`, such as ``timeout``.

    Raises:
        SettingsError: no model is named, or the address is none or holds a password.
        ModelLoadError: no model is named, and the server cannot be reached.
    """
    address, model = address_and_model(spec)
    key = KEY if os.environ.get(KEY) else ""
    chat = RemoteChat(address, model, **{"key_variable": key, "workers": WORKERS, **options})
    if not model:
        names = chat.models()
        if len(names) != 1:
            have = ", ".join(names[:5]) or "none"
            mend = f"write {address}#MODEL"
            raise SettingsError(f"the server has {len(names)} models ({have})", where=spec, mend=mend)
        chat = replace(chat, model=names[0])
    return RemoteModel(chat)


def _text_of(prompt: str, reply: Any) -> str:
    del prompt
    text = reply["choices"][0]["text"]
    if not isinstance(text, str):
        raise TypeError("the text is none")
    return text


def _joined(prompt: str, answer: str) -> str:
    return prompt + space_before(prompt, answer) + answer


def _common(left: Sequence[Any], right: Sequence[Any]) -> int:
    """How many tokens both begin with."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
