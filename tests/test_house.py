"""The rules of the house: every method has its three files, files stay small, imports go downwards."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

import keeps.adapt
import keeps.claims  # noqa: F401
from keeps.cli.main import main
from keeps.cli.pages import site_pages
from keeps.cli.ranking import USES
from keeps.cli.recipe import arguments, read_recipe
from keeps.jobs.comparing import Variant
from keeps.registry import MethodInfo, claims, find_method, methods

ROOT = Path(__file__).resolve().parent.parent
LONGEST_FILE = 300
# Cards whose measures are here, and whose claims come with the methods that they measure.
PENDING_CLAIMS = ("cl_survey",)
# Written in two halves, so that this file does not find itself.
FORBIDDEN = {
    "a machine path": r"(?<![\w.])/(wo" + r"rk/|op" + r"t/(?!homebrew|local))",
    "a package host": r"py" + r"pi\.org|python" + r"hosted|download\.py" + r"torch",
    "pickle": r"\bpickle\.lo" + r"ads?\b|torch\.lo" + r"ad\(",
    "a shell": r"shell=Tr" + r"ue|os\.sys" + r"tem\(",
    "unfinished work": r"\b(TO" + r"DO|FIX" + r"ME|HA" + r"CK)\b|raise NotImplemented" + r"Error",
}


def missing_parts(
    info: MethodInfo, tests: Path, known_claims: Mapping[str, Any], pages: Mapping[str, str]
) -> list[str]:
    """What a registered method lacks of its test, claim and page."""
    missing = []
    test = tests / info.verb / f"test_{info.name}.py"
    if not test.is_file() or "def test_" not in test.read_text(encoding="utf-8"):
        missing.append(f"{info.name} has no test: write tests/{info.verb}/test_{info.name}.py")
    if info.card and info.card not in (*known_claims, *PENDING_CLAIMS):
        missing.append(f"{info.name} has no claim: write keeps/claims/{info.card}.py")
    if f"methods/{info.name}.md" not in pages:
        missing.append(f"{info.name} has no page: write the docstring of {info.module}")
    return missing


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return site_pages({})


def test_there_are_methods_to_check() -> None:
    assert {"full", "lora", "corda"} <= set(methods("adapt"))


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method_has_a_test_a_claim_and_a_page(name: str, pages: dict[str, str]) -> None:
    assert missing_parts(find_method(name), ROOT / "tests", claims(), pages) == []


@pytest.mark.parametrize("name", sorted(methods()))
def test_a_method_lives_in_the_file_that_bears_its_name_or_its_field(name: str) -> None:
    info = find_method(name)
    module = sys.modules[info.module]
    if not info.module.startswith("keeps."):
        pytest.skip("a method of another package")
    assert info.module.rpartition(".")[0] == f"keeps.{info.verb}"
    assert f'"{name}"' in Path(str(module.__file__)).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_setting_of_a_method_says_what_it_is(name: str) -> None:
    assert [info.name for info in find_method(name).settings.fields() if not info.help] == []


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method_says_when_to_use_it(name: str) -> None:
    assert f"\n{USES}" in find_method(name).documentation, "add a paragraph 'Use when: ...; ...' to the docstring"


def source_files(*suffixes: str) -> list[Path]:
    folders = ("keeps", "tests", "scripts", "docs", "benchmarks", ".ci")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    found += [path for path in ROOT.iterdir() if path.is_file() and path.name not in (".git", ".gitignore")]
    return [path for path in found if "__pycache__" not in path.parts and (not suffixes or path.suffix in suffixes)]


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in source_files(".py")}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    kinds = (".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".j2", ".html", "")
    pattern = re.compile(FORBIDDEN[what])
    texts = {
        path: path.read_text(encoding="utf-8") for path in source_files(*kinds) if path != Path(__file__).resolve()
    }
    found = {
        str(path.relative_to(ROOT)): match.group() for path, text in texts.items() if (match := pattern.search(text))
    }
    assert found == {}


def test_imports_go_downwards_only() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    found = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_requirements_are_lower_bounds_only() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    assert [item for item in wanted if not re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?>=[\d.]+", item)] == []
    assert not any(name in item for item in wanted for name in ("torchvision", "torchaudio"))


# --- a method is three files and nothing else -------------------------------------------------

METHOD = '''
    {docstring}
    from __future__ import annotations

    from dataclasses import dataclass

    from keeps.adapt.lora import LoRA
    from keeps.registry import method
    from keeps.settings import setting
    from keeps.training.adapter import AdapterSettings


    @dataclass(frozen=True, kw_only=True)
    class ToySettings(AdapterSettings):
        """Settings of the toy."""

        toy_strength: float = setting(0.5, "How much of a toy it is", ge=0, le=1, unit="toys")


    @method("toy", verb="adapt", paper="arXiv:0000.00000", summary="A toy for a test.")
    class Toy(LoRA):
        Settings = ToySettings
'''
CLAIM = '''
    """The claim of the toy."""
    from types import SimpleNamespace

    CLAIM = SimpleNamespace(card="toy")
'''
TEST = "def test_toy_is_a_toy() -> None:\n    assert True\n"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which methods and claims are found too, as if their files lay in the package."""
    for room in ("adapt", "claims"):
        (tmp_path / room).mkdir()
        package = sys.modules[f"keeps.{room}"]
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / room)])
    (tmp_path / "tests" / "adapt").mkdir(parents=True)
    yield tmp_path
    for room in ("adapt", "claims"):
        if sys.modules.pop(f"keeps.{room}.toy", None) is not None:
            delattr(sys.modules[f"keeps.{room}"], "toy")


def write_method(folder: Path, docstring: str = '"""The toy: does what LoRA does."""') -> None:
    (folder / "adapt" / "toy.py").write_text(dedent(METHOD).format(docstring=docstring).lstrip())


def write_test_and_claim(folder: Path) -> None:
    (folder / "tests" / "adapt" / "test_toy.py").write_text(TEST)
    (folder / "claims" / "toy.py").write_text(dedent(CLAIM).lstrip())


def test_three_files_are_enough_for_command_recipe_page_and_comparison(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_method(toy)
    write_test_and_claim(toy)
    info = find_method("toy")
    assert missing_parts(info, toy / "tests", claims(), site_pages({})) == []

    assert main(["adapt", "--method", "toy", "--help"]) == 0
    assert "--toy-strength" in capsys.readouterr().out
    assert main(["methods", "--json"]) == 0
    assert '"toy"' in capsys.readouterr().out

    recipe = toy / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"command": "adapt", "method": "toy", "toy_strength": 0.25}))
    from keeps.cli.adapt import command

    read = arguments(read_recipe(recipe, ("adapt",)), command, info.settings)
    assert read["settings"] == {"toy_strength": 0.25}

    page = site_pages({})["methods/toy.md"]
    assert "does what LoRA does" in page
    assert "`toy_strength`" in page
    assert "[`toy`](toy.md)" in site_pages({})["methods/index.md"]
    assert Variant.parse("toy:toy_strength=0.25").method == "toy"


def test_a_method_without_test_claim_or_page_is_found_out(toy: Path) -> None:
    write_method(toy, docstring="")
    found = missing_parts(find_method("toy"), toy / "tests", claims(), site_pages({}))
    assert [line.partition(":")[0] for line in found] == ["toy has no test", "toy has no claim", "toy has no page"]


def test_the_table_of_the_readme_is_current() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "readme.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
