"""What answers with outside knowledge are measured by: right, supported by what they cite, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keeps.contracts import Answer
from keeps.ledger.tables import Table
from keeps.numerics.statistics import Proportion, mcnemar_exact, shown, shown_interval, wilson
from keeps.numerics.text_scores import normalise_answer, token_f1


@dataclass(frozen=True)
class Graded:
    """One answered question.

    Attributes:
        right: an accepted answer stands in what was said, word for word.
        supported: an accepted answer stands in a passage that is cited.
    """

    id: str
    question: str
    expected: tuple[str, ...]
    answer: Answer
    right: bool
    supported: bool
    f1: float


@dataclass(frozen=True)
class MethodLine:
    """One method on one set of questions; means are over questions, None where the method does not count.

    Attributes:
        p: exact McNemar test of right answers against the first method's; None for the first one.
        stops: how often the method stopped for which reason.
    """

    label: str
    graded: tuple[Graded, ...]
    accuracy: Proportion
    support: Proportion
    f1: float
    calls: float | None
    tokens: float | None
    seconds: float | None
    stops: Mapping[str, int]
    p: float | None = None


def stands_in(answer: str, text: str) -> bool:
    """Whether ``answer`` stands in ``text``, both without case, punctuation and articles, at the ends of words.

    >>> stands_in("the Oslo", "It is Oslo."), stands_in("Oslo", "Osloer Platz"), stands_in("", "x")
    (True, False, False)
    """
    wanted = normalise_answer(answer)
    return bool(wanted) and f" {wanted} " in f" {normalise_answer(text)} "


def graded(
    ids: Sequence[str],
    questions: Sequence[str],
    expected: Sequence[tuple[str, ...]],
    answers: Sequence[Answer],
    texts: Mapping[str, str],
) -> list[Graded]:
    """Each answer against what is accepted; ``texts`` holds the passages by id."""
    found = []
    for identity, question, accepted, answer in zip(ids, questions, expected, answers, strict=True):
        right = any(stands_in(one, answer.text) for one in accepted)
        cited = [texts.get(passage, "") for passage in answer.citations]
        supported = any(stands_in(one, text) for one in accepted for text in cited)
        f1 = max((token_f1(answer.text, one) for one in accepted), default=0.0)
        found.append(Graded(identity, question, accepted, answer, right, supported, f1))
    return found


def method_line(label: str, items: Sequence[Graded], first: Sequence[Graded] | None = None) -> MethodLine:
    """The measures of one method; against ``first``, the same questions answered by another one."""
    count = len(items)
    p = None
    if first is not None:
        learned = sum(a.right and not b.right for a, b in zip(items, first, strict=True))
        lost = sum(b.right and not a.right for a, b in zip(items, first, strict=True))
        p = mcnemar_exact(learned, lost)
    return MethodLine(
        label=label,
        graded=tuple(items),
        accuracy=wilson(sum(item.right for item in items), count),
        support=wilson(sum(item.supported for item in items), count),
        f1=sum(item.f1 for item in items) / count,
        calls=_mean(items, "calls"),
        tokens=_mean(items, "prompt_tokens", "completion_tokens"),
        seconds=_mean(items, "seconds"),
        stops=dict(Counter(str(item.answer.trace.get("stop", "answered")) for item in items)),
        p=p,
    )


def measures_table(lines: Sequence[MethodLine]) -> Table:
    """One row a method."""
    several = len(lines) > 1
    columns = ("method", "n", "right (%)", "support (%)", "F1", "calls", "tokens", "seconds", "stops")
    rows = []
    for line in lines:
        stops = ", ".join(f"{name} {count}" for name, count in sorted(line.stops.items()))
        cells = [line.label, str(len(line.graded)), _share(line.accuracy), _share(line.support), f"{line.f1:.2f}"]
        cells += [_number(line.calls, ".1f"), _number(line.tokens, ".0f"), _number(line.seconds, ".2g"), stops]
        rows.append((*cells, "" if line.p is None else f"{line.p:.2g}") if several else tuple(cells))
    note = (
        "right: an accepted answer stands in what was said; support: it stands in a passage that is cited. Calls, "
        "tokens and seconds are means a question. Intervals: 95 %, Wilson."
    )
    if several:
        note += " p: exact McNemar test against the first method."
    return Table("Answers", (*columns, "p") if several else columns, tuple(rows), note=note)


def _share(share: Proportion) -> str:
    return f"{shown(share, scale=100)}\n{shown_interval(share, scale=100)}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _mean(items: Sequence[Graded], *names: str) -> float | None:
    """Mean over the answers of the sum of what ``names`` count in their traces."""
    if not all(name in item.answer.trace for item in items for name in names):
        return None
    return sum(float(item.answer.trace[name]) for item in items for name in names) / len(items)
