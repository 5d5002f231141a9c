"""The front of a run as it grows: which trials none dominates, kept as they finish, so that nobody looks at all."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from nas.store import records
from nas.store.fronts import nondominated
from nas.store.schema import FRONT, MEASUREMENT, RUN, TRIAL


class Scored(NamedTuple):
    """A trial of the search that has finished."""

    id: int
    architecture: str
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Front:
    """Trials that none of the run dominates; of one architecture with equal values the first alone. Without `names`
    there is none: an earlier version began the run."""

    names: tuple[str, ...]
    trials: list[tuple[int, str]]  # ids, and architectures
    values: Any  # [n, m]


def joined(connection: sa.Connection, run_id: int, scored: Sequence[Scored], front: Front | None) -> Front:
    """The front with trials that have just finished, also in the store."""
    import numpy as np  # not by those who only ask

    front = _read(connection, run_id) if front is None else front
    if not front.names:
        return front
    new, rows, added = [], [], set()
    for trial in scored:
        row = tuple(float(trial.metrics.get(name, math.nan)) for name in front.names)
        if any(map(math.isnan, row)) or (trial.architecture, row) in added or _passed(front, trial.architecture, row):
            continue
        added.add((trial.architecture, row))
        new.append((trial.id, trial.architecture))
        rows.append(row)
    if not new:
        return front
    trials, values = [*front.trials, *new], np.concatenate([front.values, np.array(rows)])
    kept = nondominated(values)
    lost = [trial for (trial, _), is_kept in zip(front.trials, kept, strict=False) if not is_kept]
    won = [trial for (trial, _), is_kept in zip(new, kept[len(front.trials) :], strict=True) if is_kept]
    if lost:
        gone = sa.delete(FRONT).where(FRONT.c.trial_id == sa.bindparam("gone"))
        connection.execute(gone, [{"gone": trial} for trial in lost])
    if won:
        connection.execute(sa.insert(FRONT), [{"trial_id": trial, "run_id": run_id} for trial in won])
    left = [trial for trial, is_kept in zip(trials, kept, strict=True) if is_kept]
    return dataclasses.replace(front, trials=left, values=values[kept])


def _passed(front: Front, architecture: str, row: tuple[float, ...]) -> bool:
    """Whether a trial of the front is as good in all, and better in one or of the same architecture."""
    (as_good,) = (front.values <= row).all(1).nonzero()
    better = (front.values[as_good] < row).any(1)
    return bool(better.any()) or any(front.trials[i][1] == architecture for i in as_good)


def _read(connection: sa.Connection, run_id: int) -> Front:
    import numpy as np

    kept = connection.scalar(sa.select(RUN.c.front).where(RUN.c.id == run_id))
    names = tuple(kept.split(",")) if kept else ()
    chosen = sa.select(TRIAL.c.id, TRIAL.c.architecture, MEASUREMENT.c.name, MEASUREMENT.c.value)
    chosen = chosen.join(FRONT, FRONT.c.trial_id == TRIAL.c.id)
    chosen = chosen.join(MEASUREMENT, MEASUREMENT.c.trial_id == TRIAL.c.id).where(FRONT.c.run_id == run_id)
    found: dict[tuple[int, str], dict[str, float]] = {}
    for trial, architecture, name, value in connection.execute(chosen):
        found.setdefault((trial, architecture), {})[name] = value
    for (trial, _), each in found.items():
        if not all(type(each.get(name)) in (int, float) for name in names):
            raise records.Damaged(f"trial id={trial} is on the front, and has no number for each of {', '.join(names)}")
    values = [[each[name] for name in names] for each in found.values()]
    return Front(names, list(found), np.array(values, float).reshape(len(found), len(names)))
