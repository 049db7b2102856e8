"""From the sentences of an answer to the characters they rest on, and whether these still are what was cited."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from keeps.retrieval.assembly import Assembled
from keeps.retrieval.chunks import Span, sentence_spans
from keeps.retrieval.corpus import Corpus
from keeps.sources import Hit

LEAST_SUPPORT = 0.5
UNKNOWN_MARKER = "no passage has this number"
WEAK = "the passage does not support the sentence"
_MARKER = re.compile(r"\[(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\]")


@dataclass(frozen=True)
class Citation:
    """One marker of one sentence.

    Attributes:
        number: in the marker.
        sentence: where it stands in the answer.
        chunk: id of what is cited; empty if no passage has this number.
        problem: what is wrong; empty if nothing is.
        support: score of the passage for the sentence, where one was asked for.
    """

    number: int
    sentence: Span
    chunk: str = ""
    document: str = ""
    span: Span = (0, 0)
    problem: str = ""
    support: float | None = None


@dataclass(frozen=True)
class CitationCheck:
    """The citations of an answer.

    Attributes:
        unsupported: sentences without a citation that holds.
    """

    citations: tuple[Citation, ...]
    unsupported: tuple[Span, ...]

    @property
    def holds(self) -> bool:
        """Every sentence has a citation that holds, and no citation is wrong."""
        return not self.unsupported and not any(citation.problem for citation in self.citations)


def verify_citations(
    answer: str,
    passages: Assembled | Mapping[int, Hit],
    corpus: Corpus | None = None,
    *,
    support: Callable[[str, str], float] | None = None,
    least: float = LEAST_SUPPORT,
) -> CitationCheck:
    """Check every marker ``[n]`` of ``answer``.

    A citation holds if a passage has its number; if its document in ``corpus`` still has the cited text at the cited
    place, and this is the text that was indexed; and if ``support(passage, sentence)`` is at least ``least``.

    >>> hit = Hit("a#0-5", "Oslo.", 1.0, "a", (0, 5))
    >>> verify_citations("It is Oslo [1]. Or Rome [2].", {1: hit}).unsupported
    ((16, 28),)
    """
    shown = passages.passages if isinstance(passages, Assembled) else passages
    citations: list[Citation] = []
    unsupported = []
    for span in answer_sentences(answer):
        sentence = answer[slice(*span)]
        said = re.sub(r"\s+", " ", _MARKER.sub("", sentence)).strip()
        found = [_checked(number, span, said, shown, corpus, support, least) for number in markers(sentence)]
        citations += found
        if not any(not citation.problem for citation in found):
            unsupported.append(span)
    return CitationCheck(tuple(citations), tuple(unsupported))


def markers(text: str) -> list[int]:
    """The numbers that ``text`` cites, each once.

    >>> markers("So [2, 3] and [1][2].")
    [2, 3, 1]
    """
    return list(dict.fromkeys(int(n) for found in _MARKER.findall(text) for n in re.findall(r"\d+", found)))


def answer_sentences(answer: str) -> list[Span]:
    """The sentences of an answer; markers behind a full stop belong to the sentence before.

    >>> answer_sentences("One. [1] Two [2].")
    [(0, 8), (9, 17)]
    """
    spans: list[Span] = []
    for start, end in sentence_spans(answer):
        leading = re.match(rf"(?:{_MARKER.pattern}\s*)+\.?", answer[start:end])
        if leading and spans:
            cut = start + len(leading.group().rstrip())
            spans[-1] = (spans[-1][0], cut)
            start = cut + len(answer[cut:end]) - len(answer[cut:end].lstrip())
        if start < end:
            spans.append((start, end))
    return spans


def _checked(
    number: int,
    sentence: Span,
    said: str,
    shown: Mapping[int, Hit],
    corpus: Corpus | None,
    support: Callable[[str, str], float] | None,
    least: float,
) -> Citation:
    hit = shown.get(number)
    if hit is None:
        return Citation(number, sentence, problem=UNKNOWN_MARKER)
    problem = corpus.table().problem_of(hit) if corpus is not None else ""
    score = None
    if not problem and support is not None:
        score = float(support(hit.text, said))
        problem = "" if score >= least else WEAK
    return Citation(number, sentence, hit.id, hit.document, hit.span, problem, score)
