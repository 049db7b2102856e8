"""The forms that a method says its results have, and the refusal of the others before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from keeps.errors import SettingsError, UnknownNameError
from keeps.registry import FORMS, MethodInfo, claims, find_claim, find_method, method, methods
from keeps.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class SomeSettings(Settings):
    """Of the methods below."""

    whole: bool = setting(False, "Train every weight")


def info_of(**options: Any) -> MethodInfo:
    """A method with these options of the decorator; ``decided`` becomes its static method ``forms``."""
    members: dict[str, Any] = {"Settings": SomeSettings}
    if "decided" in options:
        members["forms"] = staticmethod(options.pop("decided"))
    made: Any = method("some", verb="adapt", paper="", summary="", **options)(type("Some", (), members))
    return made.info


def test_a_method_has_the_forms_that_it_names_and_no_others() -> None:
    info = info_of(forms=("lora", "merged"))
    assert info.forms_with(SomeSettings()) == ("lora", "merged")
    for form in ("lora", "merged"):
        info.check_form(form, SomeSettings())
    for form in ("residual", "experts"):
        with pytest.raises(SettingsError, match=rf'some .* as "{form}".*use form "lora" or "merged"'):
            info.check_form(form, SomeSettings())


def test_settings_decide_where_the_method_says_so() -> None:
    info = info_of(decided=lambda settings: ("merged",) if settings.whole else ("lora", "merged"))
    info.check_form("lora", SomeSettings())
    with pytest.raises(SettingsError, match=r'with these settings .* as "lora".*use form "merged", or another method'):
        info.check_form("lora", SomeSettings(whole=True))


def test_of_a_method_that_says_neither_no_form_is_refused_beforehand() -> None:
    info = info_of()
    for form in FORMS:
        info.check_form(form, SomeSettings())


@pytest.mark.parametrize("options", [{}, {"forms": ("merged",)}])
def test_a_form_that_nothing_has_is_an_unknown_name(options: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match=r'there is no form "mergd".*did you mean "merged"'):
        info_of(**options).check_form("mergd", SomeSettings())


@pytest.mark.parametrize("forms", [(), ("lora", "full")])
def test_a_method_cannot_be_registered_with_forms_that_do_not_exist(forms: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="forms"):
        info_of(forms=forms)


@pytest.mark.parametrize("name", sorted(name for name, info in methods().items() if info.verb == "adapt"))
def test_every_method_of_the_verb_adapt_says_its_forms(name: str) -> None:
    info = find_method(name)
    if not info.module.startswith("keeps."):
        pytest.skip("a method of another package")
    forms = info.forms_with(info.settings())
    assert 0 < len(forms) < len(FORMS), "the default stands for not knowing"
    assert set(forms) <= set(FORMS)


OF_OTHER_VERBS = ("memory", "twin", "skillpack", "emr", "factored")


@pytest.mark.parametrize(
    ("name", "values", "refused"),
    [
        ("kasa", {"truncation": "paper"}, ("experts",)),
        ("kasa", {"truncation": "none"}, ("experts", "residual")),
        ("null_lora", {"init": "corda"}, ("experts",)),
        ("null_lora", {"init": "lora"}, ("experts", "residual")),
        ("l2_sp", {"parameters": "full"}, ("experts", "residual", "lora")),
        ("mix_cpt", {"parameters": "full"}, ("experts", "residual", "lora")),
        ("loftq", {}, ("experts", "residual", "lora")),
        ("full", {}, ("experts", "residual", "lora")),
        ("loramoe", {}, ("lora", "residual", "merged")),
    ],
)
def test_forms_that_a_result_cannot_have_are_refused(name: str, values: dict[str, Any], refused: tuple[str]) -> None:
    info = find_method(name)
    settings = info.settings.from_mapping(values)
    for form in FORMS:
        if form not in (*refused, *OF_OTHER_VERBS):
            info.check_form(form, settings)
            continue
        with pytest.raises(SettingsError, match=f'the result of {name} .*"{form}"'):
            info.check_form(form, settings)


def test_a_claim_answers_to_its_aliases_and_is_listed_once() -> None:
    claim = find_claim("evoke_lti")
    assert find_claim("evoke") is claim
    assert find_claim("lti") is claim
    assert "evoke" not in claims()
    with pytest.raises(UnknownNameError, match="evoke"):
        find_claim("evok")


def test_no_alias_is_another_claims_name_or_alias() -> None:
    names = [name for claim in claims().values() for name in (claim.card, *getattr(claim, "aliases", ()))]
    assert len(names) == len(set(names))
