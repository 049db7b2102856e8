"""KN: which neurons it names, that their columns alone change and by the stated vectors, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_contract import check_forward, check_merged, updates
from pico_models import MAKERS, pico
from torch import nn

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.edit.kn import KN, KNSettings, slot_changes
from keeps.errors import ContextLengthError, EmptySetError, RecordError, SettingsError, TargetError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.edit_files import read_entries, withdraw
from keeps.models.locate import mlp_outputs
from keeps.models.neurons import token_attributions
from keeps.numerics.neurons import refined_neurons

EDITS = (
    Edit(
        "a", "Oslo", "Oslo is the capital of", "Sweden", "Norway", paraphrases=("The country with the capital Oslo is",)
    ),
    Edit("b", "Mongolia", "The capital of Mongolia is", "Darkhan"),
)
QUICK: dict[str, Any] = {"path_steps": 4, "short_prefixes": 1, "long_prefixes": 0}


def made(model: LanguageModel, edits: Sequence[Edit], folder: Path, **settings: Any) -> Any:
    """The change that KN makes of ``edits``, which leaves the model bit by bit as it was."""
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    change = KN(KNSettings.from_mapping({**QUICK, **settings}))(model, edits, None, run=Run(folder))
    after = model.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    return change


def first_token(model: LanguageModel, edit: Edit, answer: str) -> int:
    return model.encode_pair(edit.prompt, answer)[1][0]


def neurons_of(change: Any, number: int = 0) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in read_entries(change.folder)[number].measured["neurons"]]


@pytest.mark.parametrize("scale", ["equation", "code"])
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_only_the_listed_columns_change_and_by_the_stated_vector(
    kind: str, scale: str, smollm2: LanguageModel, tmp_path: Path
) -> None:
    model = pico(kind, smollm2.tokenizer)
    change = made(model, EDITS[:1], tmp_path / "run", scale=scale, lambda1=0.5, lambda2=3.0)
    module: Any = model.model
    refs, table = mlp_outputs(module), module.get_input_embeddings().weight.detach().double()
    old, new = (table[first_token(model, EDITS[0], answer)] for answer in ("Norway", "Sweden"))
    found = neurons_of(change)
    assert 1 <= len(found) <= 5
    blocks = {block for block, _ in found}
    assert set(change.factors()) == {refs[block].name for block in blocks}
    for block in blocks:
        ref = refs[block]
        wanted = torch.zeros_like(ref.matrix, dtype=torch.float64)
        for neuron in [neuron for number, neuron in found if number == block]:
            v = ref.matrix[:, neuron].double()
            one, other = (v.norm() / old.norm(), v.norm() / new.norm()) if scale == "code" else (1.0, 1.0)
            wanted[:, neuron] = 3.0 * other * new - 0.5 * one * old
        update = updates(change)[ref.name]
        torch.testing.assert_close(update, wanted, rtol=1e-5, atol=1e-5)
        a, _ = change.factors()[ref.name]
        assert torch.equal(a.sum(1), torch.ones(len(a)))
        assert torch.equal(a, a.bool().float()), "A holds one-hot rows, so that rank is the number of neurons"
    check_forward(model, change)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_it_loads_again_says_what_it_measured_and_is_undone(kind: str, smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico(kind, smollm2.tokenizer)
    change = made(model, EDITS, tmp_path / "run", scale="search")
    before = model.fingerprint
    changed = load_change(change.folder).apply(model)
    entry, edit = read_entries(change.folder)[-1], EDITS[-1]
    score = changed.logprob([edit.prompt], [edit.target_new])[0]
    assert score.logprob / score.tokens == pytest.approx(
        float(torch.tensor(entry.measured["probability"]).log()), abs=1e-2
    )
    changed.undo()
    assert model.fingerprint == before
    assert not hasattr(model.model, "peft_config")


def test_a_search_goes_no_further_than_the_probability_that_is_asked_for(
    smollm2: LanguageModel, tmp_path: Path
) -> None:
    model = pico("llama", smollm2.tokenizer)
    found = []
    for reach in (1e-9, 0.999):
        change = made(model, EDITS[:1], tmp_path / f"{reach}", scale="search", reach=reach)
        measured = read_entries(change.folder)[0].measured
        found.append((measured["size"], change.record.measures["update_norm"], measured["token_probability"]))
    assert found[0] < found[1]
    assert found[0][2] < found[1][2], "the new token becomes more probable"


def test_the_neurons_are_those_of_attributions_by_finite_differences(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    texts = (EDITS[0].prompt, *EDITS[0].paraphrases)
    token, steps = first_token(model, EDITS[0], "Norway"), 4
    by_hand = [_attributions(model, model.encode_pair(text, "Sweden")[0], token, steps) for text in texts]
    chosen, p = refined_neurons(torch.stack(by_hand).float().flatten(1))
    change = made(model, EDITS[:1], tmp_path / "run", path_steps=steps)
    assert neurons_of(change) == sorted(divmod(number, by_hand[0].shape[1]) for number in chosen.tolist())
    assert read_entries(change.folder)[0].measured["shared_by"] == pytest.approx(p)


def _attributions(model: LanguageModel, context: list[int], token: int, steps: int) -> torch.Tensor:
    """Att by central differences of plain forwards in float64, ``(blocks, neurons)``."""
    whole = model.model.double()
    ids, found = torch.tensor([context]), []
    try:
        for ref in mlp_outputs(whole):
            own: list[torch.Tensor] = []
            handle = ref.module.register_forward_hook(lambda _, given, __, own=own: own.append(given[0][0, -1]))
            with torch.no_grad():
                whole(ids)
            handle.remove()
            a = own[0]
            slopes = []
            for share in range(1, steps + 1):
                shifts = 1e-4 * torch.cat([torch.eye(len(a)), -torch.eye(len(a))]).double()
                high, low = _chances(whole, ref.module, ids, share / steps * a + shifts, token).chunk(2)
                slopes.append((high - low) / 2e-4)
            found.append(a * torch.stack(slopes).mean(0))
    finally:
        model.model.float()
    return torch.stack(found)


@torch.no_grad()
def _chances(whole: Any, module: nn.Module, ids: torch.Tensor, rows: torch.Tensor, token: int) -> torch.Tensor:
    def put(_: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (torch.cat([given[0][:, :-1], rows[:, None]], 1), *given[1:])

    handle = module.register_forward_pre_hook(put)
    logits = whole(ids.repeat(len(rows), 1)).logits[:, -1]
    handle.remove()
    return logits.softmax(-1)[:, token]


def test_paraphrases_choose_the_neurons_and_prefixes_where_there_are_none_or_the_user_wants(
    smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, seen = pico("llama", smollm2.tokenizer), []

    def attributions(model: LanguageModel, contexts: Any, tokens: Any, *, steps: int) -> torch.Tensor:
        seen.append([model.tokenizer.decode(context) for context in contexts])
        return token_attributions(model, contexts, tokens, steps=steps)

    monkeypatch.setattr("keeps.edit.kn.token_attributions", attributions)
    made(model, EDITS, tmp_path / "one")
    made(model, EDITS[:1], tmp_path / "two", wordings="prefixes")
    assert seen[0] == [EDITS[0].prompt, *EDITS[0].paraphrases]
    for number, edit in ((1, EDITS[1]), (2, EDITS[0])):
        assert [text.endswith(edit.prompt) for text in seen[number]] == [True, True]
        assert seen[number][1] != edit.prompt


def test_edits_are_made_in_order_and_one_can_be_withdrawn(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("gpt2", smollm2.tokenizer)
    both = made(model, EDITS, tmp_path / "both")
    first = made(model, EDITS[:1], tmp_path / "first")
    left: Any = withdraw(both.folder, ["b"], tmp_path / "left", model)
    assert [entry.id for entry in read_entries(left.folder)] == ["a"]
    assert neurons_of(left) == neurons_of(first) == neurons_of(both)
    assert left.factors().keys() == first.factors().keys()
    for name, update in updates(left).items():
        torch.testing.assert_close(update, updates(first)[name])
    check_forward(model, left)
    check_merged(model, both, tmp_path / "merged")


def test_answers_that_begin_alike_are_edited_where_they_part(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    edit = Edit("a", "Oslo", "Oslo is the capital of", "United States", "United Kingdom")
    place = KN(KNSettings()).place(model, edit, ())
    start, goal = model.encode_pair(edit.prompt, edit.target_new)
    assert place.contexts == [start + goal[:1]]
    assert [model.tokenizer.decode([token]) for token in (place.old, place.new)] == [" Kingdom", " States"]
    with pytest.raises(RecordError, match="begins with the new one"):
        made(model, [replace(edit, target_new="United")], tmp_path / "run")


def test_without_an_old_answer_the_model_s_own_counts(smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    place = KN(KNSettings()).place(model, EDITS[1], ())
    with torch.no_grad():
        said = int(model.model(torch.tensor([model.encode_pair(EDITS[1].prompt, "x")[0]])).logits[0, -1].argmax())
    assert place.old == said
    assert place.new == first_token(model, EDITS[1], "Darkhan")


def test_the_output_embeddings_can_be_taken(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("qwen2", smollm2.tokenizer)  # its two tables differ
    change = made(model, EDITS[:1], tmp_path / "run", embedding="output", lambda1=0.0, lambda2=1.0)
    module: Any = model.model
    wanted = module.get_output_embeddings().weight[first_token(model, EDITS[0], "Sweden")]
    for _, b in change.factors().values():
        torch.testing.assert_close(b, wanted[:, None].expand_as(b))


def test_a_miss_is_said(smollm2: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, said = pico("llama", smollm2.tokenizer), []
    monkeypatch.setattr("keeps.contracts.SilentProgress.message", lambda _, text: said.append(text))
    made(model, EDITS[:1], tmp_path / "run", scale="search", reach=1e-6)
    assert any("1 of 1 edits did not make the new token the likeliest" in text for text in said)


def test_weights_come_back_when_an_edit_fails(
    smollm2: LanguageModel, tmp_path: Path, power_cut: Callable[[str], None]
) -> None:
    model = pico("llama", smollm2.tokenizer)
    before = model.fingerprint

    power_cut("keeps.edit.kn.probabilities")
    with pytest.raises(RuntimeError, match="power cut"):
        KN(KNSettings(**QUICK))(model, EDITS, run=Run(tmp_path))
    assert model.fingerprint == before


def test_what_cannot_be_edited_is_refused(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    with pytest.raises(EmptySetError):
        made(model, [], tmp_path / "run")
    with pytest.raises(RecordError, match='want "Sweden" and "Peru"'):
        made(model, [EDITS[0], Edit("z", "Oslo", "Oslo is the capital of", "Peru")], tmp_path / "run")
    with pytest.raises(ContextLengthError):
        made(model, [Edit("z", "Oslo", "Oslo " * 200 + "is in", "Peru")], tmp_path / "run")
    with pytest.raises(SettingsError, match="no neuron speaks"):
        made(model, EDITS[1:], tmp_path / "run", refine=False, share=1.0, threshold=0.99)
    module: Any = model.model
    module.model.embed_tokens = nn.Embedding(100, 16)
    with pytest.raises(TargetError, match="16 dimensions and the blocks 32"):
        KNSettings().check_model(model)
    mlp_outputs(model.model)[1].module.weight = nn.Parameter(torch.zeros(32, 48, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TargetError, match="quantised"):
        KNSettings().check_model(model)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"least": 6}, "6 neurons at least"),
        ({"refine": False, "most": 9}, "would do nothing with refine off"),
        ({"reach": 0.5}, "reach would do nothing"),
        ({"share": 0.0}, "share"),
        ({"order": "batch"}, "order"),
        ({"scale": "large"}, "scale"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        KNSettings.from_mapping(values)


def test_the_vector_of_a_slot_is_the_equation_of_the_paper_or_of_its_code() -> None:
    generator = torch.Generator().manual_seed(0)
    values, old, new = torch.randn(7, 3, generator=generator), *torch.randn(2, 7, generator=generator)
    plain = slot_changes(values, old, new, 1.0, 8.0, "equation")
    assert all(torch.equal(plain[:, n], 8.0 * new - old) for n in range(3))
    for n, change in enumerate(slot_changes(values, old, new, 0.0, 2.0, "code").T):
        assert float(change.norm()) == pytest.approx(2 * float(values[:, n].norm()), rel=1e-5)


@pytest.mark.slow
def test_a_search_makes_the_new_token_likeliest_on_the_default_model(smollm2: LanguageModel, tmp_path: Path) -> None:
    edit = Edit("a", "Austria", "The capital of Austria is", "Ankara", "Vienna")
    change = made(smollm2, [edit], tmp_path / "run", scale="search", path_steps=20)
    assert read_entries(change.folder)[0].measured["token_is_likeliest"]
