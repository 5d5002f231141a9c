"""`nas`: launch a search, ask what was found, while it runs or long after, and use it."""

import argparse
import contextlib
import errno
import pkgutil
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import nas
from nas import registry
from nas.errors import Answered, Interrupted, RunError, UsageError, no_device, unknown
from nas.interrupts import INTERRUPTED, check, heard
from nas.metrics import outer
from nas.plain import number, place, shown, whole
from nas.report import output
from nas.report.command_lines import DEFAULT_STORE
from nas.store import query

if TYPE_CHECKING:
    from nas.store.sql import Store


def main(argv: Sequence[str] | None = None) -> int:
    text = ""
    output.write_what_can_be_written()
    try:
        with heard():
            with contextlib.suppress(Answered):  # --help has printed itself
                text = _answer(list(sys.argv[1:] if argv is None else argv))
            check()
        return output.say("nas", text)
    except (UsageError, RunError) as error:
        return output.complain("nas", error)
    except (SystemExit, GeneratorExit) as error:  # of a part of the user's own
        return output.complain("nas", UsageError(registry.told(error)))
    except KeyboardInterrupt as stop:
        if isinstance(stop, Interrupted):
            output.tell(f"\n{stop}")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # wherever somebody looks for it
            said = "is longer than the name of a file can be"
            return output.complain("nas", UsageError(f"{shown(repr(error.filename), 60)} {said}"))
        return output.complain("nas", no_device(error))


def _answer(argv: list[str]) -> str:
    parser, commands = _parsers()
    names = ", ".join(commands)
    if not argv:
        raise UsageError(f"a command is needed, one of {names}; nas --help says more")
    if argv == ["--version"]:
        return f"nas-engine {nas.__version__}\n"
    if argv[0].startswith("-") and argv[0] not in ("-h", "--help"):
        raise UsageError(f"{argv[0]} must follow a command, one of {names}")
    if argv[0] not in ("-h", "--help", *commands):
        raise unknown("command", argv[0], commands)
    if argv[0] in commands and argv[0] not in OWN:
        _check_flags(commands[argv[0]], argv[1:])
    if argv[0] == "show" and any(query.PUBLISHED.match(word) for word in argv[1:2]):
        from nas.commands.show import show_published

        return show_published(parser.parse_args(argv), _width())
    if argv[0] == "completion":
        from nas.commands import completion

        return completion.script(argv[1:], parser, commands)
    if argv[0] in OWN:
        return pkgutil.resolve_name(OWN[argv[0]][1])(argv[1:])
    options = parser.parse_args(argv)
    if argv[0] == "plot" and options.kind == "compare":
        return _later("report:plot_comparison")(None, options)

    from nas.store.sql import Store

    with Store(options.store) as store:
        return options.answer(store, options)


def _check_flags(command: argparse.ArgumentParser, words: list[str]) -> None:
    """Before argparse reads the line: it would take the value of a misspelt flag for something else."""
    flags = [name for name in command._option_string_actions if name.startswith("--")]
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--") and name not in ("--", *flags):
            raise unknown("flag", name, flags)


def _runs(store: "Store", options: argparse.Namespace) -> str:
    rows = store.runs()
    hollow = store.hollow_runs() if options.format == "table" and not options.all else set()
    text = _rendered([row for row in rows if row["name"] not in hollow], query.RUN_COLUMNS, options)
    return text + output.left_out(len(hollow))


def _top(store: "Store", options: argparse.Namespace) -> str:
    objective = store.run(options.run).objective
    by = objective if options.by is None else options.by
    rows = store.top(options.run, by, options.limit, options.where)
    if not rows and by != objective and store.top(options.run, objective, 1, options.where):
        raise UsageError(f"by={by!r} was measured in no trial of this run, which was searched by {outer(objective)}")
    return _rendered(rows, (*query.IDENTITY, *query.METRICS), options, asked=[outer(by)])


def _pareto(store: "Store", options: argparse.Namespace) -> str:
    objectives = _names(options.objectives)
    rows = store.pareto(options.run, objectives)
    asked = [outer(name) for name in objectives or ()]
    return _rendered(rows, (*query.IDENTITY, *query.METRICS), options, asked)


