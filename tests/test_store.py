"""The store keeps whole transactions, answers while it is written, and leaves what is not its own alone."""

import dataclasses
import errno
import fcntl
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import Toy

import nas.store.connecting
from nas.commands import cli
from nas.commands import search as launch
from nas.engine.record import Record
from nas.errors import RunError, UsageError
from nas.store import files, overview
from nas.store.lock import is_locked, locked
from nas.store.migrations import APPLICATION_ID, HEAD, VERSION_TABLE
from nas.store.schema import ARTIFACT, MEASUREMENT, PREDICTOR, RUN, TRIAL
from nas.store.sql import NewTrial, Run, Store

REPOSITORY = Path(__file__).parent.parent


SERVER = os.environ.get("NAS_TEST_POSTGRES")
needs_server = pytest.mark.skipif(not SERVER, reason="NAS_TEST_POSTGRES, the URL of a PostgreSQL server, is not set")
only_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_server)])
def url(request, tmp_path, monkeypatch):
    """Of a store that is not there yet; on the server, of a database that is dropped after the test, with its files in
    the working folder."""
    monkeypatch.chdir(tmp_path)
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/a store 100% #1.db"
        return
    server = sa.make_url(SERVER).set(drivername="postgresql+psycopg")
    engine, name = sa.create_engine(server, isolation_level="AUTOCOMMIT"), f"nas_test_{uuid.uuid4().hex}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield server.set(database=name).render_as_string(hide_password=False)
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


@pytest.fixture
def store(url):
    with Store(url, create=True) as opened:
        yield opened


def start(store: Store, name: str | None = None) -> Run:
    config = {"strategy": {"population": 8}}
    return store.add_run(
        name=name,
        space="toy",
        strategy="evolution",
        task="digits",
        config=config,
        code_version="0.1.0",
        seed=3,
    )


def new(number: int, architecture: str | None = None) -> NewTrial:
    return NewTrial(
        number, architecture or f"a{number}", [number, 0, 1], f"toy({number})", "toy", budget=2, seed=number
    )


# What goes in comes out.


def test_a_run_is_named_after_its_parts_and_a_twin_is_counted(store):
    assert [start(store).name for _ in range(3)] == [
        "toy-evolution-digits-3",
        "toy-evolution-digits-3-2",
        "toy-evolution-digits-3-3",
    ]


def test_a_run_comes_back_whole(store):
    run = start(store, "mine")
    assert run == store.run("mine")
    assert run.config.items() > {"strategy": {"population": 8}}.items()
    assert Path(run.config["files"]).name == "mine"
    assert (run.status, run.reason, run.finished) == ("stopped", None, None)  # no process has taken its lock
    assert run.started.endswith("+00:00")
    store.set_status(run.id, "failed", "out of memory")
    ended = store.run("mine")
    assert (ended.status, ended.reason) == ("failed", "out of memory")
    assert ended.finished is not None
    store.set_status(run.id, "running")
    assert store.run("mine") == run


def test_a_run_is_found_by_name_by_its_beginning_and_as_the_latest(store):
    first, second = start(store), start(store)
    other = start(store, "other")
    assert store.run(first.name) == first  # although the second begins with it
    assert store.run(second.name) == second
    assert store.run("oth") == other
    assert store.run("latest") == other


def test_a_name_that_is_taken_is_refused(store):
    start(store)
    with pytest.raises(UsageError, match="choose another"):
        start(store, "toy-evolution-digits-3")


@pytest.mark.parametrize(
    "name", ["latest", "", "..", ".x", "-x", "../escaped", "/abs", "a/b", "a\\b", "x" * 300, "a\0b", " a", "a\n"]
)
def test_what_cannot_name_a_run_is_refused_before_anything_is_stored(store, name):
    with pytest.raises(UsageError, match="must be 1 to 150 bytes") as caught:
        start(store, name)
    assert len(str(caught.value)) < 250
    assert len(str(caught.value).splitlines()) == 1
    assert store.runs() == []
    assert not store.root.exists()


@pytest.mark.parametrize("name", ["a b", "süß", "100%", "лето", "x" * 150])
def test_a_name_of_any_letters_is_that_of_a_folder_too(store, name):
    run = start(store, name)
    assert store.folder(run).name == name
    assert store.folder(run).is_dir()
    assert store.run(name) == run


def test_a_run_that_was_given_no_name_has_one_that_can_be_a_folder(store):
    task = "npz:/some where/..//" + "x/" * 3 + "a" * 300 + ".npz"
    given = {"space": "toy", "strategy": "random", "config": {}, "code_version": "0", "seed": 3}
    run = store.add_run(name=None, task=task, **given)
    assert run.name == "toy-random-npz-" + "a" * 40 + "-3"


