"""What a job teaches, calibrates on and asks: disjoint by subject, and the unseen wording stays unseen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keeps.contracts import Question
from keeps.data.records import Example, Fact, Passage, RecordSet, split_of
from keeps.data.select import load_records
from keeps.errors import EmptySetError, RecordError
from keeps.jobs import data
from keeps.jobs.data import check_data, job_data, names_marks
from keeps.models import LanguageModel
from keeps.probe import FactProbe, SeveralProbes, TextProbe
from keeps.training.examples import tokenise

LEARN, KEEP = "world:unknown:capital", "world:known:capital,world:known:symbol"


def parts_of(probe: object) -> tuple[list[Question], dict[str, list[Passage]]]:
    """The questions of a job, and its passages by group."""
    assert isinstance(probe, SeveralProbes)
    questions = [item for part in probe.probes if isinstance(part, FactProbe) for item in part.questions]
    return questions, {part.group: part.passages for part in probe.probes if isinstance(part, TextProbe)}


def subjects(records: object) -> set[str]:
    return {item.split_key or item.subject for item in records if isinstance(item, Fact)}  # type: ignore[attr-defined]


def numbers(source: str, count: int, prefix: str = "") -> RecordSet:
    """Examples with the ids 0, 1, ... after the prefix."""
    return RecordSet(
        source, tuple(Example(f"{prefix}{number}", f"After {number} comes", f"{number + 1}") for number in range(count))
    )


@pytest.fixture(scope="module")
def world_job() -> data.JobData:
    return job_data(LEARN, KEEP)


def test_what_is_calibrated_validated_and_reported_shares_no_subject() -> None:
    keep = load_records(KEEP)
    train, validation, test = (subjects(keep.part(part)) for part in ("train", "validation", "test"))
    assert min(len(train), len(validation), len(test)) > 5
    assert len(train | validation | test) == len(train) + len(validation) + len(test)
    assert all(split_of(name) == "test" for name in test)


def test_the_method_gets_the_train_part_and_the_probe_asks_the_test_part(world_job: data.JobData) -> None:
    questions, passages = parts_of(world_job.probe)
    kept = load_records(KEEP)
    assert {item.split for item in world_job.keep} == {"train"}
    by_role = {role: {item.id for item in questions if item.group.startswith(role)} for role in ("keep", "calibrated")}
    assert by_role["keep"] == {item.id for item in kept.part("test")}
    assert by_role["calibrated"] == {item.id for item in kept.part("train")}
    assert by_role["calibrated"] == {item.id for item in world_job.keep if isinstance(item, Fact)}
    calibrated = {item.id for item in world_job.keep.passages()}
    assert len(calibrated) == data.CALIBRATION_PASSAGES
    assert [item.split for item in passages["text: held-out"]] == ["test"] * data.PROBE_PASSAGES
    assert not calibrated & {item.id for item in passages["text: held-out"]}


def test_another_part_can_be_reported_and_the_calibrated_one_left_out() -> None:
    questions, passages = parts_of(job_data(LEARN, KEEP, report="validation", ask_calibrated=False).probe)
    kept = load_records(KEEP)
    assert {item.id for item in questions if item.group.startswith("keep")} == {i.id for i in kept.part("validation")}
    assert not [item for item in questions if item.group.startswith("calibrated")]
    assert {item.split for item in passages["text: held-out"]} == {"validation"}


def test_what_is_taught_is_not_kept() -> None:
    job = job_data("world:symbol", "world:symbol,world:capital")
    questions, _ = parts_of(job.probe)
    assert {item.group for item in questions if not item.group.startswith("learn")} == {
        "keep: capital",
        "calibrated: capital",
    }
    assert not {item.id for item in job.learn} & {item.id for item in job.keep}
    with pytest.raises(EmptySetError, match="all of it is taught"):
        job_data("world:symbol", "world:symbol")


def test_the_same_fact_under_another_id_is_not_kept_either() -> None:
    keep = RecordSet(
        "keep", tuple(Example(f"k{number}", f"After {number} comes", f"{number + 1}") for number in range(40))
    )
    learn = RecordSet("learn", tuple(replace(item, id=f"l{item.id}") for item in keep.records[:20]))
    job = job_data(learn, keep)
    questions, _ = parts_of(job.probe)
    assert len([item for item in questions if not item.group.startswith("learn")]) <= 20
    assert {item.id for item in questions if item.group.startswith("keep")} <= {
        f"k{number}" for number in range(20, 40)
    }


def test_one_id_for_two_records_is_refused_and_nothing_left_out_in_silence() -> None:
    keep = RecordSet(
        "known.csv", tuple(Example(f"{number}", f"After {number} comes", f"{number + 1}") for number in range(40))
    )
    learn = RecordSet("new.csv", (Example("7", "The sky is", "green"),))
    with pytest.raises(RecordError, match=r'the id "7" stands for .*known\.csv'):
        job_data(learn, keep)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_keep_set_too_small_to_divide_is_refused(part: str) -> None:
    numbers = [number for number in range(100) if split_of(f"After {number} comes") != part][:8]
    keep = RecordSet("known.csv", tuple(Example(f"{n}", f"After {n} comes", f"{n + 1}") for n in numbers))
    with pytest.raises(
        EmptySetError, match=rf"of the 8 records to keep, none falls into the {part} part \(known.csv\)"
    ):
        job_data("world:unknown:capital", keep)


def test_the_unseen_wording_is_a_question_of_its_own_and_never_trained_on(
    world_job: data.JobData, model: LanguageModel
) -> None:
    questions, _ = parts_of(world_job.probe)
    unseen = [item for item in questions if item.id.endswith("#unseen")]
    assert len(unseen) == len(world_job.learn)
    assert {item.group for item in unseen} == {"learn: capital, unseen wording"}
    learn = RecordSet("some", world_job.learn.records[:20])
    trained = {model.tokenizer.decode(item.input_ids[: item.answer_start]) for item in tokenise(model, learn)}
    asked = {question.id: question.prompts for question in questions}
    for fact in learn:
        assert isinstance(fact, Fact)
        assert asked[fact.id] == fact.prompts[:-1]
        assert asked[f"{fact.id}#unseen"] == fact.prompts[-1:]
        assert set(fact.prompts[:-1]) <= trained
        assert fact.prompts[-1] not in trained
    calibrated = {prompt for fact in world_job.keep if isinstance(fact, Fact) for prompt in fact.seen_prompts}
    assert not calibrated & {prompt for question in unseen for prompt in question.prompts}


def test_kept_facts_of_the_world_are_asked_as_their_marks_were_measured(world_job: data.JobData) -> None:
    questions, _ = parts_of(world_job.probe)
    facts = {item.id: item for item in load_records(KEEP) if isinstance(item, Fact)}
    for question in questions:
        if question.group.startswith("learn"):
            continue
        assert len(question.prompts) == 4
        assert question.prompts[:3] == facts[question.id].prompts[:3]
        lines = question.prompts[3].split("\n")
        assert len(lines) == 5
        assert lines[4] == facts[question.id].prompts[0]
        assert not any(facts[question.id].prompts[0] in line for line in lines[:4])


def test_known_facts_are_known_before_anything_is_done(smollm2: LanguageModel) -> None:
    questions, _ = parts_of(job_data("world:unknown:calling_code", "world:known").probe)
    kept = [item for item in questions if item.group.startswith("keep")]
    sample = kept[5 :: len(kept) // 12][:12]
    assert len({item.group for item in sample}) >= 4
    rows = FactProbe(sample)(smollm2)
    assert [row.id for row in rows if not row.correct] == []


def test_running_text_is_neither_calibrated_on_nor_asked_twice() -> None:
    job = job_data("world:unknown:capital", "text")
    ids = [item.id for item in job.keep]
    assert len(ids) == len(set(ids)) == len(load_records("text").part("train"))
    _, passages = parts_of(job.probe)
    assert set(passages) == {"keep: text", "calibrated: text"}, "the held-out text is the text that is kept"


def test_facts_of_a_file_are_asked_in_their_own_wordings() -> None:
    facts = [
        Fact(f"{n}", f"Thing {n}", "use", tuple(f"{word} {n} is" for word in "abcde"), ("play",)) for n in range(20)
    ]
    questions, _ = parts_of(job_data("world:unknown:capital", RecordSet("mine", tuple(facts))).probe)
    kept = [item for item in questions if not item.group.startswith("learn")]
    assert all(len(item.prompts) == 4 for item in kept)
    assert all("\n" not in prompt for item in kept for prompt in item.prompts)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("world", False),
        ("world:capital", False),
        ("world:known", True),
        ("text, world:unknown:capital", True),
        ("known.csv", False),
        ("data/world:known.csv", False),
        (RecordSet("world:known", ()), False),
    ],
)
def test_only_sets_that_name_a_mark_need_marks(spec: object, named: bool) -> None:
    assert names_marks(spec) is named


def test_a_set_that_only_other_marks_fill_waits_for_the_model(tmp_path: Path) -> None:
    marks = {item.id: "unknown" for item in load_records("world:capital")}
    marks |= {item.id: "known" for item in load_records("world:discovery_year")}
    learn, keep = "world:unknown:capital", "world:known:discovery_year"
    with pytest.raises(EmptySetError):
        job_data(learn, keep)  # the default model knows one year
    check_data(learn, keep)
    assert len(job_data(learn, keep, marks=marks).learn) == len(load_records("world:capital"))
    check_data("world:known:top_level_domain,world:unknown:continent", "world:uncertain:discovery_year")
    with pytest.raises(EmptySetError):
        check_data("world:symbol", "world:symbol")
    (tmp_path / "empty.csv").write_text("prompt,answer\n")
    with pytest.raises(EmptySetError, match="no record"):
        check_data(str(tmp_path / "empty.csv"), "world:known")


def test_the_fingerprints_of_a_small_job_never_change() -> None:
    """They name runs: a change would silently have every job done again."""
    keep = numbers("keep", 10, "k")
    learn = RecordSet("learn", (Fact("l", "Mars", "sky", ("a", "b", "c", "d"), ("pink", "rose")),))
    job = job_data(learn, keep)
    questions, _ = parts_of(job.probe)
    assert learn.fingerprint == "60633c4d79df4250"
    assert FactProbe(questions).fingerprint == "ebb78fb03c6168d6"
