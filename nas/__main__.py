"""`python -m nas` is `nas`."""

from typing import NoReturn

from nas import interrupts
from nas.packages import check


def main() -> int:
    check("nas")
    from nas.commands.cli import main

    return main()


def run() -> NoReturn:
    interrupts.run(main)


if __name__ == "__main__":
    run()
