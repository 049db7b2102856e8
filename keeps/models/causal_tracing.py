"""One prompt run clean, with noise on its subject, and with some of its clean states put back.

What changes at a token changes nothing at the tokens before it, so these are computed once for each noise sample and
kept as keys and values; nor does it change the blocks below, which are skipped. Every restoration is a row of a batch
that goes on from there. That this gives what running everything gives is tried on the first prompt of each model; one
that does not agree is run whole.

The noise stands on what the embedding layer gives, before positions are added. Source: Meng et al. 2022,
arXiv:2202.05262, section 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from keeps.errors import EmptySetError, TargetError
from keeps.models.attention_layers import ATTENTION_PARTS
from keeps.models.cache import CacheState
from keeps.models.checks import check_context
from keeps.models.edit_rows import captured
from keeps.models.language_model import LanguageModel
from keeps.models.layer_inputs import changed_output
from keeps.models.limits import engine_for
from keeps.models.locate import blocks, subject_span
from keeps.models.projection import chunks, hidden_states, read_positions, reading_of, unwrapped
from keeps.models.suffixes import entered_with, gives_tuple

STATE, MLP, ATTENTION = "state", "mlp", "attention"
KINDS = (STATE, MLP, ATTENTION)
DEPTHS = 6  # batches by the first block that is changed: what lies below is not run again
VOCABULARY = 1 << 17  # columns that a batch of logits is reckoned with
_FLAG = "_keeps_tracing"  # kept on the module, so that it lives and dies with it


@dataclass(frozen=True)
class Restoration:
    """What is put back in one row: the outputs of one kind, in these blocks, at these tokens."""

    kind: str
    tokens: tuple[int, ...]
    blocks: tuple[int, ...]


def traced_modules(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Of each kind the module of each block: the block itself, its MLP, its attention.

    The parts are told by what they hold: matrices, and a name with attention in it or not.

    Raises:
        TargetError: a block has no part of a kind.
    """
    found: dict[str, list[nn.Module]] = {kind: [] for kind in KINDS}
    for number, block in enumerate(blocks(model)):
        parts = [(name, part) for name, part in block.named_children() if any(p.dim() > 1 for p in part.parameters())]
        attention = [part for name, part in parts if any(word in name.lower() for word in ATTENTION_PARTS)]
        rest = [part for _, part in parts if part not in attention]
        if not attention or not rest:
            missing = "MLP" if attention else "attention"
            mend = "choose a transformer whose blocks have an attention and an MLP"
            raise TargetError(f"no {missing} is found in the block", where=f"block {number}", mend=mend)
        for kind, part in ((STATE, block), (MLP, rest[-1]), (ATTENTION, attention[0])):
            found[kind].append(part)
    return found


def embedding_deviation(model: LanguageModel, prompts: Sequence[str], subjects: Sequence[str]) -> float:
    """The standard deviation of the embeddings of all subjects' tokens, over tokens and entries.

    Raises:
        EmptySetError: there is no subject.
        RecordError: a prompt does not name its subject.
    """
    if not prompts:
        raise EmptySetError("there is no subject whose embedding could be read", mend="give at least one fact")
    tokens: list[int] = []
    for prompt, subject in zip(prompts, subjects, strict=True):
        first, last = subject_span(model.encoder, prompt, subject)
        tokens += model.encode_prompt(prompt)[first : last + 1]
    with model._reading() as engine:
        given = _embedding(model.model)(torch.tensor([tokens], device=engine.device))
    return float(given.float().std())


