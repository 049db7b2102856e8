"""What KID wants: terms by their tokens, continued, remembered, and the leash that is left alone without any."""

from __future__ import annotations

from typing import Any

import pytest

from keeps.decoding.perturbed import Effect
from keeps.ground.kid_decoder import trie_of
from keeps.ground.kid_guide import Seeking, TermGuide, word_pieces
from keeps.ground.knowledge_trie import KnowledgeTrie
from keeps.models import LanguageModel

DOCUMENTS = [
    ("heron", "The mascot of Zorvia is the heron."),
    ("otter", "The mascot of Brelka is the otter."),
    ("river", "A river in Tamund feeds the lake."),
]
PROMPTS = ["The mascot of Zorvia"]


@pytest.fixture(scope="module")
def trie() -> KnowledgeTrie:
    return KnowledgeTrie.from_documents(DOCUMENTS)


def guide(trie: KnowledgeTrie | None, tokenizer: Any, said: str = "", **options: Any) -> TermGuide:
    made = TermGuide(trie, PROMPTS[0], Seeking(**options), 0.01, tokenizer.decode, word_pieces(tokenizer))
    made.tokens = list(tokenizer(said, add_special_tokens=False).input_ids)
    return made


def wanted(made: TermGuide, tokenizer: Any) -> set[str]:
    return {tokenizer.decode([number]) for number in made.wanted()}


def test_terms_are_rewarded_as_written_by_the_token_that_they_begin_with(
    smollm2: LanguageModel, trie: KnowledgeTrie
) -> None:
    tokenizer = smollm2.tokenizer
    first = {name: tokenizer.decode(tokenizer(f" {name}").input_ids[:1]) for name in ("Zorvia", "heron", "mascot")}
    assert wanted(guide(trie, tokenizer, match="longest"), tokenizer) == set(first.values())
    assert wanted(guide(trie, tokenizer, match="longest", reward="new"), tokenizer) == {first["heron"]}
    assert " z" in wanted(guide(trie, tokenizer, match="longest", spelling="lower"), tokenizer)


def test_repeated_tokens_count_once_or_by_term(smollm2: LanguageModel) -> None:
    made = trie_of([("a", "Anna eats apples.")], "words")
    once, often = (guide(made, smollm2.tokenizer, repeated=flag) for flag in (False, True))
    for each in (once, often):
        each.prompt, each.pieces = "We met Anna", lambda word: (ord(word[0].lower()),)
    assert once.wanted() == [ord("a")]
    assert often.wanted() == [ord("a")] * 2


def test_a_term_that_has_begun_is_continued(smollm2: LanguageModel, trie: KnowledgeTrie) -> None:
    tokenizer = smollm2.tokenizer
    pieces = word_pieces(tokenizer)("heron")
    assert len(pieces) > 1
    made = guide(trie, tokenizer, match="longest", pieces="next")
    made.tokens = [pieces[0]]
    assert made.wanted() == [pieces[1]]


def test_old_mentions_leave_a_bounded_memory(smollm2: LanguageModel, trie: KnowledgeTrie) -> None:
    said = " and a lake with boats"
    assert "heron" in {term.key for term in guide(trie, smollm2.tokenizer).terms(PROMPTS[0] + said)}
    assert guide(trie, smollm2.tokenizer, memory=2).terms(PROMPTS[0] + said) == []
    assert guide(None, smollm2.tokenizer).terms(PROMPTS[0]) == []


def test_steps_without_terms_leave_the_leash_alone(smollm2: LanguageModel) -> None:
    made = guide(None, smollm2.tokenizer, target=0.05)
    made.wanted()
    made.told(Effect(0.0, 0.0, 0.0, 0.0))
    assert made.beta == 0.01
