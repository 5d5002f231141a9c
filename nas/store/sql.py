"""The log of every run: one SQL database, a SQLite file unless the URL says otherwise.

One process writes, any number read meanwhile. Every method is one transaction: whatever kills the writer, the store
holds all of a call or nothing of it. All SQL is in this file, which is why it is long, and nothing else imports
SQLAlchemy.
"""

import contextlib
import dataclasses
import datetime
import itertools
import json
import math
import os
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from nas.errors import RunError, UsageError, unwritable
from nas.metrics import outer, seen
from nas.plain import shown
from nas.store import query
from nas.store.lock import NAME as LOCK
from nas.store.lock import is_locked
from nas.store.migrations import APPLICATION_ID, HEAD, VERSION_TABLE, refusal, upgrade
from nas.store.query import Artifact, Kind, NewTrial, Predictor, Row, Run, Status, Trial

BUSY_SECONDS = 30.0  # how long one writer waits for another before it says so
FULL = "free some space, then resume the run"
ADVICE = {  # what a database says -> what to do about it
    "locked": "another process is writing to it: wait for that one, or name another store",
    "readonly": "make the file and its directory writable, or name another store",
    "unable to open": "make the file and its directory writable, or name another store",
    "full": FULL,
    "space left": FULL,
    "i/o error": FULL,
    "malformed": "the file is damaged: restore a copy of it",
}


def _table(name: str, columns: Iterable[str]) -> sa.TableClause:
    """Names only: the types and the constraints are the migrations' to say."""
    in_json = {"config", "encoding", "drawn", "card"}
    return sa.table(name, *(sa.column(each, sa.JSON() if each in in_json else None) for each in columns))


def _fields(record: type) -> list[str]:
    return [field.name for field in dataclasses.fields(record) if field.name != "measurements"]


RUN, TRIAL = _table("run", _fields(Run)), _table("trial", _fields(Trial))
ARTIFACT, PREDICTOR = _table("artifact", _fields(Artifact)), _table("predictor", _fields(Predictor))
MEASUREMENT = _table("measurement", ["trial_id", "name", "value"])