def test_files_that_are_there_are_not_taken_for_those_of_a_new_run(store):
    """As after the database was deleted, and its files were not."""
    old = store.root / "mine"
    old.mkdir(parents=True)
    (old / "supernet.safetensors").write_text("of another run")
    run = start(store, "mine")
    assert store.folder(run).name == "mine~2"
    assert list(store.folder(run).iterdir()) == []
    assert store.folder(start(store, "other")).name == "other"


@pytest.mark.parametrize("names", [("exp.1", "exp.2"), ("exp", "exp.db"), ("a b.db", "a%20b.db"), ("ä.db", "100%.db")])
def test_stores_share_no_folder(names, tmp_path):
    roots = []
    for name in names:
        with Store(f"sqlite:///{tmp_path}/{name.replace('%', '%25')}", create=True) as store:
            run = start(store, "same")
            roots.append(store.folder(run))
            assert (tmp_path / name).is_file()
            assert roots[-1].parent.parent == tmp_path
            assert store.folder(Store(store.url).run("same")) == roots[-1]
    assert len(set(roots)) == 2


def test_a_run_whose_process_is_gone_is_stopped(store):
    run = start(store, "mine")
    with store.locked(run), Store(store.url) as other:
        for asked in (store, other):
            assert asked.run("mine").status == "running"
            assert [row["status"] for row in asked.runs()] == ["running"]
        with pytest.raises(UsageError, match="running in another process"), other.locked(run):
            pass
    assert store.run("mine").status == "stopped"
    assert [row["status"] for row in store.runs()] == ["stopped"]
    store.set_status(run.id, "finished")
    assert store.run("mine").status == "finished"


def test_a_run_is_renamed_and_keeps_its_files(store):
    run, other = start(store, "old"), start(store, "other")
    folder = store.folder(run)
    store.rename(run, "new")
    assert store.folder(store.run("new")) == folder
    with pytest.raises(UsageError, match="choose another"):
        store.rename(store.run("new"), other.name)
    with pytest.raises(UsageError, match="must be 1 to 150 bytes"):
        store.rename(store.run("new"), "../x")
    assert {row["name"] for row in store.runs()} == {"new", "other"}


def test_a_run_is_deleted_with_all_that_is_its_own(store):
    for name in ("one", "two"):
        run = start(store, name)
        store.add_trials(run.id, [new(0)])
        store.finish_trial(run.id, 0, metrics={"error": 0.5}, error=None, seconds=1)
        store.add_artifact(run.id, kind="weights", path=store.folder(run) / "w", sha256="x", architecture="a1")
        (store.folder(run) / "w").write_text("weights")
    store.delete(store.run("one"))
    assert [row["name"] for row in store.runs()] == ["two"]
    assert [path.name for path in store.root.iterdir()] == ["two"]
    assert len(store.trials(run.id)) == len(store.artifacts()) == 1
    assert {score["run"] for score in store.show(new(0).architecture)["scores"]} == {"two"}


def test_a_run_of_many_trials_is_deleted_in_pieces(store, monkeypatch):
    """Between two of them others can write; of one that was cut short the first trials are left."""
    monkeypatch.setattr("nas.store.sql.AT_ONCE", 4)
    run, other = start(store, "one"), start(store, "two")
    for each in (run, other):
        store.add_trials(each.id, [new(number) for number in range(10)])
        for number in range(10):
            store.finish_trial(each.id, number, metrics={"error": 0.5, "macs": number}, error=None, seconds=1)
    write, times = store._database.write, iter((True, False))

    def once(work, **how):
        if not next(times):
            raise KeyboardInterrupt
        return write(work, **how)

    monkeypatch.setattr(store._database, "write", once)
    with pytest.raises(KeyboardInterrupt):
        store.delete(run)
    monkeypatch.setattr(store._database, "write", write)
    assert [trial.number for trial in store.trials(run.id)] == list(range(6))
    assert len(store.top("one")) == 6
    store.delete(run)
    assert [row["trials"] for row in store.runs()] == [10]
    assert len(store.trials(other.id)) == 10
    assert [trial.number for trial in store.trials(other.id, numbers=(9, 3, 3, 0, 8, 5, 77))] == [0, 3, 5, 8, 9]
    with store._database.transaction() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(MEASUREMENT)) == 20


def test_a_run_with_a_damaged_trial_can_be_deleted(store, url, capsys):
    run = start(store, "one")
    store.add_trials(run.id, [new(0), new(1)])
    with store._database.transaction(write=True) as connection:
        connection.execute(sa.update(TRIAL).where(TRIAL.c.number == 1).values(encoding="no list"))
    assert cli.main(["delete", "one", "--store", url]) == 0
    assert capsys.readouterr().out.startswith("one is gone, with its 2 trials, 0 final trainings and the files in ")
    assert store.runs() == []


