"""What tokens of any tokenizer stand for: their bytes, and where they lie in a text.

Tokenizers write the same text in different signs (``Ġthe`` and ``▁the``, ``Ċ`` and ``<0x0A>``), and some cut a
character of several bytes in two. As bytes they are comparable.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from keeps.errors import SettingsError

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE_SIGN = "▁"
CONTINUES = "##"
KINDS = ("bytes", "sentencepiece", "wordpiece", "plain")
Span = tuple[int, int]


def byte_signs() -> dict[str, int]:
    """The sign of each byte in byte-level vocabularies (GPT-2's table): printable ones are themselves.

    >>> signs = byte_signs()
    >>> signs["A"], signs["Ġ"], signs["Ċ"], len(signs)
    (65, 32, 10, 256)
    """
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    signs = {chr(byte): byte for byte in own}
    others = [byte for byte in range(256) if byte not in own]
    return signs | {chr(256 + number): byte for number, byte in enumerate(others)}


SIGNS = byte_signs()


class TokenBytes:
    """The bytes of every token of one tokenizer.

    ``kind`` is how its vocabulary is written: in bytes, in SentencePiece's signs, with ``##`` before what goes on a
    word, or as it is. Special tokens have no bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.tokens: Mapping[int, str] = {number: token for token, number in tokenizer.get_vocab().items()}
        self.size = max(self.tokens) + 1
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.special = {number for number, token in added.items() if token.special}
        self.special |= {number for number in tokenizer.all_special_ids if number is not None}
        # What stands for nothing in a text; an unknown token stands for something.
        self.marks = self.special - {getattr(tokenizer, "unk_token_id", None)}
        self.literal = {number for number in added if number not in self.special}  # added as plain text
        self.kind = self._kind()

    @cached_property
    def bytes(self) -> list[bytes]:
        """By id; empty of special tokens and of ids that are none."""
        return [self._bytes(number) for number in range(self.size)]

    @cached_property
    def fingerprint(self) -> str:
        """Of the vocabulary: tokens, ids and which of them are special."""
        text = json.dumps([sorted(self.tokens.items()), sorted(self.special)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def of_bytes(self) -> dict[bytes, int]:
        """The smallest id of each byte string."""
        found: dict[bytes, int] = {}
        for number, value in enumerate(self.bytes):
            if value:
                found.setdefault(value, number)
        return found

    def roles(self) -> dict[str, int]:
        """Ids of the special tokens that mean the same everywhere: ``bos``, ``eos``, ``pad``, ``unk``."""
        ids = {name: getattr(self.tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "unk")}
        return {name: int(number) for name, number in ids.items() if number is not None}

    def bare(self, number: int) -> bytes:
        """A token's bytes without the space that marks the beginning of a word."""
        return self.bytes[number].removeprefix(b" ")

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def spans(self, text: str, ids: Sequence[int]) -> list[Span]:
        """First byte and the one after the last of each token, in the UTF-8 of ``text``; special tokens are empty.

        A space that a tokenizer puts in front of every text lies before byte 0 and counts for nothing.

        Raises:
            SettingsError: the tokens do not spell the text, and the tokenizer does not say where they stand.
        """
        data = text.encode()
        found = self._spelled(data, ids)
        return self._offsets(text, ids) if found is None else found

    def _spelled(self, data: bytes, ids: Sequence[int]) -> list[Span] | None:
        said = b"".join(self.bytes[number] for number in ids)
        shift = 1 if said == b" " + data else 0
        if not shift and said != data:
            return None
        spans, place = [], -shift
        for number in ids:
            end = place + len(self.bytes[number])
            spans.append((max(place, 0), max(end, 0)))
            place = end
        return spans

    def _offsets(self, text: str, ids: Sequence[int]) -> list[Span]:
        """As the tokenizer itself says, in characters: for those that change the text before they cut it."""
        mend = 'take a fast tokenizer, or align with method "dtw"'
        if not getattr(self.tokenizer, "is_fast", False):
            raise SettingsError("the tokenizer does not say where its tokens stand", where=repr(text[:40]), mend=mend)
        given = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        plain = [number for number in ids if number not in self.marks]
        if list(given.input_ids) != plain:
            raise SettingsError("these are not the tokens of this text", where=repr(text[:40]), mend=mend)
        before = [0]
        for letter in text:
            before.append(before[-1] + len(letter.encode()))
        offsets = iter(given.offset_mapping)
        spans, last = [], 0
        for number in ids:
            if number in self.marks:
                spans.append((last, last))
                continue
            start, end = next(offsets)
            spans.append((before[start], before[end]))
            last = before[end]
        return spans

    def _kind(self) -> str:
        names = set(self.tokens.values())
        if len(names & SIGNS.keys()) >= 250:
            return "bytes"
        if any(SPACE_SIGN in token for token in names):
            return "sentencepiece"
        return "wordpiece" if any(token.startswith(CONTINUES) for token in names) else "plain"

    def _bytes(self, number: int) -> bytes:
        token = self.tokens.get(number, "")
        if number in self.special or not token:
            return b""
        found = BYTE_TOKEN.fullmatch(token) if self.kind == "sentencepiece" else None
        if found:
            return bytes([int(found[1], 16)])
        if number in self.literal:
            return token.encode()
        if self.kind == "bytes":
            return bytes(SIGNS[sign] for sign in token) if all(sign in SIGNS for sign in token) else token.encode()
        if self.kind == "sentencepiece":
            return token.replace(SPACE_SIGN, " ").encode()
        if self.kind == "wordpiece":
            return token.removeprefix(CONTINUES).encode() if token.startswith(CONTINUES) else b" " + token.encode()
        return token.encode()
