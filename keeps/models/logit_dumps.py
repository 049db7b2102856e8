"""What a model says of texts, written once: the likeliest next tokens of every position, and the loss of every text.

One safetensors file a source:

    tokens          (tokens,) int32        of all texts, one behind another, with their special tokens
    starts          (texts + 1,) int64     where each text begins
    ids, logits     (tokens, k)            of the likeliest tokens behind each position, the likeliest first
    logsumexp       (tokens,) float32      of the logits of all tokens there
    losses          (texts,) float32       mean cross-entropy of a text's next tokens, in nats

The header names the model, its vocabulary and the texts, so that a dump of other texts is refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Progress, SilentProgress
from keeps.errors import ContextLengthError, EmptySetError, SettingsError, StorageError
from keeps.models.batching import length_batches, pad_right
from keeps.models.language_model import LanguageModel
from keeps.models.projection import chunks, read_positions
from keeps.models.scoring import vocabulary_size
from keeps.models.token_bytes import TokenBytes
from keeps.weights.files import load_metadata, load_tensors, save_tensors

FORMAT = "1"
PARTS = ("tokens", "starts", "ids", "logits", "logsumexp", "losses")


@dataclass(frozen=True)
class Piece:
    """A text that is read at once.

    Attributes:
        ended: whether the document ends with it, so that the end token follows.
    """

    text: str
    ended: bool = True


@dataclass(frozen=True)
class Dumped:
    """A source that was read before: the file of its :class:`LogitDump`, and the tokenizer that it was read with."""

    path: Path
    tokenizer: Any


@dataclass(frozen=True)
class LogitDump:
    """See the top of this file; tensors lie on the CPU.

    Attributes:
        name: of the model.
        vocabulary: fingerprint of its tokens.
        texts: fingerprint of the pieces.
    """

    name: str
    vocabulary: str
    texts: str
    tokens: Tensor
    starts: Tensor
    ids: Tensor
    logits: Tensor
    logsumexp: Tensor
    losses: Tensor

    def rows(self, text: int) -> slice:
        """Where a text stands in the tensors of all tokens."""
        return slice(int(self.starts[text]), int(self.starts[text + 1]))

    def save(self, path: str | Path) -> None:
        """Write it.

        Raises:
            StorageError: the disk is full or the folder is not writable.
        """
        labels = {"format": FORMAT, "name": self.name, "vocabulary": self.vocabulary, "texts": self.texts}
        save_tensors(Path(path), {part: getattr(self, part).contiguous() for part in PARTS}, labels)

    @classmethod
    def load(cls, path: str | Path, texts: str | None = None) -> LogitDump:
        """Read what :meth:`save` wrote.

        Args:
            texts: fingerprint of the pieces that it should be of.

        Raises:
            StorageError: the file is missing or damaged, of another format, or of other texts.
        """
        found, labels = load_tensors(path), load_metadata(path)
        missing = [part for part in PARTS if part not in found]
        if labels.get("format") != FORMAT or missing:
            what = f"this is no dump of logits ({', '.join(missing) or 'another format'})"
            raise StorageError(what, where=str(path), mend="dump the source again")
        named = {name: labels.get(name, "") for name in ("name", "vocabulary", "texts")}
        dump = cls(**named, **{part: found[part] for part in PARTS})  # type: ignore[arg-type]
        dump.check(texts, str(path))
        return dump

    def check(self, texts: str | None, where: str) -> None:
        """Refuse a dump whose tensors do not fit each other, or of other texts.

        Raises:
            StorageError: it is one.
        """
        count = int(self.starts[-1])
        lengths = {len(getattr(self, part)) for part in ("tokens", "ids", "logits", "logsumexp")}
        if lengths != {count} or len(self.losses) != len(self.starts) - 1 or bool((self.starts.diff() < 1).any()):
            raise StorageError("the parts of the dump do not fit each other", where=where, mend="dump the source again")
        if bool(self.losses.isnan().any()):
            raise StorageError("a loss in the dump is no number", where=where, mend="read the source in float32 again")
        if texts is not None and texts != self.texts:
            what = "the dump is of other texts, or of texts that were cut otherwise"
            raise StorageError(what, where=where, mend="dump the source again, with the same texts and window")


def pieces_fingerprint(pieces: Sequence[Piece]) -> str:
    """Of texts and of where documents end."""
    digest = hashlib.sha256()
    for piece in pieces:
        data = piece.text.encode()
        digest.update(f"{len(data)}:{int(piece.ended)}:".encode() + data)
    return digest.hexdigest()[:16]


def piece_tokens(model: LanguageModel, tokens: TokenBytes, piece: Piece) -> list[int]:
    """A piece as the model reads it: leading special tokens, its text, the end token where the document ends."""
    end = tokens.roles().get("eos")
    ids = [*model.encoder.leading, *tokens.encode(piece.text)]
    return [*ids, end] if piece.ended and end is not None else ids


def cut_pieces(model: LanguageModel, texts: Sequence[str], window: int) -> list[Piece]:
    """Texts in pieces of about ``window`` of the model's tokens at most, cut between tokens and between characters.

    A piece is tokenised anew when it is read, so that its last token may differ.

    Raises:
        EmptySetError: there is no text.
        SettingsError: the window holds next to nothing.
    """
    if window < 8:
        raise SettingsError(f"a window of {window} tokens is too short", where="window", mend="choose 8 or more")
    tokens = TokenBytes(model.tokenizer)
    room = window - len(model.encoder.leading) - 1  # and the end token
    found: list[Piece] = []
    for text in texts:
        data, place = text.encode(), 0
        ends = [end for _, end in tokens.spans(text, tokens.encode(text))]
        first = 0
        while first < len(ends):
            last = min(first + room, len(ends))
            while last < len(ends) and last > first + 1 and not _between(data, ends[last - 1]):
                last -= 1
            end = ends[last - 1] if last < len(ends) else len(data)
            found.append(Piece(data[place:end].decode(), last == len(ends)))
            place, first = end, last
    if not found:
        raise EmptySetError("there is no text to read", mend="give at least one")
    return found


def _between(data: bytes, place: int) -> bool:
    """Whether a character begins there."""
    return place >= len(data) or data[place] & 0xC0 != 0x80


@torch.no_grad()
def dump_logits(
    source: LanguageModel,
    pieces: Sequence[Piece],
    *,
    top_k: int = 10,
    progress: Progress | None = None,
) -> LogitDump:
    """Read ``pieces`` with ``source``.

    Raises:
        EmptySetError: there are no pieces, or one has fewer than two tokens.
        ContextLengthError: a piece has more tokens than the source reads.
    """
    tokens = TokenBytes(source.tokenizer)
    rows = [piece_tokens(source, tokens, piece) for piece in pieces]
    if not rows or min(map(len, rows)) < 2:
        raise EmptySetError(f"a text has no next token for {source.name}", mend="leave out texts of one token")
    longest = max(map(len, rows))
    if longest > source.context_length:
        what = f"a text has {longest} tokens of {source.name}, which reads {source.context_length}"
        raise ContextLengthError(what, where="texts", mend="choose a smaller window")
    starts = torch.tensor([0, *map(len, rows)]).cumsum(0)
    k = min(top_k, vocabulary_size(source.model), tokens.size)
    total = int(starts[-1])
    ids, logits = torch.zeros(total, k, dtype=torch.int32), torch.zeros(total, k)
    sums, losses = torch.zeros(total), torch.zeros(len(rows))
    shown = (progress or SilentProgress()).task(f"reading with {source.name}", len(rows))
    with source._reading() as engine, shown as bar:
        for batch in length_batches([len(row) for row in rows], budget=engine.budget, past=0, slots=engine.slots):
            given, mask = pad_right([rows[number] for number in batch], engine.pad_token_id, engine.device)
            hidden, head = read_positions(engine.model, given, mask, mask.bool())
            places = torch.cat([torch.arange(int(starts[n]), int(starts[n + 1])) for n in batch])
            gold = torch.cat([torch.tensor([*rows[n][1:], -1]) for n in batch])
            for piece in chunks(len(hidden), vocabulary_size(engine.model)):
                found = head(hidden[piece]).float().cpu()[:, : tokens.size]  # further columns are no tokens
                best = found.topk(k, dim=-1)
                here = places[piece]
                ids[here], logits[here], sums[here] = best.indices.int(), best.values, found.logsumexp(-1)
                own = gold[piece]
                loss = found.logsumexp(-1) - found.gather(-1, own.clamp_min(0)[:, None])[:, 0]
                owners = torch.searchsorted(starts, here, right=True) - 1
                losses.index_add_(0, owners, loss.masked_fill(own < 0, 0.0))
            bar.advance(len(batch))
    losses /= starts.diff() - 1
    flat = torch.tensor([token for row in rows for token in row], dtype=torch.int32)
    labels = source.name, tokens.fingerprint, pieces_fingerprint(pieces)
    dump = LogitDump(*labels, flat, starts, ids, logits, sums, losses)
    if not math.isfinite(float(losses.sum())):
        raise StorageError("a loss is no number", where=source.name, mend="load the source in float32")
    return dump