@pytest.mark.parametrize("damage", ["a measured trial failed", "a trial of the front runs"])
def test_what_no_search_can_have_written_is_refused_by_questions(store, damage):
    run = start(store, "one")
    store.add_trials(run.id, [new(0), new(1)])
    store.finish_trial(run.id, 0, metrics={"error": 0.5, "macs": 1.0}, error=None, seconds=1)
    state = "failed" if "failed" in damage else "running"
    with store._database.transaction(write=True) as connection:
        connection.execute(sa.update(TRIAL).where(TRIAL.c.number == 0).values(state=state))
    for question in (store.top, store.pareto, store.hypervolume):
        with pytest.raises(UsageError, match=f"trial 0 is {state}, and was measured; the file is damaged"):
            question("one")


def test_a_front_without_its_numbers_is_refused_when_a_trial_joins(store, url):
    run = start(store, "one")
    store.add_trials(run.id, [new(0), new(1)])
    store.finish_trial(run.id, 0, metrics={"error": 0.5, "macs": 1.0}, error=None, seconds=1)
    with store._database.transaction(write=True) as connection:
        connection.execute(sa.delete(MEASUREMENT).where(MEASUREMENT.c.name == "macs"))
    with Store(url) as other, pytest.raises(UsageError, match="is on the front, and has no number for each of error"):
        other.finish_trial(run.id, 1, metrics={"error": 0.1, "macs": 9.0}, error=None, seconds=1)


@pytest.mark.parametrize("command", ["list", "show it"])
def test_a_predictor_without_a_card_is_refused(store, url, command, capsys):
    store.add_predictor(name="it", kind="gp", space="x", path=store.root / "it", sha256="x", card={})
    assert cli.main(["predictors", *command.split(), "--store", url]) == 2
    assert "predictor='it': its card in the store is damaged" in capsys.readouterr().err


def test_a_connection_that_cannot_be_given_back_says_no_more_than_the_error(store, capfd, monkeypatch):
    """SQLAlchemy writes a traceback of what it meets there, and of an interrupt."""

    def interrupted(dialect, connection):
        raise KeyboardInterrupt

    monkeypatch.setattr(sa.engine.default.DefaultDialect, "do_rollback", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.runs()
    monkeypatch.undo()
    assert "Traceback" not in "".join(capfd.readouterr())
    assert store.runs() == []


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_store_that_is_deleted_or_replaced_is_not_written_to(how, tmp_path):
    path = tmp_path / "nas.db"
    Store(f"sqlite:///{tmp_path / 'old.db'}", create=True).close()
    with Store(f"sqlite:///{path}", create=True) as store:
        run = start(store, "one")
        path.unlink()
        if how == "replaced":
            (tmp_path / "old.db").rename(path)
        with pytest.raises(RunError, match="was deleted, moved or replaced while it was in use"):
            store.add_trials(run.id, [new(0)])
    assert path.exists() == (how == "replaced")


def test_a_run_inherits_no_front_of_one_that_was_deleted(store):
    for name, error in (("one", 0.1), ("two", 0.5)):
        run = start(store, name)
        store.add_trials(run.id, [new(0)])
        store.finish_trial(run.id, 0, metrics={"error": error, "macs": 1.0}, error=None, seconds=1)
        assert [row["error"] for row in store.pareto(name)] == [error]
        store.delete(store.run(name))


def test_a_run_that_ends_while_it_is_asked_about_is_not_said_to_have_stopped(store, monkeypatch):
    run = start(store, "one")

    def ended(folder):
        store.set_status(run.id, "finished")
        return False  # nobody has it any more

    monkeypatch.setattr("nas.store.lock.is_locked", ended)
    monkeypatch.setattr(store._database, "running", lambda: ended(None) or set())
    assert store.run("one").status == "running"
    assert store.run("one").status == "finished"


def test_a_run_whose_files_cannot_be_deleted_says_so(store, tmp_path):
    run = start(store, "mine")
    store.folder(run).rmdir()
    (tmp_path / "elsewhere").mkdir()
    store.folder(run).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        RunError, match=r"trials of run='mine' are deleted, but not all of its files in .*: it is a link; mend that"
    ):
        store.delete(run)
    assert [row["name"] for row in store.runs()] == ["mine"]
    assert (tmp_path / "elsewhere").is_dir()
    store.folder(run).unlink()
    store.delete(run)
    assert store.runs() == []


