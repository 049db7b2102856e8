"""Running text longer than the context, cut into overlapping windows."""

from __future__ import annotations

from collections.abc import Sequence


def text_windows(tokens: Sequence[int], leading: int, context: int) -> list[tuple[list[int], list[int]]]:
    """``(context tokens, scored tokens)`` of each window; every token is scored once.

    Windows start half a context apart, so a token of a long text is conditioned on at least half a
    context (the sliding window of Press, Smith and Lewis 2021, arXiv:2012.15832, section 2). The
    first ``leading`` tokens are special: they stand in front of each window and are not scored.
    Without them nothing comes before the first token of the text, which then goes unscored.

    >>> text_windows([1, 2, 3, 4, 5, 6], 0, 4)
    [([1], [2, 3, 4]), ([3, 4], [5, 6])]
    """
    special, text = list(tokens[:leading]), tokens[leading:]
    width = context - leading  # text tokens in a window
    stride = max(width // 2, 1)
    windows: list[tuple[list[int], list[int]]] = []
    scored, begin = (0 if leading else 1), 0
    while scored < len(text):
        end = min(begin + width, len(text))
        windows.append(([*special, *text[begin:scored]], list(text[scored:end])))
        scored, begin = end, begin + stride
    return windows
