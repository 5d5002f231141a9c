"""Evaluation without training: scores of the network at initialisation."""

import dataclasses
from typing import ClassVar

from nas.evaluators.base import Context, Evaluation, Scoring
from nas.evaluators.proxies import SCORES, scores
from nas.tasks.base import Task
from spaces.base import Space, costs

METRICS = tuple(f"minus_{name}" for name in SCORES)
DEFAULT = "minus_naswot"


@dataclasses.dataclass(frozen=True)
class ZeroCost(Scoring):
    """Untrained, by scores of the initial weights."""

    batch_size: int = 64
    """Training images that the network is shown."""
    initialisations: int = 1
    """Draws of the initial weights, over which a score is the mean."""

    name: ClassVar[str] = "zero-cost"
    needs_supernet: ClassVar[bool] = True

    def __post_init__(self):
        if self.batch_size < 2:
            raise ValueError(f"batch_size={self.batch_size} must be at least 2")
        if self.initialisations < 1:
            raise ValueError(f"initialisations={self.initialisations} must be at least 1")

    def metrics(self, metric: str) -> tuple[str, ...]:
        return (DEFAULT, *(name for name in METRICS if name != DEFAULT))

    def prepare(self, context: Context) -> "ZeroCostEvaluator":
        return ZeroCostEvaluator(context.space, context.images, self, objective=context.objective)


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroCostEvaluator:
    """Every metric is minimised, and of the scores more is better: `minus_naswot` is the negative of `naswot`, and so
    are the others; people see `naswot` (`nas.metrics`). An evaluation fails where `objective` is infinite or NaN."""

    space: Space
    task: Task
    settings: ZeroCost = ZeroCost()
    objective: str = DEFAULT

    def __call__(self, encoding: tuple[int, ...], budget: int, seed: int) -> Evaluation:
        """The negatives of the scores, and the costs. The budget does not matter; the seed draws images and weights."""
        settings = self.settings
        found = scores(
            self.space,
            encoding,
            self.task,
            seed,
            batch_size=settings.batch_size,
            initialisations=settings.initialisations,
        )
        metrics = {f"minus_{name}": -value for name, value in found.items()}
        return Evaluation({**metrics, **costs(self.space, encoding)}, objective=self.objective)
