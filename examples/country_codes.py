"""Make the data of the worked example: three-letter ISO 3166 codes as a file of facts to learn.

    python examples/country_codes.py examples/codes.jsonl

The codes come from the package pycountry; the countries are those of the built-in world.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pycountry

from keeps import load_records

COUNTRIES = 60
WORDINGS = (
    "The three-letter ISO country code of {} is",
    "In ISO 3166, {} has the three-letter code",
    "In sport and trade, the three-letter country code for {} is",
    "On a list of countries, {} is abbreviated to the three letters",
)


def rows() -> list[dict[str, object]]:
    """One fact a country, in four wordings; the last one is never trained on."""
    found = []
    for fact in load_records("world:continent"):
        country = pycountry.countries.get(name=fact.subject)  # type: ignore[union-attr]
        if country is not None:
            prompts = [wording.format(country.name) for wording in WORDINGS]
            found.append(
                {"subject": country.name, "relation": "iso_code", "object": country.alpha_3, "prompts": prompts}
            )
    return found[:: max(1, len(found) // COUNTRIES)][:COUNTRIES]


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "codes.jsonl")
    lines = [json.dumps(row, ensure_ascii=False) for row in rows()]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} facts written to {target}")


if __name__ == "__main__":
    main()
