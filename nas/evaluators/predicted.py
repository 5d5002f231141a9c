"""Evaluation by a saved predictor: what was learned from other runs, at no cost."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from nas.errors import UsageError
from nas.evaluators.base import Context, Evaluation, Scoring
from spaces.base import Space, costs

METRIC = "predicted"


@dataclasses.dataclass(frozen=True)
class Predicted(Scoring):
    """By the score that a saved predictor expects."""

    predictor: str = ""
    """Its name in the store: see `nas predictors`."""

    name: ClassVar[str] = "predicted"
    immediate: ClassVar[bool] = True

    def metrics(self, metric: str) -> tuple[str, ...]:
        return (METRIC,)

    def check(self, context: Context) -> None:
        if not self.predictor:
            raise UsageError("evaluator.predictor='' must be the name of a saved predictor: nas predictors list")
        self.prepare(context)((0,) * len(context.space.cardinalities), 0, 0)  # of another space it scores nothing

    def rests_on(self, context: Context) -> str | None:
        return context.predictor(self.predictor)[1]

    def prepare(self, context: Context) -> "PredictedEvaluator":
        return PredictedEvaluator(context.space, context.predictor(self.predictor)[0])


@dataclasses.dataclass(frozen=True, eq=False)
class PredictedEvaluator:
    """`predicted` is in the unit that the predictor learned; less is better."""

    space: Space
    fitted: Any  # `nas.saved.predictors.Fitted`, of the same space

    def __call__(self, encoding: tuple[int, ...], budget: int, seed: int) -> Evaluation:
        mean, _ = self.fitted.predict(self.space, np.array([encoding], np.int32))
        return Evaluation({METRIC: float(mean[0]), **costs(self.space, encoding)}, objective=METRIC)
