"""What is read to find where a fact goes: prompts of an edit with its subject, its target, and what must not move.

A row is a text as token ids, with the position of the subject's last token and the positions whose next-token
distribution is read. Positions are found in each tokenised text anew, from character offsets: prefixes move them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from keeps.data.edits import Edit
from keeps.errors import RecordError
from keeps.models.batching import pad_right
from keeps.models.checks import check_context
from keeps.models.language_model import LanguageModel
from keeps.models.locate import blocks, first_blocks, mention, mlp_outputs, subject_end
from keeps.models.projection import evaluating, hidden_states, read_positions

REWRITE, LOCALITY = "rewrite", "locality"
ESSENCE = "{subject} is a"  # what the subject is must stay: arXiv:2202.05262, equation 4
END, SUBJECT = "end", "subject"  # where that is read: the paper asks for the next word, its code looks at the subject
BEGINNINGS = ("The", "Therefore", "Because", "I", "You")  # of the model's own texts that become prefixes
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Row:
    """One text.

    Attributes:
        edit: number of its edit.
        kind: ``"rewrite"`` (prompt and target) or ``"locality"``.
        tokens: ids of the text, without the last token of the target, after which nothing is read.
        subject: position of the subject's last token.
        reads: positions whose next token is predicted.
        targets: the tokens that belong there; empty of a locality row.
    """

    edit: int
    kind: str
    tokens: tuple[int, ...]
    subject: int
    reads: tuple[int, ...]
    targets: tuple[int, ...] = ()


@dataclass
class Reading:
    """What a model says to rows.

    Attributes:
        logits: ``(reads, vocabulary)`` float32, row after row.
        subject_states: block -> its output at each row's subject, ``(rows, hidden)``.
        read_states: block -> its output at each read, ``(reads, hidden)``.
    """

    logits: Tensor
    subject_states: dict[int, Tensor] = field(default_factory=dict)
    read_states: dict[int, Tensor] = field(default_factory=dict)


def own_prefixes(model: LanguageModel, short: int, long: int, seed: int) -> tuple[str, ...]:
    """Texts that the model writes itself, ``short`` ones of 5 tokens and ``long`` ones of 10, each ending in ``". "``.

    They begin with :data:`BEGINNINGS` in turn. What is drawn depends on the model and the seed alone.
    """
    lengths = [5] * short + [10] * long
    starts = [BEGINNINGS[number % len(BEGINNINGS)] for number in range(len(lengths))]
    found: list[str] = [""] * len(lengths)
    for length in dict.fromkeys(lengths):
        numbers = [number for number, each in enumerate(lengths) if each == length]
        texts = model.sample(
            [starts[number] for number in numbers],
            [seed * 1_000_003 + number for number in numbers],
            temperature=1.0,
            top_p=0.9,
            max_new_tokens=length,
            stop=(),
        )
        for number, text in zip(numbers, texts, strict=True):
            found[number] = f"{starts[number]} {' '.join(text.split())}".rstrip(" .") + ". "
    return tuple(found)


def edit_rows(
    model: LanguageModel,
    edits: Sequence[Edit],
    prefixes: Sequence[str] = (),
    *,
    essence: bool = True,
    essence_at: str = END,
) -> list[list[Row]]:
    """The rows of each edit: the bare prompt first, then with each prefix, then (``essence``) what must stay.

    Args:
        essence_at: :data:`END` or :data:`SUBJECT`, where the last of these is read.

    Raises:
        RecordError: an edit without a subject in its prompt, or without a target.
        ContextLengthError: a text is longer than the model's context.
    """
    found = []
    for number, edit in enumerate(edits):
        rows = [rewrite_row(model, number, edit, prefix) for prefix in ("", *prefixes)]
        found.append([*rows, _essence_row(model, number, edit, essence_at)] if essence else rows)
    return found


def check_subject(edit: Edit) -> None:
    """Refuse an edit that does not say where the model looks its fact up.

    Raises:
        RecordError: it names no subject.
    """
    if not edit.subject.strip():
        what = "the edit names no subject, and the method writes to where the model looks it up"
        raise RecordError(what, where=f"edit {edit.id}", mend="name the subject, or use ft_m, lora_edit, grace or ike")


def rewrite_row(model: LanguageModel, number: int, edit: Edit, prefix: str = "") -> Row:
    """The prompt of ``edit`` behind ``prefix``, with the target that it should be answered with."""
    check_subject(edit)
    prompt = prefix + edit.prompt
    start, target = model.encode_pair(prompt, edit.target_new)
    check_context(number, prompt, len(start) + len(target), model.context_length, model.name)
    reads = tuple(range(len(start) - 1, len(start) + len(target) - 1))
    place = subject_end(model.encoder, prompt, edit.subject)
    return Row(number, REWRITE, tuple(start + target[:-1]), place, reads, tuple(target))


def _essence_row(model: LanguageModel, number: int, edit: Edit, at: str) -> Row:
    subject = edit.prompt[slice(*mention(edit.prompt, edit.subject))]
    text = ESSENCE.format(subject=subject)
    ids = model.encode_prompt(text)
    place = subject_end(model.encoder, text, subject)
    return Row(number, LOCALITY, tuple(ids), place, (place if at == SUBJECT else len(ids) - 1,))


@torch.no_grad()
def read_rows(model: LanguageModel, rows: Sequence[Row], states: Sequence[int] = ()) -> Reading:
    """What the model says at every read of ``rows``, by a plain forward; with the outputs of the blocks ``states``."""
    logits, subjects, reads = [], {n: [] for n in states}, {n: [] for n in states}
    found = blocks(model.model)
    with evaluating(model.model):
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            ids, mask = pad_right([row.tokens for row in part], model.encoder.pad_token_id, model.device)
            wanted = positions_of(part, ids.shape[1]).to(ids.device)
            with captured({n: found[n] for n in states}) as outputs:
                vectors, head = read_positions(model.model, ids, mask, wanted)
            logits.append(head(vectors).float())
            places = torch.tensor([row.subject for row in part], device=ids.device)
            for n in states:
                subjects[n].append(outputs[n][torch.arange(len(part), device=ids.device), places])
                reads[n].append(outputs[n][wanted])
    return Reading(
        torch.cat(logits), {n: torch.cat(v) for n, v in subjects.items()}, {n: torch.cat(v) for n, v in reads.items()}
    )


def positions_of(rows: Sequence[Row], width: int, *, shift: Sequence[int] | None = None) -> Tensor:
    """True where ``rows`` are read, ``(rows, width)``; ``shift`` is what each row lacks at its beginning."""
    wanted = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        for place in row.reads:
            wanted[number, place - (shift[number] if shift else 0)] = True
    return wanted


@torch.no_grad()
def subject_inputs(
    model: LanguageModel, rows: Sequence[Row], layers: Sequence[int]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Keys and block outputs at the subject's last token; nothing after it is computed, nor any block above.

    Returns:
        Of each layer the input of the MLP's down-projection, ``(rows, in)``, and the output of the block,
        ``(rows, hidden)``, both float64.
    """
    refs, found = mlp_outputs(model.model), blocks(model.model)
    keys: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    outs: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    with evaluating(model.model), first_blocks(model.model, max(layers) + 1):
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            beginnings = [row.tokens[: row.subject + 1] for row in part]
            ids, mask = pad_right(beginnings, model.encoder.pad_token_id, model.device)
            with (
                captured({layer: refs[layer].module for layer in layers}, inputs=True) as read,
                captured({layer: found[layer] for layer in layers}) as written,
            ):
                hidden_states(model.model, ids, mask)
            places = torch.arange(len(part), device=ids.device), mask.sum(1) - 1
            for layer in layers:
                keys[layer].append(read[layer][places].double())
                outs[layer].append(written[layer][places].double())
    return {n: torch.cat(v) for n, v in keys.items()}, {n: torch.cat(v) for n, v in outs.items()}


@contextmanager
def captured(modules: Mapping[int, nn.Module], *, inputs: bool = False) -> Iterator[dict[int, Tensor]]:
    """The outputs (or first inputs) of ``modules`` in the passes of the block, the last pass standing."""
    seen: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            del module
            seen[number] = given[0] if inputs else (output[0] if isinstance(output, tuple) else output)

        return hook

    with ExitStack() as stack:
        for number, module in modules.items():
            stack.callback(module.register_forward_hook(keep(number)).remove)
        yield seen
