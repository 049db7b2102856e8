"""``keeps probe``: ask a model what it knows, and store every answer."""

from __future__ import annotations

from keeps.cli import options
from keeps.cli.terminal import terminal

EXAMPLES = (
    "keeps probe",
    "keeps probe --model ./my-model --probe world:capital,world:symbol",
    "keeps probe --probe questions.jsonl --json",
)


def command(
    *,
    model: options.Model = options.DEFAULT_MODEL,
    probe: options.Probe = None,
    workspace: options.Workspace = None,
    device: options.Device = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Ask a model everything in the built-in world or in a file; each answer is stored in the ledger."""
    del debug
    from keeps import jobs
    from keeps.cli.show import show_rows

    with terminal(json=json, quiet=quiet) as out:
        found = jobs.probe(model, probe or "world", workspace=workspace, device=device, progress=out.progress)
        document = {"model": found.name, "result": found.result_id, "reused": found.reused, "rows": found.rows}
        out.emit(document, lambda console: show_rows(console, found.name, found.rows))
