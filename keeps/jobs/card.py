"""The model card in a run's folder: what it is, how to load it, how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeps.versions import __version__

CARD = """---
library_name: {library}
base_model: {base}
tags: [keeps, {method}]
---
# {name}

Made by keeps {version} with the method `{method}` ({paper}) from {model}.
{task} Seed {seed}.

```python
{code}
```

## Settings

{settings}
"""
ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{name}")"""
CHECKPOINT = """from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{name}")"""

OWN = """from pathlib import Path

from keeps.models import LanguageModel
from keeps.models.changes import load_change

model = load_change(Path("{name}")).apply(LanguageModel.load("{base}"))"""
LOADING = {"adapter": ("peft", ADAPTER), "checkpoint": ("transformers", CHECKPOINT)}
OTHERS = ("keeps", OWN)  # kinds of change that no other library loads

TASKS = {
    "edit": "Edited: {learn}. To keep: {keep}.",
    "merge": "Merged: {learn}.",
    "unlearn": "Forgotten: {learn}. To retain: {keep}.",
}  # of a verb; all others teach


def model_card(kind: str, name: str, base: str, settings: Mapping[str, Any], **facts: Any) -> str:
    """The card as Markdown.

    Args:
        kind: of the change.
        name: of the run, which is its folder's.
        base: what ``from_pretrained`` loads the base model from.
        facts: ``method``, ``paper``, ``model``, ``verb``, ``learn``, ``keep`` and ``seed``.
    """
    library, code = LOADING.get(kind, OTHERS)
    task = TASKS.get(str(facts.pop("verb", "")), "Taught: {learn}. To keep: {keep}.")
    task = task.format(learn=facts.pop("learn"), keep=facts.pop("keep"))
    return CARD.format(
        library=library,
        base=base,
        name=name,
        version=__version__,
        code=code.format(base=base, name=name),
        task=task,
        settings="\n".join(f"- {key}: {value}" for key, value in settings.items()),
        **facts,
    )
