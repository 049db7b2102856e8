"""What the comparisons with reference implementations of located edits (``rome.py``, ``memit.py``) share.

Each side edits the same facts; the reference runs in a process of its own, which answers lines of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

Values = dict[str, str]  # subject, prompt and target of an edit
AIM = 5.0  # times the reference's seconds
NAMES = {  # of the modules of a Llama, for references that are written for GPT-2
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
    "layer_module_tmp": "model.layers.{}",
    "mlp_module_tmp": "model.layers.{}.mlp",
    "attn_module_tmp": "model.layers.{}.self_attn",
    "ln_f_module": "model.norm",
}


def requests(facts: str, count: int) -> list[Values]:
    """Facts with another object of their relation.

    Raises:
        SystemExit: there are fewer.
    """
    from keeps.data.edit_facts import edits_from_facts
    from keeps.data.records import Fact
    from keeps.data.select import load_records

    edits = edits_from_facts([record for record in load_records(facts) if isinstance(record, Fact)])
    fit = [edit for edit in edits if edit.prompt.count(edit.subject) == 1]
    if len(fit) < count:
        raise SystemExit(f"there are {len(fit)} facts that fit, {count} were asked for")
    return [{"subject": e.subject, "prompt": e.prompt, "target": e.target_new} for e in fit[:count]]


def request_of(edit: Values) -> dict[str, Any]:
    """The edit as the references read it."""
    prompt = edit["prompt"].replace(edit["subject"], "{}")
    return {"prompt": prompt, "subject": edit["subject"], "target_new": {"str": edit["target"]}}


def took(model: Any, edits: Sequence[Values]) -> float:
    """Share of the edits whose prompt is answered with the new answer."""
    said = model.generate([edit["prompt"] for edit in edits], max_new_tokens=12)
    return sum(text.startswith(edit["target"]) for text, edit in zip(said, edits, strict=True)) / len(edits)


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What ``work`` gives, and the seconds on the clock and of this process's processor."""
    clock, processor = time.perf_counter(), time.process_time()
    found = work()
    return found, {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}


def edited(editor: Any, model: Any, edits: Sequence[Values], folder: Path) -> dict[str, float]:
    """Seconds of one run of our ``editor`` into a new folder, and the share that took; the model is as before."""
    from keeps.contracts import Run
    from keeps.data.edits import Edit

    folder.mkdir()
    made = [Edit(f"edit-{n}", one["subject"], one["prompt"], one["target"]) for n, one in enumerate(edits)]
    change, spent = timed(lambda: editor(model, made, run=Run(folder)))
    changed = change.apply(model)
    share = took(changed, edits)
    changed.undo()
    return {**spent, "took": share}


def commit_of(folder: Path) -> str:
    """The commit of a checkout, or nothing."""
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()


def on_a_processor(folder: Path, into: Path, needs: str) -> Path:
    """A copy of a reference that runs without a GPU.

    Raises:
        SystemExit: it is no checkout of the reference, which has a file ``needs``.
    """
    if not (folder / needs).exists():
        raise SystemExit(f"{folder} is no checkout of the reference: it has no {needs}")
    copy = into / "reference"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".git", "notebooks"))
    for file in copy.rglob("*.py"):
        file.write_text(file.read_text().replace('"cuda"', '"cpu"').replace(".cuda()", ""))
    return copy


@contextmanager
def worker(command: Sequence[str]) -> Iterator[Callable[[Any], Any]]:
    """A process of :func:`serve`, as a function from a request to its answer."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        sent, told = process.stdin, process.stdout

        def ask(request: Any) -> Any:
            sent.write(json.dumps(request) + "\n")
            sent.flush()
            return json.loads(told.readline())

        yield ask
        sent.close()


def become(folder: Path) -> TextIO:
    """Make this process that of the reference in ``folder``; returns where answers go."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the reference prints as it goes
    os.chdir(folder)
    sys.path[0] = str(folder)  # instead of the folder of this file, whose rome.py is another one
    return answers


def serve(answers: TextIO, answer: Callable[[Any], Any]) -> None:
    """Answer each line of JSON on standard input with one."""
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


def language_model() -> Any:
    """The default model, with what the references expect of one."""
    from keeps.models import LanguageModel

    language: Any = LanguageModel.load()
    language.tokenizer.padding_side = "right"
    language.model.config.n_embd = language.model.config.hidden_size
    return language


def restore(model: Any, before: Mapping[str, Any]) -> None:
    """Give the weights back that a reference returned."""
    for name, weight in before.items():
        model.get_parameter(name).data.copy_(weight)
