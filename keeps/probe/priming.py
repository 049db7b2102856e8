"""Priming: how far one new text leaks into answers that have nothing to do with it.

    S_mem   = P_after(keyword | context of the text) / P_before(keyword | context)
    S_prime = mean over thematic prefixes of P_after(keyword | prefix) / P_before(keyword | prefix)

A model that learned "in Blandgive, the colour of sleep is vermilion" may begin to call sand vermilion. Thematic
prefixes share the theme with the text and nothing else, and the keyword is wrong after each. Both scores are shown
as log10: 0 is no change, 1 ten times as likely. Ratios have heavy tails, so medians over the texts are shown beside
means; ``priming.mean_log10`` averages logarithms over the prefixes, which no single prefix can decide; and
``priming.control`` is that of the theme's other keywords, which nobody learned.

The probability of the keyword *before* learning forecasts priming: below about 1e-3 it appears, above hardly
(``keyword.below_threshold`` is the share of texts below; ``priming.spearman`` the rank correlation of the scores
with that probability, expected to be negative).

Use when: you want to know before training on new texts which of them will leak into other answers; after training a
model says a new word where it does not belong; you compare remedies against such leaks.

Name the model before learning first, then the one after it. One model alone gives the forecast. ``--in-context``
puts each text into the prompt instead of teaching it; the paper finds that this primes far less.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import Probe, Row, Run
from keeps.data.outlandish import BUILT_IN, OutlandishSample, check_sample, load_samples, samples_fingerprint
from keeps.data.records import RecordSet
from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.probe.base import Findings, ModelRows, ProbingSystem, Selection
from keeps.probe.facts import answer_room
from keeps.probe.matching import matches
from keeps.probe.priming_measures import draw_priming, priming_findings
from keeps.probe.sampling import stratified
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PrimingProbe:
    """The keywords of ``samples`` after their contexts and after thematic prefixes.

    Args:
        in_context: ask everything a second time with the text in front.

    Raises:
        EmptySetError: there is no sample.
        RecordError: two samples have one id, or one cannot be measured.
    """

    def __init__(self, samples: Sequence[OutlandishSample], *, name: str = BUILT_IN, in_context: bool = False) -> None:
        if not samples:
            raise EmptySetError("there is no sample", where=name, mend="give at least one text with a keyword")
        ids = [sample.id for sample in samples]
        for sample in samples:
            if ids.count(sample.id) > 1:
                raise RecordError(f'the id "{sample.id}" stands twice', where=name, mend="give each its own")
            check_sample(sample, f"{name}, {sample.id}")
        self.samples, self.name, self.in_context = list(samples), name, in_context

    @property
    def fingerprint(self) -> str:
        """Hash of the samples and of the way they are asked (16 hexadecimal digits)."""
        content = json.dumps(["priming-1", samples_fingerprint(self.samples), self.in_context])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def ids(self) -> list[str]:
        """The ids of the rows to come, in order."""
        return [sample.id for sample in self.samples]

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """One row a sample, in order.

        Raises:
            SettingsError: the answerer gives no token probabilities.
        """
        if not hasattr(answerer, "token_logprobs"):
            mend = "probe a local model: leaks show in probabilities long before they show in what is said"
            raise SettingsError("this answerer gives no token probabilities", where=self.name, mend=mend)
        asked = [self._pairs(sample) for sample in self.samples]
        flat = [pair for pairs in asked for pair in pairs.values()]
        with run.progress.task(f"probe {self.name}", len(flat) + len(self.samples)) if run else nullcontext() as task:
            advance = {"advance": task.advance} if task else {}
            prompts, keywords = [prompt for prompt, _ in flat], [keyword for _, keyword in flat]
            scores = iter(answerer.token_logprobs(prompts, keywords, **advance))
            contexts, expected = [s.context for s in self.samples], [s.keyword for s in self.samples]
            room = answer_room(answerer, expected)
            said = answerer.ask(contexts, expected, max_new_tokens=room, **advance)
        found = [{key: next(scores) for key in pairs} for pairs in asked]
        return [
            _row(sample, scored, answer.text) for sample, scored, answer in zip(self.samples, found, said, strict=True)
        ]

    def _pairs(self, sample: OutlandishSample) -> dict[tuple[str, ...], tuple[str, str]]:
        """Every prompt and keyword, by what it is: the context, a prefix, a control, and these behind the text."""
        found: dict[tuple[str, ...], tuple[str, str]] = {("context",): (sample.context, sample.keyword)}
        for number, prefix in enumerate(sample.prefixes):
            found["prefixes", str(number)] = (prefix, sample.keyword)
            for control in sample.controls:
                found["controls", control, str(number)] = (prefix, control)
        if self.in_context:
            behind: dict[tuple[str, ...], tuple[str, str]] = {
                ("in_context", *key): (f"{sample.text}\n{prompt}", keyword)
                for key, (prompt, keyword) in found.items()
                if key[0] != "controls"
            }
            found.update(behind)
        return found


@dataclass(frozen=True, kw_only=True)
class PrimingSettings(Settings):
    """Settings of the priming probe."""

    keyword: str = setting(
        "word",
        "Which probability counts: of the whole keyword, or of its first token, which other words may share",
        choices=("word", "first_token"),
    )
    reduce: str = setting(
        "mean_ratio",
        "How prefixes are pooled in the scores: the mean of ratios, or of their logarithms",
        choices=("mean_ratio", "mean_log10"),
    )
    in_context: bool = setting(False, "Ask with the text in the prompt too, without learning it")


@method(
    "priming",
    verb="probe",
    card="outlandish",
    paper="arXiv:2504.09522",
    summary="How far a newly learned text leaks into other answers: memorisation, priming and its forecast.",
    needs=("texts with a keyword",),
)
class Priming(ProbingSystem):
    """Texts with a keyword; ``limit`` is shared out over the themes."""

    Settings = PrimingSettings
    default_data = BUILT_IN

    def probe(self, selection: Selection) -> Probe:
        """See :meth:`keeps.probe.base.ProbingSystem.probe`.

        Raises:
            SettingsError: the data are a set of records, which have no keywords.
        """
        data = self.default_data if selection.data is None else selection.data
        if isinstance(data, RecordSet):
            mend = f'name a file of texts with keywords, or "{BUILT_IN}"'
            raise SettingsError("these records have no keywords", where=data.source, mend=mend)
        samples = stratified(
            load_samples(data),
            selection.limit,
            selection.seed,
            group=lambda sample: sample.theme,
            identity=lambda sample: sample.id,
        )
        return PrimingProbe(samples, name=str(data), in_context=self.settings.in_context)

    def measure(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
        """The forecast of the first model, and the scores of every later one against it."""
        return priming_findings(asked, whole=self.settings.keyword == "word", reduce=self.settings.reduce, seed=seed)

    def draw(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Figure | None:
        """Priming against the keyword's probability before learning, a point a text."""
        return draw_priming(asked, whole=self.settings.keyword == "word", reduce=self.settings.reduce)


def _row(sample: OutlandishSample, scored: dict[tuple[str, ...], Any], text: str) -> Row:
    def value(*key: str) -> list[float]:
        """Log-probability of the whole keyword and of its first token."""
        score = scored[key]
        return [score.logprob, score.logprobs[0]]

    numbers = [str(number) for number in range(len(sample.prefixes))]
    details: dict[str, Any] = {
        "theme": sample.theme,
        "category": sample.category,
        "keyword": sample.keyword,
        "context": value("context"),
        "prefixes": [value("prefixes", number) for number in numbers],
        "controls": {word: [value("controls", word, number) for number in numbers] for word in sample.controls},
    }
    if ("in_context", "context") in scored:
        details["in_context"] = {
            "context": value("in_context", "context"),
            "prefixes": [value("in_context", "prefixes", number) for number in numbers],
        }
    right = matches(text, [sample.keyword])
    logprob = details["context"][0]
    return Row(
        sample.id, sample.theme, sample.context, sample.keyword, text, right, float(right), logprob, "fact", details
    )
