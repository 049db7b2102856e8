from __future__ import annotations

import pytest

from keeps.numerics.memory_recall import contains, memory_recall


def test_shares_and_their_ratio() -> None:
    said = ["It is the ROME.", "Paris, of course", "Rome or Paris", "no idea"]
    found = memory_recall(said, [["Rome"]] * 4, [["Paris"]] * 4)
    assert (found.conr, found.parr, found.mr) == (0.5, 0.5, 0.5)
    assert found.from_context == (True, False, True, False)
    assert found.from_memory == (False, True, True, False)
    assert found.exact == 0


def test_an_exact_answer_is_the_context_s_answer_and_nothing_else() -> None:
    assert memory_recall(["The Rome!", "Rome it is"], [["Rome"]] * 2, [["Paris"]] * 2).exact == 0.5


def test_any_alias_counts_and_only_once() -> None:
    found = memory_recall(["New York City (NYC)"], [["NYC", "New York"]], [["Albany"]])
    assert (found.conr, found.parr, found.mr) == (1.0, 0.0, 0.0)


def test_there_is_no_ratio_where_neither_is_said() -> None:
    assert memory_recall(["nothing"], [["Rome"]], [["Paris"]]).mr is None


def test_words_are_whole_unless_characters_are_asked_for() -> None:
    assert not contains("a woman", ["Oman"])
    assert contains("a woman", ["Oman"], unit="characters")
    assert contains("In (Oman).", ["Oman"])
    assert not contains("anything", [""])


def test_wrong_shapes_are_refused() -> None:
    for arguments in (([], [], []), (["a"], [["b"]], []), (["a"], ["b"], [["c"]])):
        with pytest.raises(ValueError, match="list"):
            memory_recall(*arguments)  # type: ignore[arg-type]
