"""The log of every run: one SQL database, a SQLite file unless the URL says otherwise.

One process writes to a run, any number read meanwhile. Every method is one transaction: whatever kills the writer, the
store holds all of a call or nothing of it. Nothing outside of this folder imports SQLAlchemy.
"""

import contextlib
import dataclasses
import datetime
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from nas.errors import UsageError
from nas.metrics import outer, outward
from nas.store import asking, files, lock, overview, query, urls, writing
from nas.store.asking import Asked
from nas.store.database import Database
from nas.store.files import Files
from nas.store.query import Artifact, Finished, Kind, NewTrial, Predictor, Row, Run, Status, Trial
from nas.store.running import Front
from nas.store.schema import ARTIFACT, AT_ONCE, FRONT, MEASUREMENT, PREDICTOR, RUN, RUN_FIELDS, TRIAL, of_run
from nas.store.urls import without_password as without_password


class Store:
    """`url` is without the password, which is never kept but in this process; `root` is the folder of all files."""

    def __init__(self, url: str = "sqlite:///nas.db", create: bool = False, files: str | Path | None = None) -> None:
        """Opens what is there; only `create` makes a store. What is not one is refused and not touched.

        A password is taken from the URL, from one that was given to this process before, or from where the driver
        looks for it: PGPASSWORD, ~/.pgpass. `files` is the folder in which the files of runs lie: by default the one
        that was given to this process before, or NAS_FILES, or beside a SQLite file, or of a server here.
        """
        parsed = urls.with_password(urls.parse(url))
        self._database = Database(parsed, create)
        self.url = self._database.url
        folder, root = urls.given_folder(parsed, files), urls.root(parsed)
        self.root = root if folder is None else folder / root.name
        self._fronts: dict[int, Front] = {}  # of the runs that this process writes
        self._files = Files(self.root, moves=self._database.sqlite and folder is None, given=folder is not None)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # One process a run.

    @contextlib.contextmanager
    def locked(self, run: Run, lose: Callable[[UsageError], None] = lambda error: None) -> Iterator[None]:
        """No other process has the run meanwhile, here or, on a server, anywhere. Where a server was away for so long
        that another process has gone on with the run, `lose` is called, in another thread. Raises UsageError where one
        has it, or where its folder cannot be written."""
        folder = files.ready(self.folder(run))
        held = lock.locked(folder, run.name) if self._database.sqlite else self._database.held(run.id, run.name, lose)
        with held:
            yield

    @contextlib.contextmanager
    def settled(self, name: str) -> Iterator[Run]:
        """A run on which no process is at work meanwhile. Its folder need not be there."""
        run = self.run(name)
        if not self._database.sqlite:
            with self._database.held(run.id, run.name, lambda error: None):
                yield self.run(run.name)
            return
        folder = self.folder(run)
        if run.status == "running" and not folder.exists():
            raise UsageError(f"run={run.name!r} may be running on another machine: {folder} is not on this one")
        with lock.locked(folder, run.name) if folder.exists() else contextlib.nullcontext():
            yield self.run(run.name)

    def _alive(self, runs: Iterable[Run]) -> list[Run]:
        """With what their locks tell: a process that is killed cannot say that it has stopped."""
        runs = list(runs)
        if not any(run.status == "running" for run in runs):
            return runs
        taken = None if self._database.sqlite else self._database.running()
        left = {run.id for run in runs if self._is_left(run, taken)}
        if not left:
            return runs
        # One that has ended since it was read holds no lock either.
        left &= {row["id"] for row in self._database.rows(sa.select(RUN.c.id).where(RUN.c.status == "running"))}
        return [dataclasses.replace(run, status="stopped") if run.id in left else run for run in runs]

    def _is_left(self, run: Run, taken: set[int] | None) -> bool:
        if run.status != "running":
            return False
        if taken is not None:
            return run.id not in taken
        with contextlib.suppress(UsageError):  # the folder may be nowhere
            return lock.is_locked(self.folder(run)) is False
        return False

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
        values = {"space": space, "strategy": strategy, "task": task, "code_version": code_version, "seed": int(seed)}
        front = ",".join(query.of_front(query.objectives_of(strategy, config)))
        with self._database.transaction(write=True, alone=True) as connection:
            taken = set(connection.scalars(sa.select(RUN.c.name)))
            if name is None:
                name = query.free_name(query.usual_name(space, strategy, task, seed), taken)
            self._refuse(name, taken)
            folder = self.new_folder(name)
            given = {"name": name, **values, "config": {**config, "files": self._files.named(folder)}}
            try:
                connection.execute(sa.insert(RUN).values(**given, status="running", started=_now(), front=front))
            except BaseException:
                folder.rmdir()
                raise
        return self.run(name)

    def check_new_name(self, name: str) -> None:
        """Raises UsageError for what cannot name a run, or names one already."""
        self._refuse(name, self._names())

    def _refuse(self, name: str, taken: Iterable[str]) -> None:
        query.check_name(name)
        if name in taken:
            raise UsageError(
                f"name={name!r} is already a run of store={self.url}; choose another (--resume goes on with that one)"
            )

    def new_folder(self, name: str, within: str = "") -> Path:
        return self._files.new_folder(name, within)

    def folder(self, run: Run) -> Path:
        """Where the files of a run are. Raises UsageError where the database says that they are somewhere else."""
        return self._files.folder(run)

    def rename(self, run: Run, name: str) -> None:
        """Raises UsageError for a name that is taken, or cannot be one. Files stay where they are."""
        with self._database.transaction(write=True, alone=True) as connection:
            self._refuse(name, set(connection.scalars(sa.select(RUN.c.name))))
            # Older runs did not note where their files are: under the name.
            config = {"files": self.folder(run).name, **run.config}
            connection.execute(sa.update(RUN).where(RUN.c.id == run.id).values(name=name, config=config))

    def delete(self, run: Run) -> None:
        """The run with its trials, measurements and files. Predictors that learned from it stay.

        Many trials go in several transactions, the last first, so that other runs can write meanwhile, and the run goes
        last: one whose deletion was cut short can be deleted again. Raises RunError where the files cannot be deleted.
        """
        folder = self._files.check_own(run, self.all_runs())
        last = sa.select(TRIAL.c.id).where(TRIAL.c.run_id == run.id).order_by(TRIAL.c.id.desc()).limit(AT_ONCE)

        def some(connection: sa.Connection) -> bool:
            ids = list(connection.scalars(last))
            if ids:
                mine = (TRIAL.c.run_id == run.id) & (TRIAL.c.id >= ids[-1])
                trials = sa.select(TRIAL.c.id).where(mine)
                for table in (FRONT, MEASUREMENT):
                    connection.execute(sa.delete(table).where(table.c.trial_id.in_(trials)))
                connection.execute(sa.delete(TRIAL).where(mine))
            if len(ids) == AT_ONCE:
                return True
            connection.execute(sa.delete(ARTIFACT).where(ARTIFACT.c.run_id == run.id))
            return False

        while self._database.write(some):
            pass
        files.empty(folder, f"the trials of run={run.name!r} are deleted")
        itself = sa.delete(RUN).where(RUN.c.id == run.id)
        self._database.write(lambda connection: connection.execute(itself))
        shutil.rmtree(folder, ignore_errors=True)  # with its lock, by which others saw that nobody has the run
        self._fronts.pop(run.id, None)  # another run may be given its number

    def set_status(self, run_id: int, status: Status, reason: str | None = None) -> None:
        values = {"status": status, "reason": reason, "finished": None if status == "running" else _now()}
        statement = sa.update(RUN).where(RUN.c.id == run_id).values(values)
        # Who ends does not wait for a server that has gone away: without its lock a run is stopped anyway.
        patient = status in ("running", "finished")
        self._database.write(lambda connection: connection.execute(statement), patient=patient)

    def add_trials(self, run_id: int, rows: Iterable[NewTrial], kind: Kind = "search") -> None:
        """All of them or none; before any is submitted, so that a crash loses no trial."""
        self.log(run_id, [], list(rows), kind)

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
        return self.log(run_id, [Finished(number, metrics, error, seconds, repeats)], [], kind)[0]

    def log(
        self, run_id: int, reports: Sequence[Finished], new: Sequence[NewTrial], kind: Kind = "search"
    ) -> list[bool]:
        """Trials that were asked for, and reports of trials, these among them, in the order of their arrival: all or
        nothing.
        Returns which reports changed something. Raises UsageError for a report of no trial."""
        times, front = itertools.count(), self._fronts.pop(run_id, None)

        def work(connection: sa.Connection) -> tuple[list[bool], Front | None]:
            again = next(times) > 0
            writing.add(connection, run_id, kind, new, again)
            return writing.finish(connection, run_id, kind, reports, None if again else front)

        changed, front = self._database.write(work) if reports or new else ([], front)
        if front is not None:
            self._fronts[run_id] = front
        return changed

    def add_artifact(
        self, run_id: int, *, kind: str, path: str | Path, sha256: str, architecture: str | None = None
    ) -> None:
        """One a path: a file that was written again replaces what was known of it."""
        values = {"run_id": run_id, "kind": kind, "path": self._files.kept(path), "sha256": sha256}

        def work(connection: sa.Connection) -> None:
            # Older versions kept the whole path.
            same = (ARTIFACT.c.run_id == run_id) & ARTIFACT.c.path.in_([values["path"], str(path)])
            connection.execute(sa.delete(ARTIFACT).where(same))
            connection.execute(sa.insert(ARTIFACT).values(**values, architecture=architecture))

        self._database.write(work)

    def add_predictor(
        self, *, name: str, kind: str, space: str, path: str | Path, sha256: str, card: dict[str, Any]
    ) -> None:
        values = {"name": name, "kind": kind, "space": space, "path": self._files.kept(path), "sha256": sha256}
        times = itertools.count()

        def work(connection: sa.Connection) -> None:
            same = [PREDICTOR.c[name] == value for name, value in values.items()]
            if next(times) and connection.scalar(sa.select(PREDICTOR.c.id).where(*same)):
                return  # the first time was done, and its answer lost
            if name in set(connection.scalars(sa.select(PREDICTOR.c.name))):
                raise UsageError(f"name={name!r} is already a predictor of store={self.url}; choose another")
            connection.execute(sa.insert(PREDICTOR).values(**values, created=_now(), card=card))

        self._database.write(work, alone=True)

    # What anyone reads, while a search writes or long after.

    def run(self, name: str) -> Run:
        """By its name, the beginning of it that no other run shares, or `latest`."""
        known = self._names()
        if not known:
            raise UsageError(f"run={name!r} is not in store={self.url}, which holds no runs yet")
        chosen = list(known)[-1] if name == "latest" else query.pick("run", name, known, f"store={self.url}")
        return self._alive(self._runs(RUN.c.id == known[chosen]))[0]

    def _names(self) -> dict[str, int]:
        """The id of each run by its name, oldest first. Whether its row is damaged is not asked."""
        rows = self._database.rows(sa.select(RUN.c.id, RUN.c.name).order_by(RUN.c.id))
        return {row["name"]: row["id"] for row in rows if isinstance(row["name"], str)}

    def all_runs(self) -> list[Run]:
        """Oldest first, each with the status that was recorded."""
        return self._runs(sa.true())

    def _runs(self, where: sa.ColumnElement[bool]) -> list[Run]:
        columns = (RUN.c[name] for name in RUN_FIELDS)
        rows = self._database.rows(sa.select(*columns).where(where).order_by(RUN.c.id))
        return [self._database.record(Run, _with_mapping(row, "config")) for row in rows]

    def trials(self, run_id: int, kind: Kind = "search", numbers: Iterable[int] | None = None) -> list[Trial]:
        """By number: all, or those of these numbers."""
        mine = of_run(run_id, kind)
        if numbers is None:
            return asking.trials_where(self._database, mine)
        asked = sorted(set(numbers))
        parts = (asked[start : start + AT_ONCE] for start in range(0, len(asked), AT_ONCE))
        return [
            trial for part in parts for trial in asking.trials_where(self._database, mine & TRIAL.c.number.in_(part))
        ]

    def artifacts(
        self, run_id: int | None = None, architecture: str | None = None, kind: str | None = None
    ) -> list[Artifact]:
        asked = {"run_id": run_id, "architecture": architecture, "kind": kind}
        wanted = sa.select(ARTIFACT).order_by(ARTIFACT.c.id)
        for name, value in asked.items():
            if value is not None:
                wanted = wanted.where(ARTIFACT.c[name] == value)
        found = [self._database.record(Artifact, row) for row in self._database.rows(wanted)]
        return [Artifact(**self._files.placed(vars(each))) for each in found]

    def predictors(self) -> list[Row]:
        rows = self._database.rows(sa.select(PREDICTOR).order_by(PREDICTOR.c.id))
        found = [self._database.record(Predictor, _with_mapping(row, "card")) for row in rows]
        return [self._files.placed(vars(each)) for each in found]

    def predictor(self, name: str) -> Predictor:
        rows = {row["name"]: row for row in self.predictors()}
        return Predictor(**rows[query.pick("predictor", name, rows, f"store={self.url}")])

    def runs(self) -> list[Row]:
        """One row a run, oldest first: how many trials of the search finished, and the best of its first objective; of
        a retraining those of the training."""
        return overview.runs(self._database, self._alive(self.all_runs()))

    def hollow_runs(self) -> set[str]:
        """The names of runs that came to an end and left nothing: no trial, of any state, and no file. One that was
        interrupted is none of them: its user was told how to go on."""
        empty = overview.empty_runs(self._database)
        lasting = ("running", "interrupted")
        dead = [run for run in self._alive(self.all_runs()) if run.status not in lasting and run.id in empty]
        return {run.name for run in dead if not self._files.of(run)}

    def tally(self, run_id: int) -> dict[tuple[str, str], int]:
        """How many trials of a run there are of each kind and state."""
        return overview.tally(self._database, run_id)

    def top(self, run: str, by: str | None = None, limit: int = 10, where: str | None = None) -> list[Row]:
        """By default, by the run's first objective."""
        asked = self._asked(run)
        return asked.top(asked.run.objective if by is None else by, limit, where)

    def pareto(self, run: str, objectives: Iterable[str] | None = None) -> list[Row]:
        """By default of the run's own objectives: of one alone, and the multiply-adds."""
        asked = self._asked(run)
        names = asked.kept("objectives", _objectives(asked.run, objectives))
        return [outward(row) for row in asked.front(names)]

    def hypervolume(
        self, run: str, objectives: Iterable[str] | None = None, reference: Sequence[float] | None = None
    ) -> Row:
        """Of the run's front, up to a reference point: by default the worst of each objective in the run."""
        asked = self._asked(run)
        given = _objectives(asked.run, objectives)
        names = asked.kept("objectives", given)
        front, bounds = asked.front(names), asked.bounds(names)
        return query.front_volume(asked.run.name, front, given, names, bounds, reference)

    def _asked(self, run: str) -> Asked:
        return Asked(self._database, self.run(run))

    def show(self, architecture: str) -> Row:
        """Everything known of one architecture, given by its id, a beginning of that that no other shares, or its
        description."""
        found = overview.architecture(self._database, architecture)
        shown = overview.shown(self._database, found)
        return {**shown, "artifacts": [self._files.placed(row) for row in shown["artifacts"]]}


def _objectives(run: Run, given: Iterable[str] | None) -> list[str]:
    return [outer(name) for name in query.of_front(run.objectives)] if given is None else list(given)


def _with_mapping(row: Row, name: str) -> Row:
    """The row with an empty mapping where somebody has put something else there."""
    return row if isinstance(row[name], dict) else {**row, name: {}}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
