"""``python -m keeps``: the same as the command ``keeps``."""

from __future__ import annotations

import sys

from keeps.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
