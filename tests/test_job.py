"""Whole jobs through the command line: repeatable, resumable, queried, exported; and every mistake in one line."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nas
from nas.commands import search as launch
from nas.errors import UsageError
from nas.job.finals import told_apart
from nas.store.sql import Store
from nas.tasks import load

ROOT = Path(__file__).parent.parent
# fmt: off
SMALL = [
    "--space.blocks", "(1,1,2)", "--space.widths", "(8,16,32)", "--space.stem-width", "8",
    "--space.last-width", "32", "--training.steps", "40", "--final.steps", "60", "--trials", "12",
    "--strategy.population-size", "6", "--strategy.num-mutations", "3", "--strategy.num-crossovers", "2",
    "--training.checkpoint-seconds", "0", "--seed", "3", "--baselines", "1",
]
# fmt: on


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def environment():
    return {**os.environ, "COLUMNS": "200"}


@pytest.fixture(scope="module")
def command(folder, environment):
    def command(*words, check=0):
        script = [str(ROOT / "run_search.py")] if words[0] == "search" else ["-m", "nas", words[0]]
        line = [sys.executable, *script, *words[1:]]
        done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == check, done.stderr
        return done

    return command


@pytest.fixture(scope="module")
def reference(command):
    """What the job prints when nothing disturbs it, in process."""
    return command("search", *SMALL, "--workers", "0", "--name", "reference").stdout


def rows(command, run):
    answer = json.loads(command("top", run, "--limit", "100", "--format", "json").stdout)
    for row in answer:
        del row["seconds"]
    return sorted(answer, key=lambda row: row["trial"])


def searched(command, run):
    """The trials alone, without what the final training added to them."""
    names = ("architecture", "encoding", "trial", "error", "macs", "params")
    return [{name: row[name] for name in names} for row in rows(command, run)]


def finals(command, run):
    """The architectures that were trained from scratch; by Ray workers they round otherwise."""
    return [row["architecture"] for row in rows(command, run) if row["test_error"] is not None]


def test_the_commands_it_names_work_as_printed(reference, folder):
    """In another shell, in which the environment is not active."""
    lines = [line for line in reference.splitlines() if line.startswith("  ")]
    assert [line.split()[1] for line in lines] == ["top", "pareto", "show", "export"]
    for line in lines:
        done = subprocess.run(line, shell=True, cwd=folder, env={"PATH": "/usr/bin:/bin"}, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_rows_have_the_keys_that_are_promised(reference, command):
    row = rows(command, "reference")[0]
    assert {"architecture", "encoding", "description", "space", "trial", "error", "macs", "params"} < row.keys()
    runs = json.loads(command("runs", "--format", "json").stdout)
    assert {"name", "space", "strategy", "task", "status", "trials", "best", "started"} <= runs[0].keys()
    assert (runs[0]["status"], runs[0]["trials"], runs[0]["space"]) == ("finished", 12, "shufflenet")


def test_test_error_is_only_where_it_was_trained(reference, command):
    tested = [row for row in rows(command, "reference") if row["test_error"] is not None]
    assert len(tested) == 1
    assert tested[0]["error"] == min(row["error"] for row in rows(command, "reference"))
    assert tested[0]["test_error"] != tested[0]["error"]


def test_an_exported_network_reproduces_its_test_error(reference, command, folder):
    best = next(row for row in rows(command, "reference") if row["test_error"] is not None)
    command("export", best["architecture"], "--out", "out")
    model, test = nas.load(folder / "out"), load("digits").test
    wrong = np.asarray(model.predict(test.images)).argmax(1) != test.labels
    assert wrong.mean() == pytest.approx(best["test_error"])
    weights = folder / "out" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UsageError, match="not a whole weights file"):
        nas.load(folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["Training shared", "Searching", "Training from"])
def test_killed_and_resumed_equals_uninterrupted(reference, command, folder, environment, sign):
    name = "killed-" + sign.split()[-1]
    line = [sys.executable, str(ROOT / "run_search.py"), *SMALL, "--workers", "0", "--name", name]
    job = subprocess.Popen(line, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_for_stage(command, folder, name, sign)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    command("search", "--resume", name, "--workers", "0")
    assert rows(command, name) == rows(command, "reference")


def wait_for_stage(command, folder, name, sign):
    deadline = time.monotonic() + 200
    stages = {
        "Training shared": lambda: (folder / "nas.db.files" / name / "supernet.safetensors").exists(),
        "Searching": lambda: len(finished(folder, name, "search")) >= 3,
        "Training from": lambda: len(finished(folder, name, "search")) == 12,
    }
    while not stages[sign]():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finished(folder, name, kind):
    with Store(f"sqlite:///{folder / 'nas.db'}") as store:
        try:
            run = store.run(name)
        except UsageError:
            return []
        return [trial for trial in store.trials(run.id, kind) if trial.state == "finished"]


def test_ctrl_c_says_how_to_go_on_and_two_ray_workers_end_it_as_none_do(reference, command, folder, environment):
    line = [sys.executable, str(ROOT / "run_search.py"), *SMALL, "--workers", "0", "--name", "stopped"]
    job = subprocess.Popen(line, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_for_stage(command, folder, "stopped", "Training shared")
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=100)
    assert job.returncode == 130
    assert b"nas search --resume stopped" in said
    assert b"Traceback" not in said
    status = {run["name"]: run["status"] for run in json.loads(command("runs", "--format", "json").stdout)}
    assert status["stopped"] == "interrupted"
    command("search", "--resume", "stopped", "--workers", "2")
    assert searched(command, "stopped") == searched(command, "reference")
    assert finals(command, "stopped") == finals(command, "reference")


@pytest.mark.slow
def test_limits_hold_for_every_trial_and_the_baseline(command):
    said = command("search", *SMALL, "--workers", "0", "--name", "limited", "--max-macs", "36000").stdout
    assert max(row["macs"] for row in rows(command, "limited")) <= 36000
    assert "random" in said


MISTAKES = {
    "--stratgy random": "'--stratgy' is not known; did you mean '--strategy'",
    "--strategy evolutoin": "did you mean 'evolution'",
    "--space shuflenet": "did you mean 'shufflenet'",
    "--task digit": "did you mean 'digits'",
    "--trials many": "trials='many' must be a valid integer",
    "--trials 0": "trials=0 must be at least 1",
    "--strategy.population-size -1": "population_size=-1 must be at least 1",
    "--max-macs 10": "the smallest macs is",
    "--config none.yaml": "config='none.yaml' cannot be read",
    "--task npz:none.npz": "none.npz",
    "--resume nobody": "nas.db",
    "--store sqlite:////proc/none/x.db": "/proc/none",
    "--training.crop 20": "crop=20",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert launch.main(words.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert MISTAKES[words] in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".db"]


def test_a_name_that_is_taken_is_refused_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with Store("sqlite:///nas.db", create=True) as store:
        store.add_run(name="mine", space="s", strategy="s", task="t", config={}, code_version="0", seed=0)
    monkeypatch.setattr("nas.job.run.load_subject", lambda *_: pytest.fail("it was loaded"))
    assert launch.main(["--name", "mine"]) == 2
    assert "name='mine' is already a run of" in (said := capsys.readouterr().err)
    assert "--resume goes on with that one" in said


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_after(reference, command, folder, environment):
    # The store fits into 150 KiB a file; the checkpoint of the shared weights does not.
    Store(f"sqlite:///{folder / 'full.db'}", create=True).close()
    line = [sys.executable, str(ROOT / "run_search.py"), *SMALL, "--workers", "0", "--name", "full"]
    line = ["bash", "-c", 'ulimit -f 150; exec "$@"', "full", *line, "--store", "sqlite:///full.db"]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "--resume full" in done.stderr
    assert "Traceback" not in done.stderr
    command("search", "--resume", "full", "--workers", "0", "--store", "sqlite:///full.db")


def test_a_running_run_is_not_resumed(reference, folder):
    with open(folder / "nas.db.files" / "reference" / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="is running in another process"):
            nas.search(resume="reference", store=f"sqlite:///{folder / 'nas.db'}")


# From Python


TINY = {
    "space": {
        "name": "shufflenet",
        "blocks": [1, 1],
        "widths": [8, 16],
        "strides": [1, 2],
        "stem_width": 8,
        "last_width": 16,
    },
    "training": {"steps": 20},
    "final": {"steps": 10},
    "trials": 4,
    "workers": 0,
    "baselines": 1,
}


def test_images_of_ones_own_are_searched_and_rows_go_into_pandas(tmp_path):
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", images=draw.integers(0, 255, (300, 8, 8, 3)), labels=np.arange(300) % 3)
    url = f"sqlite:///{tmp_path / 'x.db'}"
    outcome = nas.search(**TINY, task=f"npz:{tmp_path / 'mine.npz'}", strategy="random", store=url)
    assert outcome.name == "shufflenet-random-npz-mine-0"
    assert [row["role"] for row in outcome.finals] == ["found", "random"]
    table = pd.DataFrame(nas.Store(url).top(outcome.name, by="error", limit=3))
    assert len(table) == 3
    assert table["error"].is_monotonic_increasing
    assert table.equals(pd.DataFrame(outcome.best).iloc[:3])


def test_all_that_a_final_training_measures_is_told_apart_from_the_search():
    tested = {"minus_ap": -0.3, "minus_ap50": -0.5, "macs": 9.0, "test_minus_ap": -0.2, "test_minus_ap50": -0.4}
    assert told_apart(tested, "minus_ap") == {
        **{"standalone_minus_ap": -0.3, "standalone_minus_ap50": -0.5, "macs": 9.0},
        **{"test_minus_ap": -0.2, "test_minus_ap50": -0.4},
    }
    assert told_apart({"error": 0.1, "macs": 9.0}, "error") == {"standalone_error": 0.1, "macs": 9.0}  # a table


VARIATIONS = {
    "cost-binned": {"paths": "cost-binned", "cost_bins": 3},
    "fair": {"paths": "fair"},
    "few images": {"max_images": 200, "evaluator": {"calibration_images": 32}},
    "half precision": {"training": {"steps": 20, "precision": "bfloat16"}},
    "from scratch": {"evaluator": "train"},
    "unordered": {"unordered": True, "workers": 2},
    "affine": {"evaluator": {"affine": True}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIATIONS)
def test_variations_run_to_their_end(tmp_path, name):
    given = {**TINY, "strategy": {"name": "regularized-evolution", "population_size": 3}, **VARIATIONS[name]}
    outcome = nas.search(**given, store=f"sqlite:///{tmp_path / 'x.db'}")
    assert len(nas.Store(outcome.store).top(outcome.name)) == 4
