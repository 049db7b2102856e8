"""EditCoT's claim: thoughts corrected step by step answer what follows from several facts, where facts in front do not.

The loop is checked with a scripted thinker, whose every step is known. The editor is trained, as an adapter of the
embedded model, on invented worlds of two hops, and measured on others. End to end, both hops of each question lie
among 50 facts of other worlds; the same facts in front of the question (as IKE does) are the baseline.

With ``--data`` the editor is trained and measured on published chains (:mod:`keeps.claims.editcot_published`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.editcot_published import FILES, hotpot
from keeps.claims.editcot_worlds import ScriptedChains, ScriptedThinker, World, editor_pairs, worlds
from keeps.edit.editcot import EditCoTSettings, EditedThinker, _Editor
from keeps.edit.ike import IKERouter, IKESettings
from keeps.models.adapters import Factors
from keeps.models.encoder import SentenceEncoder
from keeps.models.language_model import LanguageModel
from keeps.models.notebook import Notebook
from keeps.models.routed import RoutedModel
from keeps.models.thoughts import (
    CONTRADICT,
    SUPPORT,
    Detector,
    Loop,
    Thinking,
    answer_prompt,
    editor_prompt,
    split_lines,
    think,
)
from keeps.numerics.statistics import wilson
from keeps.training.cot_editor import build_editor_data, train_editor

PAIRS = 300
HELD_OUT = 25  # worlds the editor is measured on: two corrections each
ASKED = 20  # questions end to end
DISTRACTORS = 50
TRAINING = EditCoTSettings(
    detect="likeness", on_no_conflict="continue", floor=0.45, batch_size=8, learning_rate=1e-3, epochs=1, rank=16
)
QUESTION = "Which language do people speak where Arvo lives?"


def experiment(run: ClaimRun) -> Iterator[Check]:
    """The loop by rules, then the editor and the whole on the embedded model."""
    encoder = SentenceEncoder.load()
    yield from loop_checks(encoder)
    model = run.model()
    yield _direct_path(model, encoder)
    if run.data is not None:
        yield from hotpot(model, encoder, TRAINING, run)
        return
    run.progress.message(f"training the editor on {PAIRS} pairs")
    with tempfile.TemporaryDirectory() as folder:
        pairs = editor_pairs(worlds(PAIRS // 2, seed=1))
        training = run.inside(Path(folder))
        factors = train_editor(model, pairs, TRAINING, training, targets=TRAINING.targets, rank=TRAINING.rank)
    run.progress.message("the editor on worlds that it has not seen")
    yield from _editor_checks(model, factors, worlds(HELD_OUT, seed=2))
    run.progress.message("end to end")
    yield _end_to_end(model, encoder, factors, run)


def loop_checks(encoder: SentenceEncoder) -> Iterator[Check]:
    """Exact, with the scripted thinker."""
    lives, speaks = {"Arvo": "Brivia"}, {"Brivia": "Lum", "Duria": "Tesk"}

    def ask(facts: Sequence[str], most: int = 4, rule: str = "continue") -> Thinking:
        thinker = ScriptedThinker(lives, speaks)
        memory = Notebook(encoder)
        memory.add(facts)
        loop = Loop(thinker, memory, Detector(thinker), most, on_no_conflict=rule)
        return think(thinker, loop, [QUESTION])[0]

    empty = ask([])
    right = empty.answer == "Lum" and not empty.steps and not empty.thoughts
    yield Check("an empty memory gives the direct answer in no iteration", float(right), "1", right)
    same = ask(["Arvo lives in Brivia"])
    right = [step.verdict for step in same.steps] == [SUPPORT] * len(same.steps) and same.thoughts == same.old_thoughts
    yield Check("a fact that is a line of the thoughts supports them and leaves them unchanged", float(right), "1",
                right and bool(same.steps))  # fmt: skip
    one = ask(["Arvo lives in Duria"], rule="stop")
    right = one.answer == "Tesk" and one.edits == 1 and one.old_answer == "Lum"
    yield Check("one edited hop: answer, thoughts, retrieve, contradict, edit, retrieve, stop, answer of two hops",
                float(right), "1", right)  # fmt: skip
    two = ["Arvo lives in Duria", "The language of Duria is Ossik"]
    short, whole = ask(two, 1), ask(two, 4)
    right = short.answer == "Tesk" and short.edits == 1 and whole.answer == "Ossik" and whole.edits == 2
    yield Check("two edited hops: the second edit is missing with T = 1 and there with T = 4", float(right), "1", right)
    used = [step.note for step in whole.steps if step.verdict == CONTRADICT]
    right = len(used) == len(set(used)) and whole.edits <= 4
    yield Check("no fact is used twice, and there are at most T edits", float(right), "1", right)
    records = build_editor_data(ScriptedChains(), [(f"Question {number}?", ["A text."]) for number in range(20)])
    right = bool(records) and all(record.right_answer != record.changed_answer for record in records)
    yield Check("records made of 20 questions by a scripted model whose two answers differ",
                sum(r.right_answer != r.changed_answer for r in records) / max(len(records), 1), "1, of at least one",
                right, note=f"{len(records)} records")  # fmt: skip


def _direct_path(model: LanguageModel, encoder: SentenceEncoder) -> Check:
    questions = [world.question for world in worlds(4, seed=3)]
    thinker = EditedThinker(model, Notebook(encoder), TRAINING, {})
    said = [answer.text for answer in thinker.answer(questions)]
    direct = model.generate([answer_prompt(question) for question in questions], max_new_tokens=20, sentence=True)
    differ = sum(a != b for a, b in zip(said, direct, strict=True))
    return Check("answers of the model with an empty memory that differ from its direct ones", differ, "0", differ == 0)


def _editor_checks(model: LanguageModel, factors: Factors, held_out: Sequence[World]) -> Iterator[Check]:
    pairs = editor_pairs(held_out)
    prompts = [editor_prompt(pair.question, pair.old, pair.fact) for pair in pairs]
    texts = _Editor(model, factors).generate(prompts, max_new_tokens=96, stop=("\n\n", "\nQuestion"))
    objects = [world.new[hop] for world in held_out for hop in (0, 1)]
    edited = kept = 0
    later = [number for number in range(len(pairs)) if number % 2]  # the second line is corrected: the first is earlier
    for number, (pair, text) in enumerate(zip(pairs, texts, strict=True)):
        lines, place = split_lines(text), number % 2
        edited += len(lines) > place and objects[number] in lines[place]
        kept += number in later and lines[:1] == pair.old[:1]
    share = wilson(edited, len(pairs))
    yield Check(f"share of {len(pairs)} corrections whose line holds the new object", share.value, "at least 0.80",
                share.value >= 0.80, interval=(share.low, share.high))  # fmt: skip
    share = wilson(kept, len(later))
    yield Check(f"share of {len(later)} earlier lines that are kept word for word", share.value, "at least 0.90",
                share.value >= 0.90, interval=(share.low, share.high))  # fmt: skip


def _end_to_end(model: LanguageModel, encoder: SentenceEncoder, factors: Factors, run: ClaimRun) -> Check:
    asked, others = worlds(ASKED, seed=4), worlds(DISTRACTORS // 2, seed=5)
    notes = [note for world in asked for note in world.facts]
    notes += [type(note)(f"other-{note.id}", note.statement) for world in others for note in world.facts]
    memory = Notebook(encoder)
    memory.add(notes)
    thought = EditedThinker(model, memory, TRAINING, factors).answer([world.question for world in asked])
    router = IKERouter(model, memory, Notebook(encoder), IKESettings(demonstrations=0, facts=TRAINING.max_iterations))
    in_front = RoutedModel(model, router, name="ike", fingerprint="")
    said = in_front.answer([f"Question: {world.question}\nAnswer:" for world in asked])
    ours, theirs = (
        [world.new[1] in answer.text for world, answer in zip(asked, some, strict=True)] for some in (thought, said)
    )
    run.tables["end to end"] = [
        {"question": w.question, "wanted": w.new[1], "editcot": a.text, "thoughts": a.trace["thoughts"], "ike": b.text}
        for w, a, b in zip(asked, thought, said, strict=True)
    ]
    share, base = wilson(sum(ours), ASKED), sum(theirs) / ASKED
    name = f"share of {ASKED} two-hop questions answered, both facts among {DISTRACTORS} others"
    note = f"verdicts by {TRAINING.detect}; facts in front: the {TRAINING.max_iterations} nearest"
    return Check(name, share.value, "at least 0.20 above facts in front of the question", share.value >= base + 0.20,
                 base, (share.low, share.high), note)  # fmt: skip


CLAIM = Claim(
    card="editcot",
    statement="An editor that rewrites the model's own chain of thought with one fact after another answers questions "
    "of several hops that the same facts in front of the question do not.",
    published="MQuAKE-CF-3k, multi-hop accuracy: Llama-3-8B-Instruct 35.4, Qwen2.5-14B-Instruct 34.2",
    paper="arXiv:2412.17727",
    seeds=(0,),
    minutes=15,
    experiment=experiment,
    files=FILES,
)
