"""Causal tracing: which states at which tokens carry a fact, and whether related facts lie in the same places.

    clean run         P(o)               o: the token that the model answers with
    corrupted run     P*(o)              noise on the embeddings of the subject's tokens
    restored run      P*(o | state)      one clean state put back among the noise
    total effect      P(o) - P*(o)
    indirect effect   P*(o | state) - P*(o)

Put back are, at one token: the state after a block (``state``), or what the MLP or the attention gives in a window of
blocks (``mlp``, ``attention``). Averages over facts (AIE) show where recall happens; in GPT-2 XL at the MLPs of
middle blocks at the subject's last token, and at the attention of late blocks at the last token (Meng et al. 2022,
arXiv:2202.05262, section 2). Only facts that the model answers correctly are traced; the others are counted.

Use when: you want to know in which blocks and at which token a model looks a fact up; you choose the layer of ROME,
MEMIT or another editor; you doubt that where a fact is located says anything, and want to test it.

- Noise has three standard deviations (``--noise``) of the embeddings of all subjects asked about. ``--samples 3`` is
  cheap; the paper draws 10, which takes three times as long.
- ``--tokens`` chooses classes of tokens. By default the subject's last token and the prompt's last one, the two
  places that the paper finds; ``--tokens first_subject,middle_subject,last_subject,first_after,further,last`` are
  all, at several times the price. A subject of one token has a last token only.
- ``--window`` is 10 of 48 blocks in the paper, and the same share of any other model's depth by default. A window
  blurs: a peak at block 6 of width 6 says "about 3 to 8".
- A peak is the largest of many averages. Its interval comes from bootstrap samples of the facts, and is honest about
  how far the place moves; the effect there is still a little too large.
- **Relative similarity** asks what location is worth: RSim = max((Sim_cand - Sim_all) / (1 - Sim_all), 0) compares
  the located sets of related facts (``--candidates relation`` or ``subject``) with those of all pairs
  (arXiv:2309.16535; arXiv:2401.01286 applies it to causal tracing). Located are the ``--top`` blocks of the largest
  indirect effect (of the MLPs at the subject's last token, where these are traced), or with ``--located neurons``
  the knowledge neurons: those with more than ``--share`` of the largest attribution (arXiv:2104.08696), which needs
  gradients and several times as long. ``rsim.p`` is the share of shuffled labels that do as well.
- Where an answer is said in several tokens, the first one is traced. Facts whose first token is not that of an
  accepted answer (the model says "the Netherlands") are left out.
- It needs the weights: a server's model is refused. Weights and hooks are afterwards as they were before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import Probe, Row, Run
from keeps.data.records import RecordSet
from keeps.errors import EmptySetError, SettingsError, UnknownNameError, nearest
from keeps.models.causal_tracing import KINDS, STATE, Restoration, TracedPrompt, embedding_deviation
from keeps.models.neurons import token_attributions
from keeps.numerics.causal_effects import LAST, LAST_SUBJECT, TOKEN_CLASSES, scaled_window, token_classes, window
from keeps.numerics.relative_similarity import SIMILARITIES
from keeps.probe.base import Findings, ModelRows, ProbingSystem, Selection
from keeps.probe.causal_tracing_facts import TracedFact, traced_facts
from keeps.probe.causal_tracing_measures import Located, tracing_findings
from keeps.probe.causal_tracing_picture import draw_effects
from keeps.probe.facts import answer_room
from keeps.probe.journal import remembered
from keeps.probe.matching import matches
from keeps.probe.sampling import stratified
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCKS, NEURONS = "blocks", "neurons"
WRONG, OTHER_BEGINNING = "answered wrongly", "the answer begins with another word"


@dataclass(frozen=True, kw_only=True)
class CausalTracingSettings(Settings):
    """Settings of causal tracing and of relative similarity."""

    kinds: tuple[str, ...] = setting(KINDS, "What is put back: state, mlp, attention")
    tokens: tuple[str, ...] = setting((LAST_SUBJECT, LAST), f"Classes of tokens: {', '.join(TOKEN_CLASSES)}")
    samples: int = setting(3, "Samples of the noise; the paper has 10", ge=1)
    noise: float = setting(3.0, "Noise on the subject's embeddings", ge=0, unit="standard deviations of the embeddings")
    window: int | None = setting(
        None, "Blocks whose MLP or attention is put back together; 10 of 48 of the depth by default", ge=1
    )
    located: str = setting(BLOCKS, "What relative similarity compares", choices=(BLOCKS, NEURONS))
    candidates: str = setting("relation", "Which facts count as related", choices=("relation", "subject"))
    similarity: str = setting("overlap", "How alike two located sets are", choices=tuple(SIMILARITIES))
    top: int = setting(5, "Blocks of the largest indirect effect that a fact is located in", ge=1)
    share: float = setting(0.2, "Share of the largest attribution above which a neuron counts", ge=0, lt=1)
    steps: int = setting(20, "Summands of the integral behind an attribution", ge=1, advanced=True)

    def check(self) -> None:
        """Refuse unknown kinds and classes, and lists of none."""
        for name, given, known in (("kinds", self.kinds, KINDS), ("tokens", self.tokens, TOKEN_CLASSES)):
            if not given:
                raise SettingsError(f"{name} is empty", where=name, mend=f"choose of {', '.join(known)}")
            for each in given:
                if each not in known:
                    raise UnknownNameError(f'there is no "{each}"', where=name, mend=nearest(each, known))


class CausalTracingProbe:
    """Facts, each asked, and traced where the answer is right.

    Raises:
        EmptySetError: there is no fact.
        RecordError: a prompt does not name its subject.
    """

    def __init__(self, facts: Sequence[TracedFact], settings: CausalTracingSettings, *, name: str, seed: int = 0):
        if not facts:
            raise EmptySetError("there is no fact to trace", where=name, mend="name facts that have a subject")
        self.facts, self.settings, self.name, self.seed = list(facts), settings, name, seed

    @property
    def fingerprint(self) -> str:
        """Hash of the facts and of the way they are traced (16 hexadecimal digits)."""
        own = self.settings.to_mapping()
        names = ["kinds", "tokens", "samples", "noise", "window"]
        names += ["located", "share", "steps"] if self.settings.located == NEURONS else []
        content = ["causal_tracing-1", self.seed, [own[name] for name in names], [asdict(fact) for fact in self.facts]]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]

    @property
    def ids(self) -> list[str]:
        """The ids of the rows to come, in order."""
        return [fact.id for fact in self.facts]

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """One row a fact, in order.

        Raises:
            SettingsError: the answerer's weights are not at hand.
            EmptySetError: it answers none of the facts.
            TargetError: the model is no transformer of blocks with attention and MLP.
        """
        if not hasattr(getattr(answerer, "model", None), "named_modules") or not hasattr(answerer, "encode_pair"):
            mend = "probe a local model: states are read and put back inside it"
            raise SettingsError("the weights of this answerer are not at hand", where=self.name, mend=mend)
        with run.progress.task(f"trace {self.name}", 2 * len(self.facts)) if run else nullcontext() as task:
            advance = task.advance if task else _ignore
            prompts, expected = [fact.prompt for fact in self.facts], [fact.answers[0] for fact in self.facts]
            room = answer_room(answerer, (answer for fact in self.facts for answer in fact.answers))
            said = answerer.ask(prompts, expected, max_new_tokens=room, advance=advance)
            right = [matches(one.text, fact.answers) for one, fact in zip(said, self.facts, strict=True)]
            if not any(right):
                mend = "choose facts that it knows, such as world:known, or another model"
                raise EmptySetError(f"the model answers none of {len(right)} facts", where=self.name, mend=mend)
            known = [fact for fact, one in zip(self.facts, right, strict=True) if one]
            advance(len(self.facts) - len(known))
            found = dict(zip((fact.id for fact in known), self._traces(answerer, known, advance), strict=True))
        rows = zip(self.facts, said, right, strict=True)
        return [_row(fact, one.text, one.logprob, correct, found.get(fact.id)) for fact, one, correct in rows]

    def _traces(self, answerer: Any, facts: Sequence[TracedFact], advance: Any) -> list[dict[str, Any]]:
        prompts, subjects = [fact.prompt for fact in self.facts], [fact.subject for fact in self.facts]
        noise = self.settings.noise * embedding_deviation(answerer, prompts, subjects)
        own = self.settings
        options = [own.kinds, own.tokens, own.samples, own.window, own.located, own.share, own.steps, self.seed, noise]
        work = json.dumps(["causal_trace", *options])
        items = [asdict(fact) for fact in facts]
        return remembered(answerer, work, items, lambda item: self._trace(answerer, item, noise), advance=advance)

    def _trace(self, model: Any, fact: dict[str, Any], noise: float) -> dict[str, Any]:
        """The runs of one fact; without them where the model's first token is not that of an accepted answer."""
        own = self.settings
        traced = TracedPrompt(model, fact["prompt"], fact["subject"], noise=noise, samples=own.samples, seed=self.seed)
        token = int(traced.clean.argmax())
        if token not in {model.encode_pair(fact["prompt"], answer)[1][0] for answer in fact["answers"]}:
            return {}
        classes = token_classes(traced.first, traced.last, len(traced.tokens))
        places = [place for place, name in classes.items() if name in own.tokens]
        width = own.window or scaled_window(traced.blocks)
        wanted = [
            Restoration(kind, (place,), tuple(window(block, 1 if kind == STATE else width, traced.blocks)))
            for kind in own.kinds
            for place in places
            for block in range(traced.blocks)
        ]
        shape = (len(own.kinds), len(places), traced.blocks)
        restored = traced.restored(wanted, token).mean(1).reshape(shape).tolist()
        found: dict[str, Any] = {
            "tokens": [model.encoder.decode([each]) for each in traced.tokens],
            "token": model.encoder.decode([token]),
            "clean": float(traced.clean[token]),
            "corrupted": float(traced.corrupted(token).mean()),
            "noise": noise,
            "window": width,
            "places": places,
            "classes": [classes[place] for place in places],
            "restored": dict(zip(own.kinds, restored, strict=True)),
        }
        if own.located == NEURONS:
            found["neurons"] = self._neurons(model, traced.tokens, token)
        return found

    def _neurons(self, model: Any, context: Sequence[int], token: int) -> list[list[int]]:
        """Block and number of every neuron with more than a share of the largest attribution."""
        scores = token_attributions(model, [context], [token], steps=self.settings.steps)[0]
        return (scores > self.settings.share * scores.max()).nonzero().tolist()


