"""Locate and edit: find the value that states a fact, and write it into the MLP of the blocks that look it up.

The engine of ROME, R-ROME, MEMIT, EMMET and AlphaEdit: keys are captured at the subject's last token, a value is
optimised there (:mod:`keeps.training.value_vectors`), and a closed form of :mod:`keeps.numerics.editing` writes it.
Weights are changed only while it works; what is stored are the exact factors of the update, W + B A.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit, check_agreement, check_edits
from keeps.errors import RecordError
from keeps.models.changes import AdapterChange
from keeps.models.edit_files import EditEntry, finish_weights
from keeps.models.edit_rows import Row, edit_rows, rewrite_row
from keeps.models.language_model import LanguageModel
from keeps.models.moments import second_moments
from keeps.models.own_prefixes import stored_prefixes
from keeps.models.suffixes import Site, adds_to_block
from keeps.models.weight_writer import Keys, Writer, keys_of, writing
from keeps.numerics.editing import Moment
from keeps.training.edit_losses import probabilities
from keeps.training.locate_settings import LocateSettings, ManyLayersSettings, OneLayerSettings
from keeps.training.value_objectives import Objective
from keeps.training.value_vectors import Value, find_values

NORM_WATCH = 0.5  # size of an update, as a share of its weight, above which a sequence of edits nears collapse


Solve = Callable[[int, Keys, Value], tuple[Tensor, Tensor]]  # layer, keys and value of one edit -> A, B
Spread = Callable[[int, Tensor], Tensor]  # layer and its keys (in, n) -> A (n, in)
After = Callable[[Mapping[int, Tensor]], None]  # keys (in, n) of each layer once a batch is written


class LocateAndEdit:
    """What the methods of this engine share: their settings, and the loss that a value is searched for."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def objective(self) -> Objective:
        """What values are optimised for; LTI puts another one in its place."""
        return self.settings.objective()


def statistics(model: LanguageModel, layers: Sequence[int], settings: LocateSettings, run: Run) -> dict[int, Moment]:
    """C of each layer, ready to be divided by, on the model's device; a plain ridge where text is scarce."""
    started = time.monotonic()
    found = second_moments(model, layers, tokens=settings.moment_tokens, run=run)
    run.measures["moment_seconds"] = time.monotonic() - started
    moments = {}
    for layer, moment in found.items():
        scarce = moment.tokens < moment.matrix.shape[0]
        ridge = max(settings.ridge, 1e-4) if scarce else settings.ridge  # singular without one
        matrix = moment.matrix.to(model.device)
        moments[layer] = Moment.of(matrix, ridge=ridge, tokens=moment.tokens, where=f"layer {layer}")
    run.measures["moment_tokens"] = min(moment.tokens for moment in moments.values())
    return moments


def check_editable(model: LanguageModel, edits: Sequence[Edit], settings: LocateSettings) -> None:
    """Refuse what cannot be edited before anything is computed.

    Raises:
        RecordError: an edit names no subject, or two edits contradict each other.
        TargetError: the model has no such layers.
    """
    check_edits(edits, "edits")
    settings.check_model(model)
    for edit in edits:
        if not edit.subject.strip():
            what = "the edit names no subject, and the method writes to where the model looks it up"
            raise RecordError(what, where=f"edit {edit.id}", mend="name the subject, or use ft, lora, grace or ike")
    check_agreement(edits)


def one_by_one(
    model: LanguageModel,
    edits: Sequence[Edit],
    settings: OneLayerSettings,
    run: Run,
    *,
    method: str,
    solve: Callable[[Mapping[int, Moment]], Solve],
    objective: Objective,
) -> AdapterChange:
    """Each edit on the model that holds those before it: the value of the MLP's output, and an update of rank one."""
    check_editable(model, edits, settings)
    layer = settings.layers(model)[0]
    prefixes = stored_prefixes(model, settings.short_prefixes, settings.long_prefixes, run.seed)
    solver = solve(statistics(model, [layer], settings, run))
    entries: list[EditEntry] = []
    started = time.monotonic()
    with writing(model, [layer]) as writer, run.progress.task("edits", len(edits)) as task:
        for edit in edits:
            rows = edit_rows(model, [edit], prefixes, essence=settings.kl_weight > 0)
            value = find_values(model, [edit], rows, settings.search(layer, "mlp"), objective, run)[0]
            a, b = solver(layer, keys_of(model, rows, [layer]), value)
            ranks = writer.write(layer, a, b)
            entries.append(_entry(model, edit, {writer.refs[layer].name: list(ranks)}, value))
            task.advance(1)
            task.note(f"p {entries[-1].measured['probability']:.2f}")
        _measured(run, writer, [layer], len(edits), started)
    return finish_weights(method, settings, model, edits, writer.factors(), entries, run)


