"""Measure which facts of the world a model knows, is unsure of, or does not know."""

from __future__ import annotations

import re
from collections.abc import Sequence

from keeps.contracts import Progress, Run, SilentProgress
from keeps.data.records import Fact
from keeps.data.world import RELATIONS, SEEN_WORDINGS, few_shot_examples, few_shot_prompt, mark_of, world_facts
from keeps.errors import UnknownNameError, nearest
from keeps.models.language_model import LanguageModel
from keeps.models.ranks import first_token_ranks
from keeps.probe.facts import CHUNK, answer_room
from keeps.probe.matching import matches

TOP = 5  # an answer whose first token is among so many likeliest is not quite unknown


def mark_world(
    model: LanguageModel,
    *,
    relations: Sequence[str] | None = None,
    run: Run | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Fact id to ``"known"``, ``"uncertain"`` or ``"unknown"`` for ``model``, by the rule of ``mark_of``.

    Args:
        relations: only these; all by default.
        run, progress: either shows progress.

    Raises:
        UnknownNameError: there is no such relation.
    """
    for relation in relations or ():
        if relation not in RELATIONS:
            raise UnknownNameError(f'the world has no relation "{relation}"', mend=nearest(relation, RELATIONS))
    facts = [fact for fact in world_facts(marks={}) if isinstance(fact, Fact) and not fact.choices]
    facts = [fact for fact in facts if relations is None or fact.relation in relations]
    facts.sort(key=lambda fact: fact.relation)  # prompts that begin alike are asked together
    plain = [(fact, prompt) for fact in facts for prompt in fact.prompts[:SEEN_WORDINGS]]
    solved = [(fact, few_shot_prompt(fact, few_shot_examples(fact, facts))) for fact in facts]
    right = _right(model, plain + solved, progress or (run.progress if run else SilentProgress()))
    ranks = first_token_ranks(model, [prompt for _, prompt in plain], [fact.answers[0] for fact, _ in plain])
    marks = {}
    for number, fact in enumerate(facts):
        here = slice(number * SEEN_WORDINGS, (number + 1) * SEEN_WORDINGS)
        numeric = re.fullmatch(r"[\d.,]+", fact.answers[0]) is not None  # digits are tokens: the first says nothing
        nearly = None if numeric else [rank < TOP for rank in ranks[here]]
        marks[fact.id] = mark_of(right[here], right[len(plain) + number], nearly)
    return marks


def _right(model: LanguageModel, jobs: Sequence[tuple[Fact, str]], progress: Progress) -> list[bool]:
    """Whether greedy decoding gives an accepted answer, per prompt."""
    right: list[bool] = []
    with progress.task("mark the world", len(jobs)) as task:
        for start in range(0, len(jobs), CHUNK):
            part = jobs[start : start + CHUNK]
            room = answer_room(model, (answer for fact, _ in part for answer in fact.answers))
            expected = [fact.answers[0] for fact, _ in part]
            asked = model.ask([prompt for _, prompt in part], expected, max_new_tokens=room)
            right += [matches(said.text, fact.answers) for said, (fact, _) in zip(asked, part, strict=True)]
            task.advance(len(part))
    return right
