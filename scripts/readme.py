"""Write the generated table of README.md anew: ``make readme``. With ``--check`` only say whether it is current."""

from __future__ import annotations

import sys
from pathlib import Path

from keeps.cli.pages import methods_table
from keeps.registry import methods

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- methods: begin (made by `make readme`) -->", "<!-- methods: end -->"


def with_table(text: str, table: str) -> str:
    """``text`` with everything between the two markers replaced by ``table``."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"keeps: error: README.md lacks the line {BEGIN} or {END}.")
    return f"{before}{begin}\n{table}{end}{after}"


def main(arguments: list[str]) -> int:
    """Write or check; 1 when ``--check`` finds the table out of date."""
    text = README.read_text(encoding="utf-8")
    wanted = with_table(text, methods_table(methods().values(), link="keeps/{verb}/{name}.py"))
    if "--check" in arguments:
        print("README.md is current" if wanted == text else "README.md is out of date: make readme")
        return int(wanted != text)
    temporary = README.with_suffix(".md.partial")
    temporary.write_text(wanted, encoding="utf-8")
    temporary.replace(README)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