def together(
    model: LanguageModel,
    edits: Sequence[Edit],
    settings: ManyLayersSettings,
    run: Run,
    *,
    method: str,
    spread: Callable[[Mapping[int, Moment]], Spread],
    objective: Objective,
    after: After | None = None,
) -> AdapterChange:
    """Values of the last block's output, spread over the blocks: each takes its share of what is still missing.

    With ``order="sequential"`` every edit is a batch of its own, on the model that holds those before it.
    """
    check_editable(model, edits, settings)
    layers, site = _spread_over(model, edits[0], settings.chosen_layers(model), run)
    prefixes = stored_prefixes(model, settings.short_prefixes, settings.long_prefixes, run.seed)
    solver = spread(statistics(model, layers, settings, run))
    batches = [list(edits)] if settings.order == "batch" else [[edit] for edit in edits]
    entries: list[EditEntry] = []
    started = time.monotonic()
    with writing(model, layers) as writer, run.progress.task("edits", len(edits)) as task:
        for batch in batches:
            rows = edit_rows(model, batch, prefixes, essence=settings.kl_weight > 0)
            values = find_values(model, batch, rows, settings.search(layers[-1], site), objective, run)
            shares = _write_layers(model, rows, values, layers, site, solver, writer)
            if after is not None:
                written = keys_of(model, rows, layers).mean
                after({layer: keys.T for layer, keys in written.items()})
            entries += [
                _entry(model, edit, share, value) for edit, share, value in zip(batch, shares, values, strict=True)
            ]
            task.advance(len(batch))
        _measured(run, writer, layers, len(edits), started)
    return finish_weights(method, settings, model, edits, writer.factors(), entries, run)


def _spread_over(model: LanguageModel, edit: Edit, layers: list[int], run: Run) -> tuple[list[int], Site]:
    """The blocks to write to; the last alone where a norm after the MLP keeps its output from being added as it is."""
    row = rewrite_row(model, 0, edit)
    if all(adds_to_block(model, row, layer) for layer in layers):
        return layers, "block"
    run.progress.message(
        f"the blocks of {model.name} have a norm behind their MLP, so the edit is not spread: block {layers[-1]} alone"
    )
    return layers[-1:], "mlp"


def _write_layers(
    model: LanguageModel,
    rows: Sequence[Sequence[Row]],
    values: Sequence[Value],
    layers: Sequence[int],
    site: Site,
    solver: Spread,
    writer: Writer,
) -> list[dict[str, list[int]]]:
    """The share of each edit of the batch in every layer."""
    wanted = torch.stack([value.target for value in values])  # Z, (n, hidden)
    shares: list[dict[str, list[int]]] = [{} for _ in values]
    for number, layer in enumerate(layers):
        keys = keys_of(model, rows, sorted({layer, layers[-1]}))
        if site == "block":
            residual = (wanted - keys.states[layers[-1]]) / (len(layers) - number)
        else:  # one layer, whose own output was optimised
            residual = torch.stack([value.delta.double() for value in values])
        a = solver(layer, keys.mean[layer].T)
        first, _ = writer.write(layer, a, residual.T)
        for place, share in enumerate(shares):
            share[writer.refs[layer].name] = [first + place, first + place + 1]
    return shares


def _entry(model: LanguageModel, edit: Edit, share: Mapping[str, Any], value: Value) -> EditEntry:
    """The line of an edit, with what the model now makes of it."""
    return EditEntry.of(edit, share, loss=value.loss, steps=value.steps, probability=probabilities(model, [edit])[0])


def _measured(run: Run, writer: Writer, layers: Sequence[int], edits: int, started: float) -> None:
    norms = writer.norms()
    run.measures |= {
        "layers": list(layers),
        "edit_seconds": (time.monotonic() - started) / edits,
        "update_norm": max(norms.values()),
    }
    if run.measures["update_norm"] > NORM_WATCH:
        run.progress.message(
            f"the update is {run.measures['update_norm']:.0%} of the weight's size: such a sequence nears collapse"
        )
