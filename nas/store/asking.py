"""Questions to a run of any size: the best, the front, what the front dominates. SQL finds the trials of the answer.

The answers are those of `nas.store.query`, which has all rows at hand. A row of an architecture that has a final
training may have metrics of that; such rows are few, so they are read as a whole, and the others chosen beside them.
"""

import contextlib
import dataclasses
import functools
import heapq
import math
import operator
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from nas.metrics import inner, outer, outward
from nas.plain import shown
from nas.store import projecting, query, records
from nas.store.conditions import Condition, parse_where
from nas.store.database import Database
from nas.store.fronts import nondominated
from nas.store.query import METRICS, Row, Run, Trial
from nas.store.schema import AT_ONCE, FRONT, MEASUREMENT, RUN, TRIAL, TRIAL_FIELDS, of_run

# What is asked of a metric, as asked of its negative.
NUMBERS = (float, int, bool, type(None))
MIRRORED = {operator.lt: operator.gt, operator.gt: operator.lt, operator.le: operator.ge, operator.ge: operator.le}


def trials_where(database: Database, mine: Any) -> list[Trial]:
    """By number, with what was measured."""
    values = sa.select(MEASUREMENT.c.trial_id, MEASUREMENT.c.name, MEASUREMENT.c.value)
    values = values.join(TRIAL, TRIAL.c.id == MEASUREMENT.c.trial_id).where(mine).order_by(MEASUREMENT.c.name)

    def work(connection: sa.Connection) -> list[Trial]:
        measurements: dict[int, dict[str, float]] = {}
        rows = connection.execute(sa.select(TRIAL).where(mine).order_by(TRIAL.c.number)).all()
        for trial, name, value in connection.execute(values).all():
            check_number(database, name, value)
            measurements.setdefault(trial, {})[name] = math.nan if value is None else value
        trials = (records.checked(Trial, dict(zip(TRIAL_FIELDS, row, strict=True))) for row in rows)
        return [Trial(**trial, measurements=measurements.get(trial["id"], {})) for trial in trials]

    return database.read(work)


def check_number(database: Database, name: Any, value: Any) -> None:
    if not isinstance(name, str) or type(value) not in NUMBERS:  # SQLite keeps anything anywhere
        raise database.damaged(f"{shown(name)}={shown(value)} is no number")


