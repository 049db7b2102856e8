"""Tasks of the evaluation harness give its own figures here, document by document, and code beside them is not run."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from keeps.errors import (
    ContextLengthError,
    EmptySetError,
    InputFileError,
    MissingDependencyError,
    SettingsError,
    UnknownNameError,
)
from keeps.models import LanguageModel
from keeps.models.harness_model import harness_model, harness_module
from keeps.probe.base import ModelRows, Selection
from keeps.probe.harness import Harness

WHY = 'the evaluation harness is not installed: pip install "keeps[bench]"'
pytest.importorskip("lm_eval", reason=WHY)

GOOD = {"aggregation": "mean", "higher_is_better": True}
ANIMALS = ("a cat", "a dog", "an old horse", "the very last whale")
DOCUMENTS = [
    {"text": f"Line {n}: the animal number {n} is", "choices": list(ANIMALS), "gold": n % 4, "said": ANIMALS[n % 4]}
    for n in range(9)
]
TASKS: dict[str, dict[str, Any]] = {
    "toy_choice": {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "num_fewshot": 2,
        "fewshot_split": "test",
        "metric_list": [{"metric": "acc", **GOOD}, {"metric": "acc_norm", **GOOD}],
    },
    "toy_last": {
        "output_type": "loglikelihood",
        "doc_to_target": " {{said}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", **GOOD},
        ],
    },
    "toy_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{ (text ~ ' ') * (1 + 30 * (gold == 1)) }}",  # some longer than the context of 128 tokens
        "metric_list": [
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
        ],
    },
    "toy_say": {
        "output_type": "generate_until",
        "doc_to_target": "said",
        "generation_kwargs": {"until": ["\n", "."], "do_sample": False, "max_gen_toks": 6},
        "metric_list": [{"metric": "exact_match", **GOOD, "ignore_case": True}],
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a task of each kind over one local file."""
    place = tmp_path / "tasks"
    place.mkdir()
    lines = "".join(json.dumps(document) + "\n" for document in DOCUMENTS)
    (place / "toy.jsonl").write_text(lines)
    for name, task in TASKS.items():
        write_task(place, name, **task)
    return place


def write_task(place: Path, name: str, **task: Any) -> None:
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(place / "toy.jsonl")}}}
    head = {"task": name, **data, "test_split": "test", "doc_to_text": "text", "metadata": {"version": 1.0}}
    (place / f"{name}.yaml").write_text(yaml.safe_dump({**head, **task}))


def system(**settings: Any) -> Harness:
    return Harness(Harness.Settings(**settings))


def hugging_face(model: LanguageModel) -> Any:
    return harness_module("models.huggingface").HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=4)


