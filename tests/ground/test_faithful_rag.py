"""FaithfulRAG: which call sees what, how lists and JSON are read, and that chunks meet beliefs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from grounding_stubs import RUN, ScriptedChat, WordRetriever
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import ModelLoadError, RecordError, SettingsError
from keeps.ground.faithful_prompts import MODES, published_statements, statements
from keeps.ground.faithful_rag import FaithfulAnswerer, FaithfulRAG, FaithfulRAGSettings
from keeps.models import RemoteChat, SentenceEncoder
from keeps.sources import GroundMethod

QUESTION = "In which city is the tower of Eiffel?"
CONTEXT = (
    "The tower of Eiffel stands in Rome since its move. It is made of iron and painted every seven years. "
    "Visitors pay at the gate. The garden around it is open all day long for everyone who likes flowers. "
    "A restaurant was opened there. It serves fish."
)
BACKGROUND = "Zebra background: the tower stands in Paris, since 1889, in a park."
CLAIMS = "1. Where the tower stands.\n2. Who built it."
FACTS = "1. The tower stands in Paris.\n2. It was opened in 1889 in France."
REPLY = '{"Reason": "The facts say Rome [1].", "Answer": "Rome"}'


class WordEncoder:
    """Texts as normalised bags of words: a likeness that can be worked out by hand."""

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        bags = [set(text.casefold().replace(".", "").split()) for text in texts]
        words = sorted(set().union(*bags))
        found = torch.tensor([[float(word in bag) for word in words] for bag in bags])
        return torch.nn.functional.normalize(found, dim=1)


def faithful(chat: ScriptedChat, **settings: object) -> FaithfulAnswerer:
    made = FaithfulRAGSettings.from_mapping({"keep": 2, **settings})
    return FaithfulRAG(made, WordEncoder())(chat, None, run=RUN)


def test_four_calls_in_order_and_each_sees_only_what_it_may() -> None:
    chat = ScriptedChat([CLAIMS, BACKGROUND, FACTS, REPLY])
    (found,) = faithful(chat).answer([QUESTION], [CONTEXT])
    claims, background, facts, answer = chat.asked
    for prompt in (claims, background, facts):
        assert "Rome" not in prompt
        assert "painted every seven" not in prompt
    assert QUESTION in claims
    assert "Where the tower stands." in background
    assert BACKGROUND in facts
    assert QUESTION not in facts
    assert "Zebra" not in answer
    assert CONTEXT in answer
    for item in found.trace["aligned"]:
        assert item["chunk"] in answer.partition("Context:")[0]
    assert (found.text, found.citations) == ("Rome", (f"context#0-{len(CONTEXT)}",))
    assert {"calls": 4, "stop": "answered", "reason": "The facts say Rome [1].", "parsed": True}.items() <= (
        found.trace.items()
    )
    assert found.trace["self_facts"] == ["The tower stands in Paris.", "It was opened in 1889 in France."]
    assert [step["step"] for step in found.trace["steps"]] == ["claims", "background", "facts", "align", "answer"]
    assert isinstance(FaithfulRAG(FaithfulRAGSettings()), GroundMethod)


def test_kept_chunks_are_at_most_keep_and_best_first_or_in_reading_order() -> None:
    script = [CLAIMS, BACKGROUND, FACTS, REPLY]
    (by_score,) = faithful(ScriptedChat(script), keep=3).answer([QUESTION], [CONTEXT])
    (by_place,) = faithful(ScriptedChat(script), keep=3, order="document").answer([QUESTION], [CONTEXT])
    scores = [item["score"] for item in by_score.trace["aligned"]]
    places = [item["place"] for item in by_place.trace["aligned"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert places == sorted(item["place"] for item in by_score.trace["aligned"])
    assert any(item["chunk"].startswith("The tower of Eiffel stands in Rome") for item in by_score.trace["aligned"])


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_asks_for_its_own_way_of_thinking(mode: str) -> None:
    chat = ScriptedChat([CLAIMS, BACKGROUND, FACTS, "Rome" if mode == "wo_cot" else REPLY])
    (found,) = faithful(chat, mode=mode).answer([QUESTION], [CONTEXT])
    assert found.text == "Rome"
    assert ('"Reason"' in chat.asked[-1]) == (mode != "wo_cot")
    assert ("[Fact Analysis]" in chat.asked[-1]) == (mode == "scheduled_cot")


@pytest.mark.parametrize(
    ("reply", "text", "parsed"),
    [
        ("It is Rome.", "It is Rome.", False),
        ("{'Reason': 'x', 'Answer': 'Rome',}", "Rome", True),
        ('{"Reason": "cut off before', '{"Reason": "cut off before', False),
        ("", "", False),
    ],
)
def test_a_malformed_reply_is_read_as_far_as_it_goes(reply: str, text: str, parsed: bool) -> None:
    (found,) = faithful(ScriptedChat([CLAIMS, BACKGROUND, FACTS, reply])).answer([QUESTION], [CONTEXT])
    assert (found.text, found.trace["parsed"]) == (text, parsed)


def test_without_facts_the_answer_comes_from_the_context_alone_and_says_so() -> None:
    chat = ScriptedChat(["", "", REPLY])  # no claims, no background: no call for its facts
    (found,) = faithful(chat).answer([QUESTION], [CONTEXT])
    assert (found.trace["stop"], found.trace["calls"], found.text) == ("answered_without_facts", 3, "Rome")
    assert "Answer it from Context." in chat.asked[-1]
    assert "It tells" not in chat.asked[1]


def test_facts_that_come_as_sentences_count_too() -> None:
    script = [CLAIMS, BACKGROUND, "The tower is in Paris. It is old.", REPLY]
    (found,) = faithful(ScriptedChat(script)).answer([QUESTION], [CONTEXT])
    assert found.trace["self_facts"] == ["The tower is in Paris.", "It is old."]


def test_conflicts_are_labelled_at_one_call_a_fact() -> None:
    script = [CLAIMS, BACKGROUND, FACTS, '{"relation": "conflict"}', "who knows", REPLY]
    (found,) = faithful(ScriptedChat(script), label_conflicts=True).answer([QUESTION], [CONTEXT])
    assert found.trace["calls"] == 6
    assert [item["relation"] for item in found.trace["conflicts"]] == ["conflict", ""]
    assert found.trace["conflicts"][0]["chunk"].startswith("The tower of Eiffel stands in Rome")


def test_choices_are_matched_and_where_the_reply_names_none_put_again() -> None:
    options = [["Paris", "Rome"]]
    script = [CLAIMS, BACKGROUND, FACTS, '{"Reason": "", "Answer": "rome."}']
    (found,) = faithful(ScriptedChat(script)).choose([QUESTION], options, [CONTEXT])
    assert (found.text, found.trace["choice"], found.trace["calls"]) == ("Rome", 1, 4)
    script = [CLAIMS, BACKGROUND, FACTS, '{"Answer": "Milan"}', "Paris"]
    (found,) = faithful(ScriptedChat(script)).choose([QUESTION], options, [CONTEXT])
    assert (found.text, found.trace["choice"], found.trace["calls"]) == ("Paris", 0, 5)


def test_the_options_stand_in_the_prompt_unless_they_are_only_weighed() -> None:
    for listed in (True, False):
        chat = ScriptedChat([CLAIMS, BACKGROUND, FACTS, '{"answer": "rome"}'])
        answerer = faithful(chat, list_choices=listed, mode="wo_cot")
        (found,) = answerer.choose([QUESTION], [["Milan", "Rome"]], [CONTEXT])
        assert ("- Milan" in chat.asked[-1]) is listed
        assert found.text == "Rome"


def test_key_chunks_can_be_marked_in_place() -> None:
    chat = ScriptedChat([CLAIMS, BACKGROUND, FACTS, REPLY])
    (found,) = faithful(chat, highlight=True, keep=1).answer([QUESTION], [CONTEXT])
    chunk = found.trace["aligned"][0]["chunk"]
    assert chat.asked[-1].partition("Context:")[2].count("[important facts:") == 1
    assert f"[important facts: {chunk}]" in chat.asked[-1]
    chat = ScriptedChat([CLAIMS, BACKGROUND, FACTS, REPLY])
    twice = "The tower stands in Rome. Visitors pay at the gate. The tower stands in Rome."
    (found,) = faithful(chat, highlight=True, chunk_words=5).answer([QUESTION], [twice])
    kept = [item["chunk"] for item in found.trace["aligned"]]
    assert kept == ["The tower stands in Rome.", "Visitors pay at the gate."]
    assert chat.asked[-1].count("[important facts: The tower stands in Rome.]") == 2


def test_the_published_code_is_an_option() -> None:
    chat = ScriptedChat([CLAIMS, BACKGROUND, "1. Opened in 1889.\n2. A tower.", REPLY])
    (found,) = faithful(chat, compat=True).answer([QUESTION], [CONTEXT])
    assert found.trace["self_facts"] == ["Opened in", "A tower."]
    assert "Which pieces of knowledge are needed" in chat.asked[2]


def test_many_questions_go_on_in_step() -> None:
    def say(text: str) -> str:
        stages = {"strict extractor": CLAIMS, "from memory": BACKGROUND, "take texts apart": FACTS}
        return next((said for mark, said in stages.items() if mark in text), REPLY)

    chat = ScriptedChat(say)
    found = faithful(chat).answer([QUESTION] * 3, [CONTEXT] * 3)
    assert chat.batches == [3, 3, 3, 3]
    assert [answer.trace["calls"] for answer in found] == [4, 4, 4]


def test_passages_are_looked_up_where_there_is_no_context() -> None:
    chat = ScriptedChat([CLAIMS, BACKGROUND, FACTS, REPLY])
    source = WordRetriever(["The tower of Eiffel stands in Rome.", "Something else."])
    (found,) = FaithfulRAG(FaithfulRAGSettings(), WordEncoder())(chat, source, run=RUN).answer([QUESTION])
    assert found.citations == ("d0#0-35",)
    (found,) = FaithfulRAG(FaithfulRAGSettings(), WordEncoder())(ScriptedChat(["?"]), source, run=RUN).answer(["zz?"])
    assert (found.trace["stop"], found.trace["calls"]) == ("no_passages", 1)


def test_bad_settings_contexts_and_servers_are_named() -> None:
    for bad in ({"keep": 0}, {"chunk_words": 4}, {"mode": "fast"}, {"per_fact": 0}):
        with pytest.raises(SettingsError):
            FaithfulRAGSettings.from_mapping(bad)
    with pytest.raises(RecordError, match="closed book"):
        faithful(ScriptedChat([])).answer([QUESTION], [""])
    chat = RemoteChat("http://127.0.0.1:9/v1", "m", retries=0, timeout=2.0)
    with pytest.raises(ModelLoadError, match=r"127\.0\.0\.1:9"):
        FaithfulRAG(FaithfulRAGSettings(), WordEncoder())(chat, None, run=RUN).answer([QUESTION], [CONTEXT])


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=30).map(
    str.strip).filter(bool), max_size=8, unique=True))  # fmt: skip
def test_numbered_statements_come_back_whole_whatever_digits_they_hold(items: list[str]) -> None:
    text = "Here:\n" + "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))
    assert statements(text) == items


def test_the_published_reading_loses_what_follows_a_digit() -> None:
    assert published_statements("1. 3 men came.\n2. In 1915 he left.") == ["In"]


def test_the_published_reading_takes_a_year_that_ends_a_sentence_for_the_number_of_an_item() -> None:
    text = "1. He was born in 1915. He died in 1990. Oslo buried him.\n2.Without a blank.\n3. A poet."
    assert published_statements(text) == ["He was born in", "He died in", "Oslo buried him.", "A poet."]
    assert len(published_statements("\n".join(f"{n}. item" for n in range(1, 31)))) == 30


@pytest.mark.slow
def test_a_sentence_that_contradicts_a_fact_is_among_the_two_nearest_chunks() -> None:
    from keeps.claims.faithful_rag import contradiction_ranks

    ranks = contradiction_ranks(SentenceEncoder.load())
    assert len(ranks) == 30
    assert sum(rank <= 2 for rank in ranks) >= 27
