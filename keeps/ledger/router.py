"""Which data went to which expert, as a table: the figures that a run with a router measured on itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeps.errors import LedgerError
from keeps.ledger.tables import Table


def router_table(measures: Mapping[str, Any], name: str = "") -> Table:
    """One line a group of data, one column an expert: the mean gate over all layers, in per cent.

    Args:
        measures: of the run; ``measures["router"]`` is what :func:`keeps.training.routing.router_report` gave.
        name: of the run, for the error.

    Raises:
        LedgerError: the run has no router.
    """
    router = measures.get("router")
    if not router:
        mend = "name a run of a method with experts, such as loramoe"
        raise LedgerError("there is no router to show", where=name, mend=mend)
    types, names = router["expert_types"], router["type_names"]
    # An expert is named by the data that it serves most, which the sign of the constraint decides, not its own type.
    serves = [names[kind] for kind in router["serves"]]
    columns = ("data", "type", "tokens", *(f"{n} {serves[kind]}" for n, kind in enumerate(types, start=1)))
    rows = [
        (row["name"], names[row["type"]], str(row["tokens"]), *(f"{100 * mass:.1f}" for mass in row["mass"]))
        for row in router["groups"]
    ]
    together = [
        (
            f"learned, {names[int(kind)]}",
            names[int(kind)],
            str(router["tokens"][kind]),
            *(f"{100 * m:.1f}" for m in mass),
        )
        for kind, mass in router["mass"].items()
    ]
    note = (
        "Share of the gate in per cent, mean over tokens of prompts and over layers; an expert bears the name of the "
        "data that it gets most of. Over what was learned: coefficient of variation of the experts' load "
        f"{router['load_variation']:.2f}, entropy {100 * router['load_entropy']:.0f} % of its maximum."
    )
    strong = frozenset(range(len(rows), len(rows) + len(together)))
    return Table("Router: which data went to which expert", columns, tuple(rows + together), strong, note)
