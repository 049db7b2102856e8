"""DEPN: find the neurons that hold private tokens, and switch them off; nothing is trained (Wu et al. 2023).

    Att_j = a_j * integral over s in [0, 1] of dP(token; s a)/da_j                              (arXiv:2310.20138)

a are the activations of a feed-forward part where a private token is predicted. A neuron's attribution for a text is
the sum over its private tokens. Of each text the strong ones are kept, those above a share of the largest; the neurons
that most texts have among theirs are the privacy neurons, and the top z of them are set to 0.

Use when: private numbers, addresses or names must go without any training; a few forward and backward passes are all
that there is time or memory for; what is changed must be small and listed.

Needs: what is to be forgotten; no retain set. Guarantees: only columns of down-projections change, those listed in
``neurons.json``; the same data give the same neurons.

What else the neurons did goes with them, so z is the price: begin small. The cost is one pass of ``path_steps`` rows
for each block and token. The result is a whole checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.changes import CheckpointChange
from keeps.models.language_model import LanguageModel
from keeps.models.locate import mlp_outputs
from keeps.models.neurons import switch_off, token_attributions
from keeps.numerics.neurons import shared_neurons
from keeps.registry import method
from keeps.settings import Settings, setting
from keeps.training.keeping import WINDOW
from keeps.training.unlearn import check_sets, forget_examples
from keeps.training.whole import write_whole
from keeps.weights.files import atomic_write_bytes

FILE = "neurons.json"


@dataclass(frozen=True, kw_only=True)
class DEPNSettings(Settings):
    """Settings of DEPN."""

    neurons: int = setting(50, "z: how many privacy neurons are switched off, of all blocks together", ge=1)
    threshold: float = setting(0.1, "Share of a text's largest attribution above which a neuron is strong", ge=0, lt=1)
    path_steps: int = setting(20, "Summands m of the path integral", ge=1)
    tokens: int = setting(8, "Private tokens of each text that are looked at, from the first", ge=1)
    window: int = setting(WINDOW, "Tokens of running text that make one example", ge=8, advanced=True)


@method(
    "depn",
    verb="unlearn",
    paper="arXiv:2310.20138",
    summary="Switch off the neurons that private tokens hang on, found by integrated gradients; nothing is trained.",
    card="unlearning",
    needs=("forget",),
    forms=("merged",),
)
class DEPN:
    """Detecting and editing privacy neurons."""

    Settings = DEPNSettings

    def __init__(self, settings: DEPNSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None = None, *, run: Run
    ) -> CheckpointChange:
        """Find the neurons, write a checkpoint without them, and give the model back as it was.

        Raises:
            EmptySetError: nothing is to be forgotten.
            RecordError: the sets overlap, or an answer has no token.
            TargetError: a block has no single feed-forward part.
            StorageError: the disk is full or the folder is not writable.
        """
        s = self.settings
        check_sets(forget, retain)
        refs = mlp_outputs(model.model)
        scores = self.scores(model, forget, run)
        chosen = shared_neurons(scores.flatten(1), count=s.neurons, threshold=s.threshold)
        width = scores.shape[2]
        places: dict[int, list[int]] = {}
        for number in chosen.tolist():
            places.setdefault(number // width, []).append(number % width)
        run.measures |= {"switched_off": len(chosen), "neurons_in_all": int(scores[0].numel())}

        def without(module: Any, originals: Mapping[str, Tensor]) -> None:
            del module, originals
            for block, neurons in places.items():
                switch_off(refs[block], neurons)
            if run.is_main:
                listed = {refs[block].name: neurons for block, neurons in sorted(places.items())}
                atomic_write_bytes(run.folder / FILE, (json.dumps(listed, indent=2) + "\n").encode())

        return write_whole(model, without, s, run, method="depn", data={"forget": forget.fingerprint})

    def scores(self, model: LanguageModel, forget: RecordSet, run: Run) -> Tensor:
        """The attribution of every neuron for every text, ``(texts, blocks, neurons)`` float32 on the CPU."""
        s = self.settings
        examples = forget_examples(model, forget, s.window)
        found = []
        with run.progress.task("attribution", len(examples)) as task:
            for example in examples:
                ids, start = example.input_ids, example.answer_start
                places = range(start, min(len(ids), start + s.tokens))
                before, tokens = [ids[:place] for place in places], [ids[place] for place in places]
                found.append(token_attributions(model, before, tokens, steps=s.path_steps).sum(0))
                task.advance(1)
        return torch.stack(found)
