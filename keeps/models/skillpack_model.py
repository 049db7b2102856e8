"""Several packs on one base, one of them at a time: a router says which skill a prompt needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from keeps.errors import SettingsError, nearest
from keeps.models.language_model import LanguageModel
from keeps.models.routed import Route, RoutedModel, Router
from keeps.models.skillpack_files import SkillPackChange, attached
from keeps.models.task_router import StoredRouter


class PackRouter(Router):
    """Sends each prompt to the pack of the most likely task; unlikely ones to the base.

    Attributes:
        least: probability that a pack needs; below it the base answers.
        task: sends every prompt to this pack (task-id routing) where it is not None; ``""`` to the base.
    """

    def __init__(
        self,
        base: LanguageModel,
        packs: Mapping[str, SkillPackChange],
        learned: StoredRouter | None,
        *,
        least: float = 0.0,
    ) -> None:
        super().__init__(base)
        self.packs, self.learned, self.least = dict(packs), learned, least
        self.task: str | None = None if learned is not None else ""

    def routes(self, prompts: Sequence[str]) -> list[Route | None]:
        """One a prompt; None: the base answers."""
        if self.task is not None:
            return [Route(prompt, self.task) if self.task else None for prompt in prompts]
        assert self.learned is not None
        best = self.learned.router.weights(self.base.embed(prompts)).max(1)
        names = [self.learned.names[number] for number in best.indices.tolist()]
        sure = (best.values >= self.least).tolist()
        return [Route(p, name) if ok else None for p, name, ok in zip(prompts, names, sure, strict=True)]

    @contextmanager
    def switched(self, switch: str) -> Iterator[LanguageModel]:
        """The base with one pack attached."""
        with attached(self.base, [(self.packs[switch], 1.0)]) as model:
            yield model


class FusedModel(RoutedModel):
    """A base with packs that are attached as prompts need them."""

    def __init__(self, base: LanguageModel, router: PackRouter) -> None:
        digest = hashlib.sha256(base.fingerprint.encode())
        for name, change in sorted(router.packs.items()):
            digest.update(f"{name}:{change.fingerprint}".encode())
        super().__init__(
            base, router, name=f"{base.name} with {len(router.packs)} packs", fingerprint=digest.hexdigest()[:16]
        )
        self._packs = router

    def named(self, prompts: Sequence[str]) -> list[str]:
        """The pack that each prompt goes to; ``""``: the base."""
        return [route.switch if route is not None else "" for route in self._packs.routes(prompts)]

    def use(self, task: str | None) -> None:
        """Answer everything with the pack of ``task``; ``""``: with the base; None: as the router says.

        Raises:
            SettingsError: there is no such pack, or no router.
        """
        if task is None and self._packs.learned is None:
            raise SettingsError("no router was trained", mend="give prompts of each task, or name a task")
        if task and task not in self._packs.packs:
            raise SettingsError(f'there is no pack "{task}"', mend=nearest(task, self._packs.packs))
        self._packs.task = task
