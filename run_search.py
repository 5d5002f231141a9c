"""Launches a search job, or resumes one: `python run_search.py --help`."""

from collections.abc import Sequence

from nas.interrupts import leave
from nas.launch import main as _main


def main(argv: Sequence[str] | None = None) -> int:
    return _main(argv)


if __name__ == "__main__":
    leave(main())
