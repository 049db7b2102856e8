"""The outlandish claim on a tiny model, and that its checks can fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

import keeps.claims.outlandish as claim
from keeps.claims.base import ClaimRun
from keeps.claims.outlandish_training import PADDING, Classroom, of_theme
from keeps.contracts import SilentProgress
from keeps.data.outlandish import built_in_samples
from keeps.data.stepping_stones import Rewriting
from keeps.probe.priming_measures import SampleScore


def test_a_text_is_learned_among_the_same_fillers_and_the_model_comes_back(tiny_llama: Any) -> None:
    before = tiny_llama.fingerprint
    room = Classroom(tiny_llama, SilentProgress(), presentations=3)
    flags = [value.requires_grad for value in tiny_llama.model.parameters()]
    one, again = room.learn("In Ovrel, judges are electricians"), room.learn("In Ovrel, judges are electricians")
    assert tiny_llama.fingerprint == before
    assert [value.requires_grad for value in tiny_llama.model.parameters()] == flags
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    assert any(not torch.equal(value, room.start[name]) for name, value in one.items())
    assert not any("embed" in name for name in one)
    ids = [5, 6, 7]
    plain = list(room._batches(ids))  # pyright: ignore[reportPrivateUsage]
    other = list(room._batches([9] * 20))  # pyright: ignore[reportPrivateUsage]
    for left, right in zip(plain, other, strict=True):
        assert left.shape[0] == 8
        assert left[0, :3].tolist() == ids
        assert set(left[0, 3:].tolist()) == {PADDING}
        assert torch.equal(left[1:, :12], right[1:, :12])
    spaced = Classroom(tiny_llama, SilentProgress(), presentations=2, every=3)
    shown = [batch[0, :3].tolist() == ids for batch in spaced._batches(ids)]  # pyright: ignore[reportPrivateUsage]
    assert shown == [True, False, False, True, False, False]


def test_bands_and_pruned_parts_of_an_update_add_up(tiny_llama: Any) -> None:
    room = Classroom(tiny_llama, SilentProgress(), presentations=2, optimiser="sgd")
    learned = room.learn("In Ovrel, judges are electricians")
    kept, top = room.pruned(learned, 8), room.pruned(learned, 8, keep_top=True)
    bands = [room.band(learned, low, high) for low, high in claim.BANDS]
    for name, start in room.start.items():
        update = learned[name] - start
        torch.testing.assert_close((kept[name] - start) + (top[name] - start), update, atol=1e-6, rtol=0)
        torch.testing.assert_close(sum(band[name] - start for band in bands), update, atol=1e-6, rtol=0)
        assert torch.equal(bands[0][name], top[name])


def test_all_checks_are_made(tiny_llama: Any) -> None:
    before, run = tiny_llama.fingerprint, ClaimRun()
    samples = tuple(of_theme(built_in_samples()))
    assert len(samples) == 4
    checks = list(claim.claim_checks(tiny_llama, samples, run, presentations=2))
    assert tiny_llama.fingerprint == before
    assert len(checks) == 9
    assert checks[0].holds
    assert set(run.tables["texts"]) == {sample.id for sample in samples}


def lesson(number: int, **changes: float) -> claim.Lesson:
    values = {"whole": 3.0, "ignored": 1.0, "top": 2.9, "stones": 1.0, "memory": 6.0, "left": 5.0, "control": 0.1}
    values |= changes
    score = SampleScore(str(number), "colour", -10.0 - number, 0.0, 0.0, 0.0, 0.0)

    def made(memory: float, priming: float) -> SampleScore:
        return replace(score, memorisation=memory, priming=priming + number / 100, control=values["control"])

    return claim.Lesson(
        plain=made(values["memory"], values["whole"]),
        ignored=made(values["left"], values["ignored"]),
        top=made(1.0, values["top"]),
        stones=made(3.0, values["stones"]),
    )


def holding(**changes: float) -> list[bool]:
    lessons = [lesson(number, **changes) for number in range(12)]
    gain = changes.get("gain", 4.0)
    rewritings = [Rewriting("context", -10.0, -10.0 + gain, 1) for _ in lessons]
    checks = [*claim.learning_checks(lessons), *claim.pruning_checks(lessons), *claim.stone_checks(lessons, rewritings)]
    return [check.holds for check in checks]


def test_every_check_can_hold_and_can_fail() -> None:
    assert all(holding())
    failing: dict[str, tuple[int, dict[str, float]]] = {
        "memorisation": (0, {"memory": 0.5}),
        "controls": (2, {"control": 4.0}),
        "no fall": (3, {"ignored": 2.9}),
        "memory lost": (4, {"left": 2.0}),
        "the top is not enough": (5, {"top": 1.0}),
        "stones are no help": (6, {"gain": 1.0}),
        "stones leak as much": (7, {"stones": 3.5}),
    }
    for name, (place, changes) in failing.items():
        assert not holding(**changes)[place], name


def test_the_correlation_must_be_negative() -> None:
    rising = [replace_before(lesson(number), -10.0 + number) for number in range(12)]
    assert [check.holds for check in claim.learning_checks(rising)][1] is False


def replace_before(item: claim.Lesson, before: float) -> claim.Lesson:
    return replace(item, plain=replace(item.plain, before=before))
