"""The record of a run: its trials in the store, as searches of either kind and final trainings write and read them.

The loop asks and is told through a `Record`; a search by gradients adds a finished trial an epoch.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas.engine import loop
from nas.errors import DamagedError, RunError
from nas.evaluators.base import Report
from nas.metrics import outward
from nas.plain import shown
from nas.report.logs import Logs
from nas.store.query import Finished, Kind, NewTrial, Run, Trial
from nas.store.sql import Store
from spaces.base import Space, check_encoding, identify


@dataclasses.dataclass(frozen=True)
class Record:
    """The trials of one run: those of its search, or its final trainings."""

    store: Store
    run: Run
    space: Space  # as its architectures are called
    seed: int
    objectives: tuple[str, ...] = ()  # what the loop is told of
    logs: Logs | None = None  # which hear of each trial once the store has it
    kind: Kind = "search"
    _reports: list[Finished] = dataclasses.field(default_factory=list, init=False, compare=False)  # since the last
    _new: list[NewTrial] = dataclasses.field(default_factory=list, init=False, compare=False)  # flush

    def trials(self) -> list[Trial]:
        """By number. Raises UsageError where what the store says of one is nothing that was written there."""
        trials = self.store.trials(self.run.id, self.kind)
        for number, trial in enumerate(trials):
            try:
                self._check(number, trial)
            except ValueError as error:
                said = f"run={self.run.name!r} is damaged: {error}; restore a copy of the store"
                raise DamagedError(said) from error
        return trials

    def _check(self, number: int, trial: Trial) -> None:
        if trial.number != number:
            raise ValueError(f"trial {number} is not in the store, which has trial {trial.number}")
        try:
            check_encoding(self.space, trial.encoding)
            if trial.drawn is not None:
                check_encoding(self.space, list(_drawn(trial.drawn)[0]))
        except ValueError as error:
            raise ValueError(f"trial {number} is not an architecture of its space: {error}") from error
        reported = type(trial.order) is int
        if reported == (trial.state == "running") or (trial.measurements and not reported):
            raise ValueError(f"trial {number} is {trial.state}, which what is known of its report is not")
        finished = self.kind == "search" and trial.state == "finished"
        for name in self.objectives[:1] if finished else ():
            if measured_as(name, trial.measurements) not in trial.measurements:
                raise ValueError(f"trial {number} is finished, and {name} was not measured")

    def add(self, number: int, entries: Sequence[loop.Entry]) -> None:
        """New trials, of which the first has this number."""
        self.store.add_trials(self.run.id, self._as_new(number, entries), self.kind)

    def _as_new(self, number: int, entries: Sequence[loop.Entry]) -> list[NewTrial]:
        try:
            known = identify(self.space, np.asarray([entry.encoding for entry in entries]))
        except ValueError as error:
            raise RunError(str(error)) from error
        return [
            NewTrial(
                number=number + i,
                architecture=architecture.id,
                encoding=entry.encoding,
                description=architecture.description,
                space=self.run.space,
                budget=entry.budget,
                seed=self.seed,
                drawn=None if entry.drawn is None else _as_json(*entry.drawn),
            )
            for i, (entry, architecture) in enumerate(zip(entries, known, strict=True))
        ]

    def finish(self, number: int, metrics: dict[str, float] | None, error: str | None, seconds: float) -> None:
        """A trial has measured metrics, or failed for the reason that `error` says."""
        how = {"metrics": metrics, "error": error, "seconds": seconds}
        self.store.finish_trial(self.run.id, number, kind=self.kind, **how)
        self._tell(number)

    def _tell(self, *numbers: int) -> None:
        """The logs hear of trials that the store has."""
        if self.logs is None or not self.logs.listening:
            return
        trials = {trial.number: trial for trial in self.store.trials(self.run.id, self.kind, numbers)}
        told = ("architecture", "state", "seconds")
        found = [
            (number, {name: getattr(trials[number], name) for name in told} | outward(trials[number].measurements))
            for number in numbers
        ]
        self.logs.measured("trial" if self.kind == "search" else "final", *found)

    # What the loop asks of its log: see `nas.engine.loop.Log`.

    def entries(self) -> tuple[list[loop.Entry], list[int]]:
        trials = self.trials()
        entries = [
            loop.Entry(
                tuple(t.encoding),
                t.budget,
                None if t.state == "running" else self._objectives(t.measurements),
                None if t.drawn is None else _drawn(t.drawn),
            )
            for t in trials
        ]
        arrived = sorted((t for t in trials if t.order is not None), key=lambda t: t.order or 0)
        return entries, [t.number for t in arrived]

    def ask(self, number: int, entries: Sequence[loop.Entry]) -> None:
        self._new.extend(self._as_new(number, entries))

    def report(self, report: Report) -> tuple[float, ...]:
        metrics = report.evaluation.metrics if report.evaluation else None
        self._reports.append(Finished(report.number, metrics, report.error, report.seconds))
        return self._objectives(metrics or {})

    def repeat(self, number: int, first: int) -> None:
        pending = (report.metrics for report in self._reports if report.number == first)
        metrics = next(pending, None) or self.store.trials(self.run.id, numbers=[first])[0].measurements
        self._reports.append(Finished(number, metrics, None, 0.0, repeats=first))

    def flush(self) -> None:
        self.store.log(self.run.id, self._reports, self._new, self.kind)
        known = [report.number for report in self._reports]
        self._reports.clear()
        self._new.clear()
        self._tell(*known)

    def complete(self, search: loop.Search) -> bool:
        """Whether nothing is left to do."""
        entries, arrived = self.entries()
        nothing_left = search.are_all(len({search.what(entry) for entry in entries}))
        nothing_left |= not search.asks or len(entries) == search.num_trials
        return len(entries) == len(arrived) and nothing_left

    def _objectives(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(measured(name, metrics) for name in self.objectives)


def measured(name: str, metrics: Mapping[str, float]) -> float:
    """What a trial measured, with whatever budget: see `nas.evaluators.base.at_budget`. NaN where that is nothing."""
    return metrics.get(measured_as(name, metrics), math.nan)


def measured_as(name: str, metrics: Mapping[str, float]) -> str:
    """The name by which a trial has a metric, which says with which budget that was measured."""
    if name in metrics:
        return name
    of_name = re.compile(rf"{re.escape(name)}(_e\d+)?")
    return next(filter(of_name.fullmatch, metrics), name)


def _as_json(row: tuple[int, ...], log_probability: float) -> dict[str, Any]:
    """How a trial was drawn. JSON has no NaN, which is the log-probability of a row that no policy drew."""
    return {"row": list(row), "log_probability": None if np.isnan(log_probability) else log_probability}


def _drawn(kept: Any) -> tuple[tuple[int, ...], float]:
    """Raises ValueError for what says it not."""
    match kept:
        case {"row": list(row), "log_probability": float() | int() | None as chance}:
            return tuple(row), float("nan") if chance is None else chance
    raise ValueError(f"drawn={shown(kept)} must be a row and its log_probability")
