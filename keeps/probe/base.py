"""What a probing system is: data in, questions out; the rows of one model or several in, measures out.

A system is a class with the decorator ``@method(NAME, verb="probe", ...)`` and a ``Settings``. ``probe`` reads the
data, refuses what is wrong with it, and returns a :class:`keeps.contracts.Probe`; nothing of a model is loaded
before. ``measure`` makes figures of the rows, alone or of several models side by side, and ``draw`` a picture. Rows
are stored, measures are made of them again whenever they are wanted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from keeps.contracts import Probe, Row
from keeps.data.records import RecordSet
from keeps.ledger.tables import Table
from keeps.registry import MethodInfo
from keeps.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Selection:
    """What is asked, as users say it.

    Attributes:
        data: built-in sets or files; None for what the system asks by itself.
        seed: of every random choice: samples, negatives, shots.
        limit: most questions, shared out over the groups; None asks all.
        marks: fact id to ``"known"``, ``"uncertain"`` or ``"unknown"`` for the model at hand; None for those of
            the default model.
    """

    data: str | RecordSet | None = None
    seed: int = 0
    limit: int | None = None
    marks: Mapping[str, str] | None = None


@dataclass(frozen=True)
class ModelRows:
    """The rows of one model, which people call ``name``."""

    name: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Measure:
    """One figure.

    Attributes:
        metric: its definition in a name, such as ``"blank.semantic_match"``.
        group: what it is measured on; ``"all"`` pools everything.
        value: None where it is not defined, and ``note`` says why.
        n: questions behind it.
        low, high: its 95 % interval, where it has one.
        unit: ``"share"`` in [0, 1], ``"nats"``, ``"bits"``, ...
        model: what people call the model.
    """

    metric: str
    group: str
    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    unit: str = "share"
    model: str = ""
    seed: int = 0
    note: str = ""


@dataclass(frozen=True)
class Findings:
    """What the rows say: every figure, and the tables that people read."""

    measures: tuple[Measure, ...]
    tables: tuple[Table, ...] = ()


class ProbingSystem(ABC):
    """Base of all probing systems; a subclass sets ``Settings`` and writes ``probe``.

    Attributes:
        default_data: what is asked where no data is named.
        fewest_models: models without which there is nothing to measure.
    """

    Settings: ClassVar[type[Settings]]
    info: ClassVar[MethodInfo]
    default_data: ClassVar[str] = "world"
    fewest_models: int = 1  # settings may ask for more

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @abstractmethod
    def probe(self, selection: Selection) -> Probe:
        """The questions, chosen and checked.

        Raises:
            KeepsError: a bad set, file or record; a limit that leaves nothing.
        """

    def measure(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
        """Accuracy by group with intervals, and paired tests of the first model against each other one."""
        from keeps.probe.findings import rates

        return rates(asked, seed=seed)

    def draw(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Figure | None:
        """A picture of the same figures; None where there is nothing to draw."""
        from keeps.probe.findings import draw_rates

        return draw_rates(self.measure(asked, seed=seed).measures)

    def write(self, folder: Path, asked: Sequence[ModelRows], *, seed: int = 0) -> None:
        """Put files of the system's own beside its page, such as a map; by default there are none."""
        del folder, asked, seed
