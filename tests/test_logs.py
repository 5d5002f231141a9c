"""`--log` and callbacks: what is measured is sent on as it is measured, and a job is the same with them or without."""

import os
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal

import nas
from nas import config, registry
from nas.commands import cli
from nas.commands import search as launch
from nas.report import logs
from nas.report.progress import Silent
from nas.store.sql import Store
from spaces.base import every

SPACE = str(Path(__file__).parent.parent / "examples" / "my_space.py") + ":Chain"
IMAGES = ["--space", "shufflenet:tiny", "--max-images", "100", "--training.steps", "3", "--training.batch-size", "8"]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """Every architecture of a chain, measured."""
    space, folder = registry.value("space", SPACE), tmp_path_factory.mktemp("table")
    rows = [f'"{space.describe(row)}",{0.5 - 0.01 * row.sum()},{0.6 - 0.01 * row.sum()},1.0' for row in every(space)]
    head = "architecture,mine_valid_error_e5,mine_test_error_e5,mine_seconds_e5"
    (folder / "mine.csv").write_text("\n".join([head, *rows]))
    words = ["table", "build", str(folder / "mine.csv"), "--space", SPACE, "--out", str(folder / "mine.npz")]
    assert cli.main(words) == 0
    return f"table:{folder / 'mine.npz'}"


def search(table: str, **options) -> nas.search:
    return nas.search(space=SPACE, task=table, strategy="random", trials=6, workers=0, name="it", **options)


def test_a_callback_hears_each_trial_once_the_store_has_it(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    heard = []

    def callback(kind, number, values):
        with Store("sqlite:///nas.db") as store:
            (found,) = store.trials(store.run("it").id, "search" if kind == "trial" else "final", [number])
        assert found.state == values["state"] == "finished"
        assert found.architecture == values["architecture"]
        assert found.measurements.items() <= values.items()
        heard.append((kind, number))

    search(table, callback=callback)
    assert heard == [*(("trial", number) for number in range(6)), *(("final", number) for number in range(4))]


def test_what_a_callback_raises_ends_the_job_which_goes_on_after_it(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def callback(kind, number, values):
        if number == 3:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        search(table, callback=callback)
    heard = []
    nas.search(resume="it", callback=lambda kind, number, values: heard.append((kind, number)))
    assert ("trial", 3) not in heard
    assert heard[-4:] == [("final", number) for number in range(4)]
    with Store("sqlite:///nas.db") as store:
        assert [trial.state for trial in store.trials(store.run("it").id)] == ["finished"] * 6


def events(folder: Path) -> list:
    """What the one event file holds: records of a length, its checksum, an event and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.iterdir()
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        found.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += 16 + length
    return found


def test_tensorboard_has_each_trial_at_its_number(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search(table, log="tensorboard:board")
    found = {}
    for event in events(tmp_path / "board" / "it"):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found[value.tag, event.step] = value.simple_value
    with Store("sqlite:///nas.db") as store:
        assert store.run("it").given["log"] == f"tensorboard:{tmp_path / 'board'}"
        for trial in store.trials(store.run("it").id):
            np.testing.assert_allclose(found["trial/error", trial.number], trial.measurements["error"], rtol=1e-6)
    assert ("final/test_error", 0) in found


def test_two_logs_of_one_kind_are_both_written(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search(table, log="tensorboard:one,tensorboard:two")
    assert len(events(tmp_path / "one" / "it")) == len(events(tmp_path / "two" / "it")) > 6


class Broken:
    """A log whose server is gone after the first that it is told."""

    told = 0

    def __init__(self, place, run):
        del place, run

    def __call__(self, kind, number, values):
        Broken.told += 1
        raise ConnectionError("no\x1b[31m server")

    def close(self, finished):
        raise AssertionError("it was left out")


def test_a_log_that_fails_is_said_once_and_the_search_goes_on(table, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(logs.KINDS, "tensorboard", (Broken, "tensorboardX"))
    search(table, log="tensorboard:x")
    said = [line for line in caplog.messages if "--log" in line]
    assert said == [r"--log tensorboard:x failed, and is left out from here on: ConnectionError: no\x1b[31m server"]
    assert Broken.told == 1
    with Store("sqlite:///nas.db") as store:
        assert store.run("it").status == "finished"


@pytest.mark.parametrize(
    ("text", "said"),
    {
        "tensorboards:x": "log='tensorboards' is not one of",
        "wandb": "log='wandb' must say where",
        "mlflow:": "log='mlflow:' must say where",
        "tensorboard:a,": "log='' is not one of",
    }.items(),
)
def test_a_log_that_is_none_is_refused(text, said):
    assert said in refusal(config.build, {"log": text})


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None)
    said = refusal(config.build, {"log": "mlflow:http://localhost"})
    assert said == "log='mlflow' needs mlflow: pip install 'nas-engine[mlflow]'"


def test_a_password_of_a_log_is_not_kept():
    given = "mlflow:postgresql://me:se/cr@et@host/db,tensorboard:logs"
    assert logs.lasting(given) == f"mlflow:postgresql://me@host/db,tensorboard:{os.path.abspath('logs')}"
    assert logs.lasting("mlflow:http://host:5000") == "mlflow:http://host:5000"


def test_a_run_that_goes_on_may_be_sent_elsewhere(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search(table, log="tensorboard:one")
    assert "log" in config.RESUMABLE
    nas.search(resume="it", log="tensorboard:two")
    assert (tmp_path / "two" / "it").is_dir()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:sqlalchemy.exc.SADeprecationWarning")  # of MLflow's own
def test_mlflow_has_one_run_for_a_run_that_goes_on(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def stop(kind, number, values):
        if number == 3:
            raise LookupError

    with pytest.raises(LookupError):
        search(table, log="mlflow:sqlite:///flow.db", callback=stop)
    nas.search(resume="it")
    with sqlite3.connect("flow.db") as base:
        assert base.execute("select name, status from runs").fetchall() == [("it", "FINISHED")]
        steps = base.execute("select step from metrics where key = 'trial/error' order by step").fetchall()
    assert steps == [(number,) for number in range(6)]


@pytest.mark.slow
def test_weights_and_biases_keeps_a_run_of_the_shared_weights_and_trials(tmp_path, monkeypatch, capsys):
    """Offline: a run that is uploaded later lies in a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = [*IMAGES, "--trials", "2", "--finalists", "0", "--workers", "0", "--strategy", "random"]
    assert launch.main([*words, "--log", "wandb:mine"]) == 0
    assert "--log wandb failed" not in capsys.readouterr().err
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    data = kept.read_bytes()
    for said in (b"training/loss", b"trial/error", b"trial/architecture"):
        assert said in data


def test_silence_hears_nothing():
    assert not logs.Logs(Silent()).listening
