"""LanguageModel against a naive loop on the real default model: one sequence at a time, all logits, no cache."""

from __future__ import annotations

import pytest
import torch

from keeps.errors import ContextLengthError, RecordError, SettingsError
from keeps.models import LanguageModel
from keeps.models.generation import CALL_COST
from keeps.models.prefix import plan_prefixes
from keeps.models.stopping import StopRule

PROMPTS = [
    "The capital of France is",
    "The capital of Norway is",
    "The capital of Burkina Faso is",
    "The atomic number of iron is",
    "To phone Angola from abroad, dial +",
    "France is a country on the continent of",
    "In the periodic table, gold has the symbol",
    "A dog is a kind of",
]
ANSWERS = ["Paris", "Oslo", "Ouagadougou", "26", "244", "Europe", "Au", "domestic animal"]
CHOICES = [
    ["Paris", "Rome", "New York City"],
    ["Bergen", "Oslo"],
    ["Ouagadougou", "Bamako", "Accra", "Lagos"],
    ["26", "8"],
    ["244", "1", "33"],
    ["Europe", "Asia", "South America"],
    ["Au", "Ag"],
    ["animal", "vehicle", "piece of furniture"],
]


@torch.no_grad()
def naive_logprob(model: LanguageModel, prompt: str, answer: str) -> tuple[float, bool]:
    """Sum of the answer's token log-probabilities, and whether each token is the argmax."""
    start, rest = model.encode_pair(prompt, answer)
    logits = model.model(torch.tensor([start + rest])).logits[0].double()
    predicted = logits[len(start) - 1 : -1].log_softmax(-1)
    targets = torch.tensor(rest)
    total = predicted.gather(1, targets[:, None]).sum().item()
    return total, bool((predicted.argmax(-1) == targets).all())


@torch.no_grad()
def naive_greedy(model: LanguageModel, prompt: str, count: int) -> str:
    """``count`` greedy tokens (fewer at a special one), the whole sequence fed anew for each."""
    ids = model.encode_prompt(prompt)
    special = set(model.tokenizer.all_special_ids)
    found: list[int] = []
    while len(found) < count:
        token = int(model.model(torch.tensor([ids + found])).logits[0, -1].argmax())
        if token in special:
            break
        found.append(token)
    return model.tokenizer.decode(found)


@pytest.fixture(scope="module")
def naive_texts(smollm2: LanguageModel) -> list[str]:
    """Eight greedy tokens after each prompt, by the naive loop."""
    return [naive_greedy(smollm2, prompt, 8) for prompt in PROMPTS]


def test_logprob_equals_the_naive_loop(smollm2: LanguageModel) -> None:
    for score, prompt, answer in zip(smollm2.logprob(PROMPTS, ANSWERS), PROMPTS, ANSWERS, strict=True):
        expected, greedy = naive_logprob(smollm2, prompt, answer)
        assert score.logprob == pytest.approx(expected, abs=1e-4)
        assert score.greedy == greedy
        assert score.tokens == len(smollm2.encode_pair(prompt, answer)[1])


def test_the_model_knows_some_of_the_answers_and_not_all(smollm2: LanguageModel) -> None:
    greedy = [score.greedy for score in smollm2.logprob(PROMPTS, ANSWERS)]
    assert greedy[:4] == [True, True, False, False]  # Paris and Oslo, as measured; not Ouagadougou, not 26


def test_rank_equals_the_naive_loop_and_normalises_by_tokens(smollm2: LanguageModel) -> None:
    for ranked, prompt, options in zip(smollm2.rank(PROMPTS, CHOICES), PROMPTS, CHOICES, strict=True):
        expected = [naive_logprob(smollm2, prompt, option)[0] for option in options]
        lengths = [len(smollm2.encode_pair(prompt, option)[1]) for option in options]
        means = [total / length for total, length in zip(expected, lengths, strict=True)]
        assert ranked.logprobs == pytest.approx(expected, abs=1e-4)
        assert ranked.normalised == pytest.approx(means, abs=1e-4)
        assert ranked.best == means.index(max(means))


def test_generate_equals_naive_greedy_decoding(smollm2: LanguageModel, naive_texts: list[str]) -> None:
    rule = StopRule(("\n",))
    assert smollm2.generate(PROMPTS, max_new_tokens=8) == [rule.cut(text) for text in naive_texts]


def test_ask_gives_the_naive_text_and_the_logprob_of_the_expected_answer(
    smollm2: LanguageModel, naive_texts: list[str]
) -> None:
    asked = smollm2.ask(PROMPTS, ANSWERS, max_new_tokens=8)
    rule = StopRule(("\n",), sentence=True)
    assert [item.text for item in asked] == [rule.cut(text) for text in naive_texts]
    scores = smollm2.logprob(PROMPTS, ANSWERS)
    assert [item.logprob for item in asked] == pytest.approx([score.logprob for score in scores], abs=1e-4)
    assert [(item.tokens, item.greedy) for item in asked] == [(score.tokens, score.greedy) for score in scores]


