"""What every method of the verb promises, checked on a tiny model: a new method asks for ``contract``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from method_contract import Runs, has_form, left_alone, tensors_of
from torch import Tensor

from keeps.contracts import Run
from keeps.data.records import Example, RecordSet
from keeps.errors import EmptySetError, InterruptedRunError, RecordError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.logits import check_logits, largest_difference
from keeps.registry import FORMS, find_method
from keeps.training import unlearn
from keeps.training.examples import tokenise
from keeps.training.loop import train
from keeps.training.settings import TrainingSettings

FORGET = RecordSet("forget", tuple(Example(f"f{n}", f"The number after {n} is", str(n + 1)) for n in range(6)))
RETAIN = RecordSet("retain", tuple(Example(f"r{n}", f"The double of {n} is", str(2 * n)) for n in range(6)))


@dataclass
class Contract(Runs):
    """Runs methods on the tiny model and checks what all of them promise."""

    verb: ClassVar[str] = "unlearn"
    forget: RecordSet = FORGET
    retain: RecordSet | None = RETAIN

    def data(self) -> tuple[Any, Any]:
        """See :class:`method_contract.Runs`."""
        return self.forget, self.retain

    def losses(self, change: Any = None) -> tuple[float, float]:
        """Mean loss of an answer of the forget and of the retain set, of the model or with a change applied."""
        answerer: Any = self.model if change is None else change.apply(self.model)
        try:
            return loss_of(answerer, self.forget), loss_of(answerer, self.retain or RETAIN)
        finally:
            if change is not None:
                answerer.undo()

    def check_forgets(self, method: str, *, margin: float = 0.5, **settings: Any) -> None:
        """The loss of the forget set rises, and by more than that of the retain set."""
        before = self.losses()
        change, run = self.run(method, **{"epochs": 6, "rank": 8, **settings})
        after = self.losses(change)
        assert after[0] > before[0] + margin, (before, after)
        assert after[0] - before[0] > after[1] - before[1], (before, after)
        assert change.record.measures["steps"] == 12
        assert run.measures["trained_parameters"] > 0

    def check_folder(self, method: str, **settings: Any) -> None:
        """Adapter and whole weights load again, say what they are, and depend on the seed alone."""
        for parameters in ("adapter", "full"):
            own = {"rank": 2} if parameters == "adapter" else {"learning_rate": 1e-3}
            change, _ = self.run(method, **{**settings, **own, "parameters": parameters})
            again, _ = self.run(method, **{**settings, **own, "parameters": parameters})
            assert same(tensors_of(change.folder), tensors_of(again.folder))
            loaded = load_change(change.folder)
            assert loaded.record == change.record
            assert loaded.record.method == method
            assert loaded.record.data["forget"] == self.forget.fingerprint
            changed = loaded.apply(self.model)
            moved = check_logits(changed.model, self.model.tokenizer)
            changed.undo()
            assert largest_difference(moved, check_logits(self.model.model, self.model.tokenizer)) > 1e-4
            info = find_method(method, "unlearn")
            forms = info.forms_with(info.settings.from_mapping(change.record.settings))
            assert set(forms) == {form for form in FORMS if has_form(change, form)}

    def check_refusals(self, method: str, **settings: Any) -> None:
        """Nothing to forget, a record in both sets, an answer without a token."""
        empty = Contract(self.model, self.folder / "empty", forget=RecordSet("nothing", ()))
        empty.folder.mkdir()
        with pytest.raises(EmptySetError, match="nothing to forget"):
            empty.run(method, **settings)
        both = Contract(self.model, self.folder / "both", retain=RecordSet("both", (*RETAIN, FORGET.records[0])))
        both.folder.mkdir()
        with pytest.raises(RecordError, match="to be retained and"):
            both.run(method, **settings)
        blank = RecordSet("blank", (Example("blank", "The answer is", " "),))
        silent = Contract(self.model, self.folder / "silent", forget=blank)
        silent.folder.mkdir()
        with pytest.raises(RecordError, match="empty"):
            silent.run(method, **settings)

    def check_resumes(self, method: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        """A run that is stopped and continued ends in the same bytes."""
        settings = {"rank": 2, "checkpoint_every": 0, **settings}
        whole, _ = self.run(method, **settings)
        folder = self.folder / "stopped"
        folder.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(unlearn, "train", stopping(unlearn.train, 2))
            with pytest.raises(InterruptedRunError):
                self.run(method, folder=folder, **settings)
        change, _ = self.run(method, folder=folder, resume=True, **settings)
        assert same(tensors_of(change.folder), tensors_of(whole.folder))


def loss_of(answerer: Any, records: RecordSet) -> float:
    """Mean loss of an answer, summed over its tokens."""
    prompts, answers = zip(*((record.prompt, record.answer) for record in records), strict=True)  # type: ignore[union-attr]
    return -sum(score.logprob for score in answerer.logprob(prompts, answers)) / len(records)


def stopping(real: Any, step: int) -> Any:
    """``train``, stopped after ``step`` steps as if the user had pressed Control-C."""

    def stop(_: Any, done: int, __: Any) -> None:
        if done == step:
            raise KeyboardInterrupt

    return partial(_with_hook, real, stop)


def _with_hook(real: Any, stop: Any, *args: Any, **options: Any) -> Any:
    own = options.get("after_step") or (lambda *_: None)

    def both(*state: Any) -> Any:
        ended = own(*state)  # a method's own hook sees the step before the user stops it
        stop(*state)
        return ended

    return real(*args, **{**options, "after_step": both})


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether both hold the same bits under the same names."""
    return bool(one) and one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="session")
def loaded_tiny(tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """The tiny model after it has learned both sets: what was never known cannot be forgotten."""
    model = LanguageModel.load(tiny_llama_folder)
    examples = tokenise(model, RecordSet("both", (*FORGET, *RETAIN)))
    settings = TrainingSettings(epochs=60, batch_size=12, learning_rate=0.01, stop_loss=0.1)
    run = Run(tmp_path_factory.mktemp("taught"))
    train(model.model, examples, settings, run, pad_token_id=model.encoder.pad_token_id)
    assert loss_of(model, FORGET) < 0.5
    return model


@pytest.fixture
def contract(loaded_tiny: LanguageModel, tmp_path: Path) -> Any:
    """A :class:`Contract` whose model must be bit by bit the same after the test."""
    with left_alone(loaded_tiny):
        yield Contract(loaded_tiny, tmp_path)
