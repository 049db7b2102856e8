"""Facts out of written text, for task 5: by the model that wrote it, by one on a server, or sentence by sentence.

The paper uses a strong language model as extractor. A small model cannot extract; ``sentences`` then takes each
sentence as one fact, which is enough since facts are matched by the likeness of their wording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keeps.errors import SettingsError
from keeps.models.chat import Message
from keeps.probe.kgquiz_parse import told_sentences, told_triples
from keeps.probe.kgquiz_scores import Statement

EXTRACTORS = ("model", "sentences", "server")
INSTRUCTION = (
    "Write every fact of the text on a line of its own, as head | relation | tail.\n\n"
    "Text: Oslo, the capital of Norway, lies on a fjord.\n"
    "Facts:\nOslo | is the capital of | Norway\nOslo | lies on | a fjord\n\n"
    "Text: {text}\nFacts:\n"
)
Advance = Callable[[float], object] | None


def extract(
    texts: Sequence[str], extractor: str, answerer: Any, *, room: int, advance: Advance = None
) -> list[list[Statement]]:
    """The facts of each text.

    Args:
        extractor: ``"sentences"``; or ``"model"`` and ``"server"``, by which ``answerer`` extracts.
        answerer: anything that :func:`write` takes.
        room: most new tokens a text.

    Raises:
        SettingsError: the answerer cannot write.
    """
    if extractor == "sentences":
        return [list(told_sentences(text)) for text in texts]
    filled = [number for number, text in enumerate(texts) if text.strip()]
    prompts = [INSTRUCTION.format(text=" ".join(texts[number].split())) for number in filled]
    written = write(answerer, prompts, room=room, stop=("\n\n", "Text:"), advance=advance) if prompts else []
    found: list[list[Statement]] = [[] for _ in texts]
    for number, text in zip(filled, written, strict=True):
        found[number] = list(told_triples(text))
    return found


def write(
    answerer: Any, prompts: Sequence[str], *, room: int, stop: Sequence[str] = (), advance: Advance = None
) -> list[str]:
    """What ``answerer`` writes to each prompt: a model, a chat, or anything that answers in text.

    Args:
        room: most new tokens.
        stop: where a model's text ends; a chat ends by itself.

    Raises:
        SettingsError: it does none of these.
    """
    more = {} if advance is None else {"advance": advance}
    if hasattr(answerer, "generate"):
        return answerer.generate(list(prompts), max_new_tokens=room, stop=tuple(stop), **more)
    if hasattr(answerer, "reply"):
        texts = [reply.text for reply in answerer.reply([[Message("user", p)] for p in prompts], max_new_tokens=room)]
    elif hasattr(answerer, "answer"):
        texts = [answer.text for answer in answerer.answer(list(prompts))]
    else:
        mend = "give a model, a chat or anything with answer()"
        raise SettingsError("this cannot be asked for text", where=type(answerer).__name__, mend=mend)
    if advance is not None:
        advance(len(prompts))
    return texts
