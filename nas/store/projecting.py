"""The front of some objectives of a run, by the front of all of them, which is kept.

What no trial dominates in some objectives has, in these, the values of a trial that none dominates in all: whoever
dominates it in all is as good in some, and cannot be better. So the values are those of the trials on the kept front,
and the trials are found by the values.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from nas.store.counting import every_one_has
from nas.store.database import Database
from nas.store.fronts import nondominated
from nas.store.schema import AT_ONCE, FRONT, MEASUREMENT

Values = tuple[float, ...]


def projected(database: Database, run_id: int, names: Sequence[str], kept: Sequence[str]) -> list[int] | None:
    """The ids of the trials of the search that none dominates in `names`, which are some of the `kept` objectives of
    the front. None where that cannot be said by the front: it lacks trials without a number for one of its own."""
    if not every_one_has(database, run_id, sorted(set(kept) - set(names))):
        return None
    best = _values(database, run_id, names)
    if best is None:
        return None
    found = []
    firsts = sorted({values[0] for values in best})
    for start in range(0, len(firsts), AT_ONCE):
        found += _with_values(database, run_id, names, firsts[start : start + AT_ONCE], best)
    return sorted(found)


def _values(database: Database, run_id: int, names: Sequence[str]) -> set[Values] | None:
    """Those of trials on the kept front that none of it dominates; None where one is no number."""
    chosen = sa.select(MEASUREMENT.c.trial_id, MEASUREMENT.c.name, MEASUREMENT.c.value)
    chosen = chosen.join(FRONT, FRONT.c.trial_id == MEASUREMENT.c.trial_id).where(FRONT.c.run_id == run_id)
    known: dict[int, dict[str, float]] = {}
    for trial, name, value in database.read(lambda connection: connection.execute(chosen).all()):
        known.setdefault(trial, {})[name] = value
    try:
        values = sorted({tuple(float(each[name]) for name in names) for each in known.values()})
    except (KeyError, TypeError, ValueError):
        return None
    return {each for each, is_best in zip(values, nondominated(values), strict=True) if is_best} if values else set()


def _with_values(
    database: Database, run_id: int, names: Sequence[str], firsts: Sequence[float], best: set[Values]
) -> list[int]:
    """The trials that have one of these values in the first objective, and all values of one of the best."""
    tables = [MEASUREMENT.alias(f"m{i}") for i in range(len(names))]
    source = tables[0]
    for table, name in zip(tables[1:], names[1:], strict=True):
        source = sa.join(source, table, (table.c.trial_id == tables[0].c.trial_id) & (table.c.name == name))
    chosen = sa.select(tables[0].c.trial_id, *(table.c.value for table in tables)).select_from(source)
    mine = (tables[0].c.run_id == run_id) & (tables[0].c.name == names[0]) & tables[0].c.value.in_(firsts)
    rows = database.read(lambda connection: connection.execute(chosen.where(mine)).all())
    return [row[0] for row in rows if tuple(row[1:]) in best]
