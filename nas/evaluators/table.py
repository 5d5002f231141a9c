"""Evaluation from a table: what somebody measured, at the cost that it had, in no time at all."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from nas.evaluators.base import Context, Evaluation, Scoring
from nas.metrics import inner
from nas.streams import NOISE, stream
from nas.tables import Table
from nas.tables.table import perturbation
from nas.training.recipe import Lookup


@dataclasses.dataclass(frozen=True, eq=False)
class Tabular(Scoring):
    """By what a table says: see `TableEvaluator`. `asked` are the names that the user wants to know of."""

    table: Table
    lookup: Lookup
    asked: tuple[str, ...] = ()
    tests: bool = False

    immediate: ClassVar[bool] = True

    def prepare(self, context: Context | None) -> "TableEvaluator":
        asked = (inner(name, self.table.columns) for name in self.asked if name != "error")
        known = tuple(name for name in dict.fromkeys(["macs", "params", *asked]) if name in self.table.columns)
        return TableEvaluator(self.table, self.lookup, known, self.tests)


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

    @functools.cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        dataset, epochs = self.table.looked_up(self.lookup.dataset, self.lookup.epochs)
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
        metrics = {name: float(values[row]) for name, values in self._columns.items()}
        if self.lookup.noise > 0 and not self.tests:
            unit = jax.jit(perturbation)(stream(seed, NOISE), jnp.asarray([row], jnp.int32))[0]
            # In float32, as a study adds it.
            metrics["error"] = float(np.float32(metrics["error"]) + np.float32(self.lookup.noise) * np.float32(unit))
        return Evaluation(metrics)
