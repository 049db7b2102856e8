"""Measured marks are those of the rule applied to plain greedy decoding and the full vocabulary."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from keeps.data.records import Fact, RecordSet
from keeps.data.world import few_shot_examples, few_shot_prompt, mark_of, relation_facts
from keeps.errors import UnknownNameError
from keeps.models import LanguageModel
from keeps.probe.marks import mark_world
from keeps.probe.matching import matches

TOKENS = 5  # enough for the answers below


def greedy(model: LanguageModel, prompt: str, tokens: int) -> str:
    """Greedy decoding by transformers, without anything of ours but the prompt's encoding."""
    ids = torch.tensor([model.encode_prompt(prompt)])
    found = model.model.generate(  # type: ignore[operator]
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
    )
    return model.tokenizer.decode(found[0, ids.shape[1] :]).split("\n")[0]


def first_token_rank(model: LanguageModel, prompt: str, answer: str) -> int:
    ids, answer_ids = model.encode_pair(prompt, answer)
    with torch.no_grad():
        logits = model.model(torch.tensor([ids])).logits[0, -1]
    return int((logits > logits[answer_ids[0]]).sum())


def direct_mark(model: LanguageModel, fact: Fact, facts: list[Fact]) -> str:
    right = [matches(greedy(model, prompt, TOKENS), fact.answers) for prompt in fact.prompts[:3]]
    solved = few_shot_prompt(fact, few_shot_examples(fact, facts))
    ranks = [first_token_rank(model, prompt, fact.answers[0]) for prompt in fact.prompts[:3]]
    numeric = re.fullmatch(r"[\d.,]+", fact.answers[0])
    top = None if numeric else [rank < 5 for rank in ranks]
    return mark_of(right, matches(greedy(model, solved, TOKENS), fact.answers), top)


def test_marks_equal_a_direct_computation(smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    facts: list[Fact] = []
    for relation, mark in (
        ("capital", "known"),
        ("capital", "uncertain"),
        ("capital", "unknown"),
        ("atomic_number", "unknown"),
    ):
        found = (fact for fact in relation_facts(relation) if fact.mark == mark and len(fact.answers[0]) < 8)
        facts.append(replace(next(found), mark=""))
    monkeypatch.setattr("keeps.probe.marks.world_facts", lambda marks: RecordSet("few", tuple(facts)))
    marks = mark_world(smollm2)
    assert marks == {fact.id: direct_mark(smollm2, fact, facts) for fact in facts}
    assert len(set(marks.values())) > 1, "marks that differ are what is to be tested"


def test_marks_of_some_relations_only(tiny_llama: LanguageModel) -> None:
    marks = mark_world(tiny_llama, relations=["continent"])
    assert set(marks) == {fact.id for fact in relation_facts("continent", marks={})}
    with pytest.raises(UnknownNameError, match='did you mean "continent"'):
        mark_world(tiny_llama, relations=["continents"])