def evaluated(model: Any, folder: Path, names: list[str], patch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    """What the harness itself finds, with its own Hugging Face model."""
    patch.setattr(harness_module("evaluator"), "add_env_info", lambda _: None)  # asks every tool for its version
    manager = harness_module("tasks").TaskManager(include_path=str(folder), include_defaults=False)
    seeds = {f"{kind}_random_seed": 0 for kind in ("numpy", "torch", "fewshot")}
    options = {"task_manager": manager, "bootstrap_iters": 0, "random_seed": 0, **seeds}
    return harness_module("evaluator").simple_evaluate(hugging_face(model), tasks=names, **options)["results"]


def test_the_figures_are_those_of_the_harness_and_its_own_model(
    folder: Path, tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = system()
    rows = chosen.probe(Selection(str(folder)))(tiny_llama)
    assert len(rows) == 4 * len(DOCUMENTS)
    measures = {(m.group, m.metric): m for m in chosen.measure([ModelRows("tiny", rows)]).measures}
    compared = 0
    for task, figures in evaluated(tiny_llama, folder, list(TASKS), monkeypatch).items():
        for key, value in figures.items():
            metric, _, name = key.partition(",")
            if name and not metric.endswith("_stderr"):
                assert measures[task, metric].value == pytest.approx(value, rel=1e-4), (task, key)
                compared += 1
    assert compared == 7
    assert measures["toy_choice", "acc.stderr"].value == pytest.approx(
        harness_module("api.metrics").mean_stderr(
            [row.details["metrics"]["acc,none"] for row in rows[: len(DOCUMENTS)]]
        )
    )


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling", "generate_until"])
def test_requests_are_answered_as_by_the_harness_s_own_model(kind: str, tiny_llama: LanguageModel) -> None:
    until = {"until": ["\n", "e"], "max_gen_toks": 5}
    asked = {
        "loglikelihood": [
            ("The sky is", " blue"),
            ("The sky is ", "blue"),  # white space at the end of a context goes to the continuation
            ("The sky is", " blue and grey today"),
            ("", "Nothing comes before this"),
            ("Answer:\n", "A"),
            ("dial +", "244"),
            ("word " * 126, "and more"),  # 127 tokens and the last one, which is not fed
        ],
        "loglikelihood_rolling": [("A text.",), ("word " * 300,), ("a b c d e f g",)],
        "generate_until": [("The sky is", until), ("Two lines\nand", until), ("One", {"max_gen_toks": 3, "until": []})],
    }[kind]
    requests = [SimpleNamespace(args=args, task_name="t") for args in asked]
    model = harness_model(tiny_llama, truncate=True)
    assert isinstance(model, harness_module("api.model").LM)
    found, wanted = (getattr(one, kind)(requests) for one in (model, hugging_face(tiny_llama)))
    if kind == "generate_until":
        assert found == wanted
        assert any(text != text.strip() for text in wanted), "no white space to keep"
        return
    for mine, theirs in zip(found, wanted, strict=True):
        # float32, in which the harness sums, has steps of 2e-4 where the text of 300 words lies
        assert mine == pytest.approx(theirs, abs=1e-4, rel=1e-7)


def test_prompts_that_do_not_fit_are_refused_or_cut_as_the_harness_cuts(tiny_llama: LanguageModel) -> None:
    long = SimpleNamespace(args=("far " * 200 + "the end is", " near"), task_name="t")
    with pytest.raises(ContextLengthError, match=r"has 128.*--truncate"):
        harness_model(tiny_llama).loglikelihood([long])
    [mine], [theirs] = (
        one.loglikelihood([long]) for one in (harness_model(tiny_llama, truncate=True), hugging_face(tiny_llama))
    )
    assert mine == pytest.approx(theirs, abs=1e-4)
    said = SimpleNamespace(args=("far " * 200, {"until": ["\n"], "max_gen_toks": 4}), task_name="t")
    with pytest.raises(ContextLengthError):
        harness_model(tiny_llama).generate_until([said])
    found, wanted = (
        one.generate_until([said]) for one in (harness_model(tiny_llama, truncate=True), hugging_face(tiny_llama))
    )
    assert found == wanted


def test_sampled_answers_and_answerers_without_token_scores_are_refused(tiny_llama: LanguageModel) -> None:
    sampled = SimpleNamespace(args=("a", {"do_sample": True, "temperature": 1.0}), task_name="dice")
    with pytest.raises(SettingsError, match=r"samples its answers.*dice"):
        harness_model(tiny_llama).generate_until([sampled])
    with pytest.raises(SettingsError, match="local-completions"):
        harness_model(SimpleNamespace(answer=None))


def test_rows_say_what_was_expected_and_said_under_ids_of_the_contents(folder: Path, tiny_llama: LanguageModel) -> None:
    lines = (folder / "toy.jsonl").read_text().splitlines()
    (folder / "toy.jsonl").write_text("\n".join([*reversed(lines), lines[0]]) + "\n")  # other order, one twice
    probe = system(shots=0).probe(Selection(str(folder / "toy_choice.yaml")))
    rows = probe(tiny_llama)
    before = {row.prompt: row for row in rows}
    assert [row.id for row in rows] == probe.ids  # pyright: ignore[reportAttributeAccessIssue]
    assert rows[-1].id == f"{rows[-2].id}-2"
    (folder / "toy.jsonl").write_text("\n".join(lines) + "\n")
    again = system(shots=0).probe(Selection(str(folder / "toy_choice.yaml")))(tiny_llama)
    assert [row.id for row in again] == [row.id for row in reversed(rows[:-1])]
    for row, document in zip(again, DOCUMENTS, strict=True):
        assert (row.group, row.prompt, row.expected) == ("toy_choice", document["text"], document["said"])
        ranked = tiny_llama.rank([row.prompt], [ANIMALS])[0].logprobs
        assert row.details["logprobs"] == pytest.approx(ranked, abs=1e-4)
        assert row.answer == ANIMALS[ranked.index(max(ranked))]
        assert row.correct == (row.answer == row.expected) == (before[row.prompt].answer == row.expected)
        assert row.logprob == pytest.approx(ranked[document["gold"]], abs=1e-4)


def test_a_limit_is_fair_to_tasks_and_part_of_a_larger_one(folder: Path, tiny_llama: LanguageModel) -> None:
    few, more = (system(shots=0).probe(Selection(str(folder), limit=limit)) for limit in (6, 20))
    assert set(few.ids) < set(more.ids)  # pyright: ignore[reportAttributeAccessIssue]
    rows = few(tiny_llama)
    counts = Counter(row.group for row in rows)
    assert (sorted(counts), sorted(counts.values())) == (sorted(TASKS), [1, 1, 2, 2])
    whole = {row.id: row for row in system(shots=0).probe(Selection(str(folder)))(tiny_llama)}
    assert all(row.prompt == whole[row.id].prompt for row in rows)
    assert few.fingerprint != more.fingerprint
    assert few.fingerprint == system(shots=0).probe(Selection(str(folder), limit=6)).fingerprint


def test_shots_change_what_is_asked_and_a_fixed_zero_is_not_overruled(folder: Path) -> None:
    prints = {system(shots=n).probe(Selection(str(folder / "toy_choice.yaml"))).fingerprint for n in (None, 0, 1)}
    assert len(prints) == 3
    write_task(folder, "toy_fixed", **{**TASKS["toy_choice"], "num_fewshot": 0})
    with pytest.raises(SettingsError, match=r"fixes its number of shots at 0.*toy_fixed"):
        system(shots=1).probe(Selection(str(folder / "toy_fixed.yaml")))


def test_code_beside_a_task_runs_only_where_it_is_trusted(folder: Path, tiny_llama: LanguageModel) -> None:
    (folder / "code.py").write_text("def target(document):\n    return document['gold']\n")
    text = (
        (folder / "toy_choice.yaml").read_text().replace("doc_to_target: gold", "doc_to_target: !function code.target")
    )
    (folder / "base.yaml").write_text(text.replace("task: toy_choice", "task: base"))
    (folder / "toy_choice.yaml").write_text("include: base.yaml\ntask: toy_choice\n")
    with pytest.raises(SettingsError, match=r"runs code .*!function code\.target.*--trust-code"):
        system().probe(Selection(str(folder / "toy_choice.yaml")))
    assert not any(name.endswith("code") and str(folder) in name for name in sys.modules)
    rows = system(trust_code=True).probe(Selection(str(folder / "toy_choice.yaml"), limit=2))(tiny_llama)
    assert [row.expected in ANIMALS for row in rows] == [True, True]
    for metric in ({"metric": "acc", "hf_evaluate": True}, {"metric": "of_the_hub"}):
        write_task(folder, "fetching", **{**TASKS["toy_say"], "metric_list": [metric]})
        with pytest.raises(SettingsError, match="fetch"):
            system().probe(Selection(str(folder / "fetching.yaml")))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (None, SettingsError, "no task is named"),
        ("", SettingsError, "records are no tasks"),
        ("{folder}/toy.jsonl", InputFileError, "no task"),
        ("{folder}/none", EmptySetError, "no task in it"),
        ("{folder}/broken.yaml", InputFileError, "no YAML"),
        ("{folder}/gone.yaml", InputFileError, r"cannot load the task .*data are there"),
    ],
)
def test_bad_tasks_are_refused_with_a_mend(folder: Path, data: str, error: type[Exception], message: str) -> None:
    (folder / "none").mkdir()
    (folder / "broken.yaml").write_text("task: [")
    write_task(folder, "gone", **{**TASKS["toy_say"], "dataset_kwargs": {"data_files": {"test": "/nowhere.jsonl"}}})
    with pytest.raises(error, match=message):
        system().probe(Selection(data and data.format(folder=folder)))


def test_names_of_the_harness_are_looked_up(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    real = harness_module("tasks").TaskManager
    here = lambda **_: real(include_path=str(folder), include_defaults=False)  # noqa: E731  (all take most of a minute)
    monkeypatch.setattr(harness_module("tasks"), "TaskManager", here)
    probe = system().probe(Selection("toy_say, toy_l*", limit=4))
    assert sorted(identity.partition(":")[0] for identity in probe.ids) == ["toy_last"] * 2 + ["toy_say"] * 2  # pyright: ignore
    with pytest.raises(UnknownNameError, match='did you mean "toy_choice"'):
        system().probe(Selection("toy_choise"))


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "keeps\[bench\]"'):
        system().probe(Selection(str(folder)))
