"""The step loop of every training, by SGD or of a differentiable search.

What a step does, and what happens after an epoch, is the caller's. The loop looks at the loss, writes checkpoints and
lets the user interrupt. A step is a function of the state and of its number, so a training that was killed goes on
from its checkpoint bit for bit.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Array

from nas.devices import everywhere
from nas.errors import RunError, UsageError
from nas.hosts import agreed, trains
from nas.interrupts import check, held
from nas.plain import shown
from nas.saved import checkpoint
from nas.tasks.base import Task
from nas.training.net import flatten, unflatten
from nas.training.recipe import Recipe

State = TypeVar("State")  # a tree of arrays
LATER = ("configuration",)  # what a checkpoint of an earlier version does not say of itself
LONGEST = 200  # characters of what a checkpoint says, in an error
LOOK = 20  # steps from one look at the loss to the next: each look waits for the device


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The file that keeps the progress of a training, if there is one."""

    path: Path | None = None
    note: dict[str, Any] = dataclasses.field(default_factory=dict)  # what it is the progress of
    seconds: float = 0.0  # least time between two checkpoints of one epoch

    def begin(self, state: State) -> tuple[State, int]:
        """The state to go on from, on all devices, and the number of steps behind it.

        It is a copy: a step gives the buffers of its state away, and the caller keeps the network. Raises UsageError
        where the file is of another training.
        """
        start = 0
        if self.path is not None and self.path.exists():
            state, start = resume(self.path, state, self.note)
        state, start = agreed((state, start))  # of several processes one alone has the file
        start = int(start)
        return everywhere(state), start

    def due(self, last: float) -> bool:
        """Whether so much time has gone by since `last`, by the monotonic clock, that one is to be written."""
        return self.path is not None and time.monotonic() - last > self.seconds

    def write(self, state: Any, done: int) -> None:
        if self.path is not None:
            checkpoint.write(self.path, flatten(state), {**self.note, "step": done})

    def keep(self, state: Any, done: int, loss: Array) -> None:
        """What a training that is interrupted has reached, where it is whole: of several processes, one alone cannot
        tell."""
        with contextlib.suppress(UsageError, RunError):  # what is told of is the interrupt
            if self.path is not None and not trains() and np.isfinite(float(loss)):
                self.write(state, done)


def checkpoints(
    saved: Path | None, note: dict | None, recipe: Recipe, task: Task, seed: int, **more: Any
) -> Checkpoints:
    """The checkpoints in a file, of a training that the note and all else that is given identify."""
    if saved is None:
        return Checkpoints()
    return Checkpoints(saved, identified(note, recipe, task, seed, **more), recipe.checkpoint_seconds)


def drive(
    take: Callable[[State, int], tuple[State, Array]],
    state: State,
    steps: range,
    kept: Checkpoints,
    *,
    epoch: int,
    diverged: str,
    on_step: Callable[[int, float], None],
    on_epoch: Callable[[State, int], State] = lambda state, number: state,
    ended: Callable[[State, int], bool] = lambda state, number: False,
) -> tuple[State, int]:
    """The state after the last step, and how many steps are then done.

    `take(state, step)` gives the state after a step, and its loss. `on_step` hears now and then how many steps are
    done, and the loss. An epoch is so many steps; after each, `on_epoch` gives the state that goes on, which is then
    written to the checkpoint, and so is what an interrupt finds. `ended` may end the training before an epoch. Raises
    RunError where the loss is not finite, in the words of `diverged`, which has places for `step` and `loss`.
    """
    last_written, reached = time.monotonic(), None
    try:
        for step in steps:
            check()
            if step % epoch == 0 and ended(state, step // epoch):
                return state, step
            over = (step + 1) % epoch == 0
            # A step gives the buffers of its state away: it ends, but for the first, which takes minutes to compile.
            with contextlib.nullcontext() if step == steps.start else held():
                reached = None
                state, loss = take(state, step)
                reached = None if over else (state, step + 1, loss)
            heard, due = over or step % LOOK == 0, kept.due(last_written)
            if heard or due:
                value = float(loss)
                if not np.isfinite(value):
                    raise RunError(diverged.format(step=step, loss=value))
                if heard:
                    on_step(step + 1, value)
            if over:
                state = on_epoch(state, step // epoch)
            if over or due:
                kept.write(state, step + 1)
                last_written = time.monotonic()
    except KeyboardInterrupt:
        if reached is not None:
            kept.keep(*reached)
        raise
    return state, steps.stop


def identified(note: dict | None, recipe: Recipe, task: Task, seed: int, **more: Any) -> dict:
    """What a checkpoint is the progress of: all that decides what is computed. It is gone on with by nothing else."""
    given = {f"recipe.{name}": value for name, value in dataclasses.asdict(recipe).items()}
    del given["recipe.checkpoint_seconds"]
    return {**(note or {}), **given, "data": task.fingerprint(), "seed": seed, **more}


def resume(saved: Path, state: State, note: dict) -> tuple[State, int]:
    """The state in a checkpoint and its step. Raises UsageError where it is not of this training."""
    try:
        arrays, found = checkpoint.read(saved)
    except UsageError as error:
        raise UsageError(f"{error}; without that file, what it is the progress of is done once more") from error
    for name, value in json.loads(json.dumps(note)).items():
        if name in LATER and name not in found:
            continue
        if found.get(name) != value:
            its, asked = (shown(repr(each), LONGEST) for each in (found.get(name), value))
            raise UsageError(f"{saved} is of another training: its {name} is {its}, not {asked}")
    try:
        return unflatten(state, arrays), found["step"]
    except ValueError as error:
        raise UsageError(f"{saved} does not fit this network: {error}") from error
