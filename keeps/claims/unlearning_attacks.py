"""Every attack on membership against one model: how far the forget set stands out from facts it never saw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keeps.claims.unlearning_people import invented_facts
from keeps.numerics.membership import attack_area
from keeps.probe.unlearning import ATTACKED, UnlearningProbe
from keeps.probe.unlearning_measures import ATTACKS, attack_scores


def attack_areas(model: Any, *, min_k: float) -> dict[str, float]:
    """The area under the curve of every attack that needs no second model, forget set against holdout set."""
    items = [replace(fact.item, perturbed_answers=()) for fact in invented_facts() if fact.part in ATTACKED]
    rows = UnlearningProbe(items, gradient_norm="whole", new_tokens=1)(model)
    forget, holdout = ([row for row in rows if row.group == part] for part in ATTACKED)
    return {
        attack: attack_area(*(attack_scores(part, attack, min_k) for part in (forget, holdout))).value
        for attack in ATTACKS
        if attack != "reference"
    }
