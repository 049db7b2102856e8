"""The entry point: builds the commands, turns every error into one paragraph and an exit code.

Exit codes: 0 done; 1 a bug in keeps or its libraries; 2 something the user can mend; 130 interrupted.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json as json_format
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from keeps.errors import KeepsError

# In the order of `keeps --help`. Each is a module of this folder with a function ``command`` and EXAMPLES.
COMMANDS = (
    *("adapt", "edit", "unlearn", "merge", "ground", "serve", "diff", "compare", "probe", "export", "methods"),
    *("index", "search", "runs", "report", "reproduce", "run", "world", "tasks", "setup"),
)
BROKEN_PIPE = 141  # what a shell reports for a program that was stopped by a closed pipe
# Typer raises these for wrong options; older versions take them from click, newer ones bring their own.
_USAGE_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException" and issubclass(kind, Exception)
)


class _InterruptedError(Exception):
    """Ctrl-C, with what the user can do next."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code and never raises."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads cost tenfold on a busy machine
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # keeps shows its own
    try:
        result = build(argv)(args=_expand(argv), prog_name="keeps", standalone_mode=False)
    except KeepsError as error:
        return _refuse(str(error), _document(error), argv)
    except _InterruptedError as error:
        typer.echo(f"\nkeeps: interrupted. {error}", err=True)
        return 130
    except _USAGE_ERRORS as error:
        return _refuse(_usage(error), {"kind": "UsageError", "what": _usage(error)}, argv)
    except BrokenPipeError:
        return _close_pipe()
    except SystemExit as error:
        return _close_pipe() if error.code == 1 else int(error.code or 0)
    except Exception as error:
        return _unexpected(error, argv)
    return result if isinstance(result, int) else 0


def build(argv: Sequence[str]) -> typer.Typer:
    """The commands as one application; those with generated options look into ``argv`` for them.

    Where the first word is a command no other is imported, which saves a quarter of the time to start.
    """
    app = typer.Typer(
        name="keeps", help=_HELP, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False
    )
    app.callback(invoke_without_command=True)(_root)
    chosen = next((word for word in argv if not word.startswith("-")), "")
    for name in (chosen,) if chosen in COMMANDS and argv[0] == chosen else COMMANDS:
        module = importlib.import_module(f"keeps.cli.{name}")
        generated = name == chosen and hasattr(module, "build")
        function = module.build(argv) if generated else module.command
        visible = _without_mapping(function)
        app.command(name, epilog=_epilog(module.EXAMPLES), help=inspect.getdoc(function))(_guarded(visible))
    return app


_HELP = "Change what a pretrained model knows, and see what it learned, kept and lost."


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version (with --json: all that matter).")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --version: every version as JSON.")] = False,
) -> None:
    if version:
        from keeps.versions import __version__, environment

        typer.echo(json_format.dumps(environment(), indent=2) if json else f"keeps {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _expand(argv: Sequence[str]) -> list[str]:
    """``--help-all`` is ``--help`` after the advanced options were made visible."""
    return ["--help" if word == "--help-all" else word for word in argv]


def _without_mapping(function: Callable[..., Any]) -> Callable[..., Any]:
    """Hide parameters that only recipes and Python can fill: mappings are no options."""
    signature = inspect.signature(function, eval_str=True)
    shown = [item for item in signature.parameters.values() if item.name != "settings"]
    if len(shown) == len(signature.parameters):
        return function

    @functools.wraps(function)
    def visible(**values: Any) -> Any:
        return function(**values)

    visible.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    visible.__annotations__ = {item.name: item.annotation for item in shown}
    return visible


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Say on Ctrl-C how to go on."""
    resumes = "resume" in inspect.signature(function).parameters
    advice = "Repeat the command with --resume to go on." if resumes else "Repeat the command to go on."

    @functools.wraps(function)
    def guarded(*args: Any, **values: Any) -> Any:
        try:
            return function(*args, **values)
        except KeyboardInterrupt:
            raise _InterruptedError(advice) from None

    return guarded


def _epilog(examples: Sequence[str]) -> str:
    lines = [line.replace("[", "\\[") for line in examples]
    return "\n\n".join(["[bold]Examples[/bold]", *(f"[cyan]{line}[/cyan]" for line in lines)])


def _document(error: KeepsError) -> dict[str, str]:
    return {"kind": type(error).__name__, "what": error.what, "where": error.where, "mend": error.mend}


def _usage(error: Any) -> str:
    path = error.ctx.command_path if getattr(error, "ctx", None) else "keeps"
    return f"{error.format_message().rstrip('.')}: see {path} --help."


def _refuse(message: str, document: dict[str, str], argv: Sequence[str]) -> int:
    """One paragraph on standard error; programs that asked for JSON get the error as JSON too."""
    if "--json" in argv:
        typer.echo(json_format.dumps({"error": document}, indent=2, ensure_ascii=False))
    typer.echo(f"keeps: error: {' '.join(message.split())}", err=True)
    if "--debug" in argv:
        traceback.print_exc()
    return 2


def _unexpected(error: Exception, argv: Sequence[str]) -> int:
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if "--json" in argv:
        typer.echo(json_format.dumps({"error": {"kind": "unexpected", "what": what}}, indent=2))
    if "--debug" in argv:
        traceback.print_exc()
    else:
        what += ". This is a bug in keeps or in a library: repeat the command with --debug for the traceback."
    typer.echo(f"keeps: unexpected error: {what}", err=True)
    return 1


def _close_pipe() -> int:
    """The reader has gone: end quietly, also when Python flushes standard output at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a standard output without a file behind it has nothing to flush
        return BROKEN_PIPE
    return BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
