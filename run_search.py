"""Launches a search job, or resumes one: `python run_search.py --help`. `nas search` is the same."""

from collections.abc import Sequence

from nas import interrupts
from nas.packages import check


def main(argv: Sequence[str] | None = None) -> int:
    check("run_search.py")
    from nas.commands.search import main

    return main(argv)


if __name__ == "__main__":
    interrupts.run(main)
