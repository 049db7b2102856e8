"""Which merge to take: methods and weights are tried under a budget, and judged on the parents' own questions.

A score is normalised: 100 is as many of a parent's own questions as that parent answers. What is chosen is chosen on
the questions whose subjects are not held out, and what is reported of the choice is asked about the held-out ones,
so that the best of many trials is not praised for luck.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Progress, SilentProgress
from keeps.data.records import RecordSet
from keeps.errors import SettingsError, UnknownNameError, nearest
from keeps.jobs.folders import check_new
from keeps.jobs.merging import merge
from keeps.jobs.merging_learned import load_plain, named_model, takes_fine_tunes
from keeps.jobs.merging_sources import folder_of
from keeps.jobs.suggesting_ways import Trial, shown, ways
from keeps.numerics.fronts import undominated
from keeps.registry import find_method
from keeps.weights.files import check_writable

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel


@dataclass(frozen=True)
class Suggestion:
    """What was tried and what is best.

    Attributes:
        parents: share of its own questions that each parent answers, in [0, 1].
        trials: in the order in which they were made.
        best: of the highest mean, then of the highest worst score.
        held_out: normalised scores of the best on questions that it was not chosen by; empty where there are too few.
        words: the words of the command that makes it, without ``--out``.
    """

    parents: Mapping[str, float]
    trials: tuple[Trial, ...]
    best: Trial
    held_out: Mapping[str, float]
    words: tuple[str, ...]


@dataclass(frozen=True)
class _Judge:
    """Questions of each parent, and how many of them it answers itself."""

    chosen: Mapping[str, RecordSet]
    held_out: Mapping[str, RecordSet]
    own: Mapping[str, Mapping[str, float]]  # "chosen" / "held_out" -> parent -> share

    def scores(self, model: Any, part: str = "chosen") -> dict[str, float]:
        sets = self.chosen if part == "chosen" else self.held_out
        return {name: 100 * share_answered(model, asked) / self.own[part][name] for name, asked in sets.items()}


def suggest(
    models: Sequence[str],
    base: str,
    *,
    probes: Mapping[str, str | Path | RecordSet],
    texts: Mapping[str, Any] | None = None,
    trials: int = 12,
    minutes: float | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str | None = None,
    workspace: str | Path | None = None,
    progress: Progress | None = None,
) -> Suggestion:
    """Try ways to merge ``models`` and say which is best for all of them.

    >>> suggest(["law=./a", "math=./b"], "./base", probes={"law": "l.jsonl", "math": "m.jsonl"})  # doctest: +SKIP

    Args:
        models: as for :func:`keeps.jobs.merging.merge`; ``NAME=MODEL`` names one.
        probes: by name, questions that the model was made to answer.
        texts: by name, for methods that measure models on texts, which are tried too then.
        trials: most merges that are made.
        minutes: no merge is begun that would probably end later.
        out: new folder for ``suggest.json`` and ``front.png``.

    Raises:
        SettingsError: fewer than two models, no budget, or a parent that answers none of its own questions.
        UnknownNameError: questions of a model that there is not.
        KeepsError: anything else that a merge refuses.
    """
    from keeps.models.fine_tunes import FineTune, check_fine_tunes

    named = [named_model(word) for word in models]
    if len(named) < 2 or trials < 1 or (minutes is not None and minutes <= 0):
        what = "one model needs no merge" if len(named) < 2 else "there is no budget"
        raise SettingsError(what, where="keeps merge suggest", mend="name two models or more, and one trial or more")
    _check_probes([name for name, _ in named], probes)
    tuned = [FineTune(name, folder_of(model, workspace)) for name, model in named]
    check_fine_tunes(tuned)
    if out is not None:
        check_new(out)
        check_writable(Path(out).expanduser().parent)
    progress = progress or SilentProgress()
    model = load_plain(base, device, workspace, progress)
    judge = _judge(model, tuned, probes, progress)
    made = {"models": models, "base": base, "texts": texts, "seed": seed, "workspace": workspace, "device": device}
    found: list[Trial] = []
    best: tuple[dict[str, float], Trial] | None = None
    started, longest = time.perf_counter(), 0.0
    with progress.task("trying merges", trials) as bar:
        for method, settings in ways(found, [name for name, _ in named], trials, texts=bool(texts)):
            if minutes is not None and found and time.perf_counter() - started + longest > 60 * minutes:
                break
            begun = time.perf_counter()
            progress.message(f"trying {Trial(method, settings, {}, 0.0).label}")
            with merged_by(model, method, settings, made) as merged:
                trial = Trial(method, settings, judge.scores(merged), time.perf_counter() - begun)
                if best is None or (trial.mean, trial.worst) > (best[1].mean, best[1].worst):
                    best = judge.scores(merged, "held_out"), trial
            found.append(trial)
            longest = max(longest, time.perf_counter() - begun)
            bar.advance()
    assert best is not None
    fronts = undominated([[trial.scores[name] for name in judge.chosen] for trial in found])
    marked = tuple(replace(trial, front=front) for trial, front in zip(found, fronts, strict=True))
    words = (*models, "--base", base, *_words(best[1], texts))
    chosen = marked[found.index(best[1])]
    suggestion = Suggestion(judge.own["chosen"], marked, chosen, best[0], words)
    if out is not None:
        _write(suggestion, Path(out).expanduser())
    return suggestion


def share_answered(model: Any, records: RecordSet) -> float:
    """Mean share of the wordings that are answered rightly, in [0, 1]."""
    from keeps.probe.facts import FactProbe

    rows = FactProbe(records.questions())(model)
    return sum(row.score for row in rows) / len(rows)


def _check_probes(names: Sequence[str], probes: Mapping[str, Any]) -> None:
    for name in probes:
        if name not in names:
            what = f'there are questions of "{name}", and no model of that name'
            raise UnknownNameError(what, mend=nearest(name, names))
    lacking = [name for name in names if name not in probes]
    if lacking:
        what = f'"{lacking[0]}" has no questions to be judged by'
        raise SettingsError(what, where="probes", mend=f"give some: --probe {lacking[0]}=FILE")


def _judge(model: LanguageModel, tuned: Sequence[Any], probes: Mapping[str, Any], progress: Progress) -> _Judge:
    """Ask every parent its own questions."""
    from keeps.jobs.merging_learned import with_texts
    from keeps.models.adapters import overwritten
    from keeps.models.fine_tunes import Deltas
    from keeps.models.merged_files import tuned_values

    asked = {item.name: item.records for item in with_texts(tuned, probes, model, progress)}
    sets = {name: records for name, records in asked.items() if records is not None}
    held_out = {name: records.part("test") for name, records in sets.items()}
    chosen = {name: records.part("train", "validation") for name, records in sets.items()}
    if not all(part.questions() for part in (*held_out.values(), *chosen.values())):
        chosen, held_out = sets, {}
    own: dict[str, dict[str, float]] = {"chosen": {}, "held_out": {}}
    parameters = dict(model.model.named_parameters())
    for item in tuned:
        with overwritten(parameters, tuned_values(model, Deltas(model, item))):
            own["chosen"][item.name] = share_answered(model, chosen[item.name])
            if held_out:
                own["held_out"][item.name] = share_answered(model, held_out[item.name])
        if own["chosen"][item.name] == 0:
            what = f'"{item.name}" answers none of its own questions, so that nothing can be lost of it'
            raise SettingsError(what, where="probes", mend="give questions that it was made to answer")
    if held_out and not all(own["held_out"].values()):
        held_out, own["held_out"] = {}, {}
    return _Judge(chosen, held_out, own)


@contextmanager
def merged_by(
    model: LanguageModel, method: str, settings: Mapping[str, Any], made: Mapping[str, Any]
) -> Iterator[LanguageModel]:
    """A merge that is thrown away afterwards.

    Args:
        made: arguments of :func:`keeps.jobs.merging.merge` but for method, settings and ``out``.
    """
    from keeps.models.checkpoint_files import load_checkpoint
    from keeps.models.language_model import LanguageModel

    left_out = () if takes_fine_tunes(find_method(method, "merge")) else ("texts", "device")
    given = {key: value for key, value in made.items() if key not in left_out}
    with tempfile.TemporaryDirectory(prefix="keeps-suggest-") as folder:
        out = Path(folder) / "merged"
        merge(method=method, settings=settings, out=out, **given)
        yield LanguageModel(load_checkpoint(out, model.model), model.tokenizer, name=method)


def _words(trial: Trial, texts: Mapping[str, Any] | None) -> list[str]:
    words = ["--method", trial.method]
    for key, value in trial.settings.items():
        flag = key.replace("_", "-")
        words += [f"--{flag}"] if value is True else [f"--{flag}", shown(value)]
    if takes_fine_tunes(find_method(trial.method, "merge")):
        words += [word for name, spec in (texts or {}).items() for word in ("--texts", f"{name}={spec}")]
    return words


def _write(suggestion: Suggestion, out: Path) -> None:
    import json
    from dataclasses import asdict

    from keeps.ledger.figures import save_figure
    from keeps.ledger.front_plot import draw_front
    from keeps.weights.files import atomic_folder, atomic_write_bytes

    with atomic_folder(out) as folder:
        atomic_write_bytes(folder / "suggest.json", (json.dumps(asdict(suggestion), indent=1) + "\n").encode())
        save_figure(draw_front([(t.label, t.scores, t.front) for t in suggestion.trials]), folder / "front.png")
