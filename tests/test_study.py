"""Studies on tables: the loop's own trials, gains over random search, fronts, comparisons and their mistakes."""

import contextlib
import csv
import dataclasses
import json
import sqlite3
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Toy, of_one_budget, small_strategy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from nas.commands import cli
from nas.commands import search as launch
from nas.engine import contest, loop, study
from nas.engine.executors import InProcess
from nas.evaluators.base import Report
from nas.evaluators.table import TableEvaluator
from nas.store.query import hypervolume
from nas.store.sql import Store
from nas.streams import SEARCH, stream
from nas.tables import Column, Table, TabularSpace, read_table, write_table
from nas.training.recipe import Lookup
from predictors.gaussian_process import GaussianProcess, at, predict
from spaces.base import every, indices
from spaces.nasbench201 import NasBench201
from strategies import strategy_class
from strategies.base import with_trials
from strategies.bayesian import Bayesian, batch, log_expected_improvement
from strategies.nsga2 import crowding_distance, fronts
from strategies.random_search import RandomSearch

CELLS = NasBench201()


def make(name: str):
    return strategy_class(name)(num_objectives=1) if name == "nsga2" else small_strategy(name)


@pytest.fixture(scope="module")
def table() -> Table:
    """A made-up benchmark: convolutions help, above all on the long way, and everything has its price."""
    rows = every(CELLS)
    assert rows is not None
    worth = np.array([0.0, 0.3, 0.7, 1.0, 0.2])[rows] @ np.array([1.0, 0.5, 0.9, 0.4, 0.6, 1.0])
    noise = np.random.default_rng(0).normal(0, 0.01, len(rows))
    columns, values = {}, {}
    for epochs, blur in ((12, noise), (200, 0 * noise)):
        for split in ("valid", "test"):
            columns[f"cifar10_{split}_error_e{epochs}"] = Column("error", "share", "cifar10", split, epochs)
            values[f"cifar10_{split}_error_e{epochs}"] = np.clip(0.6 - worth / 10 + blur, 0, 1).astype(np.float32)
        columns[f"cifar10_seconds_e{epochs}"] = Column("seconds", "s", "cifar10", None, epochs)
        values[f"cifar10_seconds_e{epochs}"] = (epochs * (5 + (rows == 3).sum(1))).astype(np.float32)
    for name, cost in CELLS.cost(jnp.asarray(rows)).items():
        columns[name], values[name] = Column("cost", name), np.asarray(cost)
    columns["phone_latency_ms"] = Column("cost", "ms")
    values["phone_latency_ms"] = ((rows > 1).sum(1) + 0.1 * rows[:, 0] * rows[:, 5]).astype(np.float32)
    return Table("made-up", "nasbench201", "nobody", columns, values)


@pytest.fixture(scope="module")
def file(table, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("tables") / "made-up.npz"
    write_table(path, table)
    return str(path)


class Memory:
    """A log in a list."""

    def __init__(self):
        self.rows = []

    def entries(self):
        return [], []

    def ask(self, number, entries):
        self.rows += [list(entry.encoding) for entry in entries]

    def repeat(self, number, first):
        raise AssertionError("no strategy repeats itself here")

    def flush(self):
        pass

    def report(self, report: Report) -> tuple[float, ...]:
        assert report.evaluation is not None
        return (report.evaluation.metrics["error"],)


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in ("nao", "seminas") else []) for n in of_one_budget()]
)
def test_a_study_and_the_loop_give_the_same_trials(name, noise, table):
    if noise and name not in ("random", "local-search"):
        pytest.skip("noise is the same code for all")
    strategy, seed = make(name), 5
    if name == "bayesian":
        strategy = Bayesian(initial=6, memory=32)
    trials = 3 * strategy.generation if strategy.generation > 2 else 24
    space, strategy = table.searchable(), with_trials(strategy, trials)
    found = study.run(strategy, space, table.error("cifar10", "valid", 12), [seed], trials, noise=noise)
    search = loop.Search(strategy, space, (), stream(seed, SEARCH), trials, lag=1)
    log = Memory()
    loop.run(search, InProcess(TableEvaluator(table, Lookup(noise=noise))), log, seed=seed)
    assert np.asarray(indices(space, jnp.asarray(log.rows))).tolist() == found.rows[0].tolist()
    told = [entry.objectives[0] for entry in search.entries if entry.objectives]
    np.testing.assert_array_equal(np.float32(told), found.scores[0])


