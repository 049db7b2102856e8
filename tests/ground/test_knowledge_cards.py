"""Knowledge cards: what is in the last prompt, who is asked, when it stops; with cards and chats that are scripted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from card_stubs import Saying, card, hub, numbered_card, tools
from grounding_stubs import RUN, ScriptedChat, WordRetriever
from hypothesis import given
from hypothesis import strategies as st

from keeps.contracts import Answer, Run
from keeps.errors import ContextLengthError, EmptySetError, RecordError, SettingsError
from keeps.ground.card_prompts import first_named
from keeps.ground.cards import CardHub
from keeps.ground.knowledge_cards import CardAnswerer, KnowledgeCards, KnowledgeCardsSettings
from keeps.sources import GroundMethod

QUESTION = "What is the mascot of Zorvia?"
NAMES = ("mascots", "trades", "mines")
SURE = {"verdict": "supports", "consistent": "yes"}


def script(**replies: str) -> Callable[[str], str]:
    """Replies by what is asked: more, kind, pick, verdict, consistent, summary, answer."""
    marks = {
        "more": "Do you need more", "kind": "What kind of information", "pick": "Sources of information",
        "verdict": "leave it open", "consistent": "Is every fact", "summary": "Say in one sentence",
    }  # fmt: skip

    def say(text: str) -> str:
        for name, mark in marks.items():
            if mark in text:
                return replies.get(name, SURE.get(name, ""))
        return replies.get("answer", "the heron")

    return say


def answerer(chat: Any, source: CardHub, **settings: Any) -> CardAnswerer:
    return CardAnswerer(chat, source, KnowledgeCardsSettings.from_mapping(settings), RUN, tools())


def ask(chat: Any, source: CardHub, **settings: Any) -> Answer:
    return answerer(chat, source, **settings).answer([QUESTION])[0]


# --- bottom-up ----------------------------------------------------------------------------------


def test_without_filters_every_generated_document_stands_in_the_last_prompt_word_for_word() -> None:
    chat, source = ScriptedChat(script()), hub(*map(numbered_card, NAMES))
    found = ask(chat, source, filters="none", documents=4)
    said = [f"The {name} fact number {n} about it." for name in NAMES for n in range(4)]
    assert len(chat.asked) == 1
    assert all(text in chat.asked[0] for text in said)
    assert [entry["text"] for entry in found.trace["knowledge"]] == said
    assert (found.text, found.trace["stop"], found.trace["calls"]) == ("the heron", "answered", 1)
    assert found.trace["card_documents"] == 12


def test_the_defaults_leave_five_documents_none_longer_than_the_brevity() -> None:
    def rambling(name: str) -> Callable[[str, int], str]:
        return lambda query, number: " ".join(f"Sentence {n} of {name} says {number}." for n in range(20))

    chat = ScriptedChat(script())
    found = ask(chat, hub(*(card(name, rambling(name)) for name in ("a", "b", "c", "d", "e"))))
    knowledge = found.trace["knowledge"]
    lefts = {step["step"]: len(step.get("left", ())) for step in found.trace["steps"]}
    assert (lefts["relevance"], lefts["brevity"], lefts["factuality"]) == (20, 20, 5)
    assert len(knowledge) == len({entry["text"] for entry in knowledge}) == 5
    assert all(len(entry["text"].split()) <= 30 for entry in knowledge)
    assert all(entry["text"] in chat.asked[-1] for entry in knowledge)
    assert found.trace["calls"] == 2 * 20 + 1
    assert all(entry["score"] == 1.0 for entry in knowledge)


def test_the_order_of_the_filters_is_that_of_the_setting() -> None:
    def order(filters: str) -> list[str]:
        steps = ask(ScriptedChat(script()), hub(*map(numbered_card, NAMES)), filters=filters).trace["steps"]
        return [step["step"] for step in steps if step["step"] in ("relevance", "brevity", "factuality")]

    assert order("relevance,factuality,brevity") == ["relevance", "factuality", "brevity"]
    assert order("brevity,relevance") == ["brevity", "relevance"]


def test_documents_are_stripped_of_the_query_and_none_is_shown_twice_or_empty() -> None:
    said = [f"{QUESTION} The heron.", "The\nheron.", "  ", "?!", "The heron is a bird."]
    found = ask(ScriptedChat(script()), hub(card("a", lambda query, n: said[n])), filters="none")
    assert [entry["text"] for entry in found.trace["knowledge"]] == ["The heron.", "The heron is a bird."]


def test_what_begins_a_sentence_can_be_put_before_each_document() -> None:
    found = ask(ScriptedChat(script()), hub(card("a", lambda *_: "the heron.")), filters="none", with_query=True)
    assert [entry["text"] for entry in found.trace["knowledge"]] == [f"{QUESTION} the heron."]


def test_the_plain_layout_is_knowledge_query_answer_as_published() -> None:
    chat = ScriptedChat(script())
    said = ["The heron.", "Zorvia <b> is old."]
    ask(chat, hub(card("a", lambda query, n: said[n])), filters="none", documents=2, layout="plain")
    asked = f"Knowledge: The heron. Zorvia ‹b› is old.\nQuery: {QUESTION}\nAnswer:"
    assert chat.asked[0].endswith(asked)


def test_a_card_that_says_nothing_leaves_the_model_to_itself() -> None:
    source = hub(card("a", lambda *_: " "))
    assert ask(ScriptedChat(script()), source).trace["stop"] == "no_passages"
    assert ask(ScriptedChat(script()), source, without_passages="no_answer").text == ""


def test_evidence_decides_what_is_factual_and_failures_of_looking_it_up_are_noted() -> None:
    class Down:
        def search(self, query: str, k: int) -> list[Any]:
            raise OSError("no network")

    def judge(text: str) -> str:
        if "leave it open" in text:
            return "supports" if "<evidence>" in text and "heron" in text.partition("<statement>")[2] else "refutes"
        return "yes" if "Is every fact" in text else "the heron"

    said = ["It is the heron of Zorvia.", "It is the toad of Zorvia."]
    cards = hub(card("a", lambda query, n: said[n % 2]), evidence=WordRetriever(["Zorvia chose the heron."]))
    found = ask(ScriptedChat(judge), cards, documents=2, keep=1, draw="best", filters="factuality")
    (kept,) = found.trace["knowledge"]
    assert (kept["text"], kept["score"], kept["evidence"]) == (said[0], 1.0, ["d0#0-23"])
    judged = next(step["judged"] for step in found.trace["steps"] if step["step"] == "judge")
    assert [item["score"] for item in judged] == [1.0, 0.5]

    failed = ask(ScriptedChat(judge), hub(card("a", lambda *_: said[0]), evidence=Down()))  # type: ignore[arg-type]
    (kept,) = failed.trace["knowledge"]
    assert (kept["failed"], kept["score"]) == ("OSError: no network", 0.5)


def test_a_context_is_knowledge_in_place_of_the_cards() -> None:
    source, chat = hub(numbered_card("a")), ScriptedChat(script())
    (found,) = answerer(chat, source).answer([QUESTION], ["Zorvia's mascot is the heron."])
    assert "Zorvia's mascot is the heron." in chat.asked[0]
    assert (found.trace["stop"], found.trace["card_documents"]) == ("context", 0)


def test_knowledge_names_its_card_and_answers_cite_it() -> None:
    chat = ScriptedChat(script(answer="the heron [2]"))
    cards = [card(name, lambda query, n, name=name: f"{name} {n} heron") for name in NAMES]
    asked = answerer(chat, hub(*cards), filters="none", documents=1)
    (found,) = asked.answer([QUESTION])
    (cited,) = found.citations
    assert cited.startswith("trades#")
    assert asked.texts[cited] == "trades 0 heron"
    assert "[2] trades" in chat.asked[0]


def test_many_questions_ask_each_card_once_together() -> None:
    cards = [numbered_card(name) for name in NAMES]
    answerer(ScriptedChat(script()), hub(*cards), documents=2).answer([QUESTION, "Who rules Dorvia?"])
    for one in cards:
        assert isinstance(one.model, Saying)
        assert (one.model.calls, len(one.model.asked)) == (1, 4)


@given(st.text(max_size=60), st.integers(1, 3))
def test_whatever_a_card_says_it_cannot_close_its_marks(text: str, draws: int) -> None:
    chat = ScriptedChat(script())
    source = hub(card("a", lambda query, n: f"x </passage 1> [1] {text} {n}"))
    ask(chat, source, filters="none", documents=draws)
    knowledge = chat.asked[0].partition("Knowledge:")[2]
    assert knowledge.count("</passage 1>") == 1
    assert knowledge.count("[1]") == 1


# --- top-down -----------------------------------------------------------------------------------


def down(chat: ScriptedChat, *cards: Any, **settings: Any) -> Answer:
    source = hub(*(cards or map(numbered_card, NAMES)))
    return ask(chat, source, **{"mode": "top_down", "filters": "brevity", **settings})


def test_the_card_whose_line_is_closest_to_what_is_missing_is_asked() -> None:
    chat = ScriptedChat(script(more="Yes.", kind="something about trades, I think"))
    found = down(chat, max_rounds=1)
    assert [item["card"] for item in found.trace["rounds"]] == ["trades"]
    assert found.trace["rounds"][0]["reply"] == "something about trades, I think"
    (kept,) = found.trace["knowledge"]
    assert kept["text"] in chat.asked[-1]
    assert found.trace["stop"] == "max_rounds"


def test_the_model_names_a_card_and_where_it_names_none_one_is_drawn() -> None:
    chat = ScriptedChat(script(more="yes", pick="I would rather ask MINES here."))
    assert [item["card"] for item in down(chat, select="explicit").trace["rounds"]] == ["mines"] * 3
    lost = ScriptedChat(script(more="yes", pick="no idea"))
    rounds = down(lost, select="explicit", max_rounds=8).trace["rounds"]
    assert all(item["by_chance"] for item in rounds)
    assert len({item["card"] for item in rounds}) > 1
    assert rounds == down(lost, select="explicit", max_rounds=8).trace["rounds"]


@pytest.mark.parametrize(("reply", "rounds"), [("No.", 0), ("no more", 0), ("I do not know", 3), ("Not sure", 3)])
def test_only_a_leading_no_ends_the_rounds_and_there_are_never_more_than_allowed(reply: str, rounds: int) -> None:
    found = down(ScriptedChat(script(more=reply, kind="trades")))
    assert len(found.trace["rounds"]) == rounds
    assert found.trace["stop"] == ("enough" if rounds == 0 else "max_rounds")
    assert found.text == "the heron"


def test_a_least_number_of_rounds_is_done_without_asking_whether() -> None:
    chat = ScriptedChat(script(more="no", kind="trades"))
    found = down(chat, min_rounds=2)
    assert (len(found.trace["rounds"]), found.trace["stop"]) == (2, "enough")
    assert sum("Do you need more" in text for text in chat.asked) == 1


def test_each_round_adds_one_document_that_was_not_there_before() -> None:
    chat = ScriptedChat(script(more="yes", kind="trades"))
    found = down(chat, filters="relevance,brevity,factuality", documents=4)
    texts = [entry["text"] for entry in found.trace["knowledge"]]
    assert len(texts) == len(set(texts)) == 3
    assert [len(item["candidates"]) for item in found.trace["rounds"]] == [4, 4, 4]
    assert [item["kept"][0]["text"] for item in found.trace["rounds"]] == texts
    assert found.trace["calls"] == 3 * (2 + 4 * 2) + 1
    same = card("trades", lambda *_: "always the same")
    assert len(down(chat, same, max_rounds=2).trace["knowledge"]) == 1


def test_a_single_card_is_asked_without_choosing() -> None:
    chat = ScriptedChat(script(more="yes"))
    down(chat, numbered_card("law"), max_rounds=2)
    assert not any("What kind" in text for text in chat.asked)


def test_of_two_names_the_one_that_stands_first_counts_and_no_part_of_a_word() -> None:
    assert first_named("civil law, or law", ["law", "civil law"]) == 1
    assert first_named("outlaws", ["law"]) is None


# --- modularity, refusals -----------------------------------------------------------------------


def test_taking_a_card_away_changes_nothing_of_what_the_others_say() -> None:
    def by_seed(prompts: Sequence[str], seeds: Sequence[int], **_: Any) -> list[str]:
        return [f"seed {seed}" for seed in seeds]

    cards = [numbered_card(name) for name in NAMES]
    for one in cards:
        one.model.sample = by_seed
    whole = ask(ScriptedChat(script()), hub(*cards), filters="none").trace["knowledge"]
    left = ask(ScriptedChat(script()), hub(*cards).without("trades"), filters="none").trace["knowledge"]
    assert [e["text"] for e in left] == [e["text"] for e in whole if e["card"] != "trades"]
    other = CardAnswerer(ScriptedChat(script()), hub(*cards), KnowledgeCardsSettings(filters=()), Run(RUN.folder, 1),
                         tools()).answer([QUESTION])[0]  # fmt: skip
    assert not {e["text"] for e in other.trace["knowledge"]} & {e["text"] for e in whole}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filters": "relevanse"}, "relevance"),
        ({"filters": "brevity,brevity"}, "named twice"),
        ({"keep": 0}, "keep"),
        ({"relevant": 0}, "relevant"),
        ({"select": "explicit"}, "would do nothing"),
        ({"keep": 3, "filters": "relevance"}, "would do nothing"),
        ({"pruner": "cut", "filters": "relevance"}, "would do nothing"),
        ({"mode": "top_down", "relevant": 4}, "would do nothing"),
        ({"mode": "top_down", "min_rounds": 4}, "max_rounds"),
        ({"temperature": 0}, "same document"),
        ({"layout": "plain", "cite": "markers"}, "no numbers"),
    ],
)
def test_settings_that_contradict_or_would_do_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        KnowledgeCardsSettings.from_mapping(settings)


def test_it_is_refused_to_choose_by_a_line_that_is_not_there_and_to_ask_no_card() -> None:
    method = KnowledgeCards(KnowledgeCardsSettings(mode="top_down"))
    assert isinstance(method, GroundMethod)
    bare = hub(card("a", lambda *_: "x", line=""), numbered_card("b"))
    with pytest.raises(SettingsError, match="no description"):
        method(ScriptedChat(script()), bare, run=RUN)
    explicit = KnowledgeCards(KnowledgeCardsSettings(mode="top_down", select="explicit"))
    explicit(ScriptedChat(script()), bare, run=RUN)
    with pytest.raises(EmptySetError, match="no card"):
        method(ScriptedChat(script()), None, run=RUN)


def test_bad_questions_and_failures_of_cards_come_through() -> None:
    with pytest.raises(RecordError, match="empty"):
        answerer(ScriptedChat(script()), hub(numbered_card("a"))).answer([" "])

    def fail(query: str, number: int) -> str:
        raise ContextLengthError("too long")

    with pytest.raises(ContextLengthError):
        ask(ScriptedChat(script()), hub(card("a", fail)))
