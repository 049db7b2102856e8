"""Bytes of tokens, positions beside each other and vocabularies, with tokenizers that really differ."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_of_texts import TEXTS, trained

from keeps.errors import SettingsError, StorageError
from keeps.models import LanguageModel
from keeps.models.token_alignment import align_tokens, edit_costs
from keeps.models.token_bytes import TokenBytes
from keeps.models.vocabulary_map import NONE, VocabularyMap, mined
from keeps.numerics.warping import warped_costs, warping_path

KINDS = ("bytes", "sentencepiece", "wordpiece")


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_a_vocabulary_is_seen(kind: str) -> None:
    assert TokenBytes(trained(kind)).kind == kind


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@settings(max_examples=25)
@given(text=st.text(min_size=1, max_size=40) | st.sampled_from(TEXTS))
def test_tokens_spell_the_text_byte_by_byte(kind: str, text: str) -> None:
    tokens = TokenBytes(trained(kind))
    ids = tokens.encode(text)
    data = text.encode(errors="surrogatepass")
    if "\x00" in text or text.encode("utf-8", "ignore") != data or not ids:
        return
    spans = tokens.spans(text, ids)
    assert b"".join(data[start:end] for start, end in spans) == data
    assert all(left[1] == right[0] for left, right in itertools.pairwise(spans))
    for number, (start, end) in list(zip(ids, spans, strict=True))[1:]:
        assert tokens.bytes[number] == data[start:end]


def test_a_tokenizer_that_changes_the_text_is_asked_where_its_tokens_stand() -> None:
    tokens = TokenBytes(trained("wordpiece"))
    text = TEXTS[1]
    ids = tokens.encode(text)
    data = text.encode()
    for number, (start, end) in zip(ids, tokens.spans(text, ids), strict=True):
        if number != tokens.tokenizer.unk_token_id:
            plain = data[start:end].decode().lower().translate(str.maketrans("ïéüæø", "ieuæø"))
            assert tokens.bytes[number].strip().decode() == plain
    with pytest.raises(SettingsError, match="not the tokens of this text"):
        tokens.spans(text, ids[:-1])


@pytest.mark.parametrize("method", ["bytes", "dtw"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tokenizer_gives_the_identity(kind: str, method: str) -> None:
    tokens = TokenBytes(trained(kind))
    for text in TEXTS:
        ids = [tokens.roles()["bos"], *tokens.encode(text), tokens.roles()["eos"]]
        assert align_tokens(text, ids, ids, tokens, tokens, method) == [[n] for n in range(len(ids))]


@pytest.mark.parametrize(
    ("one", "other"), [("bytes", "sentencepiece"), ("sentencepiece", "bytes"), ("bytes", "wordpiece")]
)
def test_by_bytes_tokens_stand_beside_those_that_cover_the_same_bytes(one: str, other: str) -> None:
    source, target = TokenBytes(trained(one)), TokenBytes(trained(other, 300))
    for text in TEXTS:
        theirs, ours = source.encode(text), target.encode(text)
        spans = source.spans(text, theirs), target.spans(text, ours)
        found = align_tokens(text, theirs, ours, source, target)
        for (start, end), rows in zip(spans[1], found, strict=True):
            wanted = [n for n, (a, b) in enumerate(spans[0]) if max(a, start) < min(b, end)]
            assert rows == wanted


def test_special_tokens_stand_beside_those_of_the_same_role_alone() -> None:
    source, target = TokenBytes(trained("bytes")), TokenBytes(trained("sentencepiece"))
    text = TEXTS[0]
    theirs, ours = source.encode(text), target.encode(text)
    bos, eos = source.roles()["bos"], source.roles()["eos"]
    for method in ("bytes", "dtw"):
        found = align_tokens(text, [bos, *theirs, eos], [*ours, target.roles()["eos"]], source, target, method)
        assert found[-1] == [len(theirs) + 1]
        assert all(0 not in rows and len(theirs) + 1 not in rows for rows in found[:-1])
        none = align_tokens(text, theirs, [target.roles()["bos"], *ours], source, target, method)
        assert none[0] == []
        assert none[1][0] == 0


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_warping_costs_are_those_of_the_recursion_and_paths_follow_the_rule_of_ties(m: int, n: int, seed: int) -> None:
    cost = np.random.default_rng(seed).integers(0, 3, (m, n)).astype(float)
    expected = np.zeros((m, n))
    for i in range(m):
        for j in range(n):
            before = [expected[a, b] for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
            expected[i, j] = cost[i, j] + (min(before) if before else 0.0)
    found = warped_costs(cost)
    assert found.tolist() == expected.tolist()
    path = warping_path(found)
    assert path[0] == (0, 0)
    assert path[-1] == (m - 1, n - 1)
    assert sum(cost[step] for step in path) == expected[-1, -1]
    for (a, b), (i, j) in itertools.pairwise(path):
        assert (i - a, j - b) in ((1, 1), (1, 0), (0, 1))
        if (i - a, j - b) != (1, 1) and a >= 0 and j >= 1 and i >= 1:
            assert expected[i - 1, j - 1] > expected[a, b]
        if (i - a, j - b) == (0, 1) and i >= 1:
            assert expected[i - 1, j] > expected[i, j - 1]


def test_edit_costs_are_plain_levenshtein_distances() -> None:
    words = [b"", b"cat", b"cut", b"acts", "é".encode(), b"cat"]

    def plain(a: bytes, b: bytes) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(plain(a[1:], b[1:]) + (a[0] != b[0]), plain(a[1:], b) + 1, plain(a, b[1:]) + 1)

    assert edit_costs(words, words).tolist() == [[float(plain(a, b)) for b in words] for a in words]


def test_the_exact_map_keeps_bytes_and_roles() -> None:
    source, target = TokenBytes(trained("bytes")), TokenBytes(trained("sentencepiece"))
    found = VocabularyMap.build(source, target)
    for number, goal in enumerate(found.targets.tolist()):
        if number in source.special:
            assert goal == {source.roles()[r]: target.roles()[r] for r in source.roles()}.get(number, NONE)
        elif goal == NONE:
            assert source.bytes[number] not in target.bytes
        else:
            assert target.bytes[goal] == source.bytes[number]
            assert found.exact[number]
    unseen = source.of_bytes[b"\r"]
    assert target.tokens[int(found.targets[unseen])] == "<0x0D>"
    same = VocabularyMap.build(source, source)
    assert all(goal in (number, NONE) for number, goal in enumerate(same.targets.tolist()))
    assert same.exact_share == 1.0


def test_mined_tokens_have_the_least_edit_distance_of_all() -> None:
    source, target = TokenBytes(trained("bytes", 420)), TokenBytes(trained("bytes", 330, TEXTS[:2]))
    exact = VocabularyMap.build(source, target)
    missing = [n for n in range(source.size) if exact.targets[n] == NONE and source.bytes[n]]
    assert missing
    found = mined(missing, source, target)
    everything = [value for value in target.bytes if value]
    costs = edit_costs([source.bytes[n] for n in missing], everything)
    for number, row in zip(missing, costs, strict=True):
        assert edit_costs([source.bytes[number]], [target.bytes[found[number]]])[0, 0] == row.min()
    whole = VocabularyMap.build(source, target, "mined")
    assert [int(whole.targets[n]) for n in missing] == [found[n] for n in missing]
    some = VocabularyMap.build(source, target, "mined", ids=missing[:3])
    assert (some.targets[missing[3:]] == NONE).all()
    assert 0 < whole.exact_share < 1


def test_statistics_map_a_token_to_what_stands_beside_it_most() -> None:
    source, target = TokenBytes(trained("bytes", 420)), TokenBytes(trained("bytes", 330, TEXTS[:2]))
    found = VocabularyMap.build(source, target, "statistics", texts=TEXTS)
    exact = VocabularyMap.build(source, target)
    assert (found.targets[exact.exact] == exact.targets[exact.exact]).all()
    extra = [n for n in range(source.size) if found.targets[n] != NONE and not found.exact[n]]
    assert extra
    assert all(set(target.bytes[int(found.targets[n])]) & set(source.bytes[n]) for n in extra)


def test_two_vocabularies_of_one_corpus_are_mostly_the_same() -> None:
    corpus = TEXTS * 3
    source, target = TokenBytes(trained("bytes", 400, corpus)), TokenBytes(trained("bytes", 430, corpus))
    assert VocabularyMap.build(source, target, "mined").exact_share > 0.9


def test_maps_are_written_read_and_checked(tmp_path: Path) -> None:
    source, target = TokenBytes(trained("bytes")), TokenBytes(trained("sentencepiece"))
    made = VocabularyMap.build(source, target, "mined", ids=range(300))
    path = tmp_path / "map.json"
    made.save(path)
    found = VocabularyMap.load(path)
    assert (found.targets == made.targets).all()
    assert (found.exact == made.exact).all()
    assert found.method == "mined"
    found.check(source, target)
    with pytest.raises(SettingsError, match="other vocabularies"):
        found.check(target, source)
    for damage in ("", "{}", path.read_text()[:-30], path.read_text().replace('"format": 1', '"format": 9')):
        path.write_text(damage)
        with pytest.raises(StorageError, match="cannot be read"):
            VocabularyMap.load(path)
    with pytest.raises(StorageError):
        VocabularyMap.load(tmp_path / "none.json")


def test_what_makes_no_sense_is_refused() -> None:
    tokens = TokenBytes(trained("bytes"))
    with pytest.raises(SettingsError, match='no alignment "glyphs"'):
        align_tokens("a", [5], [5], tokens, tokens, "glyphs")
    with pytest.raises(SettingsError, match='no mapping "nearest"'):
        VocabularyMap.build(tokens, tokens, "nearest")
    with pytest.raises(SettingsError, match="need texts"):
        VocabularyMap.build(tokens, tokens, "statistics")

    class Slow:
        """A tokenizer without offsets whose tokens do not spell the text."""

        is_fast, all_special_ids, added_tokens_decoder = False, (), {}

        def get_vocab(self) -> dict[str, int]:
            return {"b": 0}

        def __call__(self, *_: Any, **__: Any) -> Any: ...

    with pytest.raises(SettingsError, match="does not say where its tokens stand"):
        TokenBytes(Slow()).spans("A", [0])


def test_a_thousand_tokens_of_the_default_tokenizer_are_aligned_within_a_second(smollm2: LanguageModel) -> None:
    source, target = TokenBytes(trained("sentencepiece", 600)), TokenBytes(smollm2.tokenizer)
    text = " ".join(TEXTS) * 18
    theirs, ours = source.encode(text), target.encode(text)
    assert len(theirs) > 1000
    for method in ("bytes", "dtw"):
        start = time.process_time()
        found = align_tokens(text, theirs, ours, source, target, method)
        assert time.process_time() - start < 1
        beside = [row for rows in found for row in rows]
        assert beside == sorted(beside)
        assert set(beside) == set(range(len(theirs)))
