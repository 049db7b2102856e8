"""Each edit alone, from the untouched model, as papers measure editors.

What does not depend on the edits (the model's fingerprint, prefixes, statistics) is found once, and values are
searched for side by side: each has its own vector, steps and end, so they are those of edits made one at a time, up to
the order of sums.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import replace

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.models.changes import AdapterChange
from keeps.models.language_model import LanguageModel
from keeps.training.locate_edit import LocateAndEdit, check_editable, check_room, measure_steps

SIDE_BY_SIDE = 8  # edits whose values are searched for together: small batches use a processor badly


def each_alone(
    editor: LocateAndEdit, model: LanguageModel, edits: Sequence[Edit], *, run: Run
) -> Generator[AdapterChange, None, None]:
    """The change of each edit, in order, in a folder of its own; the model has its weights back whenever one is given.

    ``record.measures["edit_seconds"]`` is an edit's share of the search and its own write.

    Args:
        run: whose folder gets one folder an edit, called by its number.

    Raises:
        RecordError: an edit names no subject.
        SettingsError: an edit alone passes the text limit.
        TargetError: the model has no such layers.
        TrainingError: the loss of an edit is no number.
    """
    for edit in edits:
        check_editable(model, [edit], editor.settings)
    with editor.steps(model, edits[0], run) as steps:
        for start in range(0, len(edits), SIDE_BY_SIDE):
            group, began = edits[start : start + SIDE_BY_SIDE], time.monotonic()
            rows, values = steps.search(group)
            searched = (time.monotonic() - began) / len(group)
            for place, (edit, own, value) in enumerate(zip(group, rows, values, strict=True)):
                folder = run.folder / str(start + place)
                folder.mkdir()
                alone = replace(
                    steps,
                    run=replace(run, folder=folder, measures=dict(run.measures), curves=[]),
                    entries=[],
                    not_made=[],
                    started=time.monotonic() - searched,
                )
                editor.begun(alone)  # without the keys of the edit before it
                alone.put([edit], [own], [value])
                check_room(alone, [edit])
                measure_steps(alone)
                steps.writer.restore()
                change = editor.finished(alone, [edit])
                steps.writer.clear()
                yield change
