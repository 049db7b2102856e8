"""Where a generated answer ends."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A sentence ends at . ! ? after three letters ("Paris.", but not "St." or "D.C."), or after a digit or
# a closing mark when white space or nothing follows ("12. ", but not "3.14").
_LETTER = r"[^\W\d_]"
_AFTER_WORD = rf"(?:(?<={_LETTER}{_LETTER}{_LETTER})|(?<=['’]s))[.!?]"
_AFTER_NUMBER = r"(?<=[\d)\]\"'%])[.!?]"
_OPEN = re.compile(rf"{_AFTER_WORD}|{_AFTER_NUMBER}(?=\s)")
_FINAL = re.compile(rf"{_AFTER_WORD}|{_AFTER_NUMBER}(?=\s|$)")


@dataclass(frozen=True)
class StopRule:
    """A text ends before the first of ``strings``, and with ``sentence`` before the end of its first sentence.

    >>> rule = StopRule(("\\n",), sentence=True)
    >>> rule.cut(" St. John's, 3.5 km away. It is"), rule.cut(" 12."), rule.cut(" Paris\\nand")
    ("St. John's, 3.5 km away", '12', 'Paris')
    """

    strings: tuple[str, ...] = ("\n",)
    sentence: bool = False

    def reached(self, text: str) -> bool:
        """Whether the end lies within ``text``, so that nothing that may follow changes the cut."""
        return self._end(text, _OPEN) is not None

    def cut(self, text: str) -> str:
        """``text``, which is complete, up to its end, without surrounding white space."""
        return text[: self._end(text, _FINAL)].strip()

    def _end(self, text: str, pattern: re.Pattern[str]) -> int | None:
        places = [place for place in (text.find(string) for string in self.strings) if place >= 0]
        match = pattern.search(text) if self.sentence else None
        if match:
            places.append(match.start())
        return min(places, default=None)