class TracedPrompt:
    """The runs of one prompt; nothing of the model is changed once a call returns.

    Args:
        noise: standard deviation of what is added to each entry of the subject's embeddings.
        samples: of the noise, the same ones for every restoration.
        seed: with the prompt alone it decides the noise.
        fast: skip what a restoration cannot reach; None where that agrees with running everything.

    Attributes:
        tokens: ids of the prompt.
        first, last: places of the subject's first and last token.
        clean: probabilities after the clean run, ``(vocabulary,)`` float32 on the CPU.

    Raises:
        RecordError: the prompt does not name the subject.
        ContextLengthError: the prompt is longer than the model's context.
        TargetError: the model is no decoder of blocks with attention and MLP, or puts tokens of its own in front.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt: str,
        subject: str,
        *,
        noise: float,
        samples: int,
        seed: int = 0,
        fast: bool | None = None,
    ) -> None:
        self.model = model
        self.tokens = model.encode_prompt(prompt)
        check_context(0, prompt, len(self.tokens), model.context_length, model.name)
        self.first, self.last = subject_span(model.encoder, prompt, subject)
        self.modules = traced_modules(model.model)
        self.engine = engine_for(model.model, model.encoder.pad_token_id, model.tokens_per_batch)
        with model._reading():
            reading_of(model.model)  # tests the model by itself, before any hook is on it
        self._begun: dict[int, CacheState] = {}
        self._states = self._run_and_keep(None, self.modules)
        if len(self._states[STATE][0][0]) != len(self.tokens):
            mend = "choose a model without learned prompts"
            raise TargetError("the model puts tokens of its own in front of the prompt", where=model.name, mend=mend)
        self.noise = self._noise(prompt, noise, samples, seed)
        self._corrupted = self._run_and_keep(self.noise, {STATE: self.modules[STATE]})[STATE]
        self.fast = self._agrees() if fast is None else fast

    @property
    def blocks(self) -> int:
        """How many there are."""
        return len(self.modules[STATE])

    def corrupted(self, token: int) -> Tensor:
        """P(token) with noise on the subject and nothing restored, ``(samples,)``."""
        return self.restored([Restoration(STATE, (self.first,), ())], token)[0]

    def restored(self, wanted: Sequence[Restoration], token: int) -> Tensor:
        """P(token) with noise on the subject and each of these restored, ``(restorations, samples)`` on the CPU."""
        found = torch.empty(len(wanted), len(self.noise))
        by_beginning: dict[int, list[int]] = {}
        for number, restoration in enumerate(wanted):
            begin = min(restoration.tokens) if self.fast else 0
            by_beginning.setdefault(begin, []).append(number)
        with self.model._reading():
            for begin, numbers in by_beginning.items():
                numbers.sort(key=lambda number: min(wanted[number].blocks, default=0))
                rows = [(number, sample) for number in numbers for sample in range(len(self.noise))]
                at_once = self._rows_at_once(begin, len(rows))
                for start in range(0, len(rows), at_once):
                    part = rows[start : start + at_once]
                    places = torch.tensor(part)
                    found[places[:, 0], places[:, 1]] = self._run(part, wanted, begin, token)
        return found

    def _rows_at_once(self, begin: int, rows: int) -> int:
        """As many as fit; fewer where that lets the later ones skip blocks that they do not change."""
        fitting = min(self.engine.budget // (len(self.tokens) - begin), self.engine.slots // len(self.tokens))
        return max(1, min(fitting, -(-rows // DEPTHS) if self.fast else fitting))

    def _run(self, rows: Sequence[tuple[int, int]], wanted: Sequence[Restoration], begin: int, token: int) -> Tensor:
        """P(token) of rows ``(restoration, sample)``, all of which are restored at ``begin`` or later."""
        device = self.engine.device
        samples = torch.tensor([sample for _, sample in rows])
        past = self._beginning(begin).select(samples.to(device)) if begin else None
        ids = torch.tensor([self.tokens[begin:]] * len(rows), device=device)
        below = min((min(wanted[number].blocks, default=0) for number, _ in rows), default=0) if self.fast else 0
        with ExitStack() as stack:
            stack.enter_context(_added(_embedding(self.model.model), self.noise[samples, begin:]))
            if below:
                states = self._corrupted[below - 1][samples.to(device), begin:]
                stack.enter_context(entered_with(self.modules[STATE][:below], states, in_tuple=self._in_tuple))
            for (kind, block), places in _places(rows, wanted).items():
                row, column = torch.tensor(places, device=device).T
                values = self._states[kind][block][0, column]
                stack.enter_context(_replaced(self.modules[kind][block], row, column - begin, values, ids.shape[1]))
            return self._probabilities(ids, past, token)

    def _probabilities(self, ids: Tensor, past: CacheState | None, tokens: Any) -> Tensor:
        """The probabilities of ``tokens`` behind each row, on the CPU."""
        last = torch.zeros_like(ids, dtype=torch.bool)
        last[:, -1] = True
        vectors, head = read_positions(self.model.model, ids, torch.ones_like(ids), last, past=past)
        return torch.cat([head(vectors[p]).float().softmax(-1)[:, tokens].cpu() for p in chunks(len(ids), VOCABULARY)])

    def _beginning(self, begin: int) -> CacheState:
        """Keys and values of the corrupted tokens before ``begin``, a row a noise sample."""
        if begin not in self._begun:
            ids = torch.tensor([self.tokens[:begin]] * len(self.noise), device=self.engine.device)
            state = CacheState.empty(len(ids), ids.device)
            with _added(_embedding(self.model.model), self.noise[:, :begin]):
                hidden_states(self.model.model, ids, torch.ones_like(ids), past=state)
            self._begun = {begin: state}  # one is held at a time
        return self._begun[begin]

    def _run_and_keep(self, noise: Tensor | None, modules: Mapping[str, list[nn.Module]]) -> dict[str, list[Tensor]]:
        """What these modules give, ``(samples, time, hidden)`` each; without noise it is one clean row."""
        rows = 1 if noise is None else len(noise)
        ids = torch.tensor([self.tokens] * rows, device=self.engine.device)
        with self.model._reading(), ExitStack() as stack:
            if noise is not None:
                stack.enter_context(_added(_embedding(self.model.model), noise))
            seen = [stack.enter_context(captured(dict(enumerate(own)))) for own in modules.values()]
            tuples = stack.enter_context(gives_tuple(modules[STATE][0]))
            probabilities = self._probabilities(ids, None, slice(None))
        if noise is None:
            self.clean, self._in_tuple = probabilities[0], bool(tuples)
        return {
            kind: [outputs[n].reshape(rows, -1, outputs[n].shape[-1]) for n in range(len(own))]
            for (kind, own), outputs in zip(modules.items(), seen, strict=True)
        }

    def _noise(self, prompt: str, scale: float, samples: int, seed: int) -> Tensor:
        """``(samples, time, width)``, zero outside the subject."""
        number = int.from_bytes(hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()[:7], "big")
        generator = torch.Generator().manual_seed(number)
        width = int(cast(Any, _embedding(self.model.model)).weight.shape[1])
        found = torch.zeros(samples, len(self.tokens), width)
        subject = slice(self.first, self.last + 1)
        found[:, subject] = scale * torch.randn(found[:, subject].shape, generator=generator)
        return found

    def _agrees(self) -> bool:
        """Whether skipping gives what running everything gives; tried once a model, on the first prompt."""
        if not self.engine.may_cache(len(self.tokens)):
            return False
        if hasattr(self.model.model, _FLAG):
            return bool(getattr(self.model.model, _FLAG))
        token, middle = int(self.clean.argmax()), self.blocks // 2
        tried = [Restoration(kind, (self.last,), (block,)) for kind in KINDS for block in (middle, self.blocks - 1)]
        found = []
        for self.fast in (False, True):
            try:
                found.append(self.restored(tried, token).clamp_min(1e-30).log())
            except (RuntimeError, TypeError, AttributeError, ValueError, NotImplementedError, IndexError):
                if not self.fast:
                    raise
        half = next(self.model.model.parameters()).dtype != torch.float32
        agrees = len(found) == 2 and bool((found[0] - found[1]).abs().max() <= (0.1 if half else 1e-3))
        setattr(self.model.model, _FLAG, agrees)
        return agrees


def _places(
    rows: Sequence[tuple[int, int]], wanted: Sequence[Restoration]
) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """Where rows are restored, ``(row, token)``, by kind and block."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for row, (number, _) in enumerate(rows):
        restoration = wanted[number]
        for block in restoration.blocks:
            found.setdefault((restoration.kind, block), []).extend((row, token) for token in restoration.tokens)
    return found


def _embedding(model: nn.Module) -> nn.Module:
    return cast(Any, unwrapped(model)).get_input_embeddings()


def _added(embedding: nn.Module, noise: Tensor) -> AbstractContextManager[None]:
    """``noise`` ``(rows, time, width)`` added to what the embedding layer gives."""
    return changed_output(embedding, lambda output: output + noise.to(output))


def _replaced(
    module: nn.Module, rows: Tensor, places: Tensor, values: Tensor, time: int
) -> AbstractContextManager[None]:
    """The output of ``module`` with ``values`` at these places of these rows, each of ``time`` tokens."""

    def restored(states: Tensor) -> Tensor:
        flat = states.reshape(-1, states.shape[-1]).clone()  # some models give batch and time as one dimension
        flat[rows * time + places] = values.to(flat)
        return flat.view_as(states)

    return changed_output(module, restored)
