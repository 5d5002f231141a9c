"""The injector of faults finds broken laws, and leaves files as a power cut does; and our jobs keep the law."""

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import socket
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_store import new, start

from nas.errors import UsageError
from nas.store.sql import Store
from nas.testing.faults import __main__ as command
from nas.testing.faults import processes, records, rounds, torn
from nas.testing.faults.injuries import FAULTS
from nas.testing.faults.jobs import Job
from nas.testing.faults.proxy import Proxy
from nas.testing.faults.ready import ready
from nas.testing.faults.records import Evaluated, Known

# A driver that takes no time to start; `TOY` says what is wrong with it.
TOY = """
import os, select, subprocess, sys, time
from nas.errors import RunError, UsageError
from nas.store.sql import NewTrial, Store

words, wrong = sys.argv[1:], os.environ["TOY"]
with Store(words[words.index("--store") + 1], create=True) as store:
    if "--resume" in words:
        run = store.run("job")
    else:
        how = {"space": "toy", "strategy": "toy", "task": "toy", "config": {}, "code_version": "0"}
        run = store.add_run(name="job", seed=3, **how)
    try:
        with store.locked(run):
            if wrong == "leaves a process":
                subprocess.Popen(["sleep", "30"])
            store.set_status(run.id, "running")
            known = {trial.number: trial for trial in store.trials(run.id)}
            for number in range(20):
                if number not in known:
                    store.add_trials(run.id, [NewTrial(number, f"a{number}", [number], "", "toy", 1, 3)])
                elif known[number].state == "finished" and wrong != "evaluates again":
                    continue
                with open(os.environ["NAS_FAULTS_LOG"], "a") as log:
                    log.write(f"{time.monotonic_ns()} 1 {number}\\n")
                select.select([], [], [], 0.01)
                error = os.getpid() if wrong == "is not repeatable" else number
                store.finish_trial(run.id, number, metrics={"error": error}, error=None, seconds=1)
            if wrong == "forgets" and "--resume" in words:
                with store._database.transaction(write=True) as connection:
                    connection.exec_driver_sql("DELETE FROM measurement")
                    connection.exec_driver_sql("UPDATE trial SET state = 'running', \\"order\\" = NULL")
            store.set_status(run.id, "finished")
    except (UsageError, RunError) as error:
        sys.exit(error.exit_status)
print("done")
"""
FINDS = {
    "": None,
    "evaluates again": r"trial \d+ was evaluated again",
    "is not repeatable": r"measurements of search trial \d+ differs",
    "forgets": r"search trial \d+ has another",
    "leaves a process": "1 processes outlive",
}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Rounds of a fault with a toy for a driver."""
    monkeypatch.setattr(processes, "START", TOY)
    monkeypatch.setattr(processes, "GONE_SECONDS", 0.3)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))

    def toy(fault: str, wrong: str = "") -> rounds.Rounds:
        monkeypatch.setenv("TOY", wrong)
        (one,) = (each for each in FAULTS if each.name == fault)
        return rounds.Rounds(tmp_path, None, [one], [Job("toy", "", counts=True)])

    return toy


@pytest.mark.parametrize("wrong", FINDS)
def test_what_breaks_the_law_is_found(toy, wrong):
    outcome = toy("driver killed", wrong).run(3)
    if FINDS[wrong] is None:
        assert outcome.broken is None
        assert outcome.stops >= 1
    else:
        assert re.search(FINDS[wrong], outcome.broken or "nothing")


ALTERED = {
    "UPDATE measurement SET value = value + 1e-9 WHERE trial_id = 1": "another measurements",
    "DELETE FROM measurement WHERE trial_id = 1": "another measurements",
    "UPDATE trial SET seconds = 2 WHERE id = 1": "another seconds",
    'UPDATE trial SET "order" = 900 WHERE id = 1': "another order",
    "UPDATE trial SET encoding = '[7]' WHERE id = 1": "another encoding",
}


@pytest.mark.parametrize("statement", ALTERED)
def test_a_store_that_was_altered_is_found(toy, statement):
    """What was acknowledged is another, by however little."""

    def alter(place) -> None:
        with contextlib.closing(sqlite3.connect(place.path)) as connection, connection:
            assert connection.execute(statement).rowcount

    outcome = toy("driver killed").run(3, alter)
    assert ALTERED[statement] in (outcome.broken or "nothing")


def test_what_cannot_be_looked_at_is_found(toy):
    def alter(place) -> None:
        raise UsageError(f"store={place.path} is malformed")

    assert "cannot be looked at: store=" in (toy("driver killed").run(3, alter).broken or "nothing")


@pytest.mark.parametrize("fault", ["driver stopped", "log torn", "store torn", "files cannot grow"])
def test_a_driver_that_keeps_the_law_passes(toy, fault):
    outcome = toy(fault).run(5)
    assert outcome.broken is None, outcome.line


def test_a_status_that_no_command_may_have_is_found(toy):
    """The toy has no handler of SIGTERM, by which it would say that it was interrupted. A round whose signal comes when
    the run has just finished finds nothing."""
    signals = toy("SIGTERM")
    assert any("SIGTERM was not heard" in (signals.run(seed).broken or "nothing") for seed in range(3, 8))


def test_a_round_is_drawn_from_its_seed(toy):
    made = toy("driver killed")
    first, second = (made.run(7) for _ in range(2))
    assert (first.job, first.fault, first.points) == (second.job, second.fault, second.points)


# What is torn


@pytest.fixture
def written(tmp_path):
    """A store that a process has open: its log is not empty. How many trials it has acknowledged."""
    path = tmp_path / "live" / "nas.db"
    path.parent.mkdir()
    with Store(f"sqlite:///{path}", create=True) as store:
        run = start(store, "job")
        for number in range(30):
            store.add_trials(run.id, [new(number)])
        yield path


def copied(path: Path, folder: Path) -> Path:
    """As a machine that goes down leaves it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(path.parent, folder)
    return folder / path.name


