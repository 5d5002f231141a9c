"""A database of ours: whole transactions, errors in one line, and one process a run.

A SQLite file has one writer at a time. A server has many: each writes under a lock of its session, by which others see
that a run goes on, and which a dead process cannot keep. Where a server goes away for a while, whoever has a run waits
for it, has its lock again, and does once more what may not have been done.
"""

import contextlib
import dataclasses
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from nas.errors import DamagedError, RunError, UsageError, one_line
from nas.plain import shown
from nas.store import connecting, records, urls
from nas.store.lock import PATIENCE
from nas.store.migrations import APPLICATION_ID, HEAD, VERSION_TABLE, upgrade
from nas.store.query import Row
from nas.store.schema import ARTIFACT, FRONT, MEASUREMENT, PREDICTOR, RUN, TRIAL

T = TypeVar("T")
KEEP_SECONDS = 10.0  # from one look whether a lock is still there to the next
AWAY_SECONDS = 120.0  # how long whoever has a run waits for a server that has gone away
HEARD_SECONDS = 10.0  # how long who ends waits until a server has heard that a session of its own is gone
FULL = "free some space, then resume the run"
OVERTAKEN = "run={!r} was gone on with by another process while its server was away"
ADVICE = {  # what a database says -> what to do about it
    "locked": "another process is writing to it: wait for that one, or name another store",
    "readonly": "make the file and its directory writable, or name another store",
    "unable to open": "make the file and its directory writable, or name another store",
    "full": FULL,
    "space left": FULL,
    "i/o error": FULL,
    "malformed": "the file is damaged: restore a copy of it",
}


@dataclasses.dataclass
class _Hold:
    """A run that this process has. On a server, the session that has its lock; None while that is lost. `raw` is the
    connection beneath it, which SQLAlchemy lets go of without closing it where an interrupt comes while it is used."""

    run_id: int
    name: str
    token: str
    session: sa.Connection | None = None
    raw: Any = None


