"""A differentiable search as a part of a job: each epoch's derived architecture is a trial of the run."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.config import Config
from nas.engine.loop import Entry
from nas.engine.record import Record
from nas.errors import UsageError
from nas.evaluators.own import scoring
from nas.evaluators.supernet import Supernet
from nas.metrics import outer
from nas.report import output
from nas.store.query import Trial
from nas.streams import SEARCH, stream
from nas.tasks.base import Task
from nas.training import bilevel
from spaces.abilities import Mixable
from spaces.base import Space, costs
from strategies.region import region


def check(settings: Config, space: Space, task: Task | None) -> None:
    """Raises UsageError, or ValueError, for what a gradient strategy cannot search."""
    strategy = settings.strategy
    if task is None:
        raise UsageError(f"task={settings.task!r} is a table, by which nothing has gradients; name images")
    if not isinstance(space, Mixable):
        raise UsageError(
            f"space={type(settings.space).__name__} has no network that mixes operations, in which a gradient strategy "
            "searches; binary, darts, nas-fpn, nasbench201 and shufflenet have"
        )
    bilevel.check_recipe(strategy, settings.training)
    if settings.evaluator != Supernet():  # the default
        said = "a gradient strategy scores by the network that it searches in"
        raise UsageError(f"evaluator={scoring(settings.evaluator).name!r} cannot be set: {said}")
    mixing = space.mixing()
    try:  # first, for it refuses what no field can mend
        strategy.init(stream(settings.seed, SEARCH), mixing)
    except ValueError as error:
        raise UsageError(f"strategy.{error}") from error
    if mixing.partial % strategy.partial:
        allowed = "be 1 in this space" if mixing.partial == 1 else f"divide {mixing.partial}"
        raise UsageError(f"strategy.partial={strategy.partial} must {allowed}")
    if strategy.max_skips is not None and mixing.skip is None:
        raise UsageError(f"strategy.max_skips={strategy.max_skips} must be none: this space has no skips")
    if settings.objectives != task.kind.metric:
        shown = ",".join(map(outer, settings.objectives.split(",")))
        raise UsageError(f"objectives={shown!r} must be {outer(task.kind.metric)}: set limits on other costs")
    region(space, settings.limits)
    for name, most in settings.limits:
        if name not in mixing.costs:
            known = ", ".join(sorted(mixing.costs))
            raise UsageError(f"limit {name} <= {most:g}: {name!r} is not one of {known}, which have gradients")


def search(
    settings: Config,
    space: Any,
    task: Task,
    record: Record,
    *,
    saved: Path,
    note: dict[str, Any],
    progress: Callable[[str, int, int, str], None],
    say: Callable[[str], None],
    on_loss: Callable[[int, float], None] = lambda step, loss: None,
) -> list[Trial]:
    """The finished trials, first the one of the architecture that was found, then the later ones before the earlier.

    `saved` is the file of the checkpoint, and `note` says beside it what it is the progress of. `say` hears what the
    user should know.
    """
    best, metric = [float("inf")], task.kind.metric
    trials = record.trials()
    known = {trial.number: tuple(trial.encoding) for trial in trials}
    # A store that was restored from a copy may be behind its files.
    recorded = sum(1 for _ in itertools.takewhile(lambda trial: trial.state == "finished", trials))

    def on_epoch(epoch: bilevel.Epoch) -> None:
        encoding = tuple(epoch.encoding.tolist())
        if epoch.number not in known:
            record.add(epoch.number, [Entry(encoding, budget=epoch.number + 1)])
            known[epoch.number] = encoding
        if known[epoch.number] != encoding:
            say(
                f"Epoch {epoch.number + 1} has found another architecture than before: this machine computes otherwise."
            )
        record.finish(epoch.number, {**epoch.metrics, **costs(space, encoding)}, None, epoch.seconds)
        best[0] = epoch.metrics[metric]

    def on_step(step: int, steps: int, loss: float) -> None:
        epoch = min(step * settings.epochs // steps + 1, settings.epochs)
        tracked = f", {output.reading(metric, best[0])}" if best[0] < float("inf") else ""
        doing = "compiling" if math.isnan(loss) else f"loss {loss:.3f}{tracked}"
        progress("Searching", step, steps, f"epoch {epoch} of {settings.epochs}, {doing}")
        if not math.isnan(loss):
            on_loss(step, loss)

    found, _ = bilevel.search(
        bilevel.Rule(settings.strategy, space, settings.limits),
        task,
        settings.training,
        seed=settings.seed,
        epochs=settings.epochs,
        saved=saved,
        note=note,
        recorded=recorded,
        say=say,
        on_step=on_step,
        on_epoch=on_epoch,
    )
    trials = sorted(record.trials(), key=lambda trial: (trial.number != found, -trial.number))
    return [trial for trial in trials if trial.state == "finished"]