def trials(path: Path) -> int:
    with Store(f"sqlite:///{path}") as store:
        return len(store.trials(store.run("job").id))


@pytest.mark.parametrize("tear", [torn.log_tail, torn.pages])
def test_torn_writes_lose_nothing_that_was_acknowledged(written, tmp_path, tear):
    for seed in range(12):
        path = copied(written, tmp_path / "copy")
        before = path.read_bytes(), torn.log_of(path).read_bytes()
        tear(path, np.random.default_rng(seed))
        assert (path.read_bytes(), torn.log_of(path).read_bytes()) != before or seed
        assert trials(path) == 30


def test_a_log_that_was_not_acknowledged_may_go(written, tmp_path):
    """The index says how much of the log others were told of: what lies behind is cut anywhere."""
    path = copied(written, tmp_path / "copy")
    index = path.with_name("nas.db-shm")
    frames = int.from_bytes(index.read_bytes()[16:20], "little")
    assert torn.acknowledged(path) == torn.log_of(path).stat().st_size
    data = bytearray(index.read_bytes())
    data[16:20] = (frames - 8).to_bytes(4, "little")
    index.write_bytes(data)
    assert torn.acknowledged(path) < torn.log_of(path).stat().st_size


def test_a_log_that_is_cut_anywhere_leaves_whole_transactions(written, tmp_path):
    found = set()
    for seed in range(12):
        path = copied(written, tmp_path / "copy")
        torn.log_anywhere(path, np.random.default_rng(seed))
        with contextlib.suppress(Exception):  # of a store that was not there yet
            found.add(trials(path))
    assert found <= set(range(31))
    assert len(found) > 2


