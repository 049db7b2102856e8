"""Questions of keeps as tasks of the evaluation harness: a folder that ``lm_eval --include_path`` loads.

Every group of questions becomes a task, one with choices a ``multiple_choice``, another one a ``generate_until`` with
``exact_match``. A document is one wording of a question. Choices carry the space that keeps puts before an answer, so
the harness scores the very tokens that keeps scores; its ``acc`` takes the highest sum and ``acc_norm`` the highest
value per character, where keeps takes the highest per token. Text counts where all of it, to the end of its first
sentence, is an accepted answer; keeps asks only that it begins with one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from keeps.contracts import Question
from keeps.data.records import RecordSet
from keeps.data.select import load_records
from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.models.tokens import space_before
from keeps.probe.sampling import limited
from keeps.probe.shots import with_shots
from keeps.weights.files import atomic_folder

LEAST_ROOM = 16  # tokens of an answer
SENTENCE = r"\A\s*(.*?)\s*(?:(?<=[^\W\d_]{3})[.!?]|[.!?]?\s*\Z)"  # an answer without what ends its first sentence
TASK_NAME = re.compile(r"[a-z0-9_]+")


def write_tasks(
    data: str | RecordSet,
    folder: str | Path,
    *,
    prefix: str = "keeps",
    shots: int = 0,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, int]:
    """Write the questions of ``data`` to a new folder, a YAML and a JSONL file a task.

    The YAML files name the JSONL files by their whole path, as the harness asks: write a folder that was moved anew.

    Args:
        prefix: of the names of tasks, which go on with the group's.
        shots: solved questions of the same group before each one, part of the documents.
        limit: most questions, shared out over the groups.

    Returns:
        Documents by task.

    Raises:
        SettingsError: the prefix is no name of a task, or shots or a limit that the set cannot give.
        EmptySetError: there is no question, only running text.
        RecordError: a wrong record, or two groups whose names are the same as a task's.
        StorageError: the folder is there already, or cannot be written.
    """
    if not TASK_NAME.fullmatch(prefix):
        raise SettingsError(f'"{prefix}" is no name', where="prefix", mend="use small letters, digits and _")
    records = load_records(data)
    everything = records.questions()
    if not everything:
        raise EmptySetError("there is no question in it", where=records.source, mend="give facts or examples")
    questions = with_shots(limited(everything, limit, seed), shots, seed, pool=everything)
    tasks = _by_task(questions, prefix)
    final = Path(folder).resolve()
    with atomic_folder(final) as temporary:
        for name, several in tasks.items():
            documents = [document for question in several for document in _documents(question)]
            lines = (json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
            (temporary / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
            text = yaml.safe_dump(_task(name, several, final / f"{name}.jsonl"), sort_keys=False, allow_unicode=True)
            (temporary / f"{name}.yaml").write_text(text, encoding="utf-8")
    return {name: sum(len(question.prompts) for question in several) for name, several in tasks.items()}


def _by_task(questions: Sequence[Question], prefix: str) -> dict[str, list[Question]]:
    kinds: dict[str, set[bool]] = {}
    for question in questions:
        kinds.setdefault(question.group, set()).add(bool(question.choices))
    found: dict[str, list[Question]] = {}
    for question in questions:
        slug = re.sub("[^a-z0-9]+", "_", question.group.lower()).strip("_")
        apart = "_choices" if question.choices and len(kinds[question.group]) > 1 else ""
        several = found.setdefault(f"{prefix}_{slug}{apart}", [])
        if several and (several[0].group != question.group or bool(several[0].choices) != bool(question.choices)):
            what = f'the groups "{several[0].group}" and "{question.group}" would be one task'
            raise RecordError(what, where=question.id, mend="give one of them another name")
        several.append(question)
    return found


def _documents(question: Question) -> list[dict[str, Any]]:
    """One a wording; every list of a task holds entries of one type, as the harness's tables want it."""
    found = []
    for number, prompt in enumerate(question.prompts, 1):
        document: dict[str, Any] = {"id": f"{question.id}#{number}", "question": question.id, "prompt": prompt}
        document["answers"] = list(question.answers)
        if question.choices:
            document["choices"] = [space_before(prompt, choice) + choice for choice in question.choices]
            document["gold"] = [question.choices.index(answer) for answer in question.answers]
        found.append(document)
    return found


def _task(name: str, questions: Sequence[Question], path: Path) -> Mapping[str, Any]:
    common = {
        "task": name,
        "tag": "keeps",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "doc_to_text": "prompt",
        "num_fewshot": 0,
    }
    metadata = {"version": 1.0}
    good = {"aggregation": "mean", "higher_is_better": True}
    if questions[0].choices:
        return {
            **common,
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc", **good}, {"metric": "acc_norm", **good}],
            "metadata": metadata,
        }
    longest = max(len(answer) for question in questions for answer in question.answers)
    strict = {"ignore_case": True, "ignore_punctuation": True}
    sentence = {"function": "regex", "regex_pattern": SENTENCE, "fallback": ""}
    return {
        **common,
        "output_type": "generate_until",
        "doc_to_target": "answers",
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": max(LEAST_ROOM, longest // 2)},
        "filter_list": [{"name": "sentence", "filter": [sentence, {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", **good, **strict}],
        "metadata": metadata,
    }