def test_a_run_whose_deletion_was_cut_short_before_its_files_can_be_deleted_again(store, monkeypatch):
    """Also one whose process was killed, of which the lock says that nobody has it."""
    run = start(store, "one")
    store.set_status(run.id, "running")
    store.add_trials(run.id, [new(0)])
    (store.folder(run) / "weights").write_text("many")
    with store.locked(run):
        pass
    empty = files.empty
    for at in (interrupted, lambda *given: (empty(*given), interrupted())):
        monkeypatch.setattr("nas.store.sql.files.empty", at)
        with pytest.raises(KeyboardInterrupt), store.settled("one") as found:
            store.delete(found)
        assert store.folder(run).is_dir()
    monkeypatch.undo()
    assert {path.name for path in store.folder(run).iterdir()} <= {"lock"}
    with store.settled("one") as found:
        store.delete(found)
    assert not store.folder(run).exists()
    assert store.runs() == []


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_file_that_is_opened_anew_is_asked_before_it_is_called_damaged(tmp_path, monkeypatch):
    """One that was moved away and back looks malformed to whoever had it open."""
    error = sa.exc.DatabaseError("SELECT", {}, sqlite3.DatabaseError("database disk image is malformed"))
    with Store(f"sqlite:///{tmp_path / 'nas.db'}", create=True) as store:
        work, times = store._database._work, iter((True, False))

        def once(*given, **how):
            if next(times):
                raise error
            return work(*given, **how)

        monkeypatch.setattr(store._database, "_work", once)
        assert store._database.read(lambda connection: 3) == 3


@pytest.mark.parametrize("config", ["[1]", "null", '{"given": 3}', '{"files": 3}', '{"files": null}', "{"])
def test_a_run_whose_configuration_somebody_has_changed_is_one_line(config, tmp_path, capsys):
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with Store(url, create=True) as store:
        store.set_status(start(store, "mine").id, "finished")
        with store._database._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE run SET config = ?", (config,))
    assert launch.main(["--resume", "mine", "--store", url]) == 2
    assert "damaged" in capsys.readouterr().err
    for command in (["top", "mine"], ["runs"]):
        assert cli.main([*command, "--store", url]) == (2 if config == "{" else 0)


def test_a_run_that_is_damaged_keeps_no_other_from_answering(tmp_path, capsys):
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with Store(url, create=True) as store:
        for name in ("mine", "other"):
            store.set_status(start(store, name).id, "finished")
        with store._database._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE run SET config = '{' WHERE name = 'mine'")
    assert cli.main(["top", "other", "--store", url]) == 0
    capsys.readouterr()
    for words in (["top", "mine"], ["runs"]):
        assert cli.main([*words, "--store", url]) == 2
        assert "'{' is no JSON" in capsys.readouterr().err


@pytest.mark.parametrize("named", ["../victim", "/victim", "a/b", ".", ".predictors"])
def test_files_that_a_database_says_are_elsewhere_are_not_touched(store, named):
    run = start(store, "mine")
    doctored = dataclasses.replace(run, config={**run.config, "files": named})
    for question in (store.folder, store.delete):
        with pytest.raises(UsageError, match="and are not touched"):
            question(doctored)
    assert store.run("mine") == run


def test_files_that_a_database_says_are_of_two_runs_are_not_deleted_with_one(store):
    one, two = start(store, "one"), start(store, "two")
    doctored = dataclasses.replace(one, config={**one.config, "files": two.config["files"]})
    with pytest.raises(UsageError, match="are those of 'two' too, and are not touched"):
        store.delete(doctored)
    assert store.folder(two).is_dir()
    store.delete(two)
    assert [run.name for run in store.all_runs()] == ["one"]


def test_a_run_of_an_older_version_keeps_its_files_under_another_name(store):
    run = start(store, "old")
    without = {name: value for name, value in run.config.items() if name != "files"}
    store.rename(dataclasses.replace(run, config=without), "new")
    assert store.folder(store.run("new")).name == "old"


@pytest.mark.parametrize("command", [["delete", "mine"], ["rename", "mine", "other"]])
def test_what_another_process_is_at_work_on_is_neither_deleted_nor_renamed(command, tmp_path, capsys):
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with Store(url, create=True) as own:
        run = start(own, "mine")
        with locked(own.folder(run), "mine"):
            assert cli.main([*command, "--store", url]) == 2
            assert "running in another process" in capsys.readouterr().err
        assert cli.main([*command, "--store", url]) == 0
        assert [row["name"] for row in own.runs()] == command[2:]


def test_what_describes_two_architectures_is_no_name_of_one(store):
    run = start(store, "mine")
    rows = [dataclasses.replace(new(i), description="same") for i in (0, 1)]
    store.add_trials(run.id, rows)
    with pytest.raises(UsageError, match="'same' describes several, in several spaces: give an id, a0, a1"):
        store.show("same")


