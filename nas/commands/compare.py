"""Strategies side by side on a table: the same seeds, the same budget, and a test against random search."""

import csv
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas import config, registry
from nas.config import Parser
from nas.engine import study
from nas.engine.proposals import refused
from nas.errors import UsageError, unwritable
from nas.plain import number, place, whole
from nas.report import output
from nas.report.comparison import Curve
from nas.seeds import MOST
from nas.store.query import Row
from nas.tables import Table, table_of
from nas.training.compilation import quick_start
from spaces.base import Limits
from strategies.base import Budgeted, GradientStrategy, Strategy, with_trials
from strategies.region import region

BASELINE = "random"
POINTS = 200  # of a curve
MOST_EVALUATIONS = 2**25  # of a strategy, by all seeds


@dataclasses.dataclass(frozen=True)
class Question:
    """What all strategies are asked: to find the lowest validation error, within a budget."""

    table: Table
    dataset: str | None = None
    epochs: int | None = None
    seeds: int = 500
    budget_seconds: float | None = 12_000.0
    trials: int | None = None
    limits: Limits = ()
    noise: float = 0.0

    def __post_init__(self):
        if (self.budget_seconds is None) == (self.trials is None):
            raise UsageError("one of budget-seconds and trials must be given")
        for name, value in (("seeds", self.seeds), ("trials", self.trials), ("budget-seconds", self.budget_seconds)):
            if value is not None and not value > 0:
                raise UsageError(f"{name}={value} must be above 0")
        if self.seeds > MOST + 1:
            raise UsageError(f"seeds={self.seeds} must be at most {MOST + 1}, as many as there are")
        if not 0 <= self.noise < float("inf"):
            raise UsageError(f"noise={self.noise} must be at least 0")
        self.check_size(self.trials or 1)
        # An architecture that lacks one of the numbers is not drawn.
        dataset, epochs = self.looked_up
        judged = (f"{dataset}_{split}_error_e{self.table.most_epochs(dataset)}" for split in ("valid", "test"))
        needed = (f"{dataset}_valid_error_e{epochs}", f"{dataset}_seconds_e{epochs}", *judged, *dict(self.limits))
        object.__setattr__(self, "table", self.table.within(needed))

    def check_size(self, trials: float) -> None:
        """Raises UsageError for more evaluations than fit in memory."""
        if trials * self.seeds > MOST_EVALUATIONS:
            asked = "trials" if self.budget_seconds is None else "budget-seconds"
            raise UsageError(
                f"{asked}={self.trials or self.budget_seconds:g} with seeds={self.seeds} are {trials * self.seeds:.3g} "
                f"evaluations; allowed: {MOST_EVALUATIONS}"
            )

    @property
    def all_limits(self) -> Limits:
        """The limits, and what the table has measured."""
        return self.limits + self.table.limits

    @property
    def looked_up(self) -> tuple[str, int]:
        return self.table.looked_up(self.dataset, self.epochs)

    @property
    def signal(self) -> np.ndarray:
        dataset, epochs = self.looked_up
        return self.table.error(dataset, "valid", epochs)

    @property
    def seconds(self) -> np.ndarray:
        """What each evaluation took. Where the table does not say, and nobody asks, each takes no time."""
        dataset, epochs = self.looked_up
        name = f"{dataset}_seconds_e{epochs}"
        if name not in self.table.columns and self.budget_seconds is None:
            return np.zeros(len(self.signal))
        if name not in self.table.columns:
            said = f"it has no column {name!r}; --trials is the budget that needs none"
            raise UsageError(
                f"budget-seconds={self.budget_seconds:g} cannot be spent on table={self.table.path!r}: {said}"
            )
        return self.table.column(name)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The accuracies that are reported, in percent: of the longest training, on every dataset without gaps."""
        datasets = dict.fromkeys(c.dataset for c in self.table.columns.values() if c.kind == "error" and c.dataset)
        names = {
            f"{dataset}_{split}": f"{dataset}_{split}_error_e{self.table.most_epochs(dataset)}"
            for dataset in datasets
            for split in ("valid", "test")
        }
        known = {shown: self.table.values[name] for shown, name in names.items() if name in self.table.columns}
        whole = {shown: errors for shown, errors in known.items() if not np.isnan(errors[self.table.measured]).any()}
        return {shown: 100 * (1 - errors) for shown, errors in whole.items()}

    @property
    def judged(self) -> str:
        """The accuracy that strategies are compared by: of test, where the table has it."""
        return next(name for split in ("test", "valid") if (name := f"{self.looked_up[0]}_{split}") in self.columns)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one strategy found, by seed."""

    found: np.ndarray  # the row that it reports
    spent: np.ndarray  # simulated seconds
    trials: np.ndarray  # evaluations
    saw_best: np.ndarray  # whether it evaluated the row with the best signal
    curve_seconds: np.ndarray  # [points]
    curve: np.ndarray  # [seeds, points]: the row that it would have reported then, -1 before the first


