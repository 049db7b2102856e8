"""Run any task of the EleutherAI evaluation harness (lm-eval) on a model, and store what it said to each document.

Prompts, filters and metrics are those of the harness; scoring and decoding are those of keeps, which computes each
context once for all its answers. One row a document, under an id made of its contents, so that two models are
compared document by document with an exact test, which the harness does not do. A document is right where the first
metric of its task with values from 0 to 1 gives it full marks.

Use when: you want a figure that papers and leaderboards report (ARC, HellaSwag, MMLU, LAMBADA, GSM8K, ...), on a
model before and after you changed it; you have tasks of the harness of your own.

``--data`` names tasks of the harness, a folder of task files or one file, several by commas. The figures are those of
``lm_eval --seed 0`` for ``--seed 0``: the mean with its standard error s/√n, or the aggregate that the task names
(perplexity, F1, BLEU, ...) with a standard error by bootstrap. What needs a chat template, sampled answers, images, or
programs to be run is refused. It needs the extra ``bench``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from keeps.contracts import Probe, Row, Run
from keeps.errors import SettingsError
from keeps.models.harness_model import harness_model
from keeps.probe.base import Findings, ModelRows, ProbingSystem, Selection
from keeps.probe.harness_figures import aggregation_names, draw_tasks, findings_of, json_value
from keeps.probe.harness_tasks import explained, load_tasks, quiet
from keeps.probe.sampling import stratified
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {"multiple_choice": "choice", "loglikelihood_rolling": "text"}  # of rows, by the kind of task; else "fact"
REQUESTS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


@dataclass(frozen=True)
class Document:
    """One document of a task with the requests that it makes."""

    id: str
    task: str
    content: Any
    requests: tuple[Any, ...]


class HarnessProbe:
    """The documents of some tasks, asked of anything that scores token ids.

    Args:
        tasks: by name, as :func:`keeps.probe.harness_tasks.load_tasks` gives them.
        limit: most documents, shared out over the tasks.
    """

    def __init__(self, tasks: Mapping[str, Any], *, limit: int | None = None, seed: int = 0, truncate: bool = False):
        self.name = ",".join(tasks)
        self.tasks, self.truncate = dict(tasks), truncate
        self.documents = _documents(self.tasks, limit, seed)
        self.aggregations = {name: aggregation_names(task) for name, task in self.tasks.items()}

    @property
    def fingerprint(self) -> str:
        """Hash of every request, target and metric, and of the harness's version (16 hexadecimal digits)."""
        digest = hashlib.sha256()
        head = ["harness-1", version("lm_eval"), self.truncate, self.aggregations]
        digest.update(json.dumps(head, sort_keys=True).encode())
        for document in self.documents:
            asked = [[request.request_type, request.args] for request in document.requests]
            line = [document.id, asked, self.tasks[document.task].doc_to_target(document.content)]
            digest.update(json.dumps(line, default=str).encode())
        return digest.hexdigest()[:16]

    @property
    def ids(self) -> list[str]:
        """The ids of the rows to come, in order."""
        return [document.id for document in self.documents]

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """One row a document, in order.

        Raises:
            SettingsError: the answerer gives no log-probabilities of tokens, or a task samples its answers.
            ContextLengthError: a prompt does not fit and is not to be truncated.
        """
        requests = [request for document in self.documents for request in document.requests]
        tokens: dict[int, int] = {}  # of running texts, by the request
        with run.progress.task(f"harness {self.name}"[:60], len(requests)) if run else nullcontext() as shown:
            advance = shown.advance if shown else None
            model = harness_model(answerer, truncate=self.truncate, advance=advance)
            for kind in REQUESTS:
                own = [request for request in requests if request.request_type == kind]
                said = getattr(model, kind)(own) if own else []
                for request, answer in zip(own, said, strict=True):
                    request.resps, request.filtered_resps = [answer] * (request.repeats or 1), {}
                if kind == "loglikelihood_rolling":
                    tokens = dict(zip(map(id, own), model.scored, strict=True))
        with quiet():
            for name in dict.fromkeys(document.task for document in self.documents):
                self.tasks[name].apply_filters()
            return [self._row(document, tokens) for document in self.documents]

    def _row(self, document: Document, tokens: Mapping[int, int]) -> Row:
        task, first = self.tasks[document.task], document.requests[0]
        metrics: dict[str, Any] = {}
        for name in first.filtered_resps:
            found = task.process_results(
                document.content, [request.filtered_resps[name] for request in document.requests]
            )
            metrics |= {f"{metric},{name}": json_value(value) for metric, value in found.items()}
        kind = KINDS.get(task.OUTPUT_TYPE or "", "fact")
        expected, answer, logprob = _said(task, document)
        score = 0.0 if kind == "text" else _score(metrics, task.higher_is_better())
        details: dict[str, Any] = {"metrics": metrics, "aggregation": self.aggregations[document.task]}
        if kind == "text":
            details["tokens"] = tokens[id(first)]
            score = (logprob or 0.0) / max(tokens[id(first)], 1)
        elif kind == "choice":
            details["logprobs"] = [request.resps[0][0] for request in document.requests]
        return Row(
            id=document.id,
            group=document.task,
            prompt=str(first.args[0]),
            expected=expected,
            answer=answer,
            correct=kind != "text" and score == 1.0,
            score=score,
            logprob=logprob,
            kind=kind,
            details=details,
        )


