"""A model with a memory beside it: prompts that the memory is about are answered with it, all others without.

A *router* decides for each prompt. What it sends nowhere is asked of the unedited model in one call that holds every
prompt of the caller's, so that the answer is bit for bit the one that the unedited model gives when it is asked the
same; what it routes is asked in other words (notes in front), of another model, or with a side memory switched on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

from keeps.contracts import Answer
from keeps.errors import SettingsError
from keeps.models.changes import ChangedModel
from keeps.models.checks import check_lengths
from keeps.models.language_model import LanguageModel
from keeps.models.scores import AnswerScore, Asked, ChoiceScore
from keeps.models.token_scores import TokenScores


@dataclass(frozen=True)
class Route:
    """Where a prompt goes.

    Attributes:
        prompt: what is asked in its place.
        switch: the part of the memory that is on meanwhile; "" where there is but one.
        notes: ids of the notes that are used.
    """

    prompt: str
    switch: str = ""
    notes: tuple[str, ...] = ()


class Router:
    """What a method does with prompts; a method overrides what differs."""

    def __init__(self, base: LanguageModel) -> None:
        self.base = base

    def routes(self, prompts: Sequence[str]) -> list[Route | None]:
        """One a prompt; None: the unedited model answers."""
        return [None] * len(prompts)

    def plain(self, prompt: str) -> str:
        """How the unedited model is asked; the same prompt, unless a method says otherwise."""
        return prompt

    def switched(self, switch: str) -> AbstractContextManager[LanguageModel]:
        """The model that answers routed prompts, ready while the block lasts."""
        del switch
        return nullcontext(self.base)


class RoutedModel(ChangedModel):
    """A LanguageModel whose prompts go through a router; running text and embeddings are the unedited model's.

    ``undo()`` takes the memory away; the model then answers as its base. Token ids say nothing of where a prompt
    ends and a note belongs, so calls that take them are refused.
    """

    def __init__(
        self,
        base: LanguageModel,
        router: Router,
        *,
        name: str,
        fingerprint: str,
        undo: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__(base, base.model, name=name, fingerprint=fingerprint, undo=undo or (lambda: None))
        self.base = base
        self.router: Router | None = router

    def undo(self) -> None:
        """Answer as the unedited model from now on."""
        self.router = None
        super().undo()

    @property
    def unedited(self) -> LanguageModel:
        """The model without its memory, asked as the router asks it when it sends a prompt nowhere."""
        router = self.router
        if router is None or type(router).plain is Router.plain:
            return self.base
        return _Plain(self.base, router)

    def logprob(self, prompts: Sequence[str], answers: Sequence[str], **options: Any) -> list[AnswerScore]:
        """See :meth:`LanguageModel.logprob`; each prompt is routed."""
        check_lengths(prompts, answers, "answers")
        return self._divided("logprob", prompts, (answers,), options)

    def ask(self, prompts: Sequence[str], answers: Sequence[str], **options: Any) -> list[Asked]:
        """See :meth:`LanguageModel.ask`; each prompt is routed."""
        check_lengths(prompts, answers, "answers")
        return self._divided("ask", prompts, (answers,), options)

    def token_logprobs(self, prompts: Sequence[str], answers: Sequence[str], **options: Any) -> list[TokenScores]:
        """See :meth:`LanguageModel.token_logprobs`; each prompt is routed, running text is not."""
        check_lengths(prompts, answers, "answers")
        return self._divided("token_logprobs", prompts, (answers,), options)

    def rank(self, prompts: Sequence[str], choices: Sequence[Sequence[str]], **options: Any) -> list[ChoiceScore]:
        """See :meth:`LanguageModel.rank`; each prompt is routed."""
        check_lengths(prompts, choices, "choices")
        return self._divided("rank", prompts, (choices,), options)

    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
        """See :meth:`LanguageModel.generate`; each prompt is routed."""
        return self._divided("generate", prompts, (), options)

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> list[str]:
        """See :meth:`LanguageModel.sample`; each prompt is routed."""
        check_lengths(prompts, seeds, "seeds")
        return self._divided("sample", prompts, (seeds,), options)

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """As of every LanguageModel; the trace says which notes were used, or that there was a ``fallback``."""
        if contexts is not None:
            check_lengths(questions, contexts, "contexts")
            questions = [f"{c}\n\n{q}" if c else q for q, c in zip(questions, contexts, strict=True)]
        routes = self._routes(questions)
        texts = self._divided("generate", questions, (), {"sentence": True}, routes)
        return [
            Answer(text, trace={"notes": list(route.notes) if route else [], "fallback": route is None})
            for text, route in zip(texts, routes, strict=True)
        ]

    def logprob_encoded(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: see the class."""
        _refuse(self.name, args, options)

    def continue_encoded(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: see the class."""
        _refuse(self.name, args, options)

    def continue_tokens(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: see the class. A chat asks by token ids too."""
        _refuse(self.name, args, options)

    def _routes(self, prompts: Sequence[str]) -> list[Route | None]:
        if self.router is None or not prompts:
            return [None] * len(prompts)
        asked = [number for number, prompt in enumerate(prompts) if prompt.strip()]
        found: list[Route | None] = [None] * len(prompts)
        for number, route in zip(asked, self.router.routes([prompts[n] for n in asked]), strict=True):
            found[number] = route
        return found

    def _divided(
        self,
        call: str,
        prompts: Sequence[str],
        others: tuple[Sequence[Any], ...],
        options: Mapping[str, Any],
        routes: Sequence[Route | None] | None = None,
    ) -> list[Any]:
        routes = self._routes(prompts) if routes is None else routes
        parts: dict[str, list[int]] = {}
        for number, route in enumerate(routes):
            if route is not None:
                parts.setdefault(route.switch, []).append(number)
        found: list[Any] = [None] * len(prompts)
        told = dict(options)
        if not prompts or any(route is None for route in routes):
            plain = [self.router.plain(prompt) if self.router and prompt else prompt for prompt in prompts]
            found = list(getattr(self.base, call)(plain, *others, **told))
            told.pop("advance", None)  # the whole call has been counted
        for switch, numbers in parts.items():
            assert self.router is not None
            with self.router.switched(switch) as reader:
                asked = [route.prompt for n in numbers if (route := routes[n]) is not None]
                values = getattr(reader, call)(asked, *([other[n] for n in numbers] for other in others), **told)
            for number, value in zip(numbers, values, strict=True):
                found[number] = value
        return found


class _Plain(LanguageModel):
    """The unedited model, asked in the router's plain wording."""

    def __init__(self, base: LanguageModel, router: Router) -> None:
        super().__init__(base.model, base.tokenizer, name=base.name)
        self.encoder, self.tokens_per_batch, self.router = base.encoder, base.tokens_per_batch, router
        self._base = base

    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
        return self._base.generate([self.router.plain(prompt) for prompt in prompts], **options)

    def ask(self, prompts: Sequence[str], answers: Sequence[str], **options: Any) -> list[Asked]:
        return self._base.ask([self.router.plain(prompt) for prompt in prompts], answers, **options)


def _refuse(name: str, args: Sequence[Any], options: Mapping[str, Any]) -> NoReturn:
    del args, options
    raise SettingsError(
        "an edit beside the weights is looked up by the prompt's text, and this call gives token ids",
        where=name,
        mend="ask by prompts (ask, logprob, generate), or put the edit into the weights (rome, memit)",
    )
