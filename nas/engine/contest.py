"""Strategies side by side on a table: the same seeds, the same budget, and a test against random search."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nas import registry
from nas.engine import study
from nas.engine.proposals import refused
from nas.errors import UsageError
from nas.seeds import MOST
from nas.store.query import Row
from nas.tables import Table
from nas.tables.columns import error_name, seconds_name
from spaces.base import Limits
from strategies.base import Budgeted, Strategy, with_trials
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
        needed = (*self._numbers(epochs), *dict(self.limits), *self.table.longest(dataset).values())
        object.__setattr__(self, "table", self.table.within(needed))

    def _numbers(self, epochs: int) -> tuple[str, str]:
        """The columns of what a training of so many epochs gives and takes."""
        dataset = self.looked_up[0]
        return error_name(dataset, "valid", epochs), seconds_name(dataset, epochs)

    def of_budgets(self, budgets: tuple[int, ...]) -> "Question":
        """The same, of the architectures that have their numbers for each of these too. Raises UsageError where the
        table has not these budgets."""
        for epochs in budgets:
            self.table.looked_up(self.looked_up[0], epochs)
        needed = [name for epochs in budgets for name in self._numbers(epochs)]
        return dataclasses.replace(self, table=self.table.within(needed))

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
        name = seconds_name(dataset, epochs)
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
            f"{dataset}_{split}": name for dataset in datasets for split, name in self.table.longest(dataset).items()
        }
        known = {shown: self.table.values[name] for shown, name in names.items()}
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
    question, strategy, signal, seconds = _by_budget(question, strategy)
    space, keeps, budget = question.table.searchable(), allowed(question), question.budget_seconds
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
        for row in result.rows[~keeps[result.rows]]:
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
    target = int(np.argmin(np.where(keeps, question.signal, np.inf)))
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


def run(
    question: Question, strategies: Mapping[str, Any], on_answer: Callable[[str], None] = lambda name: None
) -> dict[str, Answer]:
    for strategy in strategies.values():
        _by_budget(question, strategy)  # what is wrong is said before anything takes long
    answers = {}
    for name, strategy in strategies.items():
        on_answer(name)
        answers[name] = ask(question, strategy)
    return answers


def _by_budget(question: Question, strategy: Any) -> tuple[Question, Any, np.ndarray, np.ndarray]:
    """The errors `[rows]` and seconds `[rows]`; of a strategy that asks for several budgets `[budgets, rows, 1]` and
    `[budgets, rows]`, and then the strategy with the epochs that the table has, and the question of the architectures
    that have all of these numbers. Raises UsageError where the table has not what it asks for."""
    if not isinstance(strategy, Budgeted):
        return question, strategy, question.signal, question.seconds
    of_table: Any = strategy
    if not strategy.budgets:
        of_table = dataclasses.replace(of_table, budgets=question.table.epochs(question.looked_up[0]))
    if len(of_table.budgets) < 2:
        said = f"strategy {type(strategy).__name__} needs trainings of several lengths"
        raise UsageError(f"table={question.table.path!r}: {said}, and this has epochs {of_table.budgets}")
    question = question.of_budgets(of_table.budgets)
    each = [dataclasses.replace(question, epochs=epochs) for epochs in of_table.budgets]
    signal, seconds = np.stack([one.signal for one in each]), np.stack([one.seconds for one in each])
    return question, of_table, signal[:, :, None], seconds


def _usual_seconds(strategy: Any, seconds: np.ndarray) -> float:
    """Of a trial; of several budgets each is given to one of `eta` of those that the one before it is."""
    if not isinstance(strategy, Budgeted):
        return float(np.nanmean(seconds))
    often = float(strategy.eta) ** -np.arange(len(seconds))
    return float((np.nanmean(seconds, axis=1) * often).sum() / often.sum())


def allowed(question: Question) -> np.ndarray:
    """Of each row whether it was measured and keeps the limits."""
    keeps = question.table.measured.copy()
    for name, most in question.limits:
        keeps &= question.table.column(name) <= most
    return keeps


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
