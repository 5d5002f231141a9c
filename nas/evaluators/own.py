"""Evaluation by the user's own code.

An evaluator is a frozen dataclass with `metrics`, the names of what it measures, of which the first is the objective
unless the user names another, and `prepare(space, task)`, which gives a function of an encoding, a budget in epochs and
a seed. That function runs in the processes of the workers, and gives a number for each metric; all are minimised. Of
what more is better it gives the negative, called `minus_NAME`: that is shown as NAME, the most first.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from nas import registry
from nas.errors import UsageError
from nas.evaluators.base import Context, Evaluation, Scoring, at_budget
from nas.plain import shown
from nas.tasks.base import Task
from spaces.base import Space, costs
from spaces.costs import LONGEST

MOST = float(np.finfo(np.float32).max)


@runtime_checkable
class Own(Protocol):
    """What the user writes."""

    metrics: tuple[str, ...]

    def prepare(self, space: Space, task: Task) -> Callable[[tuple[int, ...], int, int], Mapping[str, float]]:
        """Called once in each process, before its first candidate. Gives a function of an encoding, of the epochs that
        the strategy grants (0 where it has none in mind) and of the seed of the run, the same for all candidates. That
        is pure: the result of one call stands for every later one with the same encoding and budget."""
        ...


def check(name: str, value: Any) -> None:
    """Raises UsageError for what is no evaluator."""
    with registry.guarded(f"evaluator={name!r}"):
        metrics, prepare = getattr(value, "metrics", None), getattr(value, "prepare", None)
    if not callable(prepare):
        raise UsageError(f"evaluator={name!r} must have a method prepare(space, task)")
    named = isinstance(metrics, tuple) and all(isinstance(each, str) and each.isidentifier() for each in metrics)
    if not metrics or not named:
        raise UsageError(f"evaluator={name!r}: metrics={metrics!r} must be a tuple of names, such as ('error',)")
    check_names(f"evaluator={name!r}: metrics", metrics)


def check_names(field: str, names: Sequence[str], taken: Collection[str] = ()) -> None:
    """Raises UsageError for names of metrics that are there twice, too long, or those of something else."""
    for place, name in enumerate(names):
        if len(name) > LONGEST:
            raise UsageError(f"{field}: {shown(name)!r} must have at most {LONGEST} letters")
        if name in names[:place]:
            raise UsageError(f"{field}: {name!r} is there twice")
        if name in taken:
            raise UsageError(f"{field}: {name!r} is the name of something else already; choose another")


@dataclasses.dataclass(frozen=True)
class OwnScoring(Scoring):
    own: Own

    def __post_init__(self):
        object.__setattr__(self, "name", type(self.own).__name__)

    def metrics(self, metric: str) -> tuple[str, ...]:
        return self.own.metrics

    def prepare(self, context: Context) -> "OwnEvaluator":
        return OwnEvaluator(context.space, context.images, self.own, context.objective, context.budgets)


def scoring(evaluator: Scoring | Own) -> Scoring:
    """One of ours as it is; the user's own as one of ours."""
    return evaluator if isinstance(evaluator, Scoring) else OwnScoring(evaluator)


@dataclasses.dataclass(frozen=True, eq=False)
class OwnEvaluator:
    """The costs of an architecture, and what the user's evaluator measures besides."""

    space: Space
    task: Task
    own: Own
    objective: str
    budgets: tuple[int, ...] = ()  # that the strategy asks for

    @functools.cached_property
    def _measure(self) -> Callable[[tuple[int, ...], int, int], Mapping[str, float]]:
        found = self.own.prepare(self.space, self.task)
        if not callable(found):
            raise TypeError(
                f"prepare of the evaluator must give a function of an architecture, not {type(found).__name__}"
            )
        return found

    def __call__(self, encoding: tuple[int, ...], budget: int, seed: int) -> Evaluation:
        measured = self._measure(encoding, budget, seed)
        if not isinstance(measured, Mapping) or set(measured) != set(self.own.metrics):
            given = sorted(measured) if isinstance(measured, Mapping) else type(measured).__name__
            raise TypeError(f"the evaluator gives {given}, not a number for each of {', '.join(self.own.metrics)}")
        named = {name: at_budget(name, budget, self.budgets) for name in measured}
        metrics = {named[name]: _number(name, value) for name, value in measured.items()}
        objective = named.get(self.objective, self.objective)
        return Evaluation({**costs(self.space, encoding), **metrics}, objective=objective)


def _number(name: str, value: Any) -> float:
    """Of Python, NumPy or JAX; no text that could be read as one."""
    if not isinstance(value, int | float) and (getattr(value, "shape", None) != () or value.dtype.kind not in "biuf"):
        raise TypeError(f"the evaluator gives {name}={shown(value)}, which must be a number")
    found = float(value)
    if math.isfinite(found) and abs(found) > MOST:
        raise ValueError(f"the evaluator gives {name}={found:g}, which float32 does not hold; allowed: up to {MOST:g}")
    return found
