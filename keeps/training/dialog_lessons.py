"""What one model learns to do both tasks: find the entity, then answer with all that is known about it.

Every lesson is a prompt and its answer, so that any method of ``keeps adapt`` learns them (Mishra et al. 2023,
arXiv:2210.07295, trains all weights of BART; the marks are plain text here, because an adapter trains no embeddings)::

    :entity_selection: <user> .. <system> .. <user> .. ENTITY <entity_label>     yes | no
    :response_generation: <user> .. <system> .. <user> .. ENTITY <response>      the reply

Positive lessons are oracle entities, negative ones the rest of their universe (:mod:`keeps.training.dialog_labels`).
The paper mixes 4 positive, 4 negative and 8 response lessons in every batch; here a set of lessons holds them in this
ratio, and the training loop's shuffle mixes them in every batch on average.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from keeps.data.entities import Entity, EntityBase
from keeps.data.entity_dialogs import EXPLAIN, NO, RESPOND, SELECT, YES, Reply, fitted_prompt
from keeps.data.records import Example, RecordSet
from keeps.errors import EmptySetError, SettingsError
from keeps.training.dialog_labels import best_entity, met, oracle, universe
from keeps.weights.files import atomic_write_bytes

Count = Callable[[str], int]
CHARACTERS = 4  # a token, where nothing counts them


@dataclass(frozen=True)
class Lessons:
    """How lessons are made.

    Attributes:
        positive, negative, responses: their ratio; 0 leaves a task out (separate models for the two tasks).
        num_turns: turns of the conversation that are read.
        least: fewest candidates of a reply.
        most: longest prompt, in tokens.
        explain: whether the label is followed by what matched.

    Raises:
        SettingsError: a number is negative or all are 0.
    """

    positive: int = 4
    negative: int = 4
    responses: int = 8
    num_turns: int = 6
    least: int = 10
    most: int = 1024
    explain: bool = False

    def __post_init__(self) -> None:
        ratio = (self.positive, self.negative, self.responses)
        if min(ratio) < 0 or not any(ratio) or min(self.num_turns, self.least, self.most) < 1:
            mend = "give a ratio of at least one lesson, one turn and one candidate"
            raise SettingsError(f"lessons in the ratio {ratio}", where="Lessons", mend=mend)


def estimated(text: str) -> int:
    """Tokens of ``text`` where no tokenizer is at hand, rather too many than too few."""
    return len(text) // CHARACTERS + 1


def dialog_lessons(
    replies: Sequence[Reply],
    base: EntityBase,
    full: EntityBase | None = None,
    how: Lessons | None = None,
    *,
    count: Count = estimated,
    seed: int = 0,
) -> RecordSet:
    """Lessons of both tasks from ``replies`` over the knowledge ``base``.

    Every reply is a response lesson once. Selection lessons are drawn without repetition as the ratio asks; without
    response lessons there are as many of them as replies.

    Args:
        full: the tables before anything moved; ``base`` itself where nothing did.
        count: tokens of a text, such as ``len`` of ``LanguageModel.encode_prompt``.

    Raises:
        EmptySetError: no lesson can be made.
        ContextLengthError: an entity's table alone is too long.
    """
    how, full = how or Lessons(), full or base
    chance = random.Random(f"lessons:{seed}")
    spoken: list[Example] = []
    labelled: dict[str, list[tuple[Reply, Entity]]] = {YES: [], NO: []}
    for reply in (item.latest(how.num_turns) for item in replies):
        right = oracle(reply, full)
        names = {entity.id for entity in right}
        if how.responses:
            best = best_entity(reply, right, seed=seed)
            spoken.append(_response(reply, None if best is None else base.by_id.get(best.id), how, count))
        for entity in universe(reply, base, right, least=how.least, seed=seed) if right else ():
            labelled[YES if entity.id in names else NO].append((reply, entity))
    rounds = len(replies) / (how.responses or how.positive + how.negative)
    chosen = [*spoken]
    for label, share in ((YES, how.positive), (NO, how.negative)):
        drawn = chance.sample(labelled[label], min(round(rounds * share), len(labelled[label])))
        chosen += [_selection(reply, entity, label, how, count) for reply, entity in drawn]
    if not chosen:
        raise EmptySetError("no lesson can be made", where=base.source, mend="give replies with a belief or entities")
    chance.shuffle(chosen)
    return RecordSet(f"dialog lessons over {base.source}", tuple(chosen))


def write_lessons(path: str | Path, lessons: RecordSet) -> None:
    """Write lessons as the JSONL that ``keeps adapt --learn FILE`` reads."""
    rows = [{k: v for k, v in asdict(record).items() if k in ("id", "prompt", "answer")} for record in lessons]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic_write_bytes(path, text.encode())


def _response(reply: Reply, entity: Entity | None, how: Lessons, count: Count) -> Example:
    prompt = fitted_prompt(RESPOND, reply.history, entity, most=how.most, count=count)
    return Example(f"{reply.id}:response", prompt, " ".join(reply.text.split()))


def _selection(reply: Reply, entity: Entity, label: str, how: Lessons, count: Count) -> Example:
    prompt = fitted_prompt(SELECT, reply.history, entity, most=how.most, count=count)
    answer = f"{label} {EXPLAIN} {explanation(reply, entity)}" if how.explain else label
    return Example(f"{reply.id}:{entity.id}", prompt, answer)


def explanation(reply: Reply, entity: Entity) -> str:
    """What of the belief matched.

    >>> from keeps.data.entity_dialogs import Reply
    >>> reply = Reply("1", (("user", "hi"),), "ok", "hotel", {"area": "north", "stars": "4"})
    >>> explanation(reply, Entity("hotel", "x", {"area": "north", "stars": "2"}))
    'area matched, stars did not'
    """
    yes, no = met(reply, entity)
    parts = [f"{' and '.join(slots)} {verb}" for slots, verb in ((yes, "matched"), (no, "did not")) if slots]
    return ", ".join(parts) or "nothing was asked for"