@needs_server
@pytest.mark.parametrize("url", [pytest.param("postgresql", marks=needs_server)], indirect=True)
def test_files_of_a_server_are_found_from_any_folder(url, tmp_path, monkeypatch):
    with Store(url, create=True) as store:
        run = start(store, "mine")
        place = store.folder(run) / "w"
        store.add_artifact(run.id, kind="weights", path=place, sha256="x")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with Store(url) as store:
        assert [file.path for file in store.artifacts()] == [str(place)]


def test_a_file_system_without_locks_says_so(store, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    run = start(store, "mine")
    with locked(store.folder(run), "mine"):
        pass
    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(UsageError, match="cannot lock files"), locked(store.folder(run), "mine"):
        pass
    assert is_locked(store.folder(run)) is None


def test_a_repeated_trial_has_the_result_of_the_first_and_says_so(store):
    run = start(store)
    store.add_trials(run.id, [new(0), new(1)])
    store.finish_trial(run.id, 0, metrics={"error": 0.5, "macs": 3.0}, error=None, seconds=9)
    record = Record(store, run, Toy(), 0, ("error",))
    record.repeat(1, 0)
    assert store.trials(run.id)[1].state == "running"
    record.flush()
    first, second = store.trials(run.id)
    assert (first.repeats, second.repeats) == (None, 0)
    assert second.measurements == first.measurements
    assert (second.state, second.seconds) == ("finished", 0.0)


@pytest.mark.parametrize("url", ["postgresql://me:secret@host:1/db", "postgresql://me@host:1/db?password=secret"])
def test_a_password_is_known_to_this_process_and_kept_nowhere(url, monkeypatch):
    from nas.store import urls

    monkeypatch.setattr(urls, "_PASSWORDS", {})
    given = urls.with_password(urls.parse(url))
    shown = urls.plain(given)
    assert shown == "postgresql://me@host:1/db"
    assert given.password == "secret"
    assert urls.with_password(urls.parse(shown)).password == "secret"
    assert urls.with_password(urls.parse("postgresql://me@host:1/other")).password is None
    assert urls.root(given).name == "host-1-db.files"


def test_a_run_that_is_not_there_is_answered_with_the_nearest(store):
    with pytest.raises(UsageError, match="holds no runs yet"):
        store.run("latest")
    for name in ("evolution", "random-1", "random-2"):
        start(store, name)
    with pytest.raises(UsageError, match="did you mean 'evolution'"):
        store.run("evolutoin")
    with pytest.raises(UsageError, match=r"begins 2 names .* random-1, random-2"):
        store.run("random")


def test_trials_come_back_in_number_order_with_their_measurements(store):
    run = start(store)
    store.add_trials(run.id, [new(2), new(0), new(1)])
    store.finish_trial(run.id, 2, metrics={"error": 0.25, "macs": 7}, error=None, seconds=1.5)
    store.finish_trial(run.id, 0, metrics=None, error="ValueError: no", seconds=0.5)
    trials = store.trials(run.id)
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert [trial.state for trial in trials] == ["failed", "running", "finished"]
    assert [trial.order for trial in trials] == [1, None, 0]  # as the reports arrived
    assert [trial.error for trial in trials] == ["ValueError: no", None, None]
    assert [trial.seconds for trial in trials] == [0.5, None, 1.5]
    assert trials[2].measurements == {"error": 0.25, "macs": 7.0}
    assert {name: getattr(trials[2], name) for name in dataclasses.asdict(new(2))} == dataclasses.asdict(new(2))


def test_numbers_that_are_not_finite_come_back(store):
    run = start(store)
    store.add_trials(run.id, [new(0)])
    told = {"error": math.nan, "macs": math.inf, "params": -math.inf}
    store.finish_trial(run.id, 0, metrics=told, error=None, seconds=1)
    values = store.trials(run.id)[0].measurements
    assert math.isnan(values.pop("error"))
    assert values == {"macs": math.inf, "params": -math.inf}


@pytest.mark.usefixtures("unchecked")  # an integer of NumPy's is no `int`
def test_numbers_of_numpy_are_numbers(store):
    run = start(store)
    row = dataclasses.replace(
        new(0), number=np.int64(0), encoding=np.arange(3, dtype=np.int32), seed=np.uint32(2**32 - 1)
    )
    store.add_trials(run.id, [row])
    store.finish_trial(run.id, np.int32(0), metrics={"error": np.float32(0.5)}, error=None, seconds=np.float64(1))
    (trial,) = store.trials(run.id)
    assert (trial.encoding, trial.seed, trial.measurements) == ([0, 1, 2], 2**32 - 1, {"error": 0.5})


def test_a_second_report_changes_nothing(store):
    run = start(store)
    store.add_trials(run.id, [new(0)])
    assert store.finish_trial(run.id, 0, metrics={"error": 0.1}, error=None, seconds=1)
    before = store.trials(run.id)
    assert not store.finish_trial(run.id, 0, metrics={"error": 0.9}, error="late", seconds=9)
    assert store.trials(run.id) == before


def test_a_report_of_no_trial_is_an_error(store):
    run = start(store)
    with pytest.raises(UsageError, match="number=7 is no search trial"):
        store.finish_trial(run.id, 7, metrics={}, error=None, seconds=1)


def test_finals_are_numbered_apart_from_the_search(store):
    run = start(store)
    store.add_trials(run.id, [new(0)])
    store.add_trials(run.id, [new(0)], kind="final")
    store.finish_trial(run.id, 0, metrics={"test_error": 0.2}, error=None, seconds=9, kind="final")
    assert [trial.state for trial in store.trials(run.id)] == ["running"]
    assert [trial.state for trial in store.trials(run.id, "final")] == ["finished"]


def test_trials_are_added_all_or_none(store):
    run = start(store)
    store.add_trials(run.id, [new(0)])
    with pytest.raises(UsageError, match=r"(?i)unique"):
        store.add_trials(run.id, [new(1), new(0)])
    assert [trial.number for trial in store.trials(run.id)] == [0]
    store.add_trials(run.id, [])


def test_a_trial_belongs_to_a_run(store):
    with pytest.raises(UsageError, match=r"(?i)foreign key"):
        store.add_trials(99, [new(0)])


def test_a_file_written_again_replaces_what_was_known_of_it(store):
    run = start(store)
    store.add_artifact(run.id, kind="supernet", path="s.safetensors", sha256="old")
    store.add_artifact(run.id, kind="supernet", path=Path("s.safetensors"), sha256="new")
    store.add_artifact(run.id, kind="weights", path="w.safetensors", sha256="x", architecture="a1")
    assert [file.sha256 for file in store.artifacts(run.id)] == ["new", "x"]
    assert [file.path for file in store.artifacts(architecture="a1")] == [str(store.root / "w.safetensors")]
    assert store.artifacts(kind="weights", run_id=run.id + 1) == []


def test_a_predictor_comes_back_and_keeps_its_name(store):
    card = {"kendall_tau": 0.7}
    values = {"name": "gp", "kind": "gaussian", "space": "f00", "path": "gp", "sha256": "x", "card": card}
    store.add_predictor(**values)
    found = store.predictor("gp")
    placed = {**values, "path": str(store.root / "gp")}
    assert {name: getattr(found, name) for name in values} == placed
    with pytest.raises(UsageError, match="choose another"):
        store.add_predictor(**values)
    with pytest.raises(UsageError, match="did you mean 'gp'"):
        store.predictor("gpp")


def test_an_architecture_is_shown_with_every_score_of_every_run(store):
    for name, error in [("one", 0.5), ("two", math.nan)]:
        run = start(store, name)
        store.add_trials(run.id, [new(0, "cafe1"), new(1, "cafe2")])
        store.finish_trial(run.id, 0, metrics={"error": error}, error=None, seconds=1)
    store.add_artifact(run.id, kind="weights", path="w", sha256="x", architecture="cafe1")
    shown = store.show("cafe1")
    assert {name: shown[name] for name in ("id", "encoding", "description", "space")} == {
        "id": "cafe1",
        "encoding": [0, 0, 1],
        "description": "toy(0)",
        "space": "toy",
    }
    score = {"task": "digits", "kind": "search", "trial": 0, "budget": 2, "seed": 0, "name": "error"}
    assert shown["scores"] == [{"run": "one", **score, "value": 0.5}, {"run": "two", **score, "value": None}]
    assert shown["artifacts"] == [{"run": "two", "kind": "weights", "path": str(store.root / "w"), "sha256": "x"}]
    assert store.show("cafe2")["scores"] == []
    with pytest.raises(UsageError, match="begins 2 names"):
        store.show("cafe")


def test_runs_count_what_finished_and_know_the_lowest_error(store):
    run = start(store)
    store.add_trials(run.id, [new(i) for i in range(5)])
    for i, error in enumerate([0.5, 0.25, math.nan]):
        store.finish_trial(run.id, i, metrics={"error": error, "macs": 0.0}, error=None, seconds=1)
    store.finish_trial(run.id, 3, metrics=None, error="boom", seconds=1)
    store.add_trials(run.id, [new(0)], kind="final")
    store.finish_trial(run.id, 0, metrics={"error": 0.0}, error=None, seconds=1, kind="final")
    start(store)
    first, second = store.runs()
    assert (first["trials"], first["best"]) == (3, 0.25)
    assert (second["trials"], second["best"]) == (0, None)


# The schema.


def test_the_records_and_the_schema_name_the_same_columns(store, url):
    engine = sa.create_engine(url)
    schema = sa.inspect(engine)
    for table in (RUN, TRIAL, MEASUREMENT, ARTIFACT, PREDICTOR):
        assert {column["name"] for column in schema.get_columns(table.name)} == set(table.c.keys())
    engine.dispose()


def test_head_is_the_last_migration():
    from alembic.script import ScriptDirectory

    assert ScriptDirectory(str(REPOSITORY / "nas/store/migrations")).get_current_head() == HEAD


@only_sqlite
def test_the_log_is_written_ahead_and_synced_fully(store):
    with store._database._engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]


