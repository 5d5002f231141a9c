"""Evaluation without training: scores of the network at initialisation."""

import dataclasses

from nas.evaluators.base import Evaluation
from nas.evaluators.proxies import SCORES, scores
from nas.tasks.base import Task
from nas.training.recipe import ZeroCost
from spaces.base import Space, costs

METRICS = tuple(f"minus_{name}" for name in SCORES)


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroCostEvaluator:
    """Every metric is minimised, and of the scores more is better: `minus_naswot` is the negative of `naswot`, and so
    are the others. An evaluation fails where `objective` is infinite or NaN."""

    space: Space
    task: Task
    settings: ZeroCost = ZeroCost()
    objective: str = METRICS[1]

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
