"""Options come from the settings dataclasses: names, help, ranges, defaults, and what reaches the settings."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import pytest

from keeps.cli.adapt import build, command
from keeps.cli.generated import default_text, describe, metavar, parse_assignments, with_settings
from keeps.cli.main import main
from keeps.errors import SettingsError, UnknownNameError
from keeps.registry import MethodInfo, find_method, methods
from keeps.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class ExampleSettings(Settings):
    """One field of each kind."""

    rank: int = setting(16, "Rank of the adapter", ge=1)
    share: float = setting(0.5, "Share of it", ge=0, le=1, unit="per cent")
    shape: str = setting("round", "Shape of it", choices=("round", "square"))
    fair: bool = setting(True, "Whether it is fair")
    parts: tuple[str, ...] = setting(("a", "b"), "Parts of it")
    weights: dict[str, float] = setting({}, "Weights of parts")
    steps: int | None = setting(None, "Steps of it")
    secret: float = setting(1.0, "For experts", advanced=True)


def info_of(settings: type[Settings]) -> MethodInfo:
    return MethodInfo("example", "adapt", "a paper", "a summary", "example", (), (), (), (), object, settings)


@pytest.mark.parametrize("name", sorted(methods("adapt")))
def test_every_setting_of_every_method_is_an_option(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")  # a narrow terminal shortens long names
    assert main(["adapt", "--method", name, "--help-all"]) == 0
    shown = capsys.readouterr().out
    names = [info.name.replace("_", "-") for info in find_method(name, "adapt").settings.fields()]
    assert [option for option in names if f"--{option}" not in shown] == []


def test_advanced_settings_are_shown_by_help_all_only(capsys: pytest.CaptureFixture[str]) -> None:
    advanced = [info.name for info in find_method("corda").settings.fields() if info.advanced]
    assert advanced
    main(["adapt", "--method", "corda", "--help"])
    assert f"--{advanced[0].replace('_', '-')}" not in capsys.readouterr().out


def test_the_method_decides_the_options() -> None:
    names = {
        name: set(inspect.signature(build(["adapt", f"--method={name}"])).parameters) for name in ("lora", "corda")
    }
    assert "mode" in names["corda"]
    assert "mode" not in names["lora"]
    assert set(inspect.signature(command).parameters) - {"settings"} <= names["lora"]


def test_an_unknown_method_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="corda"):
        build(["adapt", "--method", "corde"])


def test_only_given_options_reach_the_settings() -> None:
    def job(*, learn: str = "", settings: Any = None) -> Any:
        return learn, settings

    made = with_settings(job, info_of(ExampleSettings), everything=False)
    fields = {info.name: None for info in ExampleSettings.fields()}
    assert made(**{**fields, "learn": "x", "rank": "8", "fair": False}) == ("x", {"rank": "8", "fair": False})


def test_a_setting_that_would_hide_a_common_option_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Clash(Settings):
        learn: int = setting(1, "Not what you think")

    def job(*, learn: str = "", settings: Any = None) -> None:
        del learn, settings

    with pytest.raises(SettingsError, match="learn"):
        with_settings(job, info_of(Clash), everything=False)


def test_values_given_as_text_are_what_the_settings_make_of_them() -> None:
    values = {"rank": "8", "share": "0.25", "parts": "c,d", "weights": "x=2", "steps": "none"}
    made = ExampleSettings.from_mapping(values)
    assert (made.rank, made.share, made.parts, made.weights, made.steps) == (8, 0.25, ("c", "d"), {"x": 2.0}, None)


def test_kinds_and_help_are_read_from_the_fields() -> None:
    fields = {info.name: info for info in ExampleSettings.fields()}
    kinds = {name: metavar(info) for name, info in fields.items()}
    assert kinds["rank"] == "WHOLE"
    assert kinds["shape"] == "round|square"
    assert kinds["parts"] == "LIST"
    assert kinds["weights"] == "NAME=VALUE,..."
    assert describe(fields["share"]) == "Share of it (per cent; >= 0 and <= 1; default: 0.5)."


def test_defaults_are_written_as_they_would_be_typed() -> None:
    written = {info.name: default_text(info.default) for info in ExampleSettings.fields()}
    assert written["parts"] == "a,b"
    assert written["weights"] == "none"
    assert ExampleSettings.from_mapping({"parts": written["parts"], "rank": written["rank"]}).parts == ("a", "b")


@pytest.mark.parametrize("word", ["rank", "=8", " =8"])
def test_a_word_that_is_no_assignment_is_refused(word: str) -> None:
    with pytest.raises(SettingsError, match="KEY=VALUE"):
        parse_assignments([word])


def test_dashes_and_underscores_are_the_same_in_assignments() -> None:
    assert parse_assignments(["batch-size=4", "x=a=b"]) == {"batch_size": "4", "x": "a=b"}
