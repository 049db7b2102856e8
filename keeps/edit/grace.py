"""GRACE: a codebook beside one layer; where a prompt ends near a key, the layer's output there is the key's value.

    q = the layer's input at the last token of the prompt;  i = argmin ||q - k_i||
    ||q - k_i|| <= eps_i:  the layer's output there is v_i;  else it is what it was      (arXiv:2211.11031)

A new edit with its query q and label y meets the codebook of the edits before it:

* no key within eps_init + eps_i of q: a new entry (q, v, eps_init, y);
* such a key with the same label: its radius grows to the distance;
* such a key with another label: a new entry, and the space between is divided: eps_new = d / 2 and
  eps_i = d / 2 - 1e-5.

Values are trained by Adam on the loss of the target, everything else is frozen. No weight changes: a prompt that
ends near no key is answered by the unedited model, in a call of its own, bit for bit.

Use when: thousands of edits come one after another and the model must not wear out; an edit must be exactly
local; one edit must be taken out again; paraphrases matter less than safety.

What it does not do: a paraphrase ends elsewhere and is mostly missed; nothing follows from an edit. A larger
``radius`` trades locality for paraphrases. A value acts on later tokens through the blocks above its own, so in the
last block it can set the first token of a target only.

Where the published code differs: it prepends labels while it appends keys, so that they no longer belong together
after the second edit; here an entry is one record. Which token of a text was the last of its prompt the code guesses
from the edit's length; here the prompt is looked up as it is asked, and only then is its entry switched on. Since
keys do not depend on values, all entries are placed first, in order, and their values trained together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit, check_edits
from keeps.data.records import RecordSet
from keeps.models.edit_files import read_entries
from keeps.models.language_model import LanguageModel
from keeps.models.layer_inputs import TargetBatch, late_layer, layer_inputs, replaced_output
from keeps.models.memory import MemoryChange, MemoryMethod, copy_memory, finish_memory
from keeps.models.projection import evaluating
from keeps.models.routed import Route, Router
from keeps.registry import method
from keeps.settings import Settings, setting
from keeps.weights.files import atomic_write_bytes, load_tensors, save_tensors

CODEBOOK, TENSORS = "codebook.jsonl", "codebook.safetensors"
GAP = 1e-5  # between the balls of two labels, as published
ROUNDING = 1e-4  # share by which a state may differ when it is computed in another batch
BATCH = 16  # values trained at once


@dataclass(frozen=True, kw_only=True)
class GRACESettings(Settings):
    """Settings of GRACE; the defaults are those published for Llama-2-7B, but for ``value_init`` (there: random)."""

    layer: int | None = setting(None, "Block whose MLP gets the codebook (default: 27/32 of the depth)", ge=0)
    radius: float = setting(1.0, "Radius eps_init of a new entry, a distance between inputs of the layer", gt=0)
    steps: int = setting(50, "Steps that a value is trained", ge=1)
    learning_rate: float = setting(1.0, "Of Adam on a value", gt=0)
    stop_loss: float = setting(0.01, "A value is done below this loss", ge=0, unit="nats per token")
    value_init: str = setting(
        "output", "Where a value starts: the layer's own output there, or at random", choices=("output", "random")
    )


@dataclass(frozen=True)
class Entry:
    """One record of the codebook. ``edits`` are the ids of the edits that it answers."""

    id: str
    key: Tensor  # (in,)
    radius: float
    label: str
    edits: tuple[str, ...] = ()
    value: Tensor = field(default_factory=lambda: torch.empty(0))  # (out,)


def insert(codebook: list[Entry], query: Tensor, label: str, edit: str, radius: float) -> list[Entry]:
    """The codebook with one more edit, by the rules of the paper; values are not touched.

    >>> book = insert([], torch.zeros(2), "a", "e1", 1.0)
    >>> book = insert(book, torch.tensor([1.5, 0.0]), "a", "e2", 1.0)
    >>> [(entry.edits, entry.radius) for entry in book]
    [(('e1', 'e2'), 1.5)]
    """
    fresh = Entry(edit, query, radius, label, (edit,))
    place, distance = nearest_entry(codebook, query)
    if place is None or distance > radius + codebook[place].radius:
        return [*codebook, fresh]
    near = codebook[place]
    changed = list(codebook)
    if near.label == label:
        changed[place] = replace(near, radius=max(near.radius, distance), edits=(*near.edits, edit))
        return changed
    changed[place] = replace(near, radius=distance / 2 - GAP)
    return [*changed, replace(fresh, radius=distance / 2)]


def placed(edits: Sequence[Edit], queries: Tensor, radius: float) -> list[Entry]:
    """The codebook of ``edits``, in their order, without values; ``queries`` ``(edits, in)``."""
    codebook: list[Entry] = []
    for edit, query in zip(edits, queries, strict=True):
        codebook = insert(codebook, query, edit.target_new, edit.id, radius)
    return codebook


def nearest_entry(codebook: Sequence[Entry], query: Tensor) -> tuple[int | None, float]:
    """The number of the entry with the nearest key, and its distance; of equals the newest."""
    if not codebook:
        return None, float("inf")
    distances = torch.stack([entry.key for entry in codebook]).double().sub(query.double()).norm(dim=1)
    place = len(codebook) - 1 - int(distances.flip(0).argmin())
    return place, float(distances[place])


class GRACERouter(Router):
    """Looks up where a prompt ends; what was found for a prompt is kept."""

    def __init__(self, base: LanguageModel, codebook: Sequence[Entry], layer: int) -> None:
        super().__init__(base)
        self.codebook, self.layer = list(codebook), layer
        self.by_id = {entry.id: entry for entry in self.codebook}
        self._found: dict[str, Route | None] = {}

    def routes(self, prompts: Sequence[str]) -> list[Route | None]:
        """See :class:`Router`: None where no ball holds the prompt's last state."""
        fresh = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._found]
        for prompt, states in zip(fresh, layer_inputs(self.base, fresh, self.layer), strict=True):
            place, distance = nearest_entry(self.codebook, states[-1])
            hit = place is not None and distance <= self.codebook[place].radius + ROUNDING * float(states[-1].norm())
            entry = self.codebook[place] if place is not None and hit else None
            self._found[prompt] = Route(prompt, entry.id, entry.edits) if entry else None
        return [self._found[prompt] for prompt in prompts]

    @contextmanager
    def switched(self, switch: str) -> Iterator[LanguageModel]:
        """The base with one entry in place: tokens whose state lies in its ball get its value."""
        _, ref = late_layer(self.base, self.layer)
        with replaced_output(ref.module, partial(with_value, self.by_id[switch])):
            yield self.base