def _hypervolume(store: "Store", options: argparse.Namespace) -> str:
    objectives = _names(options.objectives)
    row = store.hypervolume(options.run, objectives, _numbers("reference", options.reference))
    if options.format == "table":
        names = row["objectives"].split(",")
        for point in ("ideal", "reference"):
            row[point] = ", ".join(map(output.number, names, row[point]))
    return _rendered([row], row, options)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _numbers(field: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [number(word.strip()) for word in text.split(",")]
    except argparse.ArgumentTypeError:
        raise UsageError(f"{field}={text!r} must be finite numbers with commas between them") from None


# Commands with a parser of their own: what each is for, and the function that answers it.
OWN: dict[str, tuple[str, str]] = {
    "search": ("Launch a search job, or go on with one.", "nas.commands.search:answer"),
    "ask": ("What a run proposes next, for others to evaluate.", "nas.commands.outside:ask"),
    "tell": ("Proposals and results of others, as trials of a run.", "nas.commands.outside:tell"),
    "data": ("Look at data as a search would read them: nas data check TASK.", "nas.commands.data:main"),
    "spaces": ("The search spaces that there are.", "nas.commands.parts:spaces"),
    "strategies": ("The search strategies that there are.", "nas.commands.parts:strategies"),
    "tasks": ("The data that a search can be of.", "nas.commands.parts:tasks"),
    "evaluators": ("How candidates can be scored.", "nas.commands.parts:evaluators"),
    "compare": ("Strategies side by side on a table, over many seeds.", "nas.commands.compare:main"),
    "matrix": ("Every space with every strategy, each pair a small search.", "nas.commands.matrix:main"),
    "table": ("Tables of measurements: read published ones, build your own.", "nas.commands.tables:main"),
    "predictors": ("What was learned from runs: fit, measure, score, hand on.", "nas.commands.predictors:main"),
    "latency": ("What networks take on this machine, as a cost of searches.", "nas.commands.latency:main"),
    "retrain": ("Train an architecture from scratch, in a network of any size.", "nas.commands.retrain:main"),
    "export": ("Write the network of an architecture to a directory.", "nas.commands.export:main"),
    "predict": ("The classes of images, by a network that was trained.", "nas.commands.predict:main"),
    "detect": ("Find objects in photos, by a detector that was trained.", "nas.commands.detect:main"),
    "completion": ("What makes a shell complete these commands and their flags.", "nas.commands.completion:script"),
    "evaluate": ("How good a trained network is on data that have answers.", "nas.commands.evaluate:main"),
}


def _later(name: str) -> Callable[..., str]:
    """The function of this name, `module:function`, which is imported when it is called."""
    return lambda store, options: pkgutil.resolve_name(f"nas.commands.{name}")(store, options)


def _show(store: "Store", options: argparse.Namespace) -> str:
    from nas.commands.show import show

    return show(store, options, _width())


def _rename(store: "Store", options: argparse.Namespace) -> str:
    with store.settled(options.run) as run:
        store.rename(run, options.new)
        folder = store.folder(run)
    return f"{run.name} is now {options.new}; its files stay in {folder}.\n"


def _delete(store: "Store", options: argparse.Namespace) -> str:
    with store.settled(options.run) as run:
        if run.name != options.run:
            raise UsageError(f"run={options.run!r} must be the whole name of the run to delete, such as {run.name!r}")
        counts = Counter[str]()
        for (kind, _), count in store.tally(run.id).items():
            counts[kind] += count
        folder = store.folder(run)
        store.delete(run)
    trainings = f"{counts['final']} final training{'s' if counts['final'] != 1 else ''}"
    return f"{run.name} is gone, with its {counts['search']} trials, {trainings} and the files in {folder}.\n"


def _rendered(
    rows: list[query.Row], columns: Iterable[str], options: argparse.Namespace, asked: Sequence[str] = ()
) -> str:
    return output.render(rows, columns, options.format, _width(), asked)


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise Answered(status)


def _parsers() -> tuple[_Parser, Any]:
    """The parser of the whole line, and the one of each command by name."""
    parser = _Parser("nas", description=__doc__, epilog="nas COMMAND --help says more.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="say which version this is")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, answer: Callable[..., str], text: str) -> _Parser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(answer=answer)
        added.add_argument("--store", metavar="URL", default=DEFAULT_STORE, help="the database (default: %(default)s)")
        form = "|".join(output.FORMATS)
        form_help = "(default: %(default)s, which leaves out what a terminal has no room for)"
        added.add_argument("--format", type=output.known_format, default="table", metavar=form, help=form_help)
        return added

    run_help = "its name or the beginning of it, or latest"
    architecture_help = "its id, the beginning of it, or its description"
    runs = command("runs", _runs, "All runs: how far each is, and its best score.")
    runs.add_argument("--all", action="store_true", help="also, in a table, those that ended and left nothing")

    top = command(
        "top",
        _top,
        "The best architectures of a run. The least of a metric is best, of ap, naswot and their like the most.",
    )
    top.add_argument("run", metavar="RUN", help=run_help)
    top.add_argument("--by", metavar="METRIC", help="(default: the run's first objective)")
    top.add_argument("--limit", metavar="N", type=whole, default=10, help="(default: %(default)s)")
    top.add_argument("--where", metavar="CONDITION", help="such as 'macs < 3e6 and params <= 1e5'")

    show = command("show", _show, "One architecture, with every score it has from every run.")
    published_help = ", or SPACE:NAME of a published one, such as darts:DARTS_V2"
    show.add_argument("architecture", metavar="ARCHITECTURE", help=architecture_help + published_help)
    show.add_argument("--svg", metavar="FILE", type=place, help="draw it to a file")
    show.add_argument("--dot", metavar="FILE", type=place, help="write its graph in the language of Graphviz")
    show.add_argument("--run", metavar="RUN", help="whose sizes are drawn (default: the last that found it)")

    front_help = "(default: the run's own; where that is one, it and macs)"
    pareto = command("pareto", _pareto, "The architectures of a run that no other dominates.")
    pareto.add_argument("run", metavar="RUN", help=run_help)
    pareto.add_argument("--objectives", metavar="METRIC,...", help=front_help)

    volume = command("hypervolume", _hypervolume, "How much of the space of objectives a run dominates.")
    volume.add_argument("run", metavar="RUN", help=run_help)
    volume.add_argument("--objectives", metavar="METRIC,...", help=front_help)
    volume.add_argument("--reference", metavar="NUMBER,...", help="the worst point (default: the worst of the run)")

    report = command(
        "report",
        _later("report:report"),
        "A run as one page of HTML, which needs no network: charts, drawings, numbers.",
    )
    report.add_argument("run", metavar="RUN", help=run_help)
    report.add_argument("--out", metavar="FILE", type=place, required=True, help="the file to write")

    plot = command("plot", _later("report:plot"), "A chart of a run, or of what nas compare --out wrote, as a file.")
    plot.add_argument("run", metavar="RUN", help=f"{run_help}; for compare the folder that nas compare --out wrote")
    kinds = "history, pareto, importance, parallel or compare"
    plot.add_argument("--kind", metavar="KIND", default="history", help=f"{kinds} (default: %(default)s)")
    plot.add_argument("--out", metavar="FILE", type=place, required=True, help="the file to write: .png, .svg or .pdf")

    dashboard = command(
        "dashboard", _later("dashboard:serve"), "All runs and their reports in a browser of this machine, live."
    )
    dashboard.add_argument("--port", metavar="N", type=whole, default=8000, help="(default: %(default)s; 0: any)")

    for name, (text, _) in OWN.items():
        commands.add_parser(name, help=text, add_help=False)

    rename = command("rename", _rename, "Give a run another name.")
    rename.add_argument("run", metavar="RUN", help=run_help)
    rename.add_argument("new", metavar="NAME", help="its new name")

    delete = command("delete", _delete, "Delete a run with its trials and files, for good.")
    delete.add_argument("run", metavar="RUN", help="its whole name")
    return parser, commands.choices
