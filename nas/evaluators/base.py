"""What an evaluation is asked for, what it gives, and the one place where its exceptions become data."""

import dataclasses
import time
from typing import Protocol, runtime_checkable

import numpy as np

from nas import registry


@dataclasses.dataclass(frozen=True)
class Job:
    """One trial to evaluate."""

    number: int
    encoding: tuple[int, ...]
    budget: int  # epochs it may train; 0 leaves it to the evaluator
    seed: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics by name, all minimised (`error` is a share in [0, 1]), and trained arrays where there are any.

    Without a finite `objective`, which is the name of a metric, the evaluation has failed.
    """

    metrics: dict[str, float]
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    objective: str = "error"


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of a job: an evaluation, or the reason why there is none."""

    number: int
    evaluation: Evaluation | None
    error: str | None
    seconds: float


@runtime_checkable
class Evaluator(Protocol):
    """Pure in its arguments: the same encoding, budget and seed give the same evaluation in every process."""

    def __call__(self, encoding: tuple[int, ...], budget: int, seed: int) -> Evaluation: ...


def run_job(evaluator: Evaluator, job: Job) -> Report:
    """Evaluates; an exception of the evaluator becomes the reason of a failed trial.

    Raises MemoryError alone, on the host or a device: elsewhere, or later, the same job may succeed.
    """
    start = time.perf_counter()
    try:
        evaluation, error = evaluator(job.encoding, job.budget, job.seed), None
        value = evaluation.metrics[evaluation.objective]
        if not np.isfinite(value):
            evaluation, error = None, f"the {evaluation.objective} is {value}"
    except Exception as exception:  # the boundary to evaluators: the only broad catch
        if isinstance(exception, MemoryError) or "RESOURCE_EXHAUSTED" in str(exception):
            raise MemoryError(str(exception)) from exception
        evaluation, error = None, registry.told(exception)
    return Report(job.number, evaluation, error, time.perf_counter() - start)
