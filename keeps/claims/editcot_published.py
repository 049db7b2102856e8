"""EditCoT on published data: chains of thought on HotpotQA questions in which one fact was changed.

The editor is trained on records as they were published, both ways, with the settings of the form on invented worlds,
and corrects the chains of other questions; the untrained model with an example is the baseline. What has to be in the
corrected line are the names and numbers of the changed fact that stood nowhere before. End to end, the embedded model
answers questions whose changed fact lies among facts of MQuAKE; the same facts in front of the question (as IKE does)
are the baseline. Many of these questions ask for what this model cannot know; those are taken whose new answer stands
in the changed fact.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from keeps.claims.base import Check, ClaimRun
from keeps.claims.published import published_rows
from keeps.edit.editcot import EditCoTSettings, EditedThinker, _Editor
from keeps.edit.ike import IKERouter, IKESettings
from keeps.errors import InputFileError, RecordError
from keeps.models.adapters import Factors
from keeps.models.encoder import SentenceEncoder
from keeps.models.language_model import LanguageModel
from keeps.models.notebook import Note, Notebook
from keeps.models.routed import RoutedModel
from keeps.models.thoughts import editor_prompt, split_lines
from keeps.numerics.statistics import flips, mcnemar_exact, wilson
from keeps.training.cot_editor import EditorRecord, pairs_of, train_editor

CHAINS, HOPS = "editcot/hotpot_chain_edits.jsonl", "mquake_hops/single_hop_edits.jsonl"
FILES = (CHAINS, HOPS)
FIELDS = tuple(field.name for field in fields(EditorRecord))
TRAINED = 80  # records at most, two pairs each
HELD_OUT = 30  # corrections that the editor is measured on
ASKED = 30  # questions end to end
DISTRACTORS = 50
MOST_WORDS = 50  # of a chain, before and after: long ones cost time
MOST_ANSWER_WORDS = 4
MOST_TOKENS = 112  # of a corrected chain
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Parts:
    """Records by what they are for; no record is trained on and asked."""

    trained: Sequence[EditorRecord]
    corrected: Sequence[EditorRecord]
    asked: Sequence[EditorRecord]
    distractors: Sequence[Note]


def bare(text: str) -> str:
    """The words of ``text`` in lower case, a space around each: what is in what can be asked.

    >>> bare("Jerry Lewis.")
    ' jerry lewis '
    """
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def new_words(record: EditorRecord) -> tuple[str, ...]:
    """Names and numbers of the changed fact that are neither in the question nor in the old chain or fact.

    >>> new_words(EditorRecord("Who led it?", ("Ann led it.",), ("Bo Li led it.",), "Ann", "Bo Li", 0, "Ann led it.",
    ...                        "Bo Li led it."))
    ('Bo', 'Li')
    """
    before = bare(" ".join((record.question, record.right_fact, *record.right_steps)))
    found = [word for word in _WORD.findall(record.changed_fact) if word[0].isupper() or word[0].isdigit()]
    return tuple(dict.fromkeys(word for word in found if bare(word) not in before))


def holds(line: str, words: Sequence[str]) -> bool:
    """Whether all of ``words`` stand in ``line``, whatever their case."""
    return all(bare(word) in bare(line) for word in words)


def published_parts(folder: Path) -> Parts:
    """The records of the file, dealt out: the first ones that can be measured are, others train the editor.

    Raises:
        InputFileError: a file is not there or not as published, or holds too little.
    """
    whole = list(_records(published_rows(folder, CHAINS, *FIELDS)))
    records = [record for record in whole if _short(record)]
    corrected = [r for r in records if new_words(r) and holds(r.changed_steps[r.diff_idx], new_words(r))][:HELD_OUT]
    first: dict[str, EditorRecord] = {}  # of each question
    for record in filter(_answer_in_fact, whole):
        first.setdefault(record.question, record)
    asked = list(first.values())[:ASKED]
    reserved = {record.question for record in (*corrected, *asked)}
    trained = [record for record in records if record.question not in reserved][:TRAINED]
    hops = published_rows(folder, HOPS, "edited_fact", "answer_after_edit")
    facts = {str(row["edited_fact"]): str(row["answer_after_edit"]) for row in hops}
    distractors = [Note(f"mquake-{n}", fact, target=answer) for n, (fact, answer) in enumerate(facts.items())]
    if not trained or not corrected or not asked or len(distractors) < DISTRACTORS:
        what = f"{len(trained)} records train, {len(corrected)} are corrected, {len(asked)} asked; {len(facts)} facts"
        raise InputFileError(f"there is too little: {what}", where=str(folder), mend="give the files as published")
    return Parts(trained, corrected, asked, distractors[:DISTRACTORS])


def hotpot(model: LanguageModel, encoder: SentenceEncoder, settings: EditCoTSettings, run: ClaimRun) -> Iterator[Check]:
    """The editor on chains that it has not seen, then the whole."""
    assert run.data is not None
    parts = published_parts(run.data)
    run.progress.message(f"training the editor on {2 * len(parts.trained)} pairs")
    with tempfile.TemporaryDirectory() as folder:
        training = run.inside(Path(folder))
        pairs = pairs_of(parts.trained)
        factors = train_editor(model, pairs, settings, training, targets=settings.targets, rank=settings.rank)
    run.progress.message(f"{len(parts.corrected)} corrections")
    yield from corrections(model, factors, parts.corrected, run)
    run.progress.message(f"{len(parts.asked)} questions end to end")
    yield end_to_end(model, encoder, factors, settings, parts, run)


def corrections(
    model: LanguageModel, factors: Factors, records: Sequence[EditorRecord], run: ClaimRun
) -> Iterator[Check]:
    """Chains corrected with one fact each, by the trained editor and by the untrained model with an example."""
    written = {}
    for name, editor, shots in (("trained", _Editor(model, factors), False), ("untrained", model, True)):
        prompts = [editor_prompt(r.question, r.right_steps, r.changed_fact, shots=shots) for r in records]
        texts = editor.generate(prompts, max_new_tokens=MOST_TOKENS, stop=("\n\n", "\nQuestion"))
        written[name] = [split_lines(text) for text in texts]
    run.tables["corrections"] = [
        {"question": r.question, "old": list(r.right_steps), "fact": r.changed_fact, "line": r.diff_idx,
         **{name: list(lines[number]) for name, lines in written.items()}}
        for number, r in enumerate(records)
    ]  # fmt: skip
    yield from correction_checks(records, written)


def correction_checks(
    records: Sequence[EditorRecord], written: Mapping[str, Sequence[Sequence[str]]]
) -> Iterator[Check]:
    """New words in the line that was to change, and the lines before it; ``written`` is by editor and record."""
    edited = {
        name: [len(lines) > r.diff_idx and holds(lines[r.diff_idx], new_words(r))
               for r, lines in zip(records, some, strict=True)]
        for name, some in written.items()
    }  # fmt: skip
    yield _above(f"share of {len(records)} corrections of HotpotQA chains whose line holds the new object",
                 edited["trained"], edited["untrained"], "the untrained model")  # fmt: skip
    later = [number for number, r in enumerate(records) if r.diff_idx]
    kept = sum(
        tuple(written["trained"][n][: records[n].diff_idx]) == records[n].right_steps[: records[n].diff_idx]
        for n in later
    )
    share = wilson(kept, len(later))
    yield Check(f"share of {len(later)} such chains whose earlier lines are kept word for word", share.value,
                "most: the interval above 0.5", share.low > 0.5, interval=(share.low, share.high))  # fmt: skip


def end_to_end(
    model: LanguageModel,
    encoder: SentenceEncoder,
    factors: Factors,
    settings: EditCoTSettings,
    parts: Parts,
    run: ClaimRun,
) -> Check:
    """Questions on edited facts, answered by corrected thoughts and with facts in front."""
    memory = Notebook(encoder)
    memory.add([Note(f"hotpot-{n}", r.changed_fact, target=r.changed_answer) for n, r in enumerate(parts.asked)])
    memory.add(parts.distractors)
    questions = [record.question.strip() for record in parts.asked]
    thought = EditedThinker(model, memory, settings, factors).answer(questions)
    router = IKERouter(model, memory, Notebook(encoder), IKESettings(demonstrations=0, facts=settings.max_iterations))
    said = RoutedModel(model, router, name="ike", fingerprint="").answer(
        [f"Question: {question}\nAnswer:" for question in questions]
    )
    run.tables["end to end"] = [
        {"question": r.question, "wanted": r.changed_answer, "fact": r.changed_fact, "editcot": a.text,
         "thoughts": a.trace["thoughts"], "ike": b.text}
        for r, a, b in zip(parts.asked, thought, said, strict=True)
    ]  # fmt: skip
    ours, theirs = (answered(parts.asked, [answer.text for answer in some]) for some in (thought, said))
    name = f"share of {len(questions)} HotpotQA questions answered with the changed fact, {DISTRACTORS} others beside"
    return _above(name, ours, theirs, "the same facts in front of the question")


def answered(records: Sequence[EditorRecord], texts: Sequence[str]) -> list[bool]:
    """Which texts hold the changed answer."""
    return [bare(r.changed_answer) in bare(text) for r, text in zip(records, texts, strict=True)]


def _above(name: str, ours: Sequence[bool], theirs: Sequence[bool], other: str) -> Check:
    gained, lost = flips(ours, theirs)
    p, share = mcnemar_exact(gained, lost), wilson(sum(ours), len(ours))
    return Check(name, share.value, f"above {other}, exact McNemar p below 0.05", gained > lost and p < 0.05,
                 sum(theirs) / len(theirs), (share.low, share.high), f"p = {p:.2g}")  # fmt: skip


def _records(rows: Sequence[Mapping[str, Any]]) -> Iterator[EditorRecord]:
    """The rows that are records; in the published file some have the same answer or the same fact twice."""
    for row in rows:
        values: dict[str, Any] = {name: tuple(row[name]) if name.endswith("_steps") else row[name] for name in FIELDS}
        with suppress(RecordError):
            yield EditorRecord(**values)


def _short(record: EditorRecord) -> bool:
    """Chains that cost little time, and whose steps are single lines to the loop too."""
    chains = record.right_steps, record.changed_steps
    return all(len(" ".join(c).split()) <= MOST_WORDS and split_lines("\n".join(c)) == c for c in chains)


def _answer_in_fact(record: EditorRecord) -> bool:
    """The changed answer is short, stands in the changed fact, and is no part of the question or the old answer."""
    new, old = bare(record.changed_answer), bare(record.right_answer)
    short = len(new.split()) <= MOST_ANSWER_WORDS
    return short and new in bare(record.changed_fact) and new not in bare(record.question) and new not in old
