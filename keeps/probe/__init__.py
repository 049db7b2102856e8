"""Probes: data, a way to ask and a way to score, turned on anything that answers."""

from __future__ import annotations

from keeps.probe.base import Findings, Measure, ModelRows, ProbingSystem, Selection
from keeps.probe.facts import FactProbe
from keeps.probe.several import SeveralProbes
from keeps.probe.text import TextProbe

__all__ = [
    "FactProbe",
    "Findings",
    "Measure",
    "ModelRows",
    "ProbingSystem",
    "Selection",
    "SeveralProbes",
    "TextProbe",
]
