"""`python -m nas` is `nas`."""

from typing import NoReturn

from nas.commands.cli import main
from nas.interrupts import leave


def run() -> NoReturn:
    leave(main())


if __name__ == "__main__":
    run()
