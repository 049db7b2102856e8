"""Rows of the tables of the claim about editors, from the findings of the editing probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keeps.data.edits import Edit
from keeps.probe.base import Findings, Measure

OF_A_KIND = 2  # prompts of an edit
COLUMNS: Mapping[str, str] = {
    "success": "rewrite.exact",
    "rephrase": "rephrase.exact",
    "portability": "portability.token",
    "locality": "locality.exact",
    "fluency": "fluency.ngram_entropy",
}


def figures(findings: Findings, name: str, seconds: float) -> dict[str, Any]:
    """The standard scores of the model ``name``, each with its interval; None where there is none."""
    found: dict[str, Any] = {}
    for column, metric in COLUMNS.items():
        item = measure(findings, metric, name)
        found[column] = None if item is None else {"value": item.value, "low": item.low, "high": item.high, "n": item.n}
    return {**found, "seconds": seconds}


def measure(findings: Findings, metric: str, model: str) -> Measure | None:
    """The measure over everything of one model, where it has a value."""
    found = (item for item in findings.measures if item.metric == metric and item.model == model)
    return next((item for item in found if item.group == "all" and item.value is not None), None)


def short(edit: Edit) -> Edit:
    """``edit`` with at most two prompts of a kind: each costs time in every method."""
    kinds: dict[str, int] = {}

    def few(prompts: Any) -> tuple[Any, ...]:
        kept = []
        for asked in prompts:
            kinds[asked.kind] = kinds.get(asked.kind, 0) + 1
            if kinds[asked.kind] <= OF_A_KIND:
                kept.append(asked)
        return tuple(kept)

    return replace(
        edit, paraphrases=edit.paraphrases[:2], portability=few(edit.portability), locality=few(edit.locality)
    )
