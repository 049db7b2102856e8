"""Every method of `keeps adapt` on a job: what it learned against what it kept, each at its own best rate.

    python benchmarks/front.py --workspace front --out front
    python benchmarks/front.py --workspace front --out front --job skill

The job `facts` is that of the claims `baselines` and `null_lora` (calling codes that the model does not know are
taught, facts that it knows and that no method has seen are asked), and so are the rule by which a rate is chosen, on
other facts than those reported, and the seeds. The job `skill` teaches 1,000 dates in one pass and asks 100 others (see
`keeps/claims/skill.py`). Runs that are in the workspace already are not repeated; an interrupted run continues.
Full fine-tuning has a grid of a tenth of the rates, as its default rate is a tenth of an adapter's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from keeps.claims.base import ClaimRun
from keeps.claims.baselines import RATES, SEEDS, START, front, report, small_job
from keeps.claims.baselines import VARIANTS as BASELINES
from keeps.claims.job import Outcome, Variants
from keeps.claims.null_lora import OUR_START
from keeps.claims.null_lora import VARIANTS as NULL_LORA
from keeps.claims.skill import skill_job
from keeps.cli.progress import LineProgress
from keeps.ledger.figures import MUTED, PALETTE, PAPER, WIDTH, dress, new_figure, save_figure
from keeps.ledger.labels import place_labels
from keeps.models.language_model import LanguageModel
from keeps.numerics.statistics import mean_interval
from keeps.weights.files import atomic_write_bytes

STARTS: Variants = {name: (name, {}) for name in ("dora", "pissa", "milora", "olora", "eva", "lora_ga")}
OTHERS: Variants = {
    "corda, instruction previewed": ("corda", {"mode": "ipm"}),
    "kasa, least used": ("kasa", {"truncation": "least_used"}),
    "dynamic_rank": ("dynamic_rank", {"stop_loss": None}),  # its thresholds rise over a number of steps known before
    "loramoe": ("loramoe", {}),
    "loftq, 4 bits": ("loftq", {"bits": 4}),
    "full": ("full", {}),
}
VARIANTS: Variants = {**BASELINES, **NULL_LORA, **STARTS, **OTHERS}
JOBS = {"facts": small_job, "skill": skill_job}
TITLES = {"facts": "Ten new facts", "skill": "Dates in ISO form"}
LEARNED = {"facts": "new facts answered in an unseen wording (%)", "skill": "other dates converted (%)"}
OURS = tuple(name for name in NULL_LORA if name.startswith("null_lora"))


def grid_of(name: str) -> tuple[Sequence[float], float]:
    """The rates of a variant, and where its search begins."""
    if name == "full":
        return [rate / 10 for rate in RATES], START / 10
    return RATES, OUR_START if name in OURS else START


def measured(task: str, names: Sequence[str], run: ClaimRun) -> dict[str, list[Outcome]]:
    """The outcomes of each variant at its best rate, a seed each."""
    model = LanguageModel.load(progress=run.progress)
    job = JOBS[task](model, run, VARIANTS, f"python benchmarks/front.py --job {task}")
    job.disjoint()
    return report(job, {name: job.climb(name, *grid_of(name))[0] for name in names})


def draw(task: str, found: Mapping[str, Sequence[Outcome]], path: Path) -> None:
    """What is answered in an unseen wording, or of the exam, against what is kept; 95 % intervals over seeds."""
    figure = new_figure(WIDTH, 5.6)
    axes = figure.add_subplot()
    title = f"{TITLES[task]}, {len(SEEDS)} seeds, every method at its best rate"
    dress(axes, x=LEARNED[task], y="known facts still right (%)", title=title)
    places = []
    for number, (name, side) in enumerate(found.items()):
        x, y = (mean_interval([100 * getattr(one, axis) for one in side]) for axis in ("unseen", "kept"))
        colour = PALETTE[number % len(PALETTE)]
        for estimate, ends in ((x, lambda v, y=y: (v, y.value)), (y, lambda v, x=x: (x.value, v))):
            if estimate.low is not None and estimate.high is not None:
                low, high = max(estimate.low, 0.0), min(estimate.high, 100.0)
                axes.plot(*zip(ends(low), ends(high), strict=True), color=colour, linewidth=0.8, alpha=0.35, zorder=2)
        axes.scatter([x.value], [y.value], s=30, color=colour, edgecolor=PAPER, linewidth=0.8, zorder=4)
        places.append((x.value, y.value, name, colour))
    best = sorted((x, y) for x, y, name, _ in places if name in unbeaten(found))
    if len(best) > 1:
        axes.plot(*zip(*best, strict=True), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    values = [y for _, y, _, _ in places]
    axes.set_ylim(min(values) - 4, 101)
    figure.canvas.draw()
    figure.set_layout_engine("none")
    place_labels(axes, places, size=8.5)
    save_figure(figure, path)


def unbeaten(found: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """The variants that no other one beats in unseen wordings and in what is kept."""
    return front({name: [replace(one, learned=one.unseen) for one in side] for name, side in found.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", default="facts", choices=list(JOBS), help="what is taught")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--workspace", type=Path, default=Path("keeps-runs"))
    parser.add_argument(
        "--out", type=Path, default=Path("front"), help="front_JOB.json and front_JOB.png are written there"
    )
    options = parser.parse_args()
    run = ClaimRun(workspace=options.workspace, progress=LineProgress(Console(stderr=True)))
    found = measured(options.job, options.variants, run)
    options.out.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {**run.tables, "not beaten in unseen wordings and kept": unbeaten(found)}
    atomic_write_bytes(options.out / f"front_{options.job}.json", (json.dumps(document, indent=2) + "\n").encode())
    draw(options.job, found, options.out / f"front_{options.job}.png")
    for name, side in sorted(found.items(), key=lambda item: -mean_interval([one.kept for one in item[1]]).value):
        figures = {axis: mean_interval([getattr(one, axis) for one in side]).value for axis in ("unseen", "kept")}
        shift = mean_interval([one.text_shift for one in side]).value
        print(f"{name:32} unseen {figures['unseen']:.2f} kept {figures['kept']:.3f} text {shift:+.4f}")


if __name__ == "__main__":
    main()