class Database:
    """`url` is without the password. Opens what is there; only `create` makes a store. What is not one is refused and
    not touched."""

    def __init__(self, given: sa.URL, create: bool) -> None:
        self.url = urls.plain(given)
        self.sqlite = given.get_backend_name() == "sqlite"
        self._hold: _Hold | None = None
        self._one = threading.RLock()  # at a time uses the session that has the lock
        self._place = connecting.path_of(given) if self.sqlite else None
        self._file: tuple[int, int] | None = None  # what lies there, from when it was opened
        self._schema = 0  # on a server, what tells its locks apart from those of other stores in one database
        self._engine = connecting.sqlite_engine(given, create) if self.sqlite else connecting.server_engine(given)
        try:
            self._open(create)
            self._file = self._lies_there()
        except BaseException:
            self.close()
            raise

    def _open(self, create: bool) -> None:
        with self.transaction() as connection:
            version, tables = _version(connection)
            odd = _odd(connection) if self.sqlite and version is not None else None
            if not self.sqlite:
                schema = connection.scalar(sa.text("SELECT current_schema()"))
                # PostgreSQL takes two numbers for a lock, each signed and of 32 bits.
                self._schema = (APPLICATION_ID ^ zlib.crc32(str(schema).encode())) & 0x7FFFFFFF
        if odd is not None:
            raise UsageError(f"store={self.url} {odd}, which no store of ours has, and was left as it is")
        if version == HEAD:
            return
        if version is None and tables:
            raise UsageError(f"store={self.url} is not a store of ours and was left as it is; name another")
        if version is None and not create:
            raise UsageError(f"store={self.url} holds no store yet: a search makes it")
        if version is None and self.sqlite:
            # Outside a transaction, for within one neither can change; twice does no harm.
            with self._translated(), self._engine.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with self.transaction(write=True, alone=True) as connection:
            version, _ = _version(connection)  # another process may have been quicker
            if version != HEAD and not upgrade(connection, version):
                newer = f"was written by a newer version ({version}) and was left as it is"
                raise UsageError(f"store={self.url} {newer}; upgrade nas-engine")

    def close(self) -> None:
        self._engine.dispose()

    def _lies_there(self) -> tuple[int, int] | None:
        """The SQLite file that is at its place now."""
        if self._place is None:
            return None
        try:
            about = self._place.stat()
        except OSError:
            return None
        return about.st_dev, about.st_ino

    def _check_is_there(self) -> None:
        """Raises RunError where the file is gone, or another: what is written then would be found by nobody."""
        if self._file is not None and self._lies_there() != self._file:
            raise RunError(
                f"store={self.url} was deleted, moved or replaced while it was in use: nothing more is written"
            )

    @contextlib.contextmanager
    def transaction(self, write: bool = False, alone: bool = False) -> Iterator[sa.Connection]:
        """Readers are told of one moment. `alone`: no other process is in such a transaction meanwhile."""
        with self._translated(), self._transaction(write, alone) as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, write: bool, alone: bool, patience: float = HEARD_SECONDS) -> Iterator[sa.Connection]:
        if self.sqlite:
            if write:
                self._check_is_there()
            with self._engine.begin() as connection:
                # A writer locks at once: later, it could find that another had written since it first read.
                connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
                yield connection
            return
        if write and self._hold is not None:
            with self._one, self._session(self._hold, patience) as connection, connection.begin():
                self._wait_for_others(connection, alone)
                yield connection
            return
        level = "READ COMMITTED" if write else "REPEATABLE READ"
        with self._engine.execution_options(isolation_level=level).begin() as connection:
            self._wait_for_others(connection, alone)
            yield connection

    def _wait_for_others(self, connection: sa.Connection, alone: bool) -> None:
        if alone:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:schema, 0)"), {"schema": self._schema})

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        def attempt() -> T:
            try:
                return self._work(work, write=False)
            except DBAPIError as error:
                if not (self.sqlite and "malformed" in str(error.orig)):
                    raise
                # The file may have been moved away and back meanwhile: what was opened before does not see it then.
                self._engine.dispose()
                return self._work(work, write=False)

        return self._again(attempt)

    def rows(self, statement: Any) -> list[Row]:
        return self.read(lambda connection: [dict(row) for row in connection.execute(statement).mappings()])

    def write(self, work: Callable[[sa.Connection], T], patient: bool = True, alone: bool = False) -> T:
        """Where the connection is lost it is done again by whoever has a run. The first time may have been done, with
        only the answer lost: `work` must see to that."""
        patience = AWAY_SECONDS if patient else HEARD_SECONDS
        return self._again(lambda: self._work(work, True, alone, patience), patient)

    def _work(
        self, work: Callable[[sa.Connection], T], write: bool, alone: bool = False, patience: float = HEARD_SECONDS
    ) -> T:
        with self._transaction(write, alone, patience) as connection:
            return work(connection)

    def _again(self, attempt: Callable[[], T], patient: bool = True) -> T:
        deadline, pause = None, 0.05
        with self._translated():
            while True:
                try:
                    return attempt()
                except DBAPIError as error:
                    deadline = time.monotonic() + AWAY_SECONDS if deadline is None else deadline
                    if self._hold is None or not patient or not _lost(error) or time.monotonic() > deadline:
                        raise
                time.sleep(pause)
                pause = min(2 * pause, 2.0)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            said = one_line(error.orig)
            advice = [todo for sign, todo in ADVICE.items() if sign in said.lower()]
            kind = DamagedError if ADVICE["malformed"] in advice else UsageError
            kind = RunError if FULL in advice or (not self.sqlite and _lost(error)) else kind
            raise kind(f"store={self.url}: {said}; {[*advice, 'nothing was changed'][0]}") from error
        except records.Damaged as error:
            raise self.damaged(f"{error}") from error
        except UnicodeDecodeError as error:  # of a schema that is no text
            raise UsageError(f"store={self.url}: {ADVICE['malformed']} ({type(error).__name__})") from error

    def damaged(self, said: str) -> UsageError:
        """The error where what is in a database was not written there."""
        return DamagedError(f"store={self.url}: {said}; {ADVICE['malformed']}")

    def record(self, kind: type[T], row: Row, **more: Any) -> T:
        """The row as a record of this kind. Raises UsageError for what nobody has written so."""
        with self._translated():
            return kind(**records.checked(kind, row), **more)

    # On a server, the lock of a run. Of a file it is a file too: see `nas.store.lock`.

    @contextlib.contextmanager
    def held(self, run_id: int, name: str, lose: Callable[[UsageError], None]) -> Iterator[None]:
        """This process has the run, and writes in the session that has its lock: without that, it cannot write any
        more. `lose` is called, in another thread, where another process has gone on with the run.

        Raises UsageError where another has it.
        """
        hold, over = _Hold(run_id, name, uuid.uuid4().hex), threading.Event()
        try:
            with self._translated():
                hold.session = self._locked_session(hold)
                with hold.session.begin():
                    hold.session.execute(sa.update(RUN).where(RUN.c.id == run_id).values(owner=hold.token))
            self._hold = hold
            threading.Thread(target=self._keep, args=(hold, over, lose), daemon=True).start()
            yield
        finally:
            over.set()
            with self._one:
                self._hold = None
                _end(hold.session, hold.raw)

    def _keep(self, hold: _Hold, over: threading.Event, lose: Callable[[UsageError], None]) -> None:
        """Takes a lock again that was lost while nothing was written, so that others see that the run goes on. Where it
        does so in another process, the work in this one has to end."""
        while not over.wait(KEEP_SECONDS):
            with contextlib.suppress(DBAPIError), self._one:
                if over.is_set():
                    return
                try:
                    with self._session(hold) as session, session.begin():
                        session.exec_driver_sql("SELECT 1")
                except UsageError as overtaken:
                    lose(overtaken)
                    return

    def running(self) -> set[int]:
        """The runs that processes have, wherever these are."""
        mine = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        locks = f"SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND granted AND {mine} AND classid = :schema"
        statement = sa.text(locks).bindparams(schema=self._schema)
        return {row["objid"] for row in self.rows(statement)}

    @contextlib.contextmanager
    def _session(self, hold: _Hold, patience: float = HEARD_SECONDS) -> Iterator[sa.Connection]:
        """The session that has the lock; a new one where it was lost. Raises UsageError where the run has been gone on
        with meanwhile."""
        if hold.session is None or hold.session.invalidated:
            _end(hold.session, hold.raw)
            hold.session = hold.raw = None
            session = self._locked_session(hold, patience, again=True)
            with session.begin():
                owner = self._owner(session, hold)
            if owner != hold.token:
                _end(session)
                raise UsageError(OVERTAKEN.format(hold.name))
            hold.session = session
        yield hold.session

    @staticmethod
    def _owner(session: sa.Connection, hold: _Hold) -> str | None:
        return session.scalar(sa.select(RUN.c.owner).where(RUN.c.id == hold.run_id))

    def _locked_session(self, hold: _Hold, patience: float = PATIENCE, again: bool = False) -> sa.Connection:
        """`again` is for who has lost its session, of which the server may not have heard yet: the lock is free in a
        while, unless another process has the run now."""
        session = self._engine.connect().execution_options(isolation_level="READ COMMITTED")
        try:
            session.detach()  # its lock goes with it, and no other work may be given it
            hold.raw = session.connection.dbapi_connection
            with session.begin():
                for name, value in connecting.ALIVE.items():
                    session.exec_driver_sql(f"SET tcp_{name} = {value}")
            asked = {"schema": self._schema, "run": hold.run_id}
            deadline = time.monotonic() + patience
            while True:
                with session.begin():
                    if session.scalar(sa.text("SELECT pg_try_advisory_lock(:schema, :run)"), asked):
                        return session
                    if again and self._owner(session, hold) != hold.token:
                        raise UsageError(OVERTAKEN.format(hold.name))
                if time.monotonic() > deadline:
                    raise UsageError(f"run={hold.name!r} is running in another process")
                time.sleep(0.05)
        except BaseException:
            _end(session)
            raise