@pytest.mark.parametrize("budget", [16, 4096])
def test_results_do_not_depend_on_the_batch(smollm2: LanguageModel, budget: int) -> None:
    alone = [smollm2.logprob([p], [a])[0] for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    smollm2.tokens_per_batch = budget
    try:
        together = smollm2.logprob(PROMPTS[::-1], ANSWERS[::-1])[::-1]
        asked = smollm2.ask(PROMPTS, ANSWERS, max_new_tokens=3)
    finally:
        smollm2.tokens_per_batch = None
    assert [s.logprob for s in together] == pytest.approx([s.logprob for s in alone], abs=1e-4)
    assert [s.logprob for s in asked] == pytest.approx([s.logprob for s in alone], abs=1e-4)


def test_a_shared_beginning_gives_the_same_as_no_sharing(smollm2: LanguageModel) -> None:
    shots = "The capital of Spain is Madrid.\nThe capital of Japan is Tokyo.\nThe capital of Italy is Rome.\n" * 2
    prompts = [shots + prompt for prompt in PROMPTS]
    beginnings = [smollm2.encode_prompt(prompt)[:-1] for prompt in prompts]
    assert plan_prefixes(beginnings, call_cost=CALL_COST)[0].length >= 42
    asked = smollm2.ask(prompts, ANSWERS, max_new_tokens=4)
    scores = smollm2.logprob(prompts, ANSWERS)
    rule = StopRule(("\n",), sentence=True)
    for number in (1, 2, 6):
        expected, greedy = naive_logprob(smollm2, prompts[number], ANSWERS[number])
        for found in (asked[number], scores[number]):
            assert found.logprob == pytest.approx(expected, abs=1e-4)
            assert found.greedy == greedy
        assert asked[number].text == rule.cut(naive_greedy(smollm2, prompts[number], 4))


def test_every_call_gives_the_same_and_leaves_the_mode_as_it_was(tiny_llama: LanguageModel) -> None:
    module = tiny_llama.model
    module.train()
    module.get_submodule("model.layers.0").eval()
    modes = [part.training for part in module.modules()]
    first, second = (tiny_llama.logprob(PROMPTS, ANSWERS) for _ in range(2))
    assert first == second
    assert [part.training for part in module.modules()] == modes


def test_no_stale_results_after_the_weights_change(tiny_llama: LanguageModel) -> None:
    before, name = tiny_llama.logprob(PROMPTS, ANSWERS), tiny_llama.fingerprint
    with torch.no_grad():
        tiny_llama.model.get_parameter("model.layers.0.mlp.down_proj.weight").add_(0.1)
    after = tiny_llama.logprob(PROMPTS, ANSWERS)
    assert all(abs(x.logprob - y.logprob) > 1e-3 for x, y in zip(before, after, strict=True))
    assert after[0].logprob == pytest.approx(naive_logprob(tiny_llama, PROMPTS[0], ANSWERS[0])[0], abs=1e-4)
    assert tiny_llama.fingerprint != name


def test_gradients_can_follow_a_call(tiny_llama: LanguageModel) -> None:
    tiny_llama.logprob(PROMPTS, ANSWERS)
    ids = torch.tensor([tiny_llama.encode_prompt(PROMPTS[0])])
    tiny_llama.model(ids).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in tiny_llama.model.parameters())


def test_embed_is_the_mean_over_tokens_and_not_over_padding(tiny_llama: LanguageModel) -> None:
    vectors = tiny_llama.embed(PROMPTS)
    ids = torch.tensor([tiny_llama.encode_prompt(PROMPTS[2])])
    hidden = tiny_llama.model.get_submodule("model")(ids).last_hidden_state[0]
    torch.testing.assert_close(vectors[2], hidden.mean(0), atol=1e-5, rtol=1e-5)
    assert vectors.shape == (len(PROMPTS), 32)


def test_answer_puts_the_context_in_front_of_the_question(tiny_llama: LanguageModel) -> None:
    contexts = ["Paris is the capital.", ""]
    found = tiny_llama.answer(PROMPTS[:2], contexts)
    alone = tiny_llama.answer([f"Paris is the capital.\n\n{PROMPTS[0]}", PROMPTS[1]])
    assert [answer.text for answer in found] == [answer.text for answer in alone]


def test_progress_adds_up_to_the_number_of_items(tiny_llama: LanguageModel) -> None:
    for call in (tiny_llama.logprob, tiny_llama.ask):
        steps: list[float] = []
        call(PROMPTS, ANSWERS, advance=steps.append)
        assert sum(steps) == len(PROMPTS)


def test_nothing_asked_is_nothing_answered(tiny_llama: LanguageModel) -> None:
    assert tiny_llama.logprob([], []) == tiny_llama.ask([], []) == tiny_llama.rank([], []) == []
    assert tiny_llama.generate([]) == tiny_llama.text_logprob([]) == []
    assert tiny_llama.embed([]).shape == (0, 32)


def test_a_prompt_above_the_context_is_refused_with_its_tokens(tiny_llama: LanguageModel) -> None:
    long = " word" * 127
    tiny_llama.logprob([long], ["x"])  # 127 + 1 fit exactly
    for call in (
        lambda: tiny_llama.logprob(["short", long], ["x", "one two"]),
        lambda: tiny_llama.generate(["short", long], max_new_tokens=2),
        lambda: tiny_llama.ask(["short", long], ["x", "y"], max_new_tokens=2),
        lambda: tiny_llama.rank(["short", long], [["x"], ["one two"]]),
    ):
        with pytest.raises(ContextLengthError, match=r"needs 129 tokens .* has 128 \(item 2"):
            call()


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [
        (["a", "b"], ["x"], "2 prompts and 1 answers"),
        (["a", " "], ["x", "y"], "prompt is empty.*item 2"),
        (["a", "b"], ["x", ""], "answer is empty.*item 2"),
        ("a", "x", "not a list"),
    ],
)
def test_bad_items_are_refused_by_number(
    tiny_llama: LanguageModel, prompts: list[str], answers: list[str], message: str
) -> None:
    for call in (tiny_llama.logprob, tiny_llama.ask):
        with pytest.raises(RecordError, match=message):
            call(prompts, answers)


def test_a_prompt_without_choices_and_a_limit_of_no_tokens_are_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(RecordError, match="no list of choices"):
        tiny_llama.rank(["a"], [[]])
    with pytest.raises(SettingsError, match="at least 1"):
        tiny_llama.generate(["a"], max_new_tokens=0)
