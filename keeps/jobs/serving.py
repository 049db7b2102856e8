"""Serve a model, a run, or answers from documents to any client of the OpenAI protocol."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Progress, Run, SilentProgress
from keeps.errors import MissingDependencyError, SettingsError
from keeps.jobs.grounding_cards import NamedCard
from keeps.jobs.grounding_inputs import Inputs
from keeps.jobs.grounding_variants import Variant, check_variants, parse_variant
from keeps.jobs.models import changed, load_base, resolve
from keeps.ledger.workspace import Workspace
from keeps.models.embedded import DEFAULT_MODEL
from keeps.models.remote_completion import is_remote
from keeps.serve.limits import Limits
from keeps.settings import Settings
from keeps.sources import reader_of

if TYPE_CHECKING:
    from keeps.serve.app import Served

HOST, PORT = "127.0.0.1", 8000


@dataclass(frozen=True)
class Address:
    """Where a server is found: ``base_url`` for clients, ``spec`` for ``keeps --model``."""

    base_url: str
    model: str

    @property
    def spec(self) -> str:
        """What ``--model`` of keeps takes.

        >>> Address("http://127.0.0.1:8000/v1", "m").spec
        'openai:http://127.0.0.1:8000/v1#m'
        """
        return f"openai:{self.base_url}#{self.model}"


@contextmanager
def served(
    model: Any = DEFAULT_MODEL,
    docs: str | Path | Any = None,
    *,
    graph: Any = None,
    cards: Any = None,
    tables: Any = None,
    memory: Any = None,
    method: str = "",
    settings: Mapping[str, Any] | Settings | None = None,
    retriever: str = "hybrid",
    name: str = "",
    host: str = HOST,
    api_key_env: str = "",
    limits: Limits | Mapping[str, Any] | None = None,
    seed: int = 0,
    workspace: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Served]:
    """What ``keeps serve`` serves, ready, while the block lasts; nothing listens yet.

    Args:
        model: a model, a run or its folder; with documents also ``openai:URL#MODEL``; or a loaded model or answerer.
        docs, graph, cards, tables, memory, method, settings, retriever: as of :func:`keeps.jobs.grounding.ground`; with
            one of the first five, questions are answered from it.
        name: what clients call it; by default the name of the model, with documents METHOD+MODEL.
        host: where it is going to listen.
        api_key_env: environment variable that holds the key that clients must send; "" asks for none.

    Raises:
        SettingsError: ``host`` is not this machine and there is no key, the variable holds none, or options do nothing.
        MissingDependencyError: the libraries of the server are not installed.
        KeepsError: the model or the documents cannot be read.
    """
    served_kind = _server()
    from keeps.serve.backends import backend_of
    from keeps.serve.running import LOCAL, check_host, is_loopback

    key = _key(api_key_env)
    check_host(host, key)
    chosen = limits if isinstance(limits, Limits) else Limits.from_mapping(limits or {})
    inputs = Inputs(docs, graph, cards, tables, memory, retriever)
    variant = _variant(model, inputs, method, settings)
    cards_named: list[NamedCard] = []
    if variant is not None:
        cards_named = inputs.check([variant[1]], workspace)
        check_variants([variant], model, inputs.given)
    if variant is not None and chosen.temperature != Limits().temperature:
        mend = "leave it out: the method answers in its own way"
        raise SettingsError("a temperature does nothing for answers from documents", where="serve", mend=mend)
    progress = progress or SilentProgress()
    with ExitStack() as stack:
        opened = None if variant is None else inputs.open([variant[1]], device=device, progress=progress)
        called = str(getattr(model, "name", type(model).__name__))
        if variant is not None and not getattr(variant[2], "needs_model", True):
            model, called = None, ""  # such as a memory whose trained reader answers
        if isinstance(model, str):
            named = resolve(model, Workspace(workspace))
            called = named.name.rpartition("#")[2] if is_remote(named.name) else Path(named.name).name
            base = load_base(named, device=device, progress=progress)
            model = base if named.change is None else stack.enter_context(changed(named, base))
        if variant is not None and opened is not None:
            label, info, own = variant
            run = Run(Path(), seed=seed, device=str(getattr(model, "device", "cpu")), progress=progress)
            opened.open_cards(cards_named, model, device=device, progress=progress)
            if opened.cards is not None:
                stack.enter_context(opened.cards.open())  # adapters stay on their base while it is served
            model = info.implementation(own)(model, opened.of(info), run=run)
            called = "+".join(filter(None, (label, called)))
        hosts = {host, *LOCAL} if is_loopback(host) and not key else ()  # a proxy before it may call it otherwise
        options: dict[str, Any] = {"created": int(time.time()), "key": key, "hosts": tuple(hosts)}
        yield served_kind(backend_of(model), name or called, chosen, **options)


@contextmanager
def serving(model: Any = DEFAULT_MODEL, docs: Any = None, *, port: int = 0, **options: Any) -> Iterator[Address]:
    """Serve in the background while the block lasts.

    >>> with serving("smollm2-135m") as address:  # doctest: +SKIP
    ...     openai.OpenAI(base_url=address.base_url, api_key="none").models.list()

    Args:
        port: 0 takes any that is free.
        options: of :func:`served`.
    """
    from keeps.serve.running import in_background

    with (
        listener(options.get("host", HOST), port, options.get("api_key_env", "")) as opened,
        served(model, docs, **options) as made,
        in_background(made, opened) as base_url,
    ):
        yield Address(base_url, made.name)


def listener(host: str, port: int, api_key_env: str = "") -> socket.socket:
    """A socket that listens where :func:`served` may be reached; whether it may is checked first.

    Raises:
        SettingsError: as :func:`served`, or the port is taken.
    """
    from keeps.serve.running import check_host, listening

    check_host(host, _key(api_key_env))
    return listening(host, port)


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        mend = f"set it, such as export {variable}=$(openssl rand -hex 24)"
        raise SettingsError(f"the environment variable {variable} holds no key", where="--api-key-env", mend=mend)
    return key


def _variant(model: Any, inputs: Inputs, method: str, settings: Mapping[str, Any] | Settings | None) -> Variant | None:
    """The method that answers from documents and the like; None where a model is served as it is."""
    if not inputs.given:
        if method or settings:
            mend = "name them with --docs or --graph, or leave the method out"
            raise SettingsError("a method of answering does nothing without documents", where="serve", mend=mend)
        if isinstance(model, str) and is_remote(model):
            mend = "ask it directly, or name documents with --docs to answer from"
            raise SettingsError("this model is served already", where=model, mend=mend)
        return None
    return parse_variant(method or reader_of(inputs.given), settings)


def _server() -> type[Served]:
    """The class that needs the server's libraries."""
    try:
        import uvicorn

        from keeps.serve.app import Served
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "anyio", "h11"):
            raise
        mend = 'pip install "keeps[serve]"'
        raise MissingDependencyError("serving needs starlette and uvicorn", where="serve", mend=mend) from None
    del uvicorn
    return Served
