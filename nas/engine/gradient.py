"""A differentiable search as a part of a job: each epoch's derived architecture is a trial of the run."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nas.config import Config
from nas.errors import UsageError
from nas.report import output
from nas.saved import checkpoint
from nas.store.query import NewTrial, Run, Trial
from nas.store.sql import Store
from nas.tasks.base import Task
from nas.training import bilevel
from spaces.base import Architecture, Mixable, Space, fingerprint, identify
from strategies.region import region


def check(settings: Config, space: Space, task: Task | None) -> None:
    """Raises UsageError, or ValueError, for what a gradient strategy cannot search."""
    strategy = settings.strategy
    if task is None:
        raise UsageError(f"task={settings.task!r} is a table, by which nothing has gradients; name images")
    if not isinstance(space, Mixable):
        raise UsageError("strategy: this space has no network that mixes operations; darts and nasbench201 have")
    bilevel.check_recipe(strategy, settings.training)
    mixing = space.mixing()
    if strategy.partial > 1 and not mixing.partial:
        raise UsageError(f"strategy.partial={strategy.partial} must be 1 in this space")
    if settings.objectives != task.kind.metric:
        raise UsageError(f"objectives={settings.objectives!r} must be {task.kind.metric}: set limits on other costs")
    region(space, settings.limits)
    priced = [name for name, _ in settings.limits if name not in mixing.costs]
    if priced:
        raise UsageError(f"limit on {priced[0]!r}: gradients know {', '.join(sorted(mixing.costs))}")


def search(
    settings: Config,
    space: Mixable,
    task: Task,
    store: Store,
    run: Run,
    folder: Path,
    progress: Callable[[str, int, int, str], None],
) -> list[Trial]:
    """The finished trials, first the one of the architecture that was found, then the later ones before the earlier."""
    saved = folder / "search.safetensors"
    best, metric = [float("inf")], task.kind.metric
    known = {trial.number for trial in store.trials(run.id)}

    def on_epoch(epoch: bilevel.Epoch) -> None:
        (architecture,) = identify(space, np.asarray(epoch.encoding))
        if epoch.number not in known:
            store.add_trials(run.id, [_new_trial(architecture, run.space, epoch, settings.seed)])
            known.add(epoch.number)
        metrics = {**epoch.metrics, **architecture.costs}
        store.finish_trial(run.id, epoch.number, metrics=metrics, error=None, seconds=epoch.seconds)
        best[0] = epoch.metrics[metric]

    def on_step(step: int, steps: int, loss: float) -> None:
        epoch = min(step * settings.epochs // steps + 1, settings.epochs)
        tracked = f", {metric} {output.number(metric, best[0])}" if best[0] < float("inf") else ""
        doing = "compiling" if math.isnan(loss) else f"loss {loss:.3f}{tracked}"
        progress("Searching", step, steps, f"epoch {epoch} of {settings.epochs}, {doing}")

    found, _ = bilevel.search(
        bilevel.Rule(settings.strategy, space, settings.limits),
        task,
        settings.training,
        seed=settings.seed,
        epochs=settings.epochs,
        saved=saved,
        note={
            "run": run.identity,
            "space": fingerprint(space),
            **space.identity(),
        },
        on_step=on_step,
        on_epoch=on_epoch,
    )
    if saved.exists():
        store.add_artifact(run.id, kind="search", path=saved, sha256=checkpoint.digest(saved))
    trials = sorted(store.trials(run.id), key=lambda trial: (trial.number != found, -trial.number))
    return [trial for trial in trials if trial.state == "finished"]


def _new_trial(architecture: Architecture, name: str, epoch: bilevel.Epoch, seed: int) -> NewTrial:
    return NewTrial(
        number=epoch.number,
        architecture=architecture.id,
        encoding=architecture.encoding,
        description=architecture.description,
        space=name,
        budget=epoch.number + 1,
        seed=seed,
    )
