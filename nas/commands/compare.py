"""`nas compare`: strategies side by side on a table, as a table that is printed, files and a plot."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nas import config
from nas.config import Parser
from nas.engine.contest import Answer, Question, allowed, run, summary
from nas.errors import UsageError, unwritable
from nas.plain import check_target, number, place, whole, write_whole
from nas.report import output
from nas.report.comparison import Curve
from nas.store.query import Row
from nas.tables import table_of
from nas.training.compilation import quick_start
from strategies.base import GradientStrategy


def render(question: Question, rows: Sequence[Row]) -> str:
    """The table that is printed."""
    lines = []
    names = list(question.columns)
    header = ["strategy", *names, "trials", "seconds", "found best", "gain", "p"]
    for row in rows:
        cells = [row["strategy"], *(f"{row[name]:.2f} ± {row[name + '_std']:.2f}" for name in names)]
        cells += [f"{row['trials']:.0f}", f"{row['simulated_seconds']:.0f}", f"{100 * row['found_best']:.0f} %"]
        cells += [f"{row['gain']:+.2f}", f"{row['p_value']:.1g}"] if "gain" in row else ["", ""]
        lines.append(cells)
    widths = [max(len(cells[i]) for cells in (header, *lines)) for i in range(len(header))]
    aligned = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in (header, *lines)
    ]
    return "".join(line.rstrip() + "\n" for line in aligned)


def _check_folder(out: Path) -> None:
    """Makes the folder, before the hours that a comparison may take. Raises UsageError where it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(f"out={str(out)!r}", error) from error
    check_target(f"out={str(out)!r}", out / "summary.csv")


def write(question: Question, answers: Mapping[str, Answer], out: Path) -> list[Path]:
    """`summary.csv`, `seeds.csv` (what every seed found), `curves.csv`, what these are of, and the plot of them."""
    from nas.report import comparison, plots

    columns = question.columns
    judged = question.judged
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = [_csv(out / "summary.csv", summary(question, answers))]
        files.append(_csv(out / "seeds.csv", _seeds(question, answers, columns)))
        curves = {name: _curve(answer, columns[judged]) for name, answer in answers.items()}
        files.append(_csv(out / "curves.csv", [point for name in curves for point in _points(name, curves[name])]))
        best = float(np.nanmax(columns[judged][allowed(question)]))
        files.append(comparison.write(out, judged, question.seeds, best))
        # With next to no budget there is no moment at which all seeds have found something.
        if drawn := {name: curve for name, curve in curves.items() if len(curve[0])}:
            compared = comparison.of(drawn, judged, question.seeds, best)
            files.append(plots.best_so_far(out / "best_so_far.png", compared))
    except OSError as error:
        raise unwritable(f"out={str(out)!r}", error) from error
    return files


def _seeds(question: Question, answers: Mapping[str, Answer], columns: Mapping[str, np.ndarray]) -> list[Row]:
    shape = question.table.space.cardinalities
    rows = []
    for name, answer in answers.items():
        for seed, found in enumerate(answer.found):
            encoding = np.array(np.unravel_index(found, shape), np.int32)
            row: Row = {"strategy": name, "seed": seed, "description": question.table.space.describe(encoding)}
            row |= {"trials": int(answer.trials[seed]), "simulated_seconds": round(float(answer.spent[seed]), 1)}
            rows.append(row | {column: round(float(values[found]), 4) for column, values in columns.items()})
    return rows


def _curve(answer: Answer, values: np.ndarray) -> Curve:
    started = (answer.curve >= 0).all(0)
    reached = values[answer.curve[:, started]]
    half = 1.96 * reached.std(0) / np.sqrt(len(reached))
    return answer.curve_seconds[started], reached.mean(0), half


def _points(name: str, curve: Curve) -> list[Row]:
    names = ("strategy", "simulated_seconds", "mean", "half_width")
    return [
        dict(zip(names, (name, *(round(float(x), 4) for x in point)), strict=True))
        for point in zip(*curve, strict=True)
    ]


def _csv(path: Path, rows: Sequence[Row]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode(errors="replace"))
    return path


def flags() -> Parser:
    parser = Parser(prog="nas compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("--space", default="nasbench201", help="that of the table, also of your own [%(default)s]")
    parser.add_argument("--task", required=True, metavar="table:FILE", help="the table")
    parser.add_argument("--strategies", default="random,regularized-evolution,local-search", metavar="NAME,...")
    parser.add_argument("--seeds", type=whole, default=100, help="[%(default)s]")
    parser.add_argument("--budget-seconds", type=number, metavar="S", help="simulated; 12000 if --trials is not given")
    parser.add_argument("--trials", type=whole, metavar="N", help="evaluations, in place of seconds")
    parser.add_argument("--dataset", help="of the score that is searched by [cifar10, or the only one of the table]")
    parser.add_argument("--epochs", type=whole, help="of the training behind it [12, or else the most of the table]")
    parser.add_argument("--noise", type=number, default=0.0, help="deviation of what is added to it [%(default)s]")
    parser.add_argument("--limit", metavar="CONDITION", help="such as 'pixel3_latency_ms <= 5'")
    parser.add_argument("--out", type=place, metavar="DIR", help="where the CSV files and the plot go")
    parser.epilog = "--STRATEGY.FIELD VALUE sets a field, such as --regularized-evolution.population-size 30"
    return parser


def main(argv: Sequence[str]) -> str:
    """`nas compare`: what it prints."""
    options, rest = flags().parse_known_args(list(argv))
    table = table_of(options.task, options.space, config.build_space(options.space))
    if table is None:
        raise UsageError(f"task={options.task!r} must be table:FILE")
    budget = options.budget_seconds
    if budget is None and options.trials is None:
        budget = 12_000.0
    limits = config.parse_limits(options.limit)
    question = Question(
        table, options.dataset, options.epochs, options.seeds, budget, options.trials, limits, options.noise
    )
    fields = _fields(rest, options.strategies.split(","))
    strategies = {name: config.build_strategy({"name": name, **given}) for name, given in fields.items()}
    learning = [name for name, strategy in strategies.items() if isinstance(strategy, GradientStrategy)]
    if learning:
        raise UsageError(f"strategies={learning[0]!r} learns by gradients, of which a table has none")
    if options.out is not None:
        _check_folder(options.out)
    quick_start()
    answers = run(question, strategies, lambda name: output.tell(f"{name} ..."))
    text = render(question, summary(question, answers))
    if options.out is not None:
        try:
            text += "".join(f"\n{path}" for path in write(question, answers, options.out)) + "\n"
        except BaseException:  # it may have taken hours
            output.say("nas", text)
            raise
    return text


def _fields(rest: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """What `--STRATEGY.FIELD VALUE` says, by strategy."""
    found: dict[str, dict[str, str]] = {name: {} for name in names}
    if len(found) < len(names):
        raise UsageError(f"strategies={','.join(names)!r} must be different ones")
    words = iter(rest)
    for word in words:
        flag, equals, value = word.removeprefix("--").partition("=")
        name = next((each for each in found if flag.startswith(f"{each}.")), None)
        if not word.startswith("--") or name is None:
            raise UsageError(f"flag {word!r} is not known; nas compare --help lists all, besides --STRATEGY.FIELD")
        value = value if equals else next(words, None)
        if value is None:
            raise UsageError(f"flag {word!r} needs a value")
        found[name][flag.removeprefix(f"{name}.")] = value
    return found
