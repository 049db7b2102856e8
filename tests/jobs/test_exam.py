"""An exam: what is asked about the learn set and never trained on; and long learn sets, of which a part is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keeps.cli.main import main
from keeps.data.records import Example, Passage, RecordSet
from keeps.errors import RecordError, SettingsError
from keeps.jobs.adapting import adapt
from keeps.jobs.data import ASKED_OF_LEARN, job_data
from keeps.models import LanguageModel
from keeps.probe import FactProbe, SeveralProbes, TextProbe

KEEP = "world:known:capital#30"


def sums(first: int, last: int) -> RecordSet:
    """Examples of addition."""
    numbers = range(first, last)
    return RecordSet("sums", tuple(Example(f"s{n}", f"{n} plus one is", str(n + 1)) for n in numbers))


def groups(learn: RecordSet, exam: RecordSet | None) -> dict[str, list[str]]:
    """The ids of the questions that are asked, by their group's role."""
    found: dict[str, list[str]] = {}
    probe = job_data(learn, KEEP, exam=exam, ask_calibrated=False).probe
    assert isinstance(probe, SeveralProbes)
    facts = probe.probes[0]
    assert isinstance(facts, FactProbe)
    for question in facts.questions:
        found.setdefault(question.group.partition(":")[0], []).append(question.id)
    return found


def test_an_exam_is_asked_in_a_group_of_its_own_and_not_taught() -> None:
    exam = sums(100, 103)
    data = job_data(sums(0, 4), KEEP, exam=exam)
    asked = groups(sums(0, 4), exam)
    assert asked["exam"] == ["exam:s100", "exam:s101", "exam:s102"]
    assert sorted(asked["learn"]) == ["s0", "s1", "s2", "s3"]
    assert data.learn.records == sums(0, 4).records
    assert not {record.id for record in exam} & {record.id for record in data.keep}


def test_an_exam_may_use_the_ids_of_the_learn_set_for_other_records() -> None:
    exam = RecordSet("other", (Example("s0", "Seven plus one is", "8"),))
    assert groups(sums(0, 4), exam)["exam"] == ["exam:s0"]


def test_an_exam_that_is_taught_is_refused_by_name() -> None:
    with pytest.raises(RecordError, match=r'1 of 2 records of the exam are taught too, such as "s3"'):
        job_data(sums(0, 4), KEEP, exam=sums(3, 5))


def test_running_text_of_an_exam_is_read() -> None:
    exam = RecordSet("text", (Passage("p", "A plain sentence about nothing in particular."),))
    probe = job_data(sums(0, 4), KEEP, exam=exam).probe
    assert isinstance(probe, SeveralProbes)
    assert "exam: text" in [part.group for part in probe.probes if isinstance(part, TextProbe)]


def test_all_of_a_long_learn_set_is_taught_and_a_fixed_part_of_it_asked() -> None:
    learn = sums(0, ASKED_OF_LEARN + 50)
    data = job_data(learn, KEEP)
    assert len(data.learn) == ASKED_OF_LEARN + 50
    asked = groups(learn, None)["learn"]
    assert len(asked) == ASKED_OF_LEARN == len(set(asked))
    shuffled = RecordSet(learn.source, tuple(reversed(learn.records)))
    assert set(groups(shuffled, None)["learn"]) == set(asked)


def test_the_diff_has_a_line_for_the_exam(small_job: Any, model: LanguageModel, tmp_path: Path) -> None:
    done = adapt(**small_job.arguments(tmp_path, model=model, learn=sums(0, 4)), exam=sums(100, 103))
    line = done.diff.total("exam")
    assert line is not None
    assert line.n == 3
    plain = adapt(**small_job.arguments(tmp_path, model=model, learn=sums(0, 4)))
    assert plain.diff.total("exam") is None
    assert plain.run_id != done.run_id


def test_the_command_takes_an_exam_and_stores_it(
    small_job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exam = tmp_path / "exam.jsonl"
    exam.write_text(json.dumps({"prompt": "The sky of Planet 99 is", "answer": "teal"}) + "\n")
    assert main(small_job.words(tmp_path, "--exam", str(exam), "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert [line["n"] for line in document["diff"]["totals"] if line["name"] == "exam"] == [1]
    assert main(["adapt", "--spectrum", "--exam", str(exam)]) == 2
    assert "--exam" in capsys.readouterr().err


def test_a_missing_exam_is_found_before_a_model_is_loaded() -> None:
    with pytest.raises(Exception, match=r"no\.jsonl"):
        adapt(sums(0, 4), KEEP, model="no such model", exam="no.jsonl")
    with pytest.raises(SettingsError):
        adapt(sums(0, 4), KEEP, model="no such model", exam="world:capital#x")
