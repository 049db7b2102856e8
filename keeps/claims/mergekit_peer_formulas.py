"""Merges of whole tensors in float64 by sorting and summing: the definitions, with nothing of the engine in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def average(models: Sequence[Array], weights: Sequence[float]) -> Array:
    """Weighted mean."""
    return sum_of(models, weights) / sum(weights)


def sum_of(rows: Sequence[Array], weights: Sequence[float]) -> Array:
    """Weighted sum."""
    return np.tensordot(np.asarray(weights), np.stack(rows), 1)


def task_arithmetic(base: Array, models: Sequence[Array], weights: Sequence[float]) -> Array:
    """The base and the weighted differences."""
    return base + sum_of([model - base for model in models], weights)


def trimmed(delta: Array, density: float) -> Array:
    """The ``int(density n)`` largest entries; all that are as large as the last of them."""
    count = int(density * delta.size)
    if count == 0:
        return np.zeros_like(delta)
    return np.where(np.abs(delta) >= np.sort(np.abs(delta), axis=None)[-count], delta, 0.0)


def ties(base: Array, models: Sequence[Array], weights: Sequence[float], density: float) -> Array:
    """Trimmed by tensor; a sum of 0 counts as positive; divided by the weights of what agrees."""
    weighted = [w * trimmed(delta32(model, base), density) for w, model in zip(weights, models, strict=True)]
    positive = np.sum(weighted, axis=0) >= 0
    agrees = [np.where(positive, row > 0, row < 0) for row in weighted]
    divisor = sum_of([row.astype(np.float64) for row in agrees], weights)
    total = np.sum([row * agree for row, agree in zip(weighted, agrees, strict=True)], axis=0)
    return base + total / np.where(divisor == 0, 1.0, divisor)


def delta32(model: Array, base: Array) -> Array:
    """A difference as float32 has it, so that both sides rank the same magnitudes."""
    return (model.astype(np.float32) - base.astype(np.float32)).astype(np.float64)


def slerp(a: Array, b: Array, t: float) -> Array:
    """On the arc; on the chord where the cosine is above 0.9995."""
    cosine = float((a * b).sum() / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-300))
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    angle = float(np.arccos(np.clip(cosine, -1, 1)))
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def model_stock(base: Array, models: Sequence[Array]) -> Array:
    """By the mean cosine of pairs of offsets."""
    offsets = [(model - base).reshape(-1) for model in models]
    count = len(offsets)
    pairs = [(i, j) for i in range(count) for j in range(i)]
    cosines = [offsets[i] @ offsets[j] / (np.linalg.norm(offsets[i]) * np.linalg.norm(offsets[j])) for i, j in pairs]
    mean = float(np.mean(cosines))
    ratio = count * mean / (1 + (count - 1) * mean)
    return ratio * np.mean(models, axis=0) + (1 - ratio) * base


def karcher(models: Sequence[Array], steps: int = 200) -> Array:
    """The walk over whole vectors."""
    flat = [model.reshape(-1) for model in models]
    lengths = [float(np.linalg.norm(row)) for row in flat]
    units = [row / length for row, length in zip(flat, lengths, strict=True)]
    point = np.mean(units, axis=0)
    point /= np.linalg.norm(point)
    for _ in range(steps):
        pull = np.zeros_like(point)
        for unit in units:
            cosine = float(np.clip(unit @ point, -1, 1))
            across = unit - cosine * point
            norm = float(np.linalg.norm(across))
            pull += np.arccos(cosine) * across / norm / len(units) if norm > 1e-14 else 0.0
        length = float(np.linalg.norm(pull))
        if length < 1e-13:
            break
        point = np.cos(length) * point + np.sin(length) * pull / length
        point /= np.linalg.norm(point)
    return (point * float(np.mean(lengths))).reshape(models[0].shape)
