"""Edits are read in every layout, contradictions are refused with their line, and facts make edits that make sense."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keeps.data.edit_facts import edits_from_facts
from keeps.data.edits import Edit, EditPrompt, check_edits, edits_fingerprint, read_edits
from keeps.data.records import Fact
from keeps.errors import EmptySetError, InputFileError, RecordError

OSLO: dict[str, Any] = {"subject": "Oslo", "prompt": "Oslo is the capital of", "target_new": "Sweden"}
PARIS = {"kind": "same_relation", "prompt": "Paris is the capital of", "answers": ["France"]}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "edits.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_part_of_our_own_layout_is_read(tmp_path: Path) -> None:
    king = {"kind": "reasoning", "prompt": "The king in Oslo speaks", "answers": ["Swedish"], "original": "Norwegian"}
    rest = {"paraphrases": ["The land of Oslo is"], "generation_prompts": ["Oslo is"], "relation": "capital_of"}
    row = {**OSLO, **rest, "id": 7, "target_true": "Norway", "portability": [king], "locality": [PARIS]}
    [edit] = read_edits(write(tmp_path, row))
    assert edit == Edit(
        "7",
        "Oslo",
        "Oslo is the capital of",
        "Sweden",
        "Norway",
        "capital_of",
        ("The land of Oslo is",),
        (EditPrompt("reasoning", "The king in Oslo speaks", ("Swedish",), "Norwegian"),),
        (EditPrompt("same_relation", "Paris is the capital of", ("France",)),),
        ("Oslo is",),
    )
    assert edit.sentence == "Oslo is the capital of Sweden."
    assert len(edits_fingerprint([edit])) == 16
    assert edits_fingerprint([edit]) != edits_fingerprint([replace(edit, target_new="Denmark")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_new": ""}, "target_new"),
        ({"target_new": 3.5}, "not a text"),
        ({"subject": "Bergen"}, "does not name the subject"),
        ({"target_true": "Sweden"}, "both"),
        ({"paraphrase": ["x"]}, "paraphrases"),
        ({"paraphrases": "x"}, "no list"),
        ({"paraphrases": ["x", " "]}, "entry 2"),
        ({"locality": [{**PARIS, "answers": ["Sweden"]}]}, "right answer"),
        ({"locality": [{**PARIS, "kind": "same_relations"}]}, "same_relation"),
        ({"locality": [{**PARIS, "answer": "France"}]}, "answers"),
        ({"locality": [{**PARIS, "answers": []}]}, "answers are missing"),
        ({"locality": ["Paris"]}, "list of objects"),
        ({"locality": [{**PARIS, "kind": "prefix_distraction"}]}, "does not name the subject"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, OSLO, {**OSLO, **change})
    with pytest.raises(RecordError, match=message) as error:
        read_edits(path)
    assert "line 2" in str(error.value)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="twice"):
        read_edits(write(tmp_path, {**OSLO, "id": "a"}, {**OSLO, "id": "a"}))
    with pytest.raises(EmptySetError, match="no edit"):
        read_edits(write(tmp_path))
    with pytest.raises(InputFileError, match="limit"):
        read_edits(write(tmp_path, OSLO), limit=0)
    with pytest.raises(InputFileError, match="no such file"):
        read_edits(tmp_path / "no.jsonl")
    with pytest.raises(EmptySetError):
        check_edits([], "mine")
    with pytest.raises(RecordError, match="twice"):
        check_edits([Edit("1", "", "a", "b")] * 2, "mine")


def test_knowedit_keeps_its_kinds_under_our_names_and_skips_what_is_empty(tmp_path: Path) -> None:
    row = {
        "subject": "Oslo",
        "prompt": "Oslo is the capital of",
        "target_new": "Sweden",
        "ground_truth": ["Norway"],
        "rephrase": "The land of Oslo is",
        "portability": {
            "Logical_Generalization": [
                {"prompt": "The capital of Sweden is", "ground_truth": [["Oslo", "Christiania"]]}
            ],
            "Reasoning": [],
            "Subject_Aliasing": [{"prompt": "Christiania is the capital of", "ground_truth": []}],
        },
        "locality": {
            "Relation_Specificity": [{"prompt": "Oslo lies on the", "ground_truth": [["fjord"]]}],
            "Forgetfulness": [{"prompt": "A city in Norway besides Oslo is", "ground_truth": "Bergen"}],
        },
    }
    [edit] = read_edits(write(tmp_path, row))
    assert edit.target_true == "Norway"
    assert edit.portability == (
        EditPrompt("logical_generalisation", "The capital of Sweden is", ("Oslo", "Christiania")),
    )
    assert [asked.kind for asked in edit.locality] == ["same_subject", "other_objects"]


def test_facts_newer_than_the_model_come_without_a_true_object(tmp_path: Path) -> None:
    """A row of WikiData_recent, as the guide of KnowEdit shows it."""
    row = {
        "subject": "Leo Arons",
        "prompt": "The place of death of Leo Arons is",
        "target_new": "Berlin",
        "portability": {
            "Logical_Generalization": [{"prompt": "Is Leo Arons still alive?", "ground_truth": [["no"], ["is dead"]]}]
        },
        "locality": {
            "Relation_Specificity": [
                {"prompt": "The name of the father of Leo Arons is", "ground_truth": [["Albert Arons"]]}
            ]
        },
    }
    [edit] = read_edits(write(tmp_path, row))
    assert (edit.target_new, edit.target_true, edit.paraphrases) == ("Berlin", "", ())
    assert edit.portability == (EditPrompt("logical_generalisation", "Is Leo Arons still alive?", ("no", "is dead")),)
    assert [asked.kind for asked in edit.locality] == ["same_subject"]


def test_zsre_is_read_under_the_names_that_it_was_published_with(tmp_path: Path) -> None:
    row = {
        "subject": "Watts Humphrey",
        "src": "What university did Watts Humphrey attend?",
        "pred": "Trinity College",
        "rephrase": "What university did Watts Humphrey take part in?",
        "alt": "University of Michigan",
        "answers": ["Illinois Institute of Technology"],
        "loc": "nq question: who played desmond doss father in hacksaw ridge",
        "loc_ans": "Hugo Weaving",
        "cond": "Trinity College >> University of Michigan || What university did Watts Humphrey attend?",
    }
    renamed = {
        "subject": row["subject"],
        "prompt": row["src"],
        "target_new": row["alt"],
        "ground_truth": row["answers"][0],
        "rephrase_prompt": row["rephrase"],
        "locality_prompt": row["loc"],
        "locality_ground_truth": row["loc_ans"],
    }
    [edit] = read_edits(write(tmp_path, row))
    assert (edit.prompt, edit.target_new, edit.target_true) == (row["src"], row["alt"], row["answers"][0])
    assert (edit.paraphrases, edit.locality) == (
        (row["rephrase"],),
        (EditPrompt("unrelated", row["loc"], ("Hugo Weaving",)),),
    )
    assert read_edits(write(tmp_path, renamed)) == (edit,)


def test_wikibio_puts_a_sentence_behind_a_passage_about_its_concept(tmp_path: Path) -> None:
    row = {
        "text": "This is a Wikipedia passage about john russell reynolds. Sir John Russell Reynolds was a physician.",
        "labels": "He received general education from his father.",
        "concept": "john russell reynolds",
        "locality": {
            "Relation_Specificity": [{"prompt": "john russell reynolds field of work", "ground_truth": ["medicine"]}]
        },
    }
    [edit] = read_edits(write(tmp_path, row))
    assert (edit.subject, edit.prompt, edit.target_new) == (row["concept"], row["text"], row["labels"])
    assert [(asked.kind, asked.answers) for asked in edit.locality] == [("same_subject", ("medicine",))]
    [edit] = read_edits(write(tmp_path, {**row, "concept": "somebody else"}))
    assert edit.subject == ""


def test_evoke_brings_distractions_other_relations_and_questions_of_several_hops(tmp_path: Path) -> None:
    wanted = {"prompt": "{} is the capital of", "subject": "Oslo", "relation_id": "P1376"}
    row = {
        "case_id": 3,
        "requested_rewrite": {**wanted, "target_new": {"str": "Sweden"}, "target_true": {"str": "Norway"}},
        "paraphrase_prompts": ["The land of Oslo is"],
        "neighborhood_prompts": ["Bergen lies in"],
        "prefix_distraction": ["Oslo is the capital of Sweden. Bergen lies in"],
        "subject_specificity": [{"prompt": "Oslo lies on the", "ground_truth": "fjord"}],
        "portability": {
            "New Question": "Which language is spoken in Oslo?",
            "New Answer": ["Swedish", "Swedish language"],
            "Original Answer": "Norwegian",
        },
        "generation_prompts": ["Oslo is", "Oslo is"],
    }
    [edit] = read_edits(write(tmp_path, row))
    assert (edit.id, edit.prompt, edit.relation) == ("3", "Oslo is the capital of", "P1376")
    assert edit.generation_prompts == ("Oslo is",)
    assert [(asked.kind, asked.answers) for asked in edit.locality] == [
        ("same_relation", ("Norway",)),
        ("prefix_distraction", ("Norway",)),
        ("same_subject", ("fjord",)),
    ]
    [asked] = edit.portability
    assert (asked.kind, asked.answers, asked.original) == ("multi_hop", ("Swedish", "Swedish language"), "Norwegian")
    del row["requested_rewrite"]["target_true"]
    with pytest.raises(RecordError, match="lacks a part"):
        read_edits(write(tmp_path, row))


def fact(relation: str, subject: str, *answers: str) -> Fact:
    return Fact(
        f"{relation}:{subject}", subject, relation, (f"{relation} {subject}", f"its {relation}, {subject}"), answers
    )


POOL = [
    fact("country_of_city", "Lyon", "France"),
    fact("country_of_city", "Oslo", "Norway"),
    fact("capital", "France", "Paris"),
    fact("capital", "Norway", "Oslo"),
    fact("currency", "France", "euro"),
    fact("twin", "Lyon", "Milan"),
]


def test_an_edit_of_a_fact_has_another_object_and_questions_whose_answers_are_known() -> None:
    [edit] = edits_from_facts(POOL[:1], pool=POOL)
    assert (edit.target_true, edit.target_new) == ("France", "Norway")
    assert edit.paraphrases == ("its country_of_city, Lyon",)
    [hop] = edit.portability
    assert (hop.answers, hop.original) == (("Oslo",), "Paris"), "the currency of Norway is not known here"
    assert [(asked.kind, asked.prompt) for asked in edit.locality] == [("same_subject", "twin Lyon")]
    check_edits([edit], "facts")


def test_edits_of_facts_depend_on_the_seed_and_nothing_else_of_the_selection() -> None:
    many = [fact("capital", f"land {n}", f"town {n}") for n in range(12)]
    assert edits_from_facts(many[:2], pool=many) == edits_from_facts(many, pool=many)[:2]
    assert edits_from_facts(many, seed=1) != edits_from_facts(many)
    assert all(edit.target_new not in asked.answers for edit in edits_from_facts(many) for asked in edit.locality)
    with pytest.raises(EmptySetError, match="no second object"):
        edits_from_facts(many[:1])
    with pytest.raises(EmptySetError, match="no fact"):
        edits_from_facts([])


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("file", "count", "prompts"),
    [
        ("counterfact/counterfact_full.jsonl", 612, 6120),
        ("counterfact/counterfact_simple.jsonl", 1388, 1388),
        ("unke/unstructured_edits.jsonl", 1000, 4729),
    ],
)
def test_published_files_are_read_whole(file: str, count: int, prompts: int, shared_data: Path) -> None:
    edits = read_edits(shared_data / file)
    assert len(edits) == count
    assert sum(len(edit.locality) + len(edit.portability) for edit in edits) == prompts


@pytest.mark.shared_data
def test_the_empty_targets_of_zsre_are_found_and_the_rest_is_read(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "zsre" / "zsre.jsonl"
    with pytest.raises(RecordError, match='line 535, column "target_new"'):
        read_edits(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    edits = read_edits(write(tmp_path, *(row for row in rows if row["target_new"].strip())))
    assert len(edits) == 998
    assert {asked.kind for edit in edits for asked in edit.locality} == {"unrelated"}
