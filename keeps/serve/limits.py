"""How much a server takes on."""

from __future__ import annotations

from dataclasses import dataclass

from keeps.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Limits(Settings):
    """What a server takes on."""

    max_concurrency: int = setting(8, "Requests under way at once; more are refused", ge=1, le=1000)
    max_tokens: int = setting(1024, "Longest reply", ge=1, unit="tokens")
    max_body: int = setting(1 << 20, "Largest request", ge=64, unit="bytes")
    timeout: float = setting(300.0, "Longest time for a request, waiting included", gt=0, unit="seconds")