@dataclass(frozen=True, kw_only=True)
class HarnessSettings(Settings):
    """Settings of tasks of the harness."""

    shots: int | None = setting(None, "Solved examples before each document; by default the task's own number", ge=0)
    truncate: bool = setting(False, "Cut prompts that do not fit the context from the left, as the harness does")
    trust_code: bool = setting(False, "Run Python that a task of a folder brings along", advanced=True)


@method(
    "harness",
    verb="probe",
    paper="Gao et al. 2024, A framework for few-shot language model evaluation, doi:10.5281/zenodo.12608602",
    summary="Tasks of the EleutherAI evaluation harness, document by document, with its metrics.",
    card="",
    needs=("tasks",),
)
class Harness(ProbingSystem):
    """Tasks of the harness as a probing system."""

    Settings = HarnessSettings
    default_data = ""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._made: tuple[Selection, Probe] | None = None  # a task is loaded once, not for each check

    def probe(self, selection: Selection) -> Probe:
        """See :meth:`keeps.probe.base.ProbingSystem.probe`; raises as :func:`keeps.probe.harness_tasks.load_tasks`."""
        if not isinstance(selection.data, str) or not selection.data.strip():
            what = "no task is named" if selection.data is None else "records are no tasks"
            mend = "name a folder or tasks with --data; `keeps tasks` writes a folder of your own questions"
            raise SettingsError(what, where="harness", mend=mend)
        if self._made is None or self._made[0] != selection:
            options = {"shots": self.settings.shots, "trust_code": self.settings.trust_code}
            tasks = load_tasks(selection.data, seed=selection.seed, **options)
            limits = {"limit": selection.limit, "seed": selection.seed, "truncate": self.settings.truncate}
            self._made = selection, HarnessProbe(tasks, **limits)
        return self._made[1]

    def measure(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
        """Every metric of every task with the harness's standard error, and paired tests between models."""
        return findings_of(asked, seed=seed)

    def draw(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Figure | None:
        """The share that most tasks have, by task and model."""
        return draw_tasks(self.measure(asked, seed=seed).measures)


def _documents(tasks: Mapping[str, Any], limit: int | None, seed: int) -> list[Document]:
    """The chosen documents of all tasks with their requests, in the order of the tasks."""
    listed = [item for name, task in tasks.items() for item in _listed(name, task)]
    chosen = stratified(listed, limit, seed, group=lambda item: item[0], identity=lambda item: item[2])
    found: list[Document] = []
    for name, task in tasks.items():
        own = [item for item in chosen if item[0] == name]
        if not own:
            continue
        places = None if len(own) == sum(item[0] == name for item in listed) else {place for _, place, _ in own}
        with explained(name, seed):
            task.build_all_requests(samples=places)
        requests: dict[int, list[Any]] = {}
        for request in task.instances:
            requests.setdefault(request.doc_id, []).append(request)
        for number, (_, _, identity) in enumerate(own):
            several = sorted(requests[number], key=lambda request: request.idx)
            found.append(Document(identity, name, several[0].doc, tuple(several)))
    return found


def _listed(name: str, task: Any) -> list[tuple[str, int, str]]:
    """Task, place and id of every document; the id is of its content, and numbered where that stands twice."""
    seen: dict[str, int] = {}
    found = []
    for place, content in enumerate(task.eval_docs):
        text = json.dumps(content, sort_keys=True, default=str, ensure_ascii=False)
        identity = f"{name}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        seen[identity] = seen.get(identity, 0) + 1
        found.append((name, place, identity if seen[identity] == 1 else f"{identity}-{seen[identity]}"))
    return found


def _said(task: Any, document: Document) -> tuple[str, str, float | None]:
    """What was expected, what was said, and the log-probability of what was expected, where the task has them."""
    first = document.requests[0]
    choices = task.doc_to_choice(document.content) if getattr(task.config, "doc_to_choice", None) is not None else []
    asks_contexts = bool(getattr(task, "multiple_input", 0))  # the choices are contexts, and the text says which
    target = (task.doc_to_text if asks_contexts else task.doc_to_target)(document.content)
    gold = target[0] if isinstance(target, (list, tuple)) and target else target
    place = choices.index(gold) if gold in choices else gold
    known = place if isinstance(place, int) and 0 <= place < len(choices) else None
    expected = str(gold if known is None else choices[known])
    if task.OUTPUT_TYPE == "multiple_choice":
        logprobs = [request.resps[0][0] for request in document.requests][: len(choices)]
        best = max(range(len(logprobs)), key=logprobs.__getitem__)
        return expected, str(choices[best]), None if known is None else logprobs[known]
    if task.OUTPUT_TYPE == "loglikelihood":
        return expected, "", first.resps[0][0]
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return "", "", first.resps[0]
    return expected, str(next(iter(first.filtered_resps.values()))), None


def _score(metrics: Mapping[str, Any], higher_is_better: Mapping[str, Any]) -> float:
    """The first metric that is a share of full marks; 0 where none is."""
    for key, value in metrics.items():
        good = higher_is_better.get(key.partition(",")[0], True)
        if good and isinstance(value, (int, float)) and 0 <= value <= 1:
            return float(value)
    return 0.0
