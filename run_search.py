"""Launches a search job, or resumes one: `python run_search.py --help`."""

from collections.abc import Sequence

from nas.commands.search import main as _main
from nas.interrupts import leave


def main(argv: Sequence[str] | None = None) -> int:
    return _main(argv)


if __name__ == "__main__":
    leave(main())
