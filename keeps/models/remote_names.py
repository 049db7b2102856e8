"""How servers' models are named: ``openai:http://localhost:8000/v1#MODEL``, or the address of a server alone."""

from __future__ import annotations

import urllib.parse

from keeps.errors import SettingsError

PREFIX = "openai:"
ADDRESSES = ("http://", "https://")
KEY = "KEEPS_API_KEY"  # environment variable; a name of our own, so that no key goes to a server it was not meant for


def is_remote(spec: str) -> bool:
    """Whether a model's name is that of a server's.

    >>> is_remote("openai:http://localhost:8000/v1#qwen"), is_remote("http://localhost:8000"), is_remote("owner/name")
    (True, True, False)
    """
    return spec.startswith((PREFIX, *ADDRESSES))


def address_and_model(spec: str) -> tuple[str, str]:
    """The address where the protocol lies and the model's name, "" where it is the only one that the server has.

    >>> address_and_model("openai:http://localhost:8000/v1/#qwen"), address_and_model("http://localhost:8000")
    (('http://localhost:8000/v1', 'qwen'), ('http://localhost:8000/v1', ''))

    Raises:
        SettingsError: ``openai:`` without a model, or an address that holds a password.
    """
    address, _, model = spec.removeprefix(PREFIX).partition("#")
    if not model.strip() and spec.startswith(PREFIX):
        mend = f"write {PREFIX}http://localhost:8000/v1#MODEL"
        raise SettingsError("the server's model is not named", where=spec.partition("@")[2] or spec, mend=mend)
    parts = urllib.parse.urlsplit(address)
    if "@" in parts.netloc:
        mend = f"put the key in the environment variable {KEY}"
        raise SettingsError("the address holds a password", where=f"{PREFIX}...#{model}", mend=mend)
    address = address.rstrip("/")
    bare = not spec.startswith(PREFIX) and not parts.path.strip("/")
    return (f"{address}/v1" if bare else address), model.strip()
