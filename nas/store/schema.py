"""The tables, by the names of their columns: types and constraints are the migrations' to say."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from nas.store.query import Artifact, Kind, Predictor, Run, Trial

AT_ONCE = 10_000  # numbers of trials in one question


def _table(name: str, columns: Iterable[str]) -> sa.TableClause:
    in_json = {"config", "encoding", "drawn", "card"}
    return sa.table(name, *(sa.column(each, sa.JSON() if each in in_json else None) for each in columns))


def _fields(record: type) -> list[str]:
    return [field.name for field in dataclasses.fields(record) if field.name != "measurements"]


RUN_FIELDS, TRIAL_FIELDS = _fields(Run), _fields(Trial)
RUN, TRIAL = _table("run", [*RUN_FIELDS, "owner", "front"]), _table("trial", TRIAL_FIELDS)
ARTIFACT, PREDICTOR = _table("artifact", _fields(Artifact)), _table("predictor", _fields(Predictor))
MEASUREMENT = _table("measurement", ["trial_id", "name", "value", "run_id"])
FRONT = _table("front", ["trial_id", "run_id"])


def of_run(run_id: int, kind: Kind = "search") -> Any:
    """Which trials are of a run."""
    return (TRIAL.c.run_id == run_id) & (TRIAL.c.kind == kind)
