"""Stores that several processes share, on one machine or on many: one has a run, and none is in the way of another."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from test_store import REPOSITORY, needs_server, new, start
from test_store import url as url  # a fixture

import nas.store.database
from nas.commands import cli
from nas.errors import RunError, UsageError
from nas.interrupts import heard
from nas.store import urls
from nas.store.sql import Store

only_server = pytest.mark.parametrize("url", [pytest.param("postgresql", marks=needs_server)], indirect=True)


def test_jobs_that_begin_together_make_one_store(url):
    """On a database that is empty, and with names by default."""
    ready = threading.Barrier(5)

    def job(_: int) -> str:
        ready.wait()
        with Store(url, create=True) as store:
            run = start(store)
            with store.locked(run):
                store.set_status(run.id, "finished")
        return run.name

    with ThreadPoolExecutor(5) as pool:
        names = sorted(pool.map(job, range(5)))
    assert names == ["toy-evolution-digits-3", *(f"toy-evolution-digits-3-{i}" for i in range(2, 6))]
    with Store(url) as store:
        assert {row["status"] for row in store.runs()} == {"finished"}


HOLDER = """
import sys, time
from nas.store.sql import Store

with Store(sys.argv[1]) as store, store.locked(store.run("mine")):
    print("has it", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(url, tmp_path):
    """A process in another folder that has a run."""
    with Store(url, create=True) as store:
        start(store, "mine")
    (tmp_path / "elsewhere").mkdir()
    how = {"stdout": subprocess.PIPE, "text": True, "cwd": tmp_path / "elsewhere"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url], **how, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "has it\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_of_two_processes_one_has_the_run_until_it_dies(url, holder, capsys):
    with Store(url) as store:
        run = store.run("mine")
        assert run.status == "running"
        with pytest.raises(UsageError, match="run='mine' is running in another process"), store.locked(run):
            pass
        for words in (["rename", "mine", "other"], ["delete", "mine"]):
            assert cli.main([*words, "--store", url]) == 2
            assert "running in another process" in capsys.readouterr().err
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        deadline = time.monotonic() + 10
        while store.run("mine").status == "running":
            assert time.monotonic() < deadline
        with store.locked(run):
            store.add_trials(run.id, [new(0)])
        assert len(store.trials(run.id)) == 1


@only_server
def test_stores_of_one_server_have_runs_of_their_own(url):
    """In two schemas of one database, in which runs have the same numbers."""
    with Store(url, create=True) as store:
        with store._database.transaction(write=True) as connection:
            connection.exec_driver_sql("CREATE SCHEMA other")
        other_url = f"{url}?options=-csearch_path%3Dother"
        with Store(other_url, create=True) as other:
            runs = start(store, "mine"), start(other, "mine")
            assert runs[0].id == runs[1].id
            with store.locked(runs[0]):
                assert other.run("mine").status == "stopped"
                with other.locked(runs[1]):
                    assert other.run("mine").status == "running"


def cut(url: str) -> None:
    """The server ends all sessions of the database but this one, as when it is started anew."""
    engine = sa.create_engine(sa.make_url(url))
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"{ended} AND pid <> pg_backend_pid()")
    engine.dispose()


@only_server
def test_whoever_has_a_run_goes_on_where_connections_were_lost(url, monkeypatch):
    monkeypatch.setattr(nas.store.database, "KEEP_SECONDS", 0.1)
    with Store(url, create=True) as store:
        run = start(store, "mine")
        with store.locked(run):
            store.add_trials(run.id, [new(0), new(1)])
            cut(url)
            store.finish_trial(run.id, 0, metrics={"error": 0.5}, error=None, seconds=1)
            cut(url)
            assert [trial.state for trial in store.trials(run.id)] == ["finished", "running"]
            deadline = time.monotonic() + 10
            while store.run("mine").status == "stopped":
                assert time.monotonic() < deadline
            with Store(url) as other, pytest.raises(UsageError, match="in another process"), other.locked(run):
                pass
        assert store.run("mine").status == "stopped"


