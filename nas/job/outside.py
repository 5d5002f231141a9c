"""A run that others drive: they ask for architectures, propose their own, and tell what was measured of any.

What is told is a trial like every other: within the limits and the number of trials, logged before it is evaluated,
never evaluated twice, and what the strategy learns from when it is asked next.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from nas.engine import loop
from nas.errors import UsageError
from nas.evaluators.base import Evaluation, Job, Report, at_budget
from nas.job import stages
from nas.job.context import Ongoing
from nas.metrics import inner, outer, outward
from nas.plain import shown
from nas.store.query import Row, Trial
from spaces.base import check_encoding, costs, feasible, identify
from strategies.base import budgets_of

WAITS = "it waits for nas ask and nas tell"
SAID = ("trial", "architecture", "metrics", "failed")  # what a line may say; and all that `ask` says of a trial
PROPOSED = ("description", "encoding", "budget")


def _left(job: Ongoing, trials: Sequence[Trial]) -> int:
    """How many more trials the run may have. Raises UsageError where its search is over."""
    if job.run.status == "finished":
        raise UsageError(f"run={job.run.name!r} is finished: its search is over")
    return job.settings.trials - len(trials)


def ask(job: Ongoing, state: loop.Search | None, count: int) -> list[Row]:
    """The next architectures that the strategy proposes, as trials of the run; fewer where there are no more."""
    assert state is not None
    left = _left(job, job.search.trials())
    if type(count) is not int or not 1 <= count <= max(left, 1):
        raise UsageError(f"n={count} must be a whole number in 1..{left}, the trials left of run={job.run.name!r}")
    if not left:
        raise UsageError(f"run={job.run.name!r} has no trials left of trials={job.settings.trials}")
    start, new = loop.propose(state, job.search, count)
    if not new:
        raise UsageError(f"n={count}: every architecture of the space was proposed in run={job.run.name!r}")
    known = identify(job.subject.named, np.asarray([entry.encoding for entry in new]))
    return [
        {
            "trial": start + i,
            "architecture": each.id,
            "description": each.description,
            "encoding": list(entry.encoding),
            **({"budget": entry.budget} if entry.budget else {}),
            **_costs(job, entry.encoding),
        }
        for i, (entry, each) in enumerate(zip(new, known, strict=True))
    ]


def tell(job: Ongoing, lines: Sequence[Any]) -> list[Row]:
    """Records what is told, evaluates what it leaves open, and returns what is then known of these trials.

    A line is a mapping. `trial` is the number of one that was asked for; or `architecture` is a new one, a text or a
    list of choices. `metrics` are what was measured elsewhere, or `failed` is why nothing was; without either the run's
    evaluator measures. Raises UsageError, and records nothing, where any line cannot be taken.
    """
    record, trials = job.search, job.search.trials()
    told: list[_Told] = []
    for place, line in enumerate(lines, 1):
        try:
            told.append(_read(job, trials, told, _plain(line)))
        except (ValueError, OverflowError, UsageError) as error:
            raise UsageError(f"line {place}: {error}") from error
    new = [each.entry for each in told if each.entry is not None]
    left = _left(job, trials)
    if len(new) > left:
        raise UsageError(f"{len(new)} new architectures are more than the {left} trials left of run={job.run.name!r}")
    record.ask(len(trials), new)
    for each in told:
        if each.report is not None:
            record.report(each.report)
    record.flush()
    waiting = [each.number for each in told if each.report is None]
    if waiting:
        job.store.set_status(job.run.id, "running")
        try:
            _evaluate(job, waiting)
        finally:
            job.store.set_status(job.run.id, "interrupted", WAITS if job.settings.ask_and_tell else None)
    known = record.trials()
    return [_row(known[each.number]) for each in told]


@dataclasses.dataclass(frozen=True)
class _Told:
    """What a line says."""

    number: int  # of its trial
    entry: loop.Entry | None  # where that is new
    report: Report | None  # where it needs no evaluation


def _read(job: Ongoing, trials: Sequence[Trial], before: Sequence[_Told], line: Any) -> _Told:
    """Raises ValueError or UsageError for what no line may say."""
    if not isinstance(line, Mapping):
        raise ValueError(f"{shown(line)} must be a mapping with a trial or an architecture")
    waiting = {trial.number: trial for trial in trials if trial.state == "running"}
    for each in before:
        waiting.pop(each.number, None)
    if line.get("trial") is not None:
        number, entry = line["trial"], None
        if type(number) is not int or number not in waiting:
            known = ", ".join(map(str, waiting)) or "none"
            raise ValueError(f"trial={shown(number)} is not one that waits for a result, which are {known}")
        _check_same(job, waiting[number], line)
        encoding, budget = tuple(waiting[number].encoding), waiting[number].budget
    elif line.get("architecture") is not None:
        encoding, budget = _row_of(job, line["architecture"]), _whole(job)
        # Who was asked for it need not remember by what number.
        same = (
            trial.number for trial in waiting.values() if (tuple(trial.encoding), trial.budget) == (encoding, budget)
        )
        number = next(same, None)
        entry = loop.Entry(encoding, budget) if number is None else None
        if number is None:
            number = len(trials) + sum(each.entry is not None for each in before)
    else:
        raise ValueError(f"{shown(dict(line))} must have a trial or an architecture")
    own = _costs(job, encoding)
    for name in line:
        if name not in (*SAID, *PROPOSED, *map(outer, own)):
            raise ValueError(f"{shown(name)} is not one of {', '.join(SAID)}")
    return _Told(number, entry, _report(job, number, budget, line, own))


def _plain(value: Any) -> Any:
    """As JSON has it, of what a program tells in numbers and arrays of NumPy or JAX."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _whole(job: Ongoing) -> int:
    """The budget of an evaluation that is not cut short."""
    strategy = job.learning.strategy
    return max(budgets_of(strategy), default=getattr(strategy, "budget", 0))


