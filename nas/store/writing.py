"""What a search writes of its trials, each function within a transaction of the caller."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from nas.errors import UsageError
from nas.store.query import Finished, Kind, NewTrial, Row
from nas.store.running import Front, Scored, joined
from nas.store.schema import AT_ONCE, MEASUREMENT, TRIAL, of_run


def add(connection: sa.Connection, run_id: int, kind: Kind, rows: Sequence[NewTrial], again: bool) -> None:
    """New trials, which run. `again`: they may be there, from a first time of which the answer was lost."""
    if again:
        there = set(connection.scalars(sa.select(TRIAL.c.number).where(of_run(run_id, kind))))
        rows = [row for row in rows if row.number not in there]
    if rows:
        connection.execute(sa.insert(TRIAL), [_new(run_id, kind, row) for row in rows])


def _new(run_id: int, kind: Kind, row: NewTrial) -> Row:
    whole = {name: int(getattr(row, name)) for name in ("number", "budget", "seed")}
    encoding = [int(choice) for choice in row.encoding]
    fixed = {"run_id": run_id, "kind": kind, "state": "running", "encoding": encoding}
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)} | whole | fixed


def finish(
    connection: sa.Connection, run_id: int, kind: Kind, reports: Sequence[Finished], front: Front | None
) -> tuple[list[bool], Front | None]:
    """The reports of trials, in the order of their arrival, and which of them changed something: a second one of the
    same trial does not. With the front as it is then; None is one that is read anew. Raises UsageError for a report of
    no trial."""
    if not reports:
        return [], front
    siblings = of_run(run_id, kind)
    numbers = [int(report.number) for report in reports]
    known = {row.number: row for row in _asked_for(connection, siblings, numbers)}
    order = _next_order(connection, siblings)
    changed, trials, values, scored = [], [], [], []
    reported: set[int] = set()
    for number, report in zip(numbers, reports, strict=True):
        if number not in known:
            raise UsageError(f"number={number} is no {kind} trial of run {run_id}")
        trial = known[number]
        changed.append(trial.state == "running" and number not in reported)
        if changed[-1]:
            reported.add(number)
            trials.append(_report(trial.id, report, order + len(trials)))
            of = run_id if kind == "search" and report.error is None else None
            values += _measured(trial.id, of, report.metrics or {})
            if of is not None:
                scored.append(Scored(trial.id, trial.architecture, report.metrics or {}))
    if trials:
        connection.execute(REPORT, trials)
    if values:
        connection.execute(sa.insert(MEASUREMENT), values)
    return changed, joined(connection, run_id, scored, front) if scored else front


REPORT = (
    sa.update(TRIAL)
    .where(TRIAL.c.id == sa.bindparam("trial_id"))
    .values({name: sa.bindparam(f"new_{name}") for name in ("state", "error", "seconds", "order", "repeats")})
)


def _asked_for(connection: sa.Connection, siblings: Any, numbers: Sequence[int]) -> Iterator[Any]:
    columns = (TRIAL.c.number, TRIAL.c.id, TRIAL.c.state, TRIAL.c.architecture)
    for start in range(0, len(numbers), AT_ONCE):
        some = TRIAL.c.number.in_(numbers[start : start + AT_ONCE])
        yield from connection.execute(sa.select(*columns).where(siblings & some))


def _next_order(connection: sa.Connection, siblings: Any) -> int:
    return connection.scalar(sa.select(sa.func.coalesce(sa.func.max(TRIAL.c.order), -1) + 1).where(siblings)) or 0


def _report(trial: int, report: Finished, order: int) -> Row:
    state = "finished" if report.error is None else "failed"
    values = {"state": state, "error": report.error, "seconds": float(report.seconds)}
    values |= {"order": order, "repeats": report.repeats}
    return {"trial_id": trial, **{f"new_{name}": value for name, value in values.items()}}


def _measured(trial: int, run_id: int | None, metrics: Mapping[str, float]) -> list[Row]:
    return [
        {"trial_id": trial, "run_id": run_id, "name": name, "value": None if math.isnan(value) else float(value)}
        for name, value in metrics.items()
    ]
