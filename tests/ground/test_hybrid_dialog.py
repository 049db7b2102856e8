"""Entities are found by the labels' probabilities, replies made of the best one, values named with their source."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.claims.hybrid_dialog_world import TEMPLATES, as_text, conversations, small_model, town
from keeps.contracts import Run
from keeps.data.entities import Entity, EntityBase, EntityDocument
from keeps.data.entity_dialogs import RESPOND, SELECT, parse_history, prompt_of
from keeps.errors import ContextLengthError, RecordError, SettingsError, UnknownNameError
from keeps.ground.hybrid_dialog import HybridDialog, HybridDialogSettings, JointDialog
from keeps.ground.hybrid_sources import used_values
from keeps.models import LanguageModel
from keeps.training.dialog_lessons import Lessons, dialog_lessons
from keeps.training.examples import tokenise
from keeps.training.loop import train
from keeps.training.relocation import moved_slots
from keeps.training.settings import TrainingSettings

FULL = town(0, houses=6)
TALKS = [as_text(reply) for reply in conversations(FULL, 0)][:4]


@pytest.fixture(scope="module")
def small() -> LanguageModel:
    return small_model(0, width=16, layers=2, heads=2)


def dialog(model: Any, base: Any = FULL, **settings: Any) -> JointDialog:
    values = {"beams": 1, "max_new_tokens": 8, **settings}
    return HybridDialog(HybridDialogSettings.from_mapping(values))(model, base, run=Run(Path()))


def test_the_probability_of_an_entity_is_the_softmax_over_yes_and_no_behind_the_mark(small: LanguageModel) -> None:
    (ranked,) = dialog(small).rank_entities(TALKS[:1])
    yes, no = (small.tokenizer.convert_tokens_to_ids(label) for label in ("yes", "no"))
    for row in ranked:
        prompt = prompt_of(SELECT, parse_history(TALKS[0]), row.entity.text())
        with torch.no_grad():
            logits = small.model(torch.tensor([small.encode_prompt(prompt)])).logits[0, -1].double()
        assert row.probability == pytest.approx(float(logits[[yes, no]].softmax(0)[0]), abs=1e-5)
    assert [row.probability for row in ranked] == sorted((row.probability for row in ranked), reverse=True)


def test_entities_and_conversations_are_scored_independently_of_each_other(small: LanguageModel) -> None:
    together = dialog(small).rank_entities(TALKS)
    for text, rows in zip(TALKS, together, strict=True):
        (alone,) = dialog(small).rank_entities([text])
        assert {r.entity.id: r.probability for r in rows} == pytest.approx(
            {r.entity.id: r.probability for r in alone}, abs=1e-5
        )
    one = EntityBase((FULL.entities[0],))
    (single,) = dialog(small, one).rank_entities(TALKS[:1])
    found = {row.entity.id: row.probability for row in together[0]}
    assert single[0].probability == pytest.approx(found[FULL.entities[0].id], abs=1e-5)


def test_the_reply_is_the_continuation_of_the_response_prompt_with_the_best_entity(small: LanguageModel) -> None:
    answerer = dialog(small)
    for text, answer in zip(TALKS, answerer.answer(TALKS), strict=True):
        (best, *_) = answerer.rank_entities([text])[0]
        prompt = prompt_of(RESPOND, parse_history(text), best.entity.text())
        assert answer.text == small.generate([prompt], max_new_tokens=8)[0]
        assert answer.trace["entity"] == best.entity.id
        assert answer.trace["ranked"][0] == {"entity": best.entity.id, "probability": pytest.approx(best.probability)}
        tokens = len(small.encode_prompt(prompt))
        tokens += sum(
            len(small.encode_prompt(prompt_of(SELECT, parse_history(text), entity.text()))) for entity in FULL
        )
        assert (answer.trace["prompt_tokens"], answer.trace["calls"]) == (tokens, len(FULL) + 1)


def test_one_beam_finds_what_greedy_does_and_more_beams_nothing_less_likely(small: LanguageModel) -> None:
    entities = [FULL.entities[0]] * len(TALKS)
    greedy = dialog(small).respond(TALKS, entities)
    wide = dialog(small, beams=4).respond(TALKS, entities)
    prompts = [prompt_of(RESPOND, parse_history(text), entities[0].text()) for text in TALKS]

    def likelihood(texts: list[str]) -> list[float]:
        return [score.logprob for score in small.logprob(prompts, [f"{text} \n" for text in texts])]

    assert len(wide) == len(greedy)
    assert all(texts for texts in wide)
    if wide != greedy:
        assert max(a - b for a, b in zip(likelihood(wide), likelihood(greedy), strict=True)) > 0


def test_no_entity_is_taken_where_none_is_more_likely_right_than_wrong(small: LanguageModel) -> None:
    sure, unsure = dialog(small).answer(TALKS), dialog(small, no_entity=True).answer(TALKS)
    for one, other in zip(sure, unsure, strict=True):
        refused = one.trace["probability"] < 0.5
        assert other.trace["stop"] == ("no_entity" if refused else "answered")
        assert (other.trace["entity"] is None) == refused
        if refused:
            assert other.trace["used_values"] == []
            assert other.citations == ()


def test_few_candidates_are_those_whose_words_are_most_like_the_conversation(small: LanguageModel) -> None:
    name = FULL.entities[3].name
    (rows,) = dialog(small, candidates=1).rank_entities([f"user: what about {name} ?"])
    assert [row.entity.name for row in rows] == [name]
    (all_rows,) = dialog(small, candidates=99).rank_entities(TALKS[:1])
    assert len(all_rows) == len(FULL)


def test_old_turns_are_not_read(small: LanguageModel) -> None:
    long = "\n".join(["user: the north", "system: no"] * 9 + ["user: what is the phone ?"])
    short = "\n".join(long.splitlines()[-3:])
    (a,), (b,) = (dialog(small, num_turns=3).rank_entities([text]) for text in (long, short))
    assert [row.probability for row in a] == [row.probability for row in b]


def test_what_it_cannot_work_with_is_refused(small: LanguageModel, smollm2: LanguageModel) -> None:
    with pytest.raises(SettingsError, match="no table"):
        dialog(small, None)
    with pytest.raises(SettingsError, match="logits"):
        dialog(object())
    with pytest.raises(UnknownNameError, match="hotel"):
        dialog(small, domain="hotel")
    with pytest.raises(RecordError, match="end with the user"):
        dialog(small).answer(["user: a\nsystem: b"])
    with pytest.raises(SettingsError, match="contexts are not read"):
        dialog(small).answer(TALKS[:1], ["a context"])
    with pytest.raises(ContextLengthError):
        dialog(small, max_input=16).answer(TALKS[:1])
    assert dialog(smollm2).most == 1024, "yes and no are single tokens of the default model"


def test_labels_of_several_tokens_are_refused(small: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "encode_pair", lambda prompt, answer: ([1], [2, 3]))
    with pytest.raises(SettingsError, match="no single token"):
        dialog(small)


def test_every_value_is_named_with_its_source_and_invented_ones_are_listed() -> None:
    house = FULL.entities[0]
    values = dict(house.values())
    (moved,) = moved_slots(EntityBase((house,)), ("phone",), TEMPLATES)
    other = next(e for e in FULL if e is not house)
    text = f"call {values['phone']} , in {values['postcode']} , or write to {dict(other.values())['postcode']}"
    used, invented = used_values(text, moved, FULL.ontology(), "what is the phone ?")
    assert {(item.slot, item.source) for item in used} == {
        ("phone", f"{house.id}#doc1"),
        ("postcode", f"{house.id}#postcode"),
    }
    assert invented == {("postcode", dict(other.values())["postcode"])}
    assert used_values(text, None, FULL.ontology(), "")[0] == []


def test_what_is_cited_is_kept_by_its_id_so_that_it_can_be_graded(small: LanguageModel) -> None:
    answerer = dialog(small, max_new_tokens=12)
    for answer in answerer.answer(TALKS):
        for source in answer.citations:
            assert answerer.texts[source]
            assert source.partition("#")[0] == answer.trace["entity"]


def test_a_number_that_is_nearly_right_is_not_the_entitys_and_what_the_user_said_is_not_invented() -> None:
    entity = Entity("h", "a", {"phone": "01223 315702"})
    ontology = {"phone": {"01223 315702"}, "area": {"north"}}
    assert used_values("call 01223 315703", entity, ontology, "") == ([], set())
    assert used_values("in the north", entity, ontology, "something in the north")[1] == set()
    assert used_values("in the north", entity, ontology, "something")[1] == {("area", "north")}


def test_a_document_that_holds_what_the_reply_adds_is_its_source() -> None:
    entity = Entity("h", "a", {}, (EntityDocument("Pets?", "Pets may come for a fee of ten pounds."),))
    used, _ = used_values("a fee of ten pounds", entity, {"name": {"a"}}, "may pets come")
    assert [(item.source, item.title) for item in used] == [("h/a#doc1", "Pets?")]


def test_what_is_taught_is_chosen_and_said(tmp_path: Path) -> None:
    """Overfit on purpose: the path from lessons over training to answers is whole."""
    model = small_model(1, width=32, layers=2, heads=2)
    base = town(3, houses=2)
    replies = [reply for reply in conversations(base, 3) if "named" in reply.id]
    lessons = tokenise(model, dialog_lessons(replies, base, how=Lessons(8, 8, 8)))
    settings = TrainingSettings(epochs=60, batch_size=8, learning_rate=1e-2)
    train(model.model, lessons, settings, Run(tmp_path), pad_token_id=model.encoder.pad_token_id)
    found = dialog(model, base, max_new_tokens=12).answer([as_text(reply) for reply in replies])
    assert [answer.text for answer in found] == [reply.text for reply in replies]
    assert [answer.trace["entity"] for answer in found] == [f"house/{reply.belief['name']}" for reply in replies]
    assert all(answer.citations and not answer.trace["hallucinated"] for answer in found)
    assert all(math.isfinite(answer.trace["probability"]) for answer in found)


def test_an_explanation_is_said_where_it_is_asked_for(small: LanguageModel) -> None:
    (answer,) = dialog(small, explain=True).answer(TALKS[:1])
    (plain,) = dialog(small).answer(TALKS[:1])
    assert plain.trace["explanation"] == ""
    assert answer.trace["calls"] == plain.trace["calls"] + bool(answer.trace["explanation"])
