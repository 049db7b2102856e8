"""How well a model still predicts running text: one row per passage, perplexity per group."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from keeps.contracts import Row, Run
from keeps.data.records import Passage
from keeps.errors import EmptySetError, SettingsError

SHOWN = 80  # characters of a passage shown in tables
CHUNK = 64  # passages between two steps of the progress bar


class TextProbe:
    """Passages whose tokens are predicted from what stands before them; needs token probabilities.

    Raises:
        EmptySetError: there is no passage.
    """

    def __init__(self, passages: Sequence[Passage], *, group: str = "text: held-out", name: str = "text") -> None:
        if not passages:
            raise EmptySetError("there is no passage to read", where=name, mend='give a file with a "text" column')
        self.passages = list(passages)
        self.group = group
        self.name = name

    @property
    def fingerprint(self) -> str:
        """Hash of the passages and of the rule by which they are scored (16 hexadecimal digits)."""
        passages = [[passage.id, passage.text] for passage in self.passages]
        content = json.dumps(["text-1", self.group, passages], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def ids(self) -> list[str]:
        """The ids of the rows to come, in order."""
        return [passage.id for passage in self.passages]

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """One row per passage, in order.

        Raises:
            SettingsError: the answerer gives no token probabilities.
        """
        if not hasattr(answerer, "text_logprob"):
            mend = "probe running text with a local model, or leave it out"
            raise SettingsError("this answerer gives no token probabilities", where=self.name, mend=mend)
        rows: list[Row] = []
        with run.progress.task(f"read {self.name}", len(self.passages)) if run else nullcontext() as task:
            for start in range(0, len(self.passages), CHUNK):
                part = self.passages[start : start + CHUNK]
                scores = answerer.text_logprob([passage.text for passage in part])
                rows += [self._row(passage, score) for passage, score in zip(part, scores, strict=True)]
                if task:
                    task.advance(len(part))
        return rows

    def _row(self, passage: Passage, score: Any) -> Row:
        return Row(
            id=passage.id,
            group=self.group,
            prompt=passage.text[:SHOWN],
            expected="",
            answer="",
            correct=False,
            score=score.logprob / max(score.tokens, 1),
            logprob=score.logprob,
            kind="text",
            details={"tokens": score.tokens},
        )
