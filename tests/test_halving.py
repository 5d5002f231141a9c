"""Strategies whose budgets grow: they do what their papers say, and what is promoted goes on from where it stopped."""

import csv
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MINI, Toy, bands

import nas
from nas.commands import cli
from nas.config import build_space
from nas.engine import loop, study
from nas.engine.executors import InProcess
from nas.errors import UsageError
from nas.evaluators import train
from nas.evaluators.base import Evaluation
from nas.evaluators.train import TrainEvaluator
from nas.store.sql import Store
from nas.streams import SEARCH, stream
from nas.testing import check_strategy
from nas.training import sgd
from nas.training.recipe import Recipe
from spaces.base import every, indices
from strategies.halving import ASHA, BOHB, Hyperband, SuccessiveHalving

LADDER = (1, 3, 9, 27)
SPACE = Toy((4,) * 5)
EACH = [ASHA(LADDER), SuccessiveHalving(LADDER), Hyperband(LADDER), BOHB(LADDER, initial=3, memory=64)]


def table(seed=0, noise=(0.3, 0.2, 0.1, 0.0)) -> np.ndarray:
    """Scores `[budgets, rows, 1]`: short trainings tell less."""
    draw, rows = np.random.default_rng(seed), every(SPACE)
    exact = sum(draw.normal(size=4)[rows[:, i]] for i in range(rows.shape[1]))
    return np.stack([exact + draw.normal(size=len(rows)) * exact.std() * each for each in noise])[:, :, None]


@pytest.mark.parametrize(
    "strategy", [pytest.param(each, marks=() if each == EACH[0] else pytest.mark.slow) for each in EACH], ids=type
)
def test_the_laws_hold_on_every_rung(strategy):
    check_strategy(strategy, trials=24)


@pytest.mark.parametrize("strategy", [EACH[0], pytest.param(EACH[3], marks=pytest.mark.slow)], ids=type)
def test_nothing_is_evaluated_twice_with_one_budget_and_at_last_everything_with_each(strategy):
    """Of a space of 8 architectures all 32 trials are different ones."""
    small, seen = Toy((2,) * 3), []

    class Log:
        def entries(self):
            return [], []

        def ask(self, number, entries):
            seen.extend((entry.encoding, entry.budget) for entry in entries)

        def report(self, report):
            return (report.evaluation.metrics["error"],)

        def repeat(self, number, first):
            raise AssertionError("nothing is evaluated twice")

        def flush(self): ...

    legal = {tuple(row) for row in np.asarray(small.canonical(jnp.asarray(every(small)))).tolist()}
    search = loop.Search(strategy, small, (), stream(0, SEARCH), 100, 1, num_legal=len(legal), budgets=LADDER)
    loop.run(search, InProcess(lambda row, budget, seed: Evaluation({"error": float(sum(row))})), Log(), seed=0)
    assert sorted(seen) == sorted(itertools.product(legal, LADDER))


def place(row) -> int:
    return int(indices(SPACE, jnp.asarray([row]))[0])


def test_successive_halving_keeps_the_best_of_each_rung():
    """As Jamieson & Talwalkar define it, of scores that differ from rung to rung."""
    scores = table()
    found = study.run(SuccessiveHalving(LADDER, initial=27), SPACE, scores, range(3), 40)
    for rows, rungs in zip(found.rows, found.rungs, strict=True):
        assert rungs.tolist() == [0] * 27 + [1] * 9 + [2] * 3 + [3]
        for rung in range(3):
            here = rows[rungs == rung]
            best = here[np.argsort(scores[rung, here, 0])[: (rungs == rung + 1).sum()]]
            assert set(rows[rungs == rung + 1]) == set(best)


