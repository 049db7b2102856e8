"""Token ids are scored and continued as the texts that they stand for, and the journal keeps what was said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keeps.errors import ContextLengthError, RecordError
from keeps.models import LanguageModel
from keeps.probe.journal import Journal

PROMPTS = ["The sky is", "The sky is", "Two and two"]
ANSWERS = ["blue today", "grey", "make four"]


def test_ids_are_scored_as_their_texts(tiny_llama: LanguageModel) -> None:
    pairs = [tiny_llama.encode_pair(*pair) for pair in zip(PROMPTS, ANSWERS, strict=True)]
    found = tiny_llama.logprob_encoded([start for start, _ in pairs], [rest for _, rest in pairs])
    for one, other in zip(found, tiny_llama.logprob(PROMPTS, ANSWERS), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
        assert (one.tokens, one.greedy) == (other.tokens, other.greedy)


def test_continuations_keep_their_white_space_and_end_before_a_stop(tiny_llama: LanguageModel) -> None:
    contexts = [tiny_llama.encode_prompt(prompt) for prompt in PROMPTS]
    raw = tiny_llama.continue_encoded(contexts, max_new_tokens=8)
    assert [text.strip() for text in raw] == tiny_llama.generate(PROMPTS, max_new_tokens=8, stop=())
    stop = raw[0][2:4]
    assert tiny_llama.continue_encoded(contexts, max_new_tokens=8, stop=(stop,))[0] == raw[0][: raw[0].index(stop)]


def test_the_last_token_may_stand_behind_the_context_and_no_more(tiny_llama: LanguageModel) -> None:
    limit = tiny_llama.context_length
    assert tiny_llama.logprob_encoded([[5] * (limit - 1)], [[6, 7]])[0].tokens == 2
    with pytest.raises(ContextLengthError, match=f"needs {limit + 1} tokens"):
        tiny_llama.logprob_encoded([[5] * limit], [[6, 7]])
    with pytest.raises(RecordError, match=r"is empty .*item 2"):
        tiny_llama.logprob_encoded([[5], [5]], [[6], []])
    with pytest.raises(RecordError, match="1 prompts and 2 continuations"):
        tiny_llama.logprob_encoded([[5]], [[6], [7]])


def test_the_journal_does_not_ask_again(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    def ask(answerer: Any) -> tuple[Any, Any]:
        return answerer.logprob_encoded([[5, 6], [7]], [[8], [9]]), answerer.continue_encoded([[5]], max_new_tokens=2)

    wanted = ask(tiny_llama)
    journal = Journal(tiny_llama, tmp_path / "said.jsonl")
    assert ask(journal) == wanted
    journal.__exit__(KeyboardInterrupt, None, None)
    with Journal(_Silent(), tmp_path / "said.jsonl") as journal:
        assert ask(journal) == wanted


class _Silent:
    """Has the calls and must not be asked."""

    def logprob_encoded(self, *_: Any, **__: Any) -> Any:
        pytest.fail("asked again")

    continue_encoded = logprob_encoded
