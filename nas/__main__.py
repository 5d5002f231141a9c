"""`python -m nas` is `nas`."""

from typing import NoReturn

from nas.packages import check


def run() -> NoReturn:
    check("nas")
    from nas.commands.cli import main
    from nas.interrupts import leave

    leave(main())


if __name__ == "__main__":
    run()
