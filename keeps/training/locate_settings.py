"""Settings of the methods that find where a model looks a fact up, and write there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from keeps.data.edits import Edit
from keeps.errors import SettingsError
from keeps.models.edit_rows import END, SUBJECT
from keeps.models.language_model import LanguageModel
from keeps.models.locate import checked_layer, mlp_outputs
from keeps.models.suffixes import Site
from keeps.models.weight_writer import HALVES, TEXTS
from keeps.settings import Settings, setting
from keeps.training.value_objectives import EDITED_FROM_ORIGINAL, ORIGINAL_FROM_EDITED, Objective, StateFact
from keeps.training.value_vectors import Search

DEPTH = 0.2  # of the block that is edited, as a share of all: 6 of 30, 17 of 48 and 5 of 32 are published or tried
SPREAD = 2  # blocks on either side of it that MEMIT and its kin write to as well


@dataclass(frozen=True, kw_only=True)
class LocateSettings(Settings):
    """Settings that every locate-and-edit method shares."""

    steps: int = setting(25, "Steps of the search for a value at most", ge=1, unit="steps")
    learning_rate: float = setting(0.5, "Learning rate of the search for a value (Adam)", gt=0)
    weight_decay: float = setting(1e-3, "Weight of ||delta|| / ||v_0||^2 in the loss", ge=0)
    clamp: float = setting(4.0, "Largest ||delta||, in ||v_0||", gt=0)
    stop_loss: float = setting(0.05, "Loss at which an edit is done", ge=0, unit="nats")
    kl_weight: float = setting(0.0625, 'Weight of the divergence on "{subject} is a"', ge=0)
    kl_direction: str = setting(
        EDITED_FROM_ORIGINAL,
        "KL(edited || original), as published, or KL(original || edited)",
        choices=(EDITED_FROM_ORIGINAL, ORIGINAL_FROM_EDITED),
        advanced=True,
    )
    kl_at: str = setting(
        END,
        'Where the divergence is read: behind "{subject} is a", as in the paper, or at the subject, as in its code',
        choices=(END, SUBJECT),
        advanced=True,
    )
    short_prefixes: int = setting(10, "Self-generated texts of 5 tokens that the prompt is put behind", ge=0)
    long_prefixes: int = setting(10, "Self-generated texts of 10 tokens that the prompt is put behind", ge=0)
    moment_tokens: int = setting(20000, "Tokens of local text that the statistics C are formed from", ge=1)
    ridge: float = setting(1e-4, "Added to the diagonal of C, as a share of its mean", ge=0)
    edits_per_step: int = setting(
        1, "Edits of a sequence that are searched for side by side, and written before the next are", ge=1
    )
    stop_after: int | None = setting(
        None, "Early stop: steps after every prompt ranks the new answer first (default: none)", ge=0, unit="steps"
    )
    text_limit: float | None = setting(
        None,
        "Largest change of what an edited layer gives on ordinary text, as a share; a sequence ends before it (ours)",
        gt=0,
    )
    precision: str = setting(
        "float32", "Arithmetic of the model while a value is searched for", choices=("float32", "bfloat16")
    )

    def default_layer(self, count: int) -> int:
        """The block that is edited where none is named, of ``count``; the last one reaches no later token."""
        return max(min(round(DEPTH * count), count - 2), 0)

    def search(self, layer: int, site: Site) -> Search:
        """The search for values that these settings describe."""
        rates = self.learning_rate, self.weight_decay, self.clamp, self.stop_loss
        return Search(layer, site, self.steps, *rates, self.stop_after, self.precision)

    def groups(self, edits: Sequence[Edit]) -> list[list[Edit]]:
        """The edits of each step, in order."""
        count = self.edits_per_step
        return [list(edits[start : start + count]) for start in range(0, len(edits), count)]

    def objective(self) -> Objective:
        """The published loss."""
        return StateFact(self.kl_weight, self.kl_direction)


@dataclass(frozen=True, kw_only=True)
class OneLayerSettings(LocateSettings):
    """Settings of a method that writes to one block."""

    layer: int | None = setting(None, "Block that is edited, from 0 (default: a fifth of the depth)", ge=0)

    def check_model(self, model: LanguageModel) -> None:
        """Refuse a model without such a layer, or with quantised weights."""
        self.layers(model)

    def layers(self, model: LanguageModel) -> list[int]:
        """The blocks that are written to."""
        count = len(mlp_outputs(model.model))
        return [checked_layer(self.default_layer(count) if self.layer is None else self.layer, count)]


@dataclass(frozen=True, kw_only=True)
class ManyLayersSettings(LocateSettings):
    """Settings of a method that spreads an edit over several blocks."""

    beside: ClassVar[int] = SPREAD
    layers: tuple[int, ...] | None = setting(
        None, "Blocks that are edited, from 0 (default: five, a fifth of the way up)"
    )
    short_prefixes: int = setting(0, "Self-generated texts of 5 tokens that the prompt is put behind", ge=0)
    long_prefixes: int = setting(5, "Self-generated texts of 10 tokens that the prompt is put behind", ge=0)
    order: str = setting(
        "batch", "batch: solved together; sequential: one after another", choices=("batch", "sequential")
    )
    key_mean: str = setting(
        TEXTS,
        "What a key is the mean of: all texts alike, as in the paper, or the bare prompt's key and the mean of the "
        "others, as in its code",
        choices=(TEXTS, HALVES),
        advanced=True,
    )

    def check(self) -> None:
        """Refuse steps of a sequence where all edits are solved together."""
        super().check()
        if self.order == "batch" and self.edits_per_step != 1:
            what = "edits_per_step would do nothing with order batch, which solves all edits together"
            raise SettingsError(what, where="edits_per_step", mend="choose order sequential, or leave it out")

    def groups(self, edits: Sequence[Edit]) -> list[list[Edit]]:
        """See :class:`LocateSettings`."""
        return [list(edits)] if self.order == "batch" else super().groups(edits)

    def check_model(self, model: LanguageModel) -> None:
        """Refuse a model without such layers, or with quantised weights."""
        self.chosen_layers(model)

    def chosen_layers(self, model: LanguageModel) -> list[int]:
        """The blocks that are written to, in order.

        Raises:
            TargetError: the model lacks one.
            SettingsError: one is named twice, or none is.
        """
        count = len(mlp_outputs(model.model))
        if self.layers is None:
            middle = self.default_layer(count)
            around = range(middle - self.beside, middle + self.beside + 1)
            return [layer for layer in around if 0 <= layer < max(count - 1, 1)]
        chosen = sorted({checked_layer(layer, count, "layers") for layer in self.layers})
        if not chosen or len(chosen) != len(self.layers):
            raise SettingsError("layers names a block twice, or none", where="layers", mend="name each block once")
        return chosen
