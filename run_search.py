"""Launches a search job, or resumes one: `python run_search.py --help`."""

import sys
from collections.abc import Sequence

from nas.launch import main as _main


def main(argv: Sequence[str] | None = None) -> int:
    return _main(argv)


if __name__ == "__main__":
    sys.exit(main())
