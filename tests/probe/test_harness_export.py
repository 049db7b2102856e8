"""Questions of keeps as tasks of the harness: it loads them, asks the very same tokens, and keeps reads them back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

import keeps
from keeps.cli.main import main
from keeps.data.records import Example, Fact, RecordSet
from keeps.data.select import load_records
from keeps.errors import EmptySetError, RecordError, SettingsError, StorageError
from keeps.models import LanguageModel
from keeps.models.harness_model import harness_model, harness_module
from keeps.probe.harness_export import SENTENCE, write_tasks

QUESTIONS = RecordSet(
    "mine",
    (
        Example("1", "The capital of France is", "Paris", ("City of Paris",)),
        Example("2", "To call France, dial +", "33"),
        Example("3", "The sky is", "blue", choices=("green", "blue", "a very old horse")),
        Example("4", "Dial +", "44", choices=("33", "44", "5")),
    ),
)


def test_a_task_a_group_with_every_wording_a_document(tmp_path: Path) -> None:
    facts = load_records("world:capital#3").questions()
    found = write_tasks("world:capital#3,world:symbol#2", tmp_path / "tasks", shots=1, prefix="own")
    assert found["own_capital"] == sum(len(fact.prompts) for fact in facts)
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == [
        *("own_capital.jsonl", "own_capital.yaml", "own_symbol.jsonl", "own_symbol.yaml"),
    ]
    lines = [json.loads(line) for line in (tmp_path / "tasks" / "own_capital.jsonl").read_text().splitlines()]
    asked = [line["prompt"].splitlines()[-1] for line in lines]
    assert asked == [prompt for fact in facts for prompt in fact.prompts]
    assert all(line["prompt"].count("\n") == 1 for line in lines)
    assert [line["answers"] for line in lines[:2]] == [list(facts[0].answers)] * 2
    task = yaml.safe_load((tmp_path / "tasks" / "own_capital.yaml").read_text())
    assert task["dataset_kwargs"]["data_files"]["test"] == str(tmp_path / "tasks" / "own_capital.jsonl")


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (" Paris. It is", "Paris"),
        ("St. John's, which", "St. John's, which"),
        ("12.", "12"),
        ("3.5 km", "3.5 km"),
        ("", ""),
        ("  two words ", "two words"),
        ("Yes! And", "Yes"),
    ],
)
def test_an_answer_ends_with_its_first_sentence(said: str, answer: str) -> None:
    assert re.findall(SENTENCE, said)[0] == answer


def test_what_makes_no_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptySetError, match="no question"):
        write_tasks("text", tmp_path / "a")
    with pytest.raises(SettingsError, match="is no name"):
        write_tasks(QUESTIONS, tmp_path / "a", prefix="a b")
    with pytest.raises(SettingsError, match="not 9"):
        write_tasks(QUESTIONS, tmp_path / "a", shots=9)
    (tmp_path / "there").mkdir()
    with pytest.raises(StorageError):
        write_tasks(QUESTIONS, tmp_path / "there")
    facts = tuple(Fact(name, "a", name, ("a is",), ("b",)) for name in ("x y", "x-y"))
    with pytest.raises(RecordError, match='"x y" and "x-y" would be one task'):
        write_tasks(RecordSet("alike", facts), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_command_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tasks", "--data", "world:symbol#4", "--out", str(tmp_path / "tasks"), "--limit", "2", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"] == {"keeps_symbol": 8}
    assert found["command"] == f"lm_eval --include_path {tmp_path / 'tasks'} --tasks keeps_symbol"
    assert main(words) == 2


def test_the_harness_loads_the_folder_and_scores_what_keeps_scores(
    tmp_path: Path, tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason='the evaluation harness is not installed: pip install "keeps[bench]"')
    assert write_tasks(QUESTIONS, tmp_path / "tasks") == {"keeps_examples": 2, "keeps_choices": 2}
    manager = harness_module("tasks").TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    model = harness_module("models.huggingface").HFLM(pretrained=tiny_llama.model, tokenizer=tiny_llama.tokenizer)
    monkeypatch.setattr(harness_module("evaluator"), "add_env_info", lambda _: None)  # asks every tool for its version
    found = harness_module("evaluator").simple_evaluate(model, tasks=["keeps"], task_manager=manager)
    questions = [question for question in QUESTIONS.questions() if question.choices]
    ranked = tiny_llama.rank([question.prompts[0] for question in questions], [q.choices for q in questions])
    for sample, score, question in zip(found["samples"]["keeps_choices"], ranked, questions, strict=True):
        logprobs = [response[0][0] for response in sample["resps"]]
        assert logprobs == pytest.approx(score.logprobs, abs=1e-4)
        best = question.choices[logprobs.index(max(logprobs))]
        assert sample["acc"] == float(best == question.answers[0])
    # an answer that is right to the letter counts, whichever of the accepted ones it is
    task = manager.load(["keeps_examples"])["tasks"]["keeps_examples"]
    document = task.eval_docs[0]
    assert [task.process_results(document, [said])["exact_match"] for said in ("paris", "city of Paris", "Rome")] == [
        *(1.0, 1.0, 0.0),
    ]
    assert isinstance(harness_model(tiny_llama), harness_module("api.model").LM)


@pytest.mark.slow
def test_keeps_probes_its_own_questions_through_the_harness(tmp_path: Path, smollm2: LanguageModel) -> None:
    pytest.importorskip("lm_eval", reason='the evaluation harness is not installed: pip install "keeps[bench]"')
    del smollm2  # skips where the embedded model is not installed
    write_tasks("world:known:capital#6", tmp_path / "tasks", shots=2)
    options = {"system": "harness", "workspace": tmp_path / "runs", "limit": 8, "out": tmp_path / "page"}
    outcome = keeps.probe("smollm2-135m", str(tmp_path / "tasks"), **options)
    assert len(outcome.rows) == 8
    [accuracy] = [measure for measure in outcome.findings.measures if measure.metric == "exact_match,sentence"]
    assert (accuracy.value or 0) > 0.5, "known capitals, said after two others"
    assert "keeps_capital" in (tmp_path / "page" / "README.md").read_text()
    again = keeps.probe("smollm2-135m", str(tmp_path / "tasks"), **{**options, "out": None})
    assert again.reused


@pytest.mark.slow
@pytest.mark.shared_data
def test_real_questions_get_the_figures_of_the_harness(
    shared_data: Path, tmp_path: Path, smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason='the evaluation harness is not installed: pip install "keeps[bench]"')
    lines = [json.loads(line) for line in (shared_data / "truthfulqa" / "multiple_choice.jsonl").open(encoding="utf-8")]
    lines = sorted(lines, key=lambda line: len(str(line["mc1_targets"])))[:3]
    records = [
        Example(str(number), f"Q: {line['question']}\nA:", right, choices=tuple(line["mc1_targets"]))
        for number, line in enumerate(lines)
        for right in [text for text, value in line["mc1_targets"].items() if value]
    ]
    write_tasks(RecordSet("truthfulqa", tuple(records)), tmp_path / "tasks", prefix="real")
    manager = harness_module("tasks").TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    model = harness_module("models.huggingface").HFLM(
        pretrained=smollm2.model, tokenizer=smollm2.tokenizer, batch_size=8, softmax_dtype="float64"
    )
    monkeypatch.setattr(harness_module("evaluator"), "add_env_info", lambda _: None)  # asks every tool for its version
    found = harness_module("evaluator").simple_evaluate(model, tasks=["real_choices"], task_manager=manager)
    outcome = keeps.probe("smollm2-135m", str(tmp_path / "tasks"), system="harness", workspace=tmp_path / "runs")
    measures = {measure.metric: measure.value for measure in outcome.findings.measures}
    for metric in ("acc", "acc_norm"):
        assert measures[metric] == found["results"]["real_choices"][f"{metric},none"]
    for row, sample in zip(outcome.rows, found["samples"]["real_choices"], strict=True):
        assert row.details["logprobs"] == pytest.approx([response[0][0] for response in sample["resps"]], abs=1e-4)
