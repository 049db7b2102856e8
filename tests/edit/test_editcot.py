"""EditCoT: the loop with a scripted thinker, the verdicts, the editor's data, and the change on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.claims.editcot import loop_checks
from keeps.claims.editcot_worlds import ScriptedChains, ScriptedThinker, editor_pairs, worlds
from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.edit import editcot
from keeps.edit.editcot import EditCoT, EditCoTSettings, read_editor_records
from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.edit_files import withdraw
from keeps.models.notebook import Notebook, _Letters
from keeps.models.scores import AnswerScore
from keeps.models.thoughts import (
    CONTRADICT,
    SUPPORT,
    UNRELATED,
    WORDS,
    Detector,
    Loop,
    Thinking,
    answer_prompt,
    editor_prompt,
    split_lines,
    think,
)
from keeps.models.token_scores import TokenScores
from keeps.training.cot_editor import EditorRecord, build_editor_data, pairs_of, parse_chain, train_editor

pytestmark = pytest.mark.usefixtures("letters")
QUESTION = "Which language do people speak where Arvo lives?"


def asked(facts: Sequence[str], **options: Any) -> Thinking:
    thinker = ScriptedThinker({"Arvo": "Brivia"}, {"Brivia": "Lum", "Duria": "Tesk"})
    memory = Notebook(_Letters())
    memory.add(facts)
    return think(thinker, Loop(thinker, memory, Detector(thinker), **options), [QUESTION])[0]


def test_the_exact_checks_of_the_card_hold_with_a_scripted_thinker() -> None:
    found = list(loop_checks(_Letters()))  # type: ignore[arg-type]
    assert len(found) == 6
    assert [check.name for check in found if not check.holds] == []


def test_the_trace_of_one_edited_hop() -> None:
    found = asked(["Arvo lives in Duria"], on_no_conflict="stop")
    assert found.old_answer == "Lum"
    assert found.old_thoughts == ("Arvo lives in Brivia.", "The language of Brivia is Lum.")
    assert [(step.sentence, step.fact, step.verdict) for step in found.steps] == [
        (QUESTION, "Arvo lives in Duria.", CONTRADICT)
    ]
    assert found.thoughts == ("Arvo lives in Duria.", "The language of Duria is Tesk.")
    assert found.answer == "Tesk"


def test_an_unrelated_fact_ends_the_loop_or_does_not_as_asked() -> None:
    facts = ["People speak where Arvo lives, as everybody knows", "Arvo lives in Duria"]  # the question finds the first
    stopped, went_on = (asked(facts, on_no_conflict=rule) for rule in ("stop", "continue"))
    assert [step.verdict for step in stopped.steps] == [UNRELATED]
    assert stopped.answer == stopped.old_answer == "Lum"
    assert went_on.answer == "Tesk"


def test_facts_below_the_floor_count_as_none() -> None:
    assert asked(["Arvo lives in Duria"], floor=0.999).steps == []


def test_old_facts_are_looked_up_and_what_replaces_them_is_passed_on() -> None:
    thinker = ScriptedThinker({"Arvo": "Brivia"}, {"Brivia": "Lum", "Duria": "Tesk"})
    memory = Notebook(_Letters())
    first, other = memory.add(["Arvo lives in Brivia", "The language of Brivia is Lum"])
    loop = Loop(thinker, memory, Detector(thinker), new_of={first: "Arvo lives in Duria"}, on_no_conflict="continue")
    found = think(thinker, loop, [QUESTION])[0]
    assert found.answer == "Tesk"
    assert other not in {step.note for step in found.steps}  # it has not changed


class Words:
    """Gives words the log-likelihoods of a table, those of the empty input another."""

    def __init__(self, here: dict[str, float], empty: dict[str, float]) -> None:
        self.here, self.empty = here, empty

    def generate(self, prompts: Sequence[str], **_: Any) -> list[str]:
        return ["" for _ in prompts]

    def logprob(self, prompts: Sequence[str], answers: Sequence[str]) -> list[AnswerScore]:
        tables = [self.empty if "New knowledge: N/A" in prompt else self.here for prompt in prompts]
        return [AnswerScore(2 * t.get(a, -9.0), 2, False) for t, a in zip(tables, answers, strict=True)]


def test_verdicts_are_calibrated_on_an_input_without_content() -> None:
    here = {"Contradict": -3.0, "Support": -1.0, "Unrelated": -4.0}
    prior = {"Contradict": -5.0, "Support": -1.0, "Unrelated": -4.0}  # Support is likely whatever is asked
    assert Detector(Words(here, here | {"Contradict": -3.0}))("q", ["a line."], "a fact.") in (
        CONTRADICT,
        SUPPORT,
        UNRELATED,
    )
    assert Detector(Words(here, prior))("q", ["a line."], "a fact.") == CONTRADICT


def test_verdicts_by_likeness_ask_whether_the_object_is_there_already() -> None:
    judge = Detector(Words({}, {}), "likeness")
    assert judge("q", ["Oslo lies in Peru."], "Oslo is in Peru.", "Peru") == SUPPORT
    assert judge("q", ["Oslo lies in Norway."], "Oslo is in Peru.", "Peru") == CONTRADICT
    assert judge("q", ["oslo is in peru"], "Oslo is in Peru.") == SUPPORT


def test_verdicts_by_first_tokens_are_those_of_the_summed_logits(tiny_llama: LanguageModel) -> None:
    prompt = "Relevance of knowledge and chain of thought:"
    ids = torch.tensor([tiny_llama.encode_prompt(prompt)], device=tiny_llama.device)
    with torch.no_grad():
        logits = tiny_llama.model(ids).logits[0, -1]
    shift = 2 * float(logits.logsumexp(0))  # of two words
    sums = Detector(tiny_llama, "first_token")._first_tokens(prompt)  # pyright: ignore[reportPrivateUsage]
    for verdict, words in WORDS.items():
        tokens = [tiny_llama.encode_pair(prompt, word)[1][0] for word in words]
        assert sums[verdict] + shift == pytest.approx(float(logits[tokens].sum()), abs=1e-4)
    fixed = {"Contradict": -3.0, "Modify": -1.0, "Support": -0.5, "Related": -4.0, "Unrelated": -9.0}

    class Tokens(Words):
        def token_logprobs(self, prompts: Sequence[str], answers: Sequence[str]) -> list[TokenScores]:
            return [TokenScores((fixed.get(a, -9.0), -5.0), (False, False), (0, 0)) for a in answers]

    assert Detector(Tokens({}, {}), "first_token")("q", ["a line."], "a fact.") == CONTRADICT  # -4 beats -4.5


def test_a_fact_is_judged_once_against_the_same_thoughts() -> None:
    found = asked(["The sun is a star"], on_no_conflict="continue")  # the nearest to the question and to both lines
    assert [step.verdict for step in found.steps] == [UNRELATED]


def test_thoughts_are_split_at_lines_and_sentences() -> None:
    assert split_lines("1. A b.\n2) C d. E f.\n\n- G") == ("A b.", "C d.", "E f.", "G")
    assert split_lines("3.5 million live there.\n-5 degrees") == ("3.5 million live there.", "-5 degrees")
    assert split_lines("It costs 3.50 in Oslo.") == ("It costs 3.50 in Oslo.",)


def test_records_come_in_both_directions_and_bad_ones_are_refused(tmp_path: Path) -> None:
    row = {
        "_id": "x", "question": "Q?", "right_steps": ["a.", "b."], "changed_steps": ["a.", "c."], "right_answer": "b",
        "changed_answer": "c", "diff_idx": 1, "right_fact": "It is b.", "changed_fact": "It is c.",
    }  # fmt: skip
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(row))
    forth, back = pairs_of(read_editor_records(file))
    assert (forth.old, forth.fact, forth.new) == (("a.", "b."), "It is c.", ("a.", "c."))
    assert (back.old, back.fact, back.new) == (("a.", "c."), "It is b.", ("a.", "b."))
    for bad in ({"diff_idx": 2}, {"changed_answer": "B."}, {"changed_fact": "it is b"}):
        file.write_text(json.dumps(row | bad))
        with pytest.raises(RecordError):
            read_editor_records(file)
    file.write_text('{"question": "Q?"}')
    with pytest.raises(RecordError, match="line 1"):
        read_editor_records(file)


def test_the_pipeline_keeps_records_whose_answers_and_steps_differ() -> None:
    found = build_editor_data(ScriptedChains(), [(f"Question {number}?", ["A text."]) for number in range(4)])
    assert {record.question for record in found} <= {f"Question {number}?" for number in range(4)}
    assert found
    for record in found:
        assert record.right_answer != record.changed_answer
        assert record.right_steps[record.diff_idx] != record.changed_steps[record.diff_idx]
        assert record.right_steps[: record.diff_idx] == record.changed_steps[: record.diff_idx]
    assert parse_chain("no steps") is None
    assert parse_chain("[STEP] a") is None


def test_alternative_chains_are_filtered_as_those_with_documents_are() -> None:
    class Says(ScriptedChains):
        def __init__(self, end: str) -> None:
            self.end = end

        def _chain(self, block: str) -> str:
            text = super()._chain(block)
            return text if block.endswith(("[STEP]", "encyclopedia:")) else text.replace("warm", self.end)

    questions = [(f"Question {number}?", ["A text."]) for number in range(4)]
    assert build_editor_data(Says("hot"), questions)
    assert not build_editor_data(Says("unknown"), questions)
    assert not build_editor_data(Says("hot according to the text"), questions)
    assert not build_editor_data(Says("hot"), questions, least_steps=4)


def test_pairs_of_the_worlds_change_one_line_and_what_follows_from_it() -> None:
    first, second = editor_pairs(worlds(1, seed=0))
    assert first.new[0] == first.fact
    assert first.new[1] != first.old[1]
    assert second.new == (second.old[0], second.fact)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A file with one record of an editor."""
    row = EditorRecord("Q?", ("a.", "b."), ("a.", "c."), "b", "c", 1, "It is b.", "It is c.")
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(vars(row)))
    return file