def test_checkpoints_are_damaged_or_left_half_written(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(bytes(range(1, 101)))
    said, path = torn.checkpoint(tmp_path, np.random.default_rng(0))
    assert path == tmp_path / "a.safetensors"
    assert (tmp_path / "a.safetensors").read_bytes() != bytes(range(1, 101))
    assert "a.safetensors" in said
    torn.temporary(tmp_path, np.random.default_rng(0))
    assert (tmp_path / "a.safetensors.tmp").exists()


# What is known


def test_what_was_evaluated_again_is_known_by_when(tmp_path):
    with Store(f"sqlite:///{tmp_path}/nas.db", create=True) as store:
        run = start(store, "job")
        store.add_trials(run.id, [new(0), new(1)])
        store.finish_trial(run.id, 0, metrics={"error": 0.5}, error=None, seconds=1)
        known = records.known(store)
    done, open_ = (known.trials["search", number] for number in (0, 1))
    line = Evaluated(10, done.budget, tuple(done.encoding))
    assert records.twice(known, 9, [line]) is not None
    assert records.twice(known, 10, [line]) is None
    only = Known(None, {("search", 1): dataclasses.replace(open_, encoding=[9])})
    assert records.twice(only, 0, [Evaluated(10, open_.budget, (9,))]) is None
    assert records.repeated([line, line]) is not None
    assert records.repeated([line, dataclasses.replace(line, budget=7)]) is None


def test_ends_differ_by_a_bit():
    one = {"a": ("<f4", (1,), np.float32(0.1).tobytes()), "b": 1}
    other = {"a": ("<f4", (1,), np.nextafter(np.float32(0.1), np.float32(1)).tobytes()), "b": 1}
    assert records.difference(one, dict(one)) is None
    assert "a differs" in (records.difference(one, other) or "")
    assert "b is missing" in (records.difference({"a": one["a"]}, one) or "")
    assert "b is new" in (records.difference(one, {"a": one["a"]}) or "")


# What is between


def echo() -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0))

    def once(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.sendall(client.recv(100))
            client.recv(100)  # until the other side closes

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                threading.Thread(target=once, args=(client,), daemon=True).start()

    threading.Thread(target=answer, daemon=True).start()
    return server


def test_connections_are_cut_refused_and_held_up():
    with echo() as server, contextlib.closing(Proxy("127.0.0.1", server.getsockname()[1])) as proxy:
        ask = lambda: socket.create_connection(("127.0.0.1", proxy.port), timeout=5)  # noqa: E731
        with ask() as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
            assert proxy.sent == 5
            proxy.cut(100)
            with pytest.raises(ConnectionResetError):
                client.recv(100)
        with pytest.raises(ConnectionResetError), ask() as refused:
            refused.recv(100)
        proxy.cut()
        with ask() as client:
            proxy.hold(0.2)
            began = time.monotonic()
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
            assert time.monotonic() - began > 0.15


def test_what_outlives_a_command_is_found(tmp_path, monkeypatch):
    """Also where it has left the group and its parent has died."""
    script = "import subprocess; subprocess.Popen(['sleep', '30'], start_new_session=True)"
    monkeypatch.setattr(processes, "START", script)
    one = processes.Command([], tmp_path, tmp_path, "a-mark", {})
    assert one.wait() == 0
    (left,) = one.left(0.1)
    assert left.name.split() == ["sleep", "30"]
    processes.send(left._replace(started=left.started + 1), signal.SIGKILL)  # of another process with its number
    assert one.left(0.1) == [left] or one.left(0.1)[0].pid == left.pid
    one.end()
    assert one.left(1.0) == []


def test_a_command_that_is_forked_is_as_one_of_a_shell(tmp_path):
    with ready() as process:

        def begun(*words: str) -> processes.Command:
            return processes.Command(words, tmp_path, tmp_path, "a-mark", {"COLUMNS": "50"}, ready=process)

        one = begun("--version")
        assert (one.wait(), one.answer[:10], one.said) == (0, "nas-engine", "")
        assert one.left(0.1) == []
        one = begun("tpo")
        assert (one.wait(), one.answer) == (2, "")
        assert "did you mean 'top'" in one.said
        one = begun("runs")
        assert os.getsid(one.pid) == one.pid
        os.kill(one.pid, signal.SIGSTOP)
        assert [each.pid for each in one.processes()] == [one.pid]
        assert one.wait(0.2) is None  # and it is killed
        assert one.process.returncode == -signal.SIGKILL


# The command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "driver kiled"], "did you mean 'driver killed'"),
        (["--store", "mysql://x/y"], "no kind of database that is supported"),
    ],
)
def test_a_mistake_is_one_line(words, said, capsys, monkeypatch):
    monkeypatch.setattr(command, "prepare", lambda files: None)
    assert command.main(words) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_broken_law_is_the_status_of_the_command(toy, capsys, monkeypatch):
    monkeypatch.setattr(command, "prepare", lambda files: None)
    for wrong, status in (("", 0), ("is not repeatable", 1)):
        made = toy("driver killed", wrong)
        shutil.rmtree(made._folder, ignore_errors=True)
        made._folder.mkdir()
        monkeypatch.setattr(command, "Rounds", lambda *_, made=made: made)
        assert command.main(["--rounds", "1", "--seed", "3"]) == status
        said = capsys.readouterr()
        assert "1/1: seed 3, toy, driver killed" in said.err
        assert f"| driver killed | 1 | 1 | {1 - status} | {status} |" in said.out


def test_rounds_that_are_interrupted_say_what_they_have_shown(monkeypatch, capsys):
    class Interrupted:
        def run(self, seed):
            if seed == 2:
                raise KeyboardInterrupt
            return rounds.Outcome(seed, "toy", "SIGTERM", stops=3)

    monkeypatch.setattr(command, "prepare", lambda files: None)
    monkeypatch.setattr(command, "Rounds", lambda *_: Interrupted())
    assert command.main(["--rounds", "9"]) == 130
    assert "| SIGTERM | 2 | 6 | 2 | 0 |" in capsys.readouterr().out


@pytest.mark.slow
def test_rounds_keep_the_law(capsys):
    assert command.main(["--rounds", "8", "--seed", "100"]) == 0, capsys.readouterr().err
