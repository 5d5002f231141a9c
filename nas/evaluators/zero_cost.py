"""Evaluation without training: scores of the network at initialisation, and an ensemble of them.

The ensemble is the sum, over `naswot`, `jacov` and the number of parameters, of the logarithm of the share of random
architectures that are worse (Lee & Ham, "AZ-NAS", 2024, https://arxiv.org/abs/2403.19232, with other scores). There the
ranks are among all candidates of a search; here they are among a sample that the seed draws, so that a candidate has
the same score whatever else is evaluated.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from nas.evaluators.base import Context, Evaluation, Scoring
from nas.evaluators.proxies import SCORES, scores
from nas.streams import REFERENCES, stream
from nas.tasks.base import Task
from spaces.base import Space, costs, sample

METRICS = tuple(f"minus_{name}" for name in SCORES)
DEFAULT = "minus_naswot"
ENSEMBLE = "minus_ensemble"
PARTS = ("naswot", "jacov", "params")  # of the ensemble: in each more is better


@dataclasses.dataclass(frozen=True)
class ZeroCost(Scoring):
    """Untrained, by scores of the initial weights."""

    batch_size: int = 64
    """Training images that the network is shown."""
    initialisations: int = 1
    """Draws of the initial weights, over which a score is the mean."""
    references: int = 100
    """Random architectures that are scored first where the ensemble is an objective: it ranks among them."""

    name: ClassVar[str] = "zero-cost"
    needs_supernet: ClassVar[bool] = True

    def __post_init__(self):
        if self.batch_size < 2:
            raise ValueError(f"batch_size={self.batch_size} must be at least 2")
        for name, least in (("initialisations", 1), ("references", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")

    def metrics(self, metric: str) -> tuple[str, ...]:
        return (DEFAULT, *(name for name in METRICS if name != DEFAULT), ENSEMBLE)

    def prepare(self, context: Context) -> "ZeroCostEvaluator":
        together = ENSEMBLE in context.objectives
        asked = {*PARTS, *(name.removeprefix("minus_") for name in context.objectives)} if together else SCORES
        names = tuple(name for name in SCORES if name in asked)
        return ZeroCostEvaluator(context.space, context.images, self, context.objective, together, names)


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroCostEvaluator:
    """Every metric is minimised, and of the scores more is better: `minus_naswot` is the negative of `naswot`, and so
    are the others; people see `naswot` (`nas.metrics`). An evaluation fails where `objective` is infinite or NaN.
    `together` says whether the ensemble is among them, `names` which scores are computed."""

    space: Space
    task: Task
    settings: ZeroCost = ZeroCost()
    objective: str = DEFAULT
    together: bool = False
    names: tuple[str, ...] = SCORES

    def __call__(self, encoding: tuple[int, ...], budget: int, seed: int) -> Evaluation:
        """The negatives of the scores, and the costs. The budget does not matter; the seed draws images and weights."""
        found = self._scores(encoding, seed)
        own = costs(self.space, encoding)
        metrics = {f"minus_{name}": -value for name, value in found.items()}
        if self.together:
            if seed not in self._references:
                self._references[seed] = self._ranked(seed)
            metrics[ENSEMBLE] = -ensemble({**found, **own}, self._references[seed])
        return Evaluation({**metrics, **own}, objective=self.objective)

    def _scores(self, encoding: tuple[int, ...], seed: int) -> dict[str, float]:
        how = {"batch_size": self.settings.batch_size, "initialisations": self.settings.initialisations}
        return scores(self.space, encoding, self.task, seed, names=self.names, **how)

    @functools.cached_property
    def _references(self) -> dict[int, dict[str, np.ndarray]]:
        """By seed, of which a run has one."""
        return {}

    def _ranked(self, seed: int) -> dict[str, np.ndarray]:
        """What each part of the ensemble is of random architectures, ascending."""
        rows = np.asarray(sample(self.space, stream(seed, REFERENCES), self.settings.references))
        each = [{**self._scores(row, seed), **costs(self.space, row)} for row in map(tuple, rows.tolist())]
        return {name: np.sort([one[name] for one in each]) for name in PARTS if name in each[0]}


def ensemble(values: Mapping[str, float], references: Mapping[str, np.ndarray]) -> float:
    """The sum over the parts of the logarithm of the share of references that are worse: 0 at most for whoever is
    better than all of them in all, but for what distinguishes those among each other."""
    return sum(math.log(share(values[name], others)) for name, others in references.items())


def share(value: float, others: np.ndarray) -> float:
    """The share of the others that is below, between two of them in proportion, so that it grows with the value; above
    all of them it goes on to grow as slowly as in their upper half. What is no number is the worst."""
    known = others[np.isfinite(others)]
    missing, least = len(others) - len(known), 0.5 / len(others)
    if not len(known) or not math.isfinite(value):
        return least / 2
    places = (missing + np.arange(len(known)) + 0.5) / len(others)
    if value > known[-1]:
        upper = known[-1] - known[len(known) // 2]
        return float(places[-1] + least * (value - known[-1]) / (upper or 1.0))
    if value < known[0]:
        return float(places[0] * (0.5 + 0.5 / (1 + (known[0] - value) / (known[-1] - known[0] or 1.0))))
    return float(np.interp(value, known, places))