@pytest.mark.parametrize("strategy", [EACH[1], pytest.param(EACH[2], marks=pytest.mark.slow)], ids=type)
def test_a_rung_is_known_before_it_is_promoted_from_however_many_run_at_once(strategy):
    """The budgets of eight trials at a time are those of one at a time, and so is what is promoted of equal rungs."""
    scores, count = table()[:, :, 0], sum(map(sum, strategy.brackets()))

    def searched(lag):
        class Log:
            def entries(self):
                return [], []

            def ask(self, number, entries):
                asked.extend(
                    (int(indices(SPACE, jnp.asarray([e.encoding]))[0]), LADDER.index(e.budget)) for e in entries
                )

            def report(self, report):
                return (report.evaluation.metrics["error"],)

            def repeat(self, number, first): ...

            def flush(self): ...

        def evaluate(row, budget, seed):
            return Evaluation({"error": float(scores[LADDER.index(budget), place(row)])})

        asked = []
        search = loop.Search(strategy, SPACE, (), stream(0, SEARCH), count, lag, budgets=LADDER)
        loop.run(search, InProcess(evaluate), Log(), seed=0)
        return asked

    asked = searched(8)
    sizes = [sum(bracket[rung] for bracket in strategy.brackets()) for rung in range(4)]
    assert [sum(rung == k for _, rung in asked) for k in range(4)] == sizes
    if len(strategy.brackets()) == 1:
        for rung in range(3):
            here = [row for row, k in asked if k == rung]
            best = sorted(here, key=lambda row, rung=rung: scores[rung, row])[: sizes[rung + 1]]
            assert {row for row, k in asked if k == rung + 1} == set(best)


def test_the_first_rung_is_as_large_as_the_trials_suffice_for():
    assert SuccessiveHalving(LADDER).for_trials(200).brackets() == ((135, 45, 15, 5),)
    assert SuccessiveHalving(LADDER, initial=9).for_trials(200).brackets() == ((9, 3, 1, 1),)
    assert sum(SuccessiveHalving(LADDER).for_trials(41).brackets()[0]) <= 41
    assert SuccessiveHalving(LADDER).for_trials(2).brackets() == ((1, 1, 1, 1),)


def test_the_brackets_of_hyperband_are_those_of_its_table_1():
    """R=81, eta=3 in https://jmlr.org/papers/v18/16-558.html."""
    published = ((81, 27, 9, 3, 1), (0, 34, 11, 3, 1), (0, 0, 15, 5, 1), (0, 0, 0, 8, 2), (0, 0, 0, 0, 5))
    assert Hyperband((1, 3, 9, 27, 81)).brackets() == published


def test_what_a_bracket_begins_with_is_new_and_what_it_goes_on_with_is_not():
    strategy, scores = Hyperband(LADDER), table()
    (cycle,) = {sum(map(sum, strategy.brackets()))}
    found = study.run(strategy, SPACE, scores, range(2), 2 * cycle)
    first = [next(rung for rung, size in enumerate(sizes) if size) for sizes in strategy.brackets()]
    starts = [rung == begin for sizes, begin in zip(strategy.brackets(), first, strict=True)
              for rung, size in enumerate(sizes) for _ in range(size)] * 2  # fmt: skip
    for rows in found.rows:
        new = [row not in rows[:i] for i, row in enumerate(rows)]
        assert new == starts


