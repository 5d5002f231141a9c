"""`--time`: a job that is planned to take so long, as stored and resumed as any other."""

import json
import shlex
import time
from types import SimpleNamespace

import pytest
from conftest import refusal

import nas
from nas import config
from nas.commands import search as launch
from nas.job import plan
from nas.job.plan import Pace
from nas.store.sql import Store

ALONE = shlex.split(
    "--space.blocks (1,1) --space.widths (8,16) --space.strides (1,2) --space.stem-width 8 --space.last-width 16 "
    "--max-images 100 --workers 0 --strategy random --final.batch-size 16 --training.batch-size 16"
)
WORDS = [*ALONE, "--baselines", "1"]
PACES = {"training": Pace(5.0, 0.1), "trials": Pace(3.0, 0.5), "final": Pace(4.0, 0.05)}


@pytest.fixture
def paces(monkeypatch):
    """A machine whose pace is known."""
    monkeypatch.setattr(plan, "MEASURES", {name: lambda *_, pace=pace: pace for name, pace in PACES.items()})


@pytest.mark.parametrize("text", ["30", "m", "0s", "-1m", "1e9h", "30 m", "30d"])
def test_another_time_is_refused(text):
    assert f"time={text!r} must be a number of seconds, minutes or hours" in refusal(config.build, {"time": text})


def planned(tmp_path, monkeypatch, capsys, *words: str, small=WORDS) -> tuple[dict, str]:
    """The stored configuration of a job that is stopped before it begins, and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas.job.run._ran", lambda job, state: (_ for _ in ()).throw(KeyboardInterrupt))
    assert launch.main([*small, *words, "--name", "it"]) == 130
    with Store("sqlite:///nas.db") as store:
        return store.run("it").given, capsys.readouterr().err


def test_stages_get_their_shares_and_what_is_given_stays(paces, tmp_path, monkeypatch, capsys):
    given, said = planned(tmp_path, monkeypatch, capsys, "--time", "10m", "--trials", "60")
    spent = 5 + 3 + 2 * 4 + 60 * 0.5
    room = 0.9 * 600 - spent
    assert given["trials"] == 60
    # A little less: to read the data took some of it.
    assert given["training"]["steps"] == pytest.approx(room * 0.4 / 0.75 / 0.1, rel=0.03)
    assert given["final"]["steps"] == pytest.approx(room * 0.35 / 0.75 / 2 / 0.05, rel=0.03)
    assert "The plan for 10 min" in said
    assert "60 trials (33 s)" in said


@pytest.mark.parametrize(
    ("words", "baselines"),
    [
        (["--time", "1h"], 5),
        (["--time", "14m"], 3),  # trainings beside five would be shorter than by default, all else would not
        (["--time", "1h", "--finalists", "0"], 3),
        (["--time", "10m", "--final.steps", "200"], 5),
        (["--time", "1h", "--baselines", "2"], 2),
    ],
    ids=str,
)
def test_five_random_ones_stand_beside_the_best_where_time_allows(
    words, baselines, paces, tmp_path, monkeypatch, capsys
):
    given, said = planned(tmp_path, monkeypatch, capsys, *words, small=ALONE)
    assert given["baselines"] == baselines
    trainings = (0, 0) if "--finalists" in words else (baselines + 1, baselines)
    assert "{} trainings of {} steps, {} random".format(trainings[0], given["final"]["steps"], trainings[1]) in said


def test_a_time_that_is_too_short_is_refused_and_nothing_stored(paces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, _ = config.parse([*WORDS, "--time", "30s"])
    from nas.job.run import search

    assert "time='30s' is too short for this job on this machine: give it " in refusal(search, data)
    assert not (tmp_path / "nas.db").exists()


def test_what_was_spent_before_the_plan_is_not_spent_again(paces, tmp_path, monkeypatch, capsys):
    began = time.monotonic() - 200  # to read the data took so long
    monkeypatch.setattr("nas.job.run.time", SimpleNamespace(monotonic=lambda: began))
    given, _ = planned(tmp_path, monkeypatch, capsys, "--time", "10m", "--trials", "60")
    room = 0.9 * 600 - (5 + 3 + 2 * 4 + 60 * 0.5) - 200
    assert given["training"]["steps"] == pytest.approx(room * 0.4 / 0.75 / 0.1, rel=0.05)


def test_where_all_is_given_there_is_nothing_to_plan(paces, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    all_three = ["--trials", "60", "--training.steps", "10", "--final.steps", "10"]
    assert launch.main([*WORDS, *all_three, "--time", "10m"]) == 2
    assert "time='10m' leaves nothing to plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--evaluator", "zero-cost"],
        ["--space", "darts:tiny", "--strategy", "gumbel-darts"],
        ["--architecture", "0-0"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_planned_is_refused(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert launch.main(["--max-images", "100", "--time", "10m", *words]) == 2
    assert "time='10m' is for searches with --evaluator supernet" in capsys.readouterr().err


@pytest.mark.slow
def test_a_planned_job_is_done_in_its_time_and_is_the_job_of_its_plan(tmp_path, monkeypatch, capsys):
    """The second job is given what the first has planned, and no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "MOST", 1)  # no more than the defaults, however fast the machine is
    small = [*WORDS, "--training.steps", "40", "--final.steps", "30"]
    assert launch.main([*small, "--time", "5m", "--name", "planned"]) == 0
    assert "The plan for 5 min" in capsys.readouterr().err
    with Store("sqlite:///nas.db") as store:
        given = store.run("planned").given
        trials = [trial.encoding for trial in store.trials(store.run("planned").id)]
        fields = {name: value for name, value in given.items() if name not in ("time", "name")}
        (tmp_path / "same.json").write_text(json.dumps(fields))
        nas.search(**fields, name="same")
        assert [trial.encoding for trial in store.trials(store.run("same").id)] == trials
    assert given["training"]["steps"] == 40
    assert len(trials) == 4 * 4  # all that there are
