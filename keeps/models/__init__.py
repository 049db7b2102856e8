"""Models behind one interface: load by name, score and generate in batches, encode sentences, chat.

Names are imported on first use, so that ``import keeps.models`` costs nothing where no model is run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keeps.models.chat import Chat, LocalChat, Message, Reply
    from keeps.models.encoder import SentenceEncoder
    from keeps.models.language_model import LanguageModel
    from keeps.models.remote import RemoteChat
    from keeps.models.scores import AnswerScore, Asked, ChoiceScore, TextScore

_HOMES = {
    "AnswerScore": "scores",
    "Asked": "scores",
    "Chat": "chat",
    "ChoiceScore": "scores",
    "LanguageModel": "language_model",
    "LocalChat": "chat",
    "Message": "chat",
    "RemoteChat": "remote",
    "Reply": "chat",
    "SentenceEncoder": "encoder",
    "TextScore": "scores",
}

__all__ = [
    "AnswerScore",
    "Asked",
    "Chat",
    "ChoiceScore",
    "LanguageModel",
    "LocalChat",
    "Message",
    "RemoteChat",
    "Reply",
    "SentenceEncoder",
    "TextScore",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"keeps.models.{_HOMES[name]}"), name)