def test_a_study_of_many_seeds_is_that_of_each(table):
    strategy, space, scores = make("local-search"), table.searchable(), table.error("cifar10", "valid", 12)
    together = study.run(strategy, space, scores, range(5), 20, at_once=3)
    alone = study.run(strategy, space, scores, [4], 20)
    assert together.rows.shape == (5, 20)
    np.testing.assert_array_equal(together.rows[4], alone.rows[0])
    np.testing.assert_array_equal(together.scores, scores[together.rows])


def test_what_is_reported_is_the_best_observed_and_the_earlier_of_equals():
    scores = np.array([[np.nan, 3.0, 2.0, 2.0, 5.0, 1.0]], np.float32)
    found = study.Study(
        np.arange(6)[None], scores[:, :, None], np.zeros((1, 6, 2), np.int32), np.zeros((1, 6), np.int32)
    )
    assert found.best().tolist() == [[0, 1, 2, 2, 2, 5]]


# Gains over random search


WIDE = Toy((4,) * 12)


def chain(seed: int) -> np.ndarray:
    """Twelve decisions of four choices, of which each interacts with the next."""
    draw = np.random.default_rng(seed)
    pairs = draw.normal(size=(11, 4, 4)).astype(np.float32)
    total = np.zeros((1, 4), np.float32)  # [what came before, the last choice]
    for pair in pairs:
        total = (total[:, :, None] + pair[None]).reshape(-1, 4)
    return total.reshape(-1)


def deceptive() -> np.ndarray:
    """Three decisions at a time: the more ones the better, and all zeros best of all."""
    digits = np.arange(4**3)[:, None] // 4 ** np.arange(3)[None] % 4
    block = np.where((digits == 0).all(1), -1.0, -0.8 * (digits == 1).sum(1) / 3).astype(np.float32)
    total = np.zeros(1, np.float32)
    for _ in range(4):
        total = (total[:, None] + block[None]).reshape(-1)
    return total


TABLES = {"chain": lambda: chain(0), "deceptive": deceptive}
SLOW = {
    "nsga2": 200,
    "bayesian": 100,
    "evolution": 100,
    "ppo": 100,
    "local-search": 100,
    "nao": 8,
    "seminas": 8,
}  # and by how many seeds they are judged


@pytest.fixture(scope="module", params=TABLES)
def scores(request) -> np.ndarray:
    return TABLES[request.param]()


@pytest.fixture(scope="module")
def best_of_random(scores) -> np.ndarray:
    """What random search finds in 150 trials, by seed."""
    space = TabularSpace(dataclasses.replace(WIDE), {})
    return study.run(RandomSearch(), space, scores, range(200), 150).scores.min(1)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in of_one_budget()[1:]],
)
def test_every_strategy_beats_random_search_on_tables_it_was_not_made_for(name, scores, best_of_random, optimised):
    space, seeds = TabularSpace(dataclasses.replace(WIDE), {}), range(SLOW.get(name, 100))
    strategy = strategy_class(name)() if name in SLOW else make(name)
    gain = best_of_random[: len(seeds)] - study.run(strategy, space, scores, seeds, 150).scores.min(1)
    error = gain.std() / len(seeds) ** 0.5
    assert gain.mean() > 2 * error, f"{gain.mean():.3f} ± {error:.3f}"


# What was learned elsewhere


