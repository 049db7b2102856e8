"""FaithfulRAG on the published conflicts: SQuAD and MuSiQue with a swapped answer and without, and FaithEval.

An answer is faithful where it is the one that the passage gives: the planted one behind a changed passage, the true
one behind the passage as it was. Plain reading and FaithfulRAG weigh the same candidates by probability; neither prompt
lists them. A question's facts are mined once, since they do not depend on its passage. Passages are whole and of
at most 220 words, each asked once. Mode and length of what is mined are those of the form on the built-in world:
nothing was tuned on these rows.

Context-aware decoding and CK-PLUG at alpha 0 choose between the true and the planted answer of the changed SQuAD
passages, behind the prompts that they were published with. That is another choice behind another prompt; they are to be
read against plain reading of the same kind, so that they stand in a table and in no check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.claims.base import Check, ClaimRun
from keeps.claims.bound_choices import Bound, between_two, chosen
from keeps.claims.conflicting_passages import FAITHEVAL, MUSIQUE, SQUAD, Asked, enough, multiple_choice, twins
from keeps.contracts import Answer, Run
from keeps.decoding.combine import CADCombine, leading
from keeps.ground.alignment import Encoder
from keeps.ground.faithful_rag import FaithfulRAG, FaithfulRAGSettings
from keeps.ground.rag import RAG, RAGSettings
from keeps.models.language_model import LanguageModel
from keeps.numerics.memory_recall import contains
from keeps.numerics.statistics import flips, mcnemar_exact, wilson

FILES = (*SQUAD, *MUSIQUE, FAITHEVAL)
ITEMS = 50  # of each set
WORDS = 220  # of a passage at most
MOST_LOSS = 0.02  # of faithful answers behind true passages
SIGNIFICANT = 0.05
CHANGED, TRUE = "changed", "true"


@dataclass(frozen=True)
class Set:
    """Questions of one file; ``kind`` says whether their passages were changed."""

    name: str
    kind: str
    items: Sequence[Asked]

    @property
    def title(self) -> str:
        """As it stands in checks."""
        return f"{self.name}, {self.kind} passages"


def published_checks(
    model: LanguageModel, chat: Any, encoder: Encoder, mining_tokens: int, data: Path, run: ClaimRun
) -> Iterator[Check]:
    """Faithful answers by set; the changed passages of all sets together.

    Args:
        chat: ``model`` as a chat that is asked each thing once.
        mining_tokens: most of each of the three replies before the passage is seen.
    """
    circumstances = Run(run.workspace or Path())
    plain = RAG(RAGSettings(cite="none", budget=4000))(chat, None, run=circumstances)
    options = FaithfulRAGSettings(mode="wo_cot", cite="none", mining_tokens=mining_tokens, list_choices=False)
    faithful = FaithfulRAG(options, encoder)(chat, None, run=circumstances)
    given = sets(data)
    run.progress.message("combinations in the decoder")
    run.tables["share of planted answers, in the decoder"] = in_the_decoder(model, data)
    found: dict[str, dict[str, list[bool]]] = {}
    for each in given:
        run.progress.message(each.title)
        answers = {"plain": asked(plain, each.items), "faithful": asked(faithful, each.items)}
        found[each.title] = {name: follows(each.items, texts(said)) for name, said in answers.items()}
        run.tables[f"mining and alignment: {each.title}"] = aligned(each.items, answers["faithful"])
    run.tables["share of faithful answers"] = {title: shares(hits) for title, hits in found.items()}
    yield from faithful_checks(given, found)


def sets(data: Path) -> list[Set]:
    """What is asked: SQuAD and MuSiQue both ways, FaithEval, whose passages are all changed.

    Raises:
        InputFileError: a file is not there, is not as published, or has too few questions.
    """
    found = []
    for name, files in (("SQuAD", SQUAD), ("MuSiQue", MUSIQUE)):
        pairs = enough(twins(data, files, words=WORDS), ITEMS, name)
        found += [Set(name, CHANGED, [pair.negative for pair in pairs]), Set(name, TRUE, [p.golden for p in pairs])]
    return [*found, Set("FaithEval", CHANGED, enough(multiple_choice(data, words=WORDS), ITEMS, "FaithEval"))]


def in_the_decoder(model: LanguageModel, data: Path) -> dict[str, float]:
    """Plain reading, CAD and CK-PLUG at alpha 0, each between two answers."""
    pairs = enough(between_two(twins(data, SQUAD, words=WORDS)), ITEMS, "pairs of SQuAD that begin in one manner")
    items = [pair.negative for pair in pairs]
    combines = {"plain reading": leading, "CAD 0.5": CADCombine(), "CK-PLUG, alpha 0": Bound(0.0, "cg")}
    return shares({name: follows(items, said) for name, said in chosen(model, items, combines).items()})


def asked(answerer: Any, items: Sequence[Asked]) -> list[Answer]:
    """The choice of ``answerer`` for every item."""
    questions, contexts = [item.question for item in items], [item.context for item in items]
    return answerer.choose(questions, [item.candidates for item in items], contexts)


def texts(answers: Sequence[Answer]) -> list[str]:
    """What was answered."""
    return [answer.text for answer in answers]


def follows(items: Sequence[Asked], said: Sequence[str]) -> list[bool]:
    """Which answers are the passage's."""
    return [text == item.answer for item, text in zip(items, said, strict=True)]


def shares(hits: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """The share of each."""
    return {name: sum(each) / len(each) for name, each in hits.items()}


def aligned(items: Sequence[Asked], answers: Sequence[Answer]) -> dict[str, float]:
    """Questions with mined facts, and those whose answer stands in one of the chunks before the passage."""
    told = [" ".join(chunk["chunk"] for chunk in answer.trace["aligned"]) for answer in answers]
    return {
        "with mined facts": sum(bool(answer.trace["self_facts"]) for answer in answers) / len(answers),
        "answer in an aligned chunk": sum(contains(text, [item.answer]) for item, text in zip(items, told, strict=True))
        / len(items),
    }


def faithful_checks(given: Sequence[Set], found: Mapping[str, Mapping[str, Sequence[bool]]]) -> Iterator[Check]:
    """Each set by itself, then all changed passages."""
    for each in given:
        loss = 0.0 if each.kind == CHANGED else MOST_LOSS
        threshold = f"at most {100 * loss:.0f} points below the plain prompt" if loss else "not below the plain prompt"
        ours, plain = found[each.title]["faithful"], found[each.title]["plain"]
        holds = sum(ours) / len(ours) >= sum(plain) / len(plain) - loss - 1e-9
        yield _against(f"share of {len(ours)} faithful answers: {each.title}", threshold, holds, ours, plain)
    changed = [found[each.title] for each in given if each.kind == CHANGED]
    ours, plain = ([hit for hits in changed for hit in hits[name]] for name in ("faithful", "plain"))
    gained, lost = flips(ours, plain)
    holds = gained > lost and mcnemar_exact(gained, lost) < SIGNIFICANT
    threshold = f"above the plain prompt, exact McNemar p below {SIGNIFICANT}"
    yield _against(f"share of {len(ours)} faithful answers: all changed passages", threshold, holds, ours, plain)


def _against(name: str, threshold: str, holds: bool, ours: Sequence[bool], plain: Sequence[bool]) -> Check:
    gained, lost = flips(ours, plain)
    share, base = wilson(sum(ours), len(ours)), sum(plain) / len(plain)
    note = f"{gained} gained, {lost} lost, exact McNemar p = {mcnemar_exact(gained, lost):.2g}"
    return Check(name, share.value, threshold, holds, base, (share.low, share.high), note)