@only_sqlite
def test_a_store_half_made_is_finished_by_the_next_search(url):
    database = sqlite3.connect(url.removeprefix("sqlite:///"))
    database.execute(f"PRAGMA application_id={APPLICATION_ID}")  # killed right after its first write
    database.close()
    with pytest.raises(UsageError, match="holds no store yet"):
        Store(url)
    with Store(url, create=True) as store:
        start(store)


# What is not ours.


def text(path):
    path.write_text("a shopping list\n" * 9)


def another_database(path, journal="delete"):
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA journal_mode={journal}")
    database.execute("CREATE TABLE run (id INTEGER)")
    database.commit()
    database.close()


def another_in_wal(path):
    another_database(path, "wal")


def another_with_alembic(path):
    another_database(path)
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE alembic_version (version_num TEXT)")
    database.execute("INSERT INTO alembic_version VALUES ('0001')")
    database.commit()
    database.close()


def newer(path):
    Store(f"sqlite:///{path}", create=True).close()
    database = sqlite3.connect(path)
    database.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    database.commit()
    database.close()


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (text, "not a store of ours"),
        (another_database, "not a store of ours"),
        (another_in_wal, "not a store of ours"),
        (another_with_alembic, "not a store of ours"),
        (newer, "newer version"),
        (Path.mkdir, "not a file"),
    ],
)
def test_what_is_not_ours_is_refused_in_a_line_and_left_as_it_is(tmp_path, make, says, create):
    path = tmp_path / "x.db"
    make(path)

    def content():
        return {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}

    before = content()
    with pytest.raises(UsageError, match=says) as caught:
        Store(f"sqlite:///{path}", create=create)
    assert f"store=sqlite:///{path}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content() == before


