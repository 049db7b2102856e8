"""A shelf of LoRA adapters for one base, and how well each of them does a few labelled examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from keeps.contracts import ChangeRecord, Run
from keeps.errors import RecordError, SettingsError, StorageError, TargetError
from keeps.models.adapter_files import check_fits, read_config, read_factors, read_magnitudes, scaling_of
from keeps.models.adapters import Factors, added
from keeps.models.changes import check_base
from keeps.models.experts import ExpertsConfig, WrappedExperts, put_experts
from keeps.models.language_model import LanguageModel
from keeps.models.locate import is_linear
from keeps.numerics.expert_selection import Pair, padded_pair, reasoning_perplexity


@dataclass(frozen=True)
class Shot:
    """A labelled example: what is asked, the answer, and why it is the answer."""

    prompt: str
    answer: str
    rationale: str = ""

    @property
    def target(self) -> str:
        """What is scored and learned: the answer, then the rationale, and the line's end."""
        return "\n".join(part for part in (self.answer, self.rationale) if part) + "\n"


@dataclass(frozen=True)
class BankAdapter:
    """An adapter of the shelf: W + scaling * B A in every layer of ``factors``."""

    name: str
    folder: Path
    factors: Factors
    scaling: float

    @property
    def pairs(self) -> list[Pair]:
        """A and B, in the order of the layers' names."""
        return [self.factors[name] for name in sorted(self.factors)]


@dataclass(frozen=True)
class AdapterScore:
    """How an adapter does the shots: share answered exactly, and perplexity of answers with their reasons."""

    name: str
    exact_match: float
    perplexity: float


def read_bank(model: LanguageModel, folders: Mapping[str, Path]) -> list[BankAdapter]:
    """The adapters in these folders, by name: peft's own, or runs of ``keeps adapt``.

    Raises:
        SettingsError: there is none.
        StorageError: one was made for another base, is missing or damaged, or is not plain LoRA.
        TargetError: one changes other layers than the first.
    """
    bank = []
    for name, place in folders.items():
        folder = Path(place)
        if (folder / "change.json").exists():
            check_base(ChangeRecord.read(folder), model, folder)
        config, factors = read_config(folder), read_factors(folder)
        check_fits(model.model, factors, folder)
        if read_magnitudes(folder):
            mend = "take a plain LoRA adapter"
            raise StorageError("an adapter with magnitudes (DoRA) is more than B A", where=str(folder), mend=mend)
        if config.get("rank_pattern") or config.get("alpha_pattern"):
            mend = "take adapters of one rank, or write this one anew"
            raise StorageError("the adapter has ranks of its own in some layers", where=str(folder), mend=mend)
        bank.append(BankAdapter(name, folder, factors, scaling_of(config)))
    if not bank:
        raise SettingsError("the shelf holds no adapter", where="adapters", mend="name some folders")
    for other in bank[1:]:
        odd = sorted(other.factors.keys() ^ bank[0].factors.keys())
        if odd:
            what = f"{other.name} and {bank[0].name} do not change the same layers: {odd[0]}"
            raise TargetError(what, where=str(other.folder), mend="leave one of them out")
    return bank


def score_adapters(
    model: LanguageModel, bank: Sequence[BankAdapter], shots: Sequence[Shot], *, max_new_tokens: int = 16, run: Run
) -> list[AdapterScore]:
    """Exact match and reasoning perplexity of each adapter, in the order of the shelf; the model comes back as it was.

    Exact match is that of the first line that is said, without case and the marks around it.

    Raises:
        RecordError: there is no shot, or one without a rationale.
    """
    check_shots(shots)
    prompts = [shot.prompt for shot in shots]
    targets = [shot.target for shot in shots]
    scores = []
    with run.progress.task("asking the adapters", len(bank)) as bar:
        for adapter in bank:
            with added(model.model, adapter.factors, adapter.scaling):
                said = model.generate(prompts, max_new_tokens=max_new_tokens)
                found = model.logprob(prompts, targets)
            hits = [_bare(text) == _bare(shot.answer) for text, shot in zip(said, shots, strict=True)]
            perplexity = reasoning_perplexity([each.logprob for each in found], [each.tokens for each in found])
            scores.append(AdapterScore(adapter.name, sum(hits) / len(hits), perplexity))
            bar.advance()
    return scores


def _bare(text: str) -> str:
    """Without case and the marks around it; articles stay, for "A" is an answer too."""
    return text.strip(" \t\n.,:;!?\"'()").casefold()


def check_shots(shots: Sequence[Shot]) -> None:
    """Refuse no shots, and shots without a reason, whose likelihood is what adapters are told apart by.

    Raises:
        RecordError: see above.
    """
    if not shots:
        raise RecordError("there is no labelled example", where="shots", mend="give five or more")
    bare = [number for number, shot in enumerate(shots) if not shot.rationale.strip()]
    if bare:
        mend = "write why the answer is right, or let a strong model do so"
        raise RecordError("a labelled example has no rationale", where=f"shot {bare[0] + 1}", mend=mend)


def put_mixture(module: Any, group: Sequence[BankAdapter], *, top_k: int, dropout: float = 0.0) -> WrappedExperts:
    """The adapters as experts in every layer that they change; each token goes to ``top_k`` of them.

    Experts are as wide as the widest adapter, and each keeps its own scaling, which goes into B. Routers are drawn
    from torch's random numbers as they stand. Everything else is frozen.

    Raises:
        TargetError: a layer is not there.
        SettingsError: fewer than two adapters, or fewer than ``top_k``.
    """
    modules = dict(module.named_modules())
    names = sorted(group[0].factors)
    layers: dict[str, Any] = {}
    for name in names:
        layer = modules.get(name)
        if not is_linear(layer):
            raise TargetError(f"{name} is no linear layer", mend="take adapters of linear layers")
        layers[name] = layer
    rank = max(a.shape[0] for adapter in group for a, _ in adapter.pairs)
    config = ExpertsConfig((0,) * len(group), rank, float(rank), top_k, dropout)  # alpha / rank = 1
    wrapped = put_experts(module, config, layers)
    for name, layer in wrapped.layers.items():
        layer.start()
        with torch.no_grad():
            for number, adapter in enumerate(group):
                a, b = padded_pair(*adapter.factors[name], rank, adapter.scaling)
                layer.A[number].copy_(a)
                layer.B[number].copy_(b)
    return wrapped
