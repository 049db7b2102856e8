"""Where a value is written: into the MLP of one block, or spread over several.

See :mod:`keeps.training.locate_edit`, whose two kinds these are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.models.edit_rows import Row, rewrite_row
from keeps.models.language_model import LanguageModel
from keeps.models.suffixes import Site, adds_to_block
from keeps.models.weight_writer import keys_of
from keeps.numerics.editing import Moment
from keeps.training.locate_edit import LocateAndEdit, Shares, Steps
from keeps.training.value_vectors import Value


class OneBlock(LocateAndEdit):
    """The value of an MLP's output, and an update of rank one an edit.

    Of a group (``edits_per_step`` above 1) all values are searched for on the model before it; each is then written
    on the model that holds those before it, and is met exactly there.
    """

    @abstractmethod
    def update(self, w: Tensor, bare: Tensor, mean: Tensor, residual: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """Factors A ``(1, in)`` and B ``(out, 1)`` of one edit.

        Args:
            w: the layer's weight now, ``(out, in)`` float64.
            bare, mean: k_0 of the bare prompt and k* over all prefixes, ``(in,)``.
            residual: v* - W k_0, ``(out,)``.
        """

    def places(self, model: LanguageModel, first: Edit, run: Run) -> tuple[list[int], Site]:
        """See :class:`LocateAndEdit`."""
        del first, run
        return self.settings.layers(model), "mlp"

    def written(
        self, steps: Steps, edits: Sequence[Edit], rows: Sequence[Sequence[Row]], values: list[Value]
    ) -> Shares:
        """See :class:`LocateAndEdit`."""
        layer, writer = steps.layers[0], steps.writer
        ref = writer.refs[layer]
        before = ref.matrix.double().clone() if len(edits) > 1 else None
        shares: Shares = []
        keys = keys_of(steps.model, rows, [layer])  # what a layer reads does not depend on its own weight
        for bare, mean, value in zip(keys.bare[layer], keys.mean[layer], values, strict=True):
            w = ref.matrix.double()
            residual = value.delta.double()
            if before is not None:  # of the edits before it in the group
                residual = residual + (before - w) @ bare
            a, b = self.update(w, bare, mean, residual, steps.moments[layer])
            shares.append({ref.name: list(writer.write(layer, a, b))})
        return shares


class ManyBlocks(LocateAndEdit):
    """The value of the last block's output, spread over the blocks: each takes its share of what is still missing."""

    @abstractmethod
    def solve(self, layer: int, keys: Tensor, moment: Moment) -> Tensor:
        """A ``(n, in)`` of the update R A of a layer, for keys ``(in, n)`` float64."""

    def places(self, model: LanguageModel, first: Edit, run: Run) -> tuple[list[int], Site]:
        """See :class:`LocateAndEdit`; the last alone where a norm after the MLP keeps its output from being added."""
        layers = self.settings.chosen_layers(model)
        row = rewrite_row(model, 0, first)
        if all(adds_to_block(model, row, layer) for layer in layers):
            return layers, "block"
        what = f"the blocks of {model.name} have a norm behind their MLP, so the edit is not spread"
        run.progress.message(f"{what}: block {layers[-1]} alone")
        return layers[-1:], "mlp"

    def written(
        self, steps: Steps, edits: Sequence[Edit], rows: Sequence[Sequence[Row]], values: list[Value]
    ) -> Shares:
        """See :class:`LocateAndEdit`."""
        layers, writer = steps.layers, steps.writer
        wanted = torch.stack([value.target for value in values])  # Z, (n, hidden)
        shares: Shares = [{} for _ in values]
        for number, layer in enumerate(layers):
            keys = keys_of(steps.model, rows, sorted({layer, layers[-1]}), mean=self.settings.key_mean)
            if steps.site == "block":
                residual = (wanted - keys.states[layers[-1]]) / (len(layers) - number)
            else:  # one layer, whose own output was optimised
                residual = torch.stack([value.delta.double() for value in values])
            a = self.solve(layer, keys.mean[layer].T, steps.moments[layer])
            first, _ = writer.write(layer, a, residual.T)
            for place, share in enumerate(shares):
                share[writer.refs[layer].name] = [first + place, first + place + 1]
        return shares
