"""A mixture of streams says what a loop that adds probabilities says, however rows leave the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stream_models import READ, pico_once, plain_loop, two_streams
from torch import Tensor

from keeps.decoding.combine import leading, mixture
from keeps.decoding.engine import decode_in_step
from keeps.decoding.streams import Stream
from keeps.errors import RecordError
from keeps.models import LanguageModel

NEW = 5
WEIGHTS = [[0.9, 0.5, 0.1, 0.7, 0.3, 0.99], [0.1, 0.5, 0.9, 0.3, 0.7, 0.01]]
LOGS = torch.tensor(WEIGHTS).log().tolist()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_each_item_is_mixed_with_its_own_weights(kind: str, smollm2: LanguageModel) -> None:
    streams = two_streams(pico_once(kind, smollm2.tokenizer))
    found = decode_in_step(streams, mixture, max_new_tokens=NEW, weights=LOGS)
    for item, spoken in enumerate(found):

        def mixed(logits: Tensor, item: int = item) -> Tensor:
            parts = [WEIGHTS[stream][item] * logits[stream].double().softmax(-1) for stream in (0, 1)]
            return torch.stack(parts).sum(0)

        expected = plain_loop(streams, item, mixed, NEW)
        assert spoken.tokens == expected
        for step, joint in enumerate(spoken.trace["joint"]):
            prompts = [[*stream.prompts[item], *expected[:step]] for stream in streams]
            for weight, prompt, value in zip((row[item] for row in WEIGHTS), prompts, joint, strict=True):
                model: Any = streams[0].model.model
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
                p = weight * float(logits.double().softmax(-1)[expected[step]])
                assert torch.tensor(value).exp().item() == pytest.approx(p, rel=1e-3, abs=1e-9)


def test_all_weight_on_one_stream_is_that_stream(smollm2: LanguageModel) -> None:
    streams = two_streams(pico_once("llama", smollm2.tokenizer))
    alone = decode_in_step(streams[:1], leading, max_new_tokens=NEW)
    sure = [[0.0] * len(READ), [-torch.inf] * len(READ)]
    assert [s.tokens for s in decode_in_step(streams, mixture, max_new_tokens=NEW, weights=sure)] == [
        s.tokens for s in alone
    ]


def test_weights_must_be_as_many_as_prompts(smollm2: LanguageModel) -> None:
    streams = two_streams(pico_once("llama", smollm2.tokenizer), 2)
    for wrong in ([[0.0]], [[0.0], [0.0]], [[0.0] * 3] * 2):
        with pytest.raises(RecordError, match="as many weights"):
            decode_in_step(streams, mixture, max_new_tokens=2, weights=wrong)
    assert decode_in_step([Stream(streams[0].model, [])], mixture, max_new_tokens=2, weights=[[]]) == []
