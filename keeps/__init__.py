"""keeps changes what a pretrained model knows, and shows what it learned, kept and lost.

    import keeps

    outcome = keeps.adapt(learn="world:unknown:capital", keep="world:known", method="corda")
    print(outcome.diff)

Everything public is found here and loaded when first used, so ``import keeps`` costs milliseconds.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from keeps.versions import __version__ as __version__

if TYPE_CHECKING:
    from keeps.claims import reproduce as reproduce
    from keeps.contracts import Answer as Answer
    from keeps.contracts import Change as Change
    from keeps.contracts import Method as Method
    from keeps.contracts import Probe as Probe
    from keeps.contracts import Question as Question
    from keeps.contracts import Row as Row
    from keeps.contracts import Run as Run
    from keeps.data.records import Dialogue as Dialogue
    from keeps.data.records import Example as Example
    from keeps.data.records import Fact as Fact
    from keeps.data.records import Passage as Passage
    from keeps.data.records import Preference as Preference
    from keeps.data.records import RecordSet as RecordSet
    from keeps.data.select import load_records as load_records
    from keeps.errors import KeepsError as KeepsError
    from keeps.jobs import adapt as adapt
    from keeps.jobs import compare as compare
    from keeps.jobs import diff as diff
    from keeps.jobs import edit as edit
    from keeps.jobs import export as export
    from keeps.jobs import ground as ground
    from keeps.jobs import merge as merge
    from keeps.jobs import probe as probe
    from keeps.jobs import unlearn as unlearn
    from keeps.ledger import KnowledgeDiff as KnowledgeDiff
    from keeps.ledger import Ledger as Ledger
    from keeps.models import LanguageModel as LanguageModel
    from keeps.registry import find_method as find_method
    from keeps.registry import method as method
    from keeps.registry import methods as methods
    from keeps.settings import Settings as Settings
    from keeps.settings import setting as setting

# Public name -> the module that defines it.
_HOMES = {
    **dict.fromkeys(("Answer", "Change", "Method", "Probe", "Question", "Row", "Run"), "keeps.contracts"),
    **dict.fromkeys(("Dialogue", "Example", "Fact", "Passage", "Preference", "RecordSet"), "keeps.data.records"),
    "load_records": "keeps.data.select",
    "KeepsError": "keeps.errors",
    **dict.fromkeys(
        ("adapt", "compare", "diff", "edit", "export", "ground", "merge", "probe", "unlearn"), "keeps.jobs"
    ),
    "reproduce": "keeps.claims",
    **dict.fromkeys(("KnowledgeDiff", "Ledger"), "keeps.ledger"),
    "LanguageModel": "keeps.models",
    **dict.fromkeys(("find_method", "method", "methods"), "keeps.registry"),
    **dict.fromkeys(("Settings", "setting"), "keeps.settings"),
}
# Names that are a function here and a room of the house as well: `keeps.adapt(...)`, `keeps.adapt.corda`.
_ROOMS_THAT_ARE_CALLED = ("adapt", "edit", "ground", "merge", "probe", "unlearn")


class _Verb(ModuleType):
    """A package of keeps that can be called: the call goes to the public function of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    @property
    def __wrapped__(self) -> Any:  # inspect.signature and help() follow this name
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_HOMES[name]), name)


class _Keeps(ModuleType):
    """The top package. Python binds an imported sub-package on it: the moment to make that one callable."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _ROOMS_THAT_ARE_CALLED and type(value) is ModuleType:
            value.__class__ = _Verb
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name in _ROOMS_THAT_ARE_CALLED:
        return importlib.import_module(f"keeps.{name}")  # importing binds it, callable, on this package
    if name not in _HOMES:
        raise AttributeError(f"module 'keeps' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


sys.modules[__name__].__class__ = _Keeps
