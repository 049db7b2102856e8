"""The list of methods: found by looking into the verb folders, never registered by hand.

A method is a class decorated with :func:`method`, in a module of a verb package (``keeps.adapt`` and
its siblings) or in another package that names it under the entry point group ``keeps.methods``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from keeps.errors import SettingsError, UnknownNameError, nearest
from keeps.settings import Settings

VERBS = ("adapt", "continual", "edit", "unlearn", "merge", "distill", "ground", "domain", "probe")
# Of a result, as ``keeps export`` writes them.
FORMS = ("lora", "residual", "merged", "experts", "memory", "twin", "skillpack", "emr", "factored")
ENTRY_POINT_GROUP = "keeps.methods"

C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class MethodInfo:
    """What is known of a method without running it."""

    name: str
    verb: str
    paper: str  # "arXiv:..." or a citation
    summary: str
    card: str  # the claim that vouches for it: keeps/claims/CARD.py; "" of what implements no published system
    needs: tuple[str, ...]  # data it cannot do without: "learn", "keep"
    uses: tuple[str, ...]  # data it makes use of when given
    fits: tuple[str, ...]  # kinds of model: "causal-lm", ...
    forms: tuple[str, ...]  # in which the result can be written; see :meth:`forms_with`
    implementation: Any  # the class
    settings: type[Settings]

    @property
    def module(self) -> str:
        """Dotted name of the module that defines the method."""
        return self.implementation.__module__

    def forms_with(self, settings: Settings) -> tuple[str, ...]:
        """The forms of a result made with ``settings``; a method where they decide has a static method ``forms``."""
        decided = getattr(self.implementation, "forms", None)
        return self.forms if decided is None else decided(settings)

    def check_form(self, form: str, settings: Settings) -> None:
        """Refuse a form that the result of this method will not have, before anything is done.

        Raises:
            UnknownNameError: no method has such a form.
            SettingsError: others have it.
        """
        if form not in FORMS:
            raise UnknownNameError(f'there is no form "{form}"', where="form", mend=nearest(form, FORMS))
        possible = self.forms_with(settings)
        if form not in possible:
            names = " or ".join(f'"{name}"' for name in possible)
            what = f'the result of {self.name} with these settings cannot be written as "{form}"'
            raise SettingsError(what, where="form", mend=f"use form {names}, or another method")

    @property
    def documentation(self) -> str:
        """The method's own page in Markdown: the docstring of its module."""
        return (importlib.import_module(self.module).__doc__ or "").strip()


def method(
    name: str,
    *,
    verb: str,
    paper: str,
    summary: str,
    card: str | None = None,
    needs: tuple[str, ...] = ("learn",),
    uses: tuple[str, ...] = (),
    fits: tuple[str, ...] = ("causal-lm",),
    forms: tuple[str, ...] = FORMS,
) -> Callable[[C], C]:
    """Class decorator that makes a class a method; its settings type is its class attribute ``Settings``.

    Args:
        forms: in which its result can be written, of :data:`FORMS`, so that another is refused before training.
            Where the settings decide, the class has a static method ``forms`` that takes them. Of a method
            that says neither a form is refused when it is written.
    """
    if verb not in VERBS:
        raise ValueError(f"verb {verb!r} is none of {VERBS}")
    if not forms or not set(forms) <= set(FORMS):
        raise ValueError(f"forms {forms!r} are not some of {FORMS}")

    def decorate(implementation: C) -> C:
        settings = getattr(implementation, "Settings", None)
        if not (isinstance(settings, type) and issubclass(settings, Settings)):
            raise TypeError(
                f"{implementation.__name__} must have a class attribute Settings, a subclass of keeps.Settings"
            )
        implementation.info = MethodInfo(  # type: ignore[attr-defined]
            name,
            verb,
            paper,
            summary,
            name if card is None else card,
            needs,
            uses,
            fits,
            forms,
            implementation,
            settings,
        )
        return implementation

    return decorate


def methods(verb: str | None = None) -> dict[str, MethodInfo]:
    """All methods by name, those of keeps first, in alphabetical order.

    >>> "corda" in methods("adapt")
    True
    """
    found: dict[str, MethodInfo] = {}
    for module in _method_modules(VERBS if verb is None else (verb,)):
        for value in vars(module).values():
            info = value.__dict__.get("info") if isinstance(value, type) else None
            if isinstance(info, MethodInfo) and info.module == module.__name__:
                found[info.name] = info
    from importlib.metadata import entry_points  # only here, since it is slow to import

    for entry in entry_points(group=ENTRY_POINT_GROUP):
        info = getattr(entry.load(), "info", None)
        if isinstance(info, MethodInfo):
            found.setdefault(info.name, info)
    return {name: found[name] for name in sorted(found) if verb in (None, found[name].verb)}


def find_method(name: str, verb: str | None = None) -> MethodInfo:
    """The method called ``name``.

    Raises:
        UnknownNameError: there is none; the nearest names are listed.
    """
    own = _in_its_own_file(name, verb)
    if own is not None:
        return own
    known = methods(verb)
    if name not in known:
        kind = f"{verb} method" if verb else "method"
        raise UnknownNameError(f'there is no {kind} called "{name}"', mend=nearest(name, known))
    return known[name]


def _in_its_own_file(name: str, verb: str | None) -> MethodInfo | None:
    """The method where its file bears its name, so that nothing else of its verb is imported."""
    if verb not in VERBS or not name.isidentifier():
        return None
    module_name = f"keeps.{verb}.{name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name not in (module_name, f"keeps.{verb}"):
            raise
        return None
    infos = [value.__dict__.get("info") for value in vars(module).values() if isinstance(value, type)]
    return next((i for i in infos if isinstance(i, MethodInfo) and (i.name, i.verb) == (name, verb)), None)


def claims() -> dict[str, Any]:
    """All claims by card name: every module of ``keeps.claims`` that defines ``CLAIM``."""
    package = importlib.import_module("keeps.claims")
    modules = (importlib.import_module(f"keeps.claims.{item.name}") for item in pkgutil.iter_modules(package.__path__))
    return {module.CLAIM.card: module.CLAIM for module in modules if hasattr(module, "CLAIM")}


def find_claim(card: str) -> Any:
    """The claim of ``card`` or of an alias; unknown names raise :class:`UnknownNameError` with the nearest."""
    known = claims()
    known |= {alias: claim for claim in known.values() for alias in getattr(claim, "aliases", ()) if alias not in known}
    if card not in known:
        raise UnknownNameError(f'there is no claim called "{card}"', mend=nearest(card, known))
    return known[card]


def _method_modules(verbs: Sequence[str]) -> list[Any]:
    modules = []
    for verb in verbs:
        try:
            package = importlib.import_module(f"keeps.{verb}")
        except ModuleNotFoundError as error:
            if error.name != f"keeps.{verb}":
                raise
            continue  # a verb whose folder is not there yet
        modules += [
            importlib.import_module(f"keeps.{verb}.{item.name}") for item in pkgutil.iter_modules(package.__path__)
        ]
    return modules
