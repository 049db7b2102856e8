"""Data sets by their id, through the datasets library, which caches what it has fetched once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keeps.data.rows import Row
from keeps.errors import InputFileError, MissingDependencyError


def hub_rows(name: str) -> Iterator[Row]:
    """Rows of the data set ``ID[:split[:config]]``; the split is ``train`` unless named.

    No code of the data set is run.

    Raises:
        InputFileError: the id is malformed, the data set does not exist, cannot be reached or read.
        MissingDependencyError: the datasets library is not installed.
    """
    identity, _, rest = name.partition(":")
    split, _, config = rest.partition(":")
    where = f"hf:{name}"
    if not identity or name.count(":") > 2:
        mend = "write hf:ID, hf:ID:split or hf:ID:split:config"
        raise InputFileError("this is no id of a data set", where=where, mend=mend)
    data = _loaded(identity, split or "train", config or None, where)
    return _rows(data, where)


def _rows(data: Any, where: str) -> Iterator[Row]:
    for number, values in enumerate(data, 1):
        yield Row(dict(values), f"{where}, row {number}")


def _loaded(identity: str, split: str, config: str | None, where: str) -> Any:
    try:
        import datasets
    except ImportError:
        what = "data sets by id need the library datasets"
        raise MissingDependencyError(what, where=where, mend="pip install datasets") from None
    try:
        return datasets.load_dataset(identity, config, split=split)
    except Exception as error:  # the library raises dozens of types, of its own and of its network layers
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        offline = isinstance(error, (ConnectionError, TimeoutError)) or "reach" in reason or "offline" in reason.lower()
        mend = (
            "connect to the network, fetch it once on a machine that is, or give a file"
            if offline
            else "check the id, the split and the config, or give a file"
        )
        what = "the data set cannot be reached" if offline else "the data set cannot be loaded"
        raise InputFileError(f"{what} ({reason})", where=where, mend=mend) from None