def test_asha_promotes_as_its_algorithm_2():
    """What it does is what the algorithm would, of the same scores; where that says so, something new begins."""
    scores = table(3)
    found = study.run(ASHA(LADDER), SPACE, scores, range(4), 80)
    for rows, rungs in zip(found.rows.tolist(), found.rungs.tolist(), strict=True):
        ladder: list[dict[int, float]] = [{} for _ in LADDER]
        for row, rung in zip(rows, rungs, strict=True):
            expected = None
            for k in reversed(range(len(LADDER) - 1)):
                best = sorted(ladder[k], key=lambda row, k=k: ladder[k][row])[: len(ladder[k]) // 3]
                candidates = [each for each in best if each not in ladder[k + 1]]
                if candidates and expected is None:
                    expected = candidates[0], k + 1
            if expected is None:
                assert rung == 0
                assert row not in ladder[0]
            else:
                assert (row, rung) == expected
            ladder[rung][row] = scores[rung, row, 0]


def test_a_promotion_that_runs_is_not_begun_again_and_failures_are_never_promoted():
    strategy = ASHA(LADDER)
    state = strategy.init(SPACE)
    rows = jnp.asarray(every(SPACE)[:6])
    observed = loop.Observations(rows, jnp.ones(6, jnp.int32), jnp.asarray([[3.0], [1], [np.nan], [2], [np.nan], [5]]))
    state = strategy.tell(state, observed)
    pending = loop.Proposals(jnp.full((4, 5), -1, jnp.int32), jnp.zeros(4, jnp.int32))
    asked = strategy.ask(state, jax.random.key(0), 3, pending)
    assert asked.budgets.tolist() == [3, 3, 1]  # two of six, and then something new
    assert asked.encodings[:2].tolist() == rows[jnp.asarray([1, 3])].tolist()
    pending = loop.Proposals(pending.encodings.at[0].set(rows[1]), pending.budgets.at[0].set(3))
    asked = strategy.ask(state, jax.random.key(0), 2, pending)
    assert asked.encodings[0].tolist() == rows[3].tolist()
    assert asked.budgets.tolist() == [3, 1]


@pytest.mark.slow
def test_bohb_finds_better_than_hyperband_and_that_than_random_search():
    """By the sum of the epochs, on made tables of which short trainings tell something."""
    best = {}
    for strategy in (Hyperband(LADDER), BOHB(LADDER)):
        found = [study.run(strategy, SPACE, table(seed), range(8), 120) for seed in range(4)]
        epochs = np.concatenate([np.asarray(LADDER)[each.rungs].sum(1) for each in found])
        shown = [table(seed)[-1, each.best()[:, -1], 0] for seed, each in enumerate(found)]
        best[type(strategy).__name__] = np.concatenate(shown)
    draw, trials = np.random.default_rng(0), int(epochs.mean() / LADDER[-1])
    rows = [table(seed)[-1, draw.choice(4**5, (8, trials)), 0].min(1) for seed in range(4)]
    random = np.concatenate(rows).mean()
    assert best["BOHB"].mean() < best["Hyperband"].mean() < random


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ASHA((3, 1)), r"budgets=\(3, 1\) must be epochs in 1\.\.1000000, ascending"),
        (lambda: ASHA((1, 1)), r"ascending"),
        (lambda: Hyperband((0, 1)), r"must be epochs in 1\.\.1000000"),
        (lambda: ASHA((1, 10**10)), r"must be epochs in 1\.\.1000000"),
        (lambda: ASHA(LADDER, eta=1), "eta=1 must be at least 2"),
        (lambda: SuccessiveHalving(LADDER, initial=0), "initial=0"),
        (lambda: BOHB(LADDER, random=1.5), r"random=1.5 must lie in 0\.\.1"),
    ],
)
def test_impossible_settings_are_refused_with_the_field(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# Real training


@pytest.fixture
def counted(monkeypatch):
    """How many steps each call of `fit` did."""
    counts, drive = [], sgd.drive

    def heard(take, state, steps, *rest, **how):
        counts.append(len(steps))
        return drive(take, state, steps, *rest, **how)

    monkeypatch.setattr(sgd, "drive", heard)
    return counts


def test_what_is_promoted_goes_on_from_where_it_stopped_and_is_what_it_would_be_anyway(tmp_path, counted):
    task, recipe = bands(), Recipe(steps=50, batch_size=16)
    each = train.epoch_steps(recipe, task)
    alone = TrainEvaluator(MINI, task, recipe, budgets=(1, 3))
    kept = TrainEvaluator(MINI, task, recipe, budgets=(1, 3), folder=str(tmp_path), note={"run": "r"})
    row = (1,) * len(MINI.cardinalities)
    short, whole = (alone(row, budget, 7).metrics for budget in (1, 3))
    assert counted == [each, 3 * each]
    assert short.keys() ^ whole.keys() == {"error", "error_e1"}
    assert kept(row, 1, 7).metrics == short
    assert kept(row, 3, 7).metrics == whole
    assert counted[2:] == [each, 2 * each]
    assert kept(row, 1, 7).metrics == short  # the file is of later
    assert counted[4:] == [each]


def test_a_search_keeps_short_trainings_apart(tmp_path, monkeypatch, capsys, counted):
    monkeypatch.chdir(tmp_path)
    words = [
        "--space",
        "shufflenet:tiny",
        "--evaluator",
        "train",
        "--strategy",
        "asha",
        "--workers",
        "0",
        "--trials",
        "9",
    ]
    words += ["--strategy.budgets", "(1,2)", "--strategy.eta", "2", "--max-images", "80", "--final.steps", "3"]
    words += ["--final.batch-size", "8", "--concurrency", "1", "--baselines", "0", "--name", "it"]
    assert cli.main(["search", *words]) == 0
    with Store() as store:
        trials = store.trials(store.run("it").id)
        final = store.trials(store.run("it").id, "final")
        assert not list(store.folder(store.run("it")).rglob("*.progress.safetensors"))
    whole = [trial for trial in trials if trial.budget == 2]
    assert 0 < len(whole) < len(trials) == 9
    assert all(("error" in trial.measurements) == (trial.budget == 2) for trial in trials)
    assert all(("error_e1" in trial.measurements) == (trial.budget == 1) for trial in trials)
    assert final[0].architecture == min(whole, key=lambda trial: trial.measurements["error"]).architecture
    assert len(set(counted[:-1])) == 1  # what is promoted does the other half
    capsys.readouterr()
    for words, count in ((["top", "it"], len(whole)), (["top", "it", "--by", "error_e1"], 9 - len(whole))):
        assert cli.main([*words, "--format", "json"]) == 0
        assert len(json.loads(capsys.readouterr().out)) == count
    assert cli.main(["top", "it", "--by", "error_e1"]) == 0
    assert "%" in capsys.readouterr().out
    assert cli.main(["report", "it", "--out", "it.html"]) == 0


SOURCE = """
import dataclasses

@dataclasses.dataclass(frozen=True)
class Sums:
    metrics = ("loss", "other")

    def prepare(self, space, task):
        def evaluate(encoding, budget, seed):
            return {"loss": sum(encoding) + 1 / budget, "other": 1.0}
        return evaluate
"""


def searched(name, **options):
    given = {"task": "digits", "max_images": 60, "evaluator": "mine.py:Sums", "finalists": 0, "baselines": 0}
    given |= {"trials": 30, "space": "shufflenet:tiny", "workers": 0, "name": name, **options}
    nas.search(**given)
    with Store() as store:
        return [(t.encoding, t.budget, t.measurements) for t in store.trials(store.run(name).id)]


@pytest.mark.parametrize("strategy", ["asha", pytest.param("bohb", marks=pytest.mark.slow)])
def test_workers_and_stops_do_not_matter(strategy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SOURCE)
    chosen = {"name": strategy, "budgets": (1, 2, 4), "eta": 2}
    whole = searched("whole", strategy=chosen, concurrency=4)
    assert {budget for _, budget, _ in whole} == {1, 2, 4}
    assert {"loss_e1", "other_e1"} <= whole[0][2].keys()

    def stop(kind, number, values):
        if number == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched("stopped", strategy=chosen, concurrency=4, callback=stop)
    nas.search(resume="stopped")
    with Store() as store:
        again = [(t.encoding, t.budget, t.measurements) for t in store.trials(store.run("stopped").id)]
    assert again == whole


def test_a_run_of_which_no_training_was_whole_ends_with_the_longest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SOURCE)
    given = {"task": "digits", "max_images": 60, "evaluator": "mine.py:Sums", "finalists": 0, "baselines": 0}
    strategy = {"name": "asha", "budgets": (1, 2, 4), "eta": 2}
    outcome = nas.search(**given, space="shufflenet:tiny", workers=0, trials=3, concurrency=1, strategy=strategy)
    assert outcome.objective == "loss_e2"
    assert outcome.best[0]["loss_e2"] == min(row["loss_e2"] for row in outcome.best)
    with pytest.raises(UsageError, match="by='loss' is not one of"):
        outcome.top()