@only_sqlite
def test_a_question_makes_no_file(tmp_path, url):
    with pytest.raises(UsageError, match="does not exist"):
        Store(url)
    with pytest.raises(UsageError, match="no directory"):
        Store(f"sqlite:///{tmp_path}/none/nas.db", create=True)
    path = Path(url.removeprefix("sqlite:///"))
    path.touch()
    with pytest.raises(UsageError, match="is empty"):
        Store(url)
    assert list(tmp_path.iterdir()) == [path]
    Store(url, create=True).close()


@pytest.mark.parametrize(
    "url",
    [
        "nas.db",
        "",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///x.db?mode=ro",
        "mysql://host/x",
        "json:///x",
    ],
)
def test_a_url_that_names_no_store_is_answered_with_one_that_does(url):
    with pytest.raises(UsageError, match=r"such as sqlite:///nas\.db"):
        Store(url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_without_its_driver_postgresql_names_the_extra_and_no_password(scheme, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"nas-engine\[postgres\]") as caught:
        Store(f"{scheme}://me:secret@host/name")
    assert "secret" not in str(caught.value)


# What can go wrong while writing: a line that says what to do, and nothing half written.


def refused(store, run, says, kind=UsageError):
    with pytest.raises(kind, match=says) as caught:
        store.add_trials(run.id, [new(i) for i in range(100, 2000)])
    assert f"store={store.url}" in str(caught.value)
    assert "\n" not in str(caught.value)


@only_sqlite
def test_a_full_disk(store):
    run = start(store)
    store.add_trials(run.id, [new(0)])
    with store._database._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=20")
    refused(store, run, "disk is full; free some space", RunError)
    assert [trial.number for trial in store.trials(run.id)] == [0]


@only_sqlite
def test_a_disk_that_cannot_be_written(store):
    run = start(store)
    with store._database._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=ON")  # permissions do not stop root
    refused(store, run, "readonly database; make the file and its directory writable")


@only_sqlite
def test_another_writer(store, url, monkeypatch):
    monkeypatch.setattr(nas.store.connecting, "BUSY_SECONDS", 0.05)
    run = start(store)
    with Store(url) as other, store._database.transaction(write=True):
        refused(other, run, "locked; another process is writing")


@only_sqlite
def test_a_damaged_file(store, url):
    start(store)
    store.close()
    path = Path(url.removeprefix("sqlite:///"))
    path.write_bytes(path.read_bytes()[:4096] + b"x" * 9999)
    with pytest.raises(UsageError, match="malformed; the file is damaged"):
        Store(url)


@only_sqlite
def test_a_store_on_a_read_only_disk_still_answers(store, url, monkeypatch):
    start(store)
    store.close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Store(url) as reader:
        assert len(reader.runs()) == 1
        with pytest.raises(UsageError, match="readonly"):
            start(reader)


# One writer, many readers, sudden deaths.


def test_a_reader_is_answered_while_a_writer_is_in_the_middle(store, url):
    run = start(store)
    store.add_trials(run.id, [new(0)])
    with Store(url) as reader:
        with store._database.transaction(write=True) as connection:
            connection.execute(sa.delete(TRIAL))
            assert len(reader.trials(run.id)) == 1  # what was committed last
        assert reader.trials(run.id) == []


def test_a_reader_in_the_middle_does_not_hold_up_the_writer(store, url):
    run = start(store)
    with Store(url) as reader, reader._database.transaction() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(TRIAL)) == 0
        store.add_trials(run.id, [new(0)])
        assert connection.scalar(sa.select(sa.func.count()).select_from(TRIAL)) == 0  # one moment, throughout


