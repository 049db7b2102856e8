"""What a claim is: a small experiment that repeats a paper's headline effect, and its verdict."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from keeps.claims.parts import Parts, parts_folder, plain
from keeps.contracts import Progress, Run, SilentProgress
from keeps.errors import InputFileError, SettingsError, nearest
from keeps.ledger.workspace import Workspace
from keeps.models.embedded import DEFAULT_MODEL
from keeps.versions import versions

if TYPE_CHECKING:
    from keeps.models import LanguageModel

Size = Literal["default", "full"]
SIZES = ("default", "full")


@dataclass(frozen=True)
class Check:
    """One figure of a claim against its threshold.

    Attributes:
        measured: the figure; ``interval`` its 95 % interval over seeds or questions, if it has one.
        baseline: the figure it is compared with, if it is.
        threshold: in words, fixed before the run.
        note: what the figure means, or why it could not be had.

    Raises:
        ValueError: the check has no name or no threshold, which would make it no check.
    """

    name: str
    measured: float | None
    threshold: str
    holds: bool
    baseline: float | None = None
    interval: tuple[float, float] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.threshold.strip():
            raise ValueError(f"a check needs a name and a threshold, not {self.name!r} and {self.threshold!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Check:
        """A check from its fields as JSON types."""
        return cls(**{**values, "interval": tuple(values["interval"]) if values.get("interval") else None})


@dataclass
class ClaimRun:
    """The circumstances of one run of a claim.

    Attributes:
        data: folder with benchmark files, for claims that use them.
        tables: what lies behind the checks, stored with them; the experiment fills it.
        parts: long steps of the experiment, which an interrupted claim does not take again: ``parts(name, compute)``.
    """

    workspace: Path | None = None
    size: Size = "default"
    data: Path | None = None
    device: str | None = None
    progress: Progress = field(default_factory=SilentProgress)
    tables: dict[str, Any] = field(default_factory=dict)
    parts: Parts = field(default_factory=Parts)

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise SettingsError(f'size is "{self.size}"', where="claim", mend=nearest(self.size, SIZES))

    def model(self, spec: str | Path = DEFAULT_MODEL) -> LanguageModel:
        """A language model on the device of this run; see :meth:`keeps.models.LanguageModel.load`.

        Raises:
            ModelLoadError: it is missing, damaged, or does not fit the device.
        """
        from keeps.models import LanguageModel

        return LanguageModel.load(spec, device=self.device or "cpu", progress=self.progress)

    def inside(self, folder: Path, *, seed: int = 0) -> Run:
        """The circumstances in which a method or a probe works in ``folder``, on the device of this run."""
        return Run(folder, seed=seed, device=self.device or "cpu", progress=self.progress)


@dataclass(frozen=True)
class Claim:
    """A paper's headline effect, as an experiment.

    Attributes:
        card: the system that the claim vouches for.
        statement: what should be seen, in one sentence.
        published: the paper's own figure, with its setting.
        seeds: of the experiment.
        minutes: expected on two CPU cores.
        experiment: yields the checks, in order; may be slow between them.
        aliases: further names that it answers to, such as each of two systems that one experiment shows.
        files: benchmark files that the form on published data reads from the folder given; none where there is no
            such form.
    """

    card: str
    statement: str
    published: str
    paper: str
    seeds: tuple[int, ...]
    minutes: int
    experiment: Callable[[ClaimRun], Iterable[Check]]
    aliases: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """The outcome of one run of a claim, as committed in ``docs/evidence``."""

    card: str
    claim: str
    published: str
    paper: str
    verdict: str
    checks: tuple[Check, ...]
    seeds: tuple[int, ...]
    command: str
    minutes: float
    versions: Mapping[str, Any]
    tables: Mapping[str, Any]

    def to_mapping(self) -> dict[str, Any]:
        """JSON types only; a figure that is no number becomes null. :meth:`from_mapping` reads it."""
        return plain(asdict(self))

    def to_json(self) -> str:
        """The evidence as indented JSON text."""
        return json.dumps(self.to_mapping(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Evidence:
        """Rebuild evidence from :meth:`to_mapping`.

        Raises:
            InputFileError: a field is missing or not known.
        """
        try:
            checks = tuple(Check.from_mapping(check) for check in values["checks"])
            return cls(**{**values, "checks": checks, "seeds": tuple(values["seeds"])})
        except (KeyError, TypeError, ValueError) as error:
            mend = "run `keeps reproduce` again"
            raise InputFileError(f"this is no evidence of a claim ({error})", mend=mend) from None


def run_claim(claim: Claim, run: ClaimRun) -> Evidence:
    """Run the experiment of ``claim``; the verdict is ``holds`` when every check holds.

    Parts of it that an interrupted run has left in the workspace are taken from there.
    """
    data = run.data.resolve() if run.data else None
    run.parts = Parts(parts_folder(Workspace(run.workspace).path, claim.card, (run.size, data, run.device or "cpu")))
    started = time.monotonic()
    checks: list[Check] = []
    for check in claim.experiment(run):
        checks.append(check)
        run.progress.message(f"{'holds' if check.holds else 'does not hold'}: {check.name} {_figure(check)}")
    evidence = Evidence(
        card=claim.card,
        claim=claim.statement,
        published=claim.published,
        paper=claim.paper,
        verdict=verdict(checks),
        checks=tuple(checks),
        seeds=claim.seeds,
        command=_command(claim, run),
        minutes=round((time.monotonic() - started + run.parts.seconds) / 60, 1),
        versions=versions(),
        tables=run.tables,
    )
    run.parts.clear()
    return evidence


def verdict(checks: Sequence[Check]) -> str:
    """``holds``, ``does not hold``, or ``not run`` where there is no check."""
    if not checks:
        return "not run"
    return "holds" if all(check.holds for check in checks) else "does not hold"


def _figure(check: Check) -> str:
    measured = "" if check.measured is None else f"{check.measured:.3g}"
    baseline = "" if check.baseline is None else f" against {check.baseline:.3g}"
    return f"({measured}{baseline}; {check.threshold})"


def _command(claim: Claim, run: ClaimRun) -> str:
    """What to type to repeat the run; where it writes decides nothing."""
    words = ["keeps", "reproduce", claim.card]
    words += ["--size", run.size] if run.size != "default" else []
    return shlex.join([*words, "--data", str(run.data)] if run.data else words)