def test_who_asks_is_told_the_budget_and_what_is_told_is_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SOURCE)
    strategy = {"name": "asha", "budgets": (1, 4), "eta": 2}
    searched("it", strategy=strategy, ask_and_tell=True)
    asked = nas.ask("it", 2)
    assert [each["budget"] for each in asked] == [1, 1]
    nas.tell("it", [{"trial": i, "metrics": {"loss": 0.5 - 0.1 * i, "other": 1}} for i in range(2)])
    (promoted,) = nas.ask("it")
    assert (promoted["budget"], promoted["architecture"]) == (4, asked[1]["architecture"])
    found = nas.tell(
        "it", [{"trial": 2, "metrics": {"loss": 0.6}}, {"architecture": [0] * 9, "metrics": {"loss": 0.7}}]
    )
    assert [each["loss"] for each in found] == [0.6, 0.7]  # what is new is whole
    with Store() as store:
        assert [t.budget for t in store.trials(store.run("it").id)] == [1, 1, 4, 4]
        assert [row["loss"] for row in store.top("it")] == [0.6, 0.7]
    assert [row["trial"] for row in nas.search(resume="it").best] == [2, 3]


def test_who_cannot_give_several_budgets_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SOURCE)
    with pytest.raises(UsageError, match="evaluator='supernet' measures the same whatever the epochs"):
        searched("a", strategy="asha", evaluator="supernet")
    with pytest.raises(UsageError, match="the evaluator of your own does not say which there are"):
        searched("a", strategy="asha")
    with pytest.raises(UsageError, match="prescreen='gp' needs a strategy whose evaluations are all of one budget"):
        searched("a", strategy={"name": "asha", "budgets": (1, 2)}, prescreen="gp")
    with pytest.raises(UsageError, match="prescreen='gp' screens by one number, and objectives=loss,macs are several"):
        searched("a", strategy="nsga2", objectives="loss,macs", prescreen="gp")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A made table of cells with two numbers of epochs."""
    monkeypatch.chdir(tmp_path)
    space, draw = build_space("nasbench201"), np.random.default_rng(0)
    rows = np.unique(np.asarray(space.canonical(jnp.asarray(every(space)))), axis=0)
    exact = 0.2 + 0.1 * draw.random(5)[rows].mean(1)
    with open("cells.csv", "w", newline="") as file:
        write = csv.writer(file).writerow
        names = [f"mine_{name}_e{epochs}" for epochs in (4, 40) for name in ("valid_error", "test_error", "seconds")]
        write(["architecture", *names])
        for row, error in zip(rows, exact, strict=True):
            short = error + 0.01 * draw.normal()
            write([space.describe(row), short, short, 4.0, error, error, 40.0])
    assert cli.main(["table", "build", "cells.csv", "--space", "nasbench201", "--out", "cells.npz"]) == 0
    return "cells.npz"


@pytest.mark.slow
def test_a_table_of_several_epochs_is_searched_and_compared(measured, capsys):
    words = ["--space", "nasbench201", "--task", f"table:{measured}", "--table.epochs", "4", "--trials", "40"]
    assert cli.main(["search", *words, "--strategy", "successive-halving", "--workers", "0", "--name", "it"]) == 0
    with Store() as store:
        trials = store.trials(store.run("it").id)
    assert [trial.budget for trial in trials] == [4] * 30 + [40] * 10
    assert all(("error" in trial.measurements) == (trial.budget == 40) for trial in trials)
    assert [trial.measurements["simulated_seconds"] for trial in trials] == [4.0] * 30 + [40.0] * 10
    asked = ["--task", f"table:{measured}", "--epochs", "4", "--seeds", "8", "--budget-seconds", "600"]
    assert cli.main(["compare", *asked, "--strategies", "random,hyperband,bohb", "--out", "compared"]) == 0
    for budgets in ("(4,7)", "(3,7)"):  # of which the table has one, and none
        more = ["--strategies", "random,hyperband", "--hyperband.budgets", budgets]
        capsys.readouterr()
        assert cli.main(["compare", *asked, *more]) == 2
        assert "epochs=" in (said := capsys.readouterr().err)
        assert "random ..." not in said
    with open("compared/summary.csv", newline="") as file:
        rows = {row["strategy"]: row for row in csv.DictReader(file)}
    assert all(float(row["simulated_seconds"]) <= 600 for row in rows.values())
    assert float(rows["hyperband"]["trials"]) < float(rows["random"]["trials"]) == 150
    capsys.readouterr()
    assert cli.main(["search", *words, "--strategy", "asha", "--strategy.budgets", "(4,7)"]) == 2
    assert "epochs=7 is not in table='cells.npz'; allowed: 4, 40" in capsys.readouterr().err