@only_server
def test_whoever_has_a_run_waits_until_the_server_hears_that_its_session_is_gone(url):
    with Store(url, create=True) as store, Store(url) as server:
        run = start(store, "mine")
        with store.locked(run):
            schema, engine = store._database._schema, server._database._engine
            cut(url)
            old = engine.connect()  # in the place of the session that was lost, of which its server has not heard
            old.exec_driver_sql(f"SELECT pg_advisory_lock({schema}, {run.id})")
            timer = threading.Timer(3.0, old.invalidate)
            timer.start()
            store.add_trials(run.id, [new(0)])
            timer.join()
        assert len(server.trials(run.id)) == 1


@only_server
def test_an_interrupt_in_the_middle_of_a_statement_is_recorded(url):
    with Store(url, create=True) as store:
        run = start(store, "mine")
        with store.locked(run), heard():
            hold = store._database._hold
            assert hold is not None
            assert hold.session is not None
            used = hold.session.connection.dbapi_connection  # as what an interrupt leaves behind may hold it
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                store._database.write(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(30)"))
            store.set_status(run.id, "interrupted", "Ctrl-C")
            assert used is not hold.raw
        assert store.run("mine").status == "interrupted"


@only_server
def test_whoever_has_lost_a_run_to_another_writes_no_more(url):
    with Store(url, create=True) as store, Store(url) as other:
        run = start(store, "mine")
        with store.locked(run):
            store.add_trials(run.id, [new(0)])
            cut(url)
            with other.locked(run):
                with pytest.raises(UsageError, match="gone on with by another process while its server was away"):
                    store.add_trials(run.id, [new(1)])
                other.set_status(run.id, "finished")
            for attempt in (
                lambda: store.add_trials(run.id, [new(1)]),
                lambda: store.set_status(run.id, "failed", "of the one that has lost it"),
            ):
                with pytest.raises(UsageError, match="gone on with by another process while its server was away"):
                    attempt()
        assert other.run("mine").status == "finished"
        assert len(other.trials(run.id)) == 1


@only_server
@pytest.mark.parametrize("lost", ["before", "after"])
def test_what_was_written_when_the_answer_was_lost_is_written_once(url, lost, monkeypatch):
    """The connection is cut just before a transaction is committed, or just after."""
    commit, cuts = sa.engine.default.DefaultDialect.do_commit, []

    def cutting(dialect, connection):
        if cuts == ["armed"]:
            cuts.append("cut")
            if lost == "after":
                commit(dialect, connection)
            cut(url)
        commit(dialect, connection)
        if len(cuts) == 2 and lost == "after":
            cuts.append("told")
            connection.execute("SELECT 1")

    with Store(url, create=True) as store:
        run = start(store, "mine")
        with store.locked(run):
            monkeypatch.setattr(sa.engine.default.DefaultDialect, "do_commit", cutting)
            for write in (
                lambda: store.add_trials(run.id, [new(0), new(1)]),
                lambda: store.finish_trial(run.id, 1, metrics={"error": 0.5}, error=None, seconds=1),
                lambda: store.add_artifact(run.id, kind="weights", path="w", sha256="x"),
                lambda: store.add_predictor(name="it", kind="gp", space="x", path="p", sha256="x", card={}),
            ):
                cuts[:] = ["armed"]
                write()
                assert "cut" in cuts
        assert [(trial.state, trial.order) for trial in store.trials(run.id)] == [("running", None), ("finished", 0)]
        assert len(store.artifacts(run.id)) == len(store.predictors()) == 1


@only_server
def test_a_cut_while_the_best_are_asked_for_does_not_end_a_run(url):
    with Store(url, create=True) as store:
        run = start(store, "mine")
        with store.locked(run):
            store.add_trials(run.id, [new(0)])
            store.finish_trial(run.id, 0, metrics={"error": 0.5, "macs": 1.0, "x": 2.0}, error=None, seconds=1)
            for question in (lambda: store.top("mine"), lambda: store.pareto("mine", ["error", "x"])):
                cut(url)
                assert [row["error"] for row in question()] == [0.5]


@only_server
def test_whoever_was_overtaken_is_told_though_it_writes_nothing(url, monkeypatch):
    monkeypatch.setattr(nas.store.database, "KEEP_SECONDS", 0.1)
    with Store(url, create=True) as store, Store(url) as other:
        run, told = start(store, "mine"), list[UsageError]()
        with store.locked(run, told.append):
            cut(url)
            with other.locked(run):
                for _ in range(100):
                    time.sleep(0 if told else 0.1)
        assert len(told) == 1
        assert "gone on with by another process" in str(told[0])


# A server of the test's own, which it can stop.

TOOLS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda path: int(path.parent.name))


