"""How much a server takes on, and what it does where a request says nothing."""

from __future__ import annotations

from dataclasses import dataclass

from keeps.errors import SettingsError
from keeps.settings import Settings, setting

COOLEST, HOTTEST = 0.01, 100.0  # temperatures besides 0: below, probabilities are lost to rounding
PROTOCOL_TEMPERATURE = 1.0


@dataclass(frozen=True, kw_only=True)
class Limits(Settings):
    """What a server takes on."""

    max_concurrency: int = setting(8, "Requests under way at once; more are refused", ge=1, le=1000)
    max_tokens: int = setting(1024, "Longest reply", ge=1, unit="tokens")
    max_body: int = setting(1 << 20, "Largest request", ge=64, unit="bytes")
    timeout: float = setting(300.0, "Longest time for a request, waiting included", gt=0, unit="seconds")
    temperature: float = setting(
        PROTOCOL_TEMPERATURE, "Of requests that leave it out; 0 takes the likeliest token", ge=0, le=HOTTEST
    )

    def check(self) -> None:
        """Refuse a temperature that no request could have."""
        if 0 < self.temperature < COOLEST:
            mend = f"choose 0, or {COOLEST} or more"
            raise SettingsError(f"temperature is {self.temperature:g}", where="Limits.temperature", mend=mend)
