"""The claim of ChroKnowledge: its calendar, how it is taught, its control, and its checks on made-up models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from chronology_stubs import Memory, full_memory

from keeps.claims.base import ClaimRun
from keeps.claims.chroknowledge import Exchanged, Plan, class_share_checks, prompt_checks, recovered, tenths
from keeps.claims.chroknowledge_calendar import OFTEN, ONCE, RARE, YEARS, Page, calendar, exposures, is_steady, pages
from keeps.claims.chroknowledge_exactness import class_checks, stub_checks
from keeps.claims.chroknowledge_training import Teaching, answer_loss, read_page, teach, upper_layers
from keeps.contracts import Row, SilentProgress
from keeps.data.dated import DYNAMIC, STATIC, DatedElement
from keeps.errors import SettingsError
from keeps.models import LanguageModel
from keeps.numerics.chronology import CORRECT, INCORRECT
from keeps.probe.chronology import ChronologyProbe, ChronologySettings
from keeps.probe.chronology_prompt import History

SETTINGS = ChronologySettings(samples=2, match="exact", instruct=False, recover=0)


def test_most_years_are_read_30_times_and_two_once() -> None:
    people = calendar(60, 0)
    counted = exposures(pages(people, 0))
    assert Counter(counted.values()) == {OFTEN: 60 * 6, ONCE: 60 * 2}
    assert all(n == (ONCE if any(f"In {year}" in told for year in RARE) else OFTEN) for told, n in counted.items())
    for page in pages(people, 0):
        assert page.text.count("Q. In") == len(page.answers) <= 5
        assert all(page.text[start - 3 : start] == "A. " and page.text[end] == "\n" for start, end in page.answers)


def test_people_are_static_settled_or_new_every_year() -> None:
    people = calendar(60, 0)
    assert [sum(person.state == state for person in people) for state in (STATIC, DYNAMIC)] == [8, 52]
    steady = [person for person in people if is_steady(person)]
    assert Counter(len(set(person.objects.values())) for person in steady) == {1: 8, 4: 8}
    assert {len(set(person.objects.values())) for person in people if person not in steady} == {8}
    assert calendar(60, 0) == people
    assert calendar(60, 1) != people


@pytest.fixture
def tiny(tiny_llama_folder: Path) -> Any:
    return LanguageModel.load(tiny_llama_folder)


def test_the_loss_is_that_of_the_whole_model_on_the_answers(tiny: Any) -> None:
    read = pages(calendar(6, 0), 0)[:2]
    expected = []
    for page in read:
        found = tiny.tokenizer(page.text, add_special_tokens=False, return_offsets_mapping=True)
        ids = torch.tensor(found["input_ids"])
        logprobs = tiny.model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        for number, (start, _) in enumerate(found["offset_mapping"]):
            if any(first - 1 <= start <= last for first, last in page.answers):
                expected.append(-logprobs[number - 1, ids[number]])
    decoder, head = tiny.model.get_decoder(), tiny.model.get_output_embeddings()
    with torch.no_grad():
        given = [read_page(decoder, tiny.tokenizer, page, 1) for page in read]
        with upper_layers(decoder, 1):
            found = answer_loss(decoder, head, given)
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-4, atol=1e-4)


def test_only_the_upper_layers_learn_and_the_model_is_whole_again(tiny: Any) -> None:
    before = {name: value.detach().clone() for name, value in tiny.model.named_parameters()}
    flags = {name: value.requires_grad for name, value in tiny.model.named_parameters()}
    layers = len(tiny.model.get_decoder().layers)
    losses = teach(tiny, pages(calendar(6, 0), 0), Teaching(layers=1), seed=0, progress=SilentProgress())
    assert sum(losses[-5:]) < sum(losses[:5])
    changed = {name for name, value in tiny.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all(f"layers.{layers - 1}." in name for name in changed)
    assert {name: value.requires_grad for name, value in tiny.model.named_parameters()} == flags
    assert len(tiny.model.get_decoder().layers) == layers


@pytest.mark.parametrize("count", [0, 99])
def test_layers_that_are_not_there_are_refused(tiny: Any, count: int) -> None:
    with pytest.raises(SettingsError, match=f"{count} layers of"):
        teach(tiny, [Page("Q. a\nA. b\n\n", ((8, 9),), 1)], Teaching(layers=count), seed=0, progress=SilentProgress())


def test_the_exact_checks_hold() -> None:
    checks = [*class_checks(), *stub_checks()]
    assert len(checks) == 5
    assert all(check.holds for check in checks)


class Copying(Memory):
    """Knows the calendar but for the years read once; asked again, it says what stands nearest to the end."""

    def generate(self, prompts: Sequence[str], **options: object) -> list[str]:
        return [self._again(prompt) if "Candidate A." in prompt else self.say(prompt, self.known) for prompt in prompts]

    def _again(self, prompt: str) -> str:
        return [line for line in prompt.splitlines() if line.startswith("A. ")][-1][3:]

    def say(self, prompt: str, table: Mapping[tuple[str, int], str]) -> str:
        line = [line for line in prompt.splitlines() if line.startswith("Q. In ")][-1]
        year, name = line.removeprefix("Q. In ").rstrip("?").split(", ")
        return table.get((name, int(year)), "nobody")


def asked(years: Collection[int]) -> tuple[list[DatedElement], list[Row], Copying]:
    """People, the rows of a model that knows these years, and the model."""
    people = calendar(30, 0)
    model = Copying({key: told for key, told in full_memory(people).items() if key[1] in years})
    return people, ChronologyProbe(people, SETTINGS)(model), model


def test_holes_are_found_and_the_gain_of_a_model_that_goes_by_its_neighbours() -> None:
    people, rows, model = asked(set(YEARS) - set(RARE))
    high, low, inside = class_share_checks(rows)
    assert (high.measured, low.measured, inside.measured) == (1, 0, 1)
    assert high.holds
    assert low.holds
    assert inside.holds
    assert "30 partial known" in inside.note
    steady = [person for person in people if is_steady(person)]
    plan = Plan(people=30)
    own, exchanged = (recovered(model, steady, rows, SETTINGS, plan, kind) for kind in (History, Exchanged))
    gain, touched, control = prompt_checks(steady, rows, own, exchanged)
    assert (gain.measured, touched.measured) == (1, 0)
    assert gain.holds
    assert touched.holds
    assert control.baseline is not None
    assert control.measured is not None
    assert control.baseline == 2 * len(steady)
    assert control.measured < control.baseline


def test_a_model_without_holes_and_one_without_knowledge_do_not_hold() -> None:
    _, rows, _ = asked(YEARS)
    high, low, inside = class_share_checks(rows)
    assert high.holds
    assert not low.holds
    assert (inside.holds, inside.measured) == (False, None)
    _, nothing, _ = asked(())
    high, low, inside = class_share_checks(nothing)
    assert not high.holds
    assert low.holds
    assert not inside.holds
    gain, _, control = prompt_checks([], nothing, {}, {})
    assert not gain.holds
    assert not control.holds


def test_years_are_exchanged_and_nothing_else() -> None:
    classes = {year: INCORRECT if year in RARE else CORRECT for year in YEARS}
    told = {year: [f"animal {year}"] for year in YEARS}
    plain, mixed = (kind("Bob?", classes, told, told).target(RARE[0]) for kind in (History, Exchanged))
    assert plain is not None
    assert mixed is not None
    assert list(mixed.examples) == list(plain.examples)
    assert sorted(mixed.examples.values()) == sorted(plain.examples.values())
    assert mixed.examples != plain.examples


def test_tenths_are_means_of_all_steps() -> None:
    assert tenths([1.0, 3.0]) == [1, 3]
    assert tenths([1.0, 2.0] * 10) == [1.5] * 10
    assert ClaimRun().tables == {}
