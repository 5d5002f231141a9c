"""Evaluation by training: one architecture from scratch, by itself."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nas.errors import UsageError
from nas.evaluators.base import Context, Evaluation, Scoring, at_budget
from nas.streams import OWN_WEIGHTS, stream
from nas.tasks.base import Task
from nas.training.compilation import make_room
from nas.training.distillation import Teacher
from nas.training.net import alone, calibrate, flatten, images_at_once, measure, split, supernet, unflatten
from nas.training.pretraining import Pretraining
from nas.training.recipe import Recipe
from nas.training.sgd import fit
from spaces.abilities import is_one_bit, shares_weights, trains_as_cells
from spaces.base import Space, architecture_id, costs
from spaces.shared import select

RUNGS = 4  # budgets, each three times the one before it
RUNG_FOLDER = "rungs"  # within that of a run: trainings that a larger budget may go on with
PROGRESS = ".progress.safetensors"  # how the names of files end that hold trainings under way


@dataclasses.dataclass(frozen=True)
class Scratch(Scoring):
    """Each trained from scratch by the recipe `final`. Where a strategy asks for several budgets, that lasts for the
    largest of them, and with a smaller one ends early: it is gone on with from there."""

    name: ClassVar[str] = "train"

    def budgets(self, task: Task | None, final: Recipe) -> tuple[int, ...]:
        assert task is not None
        most = -(-final.steps // epoch_steps(final, task))
        return tuple(sorted({max(round(most / 3**i), 1) for i in range(RUNGS)}))

    def prepare(self, context: Context) -> "TrainEvaluator":
        # Networks of a supernet have no auxiliary head.
        pruned = not shares_weights(context.space) or context.final.auxiliary > 0
        kept = {"teacher": context.teacher, "budgets": context.budgets}
        if context.budgets and context.progress is not None:
            kept |= {"folder": str(context.progress / RUNG_FOLDER), "note": context.note}
        return TrainEvaluator(context.space, context.images, context.final, pruned=pruned, **kept)


@dataclasses.dataclass(frozen=True)
class Final(Scoring):
    """The training after the search, whose weights are kept, and the test."""

    def prepare(self, context: Context) -> "TrainEvaluator":
        kept = {"folder": str(context.progress), "note": context.note, "pretraining": context.pretraining}
        kept |= {"teacher": context.teacher, "on_step": context.on_step}
        return TrainEvaluator(context.space, context.images, context.final, pruned=True, tests=True, **kept)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainEvaluator:
    """Trains on the training split and measures the validation error.

    `pruned` builds the network of the architecture alone: the fastest steps and weights to export, but a program of
    its own. Without it, one program trains every architecture, its path being an argument.
    With `tests`, the final training, the test split is touched: once, after the last step.
    """

    space: Space
    task: Task
    recipe: Recipe
    pruned: bool = False
    tests: bool = False
    calibration_images: int = 4096
    batch_size: int = 256
    folder: str | None = None  # where the progress of a training is kept
    note: dict[str, Any] = dataclasses.field(default_factory=dict)  # beside it: what it is the progress of
    pretraining: Pretraining | None = None  # of the network that is built alone
    teacher: Teacher | None = None  # whom the recipe names
    on_step: Callable[[int, float], None] | None = None  # hears now and then how many steps are done, and the loss
    budgets: tuple[int, ...] = ()  # that a strategy asks for

    def __call__(self, encoding: tuple[int, ...], budget: int, seed: int) -> Evaluation:
        """The metric of the task (validation) and the costs; with `tests` also that of test, and the weights and
        statistics."""
        make_room()  # each architecture has a program of its own
        recipe = lasting(self.recipe, self.task, self.budgets[-1] if self.budgets else budget)
        stop = budget * epoch_steps(recipe, self.task) if budget and self.budgets else None
        key, row = stream(seed, OWN_WEIGHTS), np.asarray(encoding, np.int32)
        if self.pruned:
            graph, start, statistics = split(self._built(row, key))
            path = ()
        else:
            graph, shared, statistics = split(supernet(self.space, self.task.kind, key, affine=True))
            path = row
            start = select(shared, jnp.asarray(row))
        saved, before = self._saved(row, f"{seed}"), 0
        if self.pretraining is not None and self.pruned:
            how = {"saved": self._saved(row, f"{seed}.pretraining"), "note": self.note, "on_step": self._heard(0)}
            start = self.pretraining.begun(start, self.pretraining.alone(row, seed, **how))
            before = self.pretraining.recipe.steps
        weights = fit(
            graph,
            start,
            statistics,
            self.task,
            recipe,
            seed=seed,
            path=path,
            saved=saved,
            note=self.note,
            teacher=self.teacher,
            stop=stop,
            on_step=self._heard(before),
        )
        if recipe.auxiliary:
            weights, graph, statistics = self._without_auxiliary(weights, row, key)
        how = {"batch": images_at_once(self.task, self.batch_size), "precision": recipe.precision}
        images = self.task.train.images[: self.calibration_images]
        statistics = calibrate(graph, weights, statistics, images, self.task, path, **how)
        metric = self.task.kind.metric
        measured = functools.partial(measure, graph, weights, statistics, task=self.task, path=path, **how)
        known, valid = costs(self.space, encoding), measured(self.task.valid)
        if not self.tests:
            if saved is not None and budget == self.budgets[-1]:
                saved.unlink(missing_ok=True)  # nothing goes on from there
            named = {name: at_budget(name, budget, self.budgets) for name in valid}
            return Evaluation(
                {**{named[name]: value for name, value in valid.items()}, **known}, objective=named[metric]
            )
        metrics = {**valid, **known}
        metrics |= {f"test_{name}": value for name, value in measured(self.task.test).items()}
        jax.block_until_ready(weights)
        return Evaluation(metrics, {**flatten(weights), **flatten(statistics)}, objective=metric)

    def _heard(self, before: int) -> Callable[[int, float], None]:
        """What hears of a training that follows so many steps of another one."""
        return lambda step, loss: self.on_step(before + step, loss) if self.on_step is not None else None

    def _saved(self, row: np.ndarray, which: str) -> Path | None:
        if self.folder is None or not os.path.isdir(self.folder):  # as on a machine that has not the driver's files
            return None
        return Path(self.folder) / f"{architecture_id(self.space, row)}-{which}{PROGRESS}"

    def _built(self, row: np.ndarray, key: jax.Array) -> nnx.Module:
        options = {"auxiliary": True} if self.recipe.auxiliary else {}
        return alone(self.space, self.task.kind, row, key, **options)

    def _without_auxiliary(self, weights: nnx.State, row: np.ndarray, key: jax.Array):
        """What the second classifier was trained for is done."""
        graph, plain, statistics = split(alone(self.space, self.task.kind, row, key))
        trained = flatten(weights)
        return unflatten(plain, {name: trained[name] for name in flatten(plain)}), graph, statistics


def lasting(recipe: Recipe, task: Task, epochs: int) -> Recipe:
    """The recipe with the steps of so many epochs; with its own where that is 0."""
    return dataclasses.replace(recipe, steps=epochs * epoch_steps(recipe, task)) if epochs else recipe


def epoch_steps(recipe: Recipe, task: Task) -> int:
    return -(-len(task.train) // recipe.batch_size)


def check(space: Space, recipe: Recipe) -> None:
    """Raises UsageError for a recipe that asks for what the networks of a space have not."""
    for field in ("auxiliary", "drop_path"):
        if getattr(recipe, field) and not trains_as_cells(space):
            raise UsageError(f"final.{field}={getattr(recipe, field)} needs a network of cells: darts, nasnet, binary")
    if recipe.real_weights and not is_one_bit(space):
        raise UsageError(f"final.real_weights={recipe.real_weights} needs a network of one bit: binary, binary-width")
    if recipe.auxiliary:
        try:
            build: Any = space.build
            build(np.zeros(len(space.cardinalities), np.int32), jax.random.key(0), auxiliary=True)
        except ValueError as error:
            raise UsageError(f"final.auxiliary={recipe.auxiliary}: {error}") from error
