"""Fusion as a method: what it trains towards, writes, measures and refuses, with tokenizers that really differ."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers_of_texts import TEXTS, trained

from keeps.contracts import Run
from keeps.data.records import Passage, RecordSet
from keeps.errors import ContextLengthError, EmptySetError, SettingsError, StorageError
from keeps.merge.fusion import Fusion, FusionSettings
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.logit_dumps import Dumped, cut_pieces, dump_logits
from keeps.registry import find_method
from keeps.training.source_fusion import SELECTOR, FusionLoss

FAST: dict[str, Any] = {"learning_rate": 5e-3, "epochs": 12, "batch_size": 4, "window": 48, "selector_rate": 1e-2}


def made(bare_llama: Any, kind: str, seed: int, size: int = 400) -> LanguageModel:
    tokenizer = trained(kind, size)
    model = bare_llama(seed=seed, vocab_size=len(tokenizer), max_position_embeddings=128)
    return LanguageModel(model, tokenizer, name=f"{kind}{seed}")


@pytest.fixture
def target(bare_llama: Any) -> LanguageModel:
    return made(bare_llama, "bytes", 0)


@pytest.fixture
def sources(bare_llama: Any) -> dict[str, LanguageModel]:
    return {"same": made(bare_llama, "bytes", 1), "other": made(bare_llama, "sentencepiece", 2, 300)}


def fused(model: LanguageModel, sources: Any, folder: Path, learn: Any = TEXTS, **settings: Any) -> Run:
    folder.mkdir(parents=True)
    run = Run(folder)
    Fusion(FusionSettings(**{**FAST, **settings}))(model, learn, sources, run=run)
    return run


def distance(model: LanguageModel, source: LanguageModel) -> float:
    """Mean KL(source || model) behind every token of the texts; both have the same tokens."""
    total = []
    for text in TEXTS:
        ids = torch.tensor([model.encoder.text(text)])
        with torch.no_grad():
            p, q = (each.model(ids).logits[0].log_softmax(-1) for each in (source, model))
        total.append(float((p.exp() * (p - q)).sum(-1).mean()))
    return sum(total) / len(total)


def test_the_result_is_a_plain_checkpoint_and_the_model_gets_its_weights_back(
    target: LanguageModel, sources: Any, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in target.model.state_dict().items()}
    run = fused(target, sources, tmp_path / "run")
    assert all(torch.equal(before[name], value) for name, value in target.model.state_dict().items())
    assert target.model.state_dict().keys() == before.keys()
    stored = load_file(tmp_path / "run" / "model.safetensors")
    assert not [name for name in stored if SELECTOR in name]
    change = load_change(run.folder)
    assert change.record.method == "fusion"
    changed = change.apply(target)
    assert changed.text_logprob(TEXTS[:1])[0].logprob > -1e9
    assert any(not torch.equal(before[name], value) for name, value in target.model.state_dict().items())
    changed.undo()
    assert all(torch.equal(before[name], value) for name, value in target.model.state_dict().items())


def test_trained_towards_one_source_alone_it_becomes_like_that_source(
    target: LanguageModel, sources: Any, tmp_path: Path
) -> None:
    start = distance(target, sources["same"])
    options = {"language_weight": 0.0, "reference": False, "top_k": 400, "epochs": 60}
    run = fused(target, {"same": sources["same"]}, tmp_path / "run", **options)
    changed = load_change(run.folder).apply(target)
    assert distance(changed, sources["same"]) < 0.35 * start
    assert run.measures["sources"]["same"] == pytest.approx({"heard": 1.0, "matched": 1.0, "weight": 1.0})


def test_it_says_how_often_each_source_was_heard_and_what_it_weighs(
    target: LanguageModel, sources: Any, tmp_path: Path
) -> None:
    run = fused(target, sources, tmp_path / "run")
    found = run.measures["sources"]
    assert set(found) == {"same", "other", "reference"}
    assert found["reference"]["heard"] == found["same"]["heard"] == 1
    assert 0 < found["other"]["heard"] <= found["other"]["matched"] < 1
    assert sum(each["weight"] for each in found.values()) == pytest.approx(1)
    assert 0 <= run.measures["usage_entropy"] <= 1.0987
    plain = {"selector_rate": 1e-3}
    exact = fused(target, sources, tmp_path / "exact", mapping="exact", strategy="min_ce", **plain).measures["sources"]
    assert exact["other"]["heard"] <= found["other"]["heard"]
    warped = fused(target, sources, tmp_path / "dtw", alignment="dtw", strategy="avg_ce", **plain).measures["sources"]
    assert warped["other"]["matched"] > 0.5 * found["other"]["matched"]


def test_a_dump_read_before_gives_the_same_bits_as_the_source_itself(
    target: LanguageModel, sources: Any, tmp_path: Path
) -> None:
    pieces = cut_pieces(target, TEXTS, FAST["window"])
    dumped = {}
    for name, source in sources.items():
        path = tmp_path / f"{name}.safetensors"
        dump_logits(source, pieces, top_k=10).save(path)
        dumped[name] = Dumped(path, source.tokenizer)
    fused(target, sources, tmp_path / "live")
    fused(target, dumped, tmp_path / "stored")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("live", "stored")]
    assert files[0] == files[1]
    with pytest.raises(StorageError, match="of other texts"):
        fused(target, dumped, tmp_path / "cut", window=20)
    wrong = {"same": Dumped(dumped["same"].path, sources["other"].tokenizer)}
    with pytest.raises(StorageError, match="another tokenizer"):
        fused(target, wrong, tmp_path / "wrong")


def test_the_network_learns_to_leave_out_a_source_that_knows_nothing(
    target: LanguageModel, sources: Any, tmp_path: Path, bare_llama: Any
) -> None:
    run = fused(target, {"same": sources["same"]}, tmp_path / "good", epochs=40)
    good = load_change(run.folder).apply(target)
    learned = LanguageModel(target.model, target.tokenizer, name="learned")
    bad = made(bare_llama, "bytes", 7)
    pieces = cut_pieces(learned, TEXTS, FAST["window"])
    path = tmp_path / "learned.safetensors"
    dump_logits(learned, pieces).save(path)
    good.undo()
    options = {"epochs": 60, "language_weight": 0.2, "reference": False, "feedback": 0.02}
    found = fused(target, {"learned": Dumped(path, target.tokenizer), "bad": bad}, tmp_path / "run", **options)
    weights = {name: each["weight"] for name, each in found.measures["sources"].items()}
    assert weights["bad"] < 0.1


def test_an_error_in_the_midst_of_training_leaves_the_model_as_it_was_and_no_result(
    target: LanguageModel, sources: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: value.clone() for name, value in target.model.state_dict().items()}
    steps: list[int] = []

    class Fails(FusionLoss):
        def forward(self, batch: Any) -> torch.Tensor:
            steps.append(1)
            if len(steps) > 2:
                raise RuntimeError("the disk is gone")
            return super().forward(batch)

    monkeypatch.setattr("keeps.training.source_fusion.FusionLoss", Fails)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        fused(target, sources, tmp_path / "run")
    assert len(steps) == 3
    assert target.model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], value) for name, value in target.model.state_dict().items())
    assert not (tmp_path / "run" / "change.json").exists()


def test_records_and_lists_of_texts_are_the_same(target: LanguageModel, sources: Any, tmp_path: Path) -> None:
    records = RecordSet("texts", tuple(Passage(str(n), text) for n, text in enumerate(TEXTS)))
    for name, learn in (("list", list(TEXTS)), ("records", records)):
        fused(target, {"same": sources["same"]}, tmp_path / name, learn, epochs=1)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("list", "records")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_the_default_model_teaches_a_small_one_of_another_tokenizer(
    target: LanguageModel, smollm2: LanguageModel, tmp_path: Path
) -> None:
    options = {"language_weight": 0.0, "reference": False, "epochs": 40}
    run = fused(target, {"default": smollm2}, tmp_path / "run", **options)
    found = run.measures["sources"]["default"]
    assert 0.1 < found["heard"] < 1
    losses = [value for name, _, value in run.curves if name == "loss"]
    assert losses[-1] < 0.7 * losses[0]
    before = target.text_logprob(TEXTS[:3])
    changed = load_change(run.folder).apply(target)
    after = changed.text_logprob(TEXTS[:3])
    assert all(new.logprob > old.logprob for new, old in zip(after, before, strict=True))
    changed.undo()


def test_what_cannot_be_fused_is_refused(target: LanguageModel, sources: Any, tmp_path: Path, bare_llama: Any) -> None:
    short = LanguageModel(bare_llama(vocab_size=700, max_position_embeddings=8), trained("sentencepiece"), name="short")
    calls: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
        ({}, TEXTS, {"reference": False}, SettingsError, "no source"),
        ({"reference": sources["same"]}, TEXTS, {}, SettingsError, "the target as it was"),
        (sources, [], {}, EmptySetError, "no text"),
        (sources, ["  "], {}, EmptySetError, "no text"),
        (sources, "one text", {}, SettingsError, "is one text"),
        ({"short": short}, TEXTS, {}, ContextLengthError, "which reads 8"),
    ]
    for number, (given, learn, options, error, what) in enumerate(calls):
        with pytest.raises(error, match=what):
            fused(target, given, tmp_path / str(number), learn, **options)
        assert not list((tmp_path / str(number)).iterdir())


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"threshold": 1.0}, "threshold"),
        ({"language_weight": 1.0}, "language_weight"),
        ({"strategy": "best"}, "strategy"),
        ({"strategy": "min_ce", "feedback": 1.0}, "feedback would do nothing"),
        ({"remainder": "drop", "temperature": 2.0}, "no temperature"),
        ({"window": 4}, "window"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        FusionSettings(**settings)


def test_listing_it_imports_no_tensor_library() -> None:
    code = "import sys, keeps.merge.fusion; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
    assert find_method("fusion", "merge").card == "fusion_x"
