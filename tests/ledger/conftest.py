"""Made-up rows with known counts: the arithmetic is tested with them, nothing is claimed from them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keeps.contracts import Row
from keeps.ledger import Ledger, RunRecord

GROUPS = {  # group -> (questions, chance of being right before)
    "learn: atomic_number": (60, 0.05),
    "learn: capital": (40, 0.0),
    "learn: atomic_number, unseen wording": (60, 0.05),
    "keep: symbol": (48, 0.9),
    "keep: capital": (50, 0.8),
    "keep: continent": (70, 0.95),
    "calibrated: capital": (40, 0.85),
}
SUBJECTS = ("Norway", "Krypton", "Peru", "Iron", "Chad", "Neon", "Samoa", "Zinc")
ANSWERS = ("Oslo", "36", "Lima", "26", "N'Djamena", "10", "Apia", "30", "Europe", "Fe")


def before_rows() -> list[Row]:
    """The rows of the untouched model: always the same."""
    dice = random.Random(7)
    rows = []
    for group, (count, chance) in GROUPS.items():
        for number in range(count):
            expected = dice.choice(ANSWERS)
            right = dice.random() < chance
            prompt = f"The {group.partition(': ')[2]} of {dice.choice(SUBJECTS)} {number} is"
            answer = expected if right else dice.choice(ANSWERS) + " or so"
            score = dice.choice((0.67, 1.0)) if right else dice.choice((0.0, 0.33))
            rows.append(Row(f"{group}#{number}", group, prompt, expected, answer, right, score, -dice.expovariate(0.4)))
    for number in range(24):
        tokens = dice.randint(60, 200)
        loss = dice.gauss(3.1, 0.3)
        details = {"tokens": tokens}
        rows.append(
            Row(f"text{number}", "text: held-out", "A passage", "", "", False, -loss, -loss * tokens, "text", details)
        )
    return rows


def after_rows(learn: float, keep: float, text: float, seed: int) -> list[Row]:
    """The rows after a change that learns with chance ``learn`` and keeps with chance ``keep``."""
    dice = random.Random(f"{learn}, {keep}, {seed}")
    rows = []
    for row in before_rows():
        shift = dice.gauss(text, 0.05)
        if row.kind == "text":
            assert row.logprob is not None
            tokens = row.details["tokens"]
            rows.append(
                Row(
                    row.id,
                    row.group,
                    row.prompt,
                    "",
                    "",
                    False,
                    row.score - shift,
                    row.logprob - shift * tokens,
                    "text",
                    row.details,
                )
            )
            continue
        taught = row.group.startswith("learn")
        chance = (learn * 0.85 if "unseen" in row.group else learn) if taught else keep if row.correct else 0.06
        right = dice.random() < chance
        answer = row.expected if right else dice.choice(ANSWERS) + " it seems"
        rows.append(
            Row(
                row.id,
                row.group,
                row.prompt,
                row.expected,
                answer,
                right,
                float(right),
                (row.logprob or 0) + (1.5 if taught else -0.2) + dice.gauss(0, 0.4),
            )
        )
    return rows


METHODS = {  # method -> (learn, keep, text shift, seconds, trained parameters, learning rates)
    "full": (0.99, 0.55, 0.45, 310.0, 134_515_008, (1e-4,)),
    "lora": (0.97, 0.78, 0.12, 120.0, 4_884_480, (2e-4, 1e-3)),
    "corda": (0.95, 0.93, 0.03, 165.0, 4_884_480, (5e-4,)),
    "corda_ipm": (0.98, 0.82, 0.09, 160.0, 4_884_480, (5e-4,)),
    "head_only": (0.4, 0.97, 0.01, 45.0, 28_311_552, (1e-3,)),
}


@pytest.fixture(scope="session")
def rows_before() -> list[Row]:
    return before_rows()


@pytest.fixture(scope="session")
def rows_after() -> Callable[..., list[Row]]:
    return after_rows


@pytest.fixture
def ledger_of(tmp_path: Path) -> Callable[..., Path]:
    """Makes a ledger with one run per method, learning rate and seed; returns its path."""

    def build(seeds: int = 3, methods: tuple[str, ...] = tuple(METHODS)) -> Path:
        path = tmp_path / "keeps.db"
        with Ledger.open(path) as ledger:
            probe: dict[str, Any] = {"probe": "world", "probe_fingerprint": "probe1"}
            first = ledger.add_result(subject="base", subject_name="smollm2-135m", rows=before_rows(), **probe)
            for method in methods:
                learn, keep, text, seconds, parameters, rates = METHODS[method]
                for rate in rates:
                    for seed in range(seeds):
                        name = f"{method}-{rate:g}-{seed}"
                        worse = 0.12 if rate >= 1e-3 and method == "lora" else 0.0
                        rows = after_rows(learn, keep - worse, text + worse, seed)
                        second = ledger.add_result(subject=name, subject_name=method, rows=rows, **probe)
                        ledger.add_run(
                            RunRecord(
                                id=name,
                                kind="adapt",
                                method=method,
                                model="smollm2-135m",
                                model_fingerprint="base",
                                learn="world:unknown:atomic_number,world:unknown:capital",
                                keep="world:known:symbol,world:known:capital,world:known:continent",
                                data_fingerprints={"learn": "0123456789abcdef", "keep": "fedcba9876543210"},
                                settings={"learning_rate": rate, "epochs": 8, "rank": 16},
                                seed=seed,
                                status="done",
                                command=f"keeps adapt --method {method} --learning-rate {rate:g} --seed {seed}",
                                versions={"keeps": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
                                measures={
                                    "train_seconds": seconds * (1 + 0.03 * seed),
                                    "peak_memory_bytes": 2.1e9,
                                    "trained_parameters": parameters,
                                    "disk_bytes": parameters * 4,
                                },
                                folder=f"runs/{name}",
                                before_result=first,
                                after_result=second,
                            )
                        )
                        dice = random.Random(name)
                        ledger.add_curves(
                            name,
                            [("loss", step, 4 * 0.9**step + dice.random() * 0.2) for step in range(1, 41)]
                            + [("learning_rate", step, rate * (1 - step / 41)) for step in range(1, 41)],
                        )
        return path

    return build
