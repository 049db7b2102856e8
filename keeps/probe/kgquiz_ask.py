"""Ask the items of KGQuiz and make a row of each: by log-probability where a model gives it, else by text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from keeps.contracts import Row
from keeps.errors import SettingsError
from keeps.probe.kgquiz_extract import extract, write
from keeps.probe.kgquiz_items import BLANK, CHOICE, EDITING, OPEN, TRUE_FALSE, Item
from keeps.probe.kgquiz_parse import told_blank, told_choice, told_entity, told_truth
from keeps.probe.kgquiz_scores import BlankScores, best_scores, score_blanks, score_triples
from keeps.probe.similarity import TextSimilarity

if TYPE_CHECKING:
    from keeps.probe.kgquiz import KGQuizSettings

WORDS = ("True", "False")
RIGHT_FROM = 0.5  # F1 of task 5 from which a question counts as right in counts of questions
Advance = Callable[[float], object] | None


class Asker:
    """Asks one answerer; what it can do decides how.

    Raises:
        SettingsError: log-probabilities are wanted of an answerer that has none.
    """

    def __init__(
        self,
        answerer: Any,
        settings: KGQuizSettings,
        *,
        similarity: TextSimilarity,
        tau: float,
        extractor: Any = None,
    ) -> None:
        self.answerer, self.settings, self.tau = answerer, settings, tau
        self.similarity, self.extractor = similarity, extractor or answerer
        self.likelihood = hasattr(answerer, "rank") and settings.scoring != "text"
        if settings.scoring == "likelihood" and not hasattr(answerer, "rank"):
            mend = "choose --scoring text, or a local model"
            raise SettingsError("this answerer gives no log-probabilities", where="scoring", mend=mend)

    def rows(self, items: Sequence[Item], advance: Advance = None) -> list[Row]:
        """One row an item of one task, in order; ``advance`` is told of items done."""
        ask = {
            TRUE_FALSE: self._true_false,
            CHOICE: self._choice,
            BLANK: self._blank,
            EDITING: self._editing,
            OPEN: self._open,
        }[items[0].task]
        return ask(items, advance)

    def _true_false(self, items: Sequence[Item], advance: Advance) -> list[Row]:
        prompts = [item.prompt for item in items]
        rows = []
        if self.likelihood:
            ranked = self.answerer.rank(prompts, [WORDS] * len(items), **_advancing(advance, [2] * len(items)))
            for item, score in zip(items, ranked, strict=True):
                odds = score.logprobs[0] - score.logprobs[1]
                expected = score.logprobs[WORDS.index(item.answer)]
                rows.append(self._truth_row(item, str(odds > 0), odds > 0, odds, expected))
            return rows
        texts = write(self.answerer, prompts, room=self.settings.room, advance=advance)
        return [
            self._truth_row(item, text.strip(), told_truth(text), None, None)
            for item, text in zip(items, texts, strict=True)
        ]

    def _truth_row(self, item: Item, answer: str, told: bool | None, odds: float | None, logprob: float | None) -> Row:
        label = item.answer == "True"
        details = {"label": label, "told": told, "log_odds": odds}
        return self._row(item, answer, told is label, float(told is label), details, logprob)

    def _choice(self, items: Sequence[Item], advance: Advance) -> list[Row]:
        if not self.likelihood:
            texts = write(self.answerer, [item.prompt for item in items], room=self.settings.room, advance=advance)
            found = [(told_choice(text, item.choices), text, None) for item, text in zip(items, texts, strict=True)]
            return [self._choice_row(item, *told) for item, told in zip(items, found, strict=True)]
        letters = self.settings.choice_scoring == "letter"
        prompts = [item.prompt if letters else item.lead or item.prompt for item in items]
        options = ["ABCDEFGHIJ"[: len(item.choices)] if letters else item.choices for item in items]
        ranked = self.answerer.rank(
            prompts, [list(words) for words in options], **_advancing(advance, map(len, options))
        )
        rows = []
        for item, score in zip(items, ranked, strict=True):
            expected = score.logprobs[item.choices.index(item.answer)]
            rows.append(self._choice_row(item, score.best, item.choices[score.best], expected))
        return rows

    def _choice_row(self, item: Item, told: int | None, answer: str, logprob: float | None) -> Row:
        right = told is not None and item.choices[told] == item.answer
        details = {"choices": list(item.choices), "told": told}
        return self._row(item, answer.strip(), right, float(right), details, logprob)

    def _blank(self, items: Sequence[Item], advance: Advance) -> list[Row]:
        logprobs: Sequence[float | None] = [None] * len(items)
        completed = self.settings.blank_form == "completion"
        prompts = [item.lead if completed and item.lead else item.prompt for item in items]
        if hasattr(self.answerer, "ask"):
            golds = [item.answer for item in items]
            room: dict[str, Any] = {"max_new_tokens": self.settings.room, **_advancing(advance, [1] * len(items))}
            asked = self.answerer.ask(prompts, golds, **room)
            texts, logprobs = [said.text for said in asked], [said.logprob for said in asked]
        else:
            texts = write(self.answerer, prompts, room=self.settings.room, stop=("\n",), advance=advance)
        told = [told_blank(text, item.lead) for item, text in zip(items, texts, strict=True)]
        return self._filled(items, told, [{} for _ in items], logprobs)

    def _editing(self, items: Sequence[Item], advance: Advance) -> list[Row]:
        texts = write(
            self.answerer,
            [item.prompt for item in items],
            room=self.settings.edit_room,
            stop=("\n\n",),
            advance=advance,
        )
        told = [told_entity(text, item.parts, item.slot) for item, text in zip(items, texts, strict=True)]
        more = [
            {"text": text, "unchanged": name.casefold() == item.parts[item.slot].casefold()}
            for item, text, name in zip(items, texts, told, strict=True)
        ]
        return self._filled(items, told, more, [None] * len(items))

    def _filled(
        self,
        items: Sequence[Item],
        told: Sequence[str],
        more: Sequence[dict[str, Any]],
        logprobs: Sequence[float | None],
    ) -> list[Row]:
        """Rows of answers that are compared with one gold text, or with all that are accepted."""
        pairs = [(name, gold) for item, name in zip(items, told, strict=True) for gold in item.accepted]
        predictions, golds = [name for name, _ in pairs], [gold for _, gold in pairs]
        options: dict[str, Any] = {"tau": self.tau, "unit": self.settings.lcs_unit}
        scores = iter(score_blanks(predictions, golds, similarity=self.similarity, **options))
        rows = []
        for item, name, extra, logprob in zip(items, told, more, logprobs, strict=True):
            every: list[BlankScores] = [next(scores) for _ in item.accepted]
            best = best_scores(every)
            right = best if self.settings.multi_gold else every[0]
            details = {"gold": vars(every[0]), "any": vars(best), "accepted": len(every), **self._published, **extra}
            rows.append(self._row(item, name, bool(right.semantic_match), right.semantic_match, details, logprob))
        return rows

    def _open(self, items: Sequence[Item], advance: Advance) -> list[Row]:
        half = None if advance is None else lambda done: advance(done / 2)
        room, own = self.settings.open_room, self.settings.extractor
        texts = write(self.answerer, [item.prompt for item in items], room=room, advance=half)
        told = extract(texts, own, self.extractor, room=room, advance=half)
        rows = []
        for item, text, facts in zip(items, texts, told, strict=True):
            options: dict[str, Any] = {"tau": self.tau, "one_to_one": self.settings.one_to_one}
            scores = score_triples(facts, item.facts, similarity=self.similarity, **options)
            listed = [list(fact) if not isinstance(fact, str) else fact for fact in facts]
            details = {**vars(scores), "told": listed, "gold_facts": len(item.facts), **self._published}
            rows.append(self._row(item, text, scores.f1 >= RIGHT_FROM, scores.f1, details, None))
        return rows

    @property
    def _published(self) -> dict[str, Any]:
        """What must stand beside every score that rests on likeness."""
        return {"tau": self.tau, "encoder": self.similarity.name or "all-MiniLM-L6-v2"}

    def _row(
        self, item: Item, answer: str, correct: bool, score: float, details: dict[str, Any], logprob: float | None
    ) -> Row:
        own = {"task": item.task, "domain": item.domain, "strategy": item.strategy}
        own |= {"relation": item.relation, "fact": item.fact}
        by_lead = item.task == CHOICE and self.likelihood and self.settings.choice_scoring == "text"
        by_lead |= item.task == BLANK and self.settings.blank_form == "completion"
        return Row(
            id=item.id,
            group=group_of(item),
            prompt=item.lead if by_lead and item.lead else item.prompt,
            expected=item.answer,
            answer=answer,
            correct=correct,
            score=score,
            logprob=logprob,
            kind="choice" if item.task == CHOICE else "fact",
            details={**own, **details},
        )


def group_of(item: Item) -> str:
    """The line of a comparison that an item counts in.

    >>> group_of(Item("", 2, "world", "", "ss", "", "", ""))
    'world: task 2, ss'
    """
    return f"{item.domain}: task {item.task}" + (f", {item.strategy}" if item.strategy else "")


def _advancing(advance: Advance, sizes: Any) -> dict[str, Any]:
    """Items done from texts scored: a question with four options is four of them."""
    if advance is None:
        return {}
    counts = list(sizes)
    share = len(counts) / max(sum(counts), 1)
    return {"advance": lambda done: advance(done * share)}
