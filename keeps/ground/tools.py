"""Tools: the model decides, call by call, whether to search, to compute or to answer; only what is whitelisted runs.

    question ──► which tool? ──► input ──► result ──┐
                    ▲                               │  quoted, as data
                    └───────────────────────────────┘   answer ──► answer [1]

The loop of actions and observations is that of ReAct (Yao et al. 2022, arXiv:2210.03629), without the examples of
thoughts that it puts into the prompt, at most ``max_calls`` times. A call is a JSON object; a model on this machine
picks the tool by the probability of these objects instead, since small ones break the form.

Use when: questions mix facts of documents with arithmetic or dates; the model should decide whether to look something
up; what a model may do must be a list that somebody wrote, with a trace of every call.

Tools that come with keeps: ``search`` over the documents, ``calculator`` (exact fractions, by a parser, never as
code), ``date``. Others are functions of text to text: ``Tools(settings, [Tool(name, usage, run)])``, and named in
``tools`` too.

Needs: any model that chats; documents for the search. Guarantees: no tool outside the whitelist runs, whatever the
model or a passage asks for: it is refused, and the model is told which there are; none that comes with keeps reaches a
network, a file or a process; inputs, results, numbers and nesting have limits; the same call is not made twice;
results stay data between delimiters; every call stands in the trace. It stops with ``answered``, ``max_calls``, or
``invalid_calls`` after two replies in a row that are no call. Whether a model follows instructions in a passage into a
call that is allowed is up to the model: whitelist what may be called by anybody who writes the documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keeps.contracts import Run
from keeps.ground.base import CITE, DATA_RULE, NO_PASSAGES, Finished, Grounded, GroundSettings, Record
from keeps.ground.passages import shown
from keeps.ground.rag import TASKS
from keeps.ground.toolbox import (
    ANSWER,
    SEARCH_USAGE,
    Call,
    Tool,
    checked_input,
    observation,
    offered,
    read_call,
    run_tool,
)
from keeps.models.chat import Message
from keeps.models.in_step import Decide, Say, Talk, Weighing
from keeps.numerics.text_scores import normalise_answer
from keeps.registry import method
from keeps.settings import setting
from keeps.sources import Hit, Retriever

WAYS = ("auto", "choice", "json")
MOST_INVALID = 2  # replies in a row that are no call
RULES = f"You answer questions step by step with tools. {DATA_RULE}"


@dataclass(frozen=True, kw_only=True)
class ToolsSettings(GroundSettings):
    """Settings of answers with tools."""

    tools: tuple[str, ...] = setting(("search", "calculator", "date"), "The whitelist: what may be called")
    max_calls: int = setting(6, "Most calls for a question", ge=1, le=50)
    calls: str = setting(
        "auto",
        "How a tool is taken: by probability where the model is on this machine, or from a JSON reply",
        choices=WAYS,
    )
    input_tokens: int = setting(48, "Longest input that a model writes for a tool, or longest JSON reply", ge=1,
                                unit="tokens")  # fmt: skip
    longest_input: int = setting(300, "Longest input of a tool", ge=1, unit="characters", advanced=True)
    longest_result: int = setting(2000, "Longest result that is shown", ge=1, unit="characters", advanced=True)


@method(
    "tools",
    verb="ground",
    paper="arXiv:2210.03629",
    card="augment_survey",
    summary="Let the model call whitelisted tools (search, calculator, dates, your own) before it answers.",
    needs=("documents",),
    fits=("causal-lm", "chat"),
)
class Tools:
    """Calls, results, answer."""

    Settings = ToolsSettings

    def __init__(self, settings: ToolsSettings, own: Sequence[Tool] = ()) -> None:
        self.settings = settings
        self.own = tuple(own)

    def __call__(self, model: Any, source: Retriever | None = None, *, run: Run) -> ToolsAnswerer:
        """See :class:`keeps.sources.GroundMethod`; without a source the search is not offered.

        Raises:
            SettingsError: a name of the whitelist is no tool, a tool of one's own is not in it, or none is left.
        """
        return ToolsAnswerer(model, source, self.settings, run, self.own)


@dataclass
class _Made:
    """The calls of one question.

    Attributes:
        shown: what the next prompt says of them.
        results: of tools other than the search.
    """

    shown: list[str] = field(default_factory=list)
    done: set[tuple[str, str]] = field(default_factory=set)
    results: list[tuple[str, str]] = field(default_factory=list)
    calls: int = 0
    invalid: int = 0  # in a row


class ToolsAnswerer(Grounded[ToolsSettings]):
    """Answers after as many calls as the model wants and may have.

    The trace has ``tool_calls`` (that were made), ``refused`` (that were not), and ``from_tools``: tools whose result
    stands in the answer.
    """

    method = "tools"
    needs_source = False

    def __init__(
        self, model: Any, source: Retriever | None, settings: ToolsSettings, run: Run, own: Sequence[Tool] = ()
    ) -> None:
        super().__init__(model, source, settings, run)
        self.tools = offered(settings.tools, own, searchable=source is not None)
        self.weighs = settings.calls == "choice" or (settings.calls == "auto" and isinstance(self.chat, Weighing))

    def talk(
        self, question: str, context: Sequence[Hit] | None, record: Record, choices: tuple[str, ...]
    ) -> Talk[Finished]:
        """Calls until the model wants to answer, or may not call any more."""
        made, stop = _Made(), "answered"
        if context:
            made.shown.append(shown(record.add(context)))
        while True:
            if made.calls == self.settings.max_calls:
                stop = "max_calls"
                break
            call = yield from (self._weighed(question, made) if self.weighs else self._said(question, made))
            if call.tool == ANSWER:
                break
            self._make(call, made, record)
            if made.invalid == MOST_INVALID:
                stop = "invalid_calls"
                break
        return (yield from self._finished(question, made, record, choices, stop))

    def _finished(
        self, question: str, made: _Made, record: Record, choices: tuple[str, ...], stop: str
    ) -> Talk[Finished]:
        extras = {"tool_calls": made.calls, "refused": sum("refused" in step for step in record.steps)}
        if not made.results and not record.passages and self.settings.without_passages == "no_answer":
            return Finished("", NO_PASSAGES, extras={**extras, "from_tools": []})
        settings = self.settings
        cite = f" {CITE}" if settings.cite in ("auto", "markers") and record.passages else ""
        turn = (Message("system", RULES), Message("user", f"{_so_far(question, made)}\n{TASKS[settings.style]}{cite}"))
        said, more = yield from self.ask("answer", turn, record, choices)
        inside = f" {normalise_answer(said)} "
        named = [name for name, result in made.results if f" {normalise_answer(result)} " in inside]
        return Finished(said, stop, extras={**extras, "from_tools": list(dict.fromkeys(named)), **more})

    def _weighed(self, question: str, made: _Made) -> Talk[Call]:
        """A tool by probability, then its input as a text."""
        names = (*self.tools, ANSWER)
        asked = f"{_so_far(question, made)}\n\n{self._listed()}\nWhich of these comes next?"
        found = yield Decide("which tool", (Message("system", RULES), Message("user", asked)), names, "tool")
        if found.choice is None:
            return Call(problem=f"the reply named none of {', '.join(names)}")
        name = names[found.choice]
        if name == ANSWER:
            return Call(ANSWER)
        asked = f"{_so_far(question, made)}\n\n{name} {self._usage(name)}.\nWrite the input for {name}, nothing else."
        reply = yield Say("input", (Message("system", RULES), Message("user", asked)), self.settings.input_tokens)
        line = next((line for line in reply.text.splitlines() if line.strip()), "")
        return checked_input(name, line.strip().strip("\"'`"), self.settings.longest_input)

    def _said(self, question: str, made: _Made) -> Talk[Call]:
        """A call as JSON."""
        first = next(iter(self.tools))
        form = f'Reply with one JSON object: {{"tool": "{first}", "input": "..."}}, or {{"tool": "{ANSWER}"}}.'
        asked = f"{_so_far(question, made)}\n\n{self._listed()}\n{form}"
        reply = yield Say("call", (Message("system", RULES), Message("user", asked)), self.settings.input_tokens)
        return read_call(reply.text, list(self.tools), self.settings.longest_input)

    def _make(self, call: Call, made: _Made, record: Record) -> None:
        """Make a call that is allowed; tell the model what came of it, or why it was not made."""
        made.calls += 1
        problem, result = call.problem, ""
        passages = False
        if not problem and (call.tool, call.input.casefold()) in made.done:
            problem = "this call was made already; its result stands above"
        made.invalid = made.invalid + 1 if problem else 0
        if problem:
            record.step("tool", problem, tool=call.tool, input=call.input, refused=True)
        else:
            made.done.add((call.tool, call.input.casefold()))
            result, problem = self._run(call, made, record)
            passages = bool(result) and self.tools[call.tool] is None  # quoted one by one already
            record.step("tool", result or problem, tool=call.tool, input=call.input, failed=bool(problem))
        made.shown.append(result if passages else observation(made.calls, call, result or problem))

    def _run(self, call: Call, made: _Made, record: Record) -> tuple[str, str]:
        tool = self.tools[call.tool]  # a KeyError here would be a call that was not checked
        if tool is None:
            hits = self.search(record, call.input, self.settings.k)
            return (shown(record.add(hits)), "") if hits else ("", "nothing was found; try other words")
        result, problem = run_tool(tool, call.input, self.settings.longest_result)
        if result:
            made.results.append((call.tool, result))
        return result, problem

    def _usage(self, name: str) -> str:
        tool = self.tools[name]
        return SEARCH_USAGE if tool is None else tool.usage

    def _listed(self) -> str:
        lines = [f"- {name}: {self._usage(name)}" for name in self.tools]
        return "\n".join(["Tools:", *lines, f"- {ANSWER}: when the results are enough"])


def _so_far(question: str, made: _Made) -> str:
    """The question, and what calls have given."""
    results = "\n\n".join(made.shown)
    return f"{results}\n\nQuestion: {question.strip()}" if results else f"Question: {question.strip()}"
