"""``keeps serve``: a model, a run or answers from documents, for any client of the OpenAI protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from keeps.cli import options, sources
from keeps.cli.generated import option_value, with_settings
from keeps.cli.terminal import line, terminal
from keeps.models.embedded import DEFAULT_MODEL
from keeps.registry import find_method

EXAMPLES = (
    "keeps serve",
    "keeps serve --model corda-3f --port 8001 --name capitals",
    "keeps serve --temperature 0",
    "keeps serve --docs ./documents --method rag --k 3",
    "keeps serve --tables hotels.csv,faqs.jsonl --model RUN",
    "keeps serve --host 0.0.0.0 --api-key-env KEEPS_SERVE_KEY",
    "keeps probe --model openai:http://127.0.0.1:8000/v1#smollm2-135m --data world:capital",
)

Model = Annotated[
    str, typer.Option("--model", help="Model, run or folder of a run; with --docs also openai:URL#MODEL.")
]
Method = Annotated[
    str, typer.Option("--method", help="How to answer from what is named (rag from documents); settings as in rag:k=3.")
]
Name = Annotated[str, typer.Option("--name", help="What clients call the model (default: its own name).")]
Host = Annotated[str, typer.Option("--host", help="Where to listen; beyond this machine only with a key.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes any that is free.")]
KeyVariable = Annotated[
    str, typer.Option("--api-key-env", help="Environment variable with the key that clients must send.", metavar="NAME")
]
Places = Annotated[int, typer.Option("--max-concurrency", min=1, help="Requests under way at once; more are refused.")]
Tokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest reply, in tokens.")]
Body = Annotated[int, typer.Option("--max-body", min=64, help="Largest request, in bytes.")]
Temperature = Annotated[
    float,
    typer.Option(
        "--temperature", min=0.0, max=100.0, help="Of requests that leave it out; 0 takes the likeliest token."
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, help="Longest time for a request, in seconds.")]


def command(
    *,
    model: Model = DEFAULT_MODEL,
    docs: sources.Docs = None,
    graph: sources.Graph = None,
    card: sources.Cards = None,
    tables: sources.Tables = None,
    memory: sources.Memory = None,
    method: Method = "",
    retriever: sources.Retriever = "hybrid",
    name: Name = "",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_env: KeyVariable = "",
    max_concurrency: Places = 8,
    max_tokens: Tokens = 1024,
    max_body: Body = 1 << 20,
    timeout: Timeout = 300.0,
    temperature: Temperature = 1.0,
    seed: options.Seed = 0,
    device: options.Device = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    help_all: options.HelpAll = False,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Serve a model, a changed model or answers from documents as an OpenAI-compatible endpoint, until Ctrl-C.

    Chat completions, completions (streamed too, with log-probabilities), the list of models and /health. It listens
    on this machine only, unless there is a key. What clients send is data: it is neither stored nor shown.
    """
    del debug, help_all  # read from the command line before anything else
    from keeps.jobs.serving import Address, listener, served
    from keeps.serve.running import address_of, run

    limits: dict[str, Any] = {
        "max_concurrency": max_concurrency,
        "max_tokens": max_tokens,
        "max_body": max_body,
        "timeout": timeout,
        "temperature": temperature,
    }
    with (
        terminal(json=json, quiet=quiet) as term,
        listener(host, port, api_key_env) as opened,
        served(
            model,
            docs,
            graph=graph,
            cards=card,
            tables=tables,
            memory=memory,
            method=method,
            settings=settings,
            retriever=retriever,
            name=name,
            host=host,
            api_key_env=api_key_env,
            limits=limits,
            seed=seed,
            workspace=workspace,
            device=device,
            progress=term.progress,
        ) as made,
    ):
        address = Address(address_of(opened), made.name)
        document = {"base_url": address.base_url, "model": address.model, "spec": address.spec, "limits": limits}
        term.emit(document, lambda console: _show(console, address, keyed=bool(api_key_env)))
        run(made, opened)


def _show(console: Any, address: Any, *, keyed: bool) -> None:
    line(console, f"serving {address.model} at {address.base_url}" + " (with a key)" * keyed, style="bold")
    line(console, f"  keeps probe --model {address.spec} --data world:capital", style="dim")
    line(console, "  Ctrl-C ends it")


def build(argv: Sequence[str]) -> Callable[..., Any]:
    """The command, with the options of the method where answers come from documents."""
    words = list(argv)
    if not sources.given_of(words) and not any(word.partition("=")[0] == "--method" for word in words):
        return command
    name = option_value(words, "--method", sources.default_method(words)).partition(":")[0]
    return with_settings(command, find_method(name, "ground"), everything="--help-all" in words)
