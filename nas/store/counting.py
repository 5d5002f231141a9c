"""How many trials of a run there are of each state, and which of its metrics every one has. Each goes by indices."""

from collections.abc import Iterable

import sqlalchemy as sa

from nas import plain
from nas.store.database import Database
from nas.store.query import Kind
from nas.store.schema import MEASUREMENT, TRIAL, of_run


def reported(database: Database, run_id: int, kind: Kind) -> dict[str, int]:
    """How many trials there are of each state. Those that have not finished are few, and reports are counted."""
    mine = of_run(run_id, kind)
    others = sa.select(TRIAL.c.state, sa.func.count().label("count")).where(mine & (TRIAL.c.state != "finished"))
    counts = {row["state"]: row["count"] for row in database.rows(others.group_by(TRIAL.c.state))}
    last = database.rows(sa.select(sa.func.max(TRIAL.c.order).label("order")).where(mine))[0]["order"]
    if not isinstance(last, int | None):  # SQLite keeps anything anywhere
        raise database.damaged(f"order={plain.shown(last)} is no number")
    reports = 0 if last is None else last + 1
    return {**counts, "finished": reports - counts.get("failed", 0)}


def every_one_has(database: Database, run_id: int, names: Iterable[str]) -> bool:
    """Whether all finished trials of a search have a number for each of these metrics."""
    finished = reported(database, run_id, "search")["finished"]
    for name in names:
        mine = (MEASUREMENT.c.run_id == run_id) & (MEASUREMENT.c.name == name)
        counted = database.rows(sa.select(sa.func.count(MEASUREMENT.c.value).label("count")).where(mine))
        if counted[0]["count"] != finished:
            return False
    return True
