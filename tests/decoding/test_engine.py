from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from stream_models import QUESTIONS, READ, pico_once, plain_loop, two_streams
from torch import Tensor

from keeps.decoding import engine as engine_module
from keeps.decoding.choosing import Choice, Chooser
from keeps.decoding.combine import CADCombine, CKCombine, Combined, GuidanceCombine, ShiftCombine, leading
from keeps.decoding.engine import Spoken, decode_in_step, speak
from keeps.decoding.streams import Stream
from keeps.errors import RecordError, SettingsError
from keeps.models import LanguageModel
from keeps.models.generation import Ending
from keeps.models.scoring import Engine
from keeps.models.stopping import StopRule
from keeps.numerics.logit_arithmetic import ck_adjust

NEW = 6
KINDS = ("llama", "gpt2", "gemma3")


@pytest.fixture
def model(smollm2: LanguageModel) -> LanguageModel:
    return pico_once("llama", smollm2.tokenizer)


def tokens_of(found: Sequence[Spoken]) -> list[list[int]]:
    return [spoken.tokens for spoken in found]


@pytest.mark.parametrize("kind", KINDS)
def test_one_stream_says_what_the_language_model_says(kind: str, smollm2: LanguageModel) -> None:
    model = pico_once(kind, smollm2.tokenizer)
    found = decode_in_step([Stream.of(model, READ)], leading, max_new_tokens=NEW, rule=StopRule())
    assert [spoken.text for spoken in found] == model.generate(READ, max_new_tokens=NEW)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "combine",
    [CKCombine(0.25), CKCombine("adaptive", "code"), CKCombine(0.0, "always"), CADCombine(0.5), GuidanceCombine(2.0)],
    ids=repr,
)
def test_every_combination_says_what_a_plain_loop_without_cache_says(
    kind: str, combine: Any, smollm2: LanguageModel
) -> None:
    streams = two_streams(pico_once(kind, smollm2.tokenizer))
    found = decode_in_step(streams, combine, max_new_tokens=NEW)
    expected = [plain_loop(streams, item, lambda z: combine(z).scores, NEW) for item in range(len(READ))]
    assert tokens_of(found) == expected
    assert all(len(spoken.tokens) == NEW for spoken in found)  # so that every item went through every step


@pytest.mark.parametrize("gate", ["cg", "code", "always"])
def test_alpha_one_half_says_what_plain_reading_says_on_fifty_prompts(gate: Any, model: LanguageModel) -> None:
    prompts = [f"{context} Again, in the {number}th year," for number in range(9) for context in READ][:50]
    streams = [Stream.of(model, prompts), Stream.of(model, [f"In the {n}th year," for n in range(50)])]
    found = decode_in_step(streams, CKCombine(0.5, gate), max_new_tokens=NEW)
    assert tokens_of(found) == tokens_of(decode_in_step(streams[:1], leading, max_new_tokens=NEW))
    if gate == "always":
        assert all(all(spoken.trace["adjusted"]) for spoken in found)


def test_the_trace_is_that_of_the_combination_at_each_step(model: LanguageModel) -> None:
    streams = two_streams(model)
    found = decode_in_step(streams, CKCombine("adaptive", "code"), max_new_tokens=NEW)
    for item, spoken in enumerate(found):
        assert {len(values) for values in spoken.trace.values()} == {len(spoken.tokens)}
        for step, token in enumerate(spoken.tokens):
            rows = [torch.tensor([[*s.prompts[item], *spoken.tokens[:step]]]) for s in streams]
            with torch.no_grad():
                z_c, z_p = (model.model(input_ids=row).logits[:, -1] for row in rows)
            expected = ck_adjust(z_c, z_p, "adaptive", gate="code")
            assert token == int(expected.scores.argmax())
            for name, value in (("cg", expected.gain), ("alpha", expected.alpha), ("h_param", expected.h_param)):
                assert spoken.trace[name][step] == pytest.approx(value.item(), abs=1e-4)
            assert spoken.trace["adjusted"][step] is bool(expected.adjusted)


def test_what_an_item_says_does_not_depend_on_the_others(model: LanguageModel) -> None:
    together = decode_in_step(two_streams(model), CKCombine(0.1), max_new_tokens=NEW)
    alone = [
        decode_in_step([Stream(s.model, [s.prompts[item]]) for s in two_streams(model)], CKCombine(0.1),
                       max_new_tokens=NEW)[0]
        for item in range(len(READ))
    ]  # fmt: skip
    assert tokens_of(together) == tokens_of(alone)