@dataclasses.dataclass(frozen=True)
class Asked:
    """A run, to which questions are."""

    database: Database
    run: Run

    @functools.cached_property
    def finals(self) -> list[Trial]:
        return trials_where(self.database, of_run(self.run.id, "final"))

    @functools.cached_property
    def _with_finals(self) -> list[str]:
        """The architectures that have a final training."""
        return sorted({trial.architecture for trial in self.finals if trial.state == "finished"})

    @functools.cached_property
    def others(self) -> list[str]:
        """The metrics of the run that are not in every row, in the order in which rows have them."""
        names = {name for trial in self.finals if trial.state == "finished" for name in trial.measurements}
        names = (names | set(self._searched())).difference(METRICS, query.IDENTITY)
        return sorted(names, key=lambda name: (outer(name), name))

    def _searched(self) -> Iterator[str]:
        """The metrics that the search has measured: each is found behind the one before it."""
        last: str | None = ""
        while last is not None:
            following = sa.select(sa.func.min(MEASUREMENT.c.name)).where(MEASUREMENT.c.run_id == self.run.id)
            (found,) = self.database.rows(following.where(MEASUREMENT.c.name > last))
            (last,) = found.values()
            if last is not None:
                yield last

    @functools.cached_property
    def special(self) -> list[Row]:
        """The rows of architectures that have a final training."""
        mine = of_run(self.run.id) & TRIAL.c.architecture.in_(self._with_finals)
        search = trials_where(self.database, mine) if self._with_finals else []
        return query.build_rows(search, self.finals, self.others)

    def rows(self, ids: Sequence[int]) -> list[Row]:
        """Of finished trials of the search whose architectures have no final training, in the order of their ids."""
        found: dict[int, Row] = {}
        for start in range(0, len(ids), AT_ONCE):
            trials = trials_where(self.database, TRIAL.c.id.in_(ids[start : start + AT_ONCE]))
            rows = query.build_rows(trials, [], self.others)
            if len(rows) < len(trials):
                odd = next(trial for trial in trials if trial.state != "finished")
                raise self.database.damaged(f"trial {odd.number} is {odd.state}, and was measured")
            found |= {trial.id: row for trial, row in zip(trials, rows, strict=True)}
        lost = next((number for number in ids if number not in found), None)
        if lost is not None:
            raise self.database.damaged(f"trial id={lost} is gone")
        return [found[number] for number in ids]

    def kept(self, field: str, names: Sequence[str]) -> list[str]:
        """The names of metrics as rows have them. Raises UsageError for one that no row has."""
        return query.as_kept(field, names, [*METRICS, *self.others])

    def top(self, by: str, limit: int, where: str | None) -> list[Row]:
        """See `nas.store.query.top`."""
        query.check_limit(limit)
        (name,) = self.kept("by", [by])
        conditions = [] if where is None else parse_where(where)
        self.kept("where", [each for each, _, _ in conditions])
        special = query.ranked([row for row in self.special if query.fits(row, conditions)], [name])
        places = [
            (query.place(row, [name]), row["trial"] is None, row["trial"] or i, row) for i, row in enumerate(special)
        ]

        def work(connection: sa.Connection) -> dict[str, int | Row]:
            best: dict[str, int | Row] = {}
            with contextlib.closing(self._stream(connection, name, conditions)) as stream:
                for *_, found in heapq.merge(stream, places, key=lambda each: each[:3]):
                    best.setdefault(found["architecture"], found if "encoding" in found else found["id"])
                    if len(best) == limit:
                        break
            return best

        best = self.database.read(work)
        ids = [found for found in best.values() if isinstance(found, int)]
        whole = dict(zip(ids, self.rows(ids), strict=True))
        return [outward(whole[found] if isinstance(found, int) else found) for found in best.values()]

    def _stream(self, connection: sa.Connection, name: str, conditions: list[Condition]) -> Generator[Any, None, None]:
        """The trials of other architectures, the best first: their places, and their ids and architectures."""
        source, (by, macs) = self._numbers([name, "macs"], needed=1)
        source = source.add_columns(TRIAL.c.number, TRIAL.c.id, TRIAL.c.architecture)
        known = [*METRICS, *self.others]
        for asked, holds, number in conditions:
            kept = inner(asked, known)
            mirrored = MIRRORED.get(holds, holds)
            source = source.where(
                self._holds(kept, holds, number) if kept == asked else self._holds(kept, mirrored, -number)
            )
        source = source.order_by(by, sa.func.coalesce(macs, math.inf), TRIAL.c.number)
        with connection.execution_options(yield_per=200).execute(source) as found:
            for row in found:
                value, size, number, trial, architecture = tuple(row)
                check_number(self.database, name, value)
                yield (
                    [value, math.inf if size is None else size],
                    False,
                    number,
                    {
                        "id": trial,
                        "architecture": architecture,
                    },
                )

    def _holds(self, name: str, holds: Callable[[Any, Any], Any], number: float) -> Any:
        if name == "seconds":
            return holds(TRIAL.c.seconds, number)
        other = MEASUREMENT.alias()
        mine = (other.c.trial_id == TRIAL.c.id) & (other.c.name == name)
        return sa.exists().where(mine & holds(other.c.value, number))

    def _numbers(self, names: Sequence[str], needed: int) -> tuple[Any, list[Any]]:
        """Trials of architectures without a final training, with metrics of which the first few must be numbers."""
        columns, source = [], None
        for i, name in enumerate(names):
            if name == "seconds":
                columns.append(TRIAL.c.seconds)
                continue
            table = MEASUREMENT.alias(f"m{i}")
            columns.append(table.c.value)
            if source is None and i < needed:
                source = sa.join(table, TRIAL, TRIAL.c.id == table.c.trial_id)
            else:
                mine = (table.c.trial_id == TRIAL.c.id) & (table.c.name == name)
                source = sa.join(TRIAL if source is None else source, table, mine, isouter=i >= needed)
        chosen = sa.select(*columns).select_from(TRIAL if source is None else source)
        first = next((i for i, name in enumerate(names[:needed]) if name != "seconds"), None)
        if first is None:
            chosen = chosen.where(of_run(self.run.id) & (TRIAL.c.state == "finished"))
        else:
            table = columns[first].table
            chosen = chosen.where((table.c.run_id == self.run.id) & (table.c.name == names[first]))
        for column in columns[:needed]:
            chosen = chosen.where(column.is_not(None))
        if self._with_finals:
            chosen = chosen.where(TRIAL.c.architecture.not_in(self._with_finals))
        return chosen, columns

    def front(self, names: list[str]) -> list[Row]:
        """See `nas.store.query.pareto`; the rows are as they are kept."""
        query.check_objectives(names)
        rows = [*self.rows(self._candidates(names)), *self.special]
        rows.sort(key=lambda row: (row["trial"] is None, row["trial"] or 0))
        is_front = not self.special and set(names) == self._of_kept_front  # as it was kept
        return query.front(rows, names, is_front)

    @functools.cached_property
    def _of_kept_front(self) -> set[str]:
        """The objectives of the front that is kept as trials finish; empty where none is."""
        kept = self.database.rows(sa.select(RUN.c.front).where(RUN.c.id == self.run.id))[0]["front"]
        return set() if kept is None else set(kept.split(","))

    def _candidates(self, names: Sequence[str]) -> list[int]:
        """Trials that no other dominates, and perhaps some more; none of an architecture with a final training."""
        objectives = self._of_kept_front
        if objectives == set(names):
            return self._of_others(sa.select(FRONT.c.trial_id).where(FRONT.c.run_id == self.run.id))
        if objectives > set(names):
            found = projecting.projected(self.database, self.run.id, names, sorted(objectives))
            if found is not None:
                parts = (found[start : start + AT_ONCE] for start in range(0, len(found), AT_ONCE))
                return [each for ids in parts for each in self._of_others(ids)]
        chosen, _ = self._numbers(names, needed=len(names))
        found = self.database.read(lambda connection: connection.execute(chosen.add_columns(TRIAL.c.id)).all())
        values = [tuple(each[:-1]) for each in found]
        try:
            kept = nondominated(values)
        except (ValueError, TypeError):  # one is no number
            for each in values:
                for name, value in zip(names, each, strict=True):
                    check_number(self.database, name, value)
            raise
        return sorted(each[-1] for each, is_kept in zip(found, kept, strict=True) if is_kept)

    def _of_others(self, ids: Any) -> list[int]:
        """Those of architectures without a final training, in order."""
        chosen = sa.select(TRIAL.c.id).where(TRIAL.c.id.in_(ids)).order_by(TRIAL.c.id)
        if self._with_finals:
            chosen = chosen.where(TRIAL.c.architecture.not_in(self._with_finals))
        return [row["id"] for row in self.database.rows(chosen)]

    def bounds(self, names: Sequence[str]) -> tuple[list[float], list[float]]:
        """The best and the worst of each metric in the run; 0 of what was not measured."""
        best, worst = [], []
        for name in names:
            numbers = [row[name] for row in self.special if query.is_number(row[name])]
            numbers += [value for value in map(self._extreme(name), (sa.func.min, sa.func.max)) if value is not None]
            best.append(min(numbers, default=0.0))
            worst.append(max(numbers, default=0.0))
        return best, worst

    def _extreme(self, name: str) -> Callable[[Any], float | None]:
        def asked(which: Any) -> float | None:
            if name == "seconds":
                mine = of_run(self.run.id) & (TRIAL.c.state == "finished")
                question = sa.select(which(TRIAL.c.seconds).label("value")).where(mine)
            else:
                mine = (MEASUREMENT.c.run_id == self.run.id) & (MEASUREMENT.c.name == name)
                question = sa.select(which(MEASUREMENT.c.value).label("value")).where(mine)
            value = self.database.rows(question)[0]["value"]
            check_number(self.database, name, value)
            return value

        return asked
