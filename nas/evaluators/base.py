"""How candidates are scored: what an evaluation is asked for, what it gives, and where its exceptions become data."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from nas import registry
from nas.errors import UsageError
from nas.metrics import seen
from nas.tasks.base import Task
from nas.training.distillation import Teacher
from nas.training.pretraining import Pretraining
from nas.training.recipe import Recipe
from spaces.abilities import shares_weights
from spaces.base import Space


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


class Context(NamedTuple):
    """What a job has for those who score its candidates."""

    space: Space
    task: Task | None  # None where nothing is measured on images
    objective: str  # the first of what is minimised
    training: Recipe  # of the shared weights
    final: Recipe  # of one architecture alone
    shared_weights: Callable[[bool], dict[str, np.ndarray]]  # of the supernet, affine or not; trained if need be
    predictor: Callable[[str], tuple[Any, str]]  # a saved predictor by name, and the sha256 of its arrays
    pretraining: Pretraining | None = None  # of bodies, before they are a detector's
    teacher: Teacher | None = None  # from whom those learn that are trained by `final`
    progress: Path | None = None  # the folder in which unfinished trainings are kept
    note: dict[str, Any] = {}  # noqa: RUF012  # beside them: what they are the progress of
    on_step: Callable[[int, float], None] | None = None  # hears of a training in this process: steps, and the loss
    objectives: tuple[str, ...] = ()  # all that is minimised
    budgets: tuple[int, ...] = ()  # that the strategy asks for, in epochs, ascending; empty where it has none in mind

    @property
    def images(self) -> Task:
        assert self.task is not None  # only who needs none is asked without
        return self.task


@dataclasses.dataclass(frozen=True)
class Scoring:
    """A way to score candidates, as a value whose fields the user sets: `--evaluator NAME --evaluator.FIELD VALUE`."""

    name: ClassVar[str]  # as users choose it
    needs_supernet: ClassVar[bool] = False  # of a space without shared weights it can score nothing
    immediate: ClassVar[bool] = False  # nothing is computed: no workers are started for it, and nothing compiled

    def budgets(self, task: Task | None, final: Recipe) -> tuple[int, ...]:
        """Epochs that evaluations may be given, ascending; empty where more of them make no difference. `final` is the
        recipe of a training from scratch."""
        return ()

    def metrics(self, metric: str) -> tuple[str, ...]:
        """What it measures beside costs on a task that minimises `metric`; by default the first is the objective."""
        return (metric,)

    def check(self, context: Context) -> None:
        """Raises UsageError for what it cannot score. It is asked before a run is stored."""
        if self.needs_supernet and not shares_weights(context.space):
            raise UsageError(
                f"evaluator={self.name!r} needs a space with shared weights; this one has none: "
                "--evaluator train builds the network of each architecture by itself"
            )

    def rests_on(self, context: Context) -> str | None:
        """A digest of what decides scores beside fields, data and seed: a run is gone on with by the same alone."""
        return None

    def prepare(self, context: Context) -> Evaluator:
        """The function that scores, which is sent to the workers."""
        raise NotImplementedError


def at_budget(metric: str, budget: int, budgets: tuple[int, ...]) -> str:
    """The name of a metric that was measured with a budget: of less than the largest, error is error_e3."""
    return f"{metric}_e{budget}" if budget and budgets and budget < budgets[-1] else metric


def run_job(evaluator: Evaluator, job: Job) -> Report:
    """Evaluates; an exception of the evaluator becomes the reason of a failed trial.

    Raises MemoryError alone, on the host or a device: elsewhere, or later, the same job may succeed.
    """
    start = time.perf_counter()
    try:
        evaluation, error = evaluator(job.encoding, job.budget, job.seed), None
        value = evaluation.metrics[evaluation.objective]
        if not np.isfinite(value):
            evaluation, error = None, "the {} is {}".format(*seen(evaluation.objective, value))
    except KeyboardInterrupt:
        raise
    except BaseException as exception:  # the boundary to evaluators: the only broad catch
        if not isinstance(exception, Exception) and registry.where(exception) is None:
            raise  # Ray itself ends the process
        evaluation, error = None, registry.told(exception)
        if isinstance(exception, MemoryError) or "RESOURCE_EXHAUSTED" in error:
            raise MemoryError(error.removeprefix(f"{type(exception).__name__}: ")) from exception
    return Report(job.number, evaluation, error, time.perf_counter() - start)
