"""Mix-CPT: the contract in both forms, the loss of stage 1, what is chosen for stage 2, DPO, and interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import keeps.adapt.mix_cpt as module
from keeps.adapt.mix_cpt import MixCPT, MixCPTSettings
from keeps.contracts import Run, SilentProgress
from keeps.data.records import Dialogue, Passage, Preference, RecordSet
from keeps.errors import EmptySetError, InterruptedRunError, SettingsError, StorageError
from keeps.models import LanguageModel
from keeps.training.distilled import DOMAIN
from keeps.training.losses import AnswerLoss
from keeps.training.mixture import plain_examples, sample_of
from keeps.training.preferences import response_logprobs
from keeps.training.selection import SELECTION_FILE

FIRST: dict[str, Any] = {"stages": "knowledge"}
ADAPTER: dict[str, Any] = {"parameters": "adapter", "rank": 4}
DOCUMENTS = RecordSet("documents", tuple(Passage(f"p{n}", f"Mr {n} Orbel lives in house {n * n}.") for n in range(6)))
TALK = tuple(
    Dialogue(f"d{n}", (("user", f"What comes after {n}?"), ("assistant", f"It is {n + 1}."))) for n in range(6)
)
PAIRS = tuple(Preference(f"r{n}", f"Name a number above {n}.", f"Surely {n + 3}.", "No idea at all.") for n in range(5))


# --- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{**FIRST, "distil": 0.3}, {**FIRST, **ADAPTER, "rank": 8, "distil": 0.3, "learning_rate": 0.03}]
)
def test_it_learns(contract: Any, settings: dict[str, Any]) -> None:
    contract.keep = None
    contract.check_learns("mix_cpt", **settings)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("mix_cpt", sft_samples=4, sft_epochs=1, steps=1)


@pytest.mark.parametrize("settings", [{}, ADAPTER, {**ADAPTER, "teacher": "live", "dropout": 0.1}])
def test_its_folder_loads_in_plain_libraries(contract: Any, settings: dict[str, Any]) -> None:
    contract.check_folder("mix_cpt", sft_samples=4, sft_epochs=1, steps=2, **settings)


@pytest.mark.parametrize("settings", [{}, ADAPTER])
def test_refused_data_leaves_the_model_alone(contract: Any, settings: dict[str, Any]) -> None:
    contract.check_refused_data_leaves_the_model_alone("mix_cpt", **settings)


# --- stage 1: the loss ----------------------------------------------------------------------------


def test_without_distillation_it_is_plain_training_on_the_mixture(contract: Any, monkeypatch: Any) -> None:
    seen = []
    real = module.train

    def recorded(*args: Any, **options: Any) -> Any:
        seen.append(options["loss"])
        return real(*args, **options)

    monkeypatch.setattr(module, "train", recorded)
    contract.run("mix_cpt", **FIRST, steps=1, distil=0)
    assert len(seen) == 1
    assert issubclass(seen[0], AnswerLoss)


def test_distilling_keeps_the_model_nearer_to_what_it_was(contract: Any) -> None:
    contract.learn, contract.keep = DOCUMENTS, None
    ids = [torch.tensor([contract.model.encode_prompt(passage.text)]) for passage in DOCUMENTS.passages()]

    def said() -> list[torch.Tensor]:
        with torch.no_grad():
            return [contract.model.model(row).logits.log_softmax(-1) for row in ids]

    before, distance = said(), {}
    for weight in (0.0, 3.0):
        change, _ = contract.run("mix_cpt", **FIRST, epochs=8, distil=weight)
        changed = change.apply(contract.model)
        distance[weight] = sum(float((b.exp() * (b - a)).sum()) for b, a in zip(before, said(), strict=True))
        changed.undo()
    assert distance[3.0] < 0.8 * distance[0.0]


# --- stage 1: the mixture -------------------------------------------------------------------------


def test_each_kind_of_record_goes_to_its_stream(contract: Any, tmp_path: Path) -> None:
    learn = RecordSet("learn", (*DOCUMENTS, *TALK[:2], *PAIRS))
    keep = RecordSet("keep", (*contract.keep, *TALK[2:]))
    run = Run(tmp_path)
    material = MixCPT(MixCPTSettings(ratio=(1, 100, 100))).material(contract.model, learn, keep, run)
    tokens = {
        "domain": plain_examples(contract.model, DOCUMENTS.records, 64),
        "general": plain_examples(contract.model, [*TALK, *contract.keep], 64),
        "preferred": plain_examples(contract.model, PAIRS, 64),
    }
    for name, examples in tokens.items():
        assert run.measures[f"{name}_tokens"] == sum(len(example.input_ids) for example in examples)
    assert sum(example.kind == DOMAIN for example in material.texts) == len(DOCUMENTS)
    assert (len(material.samples), len(material.pairs)) == (len(TALK) + len(contract.keep), len(PAIRS))


# --- stage 2: which samples -----------------------------------------------------------------------


def test_the_format_stage_learns_responses_in_the_chat_template(contract: Any, monkeypatch: Any) -> None:
    seen = []
    monkeypatch.setattr(
        module, "train", lambda trained, examples, settings, run, **_: seen.append((examples, settings)) or _costs(run)
    )
    contract.learn, contract.keep = RecordSet("talk", TALK), None
    contract.run("mix_cpt", stages="format", sft_samples=2, sft_learning_rate=0.25, sft_epochs=3)
    (examples, settings), *others = seen
    assert not others
    assert (len(examples), settings.learning_rate, settings.epochs, settings.steps) == (2, 0.25, 3, None)
    for example in examples:
        text = contract.model.tokenizer.decode(example.input_ids[example.answer_start :])
        assert text.startswith("It is ")
        assert "<|im_end|>" in text
        assert "<|im_start|>user" in contract.model.tokenizer.decode(example.input_ids[: example.answer_start])


def _costs(run: Run) -> None:
    run.measures.update(train_seconds=0.0, tokens=0, steps=0)


# --- stage 3: preferences -------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, ADAPTER])
def test_preferred_responses_gain_on_the_others(contract: Any, settings: dict[str, Any]) -> None:
    contract.learn, contract.keep = RecordSet("pairs", PAIRS), None
    options = {"stages": "format", "dpo_learning_rate": 0.003, "dpo_epochs": 6, "batch_size": 3, **settings}
    change, run = contract.run("mix_cpt", **options)
    losses = [value for name, _, value in run.curves if name == "dpo_loss"]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3), "log 2 before the first step"
    assert losses[-1] < 0.9 * losses[0]
    assert run.measures["steps"] == 12
    examples = [example for record in PAIRS for example in sample_of(contract.model, record).templated]

    def margin() -> float:
        sums = response_logprobs(contract.model.model, examples, 2).view(-1, 2)
        return float((sums[:, 0] - sums[:, 1]).mean())

    before = margin()
    changed = change.apply(contract.model)
    after = margin()
    changed.undo()
    assert after > before + 0.1


# --- interruption ---------------------------------------------------------------------------------


def _stopping(real: Any, stage: str, step: int) -> Any:
    """``train``, stopped after ``step`` steps of one stage as if the user had pressed Control-C."""

    def train(*args: Any, **options: Any) -> Any:
        def stop(_: Any, done: int, __: Any) -> None:
            if done == step and options["checkpoint"].endswith(stage):
                raise KeyboardInterrupt

        return real(*args, **options, after_step=stop)

    return train


@pytest.mark.parametrize("settings", [{}, {**ADAPTER, "dropout": 0.2}])
def test_a_run_stopped_in_any_stage_continues_to_the_same_bytes(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, Any]
) -> None:
    contract.learn = RecordSet("learn", (*DOCUMENTS, *TALK, *PAIRS))
    options = {"steps": 2, "sft_samples": 4, "dpo_learning_rate": 0.01, "checkpoint_every": 0, "score": "random"}
    whole, undisturbed = contract.run("mix_cpt", **options, **settings)
    expected = contract_tensors(whole.folder)
    folder = tmp_path / "stopped"
    folder.mkdir()
    for stage in ("stage1", "stage2", "stage3"):
        with monkeypatch.context() as patch:
            patch.setattr(module, "train", _stopping(module.train, stage, 1))
            with pytest.raises(InterruptedRunError):
                contract.run("mix_cpt", folder=folder, resume=stage != "stage1", **options, **settings)
    continued, run = contract.run("mix_cpt", folder=folder, resume=True, **options, **settings)
    found = contract_tensors(continued.folder)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert len(found) == len(expected)
    curves = [(name, step) for name, step, _ in run.curves]
    assert curves == [(name, step) for name, step, _ in undisturbed.curves]
    assert len(set(curves)) == len(curves), "no two points of one curve at a step"
    assert run.measures["steps"] == undisturbed.measures["steps"]


def contract_tensors(folder: Path) -> dict[str, torch.Tensor]:
    from keeps.weights import load_tensors

    return {name: value for path in folder.glob("*.safetensors") for name, value in load_tensors(path).items()}


def test_a_continued_run_takes_the_samples_it_had_chosen_and_refuses_a_damaged_list(
    contract: Any, tmp_path: Path
) -> None:
    change, _ = contract.run("mix_cpt", sft_samples=3, steps=1, folder=tmp_path)
    chosen = json.loads((change.folder / SELECTION_FILE).read_text())
    assert len(chosen["sft"]) == 3
    (tmp_path / SELECTION_FILE).write_text('{"sft": [0], "dpo": []}')
    _, run = contract.run("mix_cpt", sft_samples=3, steps=1, folder=tmp_path, resume=True)
    assert sum(name == "sft_loss" for name, _, _ in run.curves) == 2, "one sample, two epochs"
    (tmp_path / SELECTION_FILE).write_text("{")
    with pytest.raises(StorageError, match="selection is damaged"):
        contract.run("mix_cpt", sft_samples=3, steps=1, folder=tmp_path, resume=True)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"distil": -1}, "distil"),
        ({"ratio": (5, 4)}, "three numbers"),
        ({"ratio": (0, 4, 1)}, "first above 0"),
        ({"ratio": (5, -4, 1)}, "not below it"),
        ({"rank": 8}, 'rank would do nothing, since parameters is "full"'),
        ({"distil": 0, "swap": False}, "swap would do nothing, since distil is 0"),
        ({"stages": "format", "distil": 0.5}, 'distil would do nothing, since stages is "format"'),
        ({"stages": "knowledge", "score": "fas"}, 'score would do nothing, since stages is "knowledge"'),
        ({"next_token": False, "scope": "general"}, "would not be learned"),
        ({"score": "ppl"}, "score"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        MixCPTSettings(**values)


def test_a_model_that_writes_templates_is_refused(tiny_llama_folder: Path, tmp_path: Path) -> None:
    model = LanguageModel.load(tiny_llama_folder, chat="always")
    with pytest.raises(SettingsError, match="stage 1 reads plain text"):
        MixCPT(MixCPTSettings())(model, DOCUMENTS, run=Run(tmp_path))
    model = LanguageModel.load(tiny_llama_folder)
    model.tokenizer.chat_template = None
    with pytest.raises(SettingsError, match="the tokenizer has none"):
        MixCPT(MixCPTSettings(score="fas"))(model, DOCUMENTS, run=Run(tmp_path))


def test_a_stage_without_data_is_refused_or_said_to_be_left_out(contract: Any) -> None:
    contract.learn, contract.keep = RecordSet("talk", TALK), None
    with pytest.raises(EmptySetError, match="nothing of a domain"):
        contract.run("mix_cpt")
    contract.learn = DOCUMENTS
    with pytest.raises(EmptySetError, match="nothing to teach a format with"):
        contract.run("mix_cpt", stages="format")
    told: list[str] = []

    class Told(SilentProgress):
        def message(self, text: str) -> None:
            told.append(text)

    run = Run(contract.folder, progress=Told())
    MixCPT(MixCPTSettings(steps=1, batch_size=2))(contract.model, DOCUMENTS, run=run)
    assert any("the instruction format is left out" in text for text in told)