@method(
    "causal_tracing",
    verb="probe",
    card="knowedit",
    paper="arXiv:2202.05262",
    summary="In which blocks and at which tokens a model recalls facts, and whether related facts lie together.",
    needs=("facts with a subject",),
)
class CausalTracing(ProbingSystem):
    """Facts or edits with a subject; ``limit`` is shared out over the relations."""

    Settings = CausalTracingSettings
    default_data = "world:known:capital#30,world:known:country_of_city#30"

    def probe(self, selection: Selection) -> Probe:
        """See :meth:`keeps.probe.base.ProbingSystem.probe`.

        Raises:
            RecordError: a prompt does not name its subject, or an edit does not say what is true.
        """
        data = self.default_data if selection.data is None else selection.data
        name = data.source if isinstance(data, RecordSet) else str(data)
        facts = stratified(
            traced_facts(data, marks=selection.marks),
            selection.limit,
            selection.seed,
            group=lambda fact: fact.relation,
            identity=lambda fact: fact.id,
        )
        return CausalTracingProbe(facts, self.settings, name=name, seed=selection.seed)

    def measure(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
        """Total and indirect effects with their peaks, and relative similarity."""
        own = self.settings
        located = Located(own.located == NEURONS, own.candidates, own.similarity, own.top)
        return tracing_findings(asked, located, seed=seed)

    def draw(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Figure | None:
        """Average indirect effects by token and block, a panel a kind."""
        return draw_effects(asked)


def _row(fact: TracedFact, text: str, logprob: float, correct: bool, trace: dict[str, Any] | None) -> Row:
    details: dict[str, Any] = {"relation": fact.relation, "subject": fact.subject}
    if trace:
        details["trace"] = trace
    else:
        details["left_out"] = OTHER_BEGINNING if correct else WRONG
    return Row(
        fact.id,
        fact.relation,
        fact.prompt,
        fact.answers[0],
        text.strip(),
        correct,
        float(correct),
        logprob,
        "fact",
        details,
    )


def _ignore(_: float) -> None:
    """Nobody watches."""