def with_value(entry: Entry, given: Tensor, output: Tensor) -> Tensor:
    """``output`` with the entry's value where ``given`` lies in its ball; shapes ``(..., in)`` and ``(..., out)``."""
    key, value = entry.key.to(given), entry.value.to(output)
    distance = (given - key).float().norm(dim=-1)
    inside = distance <= entry.radius + 2 * ROUNDING * float(entry.key.norm())
    return torch.where(inside[..., None], value, output)


class GRACEChange(MemoryChange):
    """A codebook."""

    def router(self, model: LanguageModel) -> GRACERouter:
        """See :class:`MemoryChange`."""
        return GRACERouter(model, read_codebook(self.folder), int(self.record.measures["layer"]))

    def without(self, ids: Sequence[str], target: Path) -> None:
        """See :class:`MemoryChange`: the edits that are left are placed again, with the values that they had."""
        entries = read_entries(self.folder)
        values = {name: entry.value for entry in read_codebook(self.folder) for name in entry.edits}
        queries = load_tensors(self.folder / TENSORS)["query"]
        rows = [row for row, entry in enumerate(entries) if entry.id not in ids]
        radius = float(self.record.settings["radius"])
        codebook = placed([entries[row].edit for row in rows], queries[rows], radius)
        copy_memory(self.folder, target)
        write_codebook(target, [replace(e, value=values[e.edits[0]]) for e in codebook], queries[rows])


def write_codebook(folder: Path, codebook: Sequence[Entry], queries: Tensor) -> None:
    """One record an entry in JSONL; keys and values as rows of two tensors, in the same order; all edits' queries."""
    names = ("id", "radius", "label", "edits")
    rows = [json.dumps({name: getattr(entry, name) for name in names}, ensure_ascii=False) for entry in codebook]
    atomic_write_bytes(folder / CODEBOOK, ("\n".join(rows) + "\n").encode())
    stacked = {part: torch.stack([getattr(entry, part) for entry in codebook]) for part in ("key", "value")}
    save_tensors(folder / TENSORS, {**stacked, "query": queries})