def _end(session: sa.Connection | None, raw: Any = None) -> None:
    """Closes the session, and gives up its lock at once: the server would, but only when it has seen that it closed."""
    if session is None:
        return
    if session.invalidated and raw is not None:
        raw.close()
    with contextlib.suppress(DBAPIError):
        if not (session.closed or session.invalidated):
            session.rollback()
            with session.begin():
                session.exec_driver_sql("SELECT pg_advisory_unlock_all()")
    with contextlib.suppress(DBAPIError):
        session.close()


def _lost(error: DBAPIError) -> bool:
    """Whether a connection was lost, or could not be had: then there is no statement that failed."""
    return error.connection_invalidated or (error.statement is None and isinstance(error, OperationalError))


def _version(connection: sa.Connection) -> tuple[str | None, list[str]]:
    """That of the schema, and the tables that there are."""
    tables = sa.inspect(connection).get_table_names()
    found = VERSION_TABLE in tables
    return connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")) if found else None, tables


def _odd(connection: sa.Connection) -> str | None:
    """What a SQLite file has that runs when it is read or written, or None."""
    made = connection.exec_driver_sql("SELECT type, name FROM sqlite_master WHERE type IN ('view', 'trigger')").first()
    if made is not None:
        return f"has a {made[0]}, {shown(str(made[1]), 60)!r}"
    for table in (RUN, TRIAL, ARTIFACT, PREDICTOR, MEASUREMENT, FRONT):
        columns = connection.exec_driver_sql(f"PRAGMA table_xinfo({table.name})").mappings().all()
        if any(column["hidden"] for column in columns):
            return f"has columns of {table.name} that are computed"
    return None
