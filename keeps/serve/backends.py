"""What is served: a model that is asked token by token, or anything that answers texts with texts."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from keeps.contracts import Answer, Answerer
from keeps.models.chat import LocalChat, Usage
from keeps.models.sampling import Softness
from keeps.models.streaming import TextPieces, TokenStream
from keeps.models.tokens import TextEncoder
from keeps.serve.generations import LENGTH, STOP, Generation, TokenGeneration, Whole, WholeGeneration
from keeps.serve.refusals import RefusedError
from keeps.serve.requests import ChatRequest, CompletionRequest, Constrained, Generating

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel


class Backend(Protocol):
    """Turns requests into replies that have not begun yet. Everything is called from one thread."""

    def chat(self, request: ChatRequest, most_tokens: int) -> list[Generation]:
        """One reply a completion that was asked for; ``most_tokens`` is the server's limit."""
        ...

    def complete(self, request: CompletionRequest, most_tokens: int) -> list[Generation]:
        """One reply a prompt and completion: those of a prompt stand together."""
        ...

    def token_text(self, token: int) -> str:
        """A token in a reply's log-probabilities: its text, or its name in the vocabulary where it is no text."""
        ...


def backend_of(answerer: Any) -> Backend:
    """How ``answerer`` is served.

    A model whose weights are what it knows is read token by token. One with something beside its weights (notes that
    are looked up by the prompt's text, solved examples before it) is asked by texts, as probes ask it, so that nothing
    of it is passed over; so is a pipeline that answers questions.
    """
    from keeps.models.changes import ChangedModel
    from keeps.models.language_model import LanguageModel

    if type(answerer) in (LanguageModel, ChangedModel) and type(answerer.encoder) is TextEncoder:
        return ModelBackend(answerer)
    return AnswererBackend(answerer)