def read_codebook(folder: Path) -> list[Entry]:
    """What :func:`write_codebook` wrote.

    Raises:
        StorageError: a file is missing or damaged.
    """
    tensors = load_tensors(folder / TENSORS)
    rows = [json.loads(line) for line in (folder / CODEBOOK).read_text(encoding="utf-8").splitlines()]
    keys, values = tensors["key"], tensors["value"]
    return [
        Entry(**{**row, "edits": tuple(row["edits"])}, key=key, value=value)
        for row, key, value in zip(rows, keys, values, strict=True)
    ]


@method(
    "grace",
    verb="edit",
    card="knowedit",
    paper="arXiv:2211.11031",
    summary="A codebook beside one layer: prompts that end near a key get its value, all others are untouched.",
    needs=("edits",),
    forms=("memory",),
)
class GRACE(MemoryMethod):
    """General retrieval adaptors for continual editing."""

    Settings = GRACESettings
    change = GRACEChange

    def __init__(self, settings: GRACESettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> GRACEChange:
        """Place the edits in order, train the values, write the codebook; ``keep`` is not needed."""
        del keep
        check_edits(edits, "edits")
        layer, ref = late_layer(model, self.settings.layer)
        queries = torch.stack([states[-1] for states in layer_inputs(model, [edit.prompt for edit in edits], layer)])
        codebook = placed(edits, queries, self.settings.radius)
        by_id = {edit.id: edit for edit in edits}
        trained: list[Entry] = []
        losses: dict[str, float] = {}
        with run.progress.task("train values", len(codebook)) as task:
            for start in range(0, len(codebook), BATCH):
                batch = codebook[start : start + BATCH]
                trained += train_values(model, ref.module, batch, by_id, self.settings, run.seed, losses)
                task.advance(len(batch))
        write_codebook(run.folder, trained, queries)
        run.measures |= {"layer": layer, "entries": len(trained)}
        measured = [{"loss": losses[edit.id]} for edit in edits]
        return GRACEChange(run.folder, finish_memory("grace", self.settings, model, edits, run, measured))


def train_values(
    model: LanguageModel,
    module: Any,
    entries: Sequence[Entry],
    edits: Mapping[str, Edit],
    settings: GRACESettings,
    seed: int,
    reached: dict[str, float],
) -> list[Entry]:
    """Values by Adam on the mean loss of each entry's edits; of every entry the best value of all steps is kept.

    ``reached`` gets the loss of each edit, in nats a target token.
    """
    owners = [number for number, entry in enumerate(entries) for _ in entry.edits]
    asked = [edits[name] for entry in entries for name in entry.edits]
    batch = TargetBatch.of(model, [edit.prompt for edit in asked], [edit.target_new for edit in asked])
    rows, owner = torch.arange(len(asked), device=model.device), torch.tensor(owners, device=model.device)
    start: list[Tensor] = []
    with evaluating(model.model):
        with torch.no_grad(), replaced_output(module, lambda _, output: start.append(output) or output):
            batch.losses(model)
        first = torch.tensor([owners.index(number) for number in range(len(entries))], device=model.device)
        values = start[-1][rows, batch.last][first].float().clone()
        if settings.value_init == "random":
            generator = torch.Generator().manual_seed(seed)
            values = torch.rand(values.shape, generator=generator).to(values.device)
        values.requires_grad_(True)
        optimiser = torch.optim.Adam([values], lr=settings.learning_rate)
        best, lowest = values.detach().clone(), torch.full((len(entries),), float("inf"), device=model.device)

        def put(_: Tensor, output: Tensor) -> Tensor:
            return output.index_put((rows, batch.last), values[owner].to(output.dtype))

        for _ in range(settings.steps + 1):
            with replaced_output(module, put):
                losses, _right = batch.losses(model)
            counts = torch.bincount(owner, minlength=len(entries))
            mean = torch.zeros_like(lowest).index_add(0, owner, losses) / counts
            better = mean.detach() < lowest
            best[better], lowest[better] = values.detach()[better], mean.detach()[better]
            if bool((lowest < settings.stop_loss).all()):
                break
            (values.grad,) = torch.autograd.grad(mean.sum(), values)
            optimiser.step()
    reached.update((edit.id, float(lowest[number])) for edit, number in zip(asked, owners, strict=True))
    return [replace(entry, value=value.cpu()) for entry, value in zip(entries, best, strict=True)]
