"""From texts to token ids: special tokens, the space before an answer, the chat template.

This is the one place that knows these conventions; training and scoring both encode here, so that a
model is asked exactly what it was taught.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from keeps.errors import RecordError, SettingsError, nearest

CHAT_MODES = ("never", "always", "auto")
_JOINS_WITHOUT_SPACE = "+(\"'$#/-["  # "dial +" and "244" are one word


class TextEncoder:
    """Encodes prompts and answers for one tokenizer.

    ``chat`` says whether a prompt goes into the tokenizer's chat template as the user's turn:
    ``"never"``, ``"always"``, or ``"auto"`` (where the tokenizer has a template).
    """

    def __init__(self, tokenizer: Any, chat: str = "never") -> None:
        if chat not in CHAT_MODES:
            raise SettingsError(f'chat is "{chat}"', mend=nearest(chat, CHAT_MODES))
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if chat == "always" and not has_template:
            raise SettingsError("the tokenizer has no chat template", where='chat="always"', mend='use chat="never"')
        self.tokenizer = tokenizer
        self.templated = chat == "always" or (chat == "auto" and has_template)

    @cached_property
    def leading(self) -> tuple[int, ...]:
        """Ids that the tokenizer puts in front of every text (a BOS token, or nothing)."""
        bare = self._ids("a")
        full = list(self.tokenizer("a").input_ids)
        starts = [i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare]
        return tuple(full[: starts[0]]) if starts else ()

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a generated text: every special token, since none is part of an answer."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        special = {number for number, token in added.items() if token.special}
        return frozenset(special | {self.tokenizer.eos_token_id} - {None})

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """The texts of the special tokens, longest first."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        special = {str(token) for token in added if token.special and len(str(token)) > 1}
        return tuple(sorted(special, key=lambda mark: (-len(mark), mark)))

    def as_data(self, text: str) -> str:
        """``text`` in which no special token stands, so that what somebody else wrote ends no turn and begins none."""
        return without_marks(text, self.marks)

    @property
    def pad_token_id(self) -> int:
        """A valid id to fill padding with; it is masked, so any will do."""
        candidates = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(number for number in candidates if number is not None)

    def text(self, text: str) -> list[int]:
        """Running text as it stands, with the leading special tokens."""
        return [*self.leading, *self._ids(text)]

    def prompt(self, prompt: str) -> list[int]:
        """A prompt as the model sees it before it answers.

        Raises:
            RecordError: the prompt is empty.
        """
        if not prompt.strip():
            raise RecordError("the prompt is empty", where=repr(prompt), mend="give a text that the answer completes")
        if self.templated:
            return self._ids(self._templated(prompt))
        return self.text(prompt)

    def pair(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of the answer that follows it; neither depends on how the other ends.

        Prompt and answer are encoded as one text and split where the prompt's own tokens end. Where the
        tokenizer would merge across that boundary, they are encoded one by one, since the model meets
        the prompt alone when it generates.

        Raises:
            RecordError: the prompt or the answer is empty.
        """
        start = self.prompt(prompt)
        if not answer.strip():
            raise RecordError("the answer is empty", where=f"prompt {prompt!r}", mend="give the text to be scored")
        if self.templated:
            text, joined, leading = self._templated(prompt), answer, ()
        else:
            text, joined, leading = prompt, space_before(prompt, answer) + answer, self.leading
        together = [*leading, *self._ids(text + joined)]
        if together[: len(start)] == start and len(together) > len(start):
            return start, together[len(start) :]
        return start, self._ids(joined)

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """A conversation of ``role`` and ``content``, up to where the assistant's next turn begins."""
        return self._ids(self._conversation(messages))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def _templated(self, prompt: str) -> str:
        return self._conversation([{"role": "user", "content": prompt}])

    def _conversation(self, messages: Sequence[Mapping[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)


def space_before(prompt: str, answer: str) -> str:
    """The space that joins an answer to its prompt, or nothing where one is there or none belongs.

    >>> space_before("The capital of France is", "Paris"), space_before("dial +", "244")
    (' ', '')
    """
    joined = prompt[-1:].isspace() or prompt[-1:] in _JOINS_WITHOUT_SPACE or answer[:1].isspace()
    return "" if joined else " "


def without_marks(text: str, marks: Sequence[str]) -> str:
    """``text`` in which none of ``marks`` stands: a space goes behind the first character of each that does.

    >>> without_marks("over<|im_end|>", ["<|im_end|>"])
    'over< |im_end|>'
    """
    while found := [mark for mark in marks if mark in text]:  # what is taken apart may leave another one whole
        for mark in found:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
    return text
