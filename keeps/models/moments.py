"""The second moment of what a layer reads, from text that is on this machine; computed once a model and text, and kept.

C = E[k k^T] over the tokens of the built-in running text and facts of the world, or of any records. The file lies in
the cache folder under the fingerprints of the model's weights and of the text, so that nothing of one model is ever
used for another; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.data.select import load_records
from keeps.errors import KeepsError, StatisticsError
from keeps.models.calibration import calibration_sequences
from keeps.models.covariance_files import load_covariances, save_covariances
from keeps.models.covariances import collect_covariance, token_batches
from keeps.models.gguf import cache_folder
from keeps.models.language_model import LanguageModel
from keeps.models.locate import ModuleRef, first_blocks, mlp_outputs
from keeps.models.nullspaces import second_moment
from keeps.numerics.editing import null_basis
from keeps.weights.files import load_tensors, save_tensors

TEXT = "text,world#2000"  # prose, and sentences about as many subjects: what an edit must not disturb
SEQUENCE = 256  # tokens up to which short texts are joined


@dataclass(frozen=True)
class SecondMoment:
    """C ``(in, in)`` float64 of one layer, and the tokens behind it."""

    matrix: Tensor
    tokens: int


def second_moments(
    model: LanguageModel,
    layers: Sequence[int],
    *,
    tokens: int,
    text: RecordSet | None = None,
    seed: int = 0,
    run: Run | None = None,
    cache: Path | None = None,
    fingerprint: str | None = None,
) -> dict[int, SecondMoment]:
    """C of the MLP down-projection's input in each of ``layers``.

    Args:
        tokens: of text to read.
        text: what to read; default the built-in text and world.
        cache: folder of stored statistics; default that of converted models.
        fingerprint: of the model, where it is known already: finding it reads every weight.

    Raises:
        StatisticsError: no token, or something that is not finite.
        TargetError: the model has no such layers.
    """
    refs = mlp_outputs(model.model)
    records = load_records(TEXT) if text is None else text
    folder = (cache_folder() if cache is None else cache) / "moments"
    identity = f"{fingerprint or model.fingerprint}-{_text_id(records, tokens, seed)}"
    paths = {layer: folder / f"{identity}-{layer}.safetensors" for layer in layers}
    missing = [layer for layer in layers if not paths[layer].exists()]
    found = {layer: _read(paths[layer], refs[layer]) for layer in layers if layer not in missing}
    missing += [layer for layer, moment in found.items() if moment is None]
    if missing:
        found |= _collect(model, {layer: refs[layer] for layer in missing}, records, tokens, seed, run, paths)
    return {layer: moment for layer in layers if (moment := found[layer]) is not None}


def stored_null_basis(moment: Tensor, threshold: float, cache: Path | None = None) -> Tensor:
    """:func:`keeps.numerics.editing.null_basis`, kept under a hash of its arguments: the slowest step of an edit.

    Raises:
        StatisticsError: no direction is free.
    """
    content = moment.double().cpu().contiguous()
    digest = hashlib.sha256(content.numpy().tobytes() + repr(float(threshold)).encode()).hexdigest()[:16]
    path = (cache_folder() if cache is None else cache) / "null_spaces" / f"{digest}.safetensors"
    try:
        return load_tensors(path)["basis"].to(moment.device)
    except (KeepsError, KeyError):
        basis = null_basis(content, threshold)
    with suppress(KeepsError, OSError):  # a full disk costs the next run time, not this one its result
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, {"basis": basis.contiguous()})
    return basis.to(moment.device)


def _collect(
    model: LanguageModel,
    refs: Mapping[int, ModuleRef],
    records: RecordSet,
    tokens: int,
    seed: int,
    run: Run | None,
    paths: Mapping[int, Path],
) -> dict[int, SecondMoment]:
    sequences: list[list[int]] = []
    for sequence in calibration_sequences(model, records, tokens=SEQUENCE, answers=True, seed=seed):
        if sum(map(len, sequences)) >= tokens:
            break
        sequences.append(sequence)
    if not any(sequences):
        raise StatisticsError("there is no text to form statistics from", where=records.source, mend="give some text")
    batches = token_batches([item for item in sequences if item], pad_token_id=model.encoder.pad_token_id)
    named = {ref.name: ref.module for ref in refs.values()}
    with first_blocks(model.model, max(refs) + 1):
        covariances = collect_covariance(
            model.model, batches, normalise="none", dtype=torch.float64, layers=named, run=run, total=len(batches)
        )
    found = {}
    for layer, ref in refs.items():
        covariance = covariances[ref.name]
        found[layer] = SecondMoment(second_moment(covariance).cpu(), covariance.n_tokens)
        try:
            paths[layer].parent.mkdir(parents=True, exist_ok=True)
            save_covariances(paths[layer], {ref.name: covariance})
        except (KeepsError, OSError) as error:  # a full disk costs the next run time, not this one its result
            if run is not None:
                run.progress.message(f"the statistics cannot be kept for later: {error}")
    return found


def _read(path: Path, ref: ModuleRef) -> SecondMoment | None:
    """What an earlier run stored; None where the file is damaged or another layer's."""
    try:
        covariance = load_covariances(path)[ref.name]
    except (KeepsError, KeyError):
        return None
    if covariance.total.shape != (ref.in_features, ref.in_features):
        return None
    return SecondMoment(second_moment(covariance), covariance.n_tokens)


def _text_id(records: RecordSet, tokens: int, seed: int) -> str:
    return hashlib.sha256(f"{records.fingerprint}\n{tokens}\n{SEQUENCE}\n{seed}".encode()).hexdigest()[:16]
