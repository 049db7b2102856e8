"""LoftQ: quantise every weight and start LoRA from what that lost (Li et al. 2023, arXiv:2310.08659, ICLR 2024).

    y = Q x + s B (A x)

    repeat T times:   Q = q_N(W - s B A),   s B A = SVD_r(W - Q)        (algorithm 1, from B A = 0)

Q holds N bits a weight and is frozen. An ordinary LoRA on a quantised base starts from q_N(W), whose error nothing
makes good but training; here the low-rank part starts as the best correction of that error, and Q is quantised
again so that it suits the correction.

Use when: the result has to run on a base of few bits, and the model must lose as little as possible by that; memory
for the weights is short where the model is going to answer.

Needs: facts, examples or texts to learn. Guarantees: with ``alternations=1`` the start is never further from the
weights than quantising alone. Not guaranteed, unlike with LoRA: step 0 is near the base and not the base; how near
is measured (``quantisation_error``, against ``quantisation_error_plain`` without the correction).

What is written is a plain transformers checkpoint with Q + s B A in float. The difference to the base, (Q - W) + s B A,
has full rank, so no LoRA on the untouched base can hold it and none is offered. ``write_quantised`` adds the folder
``quantised/``: the adapter of rank r for peft, and in ``quantised/base/`` the Q that it belongs to, again a plain
checkpoint. Its weights are numbers of the levels of ``code``, so that quantising them once more in the same way
(in float32, and for peft's 4 bits: NF4 in blocks of 64) changes nothing but their last bit.

The embeddings and the vocabulary projection stay as they are. Training computes with Q read back into float: the
arithmetic is that of a quantised base, the memory while training is not; ``quantised_bytes`` is what a store of
N bits would take. The published code takes the tail of NormalFloat from NF4 whatever N is (``tail=nf4``). Its evenly
spaced levels lie around zero (``code=uniform_absmax``), those of the paper between the least and the largest number of
a block (``code=uniform``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import KeepsError, SettingsError, StorageError
from keeps.models.adapter_files import write_adapter
from keeps.models.adapters import WrappedModel, lora_layers
from keeps.models.changes import CheckpointChange
from keeps.models.checkpoint_files import save_checkpoint
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits
from keeps.models.plain_layers import on_plain_layers
from keeps.models.targets import check_dense, find_targets, layer_ranks
from keeps.numerics.oriented import AdapterStart
from keeps.numerics.quantisation import BITS, BLOCK, CODES, TAILS, LoftQStart, Quantised, Quantiser, loftq_start
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import START_FILE, AdapterSettings, measure_export, same_everywhere, wrap
from keeps.training.examples import tokenise
from keeps.training.loop import train
from keeps.training.whole import write_whole
from keeps.weights.files import atomic_write_bytes, load_metadata, load_tensors, save_tensors

QUANTISED = "quantised"  # folder of the adapter and the base it belongs to
QUANTISED_NOTE = """This adapter belongs to the quantised weights in `base/`. On any other base it gives a wrong model.

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), ".")
"""


@dataclass(frozen=True, kw_only=True)
class LoftQSettings(AdapterSettings):
    """Settings of LoftQ."""

    bits: int = setting(4, "Bits N of a quantised weight: 2, 3, 4 or 8", ge=2, le=8, unit="bits")
    code: str = setting("nf", "Levels: NormalFloat, or evenly spaced from least to largest or by |x|", choices=CODES)
    alternations: int = setting(5, "Times T that weights are quantised and corrected in turn", ge=1)
    block: int = setting(BLOCK, "Neighbouring weights that share a scale", ge=2, advanced=True)
    tail: str = setting(
        "own",
        "Outermost quantile of NormalFloat: its own, or that of NF4 (official code)",
        choices=TAILS,
        advanced=True,
    )
    write_quantised: bool = setting(False, "Write the adapter and the quantised base it belongs to as well")

    @property
    def quantiser(self) -> Quantiser:
        """q_N."""
        code: Any = self.code
        tail: Any = self.tail
        return Quantiser(self.bits, code, self.block, tail)

    def check(self) -> None:
        """Refuse numbers of bits that there are no levels for, and a tail that would change nothing."""
        if self.bits not in BITS:
            raise SettingsError(f"bits is {self.bits}", mend=f"choose one of {', '.join(map(str, BITS))}")
        if self.tail == "nf4" and (self.code != "nf" or self.bits == 4):
            mend = 'leave tail out, or choose code "nf" and other bits than 4'
            raise SettingsError(f'tail "nf4" changes nothing with code "{self.code}" and {self.bits} bits', mend=mend)


@method(
    "loftq",
    verb="adapt",
    paper="arXiv:2310.08659",
    summary="LoRA on a base of few bits, started from the part of each weight that quantising lost.",
    card="corda",
    needs=("learn",),
    forms=("merged",),
)
class LoftQ:
    """LoRA-fine-tuning-aware quantisation."""

    Settings = LoftQSettings

    def __init__(self, settings: LoftQSettings) -> None:
        self.settings = settings

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> CheckpointChange:
        """Quantise, train A and B on ``learn``, write Q + s B A to ``run.folder``; ``model`` is restored bit by bit.

        Raises:
            TargetError: a target matches nothing, a rank does not fit, or a weight is quantised already.
            StatisticsError: a weight is not finite, or is made of the levels already.
            StorageError: the folder is not writable, or holds the starts of another job.
        """
        del keep  # nothing here protects it
        settings = self.settings
        settings.check_model(model)
        check_dense(find_targets(model.model, settings.targets))
        examples = tokenise(model, learn)  # first: what is too long is refused before the weights are decomposed
        starts = stored_quantised(settings, run) or quantised_starts(model, settings, run)
        trained: list[Tensor] = []
        quantised = run.folder / QUANTISED

        def training(module: Any, originals: Mapping[str, Tensor]) -> None:
            del originals
            wrapped = wrap_quantised(model, settings, starts, run)
            try:
                train(wrapped.peft_model, examples, settings, run, pad_token_id=model.encoder.pad_token_id)
                trained.extend(check_logits(wrapped.peft_model, model.tokenizer))
                factors = wrapped.factors()
                if run.is_main and settings.write_quantised:
                    quantised.mkdir(exist_ok=True)
                    write_adapter(quantised, wrapped.peft_model, factors, multiple=1, base="base")
                    atomic_write_bytes(quantised / "README.md", QUANTISED_NOTE.encode())
            finally:
                wrapped.unwrap()
            if run.is_main and settings.write_quantised:
                save_checkpoint(module, model.tokenizer, quantised / "base")
            with torch.no_grad():
                for name, (a, b) in factors.items():  # Q + s B A
                    weight = module.get_submodule(name).weight
                    weight.copy_((weight.double() + settings.scaling * (b.double() @ a.double())).to(weight.dtype))
            if run.is_main:
                (run.folder / START_FILE).unlink(missing_ok=True)

        data = {"learn": learn.fingerprint}
        change = write_whole(model, training, settings, run, method="loftq", data=data)
        measure_export(change, model, trained, run)
        return change


def quantised_starts(model: LanguageModel, settings: LoftQSettings, run: Run) -> dict[str, LoftQStart]:
    """Q, A and B of every target layer; ``run.measures`` gets their errors, as means over the layers, and bytes.

    Raises:
        StatisticsError: a weight is not finite, or is made of the levels already; the layer is named.
    """
    layers = find_targets(model.model, settings.targets)
    ranks = layer_ranks(layers, settings.rank, settings.rank_pattern)
    quantiser = settings.quantiser
    starts = {}
    with run.progress.task("quantise", len(layers)) as task:
        for name, layer in layers.items():
            try:
                starts[name] = loftq_start(
                    layer.weight, ranks[name], settings.scaling, quantiser, settings.alternations
                )
            except KeepsError as error:
                raise type(error)(error.what, where=name, mend=error.mend) from None
            task.advance()
    counts = [layer.weight.numel() for layer in layers.values()]
    run.measures |= {
        "quantisation_bits": settings.bits,
        "quantisation_error": sum(start.error for start in starts.values()) / len(starts),
        "quantisation_error_plain": sum(start.plain_error for start in starts.values()) / len(starts),
        "quantised_bytes": sum(map(quantiser.stored_bytes, counts)),
        "unquantised_bytes": sum(layer.weight.numel() * layer.weight.element_size() for layer in layers.values()),
    }
    if run.is_main:
        tensors: dict[str, Tensor] = {}
        for name, start in starts.items():
            tensors |= {f"{name}.a": start.adapter.a, f"{name}.b": start.adapter.b}
            tensors |= {f"{name}.{part}": value for part, value in vars(start.quantised).items()}
        metadata = {"measures": json.dumps(run.measures), "made_with": _decides(settings)}
        save_tensors(run.folder / START_FILE, tensors, metadata)
    return starts


def stored_quantised(settings: LoftQSettings, run: Run) -> dict[str, LoftQStart]:
    """What :func:`quantised_starts` had found for an interrupted run, or nothing; with its measures.

    Raises:
        StorageError: the file is damaged, or of another method or other settings.
    """
    path = run.folder / START_FILE
    if not same_everywhere(run.is_main and run.resume and path.exists()):
        return {}
    tensors, metadata = load_tensors(path), load_metadata(path)
    if metadata.get("made_with") != _decides(settings):
        raise _other_job(path)
    run.measures.update(json.loads(metadata["measures"]))
    names = dict.fromkeys(key.rsplit(".", 1)[0] for key in tensors)
    try:
        return {
            name: LoftQStart(
                Quantised(*(tensors[f"{name}.{part}"] for part in ("codes", "scale", "shift"))),
                AdapterStart(tensors[f"{name}.a"], tensors[f"{name}.b"], torch.empty(0)),
                0.0,  # the errors are among the measures
                0.0,
            )
            for name in names
        }
    except KeyError as error:
        raise StorageError(f"the start lacks {error}", where=str(path), mend="start anew without --resume") from None


def wrap_quantised(
    model: LanguageModel, settings: LoftQSettings, starts: Mapping[str, LoftQStart], run: Run
) -> WrappedModel:
    """``model`` with Q in its target layers and an adapter on each; whoever calls it keeps W.

    Raises:
        StorageError: ``starts`` are of other layers or ranks.
    """
    layers = find_targets(model.model, settings.targets)
    ranks = layer_ranks(layers, settings.rank, settings.rank_pattern)
    wanted = {
        name: ((ranks[name], layer.in_features), (layer.out_features, ranks[name])) for name, layer in layers.items()
    }
    if wanted != {name: (start.adapter.a.shape, start.adapter.b.shape) for name, start in starts.items()}:
        raise _other_job(run.folder / START_FILE)
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(settings.quantiser.dequantised(starts[name].quantised, layer.weight))
        wrapped = wrap(model, settings, seed=run.seed)
        for name, layer in lora_layers(wrapped.peft_model).items():
            layer.lora_A["default"].weight.copy_(starts[name].adapter.a)
            layer.lora_B["default"].weight.copy_(starts[name].adapter.b)
    return wrapped


def _decides(settings: LoftQSettings) -> str:
    """What the starts depend on beside the model and the ranks."""
    return json.dumps([asdict(settings.quantiser), settings.alternations, settings.scaling])


def _other_job(path: Path) -> StorageError:
    what = "the interrupted run started from other layers or ranks, or was quantised in another way"
    return StorageError(what, where=str(path), mend="repeat its settings and model, or start anew without --resume")
