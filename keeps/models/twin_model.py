"""A model that is another one for every prompt: a router weighs the tasks, and every row has its own weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from keeps.errors import SettingsError
from keeps.models.batching import pad_right
from keeps.models.checks import check_lengths, check_list
from keeps.models.language_model import LanguageModel
from keeps.models.logits import CHECK_TEXTS
from keeps.models.projection import last_logits
from keeps.models.routed import Route, RoutedModel, Router
from keeps.models.scores import AnswerScore, ChoiceScore, TextScore
from keeps.models.scoring import Engine, Sums, Tokens, Wanted, read_pairs
from keeps.models.task_router import TaskRouter
from keeps.models.twin_layers import Twin
from keeps.numerics.twin import on_grid


class TwinModel(RoutedModel):
    """The shared expert with the exclusive parts that each prompt calls for.

    What scores (``logprob``, ``rank``) feeds prompts of different weights in one forward pass. What continues prompts
    (``ask``, ``generate``, ``sample``) groups them by weight, so that keys and values can be cached. Its ``model``,
    asked directly, is the shared expert. Texts are weighed as prompts are.
    """

    def __init__(
        self,
        base: LanguageModel,
        twin: Twin,
        tasks: tuple[str, ...],
        router: TaskRouter | None,
        *,
        top: bool,
        resolution: int,
        name: str,
        fingerprint: str,
        undo: Callable[[], Any],
    ) -> None:
        self.twin, self.tasks, self.fixed = twin, tasks, None if router is not None else torch.ones(1)
        self._tasks_of, self._top, self._resolution = router, top, resolution
        super().__init__(base, _ByWeights(base, self), name=name, fingerprint=fingerprint, undo=undo)

    def fix(self, weights: str | Mapping[str, float] | None) -> None:
        """Use the same weights for every prompt from now on: a task's name, or a weight a task; None: the router's.

        Raises:
            SettingsError: there is no such task, a weight is not finite, or there is no router to go back to.
        """
        if weights is None and self._tasks_of is None:
            raise SettingsError("with one task there is no router", where="weights", mend="name a weight")
        if weights is None:
            self.fixed = None
            return
        given = {weights: 1.0} if isinstance(weights, str) else dict(weights)
        odd = [name for name in given if name not in self.tasks]
        if odd:
            raise SettingsError(f'there is no task "{odd[0]}"', mend=f"name one of {', '.join(self.tasks)}")
        values = torch.tensor([float(given.get(name, 0.0)) for name in self.tasks])
        if not bool(values.isfinite().all()):
            raise SettingsError("a weight is not finite", where="weights", mend="give numbers")
        self.fixed = values

    def weights(self, prompts: Sequence[str]) -> Tensor:
        """w of each prompt, ``(prompts, tasks)`` float32 on the CPU, as it is used."""
        check_list(prompts, "prompts")
        if self.fixed is not None:
            return self.fixed.expand(len(prompts), -1)
        assert self._tasks_of is not None
        once = list(dict.fromkeys(prompts))
        features = self.base.embed(once)  # of the shared expert: no weights are set meanwhile
        found = self._tasks_of.weights(features.to(self.device), top=self._top).cpu()
        places = {prompt: number for number, prompt in enumerate(once)}
        return on_grid(found, self._resolution)[[places[prompt] for prompt in prompts]]

    def logprob(self, prompts: Sequence[str], answers: Sequence[str], **options: Any) -> list[AnswerScore]:
        """See :meth:`LanguageModel.logprob`; each row of a forward pass has its prompt's weights."""
        if self.router is None or not prompts:
            return LanguageModel.logprob(self, prompts, answers, **options)
        check_lengths(prompts, answers, "answers")
        pairs = self._pairs(prompts, answers)
        weights = self.weights(prompts)
        sums = Sums([0.0] * len(pairs), [True] * len(pairs))

        def read(engine: Engine, rows: list[Tokens], wanted: list[Wanted], state: Any) -> None:
            pair_of = {want.row: want.number for want in wanted}
            with self.twin.mixture.of(weights[[pair_of[row] for row in range(len(rows))]]):
                sums.read(engine, rows, wanted, state)

        with self.twin.mixed(), self._reading() as engine:
            read_pairs(engine, pairs, read, advance=options.get("advance"))
        scores = zip(sums.logprob, sums.greedy, pairs, strict=True)
        return [AnswerScore(logprob, len(answer), greedy) for logprob, greedy, (_, answer) in scores]

    def rank(self, prompts: Sequence[str], choices: Sequence[Sequence[str]], **options: Any) -> list[ChoiceScore]:
        """See :meth:`LanguageModel.rank`."""
        return LanguageModel.rank(self, prompts, choices, **options)

    def text_logprob(self, texts: Sequence[str], **options: Any) -> list[TextScore]:
        """See :meth:`LanguageModel.text_logprob`; each text is weighed as a prompt is."""
        return self._divided("text_logprob", texts, (), options)

    def next_logits(self, prompts: Sequence[str], weights: Tensor | None = None) -> Tensor:
        """Logits behind each prompt, ``(prompts, vocabulary)`` float32 on the CPU: one forward pass for all.

        Args:
            weights: ``(prompts, tasks)`` instead of the router's.
        """
        rows = [self.encode_prompt(prompt) for prompt in prompts]
        chosen = self.weights(prompts) if weights is None else weights
        ids, mask = pad_right(rows, self.encoder.pad_token_id, self.device)
        with self.twin.mixed(), self._reading(), self.twin.mixture.of(chosen):
            return last_logits(self.model, ids, mask).float().cpu()

    def every_task_logits(self) -> list[Tensor]:
        """Logits behind the texts that forms are compared by, of each task's expert."""
        ones = torch.eye(len(self.tasks))
        return [self.next_logits(CHECK_TEXTS, row.expand(len(CHECK_TEXTS), -1)) for row in ones]


class _ByWeights(Router):
    """Groups prompts by their weights."""

    def __init__(self, base: LanguageModel, model: TwinModel) -> None:
        super().__init__(base)
        self.model = model

    def routes(self, prompts: Sequence[str]) -> list[Route | None]:
        """Every prompt goes somewhere: the switch names its weights."""
        return [
            Route(prompt, ",".join(map(repr, row)))
            for prompt, row in zip(prompts, self.model.weights(prompts).tolist(), strict=True)
        ]

    @contextmanager
    def switched(self, switch: str) -> Iterator[LanguageModel]:
        """The model with the same weights for every row."""
        row = torch.tensor([[float(value) for value in switch.split(",")]])
        with self.model.twin.mixture.of(row):
            yield self.base