def test_a_reader_sees_whole_transactions_only(store, url):
    run = start(store)

    def write():
        for i in range(0, 200, 5):
            store.add_trials(run.id, [new(i + j) for j in range(5)])
            store.finish_trial(run.id, i, metrics={"error": 0.5, "macs": 1.0}, error=None, seconds=1)

    writer = threading.Thread(target=write)
    writer.start()
    with Store(url) as reader:
        while writer.is_alive():
            trials = reader.trials(run.id)
            assert len(trials) % 5 == 0
            assert all(len(trial.measurements) == 2 for trial in trials if trial.state == "finished")
    writer.join()
    assert len(store.trials(run.id)) == 200


WRITER = """
import sys
from nas.store.sql import NewTrial, Store

with Store(sys.argv[1]) as store:
    run = store.run("latest").id
    for i in range(0, 10**6, 3):
        store.add_trials(run, [NewTrial(i + j, "a", [1], "", "toy", 1, 1) for j in range(3)])
        store.finish_trial(run, i, metrics={"error": 0.5, "macs": 1.0}, error=None, seconds=1)
        print(i, flush=True)
"""


def test_a_killed_writer_leaves_whole_transactions_and_all_it_had_reported(store, url):
    run = start(store)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert writer.stdout is not None
    reported = [int(writer.stdout.readline()) for _ in range(25)]
    writer.send_signal(signal.SIGKILL)
    reported += [int(line) for line in writer.stdout.read().split()]
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL
    store.close()
    with Store(url) as after:
        trials = after.trials(run.id)
        assert len(trials) % 3 == 0
        finished = {trial.number for trial in trials if trial.state == "finished"}
        assert finished >= set(reported)
        assert all(trials[number].measurements == {"error": 0.5, "macs": 1.0} for number in finished)
        after.add_trials(run.id, [new(len(trials))])


def test_opening_is_light(store, url):
    script = f"import sys, nas.commands.cli, nas.store.sql; nas.store.sql.Store({url!r}).close(); print([*sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    modules = set(json.loads(out.stdout.replace("'", '"')))
    assert "sqlalchemy" in modules
    assert not modules & {"alembic", "jax", "rich", "yaml"}


def test_the_run_that_found_an_architecture_is_the_last_that_searched_it():
    scores = [{"run": run, "kind": kind} for run, kind in ("AF", "BF", "AS", "CS", "CF", "DF")]
    scores = [{**each, "kind": {"F": "final", "S": "search"}[each["kind"]]} for each in scores]
    assert overview.runs_of(scores) == ["B", "D", "A", "C"]
    assert overview.run_of("x", scores[:3], None) == "A"  # though B trained it since, on what may be other data
    assert overview.run_of("x", scores[:2], None) == "B"
    assert overview.run_of("x", scores, "B") == "B"
    assert overview.run_of("x", [], None) is None
    with pytest.raises(UsageError, match="no score of run='E', but of B, D, A, C"):
        overview.run_of("x", scores, "E")


def test_a_store_above_the_working_folder_can_be_searched_in_and_gone_on_with(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    url = "sqlite:///../nas.db"
    with Store(url, create=True) as store:
        run = store.add_run(
            name="it", config={}, space="toy", strategy="random", task="digits", code_version="0", seed=0
        )
        assert store.folder(run) == tmp_path / "nas.db.files" / "it"
        (store.folder(run) / "a.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    with Store("sqlite:///nas.db") as store:
        assert store.folder(store.run("it")) == tmp_path / "nas.db.files" / "it"
        store.delete(store.run("it"))
    assert not (tmp_path / "nas.db.files" / "it").exists()
