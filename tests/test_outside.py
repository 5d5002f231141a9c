"""`nas ask` and `nas tell`: others drive a search, whose trials are logged, limited and replayed like any."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import of_one_budget

import nas
from nas import config
from nas.commands import cli
from nas.errors import UsageError
from nas.job.run import told
from nas.store.sql import Store
from strategies import STRATEGIES

ROOT = Path(__file__).parent.parent
CALLS = "calls.txt"  # a line an evaluation
# An evaluator that trains nothing, of a space that has few architectures.
SOURCE = f"""
import dataclasses

@dataclasses.dataclass(frozen=True)
class Sums:
    metrics = ("loss",)

    def prepare(self, space, task):
        def evaluate(encoding, budget, seed):
            with open({CALLS!r}, "a") as file:
                print(*encoding, file=file)
            if sum(encoding) == 3:
                raise ValueError("three")
            return {{"loss": float(sum(encoding))}}
        return evaluate
"""


GIVEN = {"task": "digits", "max_images": 60, "evaluator": "mine.py:Sums", "finalists": 0, "baselines": 0}
GIVEN |= {"trials": 12, "space": "shufflenet:tiny", "workers": 0}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that begins a run with some options and gives its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE)

    def begin(strategy="random", **options):
        if isinstance(strategy, str) and strategy in STRATEGIES and strategy not in of_one_budget():
            strategy = {"name": strategy, "budgets": (1, 3)}
        return nas.search(**{**GIVEN, "strategy": strategy, "ask_and_tell": True, **options}).name

    return begin


def status(name):
    with Store() as store:
        return store.run(name).status


def trials(name):
    with Store() as store:
        return store.trials(store.run(name).id)


def calls():
    return Path(CALLS).read_text().splitlines() if Path(CALLS).exists() else []


def test_a_run_waits_is_asked_and_told_and_ends_with_what_there_is(run, capsys):
    name = run()
    assert (status(name), trials(name), calls()) == ("interrupted", [], [])
    asked = nas.ask(name, 3)
    assert [each["trial"] for each in asked] == [0, 1, 2]
    assert {"architecture", "description", "encoding", "macs", "params"} < asked[0].keys()
    assert [trial.state for trial in trials(name)] == ["running"] * 3
    found = nas.tell(
        name,
        [
            {"trial": 1, "metrics": {"loss": 0.5}},
            {"trial": 0, "failed": "no memory"},
            {"architecture": [0] * 8 + [1]},
            {"trial": 2},
            {"architecture": "(0,0,0,0,0,0,0,0,2)", "metrics": {"loss": 7}},
        ],
    )
    assert [(each["trial"], each["state"]) for each in found] == [
        (1, "finished"),
        (0, "failed"),
        (3, "finished"),
        (2, "finished"),
        (4, "finished"),
    ]
    assert [found[0]["loss"], found[1]["failed"], found[2]["loss"]] == [0.5, "no memory", 1.0]
    assert found[0]["macs"] == asked[1]["macs"]
    assert len(calls()) == 2
    assert status(name) == "interrupted"
    outcome = nas.search(resume=name)
    assert [row["trial"] for row in outcome.best][:2] == [1, 3]
    assert status(name) == "finished"
    assert len(trials(name)) == 5
    with pytest.raises(UsageError, match="is finished: its search is over"):
        nas.tell(name, [{"architecture": [0] * 9}])
    with pytest.raises(UsageError, match="is finished: its search is over"):
        nas.ask(name)


def test_nothing_is_evaluated_twice_and_what_failed_may_be(run):
    name = run()
    row, three = [0] * 8 + [1], [1, 1, 1] + [0] * 6
    found = nas.tell(name, [{"architecture": row}, {"architecture": row}])
    assert [each["loss"] for each in found] == [1.0, 1.0]
    assert len(calls()) == 1
    assert nas.tell(name, [{"architecture": row}])[0]["loss"] == 1.0
    assert len(calls()) == 1
    assert [trial.repeats for trial in trials(name)] == [None, 0, 0]
    found = nas.tell(name, [{"architecture": three}, {"architecture": three}])
    assert [each["failed"] for each in found] == ["mine.py, line 13: ValueError: three"] * 2
    assert len(calls()) == 3


def test_what_waits_may_be_told_by_what_it_is(run):
    name = run()
    asked = nas.ask(name, 2)
    found = nas.tell(
        name,
        [
            {"architecture": asked[1]["encoding"], "metrics": {"loss": 0.5}},
            {"trial": 0, "architecture": asked[0]["description"], "metrics": {"loss": 0.25}},
        ],
    )
    assert [each["trial"] for each in found] == [1, 0]
    nas.search(resume=name)
    assert not calls()
    assert len(trials(name)) == 2


def test_what_was_told_stands_for_an_equal_trial_that_waits(run):
    """Nothing is evaluated twice, in whatever order."""
    name = run(trials=3)
    asked = nas.ask(name, 1)
    with Store() as store:  # as an earlier process left it
        assert store.trials(store.run(name).id)[0].state == "running"
    nas.tell(name, [{"trial": 0}, {"architecture": asked[0]["encoding"]}])
    nas.search(resume=name)
    assert len(calls()) == 1


def test_numbers_and_arrays_of_numpy_are_taken(run):
    name = run()
    row = np.array([0] * 8 + [1])
    found = nas.tell(name, [{"architecture": row, "metrics": {"loss": np.float32(0.5)}}, {"architecture": list(row)}])
    assert [each["loss"] for each in found] == [0.5, 0.5]


@pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=() if name in ("nsga2", "asha") else pytest.mark.slow) for name in STRATEGIES]
)
def test_every_strategy_proposes_what_is_new_and_learns_from_what_it_is_told(run, strategy):
    name = run(strategy)
    for _ in range(2):
        asked = nas.ask(name, 3)
        nas.tell(name, [{"trial": each["trial"], "metrics": {"loss": float(each["trial"])}} for each in asked])
    known = [(trial.architecture, trial.budget) for trial in trials(name)]
    assert len(set(known)) == 6
    nas.search(resume=name)
    assert status(name) == "finished"


def test_what_is_asked_follows_from_what_was_told(run):
    """The same words in two runs give the same trials; another result gives others."""

    def driven(loss):
        name = run({"name": "bayesian", "initial": 2})
        first = nas.ask(name, 4)
        nas.tell(
            name, [{"trial": i, "metrics": {"loss": loss * sum(each["encoding"])}} for i, each in enumerate(first)]
        )
        return [each["encoding"] for each in nas.ask(name, 2)]

    assert driven(1.0) == driven(1.0)
    assert driven(1.0) != driven(-1.0)


def test_limits_and_the_number_of_trials_hold(run):
    name = run(max_macs=7e5, trials=4)
    with pytest.raises(UsageError, match=r"line 2: architecture=\[3, 3, 3.* has macs=.*must keep macs <= 700000"):
        nas.tell(name, [{"architecture": [0] * 9}, {"architecture": [3] * 9}])
    assert not trials(name)  # all lines, or none
    asked = nas.ask(name, 3)
    assert all(each["macs"] <= 7e5 for each in asked)
    with pytest.raises(UsageError, match="2 new architectures are more than the 1 trials left"):
        nas.tell(name, [{"architecture": [0] * 9}] * 2)
    with pytest.raises(UsageError, match=r"n=2 must be a whole number in 1\.\.1"):
        nas.ask(name, 2)
    nas.ask(name)
    with pytest.raises(UsageError, match="has no trials left of trials=4"):
        nas.ask(name)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (3, "3 must be a mapping with a trial or an architecture"),
        ({}, "{} must have a trial or an architecture"),
        ({"trial": 9}, "trial=9 is not one that waits for a result, which are 0"),
        ({"trial": True}, "trial=True is not one that waits"),
        ({"trial": "0"}, "trial=0 is not one that waits"),
        ({"trial": 0, "metrics": {"error": 1}}, "metrics: error is not one of loss"),
        ({"trial": 0, "metrics": {"loss": float("nan")}}, "metrics: loss=nan must be a finite number"),
        ({"trial": 0, "metrics": {"loss": "1"}}, "metrics: loss=1 must be a finite number"),
        ({"trial": 0, "metrics": {}}, "metrics={} must have loss"),
        ({"trial": 0, "metrics": [1]}, "must be a mapping of names to numbers"),
        ({"trial": 0, "metrics": {"loss": 1}, "failed": "no"}, "cannot both be told"),
        ({"trial": 0, "failed": ""}, "failed= must be a text that says why"),
        ({"trial": 0, "metrics": {"loss": 10**400}}, "too large"),
        ({"trial": 0, "architecture": [1] * 9, "metrics": {"loss": 1}}, "trial=0 is of architecture .*, not"),
        ({"trial": 0, "encoding": [1] * 9}, "trial=0 is of encoding="),
        ({"trial": 0, "oops": 1}, "oops is not one of trial, architecture, metrics, failed"),
        ({"architecture": [0] * 8}, "a list of 9 whole numbers"),
        ({"architecture": [0] * 8 + [7]}, "encoding\\[8\\]=7 must lie in 0..3"),
        ({"architecture": "hello"}, "hello"),
    ],
)
def test_a_line_that_cannot_be_taken_is_said_and_records_nothing(run, line, said):
    name = run()
    nas.ask(name)
    with pytest.raises(UsageError, match=f"^line 2: .*{said}"):
        told({"store": config.Config.store}, name, [{"architecture": [0] * 9}, line])  # as the command line has it
    assert [trial.state for trial in trials(name)] == ["running"]
    assert not calls()


def test_the_commands_speak_json(run, capsys, monkeypatch, tmp_path):
    name = run()
    assert cli.main(["ask", name, "-n", "2", "--format", "json"]) == 0
    asked = capsys.readouterr().out
    (tmp_path / "asked.json").write_text(asked)
    assert cli.main(["tell", name, "asked.json", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["loss"] for each in told] == [float(sum(each["encoding"])) for each in json.loads(asked)]
    piped = io.TextIOWrapper(io.BytesIO(b'\n{"architecture": [0,0,0,0,0,0,0,0,1]}\n\n'))
    monkeypatch.setattr(sys, "stdin", piped)
    assert cli.main(["tell", name, "-"]) == 0
    assert "finished" in capsys.readouterr().out
    for text, said in {
        "{": "is not JSON",
        "": "has no line",
        "[]": "has no line",
        "[" * 300_000: "is not JSON",
    }.items():
        (tmp_path / "odd.json").write_text(text)
        assert cli.main(["tell", name, "odd.json"]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["tell", name, "nowhere.json"]) == 2


def test_a_run_that_was_interrupted_goes_on_by_itself_afterwards(run):
    def stop(kind, number, values):
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nas.search(**GIVEN, name="mine", strategy="random", concurrency=1, callback=stop)
    done = len(trials("mine"))
    assert 4 <= done < 12
    nas.tell("mine", [{"architecture": [0] * 9, "metrics": {"loss": 0.25}}])
    assert nas.search(resume="mine").best[0]["loss"] == 0.25
    assert len(trials("mine")) == 12


def test_a_search_by_gradients_cannot_be_driven(run):
    with pytest.raises(UsageError, match="ask_and_tell=True needs a search by trials"):
        run("darts", evaluator="supernet", space="darts:tiny")


@pytest.mark.slow
def test_the_example_lets_optuna_propose_in_the_space_it_names(tmp_path):
    def typed(*words):
        return subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    program = [sys.executable, "-m", "nas"]
    typed(*program, "search", "--ask-and-tell", "--name", "mine", "--space", "shufflenet:tiny", "--trials", "5",
          "--workers", "0", "--training.steps", "5", "--final.steps", "5")  # fmt: skip
    said = typed(sys.executable, str(ROOT / "examples" / "my_proposer.py"), "mine", "5")
    assert "Optuna's best error" in said
    assert "Fully trained" in typed(*program, "search", "--resume", "mine")
