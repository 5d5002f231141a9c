"""Evaluation from a table: what somebody measured, at the cost that it had, in no time at all."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from nas.evaluators.base import Context, Evaluation, Scoring, at_budget
from nas.metrics import inner
from nas.streams import NOISE, stream
from nas.tables import Table
from nas.tables.columns import error_name, seconds_name
from nas.tables.table import perturbation
from nas.tasks.base import Task
from nas.training.recipe import Lookup, Recipe


@dataclasses.dataclass(frozen=True, eq=False)
class Tabular(Scoring):
    """By what a table says: see `TableEvaluator`. `asked` are the names that the user wants to know of."""

    table: Table
    lookup: Lookup
    asked: tuple[str, ...] = ()
    tests: bool = False

    immediate: ClassVar[bool] = True

    def budgets(self, task: Task | None, final: Recipe) -> tuple[int, ...]:
        return self.table.epochs(self.table.looked_up(self.lookup.dataset, self.lookup.epochs)[0])

    def check(self, context: Context) -> None:
        self.prepare(context).check()

    def prepare(self, context: Context | None) -> "TableEvaluator":
        asked = (inner(name, self.table.columns) for name in self.asked if name != "error")
        known = tuple(name for name in dict.fromkeys(["macs", "params", *asked]) if name in self.table.columns)
        budgets = () if context is None or self.tests else context.budgets
        return TableEvaluator(self.table, self.lookup, known, self.tests, budgets)


@dataclasses.dataclass(frozen=True, eq=False)
class TableEvaluator:
    """`error` is the validation error; `simulated_seconds` what the evaluation took when it was done.

    With `tests`, the report after a search, the numbers are those of the longest training of the architecture that the
    table has, and `test_error` is there, where it has one.
    """

    table: Table
    lookup: Lookup
    costs: Sequence[str] = ("macs", "params")
    tests: bool = False
    budgets: tuple[int, ...] = ()  # that the strategy asks for

    @functools.cached_property
    def _columns(self) -> dict[int, dict[str, np.ndarray]]:
        """By budget; that of 0 is what is looked up where the strategy has none in mind."""
        return {budget: self._columns_of(budget or self.lookup.epochs) for budget in self.budgets or (0,)}

    def _columns_of(self, epochs: int | None) -> dict[str, np.ndarray]:
        return {metric: self.table.column(name) for metric, name in self._names_of(epochs).items()}

    def _names_of(self, epochs: int | None) -> dict[str, str]:
        """By metric the column of the table."""
        dataset, epochs = self.table.looked_up(self.lookup.dataset, epochs)
        names = {"error": error_name(dataset, "valid", epochs), "simulated_seconds": seconds_name(dataset, epochs)}
        if self.tests:
            names["test_error"] = error_name(dataset, "test", epochs)
        known = {metric: name for metric, name in names.items() if metric == "error" or name in self.table.columns}
        return known | {name: name for name in self.costs}

    def names(self) -> set[str]:
        """The columns that a search needs."""
        return {
            name for budget in self.budgets or (0,) for name in self._names_of(budget or self.lookup.epochs).values()
        }

    def _longest(self, row: int) -> dict[str, float]:
        """What the longest training of an architecture gave that the table knows of."""
        dataset, asked = self.table.looked_up(self.lookup.dataset, self.lookup.epochs)
        errors = {
            epochs: self.table.values[error_name(dataset, "valid", epochs)] for epochs in self.table.epochs(dataset)
        }
        epochs = max((epochs for epochs, values in errors.items() if not math.isnan(values[row])), default=asked)
        found = {metric: float(self.table.values[name][row]) for metric, name in self._names_of(epochs).items()}
        return {metric: value for metric, value in found.items() if not math.isnan(value)}

    def check(self) -> None:
        """Raises UsageError where the table lacks what is looked up."""
        _ = self._columns

    def __call__(self, encoding: tuple[int, ...], budget: int, seed: int) -> Evaluation:
        row = int(np.ravel_multi_index(encoding, self.table.space.cardinalities))
        if self.tests:
            return Evaluation(self._longest(row), objective="error")
        columns = self._columns.get(budget, self._columns[max(self._columns)])
        metrics = {name: float(values[row]) for name, values in columns.items()}
        if self.lookup.noise > 0:
            unit = jax.jit(perturbation)(stream(seed, NOISE), jnp.asarray([row], jnp.int32))[0]
            # In float32, as a study adds it.
            metrics["error"] = float(np.float32(metrics["error"]) + np.float32(self.lookup.noise) * np.float32(unit))
        objective = at_budget("error", budget, self.budgets)
        return Evaluation({objective: metrics.pop("error"), **metrics}, objective=objective)