def test_the_change_is_written_found_and_withdrawn_and_no_weight_moves(
    tiny_llama: LanguageModel, new_run: Callable[..., Run], records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, run = tiny_llama.fingerprint, new_run()
    edits = [Edit("e1", "Arvo", "Arvo lives in", "Duria", "Brivia"), Edit("e2", "Lum", "Lum is a", "fish", "bird")]
    settings = EditCoTSettings(examples=str(records), steps=1, rank=2, targets=("q_proj",), floor=0.0)
    EditCoT(settings)(tiny_llama, edits, run=run)
    assert tiny_llama.fingerprint == before
    change = load_change(run.folder)
    thinker: Any = change.apply(tiny_llama)
    script = ScriptedThinker({"Arvo": "Brivia"}, {"Brivia": "Lum", "Duria": "Tesk"})
    monkeypatch.setattr(editcot, "_Editor", lambda base, factors: script)
    thinker.base, thinker._detector = script, Detector(script)
    (found,) = thinker.answer([QUESTION])
    assert found.text == "Tesk"
    assert found.trace["old_answer"] == "Lum"
    assert found.trace["steps"][0]["note"] == "e1"
    thinker.undo()
    assert thinker.answer([QUESTION])[0].text == "Lum"
    left = withdraw(run.folder, ["e1"], run.folder.parent / "left", tiny_llama)
    assert "Arvo" not in (left.folder / "notes.jsonl").read_text()


def test_an_empty_memory_gives_the_direct_answer_of_the_model(tiny_llama: LanguageModel) -> None:
    thinker = editcot.EditedThinker(tiny_llama, Notebook(_Letters()), EditCoTSettings(), {})
    assert len(tiny_llama.encode_prompt(answer_prompt("Q?"))) > 60
    loop = Loop(tiny_llama, thinker.memory, Detector(tiny_llama))
    script = ScriptedThinker({"Arvo": "Brivia"}, {"Brivia": "Lum"})
    assert think(script, loop, [QUESTION])[0].answer == script.generate([answer_prompt(QUESTION)])[0]


def test_the_editor_is_trained_on_new_thoughts_alone_and_the_base_is_given_back(
    tiny_llama: LanguageModel, new_run: Callable[..., Run]
) -> None:
    before = tiny_llama.fingerprint
    settings = EditCoTSettings(steps=2, batch_size=1, rank=2)
    pairs = editor_pairs(worlds(1, seed=0))[:1]
    assert editor_prompt(pairs[0].question, pairs[0].old, pairs[0].fact).endswith("New Thoughts:\n")
    factors = train_editor(tiny_llama, pairs, settings, new_run(), targets=("q_proj",), rank=2)
    assert tiny_llama.fingerprint == before
    assert any(float(b.abs().max()) > 0 for _, b in factors.values())
    with pytest.raises(EmptySetError):
        train_editor(tiny_llama, [], settings, new_run("other"), targets=("q_proj",), rank=2)


def test_looking_for_old_facts_needs_them(tiny_llama: LanguageModel, new_run: Callable[..., Run]) -> None:
    with pytest.raises(SettingsError, match="what the edits replace"):
        EditCoT(EditCoTSettings(index="old"))(tiny_llama, [Edit("a", "", "p", "t")], run=new_run())
