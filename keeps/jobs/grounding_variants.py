"""Methods of answering as users name them, each with settings of its own: ``rag:order=best_first:k=3``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keeps.errors import SettingsError, UnknownNameError, nearest
from keeps.jobs.adapting import chosen_settings
from keeps.models.remote_completion import is_remote
from keeps.registry import MethodInfo, find_method
from keeps.settings import Settings

Variant = tuple[str, MethodInfo, Settings]  # how it is called, the method, its settings


def parse_variant(text: str, common: Mapping[str, Any] | Settings | None = None) -> Variant:
    """``rag`` or ``rag:order=best_first:k=3`` as a label, the method and its settings.

    Raises:
        UnknownNameError: there is no such method or setting.
        SettingsError: a setting is malformed or wrong.
    """
    name, *pairs = text.split(":")
    info = find_method(name.strip(), "ground")
    own: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise SettingsError(f'"{pair}" is no setting', where=text, mend="write method:name=value:name=value")
        own[key.strip().replace("-", "_")] = value.strip()
    if isinstance(common, Settings) and own:
        common = common.to_mapping()
    return text, info, chosen_settings(info, common if isinstance(common, Settings) else {**(common or {}), **own})


def parse_variants(texts: Sequence[str], common: Mapping[str, Any] | Settings | None) -> list[Variant]:
    """Each method with its settings; of settings for several each takes those that it has, and one must."""
    if len(texts) < 2 or not isinstance(common, Mapping):
        return [parse_variant(text, common) for text in texts]
    fields = [{f.name for f in find_method(t.partition(":")[0].strip(), "ground").settings.fields()} for t in texts]
    for key in common:
        if not any(key in names for names in fields):
            mend = nearest(key, set().union(*fields))
            raise UnknownNameError(f'none of the methods has a setting "{key}"', where="settings", mend=mend)
    return [
        parse_variant(text, {key: value for key, value in common.items() if key in names})
        for text, names in zip(texts, fields, strict=True)
    ]


def check_variants(variants: Sequence[Variant], model: Any, given: frozenset[str]) -> None:
    """Refuse methods that are named twice, read something else than is given, or do not fit the model.

    Args:
        given: of :attr:`keeps.jobs.grounding_inputs.Inputs.given`.

    Raises:
        SettingsError: one of these.
    """
    labels = [label for label, _, _ in variants]
    if not labels or len(set(labels)) < len(labels):
        what = "no method is named" if not labels else "a method is named twice with the same settings"
        raise SettingsError(what, where="method", mend="name each once, as in rag:order=best_first")
    for label, info, _ in variants:
        if not given & set(info.needs):
            what = f"{label} reads {' and '.join(info.needs) or 'nothing'}, not {' and '.join(sorted(given))}"
            raise SettingsError(what, where="method", mend="choose another: keeps methods --verb ground")
        if isinstance(model, str) and is_remote(model) and "chat" not in info.fits:
            mend = "name a model on this machine, or choose a method that fits a chat, such as rag"
            raise SettingsError(f"{label} needs a model whose weights are on this machine", where=model, mend=mend)