class Server:
    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.url = folder, f"postgresql://nas@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "-U", "nas", "--auth=trust", "--no-sync")
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "start", "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def _run(self, tool: str, *words: str) -> None:
        user = ["runuser", "-u", "nobody", "--"] if os.getuid() == 0 else []
        line = [*user, str(TOOLS / tool), "-D", str(self.folder / "data"), *words]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, cwd=self.folder)


@pytest.fixture
def server():
    if TOOLS is None or (os.getuid() == 0 and shutil.which("runuser") is None):
        pytest.skip("there are no tools of a PostgreSQL server in /usr/lib/postgresql")
    pytest.importorskip("psycopg")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:  # not within a folder that only root may enter
        if os.getuid() == 0:
            shutil.chown(folder, "nobody")
        running = Server(Path(folder))
        yield running
        with contextlib.suppress(subprocess.CalledProcessError):
            running.stop()


@pytest.mark.slow
def test_a_server_that_is_started_anew_loses_nothing(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Store(server.url, create=True) as store:
        run = start(store, "mine")
        with store.locked(run):
            store.add_trials(run.id, [new(i) for i in range(20)])
            for number in range(20):
                if number == 10:
                    server.stop()
                    begins_again = threading.Timer(1.5, server.start)
                    begins_again.start()
                store.finish_trial(run.id, number, metrics={"error": number}, error=None, seconds=1)
            store.set_status(run.id, "finished")
        begins_again.join()  # its tool looks whether the server is up: nobody may stop it meanwhile
        assert [trial.order for trial in store.trials(run.id)] == [*range(20)]
        assert store.run("mine").status == "finished"


@pytest.mark.slow
def test_a_server_that_stays_away_is_one_line(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nas.store.database, "AWAY_SECONDS", 0.5)
    with Store(server.url, create=True) as store:
        run = start(store, "mine")
        with store.locked(run):
            server.stop()
            with pytest.raises(RunError, match="refused") as caught:
                store.add_trials(run.id, [new(0)])
    assert len(str(caught.value).splitlines()) == 1


# Where files lie.


def test_files_lie_where_the_user_says_and_are_found_there(url, tmp_path, monkeypatch):
    monkeypatch.setattr(urls, "_FOLDERS", {})
    with Store(url, create=True, files=tmp_path / "here") as store:
        run = start(store, "mine")
        folder = store.folder(run)
        assert folder.parent.parent == tmp_path / "here"
        assert folder.name == "mine"
        store.add_artifact(run.id, kind="weights", path=folder / "w", sha256="x")
    with Store(url) as again:  # of this process, which knows
        assert again.folder(run) == folder
    monkeypatch.setattr(urls, "_FOLDERS", {})
    with Store(url) as other:
        assert other.folder(other.run("mine")) == folder  # the database knows
        assert [file.path for file in other.artifacts()] == [str(folder / "w")]
    os.rename(tmp_path / "here", tmp_path / "there")
    monkeypatch.setenv(urls.FILES, str(tmp_path / "there"))
    with Store(url) as moved:
        assert moved.folder(run) == tmp_path / "there" / folder.parent.name / "mine"
        assert moved.folder(run).is_dir()
        assert [file.path for file in moved.artifacts()] == [str(moved.folder(run) / "w")]


def test_two_databases_share_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [
        "postgresql://me@host/a",
        "postgresql://me@host/b",
        "postgresql://me@host:9/a",
        "postgresql://me@host?dbname=c",
    ]
    assert len({urls.root(urls.parse(each)) for each in given}) == len(given)
