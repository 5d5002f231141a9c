"""What commands that use a trained network have in common: whose it is, and how it is asked for."""

import argparse
import os.path
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from nas import registry
from nas.errors import UsageError
from nas.report import output
from nas.report.command_lines import DEFAULT_STORE

if TYPE_CHECKING:
    from nas.saved.networks import Exported

OWN_SPACE = "your own space, where it is one of yours, as FILE.py:CLASS: its code is run"
NAMES = "its id, the beginning of it, its description, or a folder that nas export wrote"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", metavar="RUN", help="whose weights (default: those that were trained last)")
    parser.add_argument("--space", metavar="NAME", type=own_space, help=OWN_SPACE)
    parser.add_argument("--store", metavar="URL", default=DEFAULT_STORE, help="the database (default: %(default)s)")
    form = "|".join(output.FORMATS)
    parser.add_argument(
        "--format", type=output.known_format, default="table", metavar=form, help="(default: %(default)s)"
    )


def own_space(name: str) -> str:
    """Makes a space of the user's own known to this process. Raises UsageError."""
    if not registry.is_own("space", name):
        raise UsageError(f"space={name!r} must be FILE.py:CLASS or MODULE:CLASS; other spaces are known by themselves")
    registry.own("space", name)
    return name


def network(options: argparse.Namespace) -> "Exported":
    """Of the folder of this name, or of the store. JAX is imported when it is known that there is something."""
    if os.path.isdir(options.architecture) or os.sep in options.architecture:
        if options.run is not None:
            raise UsageError(f"run={options.run!r} is of a store: {options.architecture!r} is a folder")
        from nas.saved.networks import load

        return load(options.architecture)
    from nas.store.sql import Store

    with Store(options.store) as store, tempfile.TemporaryDirectory() as folder:
        architecture = store.show(options.architecture)["id"]
        run = None if options.run is None else store.run(options.run)
        from nas.saved.exports import export
        from nas.saved.networks import load

        export(store, architecture, Path(folder), run)
        return load(folder)
