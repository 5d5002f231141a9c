"""Evaluation from a table: what somebody measured, at the cost that it had, in no time at all."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from nas.evaluators.base import Context, Evaluation, Scoring, at_budget
from nas.metrics import inner
from nas.streams import NOISE, stream
from nas.tables import Table
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

    With `tests`, the report after a search, the numbers are those of the longest training, and `test_error` is there,
    where the table has them.
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
        dataset, epochs = self.table.looked_up(self.lookup.dataset, epochs)
        if self.tests:
            epochs = self.table.most_epochs(dataset)
        columns = {"error": self.table.error(dataset, "valid", epochs)}
        if self.tests and f"{dataset}_test_error_e{epochs}" in self.table.columns:
            columns["test_error"] = self.table.error(dataset, "test", epochs)
        if f"{dataset}_seconds_e{epochs}" in self.table.columns:
            columns["simulated_seconds"] = self.table.column(f"{dataset}_seconds_e{epochs}")
        return columns | {name: self.table.column(name) for name in self.costs}

    def check(self) -> None:
        """Raises UsageError where the table lacks what is looked up."""
        _ = self._columns

    def __call__(self, encoding: tuple[int, ...], budget: int, seed: int) -> Evaluation:
        row = int(np.ravel_multi_index(encoding, self.table.space.cardinalities))
        columns = self._columns.get(budget, self._columns[max(self._columns)])
        metrics = {name: float(values[row]) for name, values in columns.items()}
        if self.lookup.noise > 0 and not self.tests:
            unit = jax.jit(perturbation)(stream(seed, NOISE), jnp.asarray([row], jnp.int32))[0]
            # In float32, as a study adds it.
            metrics["error"] = float(np.float32(metrics["error"]) + np.float32(self.lookup.noise) * np.float32(unit))
        objective = at_budget("error", budget, self.budgets)
        return Evaluation({objective: metrics.pop("error"), **metrics}, objective=objective)
