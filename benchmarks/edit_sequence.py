"""Edits one after another, up to a thousand: what still holds, what else moved, how text is said, and the seconds.

    OMP_NUM_THREADS=1 python benchmarks/edit_sequence.py --workspace sequence --out sequence --file counterfact.jsonl
    OMP_NUM_THREADS=1 python benchmarks/edit_sequence.py --workspace sequence --out sequence --edits 100 --per-step 10

After 1, 2, 5, 10, 20, 50, ... edits: the share of all edits so far that is answered with the new answer (of at most 100
of them; those that a text limit left out count too), that of the newest, the share of neighbouring facts whose answer
is the same as before, and the perplexity of held-out text, as a multiple of that of the untouched model. ``--per-step``
edits are searched for side by side on the model as it was before them, and written together (rome: one after another,
each met exactly); 1 is what the papers call sequential. grace places every edit in order whatever is chosen: its keys
do not depend on its values, which are trained 16 at a time. Without ``--file`` facts of the built-in world are edited.

Each method keeps a folder in the workspace, which is replaced whole after every measurement: what was measured is not
measured again, and an interrupted run goes on from its last measurement. Results: ``edit_sequence.json`` and a picture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from keeps.contracts import Run
from keeps.data.edits import Edit, edits_fingerprint
from keeps.data.select import load_records
from keeps.edit.grace import Entry, GRACERouter, placed, train_values
from keeps.ledger.figures import PALETTE, WIDTH, dress, new_figure, save_figure
from keeps.models.earlier_keys import write_keys
from keeps.models.language_model import LanguageModel
from keeps.models.layer_inputs import late_layer, layer_inputs
from keeps.models.routed import RoutedModel
from keeps.probe.editing import load_edits
from keeps.probe.matching import matches
from keeps.registry import find_method
from keeps.training.locate_edit import check_editable
from keeps.weights.files import atomic_folder, atomic_write_bytes, load_tensors, save_tensors

# name -> method and its own settings; the published null space of alphaedit holds a third of what the default reads
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "alphaedit, 5 % of the energy": ("alphaedit", {"energy": 0.05}),
    "alphaedit, stop at 0.7 nats": ("alphaedit", {"stop_loss": 0.7}),  # half as likely as not is enough: smaller writes
    "alphaedit, text limit": ("alphaedit", {"stop_loss": 0.7, "text_limit": 0.4}),
    "alphaedit, search as published": ("alphaedit", {"learning_rate": 0.1, "clamp": 0.75, "weight_decay": 0.5}),
    **{name: (name, {}) for name in ("alphaedit", "memit", "rome", "grace")},
}
BUILT_IN = "world#4000"
SAMPLE, NEWEST, PASSAGES, OPENING, WORDS = 100, 20, 20, 8, 70
STATE = 2  # of the files in a method's folder
JOURNAL, FACTORS, CODEBOOK = "journal.json", "factors.safetensors", "codebook.safetensors"
SHOWN = {
    "held": "edits so far that hold (%)",
    "kept": "neighbours as before (%)",
    "perplexity": "perplexity, times the start, to 10",
    "seconds": "processor seconds so far",
}


def points(count: int) -> list[int]:
    """1, 2, 5, 10, ... up to and with ``count``.

    >>> points(30)
    [1, 2, 5, 10, 20, 30]
    """
    steps = (base * 10**power for power in range(len(str(count))) for base in (1, 2, 5))
    return [*(step for step in steps if step < count), count]


def chosen_edits(source: str | None, count: int) -> tuple[Edit, ...]:
    """The first ``count`` edits that name their subject in the prompt, each prompt once."""
    found: dict[str, Edit] = {}
    for edit in load_edits(BUILT_IN if source is None else Path(source)):
        if edit.subject and edit.prompt.count(edit.subject) == 1:
            found.setdefault(" ".join(edit.prompt.casefold().split()), edit)
        if len(found) == count:
            return tuple(found.values())
    raise SystemExit(f"there are {len(found)} edits that fit, {count} were asked for")


def sampled(edits: Sequence[Edit]) -> list[Edit]:
    """At most a hundred, spread evenly over all."""
    step = max(len(edits) / SAMPLE, 1)
    return [edits[int(number * step)] for number in range(min(len(edits), SAMPLE))]


def succeed(model: Any, edits: Sequence[Edit]) -> float:
    """Share of ``edits`` that are answered with the new answer, greedily."""
    said = model.ask([edit.prompt for edit in edits], [edit.target_new for edit in edits])
    return sum(matches(one.text, (edit.target_new,)) for one, edit in zip(said, edits, strict=True)) / len(edits)


class Measure:
    """What is asked again and again, with what the untouched model answers."""

    def __init__(self, model: LanguageModel, edits: Sequence[Edit]) -> None:
        beside = [(prompt.prompt, prompt.answers[0]) for edit in sampled(edits) for prompt in edit.locality[:1]]
        self.prompts, self.answers = [one for one, _ in beside], [other for _, other in beside]
        words = [item.text.split() for item in load_records("text").part("test").passages()]
        long = [some for some in words if len(some) >= WORDS][:PASSAGES]
        self.texts = [(" ".join(some[:OPENING]), " ".join(some[OPENING:WORDS])) for some in long]
        self.said, self.start = self._said(model), self._perplexity(model)

    def __call__(self, model: Any, edits: Sequence[Edit]) -> dict[str, float | int | None]:
        """The figures after ``edits``, given in the order in which they were made."""
        same = [one == other for one, other in zip(self.said, self._said(model), strict=True)]
        return {
            "edits": len(edits),
            "held": succeed(model, sampled(edits)),
            "newest": succeed(model, edits[-NEWEST:]),
            "kept": sum(same) / len(same) if same else None,
            "perplexity": self._perplexity(model) / self.start,
        }

    def _said(self, model: Any) -> list[str]:
        return [one.text for one in model.ask(self.prompts, self.answers)] if self.prompts else []

    def _perplexity(self, model: Any) -> float:
        scores = model.logprob([opening for opening, _ in self.texts], [rest for _, rest in self.texts])
        nats = -sum(one.logprob for one in scores) / sum(one.tokens for one in scores)
        return math.exp(min(nats, 700.0))  # a collapsed model must not overflow


@dataclass
class Course:
    """One method on one sequence: its folder, and what was measured so far."""

    method: str
    edits: tuple[Edit, ...]
    folder: Path
    per_step: int
    base: str  # fingerprint of the untouched model
    precision: str = "float32"  # of the search for values

    def __post_init__(self) -> None:
        facts = edits_fingerprint(self.edits)
        whole = json.dumps([self.method, facts, self.per_step, self.base, self.precision, STATE])
        self.identity = hashlib.sha256(whole.encode()).hexdigest()[:16]
        self.rows: list[dict[str, Any]] = []
        if (self.folder / JOURNAL).exists():
            held = json.loads((self.folder / JOURNAL).read_text(encoding="utf-8"))
            if held["identity"] != self.identity:
                raise SystemExit(f"{self.folder} holds another sequence: name another --workspace")
            self.rows = held["rows"]

    @property
    def done(self) -> int:
        """Edits that were made and measured."""
        return self.rows[-1]["edits"] if self.rows else 0

    def store(self, row: dict[str, Any], write: Callable[[Path], None]) -> None:
        """Add a measurement, with what is needed to go on from it; all or nothing."""
        self.rows.append(row)
        with atomic_folder(self.folder, replace=True) as temporary:
            write(temporary)
            content = json.dumps({"identity": self.identity, "rows": self.rows}, indent=1)
            atomic_write_bytes(temporary / JOURNAL, content.encode())
        shown = (f"{key} {value:.4g}" for key, value in row.items() if value is not None)
        print(f"{self.method:28}", *shown, flush=True)

    def seconds(self, since: float) -> float:
        """Processor seconds of the edits so far, measurements left out."""
        return (self.rows[-1]["seconds"] if self.rows else 0.0) + time.process_time() - since


def in_weights(model: LanguageModel, sequence: Course, measure: Measure, seed: int) -> None:
    """Go on with a method that writes weights."""
    name, own = METHODS[sequence.method]
    info = find_method(name, "edit")
    settings: Any = info.settings.from_mapping({"order": "sequential", "precision": sequence.precision, **own})
    check_editable(model, sequence.edits, settings)
    editor: Any = info.implementation(settings)
    if sequence.done and hasattr(editor, "continue_from"):
        editor.continue_from(sequence.folder)
    with editor.steps(model, sequence.edits[0], Run(sequence.folder, seed=seed)) as steps:
        if sequence.done:
            held = load_tensors(sequence.folder / FACTORS)
            for layer in steps.layers:
                steps.writer.write(layer, held[f"{layer}.a"], held[f"{layer}.b"])
        refs = steps.writer.refs

        def write(folder: Path) -> None:
            factors = steps.writer.factors()
            pairs = {layer: factors[refs[layer].name] for layer in steps.layers}
            tensors = {
                f"{n}.{part}": value for n, pair in pairs.items() for part, value in zip("ab", pair, strict=True)
            }
            save_tensors(folder / FACTORS, tensors)
            write_keys(folder, getattr(editor, "held", {}))

        for point in (point for point in points(len(sequence.edits)) if point > sequence.done):
            since, full = time.process_time(), bool(sequence.rows) and sequence.rows[-1]["full"]
            for start in range(sequence.done, point, sequence.per_step):
                if not (full or steps.not_made):
                    steps.write(sequence.edits[start : min(start + sequence.per_step, point)], measured=False)
            moved = {"update_norm": max(steps.writer.norms().values()), "text_change": steps.text_change()}
            made = sum(len(a) for a, _ in steps.writer.parts[steps.layers[-1]])
            moved |= {"made": made, "full": full or bool(steps.not_made)}
            row = {**measure(model, sequence.edits[:point]), "seconds": sequence.seconds(since), **moved}
            sequence.store(row, write)


def beside_weights(model: LanguageModel, sequence: Course, measure: Measure, seed: int) -> None:
    """Go on with grace: entries are placed in order; only values whose entry is new or changed are trained."""
    settings: Any = find_method("grace", "edit").settings()
    layer, ref = late_layer(model, settings.layer)
    by_id = {edit.id: edit for edit in sequence.edits}
    values: dict[tuple[str, ...], torch.Tensor] = {}
    queries = torch.empty(0, ref.in_features)
    if sequence.done:
        held = load_tensors(sequence.folder / CODEBOOK)
        queries = held["queries"]
        old = placed(sequence.edits[: sequence.done], queries, settings.radius)
        values = {entry.edits: value for entry, value in zip(old, held["values"], strict=True)}
    for point in (point for point in points(len(sequence.edits)) if point > sequence.done):
        since = time.process_time()
        new = [edit.prompt for edit in sequence.edits[sequence.done : point]]
        queries = torch.cat([queries, torch.stack([states[-1] for states in layer_inputs(model, new, layer)])])
        codebook = placed(sequence.edits[:point], queries, settings.radius)
        fresh = [entry for entry in codebook if entry.edits not in values]
        for start in range(0, len(fresh), 16):
            trained = train_values(model, ref.module, fresh[start : start + 16], by_id, settings, seed, {})
            values |= {entry.edits: entry.value for entry in trained}
        full = [Entry(e.id, e.key, e.radius, e.label, e.edits, values[e.edits]) for e in codebook]
        seconds = sequence.seconds(since)
        changed = RoutedModel(model, GRACERouter(model, full, layer), name="grace", fingerprint=sequence.identity)
        row = {**measure(changed, sequence.edits[:point]), "seconds": seconds, "entries": len(full)}
        changed.undo()
        stored = {"queries": queries, "values": torch.stack([entry.value for entry in full])}
        sequence.store(row, lambda folder, stored=stored: save_tensors(folder / CODEBOOK, stored))


def draw(found: Mapping[str, Sequence[Mapping[str, Any]]], title: str, path: Path) -> None:
    """Four curves over the number of edits: what holds, what is kept, perplexity, seconds."""
    figure = new_figure(WIDTH, 7.0)
    places = figure.subplots(2, 2).ravel()
    for axes, (name, label) in zip(places, SHOWN.items(), strict=True):
        dress(axes, x="edits", y=label)
        axes.set_xscale("log")
        if name in ("perplexity", "seconds"):
            axes.set_yscale("log")
        share = 100 if name in ("held", "kept") else 1
        for number, (method, rows) in enumerate(found.items()):
            drawn = [(row["edits"], share * row[name]) for row in rows if row[name] is not None]
            if drawn:
                axes.plot(
                    *zip(*drawn, strict=True), color=PALETTE[number % len(PALETTE)], marker="o", ms=3, label=method
                )
        if name != "seconds":
            axes.set_ylim(*((-3, 103) if share == 100 else (0.9, 10)))
    lines, labels = places[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="where each method keeps its folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="NAME")
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--per-step", type=int, default=1, help="edits searched for side by side")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of the search for values (not grace)"
    )
    parser.add_argument("--file", help="edits, such as those of CounterFact (default: facts of the built-in world)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if min(options.edits, options.per_step) < 1:
        parser.error("--edits and --per-step are at least 1")
    edits = chosen_edits(options.file, options.edits)
    model = LanguageModel.load()
    measure = Measure(model, edits)
    options.workspace.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    title = f"{len(edits)} edits of {Path(options.file or 'the world').stem}, {options.per_step} a step"
    print(title)
    for method in options.methods:
        folder = options.workspace / f"{re.sub('[^a-z0-9]+', '_', method)}-{options.per_step}"
        sequence = Course(method, edits, folder, options.per_step, model.fingerprint, options.precision)
        (beside_weights if method == "grace" else in_weights)(model, sequence, measure, options.seed)
        found[method] = sequence.rows
    document = {"edits": len(edits), "per step": options.per_step, "precision of the search": options.precision}
    document |= {"file": Path(options.file).name if options.file else BUILT_IN, "methods": found}
    atomic_write_bytes(options.out / "edit_sequence.json", (json.dumps(document, indent=2) + "\n").encode())
    draw(found, title, options.out / "edit_sequence.png")


if __name__ == "__main__":
    main()