def ask(question: Question, strategy: Strategy) -> Answer:
    """Runs one strategy. Raises UsageError where no row keeps the limits."""
    signal, seconds, space = question.signal, question.seconds, question.table.searchable()
    allowed = _allowed(question)
    budget = question.budget_seconds
    strategy, signal, seconds = _by_budget(question, strategy, signal, seconds)
    usual = question.trials or (budget or 0) / _usual_seconds(strategy, seconds)
    strategy = with_trials(strategy, int(usual))  # once: what it does must not hang on how often it is asked anew
    expected = question.trials or 1.15 * usual + strategy.generation
    question.check_size(expected)
    trials = int(expected)
    while True:
        try:
            region(space, question.all_limits)  # what is wrong with limits is no fault of the strategy
            with registry.calling("strategy", strategy):
                result = study.run(
                    strategy,
                    space,
                    signal,
                    range(question.seeds),
                    trials,
                    limits=question.all_limits,
                    noise=question.noise,
                )
        except ValueError as error:
            raise UsageError(str(error)) from error
        for row in result.rows[~allowed[result.rows]]:
            encoding = np.unravel_index(row, space.cardinalities)
            said = "was not measured" if not question.table.measured[row] else "does not keep the limits"
            raise refused(strategy, f"encoding={list(map(int, encoding))}, which {said}")
        spent = seconds[result.rows] if seconds.ndim == 1 else seconds[result.rungs, result.rows]
        elapsed = np.cumsum(spent.astype(np.float64), axis=1)
        if budget is None:
            fits = np.full(question.seeds, trials)
            break
        fits = (elapsed <= budget).sum(1)
        if (fits < trials).all():  # else it had more to spend than was foreseen
            break
        trials = int(1.5 * trials)
        question.check_size(trials)
    if fits.min() < 1:
        raise UsageError(f"budget-seconds={budget:g} is less than one evaluation takes")
    best, every = result.best(), np.arange(question.seeds)
    target = int(np.argmin(np.where(allowed, question.signal, np.inf)))
    inside = np.arange(result.rows.shape[1])[None] < fits[:, None]
    end = budget or float(elapsed.max())
    grid = np.linspace(0, end or 1.0, POINTS)
    counts = np.minimum(np.stack([np.searchsorted(each, grid, "right") for each in elapsed]), fits[:, None])
    curve = np.where(counts > 0, np.take_along_axis(best, np.maximum(counts - 1, 0), axis=1), -1)
    return Answer(
        found=best[every, fits - 1],
        spent=elapsed[every, fits - 1],
        trials=fits,
        saw_best=((result.rows == target) & inside).any(1),
        curve_seconds=grid,
        curve=curve,
    )


def _by_budget(question: Question, strategy: Any, signal: np.ndarray, seconds: np.ndarray) -> tuple[Any, Any, Any]:
    """The strategy with the epochs that the table has, where it asks for several, and the errors `[budgets, rows, 1]`
    and seconds `[budgets, rows]` of these. Raises UsageError where the table has not what it asks for."""
    if not isinstance(strategy, Budgeted):
        return strategy, signal, seconds
    of_table: Any = strategy
    if not strategy.budgets:
        of_table = dataclasses.replace(of_table, budgets=question.table.epochs(question.looked_up[0]))
    if len(of_table.budgets) < 2:
        said = f"strategy {type(strategy).__name__} needs trainings of several lengths"
        raise UsageError(f"table={question.table.path!r}: {said}, and this has epochs {of_table.budgets}")
    each = [dataclasses.replace(question, epochs=epochs) for epochs in of_table.budgets]
    return of_table, np.stack([one.signal for one in each])[:, :, None], np.stack([one.seconds for one in each])


def _usual_seconds(strategy: Any, seconds: np.ndarray) -> float:
    """Of a trial; of several budgets each is given to one of `eta` of those that the one before it is."""
    if not isinstance(strategy, Budgeted):
        return float(np.nanmean(seconds))
    often = float(strategy.eta) ** -np.arange(len(seconds))
    return float((np.nanmean(seconds, axis=1) * often).sum() / often.sum())


def _allowed(question: Question) -> np.ndarray:
    allowed = question.table.measured.copy()
    for name, most in question.limits:
        allowed &= question.table.column(name) <= most
    return allowed


def summary(question: Question, answers: Mapping[str, Answer]) -> list[Row]:
    """One row a strategy: mean and standard deviation over seeds, and the test against random search."""
    columns = question.columns
    judged = columns[question.judged]
    rows = []
    for name, answer in answers.items():
        row: Row = {"strategy": name}
        for column, values in columns.items():
            row[column] = float(values[answer.found].mean())
            row[f"{column}_std"] = float(values[answer.found].std(ddof=1)) if question.seeds > 1 else 0.0
        row |= {
            "trials": float(answer.trials.mean()),
            "simulated_seconds": float(answer.spent.mean()),
            "found_best": float(answer.saw_best.mean()),
        }
        if BASELINE in answers and name != BASELINE:
            row |= against(judged[answer.found], judged[answers[BASELINE].found])
        rows.append(row)
    return rows


def against(ours: np.ndarray, theirs: np.ndarray) -> Row:
    """The mean gain, and the two-sided p-value of Wilcoxon's signed-rank test over the seeds, which are paired."""
    from scipy.stats import wilcoxon

    gain = ours.astype(np.float64) - theirs
    p_value: Any = wilcoxon(gain)[1] if gain.any() else 1.0
    return {"gain": float(gain.mean()), "p_value": float(p_value)}


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
        best = float(np.nanmax(columns[judged][_allowed(question)]))
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
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
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
    parser.add_argument("--epochs", type=whole, help="of the training behind it [12, or the only number of the table]")
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
    quick_start()
    answers = run(question, strategies, lambda name: output.tell(f"{name} ..."))
    text = render(question, summary(question, answers))
    if options.out is not None:
        text += "".join(f"\n{path}" for path in write(question, answers, options.out)) + "\n"
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


def run(
    question: Question, strategies: Mapping[str, Any], on_answer: Callable[[str], None] = lambda name: None
) -> dict[str, Answer]:
    answers = {}
    for name, strategy in strategies.items():
        on_answer(name)
        answers[name] = ask(question, strategy)
    return answers