@pytest.mark.slow
def test_bayesian_optimisation_believes_a_predictor_as_far_as_it_is_right():
    """Of the same table in another unit it finds the best at once; of noise it is little worse than alone."""
    space, draw = TabularSpace(Toy((4,) * 6), {}), np.random.default_rng(0)
    table, rows = chain(0).reshape(4**6, -1)[:, 0], every(space)

    def searched(told) -> np.ndarray:
        """The best found after each trial, mean of six searches, each from a predictor of its own."""
        found = []
        for seed in range(6):
            start = None
            if told is not None:
                chosen = draw.permutation(len(rows))[:200]
                labels = jnp.asarray(told(table[chosen]), jnp.float32)
                start = GaussianProcess().fit(space, jnp.asarray(rows[chosen]), labels)
            scores = study.run(Bayesian(), space, table, [seed], 40, start=start).scores[0]
            found.append(np.minimum.accumulate(scores))
        return np.mean(found, 0)

    alone, right = searched(None), searched(lambda scores: 3 + 10 * scores)
    noise = searched(lambda scores: draw.normal(size=len(scores)))
    assert right[3] < alone[3]
    assert right[19] <= alone[19]
    assert noise[39] < alone[39] + 0.25 * table.std()


# Several objectives


def test_known_points_have_known_fronts_and_crowding():
    points = jnp.array([[1.0, 5.0], [2.0, 3.0], [4.0, 1.0], [3.0, 4.0], [5.0, 5.0], [2.0, 3.0]])
    rank = fronts(points, jnp.zeros(6))
    assert rank.tolist() == [0, 0, 0, 1, 2, 0]
    distance = crowding_distance(points, rank).tolist()
    assert distance[0] == distance[2] == float("inf")
    # Two equal points share the gap between their neighbours: each has itself on one side.
    assert sorted([distance[1], distance[5]]) == pytest.approx([(2 - 1) / 3 + (3 - 1) / 4, (4 - 2) / 3 + (5 - 3) / 4])


def test_who_keeps_the_limits_dominates_who_does_not():
    rank = fronts(jnp.array([[0.0], [5.0], [1.0]]), jnp.array([0.1, 0.0, 0.2]))
    assert rank.tolist() == [1, 0, 2]


def test_hypervolume_of_known_fronts():
    assert hypervolume([(1, 2), (2, 1)], (3, 3)) == 3
    assert hypervolume([(1, 2), (2, 1), (2, 2), (4, 0)], (3, 3)) == 3
    assert hypervolume([(0, 0, 0)], (2, 3, 4)) == 24
    assert hypervolume([(1, 1, 1), (0, 2, 2)], (3, 3, 3)) == 8 + 3 - 2
    assert hypervolume([], (1, 1)) == 0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), max_size=8))
def test_hypervolume_counts_the_cells_that_are_dominated(points):
    cells = np.indices((6, 6, 6)).reshape(3, -1).T
    dominated = np.zeros(len(cells), bool)
    for point in points:
        dominated |= (cells >= np.array(point)).all(1)
    assert hypervolume(points, (6, 6, 6)) == dominated.sum()


def test_nsga2_finds_most_of_a_front_and_keeps_the_limit(table):
    points = np.stack([table.error("cifar10", "valid", 200), table.column("phone_latency_ms")], 1)
    limits = (("macs", 1.2e8),)
    allowed = table.column("macs") <= 1.2e8
    found = study.run(strategy_class("nsga2")(), table.searchable(), points, range(4), 300, limits=limits)
    assert allowed[found.rows].all()
    worst = points.max(0).tolist()
    whole = hypervolume(points[allowed].tolist(), worst)
    shares = [hypervolume(points[rows].tolist(), worst) / whole for rows in found.rows]
    assert np.mean(shares) > 0.95


# Bayesian optimisation


