"""Ask models a probe once: what the ledger holds is not asked again, what was interrupted goes on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keeps.contracts import Probe, Progress, Run
from keeps.errors import SettingsError
from keeps.jobs.models import Named, changed, load_base, marks_for, stored_marks
from keeps.ledger.store import Ledger
from keeps.models.remote_completion import is_remote
from keeps.probe.journal import Journal

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel

FOLDER = "asking"  # of the workspace: what a probe under way was told so far


def asked(
    ledger: Ledger, model: Any, probe: Probe, name: str, progress: Progress, *, seed: int = 0, device: str = "cpu"
) -> tuple[str, bool]:
    """The id of the result of ``probe`` on ``model``, and whether it was stored before.

    Args:
        model: anything that answers and has a ``fingerprint``.
        name: what people call the model.
    """
    subject = model.fingerprint
    stored = ledger.find_result(subject, probe.fingerprint)
    if stored is not None:
        return stored.id, True
    started = time.monotonic()
    place = hashlib.sha256(f"{subject}\n{probe.fingerprint}".encode()).hexdigest()[:16]
    folder = ledger.path.parent
    with Journal(model, folder / FOLDER / f"{place}.jsonl") as answerer:
        rows = probe(answerer, run=Run(folder, seed=seed, device=device, progress=progress))
        result = ledger.add_result(
            subject=subject,
            subject_name=name,
            probe=probe.name,
            probe_fingerprint=probe.fingerprint,
            rows=rows,
            seconds=time.monotonic() - started,
        )
    return result, False


class Asking:
    """Asks several models in turn; a base model that two names share is loaded once, and one is held at a time."""

    def __init__(self, ledger: Ledger, device: str | None, progress: Progress) -> None:
        self.ledger, self.device, self.progress = ledger, device, progress
        self.loaded: tuple[str, LanguageModel] | None = None

    def result(self, named: Named, questions: Probe, *, seed: int = 0) -> tuple[str, bool]:
        """The id of the stored result, asked now where it is not there yet, and whether it was."""
        if named.change is not None:
            stored = self.ledger.find_result(named.change.fingerprint, questions.fingerprint)
            if stored is not None:
                return stored.id, True
        with changed(named, self.base(named)) as model:
            return asked(self.ledger, model, questions, named.name, self.progress, seed=seed)

    def marks(self, named: Named) -> Mapping[str, str] | None:
        """What the base model of ``named`` knows of the world; measured now where nobody has yet.

        Raises:
            SettingsError: it is a server's, whose marks nobody measures.
        """
        if is_remote(named.model):
            mend = "name data without known, uncertain or unknown, such as world:capital, or name a local model first"
            raise SettingsError("what a server's model knows has not been marked", where=named.name, mend=mend)
        fingerprint = named.base_fingerprint
        stored = None if fingerprint is None else stored_marks(fingerprint)
        return stored or marks_for(self.base(named), "world:known", progress=self.progress)

    def base(self, named: Named) -> LanguageModel:
        """The model under ``named``, without its change."""
        if self.loaded is None or self.loaded[0] != named.model:
            self.loaded = None  # two models at once may be more than there is room for
            self.loaded = (named.model, load_base(named, device=self.device, progress=self.progress))
        return self.loaded[1]
