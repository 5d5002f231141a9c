"""Questions that SQL answers have the answers of all rows, and those to large runs go by indices."""

import itertools
import math
import sqlite3

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from test_store import new, only_sqlite, start
from test_store import store as store  # a fixture
from test_store import url as url  # a fixture

from nas.store import query
from nas.store.asking import Asked
from nas.store.fronts import hypervolume, nondominated
from nas.store.migrations import VERSION_TABLE
from nas.store.query import Finished
from nas.store.sql import Store

VALUES = (0.0, 0.1, 0.2, 0.3, math.nan, math.inf)


def fill(store: Store, seed: int, finals: bool, name: str = "mine") -> int:
    """A run of few values, so that there are ties, of trials that fail, of measures that are missing and of
    architectures that come again; in groups of some reports."""
    random = np.random.default_rng(seed)
    run = start(store, name).id
    store.add_trials(run, [new(i, f"a{random.integers(25)}") for i in range(60)])
    reports = []
    for number in random.permutation(60)[:55].tolist():
        error, macs, ap = (float(random.choice(VALUES)) for _ in range(3))
        metrics = {"error": error, "macs": macs, "minus_ap": -ap}
        if random.random() < 0.2:
            del metrics[str(random.choice(list(metrics)))]
        failed = "boom" if random.random() < 0.1 else None
        reports.append(Finished(number, None if failed else metrics, failed, float(random.integers(4))))
    for first in range(0, len(reports), 4):
        store.log(run, reports[first : first + 4], [])
    if finals:
        store.add_trials(run, [new(i, f"a{5 * i}") for i in range(7)], "final")
        for number in range(6):
            metrics = {"error": 0.05 * number, "macs": 0.1, "test_error": float(random.choice(VALUES))}
            store.log(run, [Finished(number, metrics, None, 2.0)], [], "final")
    return run


TOPS = [
    ("error", 10, None),
    ("macs", 100, None),
    ("ap", 5, "error < 0.3"),
    ("error", 100, "ap >= 0.1 and macs != 0"),
    ("seconds", 7, "minus_ap < 0 and seconds > 0"),
    ("test_error", 10, None),
]
FRONTS = [
    ["error", "macs"],
    ["macs", "error"],
    ["error"],
    ["ap", "macs"],
    ["error", "macs", "ap"],
    ["seconds", "error"],
]


