"""Write a finished run in another form, and say what the conversion cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keeps.contracts import Progress
from keeps.errors import StorageError
from keeps.jobs.adapting import chosen_settings
from keeps.jobs.folders import check_new
from keeps.jobs.models import load_base, resolve
from keeps.ledger.workspace import Workspace
from keeps.registry import find_method
from keeps.settings import Settings


def export(
    run: str,
    form: str,
    out: str | Path,
    *,
    workspace: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> float:
    """Write ``run`` as ``form`` into the new folder ``out``.

    >>> export("corda-3f", "merged", "./merged-model")  # doctest: +SKIP

    Args:
        run: a run (id or unique prefix) or its folder.
        form: ``"lora"`` (a peft adapter for the untouched base), ``"residual"`` (a smaller adapter and
            the reduced base it belongs to), ``"merged"`` (a plain transformers checkpoint) or
            ``"experts"`` (experts with a router, which have no other form).

    Returns:
        The largest absolute difference of logits to the trained model, on a few fixed texts.

    Raises:
        StorageError: ``out`` exists, or ``run`` is no finished run.
        UnknownNameError: there is no such form.
        SettingsError: the form would do nothing for this run.
    """
    named = resolve(run, Workspace(workspace))
    change = named.change
    if change is None:
        raise StorageError(f'"{run}" is no finished run', mend="`keeps runs` lists them")
    change.check_form(form)  # before a model is loaded
    check_new(out)
    return change.export(form, Path(out), model=load_base(named, device=device, progress=progress))


def check_export(
    method: str,
    settings: Mapping[str, Any] | Settings | None,
    form: str,
    out: str | Path,
    *,
    verb: str = "adapt",
) -> None:
    """Refuse, before anything is trained, to write what ``method`` is going to make as ``form`` into ``out``.

    >>> check_export("lora", None, "merged", "./new-folder")

    Raises:
        StorageError: ``out`` exists.
        UnknownNameError: there is no such method, setting or form.
        SettingsError: a setting is wrong, or results of this method with these settings have other forms.
    """
    info = find_method(method, verb)
    info.check_form(form, chosen_settings(info, settings))
    check_new(out)
