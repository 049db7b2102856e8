"""SERAC: a classifier says which edit a question is about, and a second model answers it with that edit in front.

    beta = max_i g(z_i, x), i* its place;   beta > 0.5: h(z_i*, x);   else the unedited model     (arXiv:2206.06520)

The edits z_i are sentences in a notebook. The scope classifier g comes in two forms: ``embedding`` is
exp(-||A (E(z) - E(x))||^2) of sentence vectors E with a trained A, ``cross`` a small network of both vectors together.
It is trained by the cross-entropy of pairs inside and outside the scope of other edits. The counterfactual model h is
trained on the loss of y after z and x. Neither is trained on the edits themselves, so new ones cost nothing.

Use when: many edits should be followed in other wordings, and one classifier may be trained once; a gate should be
learned from examples in place of a threshold; you compare memories with a learned scope with those without.

What is small-scale here: E is the embedded sentence encoder and stays frozen (published: a DistilBERT trained whole),
and h is not a second, smaller model but the base with a low-rank adapter of its own, which is switched on only for
routed questions. Training takes other facts (``examples``: of the built-in world, or a file of edits), none about a
subject that is edited. The classifier fails on questions about the same subject but another relation more than on any
others; that is a finding of the field (see ``eren``), not of this file.

Guarantees: what the classifier keeps out is answered by the unedited model, bit for bit. Not guaranteed: that the
classifier is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from keeps.contracts import Run
from keeps.data.edits import Edit, check_edits
from keeps.data.other_edits import other_edits
from keeps.data.records import RecordSet
from keeps.errors import EmptySetError
from keeps.models.adapters import Factors, added
from keeps.models.language_model import LanguageModel
from keeps.models.memory import MemoryChange, MemoryMethod, finish_memory
from keeps.models.notebook import Notebook, notes_of, stated
from keeps.models.routed import Route, Router
from keeps.registry import method
from keeps.settings import setting
from keeps.training.batches import TokenizedExample
from keeps.training.lora_factors import lora_factors
from keeps.training.settings import TrainingSettings
from keeps.weights.files import load_tensors, save_tensors

SCOPE_FILE, MODEL_FILE = "scope.safetensors", "counterfactual.safetensors"
HIDDEN = 64  # of the network of the cross form
SCOPE_STEPS, SCOPE_RATE = 200, 3e-3


@dataclass(frozen=True, kw_only=True)
class SERACSettings(TrainingSettings):
    """Settings of SERAC; those of training belong to the counterfactual model."""

    scope: str = setting("cross", "Form of the scope classifier", choices=("embedding", "cross"))
    examples: str = setting(
        "world:capital#60,world:currency#60,world:continent#60", "Facts or a file of edits to train both parts on"
    )
    rank: int = setting(8, "Rank of the counterfactual model's adapter", ge=1)
    targets: tuple[str, ...] = setting(("q_proj", "v_proj"), "Ends of the names of the layers that it adapts")
    epochs: int = setting(2, "passes over the examples", ge=1)
    learning_rate: float = setting(1e-3, "largest learning rate, reached after the warm-up", gt=0, lt=10)
    near: float | None = setting(None, "Cosine from which a new edit replaces an older one", gt=0, le=1, advanced=True)


class Scope(nn.Module):
    """g(z, x) in (0, 1), of sentence vectors."""

    def __init__(self, form: str, width: int) -> None:
        super().__init__()
        self.form = form
        if form == "embedding":
            self.projection = nn.Parameter(torch.eye(width))
        else:
            self.first, self.second = nn.Linear(2 * width, HIDDEN), nn.Linear(HIDDEN, 1)

    def logits(self, z: Tensor, x: Tensor) -> Tensor:
        """ln g / (1 - g), ``(...)``; ``z`` and ``x`` are ``(..., width)``."""
        if self.form == "embedding":
            distance = ((z - x) @ self.projection.T).square().sum(-1).clamp_min(1e-6)
            return -distance - (-torch.expm1(-distance)).log()
        both = torch.cat([z * x, (z - x).abs()], dim=-1)
        return self.second(self.first(both).relu()).squeeze(-1)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """g, ``(...)``."""
        return self.logits(z, x).sigmoid()


def scope_pairs(edits: Sequence[Edit]) -> tuple[list[str], list[str], list[float]]:
    """Sentences, questions, and 1 where the question is in the sentence's scope.

    Outside are the locality prompts and the prompt of the next edit, which is often of the same relation.
    """
    rows: list[tuple[str, str, float]] = []
    for edit, following in zip(edits, [*edits[1:], *edits[:1]], strict=True):
        rows += [(stated(edit), prompt, 1.0) for prompt in (edit.prompt, *edit.paraphrases)]
        rows += [(stated(edit), other.prompt, 0.0) for other in edit.locality]
        if following is not edit:
            rows.append((stated(edit), following.prompt, 0.0))
    if len({label for _, _, label in rows}) < 2:
        mend = "give edits with locality prompts, or more than one"
        raise EmptySetError("there is no pair outside the scope of the edits", where="examples", mend=mend)
    sentences, questions, labels = zip(*rows, strict=True)
    return list(sentences), list(questions), list(labels)


def train_scope(form: str, sentences: Tensor, questions: Tensor, labels: Tensor, seed: int) -> tuple[Scope, float]:
    """The classifier after full-batch Adam on the cross-entropy, both sides weighing the same; and its accuracy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scope = Scope(form, sentences.shape[1])
    balance = labels.sum().clamp_min(1), (1 - labels).sum().clamp_min(1)
    weights = torch.where(labels > 0.5, 0.5 / balance[0], 0.5 / balance[1])
    optimiser = torch.optim.Adam(scope.parameters(), lr=SCOPE_RATE)
    for _ in range(SCOPE_STEPS):
        loss = nn.functional.binary_cross_entropy_with_logits(
            scope.logits(sentences, questions), labels, weight=weights, reduction="sum"
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        right = (scope(sentences, questions) > 0.5) == (labels > 0.5)
    return scope.eval().requires_grad_(False), float(right.float().mean())


def counterfactual_prompt(sentence: str, question: str) -> str:
    """[z; x] as h reads it."""
    return f"{sentence}.\n\n{question}"


class SERACRouter(Router):
    """Asks the classifier; routed questions go to the counterfactual model."""

    def __init__(self, base: LanguageModel, notebook: Notebook, scope: Scope, factors: Factors, scale: float) -> None:
        super().__init__(base)
        self.notebook, self.scope, self.factors, self.scale = notebook, scope, factors, scale

    def routes(self, prompts: Sequence[str]) -> list[Route | None]:
        """See :class:`Router`: None where g is at most 0.5 for every edit."""
        vectors = self.notebook.vectors
        if vectors is None or not prompts:
            return [None] * len(prompts)
        found: list[Route | None] = []
        for prompt, vector in zip(prompts, self.notebook.encode(prompts), strict=True):
            scores = self.scope(vectors, vector.expand_as(vectors))
            best = int(scores.argmax())
            note = self.notebook.notes[best]
            inside = float(scores[best]) > 0.5
            asked = counterfactual_prompt(note.statement, prompt)
            found.append(Route(asked, notes=(note.id,)) if inside else None)
        return found

    @contextmanager
    def switched(self, switch: str) -> Iterator[LanguageModel]:
        """The base with the counterfactual model's adapter in its weights; they are restored bit by bit."""
        del switch
        with added(self.base.model, self.factors, self.scale):
            yield self.base


class SERACChange(MemoryChange):
    """A notebook, a classifier and a counterfactual model."""

    def router(self, model: LanguageModel) -> SERACRouter:
        """See :class:`MemoryChange`."""
        tensors = load_tensors(self.folder / SCOPE_FILE)
        form = "embedding" if "projection" in tensors else "cross"
        width = tensors["projection"].shape[0] if form == "embedding" else tensors["first.weight"].shape[1] // 2
        scope = Scope(form, width)
        scope.load_state_dict(tensors)
        stored = load_tensors(self.folder / MODEL_FILE)
        names = {key.rpartition(".")[0] for key in stored}
        factors = {name: (stored[f"{name}.A"], stored[f"{name}.B"]) for name in sorted(names)}
        notebook = Notebook.load(self.folder, near=self.record.settings["near"])
        scale = float(self.record.measures["scaling"])
        return SERACRouter(model, notebook, scope.eval().requires_grad_(False), factors, scale)


@method(
    "serac",
    verb="edit",
    card="knowedit",
    paper="arXiv:2206.06520",
    summary="A trained classifier finds the edit that a question is about, and a second model answers with it.",
    needs=("edits",),
    forms=("memory",),
)
class SERAC(MemoryMethod):
    """Semi-parametric editing with a retrieval-augmented counterfactual model."""

    Settings = SERACSettings
    change = SERACChange

    def __init__(self, settings: SERACSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> SERACChange:
        """Train both parts on other edits and write them with the notebook; ``keep`` is not needed."""
        del keep
        settings = self.settings
        check_edits(edits, "edits")
        examples = other_edits(settings.examples, edits, seed=run.seed)
        notebook = Notebook(near=settings.near)
        notebook.add(notes_of(edits))
        sentences, questions, labels = scope_pairs(examples)
        z, x = notebook.encode(sentences), notebook.encode(questions)
        scope, accuracy = train_scope(settings.scope, z, x, torch.tensor(labels), run.seed)
        run.measures |= {"scope_pairs": len(labels), "scope_accuracy": accuracy, "scaling": 1.0}
        tensors = train_counterfactual(model, examples, settings, run)
        notebook.save(run.folder)
        save_tensors(run.folder / SCOPE_FILE, scope.state_dict())
        save_tensors(run.folder / MODEL_FILE, tensors)
        return SERACChange(run.folder, finish_memory("serac", settings, model, edits, run))


def train_counterfactual(
    model: LanguageModel, edits: Sequence[Edit], settings: SERACSettings, run: Run
) -> dict[str, Tensor]:
    """An adapter trained on -ln p(y | z, x) over the prompts and first paraphrases of ``edits``.

    Returns:
        ``LAYER.A`` ``(rank, in)`` and ``LAYER.B`` ``(out, rank)``; their scaling is 1.
    """
    examples = []
    for edit in edits:
        for question in (edit.prompt, *edit.paraphrases[:1]):
            context, answer = model.encode_pair(counterfactual_prompt(stated(edit), question), edit.target_new)
            examples.append(TokenizedExample((*context, *answer), len(context)))
    factors = lora_factors(model, examples, settings, run, targets=settings.targets, rank=settings.rank)
    return {f"{name}.{part}": value for name, pair in factors.items() for part, value in zip("AB", pair, strict=True)}