def _check_same(job: Ongoing, trial: Trial, line: Mapping[str, Any]) -> None:
    """Raises ValueError where a line says of its trial that it is another architecture."""
    given = line.get("architecture")
    if given is not None and given != trial.architecture and _row_of(job, given) != tuple(trial.encoding):
        raise ValueError(f"trial={trial.number} is of architecture {trial.architecture}, not {shown(given)}")
    if line.get("encoding", trial.encoding) != trial.encoding:
        raise ValueError(f"trial={trial.number} is of encoding={trial.encoding}, not {shown(line['encoding'])}")
    if line.get("budget", trial.budget) != trial.budget:
        raise ValueError(f"trial={trial.number} is of budget={trial.budget}, not {shown(line['budget'])}")


def _row_of(job: Ongoing, architecture: Any) -> tuple[int, ...]:
    """The architecture that a text or a list of choices names. Raises ValueError for none, or one over a limit."""
    space = job.space
    if isinstance(architecture, str):
        row = np.asarray(space.parse(architecture), np.int32)
    else:
        check_encoding(space, architecture)
        row = np.asarray(architecture, np.int32)
    rows = space.canonical(jnp.asarray(row)[None])
    limits = job.settings.limits + job.subject.measured
    if limits and not bool(feasible(space, rows, limits)[0]):
        has = costs(space, np.asarray(rows[0]).tolist())
        said = " and ".join(f"{name} <= {most:g}" for name, most in limits)
        which = ", ".join(f"{name}={has[name]:g}" for name, _ in limits)
        raise ValueError(f"architecture={shown(architecture)} has {which}, and must keep {said}")
    return tuple(np.asarray(rows[0]).tolist())


def _report(job: Ongoing, number: int, budget: int, line: Mapping[str, Any], own: Mapping[str, float]) -> Report | None:
    """What a line tells of its trial; None where it is to be evaluated."""
    metrics, failed = line.get("metrics"), line.get("failed")
    if metrics is not None and failed is not None:
        raise ValueError("metrics and failed cannot both be told of one trial")
    if failed is not None:
        if not isinstance(failed, str) or not failed:
            raise ValueError(f"failed={shown(failed)} must be a text that says why")
        return Report(number, None, shown(failed, 1000), 0.0)
    if metrics is None:
        return None
    if not isinstance(metrics, Mapping):
        raise ValueError(f"metrics={shown(metrics)} must be a mapping of names to numbers")
    known = job.subject.scoring.metrics(job.subject.metric)
    found: dict[str, float] = {}
    for name, value in metrics.items():
        kept = inner(name, known)
        if kept not in known:
            raise ValueError(f"metrics: {shown(name)} is not one of {', '.join(map(outer, known))}")
        if type(value) not in (int, float) or not math.isfinite(float(value)):
            raise ValueError(f"metrics: {name}={shown(value)} must be a finite number")
        found[kept] = float(value) if kept == name else -float(value)
    missing = [name for name in job.settings.objectives.split(",") if name not in (*found, *own)]
    if missing:
        raise ValueError(f"metrics={shown(dict(metrics))} must have {', '.join(map(outer, missing))}")
    budgets = budgets_of(job.learning.strategy)
    named = {at_budget(name, budget, budgets): value for name, value in found.items()}
    return Report(number, Evaluation({**named, **own}, objective=job.settings.objective), None, 0.0)


def _costs(job: Ongoing, encoding: Sequence[int]) -> dict[str, float]:
    hidden = dict(job.subject.measured)
    return {name: value for name, value in costs(job.space, encoding).items() if name not in hidden}


def _evaluate(job: Ongoing, waiting: Sequence[int]) -> None:
    """Trials that are in the log, each architecture once: others of it have the same result."""
    record = job.search
    trials, settings, scoring = record.trials(), job.settings, job.subject.scoring
    first = [t for t in trials if t.state == "finished" and t.repeats is None]
    done = {(tuple(t.encoding), t.budget): t.number for t in first}
    queues: dict[Any, list[int]] = {}  # by what is evaluated, who waits for it
    for number in waiting:
        queues.setdefault((tuple(trials[number].encoding), trials[number].budget), []).append(number)
    for what in queues.keys() & done.keys():
        for number in queues.pop(what):
            record.repeat(number, done[what])
    record.flush()
    if not queues:
        return
    count, total = len(waiting) - sum(map(len, queues.values())), len(waiting)
    evaluator = stages.evaluator(job)
    workers = min(settings.workers, len(queues))
    with job.executor(evaluator, workers, settings.trial_seconds, immediate=scoring.immediate) as executor:
        for (encoding, budget), numbers in queues.items():
            executor.submit(Job(numbers[0], encoding, budget, settings.seed))
        while queues:
            job.reporter.show("Evaluating", count, total, "")
            report = executor.wait()
            what = tuple(trials[report.number].encoding), trials[report.number].budget
            record.report(report)
            numbers, count = queues.pop(what)[1:], count + 1
            if report.error is None:
                for number in numbers:
                    record.repeat(number, report.number)
                count += len(numbers)
            elif numbers:  # it may have failed by chance
                queues[what] = numbers
                executor.submit(Job(numbers[0], *what, settings.seed))
            record.flush()
    job.reporter.show("Evaluating", total, total, "")


def _row(trial: Trial) -> Row:
    failed = {} if trial.error is None else {"failed": trial.error}
    facts = {"trial": trial.number, "architecture": trial.architecture, "state": trial.state}
    return {**facts, **outward(trial.measurements), **failed}