class ModelBackend:
    """A language model: chat through its template, completions, log-probabilities, constrained choice."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._chat = LocalChat(model) if getattr(model.tokenizer, "chat_template", None) else None

    def chat(self, request: ChatRequest, most_tokens: int) -> list[Generation]:
        """See :class:`Backend`."""
        if self._chat is None:
            what = "the model has no chat template, so it cannot be talked to"
            raise RefusedError(what, mend="send a prompt to /v1/completions", code="unsupported")
        context = self._chat.encode(request.messages)
        wanted = request.generating
        if request.constrained is not None:
            return [self._choice(request, request.constrained) for _ in range(wanted.count)]
        free = max(self.model.context_length - len(context), 1)
        room = min(most_tokens, free) if wanted.room is None else wanted.room
        return [self._generation(context, wanted, room, number) for number in range(wanted.count)]

    def complete(self, request: CompletionRequest, most_tokens: int) -> list[Generation]:
        """See :class:`Backend`."""
        wanted, found = request.generating, []
        room = most_tokens if wanted.room is None else wanted.room
        for prompt in request.prompts:
            context = self.model.encoder.text(prompt) if isinstance(prompt, str) else self._checked(prompt)
            if not context:
                raise RefusedError("a prompt is empty", mend="give a text that is to go on", param="prompt")
            text = prompt if isinstance(prompt, str) else self.model.encoder.decode(context)
            found += [
                self._generation(context, wanted, room, number, text if request.echo else None)
                for number in range(wanted.count)
            ]
        return found

    def token_text(self, token: int) -> str:
        """See :class:`Backend`; different tokens that are no text by themselves keep different names."""
        text = self.model.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return text if text and "\ufffd" not in text else str(self.model.tokenizer.convert_ids_to_tokens(token))

    def _generation(
        self, context: list[int], wanted: Generating, room: int, number: int, echo: str | None = None
    ) -> TokenGeneration:
        seed = secrets.randbits(62) if wanted.seed is None else wanted.seed + number
        limits: dict[str, Any] = {"max_new_tokens": room, "softness": wanted.softness, "most": wanted.top}
        stream = TokenStream(self.model, context, seed=seed, **limits)
        return TokenGeneration(stream, TextPieces(self.model.encoder.decode, context, wanted.stop), echo)

    def _choice(self, request: ChatRequest, constrained: Constrained) -> WholeGeneration:
        def weigh() -> Whole:
            assert self._chat is not None
            ((score, usage),) = self._chat.weigh([request.messages], [constrained.turns])
            text = constrained.turns[score.best]
            extras = {"choice_logprobs": dict(zip(constrained.choices, score.normalised, strict=True))}
            return Whole(text, Usage(usage.prompt_tokens, self._chat.count_tokens(text)), STOP, extras)

        return WholeGeneration(weigh)

    def _checked(self, prompt: Sequence[int]) -> list[int]:
        size = self.model.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        if not all(0 <= token < size for token in prompt):
            raise RefusedError("a token id is not in the vocabulary", mend=f"give ids below {size}", param="prompt")
        return list(prompt)


class AnswererBackend:
    """Anything that answers: one question a request, in one piece, with what it cites.

    A method that reads passages answers in its own way: what would change nothing (temperature, stop strings, earlier
    turns) is refused, not passed over. A model with a memory beside its weights also goes on texts and draws samples.
    """

    def __init__(self, answerer: Answerer) -> None:
        self.answerer: Any = answerer

    def chat(self, request: ChatRequest, most_tokens: int) -> list[Generation]:
        """See :class:`Backend`; the conversation must be one question."""
        if len(request.messages) != 1 or request.messages[0].role != "user":
            what = "this server answers single questions, and would not read other turns"
            raise RefusedError(what, mend="send one message with the role user", code="unsupported", param="messages")
        if request.constrained is not None:
            _refuse("response_format")
        wanted, question = request.generating, request.messages[0].content
        room = most_tokens if wanted.room is None else wanted.room
        if hasattr(self.answerer, "generate"):
            return [self._text(question, wanted, room, number) for number in range(wanted.count)]
        self._check_plain(wanted)
        return [WholeGeneration(lambda: self._answer(question, room))]

    def complete(self, request: CompletionRequest, most_tokens: int) -> list[Generation]:
        """See :class:`Backend`; only where the answerer goes on texts."""
        if not hasattr(self.answerer, "generate"):
            what = "this server answers questions and completes no texts"
            raise RefusedError(what, mend="send the question to /v1/chat/completions", code="unsupported")
        wanted = request.generating
        if request.echo:
            _refuse("echo")
        if not all(isinstance(prompt, str) for prompt in request.prompts):
            _refuse("prompt")  # token ids say nothing of the text that a memory looks for
        room = most_tokens if wanted.room is None else wanted.room
        texts = [str(prompt) for prompt in request.prompts]
        return [self._text(text, wanted, room, number) for text in texts for number in range(wanted.count)]

    def token_text(self, token: int) -> str:
        """See :class:`Backend`; there are no tokens to name."""
        return str(token)

    def _text(self, prompt: str, wanted: Generating, room: int, number: int) -> WholeGeneration:
        if wanted.top is not None:
            _refuse("logprobs")

        def go_on() -> Whole:
            limits: dict[str, Any] = {"max_new_tokens": room, "stop": wanted.stop}
            if wanted.softness.temperature == 0:
                (text,) = self.answerer.generate([prompt], **limits)
            else:
                seed = secrets.randbits(62) if wanted.seed is None else wanted.seed + number
                (text,) = self.answerer.sample([prompt], [seed], **limits, **vars(wanted.softness))
            read, written = len(self.answerer.encode_prompt(prompt)), _count(self.answerer.tokenizer, text)
            return Whole(text, Usage(read, written), LENGTH if written >= room else STOP)

        return WholeGeneration(go_on)

    def _check_plain(self, wanted: Generating) -> None:
        """Refuse what a method that answers in its own way would not heed; the protocol's defaults are no wish."""
        refused = {
            "logprobs": wanted.top is not None,
            "stop": bool(wanted.stop),
            "n": wanted.count > 1,
            "temperature": wanted.softness not in (Softness(0.0), Softness(1.0)),
        }
        for name, given in refused.items():
            if given:
                _refuse(name)

    def _answer(self, question: str, room: int) -> Whole:
        (answer,) = self.answerer.answer([question])
        text, whole = self._within(answer.text, room)
        counts = [answer.trace.get(name, 0) for name in ("prompt_tokens", "completion_tokens")]
        return Whole(text, Usage(*counts), STOP if whole else LENGTH, {"citations": citations(answer), **cost(answer)})

    def _within(self, text: str, room: int) -> tuple[str, bool]:
        """``text`` within ``room`` tokens of the model that wrote it, and whether that is all of it."""
        tokenizer = getattr(getattr(getattr(self.answerer, "chat", None), "model", None), "tokenizer", None)
        if tokenizer is None:  # of another server: a word is a token or more, so this is the least that is cut
            words = text.split()
            return (text, True) if len(words) <= room else (" ".join(words[:room]), False)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        return (text, True) if len(ids) <= room else (tokenizer.decode(ids[:room]).strip(), False)


def citations(answer: Answer) -> list[dict[str, Any]]:
    """What an answer cites, each with everything that leads back to the stored text."""
    passages = {item["id"]: item for item in answer.trace.get("passages", ())}
    return [dict(passages.get(identity, {"id": identity})) for identity in answer.citations]


def cost(answer: Answer) -> dict[str, Any]:
    """How an answer came about, and at what cost."""
    names = ("method", "stop", "unsupported", "cited_by", "calls", "retrievals", "seconds")
    found = {name: answer.trace[name] for name in names if name in answer.trace}
    return {"grounding": found} if found else {}


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False).input_ids)


def _refuse(name: str) -> None:
    what = f"{name} is not supported by what is served here, so it would do nothing"
    raise RefusedError(what, mend="leave it out", code="unsupported_parameter", param=name)
