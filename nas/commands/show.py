"""`nas show`: an architecture of a store, or a published one by name, and its drawing as a file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import UsageError, unknown
from nas.plain import check_target, write_whole
from nas.report import output

if TYPE_CHECKING:
    from nas.store.sql import Store


def show(store: "Store", options: argparse.Namespace, width: int | None) -> str:
    shown = store.show(options.architecture)
    if options.svg or options.dot:
        import numpy as np

        from nas.commands.looks import space_of
        from nas.store.overview import run_of
        from spaces.abilities import Drawable
        from spaces.base import check_encoding

        asked = None if options.run is None else store.run(options.run).name
        run = run_of(options.architecture, shown["scores"], asked)
        if run is None:
            raise UsageError(f"architecture={options.architecture!r} cannot be drawn: no run has a score of it")
        known = space_of(store.run(run))
        space: Any = known
        if not isinstance(space, Drawable):
            raise UsageError(f"architecture={options.architecture!r} cannot be drawn: its space has no drawings")
        try:
            check_encoding(known, shown["encoding"])
        except ValueError as error:
            raise UsageError(f"architecture={options.architecture!r} cannot be drawn: {error}") from error
        _draw(space.drawings(np.array(shown["encoding"])), options)
    return output.render_architecture(shown, options.format, width)


def show_published(options: argparse.Namespace, width: int | None) -> str:
    """`nas show SPACE:NAME`, which asks no store."""
    from spaces import published

    space, _, name = options.architecture.partition(":")
    try:
        found = published(space, name)
    except KeyError as error:
        raise unknown("architecture", options.architecture, error.args[0]) from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    _draw(found.drawings, options)
    rows = [{"network": text, **costs} for text, costs in found.costs.items()]
    if options.format != "table":
        described = [{"description": found.description, **row} for row in rows]
        return output.render(described, ("network",), options.format, width)
    note = f"\n{found.note}\n" if found.note else ""
    table = output.render(rows, ("network", "params", "macs"), options.format, width)
    return f"{found.description}\n\n{table}{note}"


def _draw(graphs: list, options: argparse.Namespace) -> None:
    if not (options.svg or options.dot):
        return
    from nas.report import draw  # which knows spaces, and with them JAX

    files: list[tuple[Path | None, Any]] = [(options.svg, draw.svg), (options.dot, draw.dot)]
    for path, write in files:
        if path is not None:
            check_target(str(path), path)
            write_whole(path, write(graphs).encode(errors="replace"))