@pytest.mark.parametrize("finals", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_sql_answers_is_the_answer_of_all_rows(store, seed, finals):
    fill(store, seed + 10, not finals, name="another")
    run = fill(store, seed, finals)
    rows = query.build_rows(store.trials(run), store.trials(run, "final"))
    for by, limit, where in TOPS:
        if by == "test_error" and not finals:
            continue
        assert repr(store.top("mine", by, limit, where)) == repr(query.top(rows, by, limit, where))  # NaN is not NaN
    for objectives in FRONTS:
        assert repr(store.pareto("mine", objectives)) == repr(query.pareto(rows, objectives))
    assert repr(store.pareto("mine")) == repr(query.pareto(rows))
    finished = [trial for trial in store.trials(run) if trial.state == "finished"]
    (row,) = (row for row in store.runs() if row["name"] == "mine")
    assert row["trials"] == len(finished)
    errors = [trial.measurements.get("error", math.nan) for trial in finished]
    assert row["best"] == np.nanmin(errors)
    for kind in ("search", "final"):
        states = [trial.state for trial in store.trials(run, kind)]
        counted = {state: count for (of, state), count in store.tally(run).items() if of == kind}
        assert counted == {state: states.count(state) for state in set(states)}


def test_a_front_is_kept_as_it_is_by_another_process_and_in_any_groups(store):
    """A store that is opened anew reads the front that was kept."""
    run = start(store, "mine").id
    random = np.random.default_rng(0)
    store.add_trials(run, [new(i) for i in range(100)])
    for number in range(100):
        metrics = dict(zip(("error", "macs"), map(float, random.integers(0, 8, 2)), strict=True))
        writer = Store(store.url) if number % 10 == 0 else store
        writer.log(run, [Finished(number, metrics, None, 1.0)], [])
        if writer is not store:
            writer.close()
            store._fronts.clear()  # another has written
    rows = query.build_rows(store.trials(run), [])
    assert store.pareto("mine") == query.pareto(rows)


def test_the_volume_of_a_front_is_up_to_the_worst_of_the_run(store):
    run = start(store, "mine").id
    store.add_trials(run, [new(i) for i in range(3)])
    for number, (error, macs) in enumerate([(0.5, 2.0), (0.25, 4.0), (1.0, 5.0)]):
        store.log(run, [Finished(number, {"error": error, "macs": macs}, None, 1.0)], [])
    found = store.hypervolume("mine")
    assert (found["ideal"], found["reference"], found["front"]) == ([0.25, 2.0], [1.0, 5.0], 2)
    assert found["hypervolume"] == pytest.approx(0.5 * 3 + 0.25 * 1)


@only_sqlite
def test_questions_go_by_indices(store, url):
    fill(store, 0, False)
    database = sqlite3.connect(url.removeprefix("sqlite:///"))
    asked = []

    @sa.event.listens_for(store._database._engine, "before_cursor_execute")
    def hear(connection, cursor, statement, parameters, context, many):
        asked.append((statement, parameters))

    for question in (
        store.runs,
        store.hollow_runs,
        lambda: store.top("mine"),
        lambda: store.pareto("mine"),
        lambda: store.hypervolume("mine"),
        lambda: store.show("a1"),
        lambda: store.show(new(1).description),
    ):
        asked.clear()
        question()
        plans = [
            (line[3], statement)
            for statement, parameters in asked
            if statement.startswith("SELECT")
            for line in database.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
        scans = [plan for plan in plans if plan[0].startswith("SCAN") and plan[0].split()[1] not in ("run", "CONSTANT")]
        assert scans == []
    database.close()


def test_a_store_of_an_earlier_version_answers_alike(store, url):
    """A store that says nothing of fronts, nor of whose measurements are."""
    run = fill(store, 1, True)

    def answers(of):
        return repr([of.top("mine"), of.pareto("mine"), of.pareto("mine", ["error", "ap"]), of.runs()])

    expected = answers(store)
    with store._database.transaction(write=True) as connection:
        for line in (
            "DROP TABLE front",
            "DROP INDEX measurement_value",
            "DROP INDEX trial_unfinished",
            "DROP INDEX trial_description",
            "ALTER TABLE measurement DROP COLUMN run_id",
            "ALTER TABLE run DROP COLUMN front",
            "ALTER TABLE run DROP COLUMN owner",
            f"UPDATE {VERSION_TABLE} SET version_num = '0002'",
        ):
            connection.exec_driver_sql(line)
    with Store(url) as old:
        assert answers(old) == expected
        running = next(trial for trial in old.trials(run) if trial.state == "running")
        old.log(run, [Finished(running.number, {"error": -1.0, "macs": -1.0}, None, 1.0)], [])
        assert [row["trial"] for row in old.pareto("mine")] == [running.number]


points = st.lists(st.tuples(*[st.integers(0, 4)] * 4), max_size=12)


@given(points, st.integers(1, 4))
def test_a_volume_is_the_number_of_cells_that_points_dominate(drawn, m):
    drawn = [point[:m] for point in drawn]
    cells = itertools.product(range(4), repeat=m)
    counted = sum(any(all(x <= c for x, c in zip(point, cell, strict=True)) for point in drawn) for cell in cells)
    assert hypervolume(drawn, [4] * m) == counted


@given(points)
def test_what_is_kept_is_dominated_by_none(drawn):
    values = np.array(drawn).reshape(-1, 4)
    expected = [not any((other <= row).all() and (other < row).any() for other in values) for row in values]
    assert nondominated(values).tolist() == expected


def test_a_large_front_is_measured_and_told_soon():
    """Thousands of points: by slices of slices it took minutes."""
    random = np.random.default_rng(0)
    sphere = np.abs(random.normal(size=(400, 4)))
    sphere = 1 - sphere / np.linalg.norm(sphere, axis=1, keepdims=True)
    assert nondominated(sphere).all()
    found = hypervolume(sphere.tolist(), [1.0] * 4)
    inside = 1 - random.random((4000, 4))
    counted = np.mean([(sphere <= each).all(1).any() for each in inside])
    assert abs(found - counted) < 0.03


def slices(points, bound):
    """A volume by its definition: along each coordinate, what lies between two values is dominated alike."""
    if not points:
        return 0.0
    if len(bound) == 1:
        return bound[0] - min(point[0] for point in points)
    ends = [*sorted({point[0] for point in points}), bound[0]]
    parts = itertools.pairwise(ends)
    return sum((b - a) * slices([point[1:] for point in points if point[0] <= a], bound[1:]) for a, b in parts)


@pytest.mark.parametrize("m", range(1, 6))
@pytest.mark.parametrize("n", [1, 2, 12])
def test_a_volume_is_that_of_its_slices(n, m):
    drawn = np.random.default_rng([n, m]).random((n, m)).tolist()
    drawn += [[1.5] * m, drawn[0]]  # beyond the reference, and twice
    inside = [point for point in drawn if max(point) < 0.9]
    assert hypervolume(drawn, [0.9] * m) == pytest.approx(slices(inside, [0.9] * m), rel=1e-12)


@given(points, st.permutations(range(4)))
def test_a_volume_depends_on_neither_the_order_nor_what_is_dominated(drawn, order):
    whole = hypervolume(drawn, [4.0] * 4)
    turned = [[point[i] for i in order] for point in reversed(drawn)]
    front = [point for point, kept in zip(drawn, nondominated(np.reshape(drawn, (-1, 4))), strict=True) if kept]
    assert hypervolume(turned, [4.0] * 4) == hypervolume(front, [4.0] * 4) == whole


def test_a_volume_without_a_bound_is_infinite_and_one_of_nothing_is_none():
    assert hypervolume([(0.0, 1.0)], [math.inf, 2.0]) == hypervolume([(-math.inf, 1.0)], [1.0, 2.0]) == math.inf
    assert hypervolume([], [1.0, 2.0]) == hypervolume([(1.0, 1.0)], [1.0, 2.0]) == 0.0


@pytest.mark.parametrize("gap", [None, "missing", "nan", "failed"])
@pytest.mark.parametrize("finals", [False, True])
def test_a_front_of_some_objectives_is_found_by_that_of_all(store, gap, finals, monkeypatch):
    """Where a trial lacks one of the others, which then is on no front that is kept, it is looked for among all."""
    how = {"space": "toy", "strategy": "nsga2", "task": "digits", "code_version": "0", "seed": 0}
    run = store.add_run(name="mine", config={"given": {"objectives": "error,macs,ap"}}, **how).id
    random = np.random.default_rng(3)
    store.add_trials(run, [new(i, f"a{i % 40}") for i in range(80)])
    reports = []
    for number in range(80):
        drawn = map(float, random.integers(1, 6, 3))
        metrics: dict[str, float] = dict(zip(["error", "macs", "ap"], drawn, strict=True))
        if number == 17 and gap is not None:  # the best of two, but for the third
            metrics = {"error": 0.0, "macs": 0.0, **({"ap": math.nan} if gap == "nan" else {})}
        reports.append(Finished(number, metrics, "boom" if number == 17 and gap == "failed" else None, 1.0))
    store.log(run, reports, [])
    if finals:
        store.add_trials(run, [new(0, "a3")], "final")
        store.log(run, [Finished(0, {"error": 0.5, "test_error": 0.1}, None, 2.0)], [], "final")
    rows = query.build_rows(store.trials(run), store.trials(run, "final"))
    for names in (["error", "macs"], ["ap", "error"], ["macs"]):
        assert repr(store.pareto("mine", names)) == repr(query.pareto(rows, names))
    whole, scans = Asked._numbers, []
    monkeypatch.setattr(Asked, "_numbers", lambda *words, **how: scans.append(1) or whole(*words, **how))
    store.pareto("mine", ["error", "macs"])
    assert bool(scans) == (gap in ("missing", "nan"))


def test_reports_take_as_many_statements_however_many_they_are_and_came_before(store):
    """A group is made durable at once, and nothing is read of the trials before it."""
    run, asked = start(store, "mine").id, []

    @sa.event.listens_for(store._database._engine, "before_cursor_execute")
    def hear(connection, cursor, statement, parameters, context, many):
        asked.append(statement)

    def statements(first: int, count: int) -> int:
        store.add_trials(run, [new(i) for i in range(first, first + count)])
        asked.clear()
        # Each is better than those before: the front changes with every one.
        reports = [Finished(i, {"error": 1.0 / (1 + i), "macs": 1.0}, None, 1.0) for i in range(first, first + count)]
        store.log(run, reports, [new(first + count + 10_000)])
        return len(asked)

    statements(0, 1)
    one, many, later = statements(1, 1), statements(2, 300), statements(302, 1)
    assert one == many == later
