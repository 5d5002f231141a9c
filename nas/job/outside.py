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
from nas.engine.proposals import beside_limits
from nas.errors import UsageError
from nas.evaluators.base import Evaluation, Job, Report, at_budget
from nas.interrupts import undisturbed
from nas.job import stages
from nas.job.context import Ongoing
from nas.metrics import inner, outer, outward
from nas.plain import shown
from nas.store.query import Row, Trial
from spaces.base import check_encoding, costs, feasible, identify
from strategies.base import budget_of, budgets_of

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
    waiting = {trial.number: trial for trial in trials if trial.state == "running"}
    told: list[_Told] = []
    new: list[loop.Entry] = []
    for place, line in enumerate(lines, 1):
        try:
            told.append(_read(job, waiting, len(trials) + len(new), _plain(line)))
        except (ValueError, OverflowError, UsageError) as error:
            raise UsageError(f"line {place}: {error}") from error
        if waiting.pop(told[-1].number, None) is None:
            new.append(loop.Entry(*told[-1].what))
    left = _left(job, trials)
    if len(new) > left:
        raise UsageError(f"{len(new)} new architectures are more than the {left} trials left of run={job.run.name!r}")
    record.ask(len(trials), new)
    for each in told:
        if each.report is not None:
            record.report(each.report)
    record.flush()
    if any(each.report is None for each in told):
        try:
            job.store.set_status(job.run.id, "running")
            _evaluate(job, trials, told)
        finally:
            with undisturbed():
                job.store.set_status(job.run.id, "interrupted", WAITS if job.settings.ask_and_tell else None)
    numbers = [each.number for each in told]
    known = {trial.number: trial for trial in job.store.trials(job.run.id, numbers=numbers)}
    return [_row(known[number]) for number in numbers]


_What = tuple[tuple[int, ...], int]  # is evaluated: an encoding, and a budget


@dataclasses.dataclass(frozen=True)
class _Told:
    """What a line says."""

    number: int  # of its trial
    what: _What
    report: Report | None  # where it needs no evaluation


def _read(job: Ongoing, waiting: Mapping[int, Trial], free: int, line: Any) -> _Told:
    """What a line says of a trial that waits for a result, or of a new one, whose number is `free`. Raises ValueError
    or UsageError for what no line may say."""
    if not isinstance(line, Mapping):
        raise ValueError(f"{shown(line)} must be a mapping with a trial or an architecture")
    if line.get("trial") is not None:
        number = line["trial"]
        if type(number) is not int or number not in waiting:
            known = ", ".join(map(str, waiting)) or "none"
            raise ValueError(f"trial={shown(number)} is not one that waits for a result, which are {known}")
        _check_same(job, waiting[number], line)
        what = _what(waiting[number])
    elif line.get("architecture") is not None:
        what = _row_of(job, line["architecture"]), _whole(job)
        # One that was asked for may be told by what it is.
        number = next((trial.number for trial in waiting.values() if _what(trial) == what), free)
    else:
        raise ValueError(f"{shown(dict(line))} must have a trial or an architecture")
    own = _costs(job, what[0])
    for name in line:
        if name not in (*SAID, *PROPOSED, *map(outer, own)):
            raise ValueError(f"{shown(name)} is not one of {', '.join(SAID)}")
    return _Told(number, what, _report(job, number, what[1], line, own))


def _what(trial: Trial) -> _What:
    return tuple(trial.encoding), trial.budget


def _plain(value: Any) -> Any:
    """As JSON has it, of what a program tells in numbers and arrays of NumPy or JAX."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _whole(job: Ongoing) -> int:
    """The budget of an evaluation that is not cut short."""
    return budget_of(job.learning.strategy)


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
        has, said = beside_limits(space, np.asarray(rows[0]).tolist(), limits)
        raise ValueError(f"architecture={shown(architecture)} has {has}, and must keep {said}")
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


def _evaluate(job: Ongoing, trials: Sequence[Trial], told: Sequence[_Told]) -> None:
    """What was told and has no result, each architecture once: others of it have the same. `trials` were there before,
    and all that was told is in the log."""
    record, settings, scoring = job.search, job.settings, job.subject.scoring
    done = {each.what: each.number for each in told if each.report is not None and each.report.error is None}
    done |= {_what(t): t.number for t in trials if t.state == "finished" and t.repeats is None}
    queues: dict[_What, list[int]] = {}  # by what is evaluated, who waits for it
    of_number = {each.number: each.what for each in told if each.report is None}
    for number, what in of_number.items():
        queues.setdefault(what, []).append(number)
    for what in queues.keys() & done.keys():
        for number in queues.pop(what):
            record.repeat(number, done[what])
    record.flush()
    if not queues:
        return
    count, total = len(of_number) - sum(map(len, queues.values())), len(of_number)
    evaluator = stages.evaluator(job)
    workers = min(settings.workers, len(queues))
    with job.executor(evaluator, workers, settings.trial_seconds, immediate=scoring.immediate) as executor:
        for (encoding, budget), numbers in queues.items():
            executor.submit(Job(numbers[0], encoding, budget, settings.seed))
        while queues:
            job.reporter.show("Evaluating", count, total, "")
            report = executor.wait()
            what = of_number[report.number]
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
