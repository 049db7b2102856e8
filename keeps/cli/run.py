"""``keeps run``: run a recipe, a command written down as YAML."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from keeps.cli import options
from keeps.cli.generated import parse_assignments
from keeps.cli.recipe import Recipe, arguments, read_recipe

RECIPE_COMMANDS = ("adapt", "edit", "unlearn", "merge", "ground", "diff", "compare", "probe", "export", "reproduce")
EXAMPLES = (
    "keeps run recipe.yaml",
    "keeps run recipe.yaml --set rank=8 --set seed=1",
    "keeps run recipe.yaml --resume --json",
)


def command(
    recipe: Annotated[Path, typer.Argument(help="A YAML file: `command: adapt` and the options of that command.")],
    *,
    assignments: options.Assignments = None,
    resume: options.Resume = False,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Run a recipe. Options given here override the file's; paths in the file start at the current folder."""
    read = override(read_recipe(recipe, RECIPE_COMMANDS), parse_assignments(assignments))
    if workspace is not None:
        read.values["workspace"] = str(workspace)
    if resume:
        read.values["resume"] = True
    module = importlib.import_module(f"keeps.cli.{read.command}")
    values = arguments(read, module.command, _settings_type(read))
    module.command(**values, json=json, quiet=quiet, debug=debug)


def override(recipe: Recipe, assignments: dict[str, str]) -> Recipe:
    """The recipe with some keys set from the command line; ``settings.rank`` and ``rank`` are the same setting."""
    values, settings, lines = dict(recipe.values), dict(recipe.settings), dict(recipe.lines)
    for key, value in assignments.items():
        name = key.removeprefix("settings.")
        lines = {label: line for label, line in lines.items() if label not in (name, f"settings.{name}")}
        if name in settings or name != key:
            settings[name] = value
            values.pop(name, None)
        else:
            values[name] = value
    return replace(recipe, values=values, settings=settings, lines=lines)


def _settings_type(recipe: Recipe) -> Any:
    from keeps.cli.adapt import DEFAULT_METHOD
    from keeps.cli.edit import DEFAULT_METHOD as EDIT_METHOD
    from keeps.cli.ground import first_method
    from keeps.cli.merge import DEFAULT_METHOD as MERGE_METHOD
    from keeps.cli.probe import DEFAULT_SYSTEM
    from keeps.cli.sources import default_method
    from keeps.cli.unlearn import DEFAULT_METHOD as UNLEARN_METHOD
    from keeps.registry import find_method

    if recipe.command == "ground":
        given = [f"--{key}" for key in recipe.values]
        return find_method(first_method(recipe.values.get("method")) or default_method(given), "ground").settings
    chosen = {"adapt": ("method", DEFAULT_METHOD), "probe": ("system", DEFAULT_SYSTEM)}
    chosen |= {"edit": ("method", EDIT_METHOD), "unlearn": ("method", UNLEARN_METHOD)}
    chosen |= {"merge": ("method", MERGE_METHOD)}
    if recipe.command not in chosen:
        return None
    key, default = chosen[recipe.command]
    return find_method(str(recipe.values.get(key, default)), recipe.command).settings
