"""`nas report` and `nas plot`: a run as one page, and its charts as files."""

import argparse

from nas.errors import UsageError, unknown, unwritable
from nas.plain import check_target, write_whole
from nas.report import output
from nas.store.sql import Store

KINDS = ("history", "pareto", "importance", "parallel", "compare")
ENDINGS = (".png", ".svg", ".pdf")


def report(store: Store, options: argparse.Namespace) -> str:
    check_target(f"out={str(options.out)!r}", options.out)
    name = store.run(options.run).name
    from nas.commands.looks import looked_at  # after the question whether there is such a run: it imports jax
    from nas.report.page import run_page

    page = run_page(*looked_at(store, name))
    write_whole(options.out, page.encode(errors="replace"))
    row = {"run": name, "out": str(options.out), "bytes": options.out.stat().st_size}
    return output.render([row], row, options.format)


def check_plot(options: argparse.Namespace) -> None:
    """Raises UsageError for a kind or a file that cannot be."""
    if options.kind not in KINDS:
        raise unknown("kind", options.kind, KINDS)
    if options.out.suffix.lower() not in ENDINGS:
        raise UsageError(f"out={str(options.out)!r} must end in one of {', '.join(ENDINGS)}")
    check_target(f"out={str(options.out)!r}", options.out)


def plot(store: Store, options: argparse.Namespace) -> str:
    check_plot(options)
    name = store.run(options.run).name
    from nas.commands.looks import looked_at
    from nas.report import plots

    of, _ = looked_at(store, name)
    try:
        plots.OF_RUNS[options.kind](options.out, of)
    except OSError as error:
        raise unwritable(options.out, error) from error
    return _written(name, options)


def plot_comparison(store: None, options: argparse.Namespace) -> str:
    """Of the folder that `nas compare --out` wrote. It asks no store."""
    del store
    check_plot(options)
    from nas.report import comparison, plots

    found = comparison.read(options.run)
    try:
        plots.best_so_far(options.out, found)
    except OSError as error:
        raise unwritable(options.out, error) from error
    return _written(options.run, options)


def _written(of: str, options: argparse.Namespace) -> str:
    row = {"of": of, "kind": options.kind, "out": str(options.out)}
    return output.render([row], row, options.format)
