"""What every method of the verb promises, checked on a tiny model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from method_contract import Runs, has_form, tensors_of

from keeps.data.records import Example, RecordSet
from keeps.models.changes import load_change, source_of
from keeps.models.logits import CHECK_TEXTS, check_logits, largest_difference
from keeps.registry import FORMS, find_method

LEARN = RecordSet("learn", tuple(Example(f"l{n}", f"The number after {n} is", str(n + 1)) for n in range(12)))
KEEP = RecordSet("keep", tuple(Example(f"k{n}", f"The double of {n} is", str(2 * n)) for n in range(12)))


@dataclass
class Contract(Runs):
    """Runs methods on the tiny model and checks what all of them promise."""

    verb: ClassVar[str] = "adapt"
    learn: RecordSet = LEARN
    keep: RecordSet = KEEP

    def data(self) -> tuple[Any, Any]:
        """See :class:`method_contract.Runs`."""
        return self.learn, self.keep

    def check_learns(self, method: str, **settings: Any) -> None:
        """The loss falls, in training and on what lies on disk, and the measures say what it took."""
        change, run = self.run(method, **{"epochs": 6, **settings})
        losses = [value for name, _, value in run.curves if name == "epoch_loss"]
        assert len(losses) == 6
        assert losses[-1] < 0.7 * losses[0], losses
        prompts, answers = zip(*((record.prompt, record.answer) for record in self.learn), strict=True)  # type: ignore[union-attr]
        before = sum(score.logprob for score in self.model.logprob(prompts, answers))
        changed = change.apply(self.model)
        after = sum(score.logprob for score in changed.logprob(prompts, answers))
        changed.undo()
        assert after > before + 0.3 * abs(before), (before, after)
        measures = change.record.measures
        assert measures["steps"] == 18
        assert measures["trained_parameters"] > 0
        assert measures["disk_bytes"] == sum(path.stat().st_size for path in change.folder.glob("*.safetensors"))

    def check_seeds(self, method: str, **settings: Any) -> None:
        """One seed gives the same bytes twice, another seed others; the caller's random numbers are not touched."""
        torch.manual_seed(5)
        state = torch.get_rng_state()
        tensors = [tensors_of(self.run(method, seed=seed, **settings)[0].folder) for seed in (0, 0, 1)]
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
        assert not all(torch.equal(tensor, tensors[2][name]) for name, tensor in tensors[0].items())

    def check_folder(self, method: str, **settings: Any) -> None:
        """The folder loads without keeps, gives the logits of the trained model, and knows its origin."""
        change, run = self.run(method, **settings)
        changed = load_change(change.folder).apply(self.model)
        ours = check_logits(changed.model, self.model.tokenizer)
        changed.undo()
        plain = _plainly_loaded(change.folder, source_of(self.model))
        with torch.no_grad():
            ids = [torch.tensor([self.model.tokenizer(text)["input_ids"]]) for text in CHECK_TEXTS]
            theirs = [plain(row).logits[0] for row in ids]
        assert largest_difference(ours, theirs) < 1e-5
        assert largest_difference(ours, check_logits(self.model.model, self.model.tokenizer)) > 0.01
        record = change.record
        assert record == load_change(change.folder).record, "what is returned is what is written"
        assert (record.method, record.seed, record.base_fingerprint) == (method, run.seed, self.model.fingerprint)
        assert record.data["learn"] == self.learn.fingerprint
        if record.kind == "adapter":
            assert 0 <= record.measures["export_difference"] < 1e-4
        info = find_method(method, "adapt")
        forms = info.forms_with(info.settings.from_mapping(record.settings))
        assert set(forms) == {form for form in FORMS if has_form(change, form)}, "said before training, true after it"
        names = {path.name for path in change.folder.iterdir()}
        assert "start.safetensors" not in names
        assert not any(name.endswith(".partial") for name in names)

    def check_refused_data_leaves_the_model_alone(self, method: str, **settings: Any) -> None:
        """An example longer than the context is refused, whatever was wrapped or reduced before."""
        from keeps.errors import ContextLengthError

        too_long = RecordSet("long", (*self.learn, Example("long", "word " * 200, "end")))
        with pytest.raises(ContextLengthError, match='record "long"'):
            Contract(self.model, self.folder, learn=too_long).run(method, **settings)


def _plainly_loaded(folder: Path, base: str) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if not (folder / "adapter_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder)).eval()
