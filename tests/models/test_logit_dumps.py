from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers_of_texts import TEXTS, trained

from keeps.errors import ContextLengthError, EmptySetError, SettingsError, StorageError
from keeps.models import LanguageModel
from keeps.models.logit_dumps import LogitDump, Piece, cut_pieces, dump_logits, piece_tokens, pieces_fingerprint
from keeps.models.token_bytes import TokenBytes


@pytest.fixture(scope="module")
def model(bare_llama: Any) -> LanguageModel:
    tokenizer = trained("bytes")
    made = bare_llama(seed=1, vocab_size=len(tokenizer) + 8, max_position_embeddings=96)
    return LanguageModel(made, tokenizer, name="source")


PIECES = [Piece(TEXTS[0]), Piece(TEXTS[1], ended=False), Piece(TEXTS[3])]


def test_a_dump_holds_the_likeliest_tokens_the_normaliser_and_the_loss_of_every_text(model: LanguageModel) -> None:
    dump = dump_logits(model, PIECES, top_k=7)
    tokens = TokenBytes(model.tokenizer)
    for number, piece in enumerate(PIECES):
        ids = piece_tokens(model, tokens, piece)
        assert (ids[-1] == model.tokenizer.eos_token_id) is piece.ended
        rows = dump.rows(number)
        assert dump.tokens[rows].tolist() == ids
        with torch.no_grad():
            logits = model.model(torch.tensor([ids])).logits[0, :, : tokens.size]  # eight more are no tokens
        best = logits.topk(7)
        assert torch.allclose(dump.logits[rows], best.values, atol=1e-4)
        assert torch.allclose(logits.gather(-1, dump.ids[rows].long()), best.values, atol=1e-4)
        assert torch.allclose(dump.logsumexp[rows], logits.logsumexp(-1), atol=1e-4)
        loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
        assert float(dump.losses[number]) == pytest.approx(float(loss), abs=1e-4)


def test_small_batches_give_the_same_dump(model: LanguageModel) -> None:
    whole = dump_logits(model, PIECES, top_k=3)
    model.tokens_per_batch = 30
    try:
        found = dump_logits(model, PIECES, top_k=3)
    finally:
        model.tokens_per_batch = None
    assert torch.allclose(found.logits, whole.logits, atol=1e-4)
    assert torch.allclose(found.losses, whole.losses, atol=1e-4)


def test_dumps_are_written_and_read_and_other_texts_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    dump, path = dump_logits(model, PIECES), tmp_path / "source.safetensors"
    dump.save(path)
    found = LogitDump.load(path, pieces_fingerprint(PIECES))
    assert (found.name, found.vocabulary, found.texts) == (dump.name, dump.vocabulary, dump.texts)
    for part in ("tokens", "starts", "ids", "logits", "logsumexp", "losses"):
        assert torch.equal(getattr(found, part), getattr(dump, part))
    others = [PIECES[:2], [*PIECES[:2], Piece(TEXTS[3], ended=False)], [Piece(TEXTS[0] + "."), *PIECES[1:]]]
    for pieces in others:
        with pytest.raises(StorageError, match="of other texts"):
            LogitDump.load(path, pieces_fingerprint(pieces))


def test_damaged_dumps_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "source.safetensors"
    dump_logits(model, PIECES).save(path)
    parts = load_file(path)
    labels = {"format": "1", "name": "a", "vocabulary": "b", "texts": "c"}
    damages: list[tuple[dict[str, Any], dict[str, str], str]] = [
        ({name: part for name, part in parts.items() if name != "losses"}, labels, "losses"),
        (parts, {**labels, "format": "2"}, "another format"),
        ({**parts, "logits": parts["logits"][:-1].clone()}, labels, "do not fit"),
        ({**parts, "losses": parts["losses"] * float("nan")}, labels, "no number"),
    ]
    for tensors, metadata, what in damages:
        save_file(tensors, path, metadata)
        with pytest.raises(StorageError, match=what):
            LogitDump.load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError):
        LogitDump.load(path)


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "wordpiece"])
def test_texts_are_cut_between_characters_and_nothing_is_lost(kind: str, bare_llama: Any) -> None:
    tokenizer = trained(kind)
    model = LanguageModel(bare_llama(vocab_size=len(tokenizer)), tokenizer)
    texts = ["🙂東京é" * 30, TEXTS[2], " ".join(TEXTS)]
    pieces = cut_pieces(model, texts, 12)
    assert sum(piece.ended for piece in pieces) == len(texts)
    joined, whole = "", []
    for piece in pieces:
        joined += piece.text
        if piece.ended:
            whole.append(joined)
            joined = ""
    assert whole == texts
    assert max(len(TokenBytes(tokenizer).encode(piece.text)) for piece in pieces) <= 14


def test_what_cannot_be_read_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ContextLengthError, match="which reads 96"):
        dump_logits(model, [Piece(" ".join(TEXTS) * 3)])
    with pytest.raises(EmptySetError, match="no next token"):
        dump_logits(model, [Piece("a", ended=False)])
    with pytest.raises(EmptySetError, match="no text"):
        cut_pieces(model, [], 20)
    with pytest.raises(SettingsError, match="too short"):
        cut_pieces(model, ["a"], 3)
