"""Edits on top of earlier ones: the method sees the edited model, and what is written holds both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.errors import RecordError, SettingsError
from keeps.registry import MethodInfo
from keeps.settings import Settings

if TYPE_CHECKING:
    from keeps.models.changes import StoredChange


def onto(info: MethodInfo, settings: Settings, earlier: StoredChange) -> MethodInfo:
    """``info`` with an implementation that makes its edits on top of ``earlier``.

    Raises:
        SettingsError: edits in the weights and beside them, or two kinds of memory, do not go on top of each other.
    """
    kind = "memory" if "memory" in info.forms_with(settings) else "adapter"
    held = earlier.record
    if held.kind != kind or (kind == "memory" and held.method != info.name):
        what = f"edits of {info.name} cannot be made on top of those of {held.method}"
        mend = "take the same method, or export the earlier run as a checkpoint and edit that"
        raise SettingsError(what, where="after", mend=mend)
    return replace(info, implementation=lambda chosen: _Onto(info.implementation(chosen), earlier, kind))


class _Onto:
    """A method whose model holds the edits of an earlier run already."""

    def __init__(self, method: Any, earlier: StoredChange, kind: str) -> None:
        self.method, self.earlier, self.kind = method, earlier, kind

    def __call__(self, model: Any, edits: Sequence[Edit], keep: Any = None, *, run: Run) -> StoredChange:
        from keeps.models.edit_files import read_entries

        held = read_entries(self.earlier.folder)
        taken = {entry.id for entry in held}
        edits = [replace(edit, id=_free(edit.id, taken)) for edit in edits]
        if self.kind == "memory":
            _refuse_contradictions([entry.edit for entry in held], edits)
            return self.method(model, [*(entry.edit for entry in held), *edits], keep, run=run)
        return self._in_weights(model, edits, keep, run)

    def _in_weights(self, model: Any, edits: Sequence[Edit], keep: Any, run: Run) -> StoredChange:
        from keeps.models.adapters import added
        from keeps.models.changes import AdapterChange, check_base
        from keeps.models.earlier_keys import EARLIER, carry_keys
        from keeps.models.edit_files import joined, read_entries, write_entries, write_update

        earlier: Any = self.earlier
        check_base(earlier.record, model, earlier.folder)
        old, scale = earlier.factors(), earlier.scaling
        if hasattr(self.method, "continue_from"):
            self.method.continue_from(earlier.folder)
        with added(model.model, old, scale):
            change: Any = self.method(model, edits, keep, run=run)
        new = change.factors()
        both = {
            name: joined([(a, b if name not in old else scale * b) for a, b in parts])
            for name in {**old, **new}
            if (parts := [factors[name] for factors in (old, new) if name in factors])
        }
        entries = read_entries(earlier.folder)
        for entry in read_entries(run.folder):
            first = {name: old[name][0].shape[0] if name in old else 0 for name in entry.share}
            share = {name: [first[name] + start, first[name] + end] for name, (start, end) in entry.share.items()}
            entries.append(replace(entry, share=share))
        write_update(run.folder, both, model)
        write_entries(run.folder, entries)
        if not (run.folder / EARLIER).exists():  # the method does without the keys, and a later edit may not
            carry_keys(earlier.folder, run.folder, [entry.id for entry in entries])
        run.measures |= {"edits": len(entries), "after": earlier.folder.name}
        record = replace(change.record, base_fingerprint=model.fingerprint, measures=dict(run.measures))
        record.write(run.folder)
        return AdapterChange(run.folder, record)


def _free(name: str, taken: set[str]) -> str:
    """``name``, or with a number behind it where an earlier edit has it."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    taken.add(found)
    return found


def _refuse_contradictions(old: Sequence[Edit], new: Sequence[Edit]) -> None:
    said = {edit.prompt.casefold(): edit for edit in old}
    for edit in new:
        other = said.get(edit.prompt.casefold())
        if other is not None and other.target_new != edit.target_new:
            what = f'the earlier edit {other.id} wants "{other.target_new}", this one {json.dumps(edit.target_new)}'
            raise RecordError(what, where=edit.prompt, mend="withdraw the earlier one first")