def test_the_logarithm_of_expected_improvement_is_right_far_into_the_tail():
    z = np.array([-30.0, -8.0, -5.1, -4.9, -1.0, 0.0, 3.0])
    exact = np.log1p(z * np.sqrt(np.pi / 2) * special.erfcx(-z / np.sqrt(2))) - z**2 / 2 - np.log(2 * np.pi) / 2
    found = log_expected_improvement(jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(found, exact, rtol=1e-4)
    assert (np.diff(log_expected_improvement(jnp.linspace(-12, 4, 2000))) > 0).all()


def test_bayesian_optimisation_needs_fewer_trials(table):
    scores, space = table.error("cifar10", "valid", 200), table.searchable()
    found = study.run(Bayesian(initial=10, memory=64), space, scores, range(3), 40)
    assert (found.scores.min(1) == scores.min()).all()


def test_each_of_a_batch_believes_in_those_before_it():
    """Its choice is the one after a fit in which they have what was expected of them."""
    draw = np.random.default_rng(0)
    points = jnp.asarray(draw.normal(size=(40, 3)), jnp.float32)
    known = jnp.arange(12) < 10
    observed, values = jnp.asarray(draw.normal(size=(12, 3)), jnp.float32), jnp.where(known, points[:12, 0], 0.0)
    relevance, noise = jnp.asarray([1.0, 0.5, 0.1]), jnp.float32(0.01)
    posterior = at(observed, values, known, relevance, noise)
    free, lowest = jnp.arange(40) >= 5, jnp.float32(-1.0)
    found, left = batch(posterior, points, jnp.zeros(len(points)), free, lowest, 6)
    expected, now = [], posterior
    for _ in range(6):
        mean, deviation = predict(now, points)
        gain = log_expected_improvement((lowest - mean) / deviation) + jnp.log(deviation)
        best = int(jnp.argmax(jnp.where(free, gain, -jnp.inf)))
        expected.append(best)
        free = free.at[best].set(False)
        observed, values = jnp.concatenate([observed, points[best][None]]), jnp.append(values, mean[best])
        known = jnp.append(known, True)
        now = at(observed, values, known, relevance, noise).replace(amplitude=posterior.amplitude)
    assert found.tolist() == expected
    assert left.all()
    alone = predict(posterior, points)
    gain = log_expected_improvement((lowest - alone[0]) / alone[1]) + jnp.log(alone[1])
    assert jax.lax.top_k(jnp.where(jnp.arange(40) >= 5, gain, -jnp.inf), 6)[1].tolist() != expected


def test_a_batch_says_where_too_few_are_left():
    points = jnp.arange(4.0)[:, None]
    posterior = at(points[:2], jnp.zeros(2), jnp.ones(2, bool), jnp.ones(1), jnp.float32(0.01))
    found, left = batch(posterior, points, jnp.zeros(4), jnp.arange(4) == 2, jnp.float32(0.0), 3)
    assert left.tolist() == [True, False, False]
    assert found[0] == 2


# Comparisons


def ask(capsys, *words) -> str:
    assert cli.main(["compare", *map(str, words)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_compare_prints_tests_and_writes(file, tmp_path, capsys):
    out = tmp_path / "out"
    text = ask(
        capsys, "--task", f"table:{file}", "--strategies", "random,local-search", "--seeds", 40,
        "--budget-seconds", 4000, "--out", out,
    )  # fmt: skip
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["random", "local-search"]
    rows = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
    assert float(rows[1]["gain"]) > 0
    assert float(rows[1]["p_value"]) < 0.01
    assert all(float(row["simulated_seconds"]) <= 4000 for row in rows)
    seeds = list(csv.DictReader((out / "seeds.csv").read_text().splitlines()))
    assert len(seeds) == 80
    assert CELLS.parse(seeds[0]["description"]) is not None
    assert (out / "best_so_far.png").stat().st_size > 5000
    about = json.loads((out / "comparison.json").read_text())
    assert (about["judged"], about["seeds"]) == ("cifar10_test", 40)
    assert cli.main(["plot", str(out), "--kind", "compare", "--out", str(out / "again.svg")]) == 0
    assert "best there is" in (out / "again.svg").read_text()
    assert {row["strategy"] for row in csv.DictReader((out / "curves.csv").read_text().splitlines())} == {
        "random",
        "local-search",
    }


def test_a_budget_in_seconds_ends_before_it_is_overdrawn(table):
    answer = contest.ask(contest.Question(table, seeds=10, budget_seconds=3000.0), RandomSearch())
    assert (answer.spent <= 3000).all()
    assert (answer.spent + table.column("cifar10_seconds_e12").max() > 3000).all()


MISTAKES = {
    "--task images": "task='images' must be table:FILE",
    "--task table:none.npz": "none.npz",
    "--task table:FILE --strategies rndom": "did you mean 'random'",
    "--task table:FILE --epochs 13": "epochs=13 is not in",
    "--task table:FILE --epochs 0": "epochs=0 is not in",
    "--task table:FILE --dataset cifar1": "did you mean 'cifar10'",
    "--task table:FILE --limit macs<=1": "the smallest macs is",
    "--task table:FILE --limit latency<=1": "did you mean 'phone_latency_ms'",
    "--task table:FILE --limit macs>=1": "is written with <=",
    "--task table:FILE --budget-seconds 5": "less than one evaluation takes",
    "--task table:FILE --seeds 0": "seeds=0 must be above 0",
    "--task table:FILE --seeds 4294967297": "seeds=4294967297 must be at most 4294967296",
    "--task table:FILE --seeds 010": "'010' must be a valid integer",
    "--task table:FILE --trials 1_0": "'1_0' must be a valid integer",
    "--task table:FILE --random.budget 010": "strategy.budget='010' must be a valid integer",
    "--task table:FILE --randm.budget 1": "is not known",
    "--task table:FILE --budget-seconds inf": "'inf' must be a finite number",
    "--task table:FILE --budget-seconds 010": "'010' must be a finite number, in decimal digits",
    "--task table:FILE --noise nan": "'nan' must be a finite number",
    "--task table:FILE --budget-seconds 1e300": "budget-seconds=1e+300 with seeds=100 are",
    "--task table:FILE --trials 1000000000000": "trials=1e+12 with seeds=100 are 1e+14 evaluations; allowed: 33554432",
    "--task table:FILE --seeds 1000000000": "seeds=1000000000 are 1e+09 evaluations",
    "--task table:FILE --strategies random,random": "strategies='random,random' must be different ones",
    "--task table:FILE --random.bugdet 1": "did you mean 'budget'",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_in_a_comparison_is_one_line(words, file, capsys):
    assert cli.main(["compare", *words.replace("FILE", file).split()]) == 2
    said = capsys.readouterr().err
    assert MISTAKES[words] in said
    assert len([line for line in said.splitlines() if not line.endswith(" ...")]) == 1


# Runs


def test_a_run_on_a_table_is_queried_like_any_other(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--space", "nasbench201", "--task", f"table:{file}", "--strategy", "nsga2", "--trials", "60"]
    words += ["--objectives", "error,phone_latency_ms", "--limit", "macs <= 1.2e8", "--name", "front"]
    assert launch.main(words) == 0
    assert "test_error" in capsys.readouterr().out
    assert cli.main(["pareto", "front", "--objectives", "error,phone_latency_ms", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["macs"] <= 1.2e8 for row in rows)
    assert [row["error"] for row in rows] == sorted(row["error"] for row in rows)
    assert cli.main(["hypervolume", "front", "--objectives", "error,phone_latency_ms", "--format", "json"]) == 0
    [volume] = json.loads(capsys.readouterr().out)
    assert volume["front"] == len(rows)
    assert volume["hypervolume"] > 0
    assert launch.main([*words[:-2], "--objectives", "eror"]) == 2
    assert "objectives='eror'" in capsys.readouterr().err


def test_random_architectures_beside_those_found_are_others(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--space", "nasbench201", "--task", f"table:{file}", "--strategy", "random", "--trials", "5"]
    assert launch.main([*words, "--name", "many", "--finalists", "3", "--baselines", "4"]) == 0
    with Store("sqlite:///nas.db") as store:
        finals = store.trials(store.run("many").id, "final")
    assert len({trial.architecture for trial in finals}) == 7
    best, *others = [trial.measurements["macs"] for trial in (finals[0], *finals[3:])]
    assert all(0.7 * best <= macs <= best for macs in others)  # a random cell has from 0 to 7 times as many
    cheapest = float(CELLS.cost(jnp.zeros((1, 6), jnp.int32))["macs"][0])
    assert launch.main([*words, "--name", "few", "--max-macs", str(cheapest), "--baselines", "100"]) == 0
    assert "random architectures in place of 100" in capsys.readouterr().err
    with Store("sqlite:///nas.db") as store:
        finals = [trial.architecture for trial in store.trials(store.run("few").id, "final")]
    assert len(set(finals)) == len(finals) < 100


def test_a_run_is_not_resumed_in_a_space_that_is_another_now(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--space", "nasbench201", "--task", f"table:{file}", "--strategy", "random", "--trials", "5"]
    assert launch.main([*words, "--name", "it"]) == 0
    with sqlite3.connect("nas.db") as database:
        [[text]] = database.execute("select config from run").fetchall()
        database.execute("update run set config = ?", [json.dumps({**json.loads(text), "space": "0" * 16})])
    assert launch.main(["--resume", "it"]) == 2
    assert "has other architectures than when it began" in capsys.readouterr().err


@pytest.mark.usefixtures("unchecked")  # what is in the store may be of any type
def test_a_run_in_which_somebody_has_changed_a_trial_is_not_resumed(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--space", "nasbench201", "--task", f"table:{file}", "--strategy", "random", "--trials", "5"]
    assert launch.main([*words, "--name", "it"]) == 0
    space, never = "trial 2 is not an architecture of its space", "trial 2 is damaged: encoding="
    rows = {"[0, 0, 0, 0, 0, 9]": space, "[0]": space, "[7": "'[7' is no JSON", "7": "7 is no JSON", '["a", 0]': never}
    for row, said in rows.items():
        with sqlite3.connect("nas.db") as database:
            database.execute("update trial set encoding = ? where number = 2", [row])
        assert launch.main(["--resume", "it"]) == 2
        assert said in capsys.readouterr().err


DAMAGE = {
    "update trial set drawn = '[1]' where number = 2": "trial 2 is damaged: drawn=[1] was not written there",
    "update trial set drawn = '{\"row\": 5}' where number = 2": "trial 2 is not an architecture of its space: drawn={",
    'update trial set "order" = null where number = 2': "trial 2 is finished, which what is known of its report is not",
    "delete from measurement where trial_id = 3": "trial 2 is finished, and error was not measured",
    "delete from trial where number = 2": "trial 2 is not in the store, which has trial 3",
    "update trial set state = 'running', \"order\" = null where number = 2": "trial 2 is running, which what is known",
    "update measurement set value = x'00'": "is no number; the file is damaged",
}


@pytest.mark.usefixtures("unchecked")
def test_a_run_whose_log_was_never_written_so_is_not_resumed(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--space", "nasbench201", "--task", f"table:{file}", "--strategy", "random", "--trials", "5"]
    assert launch.main([*words, "--name", "it"]) == 0
    whole = (tmp_path / "nas.db").read_bytes()
    for statement, said in DAMAGE.items():
        (tmp_path / "nas.db").write_bytes(whole)
        with contextlib.closing(sqlite3.connect("nas.db")) as database, database:
            database.execute(statement)
        assert launch.main(["--resume", "it"]) == 2, statement
        assert said in capsys.readouterr().err
    for question in (["runs"], ["top", "it"]):
        assert cli.main(question) == 2
        assert "=b'\\x00' is no number; the file is damaged" in capsys.readouterr().err


def test_a_run_on_files_goes_on_from_any_folder(file, tmp_path, capsys, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(Path(file).parent)
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    words = ["--space", "nasbench201", "--task", f"table:{Path(file).name}", "--strategy", "random", "--trials", "5"]
    assert launch.main([*words, "--name", "it", "--store", url]) == 0
    assert launch.main(["--resume", "it", "--task", f"table:{Path(file).name}", "--store", url]) == 0
    monkeypatch.chdir(tmp_path / "other")
    assert launch.main(["--resume", "it", "--store", url]) == 0


def test_a_table_that_was_written_is_read_back(file, table):
    again = read_table(file)
    assert again.columns == table.columns
    for name, values in table.values.items():
        np.testing.assert_array_equal(again.column(name), values)
    assert again.fingerprint() == table.fingerprint()
    assert isinstance(again.searchable(), TabularSpace)
    assert again.searchable() == table.searchable()
    assert jax.tree.leaves(again.searchable().cost(jnp.zeros((1, 6), jnp.int32)))