class Store:
    """`url` is without the password, which is never kept but in this process; `root` is the folder of all files."""

    def __init__(self, url: str = "sqlite:///nas.db", create: bool = False) -> None:
        """Opens what is there; only `create` makes a store. What is not one is refused and not touched.

        A password is taken from the URL, from one that was given to this process before, or from where the driver
        looks for it: PGPASSWORD, ~/.pgpass.
        """
        parsed = _with_password(_parse(url))
        self.url = _shown(parsed)
        self.root = _root(parsed)
        self._sqlite = parsed.get_backend_name() == "sqlite"
        self._engine = _sqlite_engine(parsed, create) if self._sqlite else _server_engine(parsed)
        try:
            self._open(create)
        except BaseException:
            self.close()
            raise

    def _open(self, create: bool) -> None:
        with self._transaction() as connection:
            tables = sa.inspect(connection).get_table_names()
            version = None
            if VERSION_TABLE in tables:
                version = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
        if version == HEAD:
            return
        if version is None and tables:
            raise UsageError(f"store={self.url} is not a store of ours and was left as it is; name another")
        if version is None and not create:
            raise UsageError(f"store={self.url} holds no store yet: a search makes it")
        if version is None and self._sqlite:
            # Outside a transaction, for within one neither can change; twice does no harm.
            with self._translated(), self._engine.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with self._transaction(write=True) as connection:
            if not upgrade(connection, version):
                newer = f"was written by a newer version ({version}) and was left as it is"
                raise UsageError(f"store={self.url} {newer}; upgrade nas-engine")

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            said = " ".join(str(error.orig).split())
            advice = [todo for sign, todo in ADVICE.items() if sign in said.lower()]
            kind = RunError if FULL in advice else UsageError
            raise kind(f"store={self.url}: {said}; {[*advice, 'nothing was changed'][0]}") from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise UsageError(f"store={self.url}: {ADVICE['malformed']} ({type(error).__name__})") from error

    @contextlib.contextmanager
    def _transaction(self, write: bool = False) -> Iterator[sa.Connection]:
        with self._translated(), self._engine.begin() as connection:
            if self._sqlite:
                # A writer locks at once: later, it could find that another had written since it first read.
                connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
            yield connection

    def _rows(self, statement: Any) -> list[Row]:
        with self._transaction() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    # What the search writes.

    def add_run(
        self,
        *,
        name: str | None,
        space: str,
        strategy: str,
        task: str,
        config: dict[str, Any],
        code_version: str,
        seed: int,
    ) -> Run:
        with self._transaction(write=True) as connection:
            taken = set(connection.scalars(sa.select(RUN.c.name)))
            if name is None:
                name = query.free_name(_stem(space, strategy, task, seed), taken)
            self._refuse(name, taken)
            folder = self.new_folder(name)
            # Beside a SQLite file it moves with that; of a server it is on this machine.
            files = folder.name if self._sqlite else str(folder)
            given = {"name": name, "space": space, "strategy": strategy, "task": task}
            given |= {"config": {**config, "files": files}, "code_version": code_version, "seed": int(seed)}
            try:
                connection.execute(sa.insert(RUN).values(**given, status="running", started=_now()))
            except BaseException:
                folder.rmdir()
                raise
        return self.run(name)

    def check_new_name(self, name: str) -> None:
        """Raises UsageError for what cannot name a run, or names one already."""
        self._refuse(name, {run.name for run in self.all_runs()})

    def _refuse(self, name: str, taken: Iterable[str]) -> None:
        query.check_name(name)
        if name in taken:
            raise UsageError(
                f"name={name!r} is already a run of store={self.url}; choose another (--resume goes on with that one)"
            )

    def new_folder(self, name: str, within: str = "") -> Path:
        """Makes a folder for files that nobody else has, named after what they are of: what is there is left alone."""
        for i in itertools.count(1):
            folder = self.root / within / (name if i == 1 else f"{name}~{i}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise unwritable(folder, error) from error
            return folder
        raise AssertionError

    def folder(self, run: Run) -> Path:
        """Where the files of a run are. Raises UsageError where the database says that they are somewhere else."""
        named = run.config.get("files", run.name)
        if not isinstance(named, str):
            raise UsageError(f"run={run.name!r} is damaged: its files={named!r} are not in a folder")
        folder = Path(os.path.abspath(self.root / named))
        # Whoever wrote the database could name any folder, and `delete` empties it.
        inside = folder.parent == self.root or (not self._sqlite and folder.parent.name == self.root.name)
        if not inside or folder.name.startswith("."):  # as that of all predictors
            said = f"are not those of a run in {self.root}, and are not touched"
            raise UsageError(f"run={run.name!r}: its files={str(folder)!r} {said}")
        return folder

    def _has_files(self, run: Run, folder: Path) -> bool:
        with contextlib.suppress(UsageError):  # they may be nowhere
            return self.folder(run) == folder
        return False

    def _kept(self, path: str | Path) -> str:
        """A path as it is kept: beside a SQLite file it moves with that; of a server it is on this machine."""
        path = self.root / path
        return str(path.relative_to(self.root) if self._sqlite and path.is_relative_to(self.root) else path)

    def _placed(self, row: Row) -> Row:
        """With the path as it is on this machine."""
        return row | {"path": str(self.root / row["path"])}

    def rename(self, run: Run, name: str) -> None:
        """Raises UsageError for a name that is taken, or cannot be one. Files stay where they are."""
        with self._transaction(write=True) as connection:
            self._refuse(name, set(connection.scalars(sa.select(RUN.c.name))))
            # Older runs did not note where their files are: under the name.
            config = {"files": self.folder(run).name, **run.config}
            connection.execute(sa.update(RUN).where(RUN.c.id == run.id).values(name=name, config=config))

    def delete(self, run: Run) -> None:
        """The run with its trials, measurements and files. Predictors that learned from it stay.

        Raises RunError where the files cannot be deleted, when the run is.
        """
        folder, trials = self.folder(run), sa.select(TRIAL.c.id).where(TRIAL.c.run_id == run.id)
        for other in self.all_runs():
            if other.id != run.id and self._has_files(other, folder):
                said = f"are those of {other.name!r} too, and are not touched"
                raise UsageError(f"run={run.name!r} is damaged: its files={str(folder)!r} {said}")
        with self._transaction(write=True) as connection:
            connection.execute(sa.delete(MEASUREMENT).where(MEASUREMENT.c.trial_id.in_(trials)))
            for table in (TRIAL, ARTIFACT):
                connection.execute(sa.delete(table).where(table.c.run_id == run.id))
            connection.execute(sa.delete(RUN).where(RUN.c.id == run.id))
        try:
            if folder.exists():
                shutil.rmtree(folder)
        except OSError as error:
            said = f"{run.name} is gone from {self.url}, but not all of its files in {folder}"
            raise RunError(f"{said}: {error.strerror or error}; delete them yourself") from error

    def set_status(self, run_id: int, status: Status, reason: str | None = None) -> None:
        finished = None if status == "running" else _now()
        with self._transaction(write=True) as connection:
            values = {"status": status, "reason": reason, "finished": finished}
            connection.execute(sa.update(RUN).where(RUN.c.id == run_id).values(values))

    def add_trials(self, run_id: int, rows: Iterable[NewTrial], kind: Kind = "search") -> None:
        """All of them or none; before any is submitted, so that a crash loses no trial."""
        values = []
        for row in rows:
            whole = {name: int(getattr(row, name)) for name in ("number", "budget", "seed")}
            encoding = [int(choice) for choice in row.encoding]
            fixed = {"run_id": run_id, "kind": kind, "state": "running", "encoding": encoding}
            values.append(dataclasses.asdict(row) | whole | fixed)
        if values:
            with self._transaction(write=True) as connection:
                connection.execute(sa.insert(TRIAL), values)

    def finish_trial(
        self,
        run_id: int,
        number: int,
        *,
        metrics: Mapping[str, float] | None,
        error: str | None,
        seconds: float,
        kind: Kind = "search",
        repeats: int | None = None,
    ) -> bool:
        """The report of a trial, failed where there is an `error`. A second report changes nothing: False."""
        siblings = (TRIAL.c.run_id == run_id) & (TRIAL.c.kind == kind)
        with self._transaction(write=True) as connection:
            found = sa.select(TRIAL.c.id, TRIAL.c.state).where(siblings & (TRIAL.c.number == int(number)))
            trial = connection.execute(found).one_or_none()
            if trial is None:
                raise UsageError(f"number={number} is no {kind} trial of run {run_id} in store={self.url}")
            if trial.state != "running":
                return False
            following = sa.func.coalesce(sa.func.max(TRIAL.c.order), -1) + 1
            order = connection.scalar(sa.select(following).where(siblings))
            report = {"state": "finished" if error is None else "failed", "error": error}
            report |= {"seconds": float(seconds), "order": order, "repeats": repeats}
            connection.execute(sa.update(TRIAL).where(TRIAL.c.id == trial.id).values(report))
            values = [
                {"trial_id": trial.id, "name": name, "value": None if math.isnan(value) else float(value)}
                for name, value in (metrics or {}).items()
            ]
            if values:
                connection.execute(sa.insert(MEASUREMENT), values)
        return True

    def repeat_trial(self, run_id: int, number: int, first: int) -> dict[str, float]:
        """Gives a trial of the search the result of an earlier one, and says so. Returns what was measured."""
        its = (TRIAL.c.run_id == run_id) & (TRIAL.c.kind == "search") & (TRIAL.c.number == first)
        (trial,) = self._trials(its)
        self.finish_trial(run_id, number, metrics=trial.measurements, error=None, seconds=0.0, repeats=first)
        return trial.measurements

    def add_artifact(
        self, run_id: int, *, kind: str, path: str | Path, sha256: str, architecture: str | None = None
    ) -> None:
        """One a path: a file that was written again replaces what was known of it."""
        values = {"run_id": run_id, "kind": kind, "path": self._kept(path), "sha256": sha256}
        with self._transaction(write=True) as connection:
            # Older versions kept the whole path.
            same = (ARTIFACT.c.run_id == run_id) & ARTIFACT.c.path.in_([self._kept(path), str(path)])
            connection.execute(sa.delete(ARTIFACT).where(same))
            connection.execute(sa.insert(ARTIFACT).values(**values, architecture=architecture))

    def add_predictor(
        self, *, name: str, kind: str, space: str, path: str | Path, sha256: str, card: dict[str, Any]
    ) -> None:
        values = {"name": name, "kind": kind, "space": space, "path": self._kept(path), "sha256": sha256}
        with self._transaction(write=True) as connection:
            if name in set(connection.scalars(sa.select(PREDICTOR.c.name))):
                raise UsageError(f"name={name!r} is already a predictor of store={self.url}; choose another")
            connection.execute(sa.insert(PREDICTOR).values(**values, created=_now(), card=card))

    # What anyone reads, while a search writes or long after.

    def run(self, name: str) -> Run:
        """By its name, the beginning of it that no other run shares, or `latest`."""
        runs = {run.name: run for run in self.all_runs()}
        if not runs:
            raise UsageError(f"run={name!r} is not in store={self.url}, which holds no runs yet")
        chosen = list(runs)[-1] if name == "latest" else query.pick("run", name, runs, f"store={self.url}")
        return self._alive(runs[chosen])

    def all_runs(self) -> list[Run]:
        """Oldest first, each with the status that was recorded."""
        rows = self._rows(sa.select(RUN).order_by(RUN.c.id))
        return [Run(**_with_mapping(row, "config")) for row in rows]

    def _alive(self, run: Run) -> Run:
        """With what its lock tells: a process that is killed cannot say that it has stopped."""
        with contextlib.suppress(UsageError):  # the folder may be nowhere
            if run.status == "running" and is_locked(self.folder(run)) is False:
                return dataclasses.replace(run, status="stopped")
        return run

    def trials(self, run_id: int, kind: Kind = "search") -> list[Trial]:
        return self._trials((TRIAL.c.run_id == run_id) & (TRIAL.c.kind == kind))

    def trial(self, run_id: int, number: int, kind: Kind = "search") -> Trial:
        return self._trials((TRIAL.c.run_id == run_id) & (TRIAL.c.kind == kind) & (TRIAL.c.number == number))[0]

    def _trials(self, mine: Any) -> list[Trial]:
        values = sa.select(MEASUREMENT).join(TRIAL, TRIAL.c.id == MEASUREMENT.c.trial_id).where(mine)
        measurements: dict[int, dict[str, float]] = {}
        with self._transaction() as connection:
            rows = connection.execute(sa.select(TRIAL).where(mine).order_by(TRIAL.c.number)).mappings().all()
            for trial, name, value in connection.execute(values.order_by(MEASUREMENT.c.name)):
                self._check_number(name, value)
                measurements.setdefault(trial, {})[name] = math.nan if value is None else value
        return [Trial(**row, measurements=measurements.get(row["id"], {})) for row in rows]

    def _check_number(self, name: str, value: Any) -> None:
        if not isinstance(value, int | float | None):  # SQLite keeps anything in any column
            raise UsageError(f"store={self.url}: {name}={shown(value)} is no number; {ADVICE['malformed']}")

    def artifacts(
        self, run_id: int | None = None, architecture: str | None = None, kind: str | None = None
    ) -> list[Artifact]:
        asked = {"run_id": run_id, "architecture": architecture, "kind": kind}
        wanted = sa.select(ARTIFACT).order_by(ARTIFACT.c.id)
        for name, value in asked.items():
            if value is not None:
                wanted = wanted.where(ARTIFACT.c[name] == value)
        return [Artifact(**self._placed(row)) for row in self._rows(wanted)]

    def predictors(self) -> list[Row]:
        rows = self._rows(sa.select(PREDICTOR).order_by(PREDICTOR.c.id))
        return [self._placed(_with_mapping(row, "card")) for row in rows]

    def predictor(self, name: str) -> Predictor:
        rows = {row["name"]: row for row in self.predictors()}
        return Predictor(**rows[query.pick("predictor", name, rows, f"store={self.url}")])

    def runs(self) -> list[Row]:
        """One row a run, oldest first: how many trials of the search finished, and the best of its first objective; of
        a retraining those of the training."""
        runs = [self._alive(run) for run in self.all_runs()]
        kind = sa.case((RUN.c.strategy == query.RETRAIN, "final"), else_="search")
        finished = (TRIAL.c.run_id == RUN.c.id) & (TRIAL.c.kind == kind) & (TRIAL.c.state == "finished")
        counted = sa.select(RUN.c.id, sa.func.count(TRIAL.c.id)).join(TRIAL, finished).group_by(RUN.c.id)
        lowest = sa.select(RUN.c.id, MEASUREMENT.c.name, sa.func.min(MEASUREMENT.c.value)).join(TRIAL, finished)
        lowest = lowest.join(MEASUREMENT, MEASUREMENT.c.trial_id == TRIAL.c.id).group_by(RUN.c.id, MEASUREMENT.c.name)
        with self._transaction() as connection:
            trials = {run: count for run, count in connection.execute(counted)}
            best = {(run, name): value for run, name, value in connection.execute(lowest)}
        for (_, name), value in best.items():
            self._check_number(name, value)
        found = {}
        for run in runs:
            objective, value = seen(run.objective, best.get((run.id, run.objective)))
            found[run.id] = {"trials": trials.get(run.id, 0), "objective": objective, "best": value}
        return [{name: {**vars(run), **found[run.id]}[name] for name in query.RUN_COLUMNS} for run in runs]

    def hollow_runs(self) -> set[str]:
        """The names of runs that came to an end and left nothing: no trial, of whatever state, and no file."""
        with self._transaction() as connection:
            held = set(connection.scalars(sa.select(TRIAL.c.run_id).union(sa.select(ARTIFACT.c.run_id))))
        dead = [run for run in map(self._alive, self.all_runs()) if run.status != "running" and run.id not in held]
        return {run.name for run in dead if not self._files_of(run)}

    def tally(self, run_id: int) -> dict[tuple[str, str], int]:
        """How many trials of a run there are of each kind and state."""
        counted = sa.select(TRIAL.c.kind, TRIAL.c.state, sa.func.count(TRIAL.c.id)).where(TRIAL.c.run_id == run_id)
        with self._transaction() as connection:
            rows = connection.execute(counted.group_by(TRIAL.c.kind, TRIAL.c.state))
            return {(kind, state): count for kind, state, count in rows}

    def _files_of(self, run: Run) -> list[str]:
        with contextlib.suppress(UsageError, OSError):  # the folder may be nowhere
            return [name for name in os.listdir(self.folder(run)) if name != LOCK]
        return []

    def top(self, run: str, by: str | None = None, limit: int = 10, where: str | None = None) -> list[Row]:
        """By default, by the run's first objective."""
        return query.top(self._query_rows(run), self.run(run).objective if by is None else by, limit, where)

    def pareto(self, run: str, objectives: Iterable[str] | None = None) -> list[Row]:
        """By default of the run's own objectives: of one alone, and the multiply-adds."""
        return query.pareto(self._query_rows(run), self._objectives(run, objectives))

    def _objectives(self, run: str, given: Iterable[str] | None) -> list[str]:
        own = [outer(name) for name in self.run(run).objectives] if given is None else list(given)
        return [*own, "macs"] if given is None and len(own) == 1 and own != ["macs"] else own

    def hypervolume(
        self, run: str, objectives: Iterable[str] | None = None, reference: Sequence[float] | None = None
    ) -> Row:
        """Of the run's front, up to a reference point: by default the worst of each objective in the run."""
        names = self._objectives(run, objectives)
        return query.front_volume(self.run(run).name, self._query_rows(run), names, reference)

    def _query_rows(self, run: str) -> list[Row]:
        run_id = self.run(run).id
        return query.build_rows(self.trials(run_id), self.trials(run_id, "final"))

    def show(self, architecture: str) -> Row:
        """Everything known of one architecture, given by its id, a beginning of that that no other shares, or its
        description."""
        ids = (row["architecture"] for row in self._rows(sa.select(TRIAL.c.architecture).distinct()))
        same = sa.select(TRIAL.c.architecture).distinct().where(TRIAL.c.description == architecture)
        described = sorted(row["architecture"] for row in self._rows(same)) if architecture else []
        if len(described) > 1:
            some = ", ".join(described[:4])
            raise UsageError(f"architecture={architecture!r} describes several, in several spaces: give an id, {some}")
        found = described[0] if described else query.pick("architecture", architecture, ids, f"store={self.url}")
        mine = TRIAL.c.architecture == found
        identity = sa.select(*(TRIAL.c[name] for name in ("encoding", "description", "space"))).where(mine)
        columns = [RUN.c.name.label("run"), RUN.c.task, TRIAL.c.kind, TRIAL.c.number.label("trial")]
        columns += [TRIAL.c.budget, TRIAL.c.seed, MEASUREMENT.c.name, MEASUREMENT.c.value]
        joined = sa.join(TRIAL, RUN, RUN.c.id == TRIAL.c.run_id)
        joined = joined.join(MEASUREMENT, MEASUREMENT.c.trial_id == TRIAL.c.id)
        scores = sa.select(*columns).select_from(joined).where(mine)
        scores = self._rows(scores.order_by(TRIAL.c.id, MEASUREMENT.c.name))
        for score in scores:
            self._check_number(score["name"], score["value"])
            score["name"], score["value"] = seen(score["name"], score["value"])
        files = sa.select(RUN.c.name.label("run"), ARTIFACT.c.kind, ARTIFACT.c.path, ARTIFACT.c.sha256)
        files = files.join(RUN, RUN.c.id == ARTIFACT.c.run_id).where(ARTIFACT.c.architecture == found)
        return {
            "id": found,
            **self._rows(identity.order_by(TRIAL.c.id).limit(1))[0],
            "scores": scores,
            "artifacts": [self._placed(row) for row in self._rows(files.order_by(ARTIFACT.c.id))],
        }


def _stem(space: str, strategy: str, task: str, seed: int) -> str:
    """A name for a run that was given none: of a task that is a file, with the file's name, as far as it can be one."""
    kind, _, place = task.partition(":")
    parts = [space, strategy, kind, *([Path(place).stem] if place else [])]
    return "-".join([*(re.sub(r"[^\w.]+", "-", part)[:40].strip("-") for part in parts), str(seed)])


def _with_mapping(row: Row, name: str) -> Row:
    """The row with an empty mapping where somebody has put something else there."""
    return row if isinstance(row[name], dict) else {**row, name: {}}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _parse(url: str) -> sa.URL:
    form = "such as sqlite:///nas.db or postgresql://user@host/name"
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        said = re.sub(r":[^:@/]*@", ":***@", url)
        raise UsageError(f"store={said!r} is not a database URL, {form}") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    shown = parsed.render_as_string(hide_password=True)
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise UsageError(f"store={shown} is no kind of database that is supported, {form}")
    if parsed.drivername == "sqlite" and (parsed.database in (None, "", ":memory:") or parsed.query):
        raise UsageError(f"store={shown} must name a file and nothing more, such as sqlite:///nas.db")
    return parsed


_PASSWORDS: dict[str, str] = {}  # that were given to this process, by the URL without them


def _with_password(url: sa.URL) -> sa.URL:
    password = url.password or url.query.get("password")
    if isinstance(password, str):
        _PASSWORDS[_shown(url)] = password
    known = _PASSWORDS.get(_shown(url))
    return url.difference_update_query(["password"]).set(password=known) if known else url


def without_password(url: str) -> str:
    """A URL as it can be printed. Raises UsageError for one of no store."""
    return _shown(_parse(url))


def _shown(url: sa.URL) -> str:
    """The URL without its password: it can be printed, kept, and given again."""
    plain = url.difference_update_query(["password", "sslpassword"])._replace(
        drivername=url.drivername.partition("+")[0], password=None
    )
    return plain.render_as_string(hide_password=False)


def _root(url: sa.URL) -> Path:
    """The folder of a store's files: beside a SQLite file, else in the working folder."""
    if url.drivername == "sqlite":
        return Path(f"{url.database}.files").absolute()
    place = [url.host or "localhost", str(url.port or 5432), url.database or url.username or "postgres"]
    return Path("-".join(re.sub(r"[^\w.]+", "-", part) for part in place) + ".files").absolute()


def _server_engine(url: sa.URL) -> sa.Engine:
    try:
        # What a reader is told is of one moment, as SQLite has it.
        return sa.create_engine(url, isolation_level="REPEATABLE READ")
    except ImportError:
        shown = url.render_as_string(hide_password=True)
        install = "pip install 'nas-engine[postgres]'"
        raise UsageError(f"store={shown} needs psycopg, which is not installed; {install}") from None


def _sqlite_engine(url: sa.URL, create: bool) -> sa.Engine:
    path = Path(str(url.database)).absolute()
    why = refusal(path, create)
    if why is not None:
        raise UsageError(f"store={url.render_as_string()} {why}")
    mode = "rwc" if create else "rw"
    if not create and not os.access(path.parent, os.W_OK):
        # SQLite cannot make the file that readers share with a writer, nor needs one if nobody writes.
        mode = "ro" if Path(f"{path}-wal").exists() else "ro&immutable=1"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,  # transactions begin where `_transaction` says, also for the schema
            check_same_thread=False,
        )
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection

    return sa.create_engine(url, creator=connect)
