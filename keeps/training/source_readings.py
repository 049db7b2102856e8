"""What every source says of the texts, read or found on disk, brought to the tokens of the model that is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from keeps.contracts import Progress
from keeps.errors import StorageError
from keeps.models.language_model import LanguageModel
from keeps.models.logit_dumps import Dumped, LogitDump, Piece, dump_logits, pieces_fingerprint
from keeps.models.token_bytes import TokenBytes
from keeps.models.vocabulary_map import VocabularyMap
from keeps.training.source_fusion import Matches, SourceReading, Targets, aligned_targets


def read_sources(
    sources: Mapping[str, LanguageModel | Dumped],
    pieces: Sequence[Piece],
    target: TokenBytes,
    *,
    top_k: int,
    mapping: str,
    progress: Progress,
) -> list[SourceReading]:
    """Every source with its dump and the map of its vocabulary.

    Raises:
        StorageError: a dump is damaged, of other texts, or of another tokenizer.
        ContextLengthError: a source cannot read a piece.
    """
    found = []
    for name, source in sources.items():
        tokens = TokenBytes(source.tokenizer)
        if isinstance(source, Dumped):
            dump = LogitDump.load(source.path, pieces_fingerprint(pieces))
            if dump.vocabulary != tokens.fingerprint:
                mend = "give the tokenizer that the source was read with"
                raise StorageError("the dump is of another tokenizer", where=str(source.path), mend=mend)
        else:
            dump = dump_logits(source, pieces, top_k=top_k, progress=progress)
        seen = torch.cat([dump.ids.flatten(), dump.tokens]).unique().tolist()
        texts = [piece.text for piece in pieces] if mapping == "statistics" else ()
        found.append(
            SourceReading(name, dump, tokens, VocabularyMap.build(tokens, target, mapping, ids=seen, texts=texts))
        )
    return found


def all_targets(
    pieces: Sequence[Piece],
    rows: Sequence[Sequence[int]],
    readings: Sequence[SourceReading],
    target: TokenBytes,
    matches: Mapping[str, Matches],
    *,
    progress: Progress,
    **options: Any,
) -> dict[tuple[int, ...], Targets]:
    """What the sources say of every piece, by its tokens.

    Args:
        rows: the pieces in the tokens of ``target``.
        options: of :func:`keeps.training.source_fusion.aligned_targets`.
    """
    found = {}
    with progress.task("aligning", len(pieces)) as bar:
        for number, (piece, ids) in enumerate(zip(pieces, rows, strict=True)):
            found[tuple(ids)] = aligned_targets(piece.text, number, ids, readings, target, matches, **options)
            bar.advance()
    return found
