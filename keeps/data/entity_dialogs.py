"""Conversations about entities: turns with what the user wants, and the prompts that a model reads of them.

A file holds one conversation a row, ``{"id": .., "turns": [{"speaker": "user", "text": .., "domain": "hotel", "belief":
{"area": "north"}, "entities": ["alpha lodge"]}, ..]}``. ``belief`` is what is wanted after the turn, ``entities`` are
those whose documents the next reply was made from (both optional; they hold until they are changed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeps.data.entities import ANY, NAME, Entity, EntityBase, folded, harmless_marks
from keeps.data.readers import file_rows
from keeps.data.rows import Row
from keeps.errors import ContextLengthError, EmptySetError, RecordError

SELECT, RESPOND = ":entity_selection:", ":response_generation:"
LABEL, EXPLAIN, RESPONSE = "<entity_label>", "<entity_explanation>", "<response>"
YES, NO = "yes", "no"
SPEAKERS = {"user": "user", "system": "system", "assistant": "system"}
CUTS = ("oldest", "newest")
History = tuple[tuple[str, str], ...]  # speaker and text, the oldest first


@dataclass(frozen=True)
class Reply:
    """A reply of the system and what it was made from.

    Attributes:
        history: what was said before, ending with the user.
        belief: slots and values that the user wants in ``domain``.
        chosen: names of entities whose documents the reply was made from.
    """

    id: str
    history: History
    text: str
    domain: str = ""
    belief: Mapping[str, str] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()

    def latest(self, turns: int) -> Reply:
        """The same with the last ``turns`` turns of what was said before."""
        return Reply(self.id, self.history[-turns:], self.text, self.domain, self.belief, self.chosen)


def read_dialogs(path: str | Path, base: EntityBase | None = None) -> list[Reply]:
    """Every reply of the conversations in a file.

    Args:
        base: what names are checked against.

    Raises:
        InputFileError: the file is missing or damaged.
        RecordError: a turn lacks a speaker or a text, or names an entity that ``base`` lacks.
        EmptySetError: there is no reply.
    """
    found = [reply for number, row in enumerate(file_rows(Path(path)), 1) for reply in _replies(row, number)]
    if not found:
        raise EmptySetError("no turn of the system follows one of the user", where=str(path), mend="add conversations")
    if base is not None:
        check_replies(found, base)
    return found


def check_replies(replies: Sequence[Reply], base: EntityBase) -> None:
    """Refuse replies that name an entity which is not there.

    Raises:
        RecordError: one does.
    """
    known = {(entity.domain, folded(entity.name)) for entity in base}
    for reply in replies:
        wanted = reply.belief.get(NAME, "")
        for name in (*reply.chosen, *([wanted] if folded(wanted) not in ANY else [])):
            if (reply.domain, folded(name)) not in known:
                mend = "add the entity to the table, or correct the name"
                raise RecordError(f'there is no {reply.domain or "entity"} "{name}"', where=reply.id, mend=mend)


def _replies(row: Row, number: int) -> Iterator[Reply]:
    turns = row.values.get("turns")
    if not isinstance(turns, list) or not turns:
        raise row.error("the conversation has no turns", "give a list of speaker and text", "turns")
    identity = str(row.values.get("id") or number)
    history: list[tuple[str, str]] = []
    domain, belief, chosen = str(row.values.get("domain") or ""), {}, ()
    for place, turn in enumerate(turns, 1):
        speaker, text = _said(turn, row, place)
        domain = str(turn.get("domain") or domain)
        if isinstance(turn.get("belief"), Mapping):
            belief = {str(slot): str(value) for slot, value in turn["belief"].items() if value is not None}
        if isinstance(turn.get("entities"), list):
            chosen = tuple(map(str, turn["entities"]))
        if speaker == "system" and history and history[-1][0] == "user":
            yield Reply(f"{identity}:{place}", tuple(history), text, domain, dict(belief), chosen)
        history.append((speaker, text))


def _said(turn: Any, row: Row, place: int) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise row.error(f"turn {place} is no object", "write speaker and text", "turns")
    speaker, text = SPEAKERS.get(str(turn.get("speaker")).casefold()), turn.get("text")
    if speaker is None or not isinstance(text, str) or not text.strip():
        raise row.error(f"turn {place} lacks a speaker (user or system) or a text", "complete it", "turns")
    return speaker, text.strip()


def parse_history(text: str) -> History:
    """A conversation as lines that begin with ``user:`` or ``system:``; a text without them is the user's.

    Raises:
        RecordError: it does not end with the user.

    >>> parse_history("user: hello\\nsystem: yes?\\nuser: a hotel,\\ncheap")
    (('user', 'hello'), ('system', 'yes?'), ('user', 'a hotel, cheap'))
    """
    turns: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        speaker, colon, said = line.partition(":")
        role = SPEAKERS.get(speaker.strip().casefold()) if colon else None
        if role is not None:
            turns.append((role, said.strip()))
        elif turns:
            turns[-1] = (turns[-1][0], f"{turns[-1][1]} {line}".strip())
        else:
            turns.append(("user", line))
    if not turns or turns[-1][0] != "user" or not turns[-1][1]:
        mend = "let it end with a line that begins with user:"
        raise RecordError("the conversation does not end with the user", where=repr(text[-60:]), mend=mend)
    return tuple(turns)


def prompt_of(task: str, history: History, entity: str) -> str:
    """The query prompt of a task, what was said, the entity; then the mark after which the model goes on.

    >>> prompt_of(SELECT, (("user", "a hotel"),), "<db> <slot> name <value> x")
    ':entity_selection: <user> a hotel <db> <slot> name <value> x <entity_label>'
    """
    said = [f"<{speaker}> {harmless_marks(text)}" for speaker, text in history]
    return " ".join(filter(None, [task, *said, entity, LABEL if task == SELECT else RESPONSE]))


def fitted_prompt(
    task: str,
    history: History,
    entity: Entity | None,
    *,
    most: int,
    count: Callable[[str], int],
    cut: str = "oldest",
) -> str:
    """The prompt in at most ``most`` tokens: the oldest turns are left out first, then the last documents.

    The newest turn always stays. With ``cut="newest"`` the newest turns are left out first, as by the published code,
    which cuts conversations at their end.

    Raises:
        ContextLengthError: the last turn and the table alone are longer.
    """
    documents = 0 if entity is None else len(entity.documents)
    while True:
        shown = "" if entity is None else entity.text(documents)
        prompt = prompt_of(task, history, shown)
        if count(prompt) <= most:
            return prompt
        if len(history) > 1:
            history = history[1:] if cut == "oldest" else history[:-1]
        elif documents:
            documents -= 1
        else:
            where = "no entity" if entity is None else entity.id
            mend = "shorten the turn or the table, or raise max_input"
            raise ContextLengthError(f"the last turn and the table exceed {most} tokens", where=where, mend=mend)