def test_small_batches_and_no_cache_say_the_same(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = two_streams(model)
    expected = tokens_of(decode_in_step(streams, CKCombine(0.1), max_new_tokens=NEW))
    batches: list[float] = []
    monkeypatch.setitem(engine_module.engine_for.__globals__["SLOTS_PER_BATCH"], "cpu", 200)
    found = decode_in_step(streams, CKCombine(0.1), max_new_tokens=NEW, advance=batches.append)
    assert tokens_of(found) == expected
    assert len(batches) > 1
    assert sum(batches) == len(READ)
    monkeypatch.setattr(Engine, "may_cache", lambda *_: False)
    assert tokens_of(decode_in_step(streams, CKCombine(0.1), max_new_tokens=NEW)) == expected


def test_items_end_one_by_one_and_leave_the_batch(model: LanguageModel) -> None:
    streams = two_streams(model)
    free = decode_in_step(streams, CADCombine(), max_new_tokens=12)
    steps: list[int] = []

    def combine(logits: Tensor) -> Combined:
        steps.append(logits.shape[1])
        return CADCombine()(logits)

    stops = tuple(model.encoder.decode([spoken.tokens[2 + item]]) for item, spoken in enumerate(free[:4]))
    rule = StopRule(stops)
    found = decode_in_step(streams, combine, max_new_tokens=12, rule=rule)
    for spoken, whole in zip(found, free, strict=True):
        assert spoken.tokens == whole.tokens[: len(spoken.tokens)]
        assert spoken.text == rule.cut(model.encoder.decode(whole.tokens))
        assert spoken.complete == rule.reached(model.encoder.decode(spoken.tokens))
    assert steps[0] == len(READ)
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] < steps[0]


def test_the_end_token_of_the_first_model_ends_a_text(model: LanguageModel) -> None:
    end = next(iter(model.encoder.end_ids))

    def combine(logits: Tensor) -> Combined:
        scores = logits[0].clone()
        scores[0, end] = 1e9  # of the first row of the batch alone
        return Combined(scores)

    found = decode_in_step(two_streams(model, 3), combine, max_new_tokens=4)
    assert sorted(len(spoken.tokens) for spoken in found)[0] == 1
    first = min(found, key=lambda spoken: len(spoken.tokens))
    assert (first.text, first.complete, first.tokens) == ("", True, [end])


def test_a_long_second_prompt_neither_ends_nor_shortens_a_text(model: LanguageModel) -> None:
    streams = [Stream.of(model, QUESTIONS), Stream.of(model, READ)]  # the other way round
    found = decode_in_step(streams, leading, max_new_tokens=NEW)
    assert [len(spoken.tokens) for spoken in found] == [NEW] * len(READ)


def test_three_models_are_decoded_in_step(smollm2: LanguageModel) -> None:
    large, base, expert = (pico_once(*which) for which in (("llama", smollm2.tokenizer, 1),
                           ("gpt2", smollm2.tokenizer), ("gpt2", smollm2.tokenizer, 1)))  # fmt: skip
    streams = [Stream.of(large, READ), Stream.of(base, QUESTIONS), Stream.of(expert, READ)]
    combine = ShiftCombine((0.7,))
    found = decode_in_step(streams, combine, max_new_tokens=NEW)
    expected = [plain_loop(streams, item, lambda z: combine(z).scores, NEW) for item in range(len(READ))]
    assert tokens_of(found) == expected
    same = [Stream.of(base, READ), Stream.of(base, READ), Stream.of(expert, READ)]
    assert tokens_of(decode_in_step(same, ShiftCombine((1.0,)), max_new_tokens=NEW)) == tokens_of(
        decode_in_step([Stream.of(expert, READ)], leading, max_new_tokens=NEW)
    )


def test_models_whose_output_layers_are_padded_differently_share_the_vocabulary(
    smollm2: LanguageModel, bare_llama: Callable[..., Any]
) -> None:
    wide = LanguageModel(bare_llama(seed=3, vocab_size=49152 + 64), smollm2.tokenizer, name="wide")
    narrow = pico_once("llama", smollm2.tokenizer)
    streams = [Stream.of(wide, READ), Stream.of(narrow, READ)]
    combine = GuidanceCombine(0.5)
    found = decode_in_step(streams, combine, max_new_tokens=NEW)
    expected = [plain_loop(streams, item, lambda z: combine(z).scores, NEW, 49152) for item in range(len(READ))]
    assert tokens_of(found) == expected


