"""``keeps merge``: without a tensor library, as JSON, as text, and its mistakes in one paragraph."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from merge_models import family, read

from keeps.cli.main import main
from keeps.cli.merge import size_of
from keeps.errors import SettingsError


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_a_plain_merge_imports_no_tensor_library(tmp_path: Path, method: str) -> None:
    base, models = family(tmp_path, 2)
    words = ["merge", *map(str, models), "--base", str(base), "--method", method, "--out", str(tmp_path / "out")]
    code = (
        "import sys; from keeps.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'scipy', 'sklearn'} & set(sys.modules);"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "merged model" in done.stdout
    assert (tmp_path / "out" / "merge.json").exists()


def test_a_command_imports_none_of_the_others(tmp_path: Path) -> None:
    base, models = family(tmp_path, 1)
    words = ["merge", str(models[0]), "--base", str(base), "--out", str(tmp_path / "out"), "--dry-run"]
    code = (
        "import sys; from keeps.cli.main import main; code = main(sys.argv[1:]);"
        "others = {'keeps.cli.adapt', 'keeps.cli.methods', 'rich.markdown'} & set(sys.modules);"
        "sys.exit(f'{code} {others}' if code or others else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["-h", "merge"], ["merg"]])
def test_what_is_no_command_alone_still_knows_all_of_them(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(words)
    said = "".join(capsys.readouterr())
    assert "merge" in said or "No such option" in said
    if words == ["--help"]:
        assert all(name in said for name in ("adapt", "unlearn", "probe", "setup"))


def test_json_holds_the_report_of_every_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, models = family(tmp_path, 2)
    words = [*map(str, models), "--base", str(base), "--out", str(tmp_path / "out"), "--weights", "0.5,0.25"]
    assert main(["merge", *words, "--scale", "2", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["merge"]["tensors"]) == len(read(base))
    assert found["diffs"] == []
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["settings"]["weights"] == [0.5, 0.25]


def test_a_dry_run_of_a_yaml_file_shows_the_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, models = family(tmp_path, 2)
    recipe = {"merge_method": "ties", "base_model": str(base), "models": [{"model": str(m)} for m in models]}
    (tmp_path / "m.yml").write_text(json.dumps({**recipe, "parameters": {"weight": 1.0, "density": 0.5}}))
    assert main(["merge", "--yaml", str(tmp_path / "m.yml"), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "8 tensors" in said
    assert "nothing was written" in said
    assert not (tmp_path / "out").exists()


def test_mistakes_are_one_paragraph_and_exit_code_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, models = family(tmp_path, 1)
    for words, said in (
        (["merge", str(models[0]), "--out", "x"], "needs a base"),
        (["merge", str(models[0]), "--base", str(base)], "--out"),
        (["merge", "--yaml", "none.yml", "--out", str(tmp_path / "x")], "no such file"),
        (["merge", "--yaml", "none.yml", "--base", str(base), "--out", str(tmp_path / "x")], "base is given twice"),
        (["merge", "--yaml", "none.yml", "--method", "ties", "--out", str(tmp_path / "x")], "method is given twice"),
        (["merge", "--yaml", "none.yml", "--scale", "1", "--out", str(tmp_path / "x")], "settings is given twice"),
        (["merge", str(models[0]), "--base", str(base), "--probe", "world", "--dry-run"], "nothing to probe"),
        (["merge", str(models[0]), "--base", str(base), "--out", "x", "--shard-size", "big"], "no size"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err


def test_the_options_of_the_method_are_the_commands_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "--method", "ties", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--density" in said
    assert "--zero-sign" in said


def test_sizes_have_units() -> None:
    assert [size_of(text) for text in ("5GB", "1.5 m", "77")] == [5_000_000_000, 1_500_000, 77]
    with pytest.raises(SettingsError, match="no size"):
        size_of("five")


@pytest.mark.slow
def test_a_merge_can_be_probed_against_its_parents(
    tmp_path: Path, tiny_llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(json.dumps({"prompt": f"{x} is", "answer": " that"}) + "\n" for x in "abc"))
    words = [str(tiny_llama_folder), "--base", str(tiny_llama_folder), "--out", str(tmp_path / "out")]
    options = ["--probe", str(facts), "--workspace", str(tmp_path / "space"), "--json", "--quiet"]
    assert main(["merge", *words, *options]) == 0
    assert len(json.loads(capsys.readouterr().out)["diffs"]) == 2
