"""Questions over all runs: how far each is, and what is known of one architecture. Each goes by indices."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from nas import plain
from nas.errors import UsageError
from nas.metrics import seen
from nas.store import query
from nas.store.asking import check_number, trials_where
from nas.store.counting import reported
from nas.store.database import Database
from nas.store.query import Kind, Row, Run
from nas.store.schema import ARTIFACT, MEASUREMENT, RUN, TRIAL, of_run

NEAR = 5000  # names among which one that is near to a misspelt one is looked for
BEGINNING = 40  # characters of a description that the index of a SQLite file has


def runs(database: Database, known: Iterable[Run]) -> list[Row]:
    found = []
    for run in known:
        kind: Kind = "final" if run.strategy == query.RETRAIN else "search"
        objective, best = seen(run.objective, _best(database, run, kind))
        counted = {"trials": reported(database, run.id, kind)["finished"], "objective": objective, "best": best}
        found.append({name: {**vars(run), **counted}[name] for name in query.RUN_COLUMNS})
    return found


def _best(database: Database, run: Run, kind: Kind) -> float | None:
    """The least of the first objective."""
    name = MEASUREMENT.c.name == run.objective
    lowest = sa.select(sa.func.min(MEASUREMENT.c.value).label("value"))
    if kind == "search":
        lowest = lowest.where(name & (MEASUREMENT.c.run_id == run.id))
    else:
        mine = of_run(run.id, kind) & (TRIAL.c.state == "finished")
        lowest = lowest.join(TRIAL, TRIAL.c.id == MEASUREMENT.c.trial_id).where(name & mine)
    value = database.rows(lowest)[0]["value"]
    check_number(database, run.objective, value)
    return value


def tally(database: Database, run_id: int) -> dict[tuple[str, str], int]:
    kinds: tuple[Kind, ...] = ("search", "final")
    counts = {(kind, state): n for kind in kinds for state, n in reported(database, run_id, kind).items()}
    return {which: count for which, count in counts.items() if count}


def empty_runs(database: Database) -> set[int]:
    """The runs that have neither a trial nor a file."""
    left = sa.select(RUN.c.id)
    for table in (TRIAL, ARTIFACT):
        left = left.where(~sa.exists().where(table.c.run_id == RUN.c.id))
    return {row["id"] for row in database.rows(left)}


def architecture(database: Database, asked: str) -> str:
    """The id of an architecture. Raises UsageError where it is that of none, or of several."""
    described = _described(database, asked) if asked else []
    if len(described) > 1:
        some = ", ".join(described[:4])
        raise UsageError(f"architecture={asked!r} describes several, in several spaces: give an id, {some}")
    if described:
        return described[0]
    column, place = TRIAL.c.architecture, f"store={database.url}"
    # By the index, in whatever order a server has letters: ids are hexadecimal.
    beginning = (column >= asked) & (column < asked + "zzzz")
    names = _architectures(database, beginning & column.startswith(asked, autoescape=True)) if asked else []
    if not names:
        names = _architectures(database, sa.true())
    return query.pick("architecture", asked, names, place)


def _architectures(database: Database, which: Any) -> list[str]:
    wanted = sa.select(TRIAL.c.architecture).distinct().where(which).order_by(TRIAL.c.architecture).limit(NEAR)
    found = [row["architecture"] for row in database.rows(wanted)]
    for each in found:
        if not isinstance(each, str):
            raise database.damaged(f"architecture={plain.shown(each)} is no text")
    return found


def _described(database: Database, asked: str) -> list[str]:
    same = TRIAL.c.description == asked
    if database.sqlite:  # whose index has the beginning, which it does not find in a column that it knows the value of
        one, many = sa.literal_column("1"), sa.literal_column(str(BEGINNING))
        whole = TRIAL.c.description.op("||")(sa.literal_column("''")) == asked
        same = (sa.func.substr(TRIAL.c.description, one, many) == asked[:BEGINNING]) & whole
    return sorted({row["architecture"] for row in database.rows(sa.select(TRIAL.c.architecture).where(same))})


def shown(database: Database, found: str) -> Row:
    """All scores and files of an architecture."""
    mine = TRIAL.c.architecture == found
    first = min(trials_where(database, mine), key=lambda trial: trial.id)
    columns = [RUN.c.name.label("run"), RUN.c.task, TRIAL.c.kind, TRIAL.c.number.label("trial")]
    columns += [TRIAL.c.budget, TRIAL.c.seed, MEASUREMENT.c.name, MEASUREMENT.c.value]
    joined = sa.join(TRIAL, RUN, RUN.c.id == TRIAL.c.run_id)
    joined = joined.join(MEASUREMENT, MEASUREMENT.c.trial_id == TRIAL.c.id)
    scores = database.rows(sa.select(*columns).select_from(joined).where(mine).order_by(TRIAL.c.id, MEASUREMENT.c.name))
    for score in scores:
        check_number(database, score["name"], score["value"])
        score["name"], score["value"] = seen(score["name"], score["value"])
    files = sa.select(RUN.c.name.label("run"), ARTIFACT.c.kind, ARTIFACT.c.path, ARTIFACT.c.sha256)
    files = files.join(RUN, RUN.c.id == ARTIFACT.c.run_id).where(ARTIFACT.c.architecture == found)
    return {
        "id": found,
        **{name: getattr(first, name) for name in ("encoding", "description", "space")},
        "scores": scores,
        "artifacts": database.rows(files.order_by(ARTIFACT.c.id)),
    }


def runs_of(scores: Iterable[Row]) -> list[str]:
    """The runs of an architecture's scores, those that have searched it after those that trained it alone, on what may
    be other data: the last one is what found it."""
    scores = list(scores)
    searched = dict.fromkeys(score["run"] for score in scores if score["kind"] == "search")
    alone = dict.fromkeys(score["run"] for score in scores if score["run"] not in searched)
    return [*alone, *searched]


def run_of(architecture: str, scores: Iterable[Row], asked: str | None) -> str | None:
    """That of these runs which is asked for, by default the one that found the architecture; None where there is none.
    Raises UsageError where it is another one."""
    known = runs_of(scores)
    if asked is not None and asked not in known:
        others = f", but of {', '.join(known)}" if known else ""
        raise UsageError(f"architecture={architecture!r} has no score of run={asked!r}{others}")
    return asked or (known[-1] if known else None)