class Shown:
    """A voice of a method's own: it wants one token after another, whatever was said."""

    streams = (1,)

    def __init__(self, rows: int, wanted: Sequence[int]) -> None:
        self.rows, self.wanted, self.place = rows, wanted, -1

    def start(self) -> Tensor:
        self.place += 1
        scores = torch.zeros(1, self.rows, 49152)
        scores[..., self.wanted[self.place]] = 1.0
        return scores

    def step(self, tokens: Sequence[int]) -> Tensor:
        assert list(tokens) == [self.wanted[self.place]] * self.rows
        return self.start()

    def select(self, rows: Sequence[int]) -> None:
        self.rows = len(rows)


def test_a_method_may_bring_a_voice_of_its_own(model: LanguageModel) -> None:
    streams = [Stream.of(model, READ)]
    with engine_module.reading(streams) as engines:
        voice = engine_module.plan_voices(engines, [streams[0].prompts], 4)[0]
        spoken = [Spoken() for _ in READ]
        ending = Ending(4, StopRule(()), model.encoder.end_ids, model.encoder.decode)
        wanted = [300, 400, 500, 600]
        speak([Shown(len(READ), wanted), voice], lambda logits: Combined(logits[1]), Chooser(Choice(), ()), ending,
              list(enumerate(spoken)))  # fmt: skip
    assert tokens_of(spoken) == [wanted] * len(READ)


def test_scores_that_are_no_numbers_are_refused_and_say_where(model: LanguageModel) -> None:
    for value in (float("nan"), float("-inf")):
        with pytest.raises(SettingsError, match=r"no numbers \(item \d, token 1\)"):
            decode_in_step(two_streams(model, 2), lambda z, v=value: Combined(z[0] * 0 + v), max_new_tokens=2)


def test_models_keep_their_mode_and_gradients_stay_off(smollm2: LanguageModel, bare_llama: Callable[..., Any]) -> None:
    model = LanguageModel(bare_llama(vocab_size=49152).train(), smollm2.tokenizer)
    seen: list[tuple[bool, bool]] = []

    def combine(logits: Tensor) -> Combined:
        seen.append((model.model.training, logits.requires_grad))
        return leading(logits)

    decode_in_step([Stream.of(model, QUESTIONS[:1])], combine, max_new_tokens=1)
    assert seen == [(False, False)]
    assert model.model.training


def test_nothing_to_say_is_said_of_no_items(model: LanguageModel) -> None:
    assert decode_in_step([Stream(model, [])], leading, max_new_tokens=1) == []


def test_draws_depend_on_the_seed_alone(model: LanguageModel) -> None:
    choice = Choice(temperature=1.0, top_p=0.9)
    options: dict[str, Any] = {"max_new_tokens": NEW, "choice": choice}
    together = decode_in_step(two_streams(model), CKCombine("adaptive"), seeds=range(len(READ)), **options)
    for item in (0, 3):
        streams = [Stream(s.model, [s.prompts[item]]) for s in two_streams(model)]
        assert (
            decode_in_step(streams, CKCombine("adaptive"), seeds=[item], **options)[0].tokens == together[item].tokens
        )
        other = decode_in_step(streams, CKCombine("adaptive"), seeds=[item + 99], **options)[0]
        assert other.tokens != together[item].tokens
    assert all(map(torch.isfinite, torch.tensor([spoken.trace["cg"][0] for spoken in together])))


def test_options_that_contradict_each_other_are_refused(model: LanguageModel) -> None:
    streams = two_streams(model, 2)
    for options, what in (
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"choice": Choice(temperature=1.0)}, "draws need seeds"),
        ({"seeds": [1, 2]}, "seeds do nothing"),
    ):
        with pytest.raises(SettingsError, match=what):
            decode_in_step(streams, leading, **{"max_new_tokens": 2, **options})
    with pytest.raises(RecordError, match="2 items and 1 seeds"):
        decode_in_step(streams, leading, max_new_tokens=2, choice=Choice(temperature=1.0), seeds=[1])
