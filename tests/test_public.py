"""The public names: found in `keeps`, loaded late, and `keeps.adapt` as package and function at once."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import keeps


def fresh(code: str) -> str:
    """The output of code in a new interpreter, where nothing is imported yet."""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@pytest.mark.parametrize("name", sorted(keeps._HOMES))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(keeps, name)
    assert callable(value)
    documented = value.__wrapped__ if inspect.ismodule(value) else value
    assert inspect.getdoc(documented)
    assert name in dir(keeps)


def test_importing_keeps_imports_no_heavy_library() -> None:
    assert fresh("import keeps, sys; print([n for n in ('torch', 'numpy', 'typer') if n in sys.modules])") == "[]"


@pytest.mark.parametrize(
    "imports",
    [
        "import keeps",
        "import keeps.adapt.corda; import keeps",
        "import keeps; keeps.adapt; import keeps.adapt.corda",
        "import keeps.probe.facts; import keeps",
    ],
)
def test_a_room_and_a_function_of_the_same_name_live_together_in_any_order(imports: str) -> None:
    code = f"""{imports}
import inspect, keeps.jobs
for name in ("adapt", "probe"):
    room = getattr(keeps, name)
    assert callable(room) and inspect.ismodule(room), name
    assert list(inspect.signature(room).parameters) == list(inspect.signature(getattr(keeps.jobs, name)).parameters)
    from keeps.adapt.corda import CorDA
    assert keeps.adapt.corda.CorDA is CorDA
try:
    keeps.adapt(method="no such method")
except keeps.KeepsError as error:
    print(type(error).__name__)
"""
    assert fresh(code) == "UnknownNameError"


def test_from_imports_give_the_same_callable() -> None:
    assert fresh("from keeps import adapt, probe; print(callable(adapt), callable(probe))") == "True True"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="adopt"):
        keeps.adopt  # type: ignore[attr-defined]  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    from keeps.versions import installed

    if installed("keeps") is None:
        pytest.skip("keeps runs from its folder without being installed")
    assert installed("keeps") == keeps.__version__
