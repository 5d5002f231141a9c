"""What the queries answer: the best, the front, and a line where the question makes no sense."""

import contextlib
import math
from typing import Any

import pandas
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nas.errors import UsageError
from nas.report import output
from nas.store import query
from nas.store.conditions import OPERATORS, parse_where
from nas.store.query import IDENTITY, METRICS, Trial


def trial(
    number: int, architecture: str, metrics=None, kind: Any = "search", state: Any = "finished", seconds=1.0
) -> Trial:
    return Trial(
        id=number,
        run_id=1,
        kind=kind,
        number=number,
        architecture=architecture,
        encoding=[number],
        description=f"toy({architecture})",
        space="toy",
        budget=1,
        seed=0,
        state=state,
        error=None,
        seconds=seconds,
        order=number,
        measurements=metrics or {},
        drawn=None,
        repeats=None,
    )


def rows(*metrics: dict[str, float]) -> list[query.Row]:
    return query.build_rows([trial(i, f"a{i}", each) for i, each in enumerate(metrics)], [])


def names(found: list[query.Row]) -> list[str]:
    return [row["architecture"] for row in found]


# Rows.


def test_every_row_has_the_same_columns_in_the_same_order():
    found = rows({"zeta": 1, "error": 0.5}, {"latency_ms": 2.0})
    assert [list(row) for row in found] == [[*IDENTITY, *METRICS, "latency_ms", "zeta"]] * 2
    assert (found[0]["latency_ms"], found[0]["test_error"], found[0]["seconds"]) == (None, None, 1.0)


def test_a_final_adds_to_the_row_and_overwrites_nothing():
    search = [trial(0, "a", {"error": 0.5, "macs": 3.0})]
    finals = [trial(0, "a", {"error": 0.9, "macs": 4.0, "test_error": 0.2}, kind="final", seconds=99.0)]
    (row,) = query.build_rows(search, finals)
    assert (row["error"], row["macs"], row["seconds"], row["test_error"]) == (0.5, 3.0, 1.0, 0.2)


def test_of_two_finals_the_later_counts_and_a_failed_one_never():
    finals = [trial(i, "a", {"test_error": error}, kind="final") for i, error in enumerate([0.1, 0.2])]
    finals.append(trial(2, "a", {"test_error": 0.3}, kind="final", state="failed"))
    (row,) = query.build_rows([trial(0, "a", {"error": 0.5})], finals)
    assert row["test_error"] == 0.2


def test_an_architecture_that_was_only_trained_alone_has_a_row_without_a_number():
    (row,) = query.build_rows([], [trial(4, "a", {"test_error": 0.2}, kind="final")])
    assert (row["trial"], row["error"], row["test_error"]) == (None, None, 0.2)
    assert query.top([row], by="test_error") == [row]
    assert query.top([row]) == []


@pytest.mark.parametrize("state", ["failed", "running"])
def test_what_did_not_finish_has_no_row(state):
    assert query.build_rows([trial(0, "a", {"error": 0.1}, state=state)], []) == []


def test_pandas_takes_the_rows():
    frame = pandas.DataFrame(query.top(rows({"error": 0.2}, {"error": 0.1, "macs": 4.0})))
    assert list(frame.columns) == [*IDENTITY, *METRICS]
    assert frame.error.tolist() == [0.1, 0.2]
    assert frame.macs.isna().tolist() == [False, True]


# The best.


def test_the_lowest_comes_first_and_ties_stay_in_trial_order():
    found = rows({"error": 0.3}, {"error": 0.1}, {"error": 0.2}, {"error": 0.1})
    assert names(query.top(found)) == ["a1", "a3", "a2", "a0"]
    assert names(query.top(found, limit=2)) == ["a1", "a3"]


def test_of_equals_the_cheaper_comes_first():
    found = rows({"error": 0.1}, {"error": 0.1, "macs": 9.0}, {"error": 0.1, "macs": 3.0}, {"error": 0.0, "macs": 9.0})
    assert names(query.top(found)) == ["a3", "a2", "a1", "a0"]


def test_nan_and_missing_never_rank_and_infinity_ranks_last():
    found = rows({"error": math.nan}, {"error": math.inf}, {}, {"error": 0.5})
    assert names(query.top(found)) == ["a3", "a1"]
    assert names(query.top(found, where="error > 0")) == ["a3", "a1"]
    assert names(query.pareto(found, ["error"])) == ["a3"]


def test_an_architecture_has_one_row_its_best():
    search = [trial(0, "a", {"error": 0.3}), trial(1, "a", {"error": 0.1}), trial(2, "b", {"error": 0.2})]
    found = query.build_rows(search, [])
    assert [(row["architecture"], row["trial"]) for row in query.top(found)] == [("a", 1), ("b", 2)]
    assert [row["trial"] for row in query.pareto(found, ["error"])] == [1]


def test_a_metric_that_nobody_measured_is_answered_with_those_that_were():
    found = rows({"error": 0.1, "latency_ms": 3.0})
    for ask in (
        lambda: query.top(found, by="latency"),
        lambda: query.top(found, where="latency < 3"),
        lambda: query.pareto(found, ["error", "latency"]),
    ):
        with pytest.raises(UsageError, match=r"error, latency_ms, macs, .* did you mean 'latency_ms'"):
            ask()
    assert query.top([], by="macs") == []


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_at_least_one(limit):
    with pytest.raises(UsageError, match=f"limit={limit}"):
        query.top([], limit=limit)


# What more is better of.


def test_an_answer_has_the_positive_of_what_is_kept_as_a_negative():
    found = rows({"minus_ap": -0.2, "test_minus_ap": -0.1}, {"minus_ap": -0.312, "standalone_minus_ap": -0.4}, {})
    first, second = query.top(found, by="ap")
    assert list(first) == [*IDENTITY, *METRICS, "ap", "standalone_ap", "test_ap"]
    assert (first["ap"], first["standalone_ap"], first["test_ap"]) == (0.312, 0.4, None)
    assert (second["ap"], second["test_ap"]) == (0.2, 0.1)
    assert query.top(found, by="minus_ap") == [first, second]
    assert names(query.top(found, by="test_ap")) == ["a0"]


def test_nothing_is_shown_without_a_sign():
    for kept in (0.0, -0.0):
        (row,) = query.top(rows({"minus_ap": kept}), by="ap")
        assert output.number("ap", row["ap"]) == "0"
    assert output.reading("minus_ap", -0.312) == "ap 0.312"
    assert output.reading("error", 0.5) == "error 50.00 %"


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("ap > 0.3", ["a2"]),
        ("minus_ap < -0.3", ["a2"]),
        ("ap <= 0.3 and minus_ap <= -0.2", ["a1"]),
        ("ap == 0.1", ["a0"]),
    ],
)
def test_a_condition_is_about_the_name_that_it_has(where, kept):
    found = rows(*({"minus_ap": -ap} for ap in (0.1, 0.3, 0.4)))
    assert names(query.top(found, by="ap", where=where)) == kept


def test_who_measures_a_metric_and_its_negative_keeps_both():
    (row,) = query.top(rows({"ap": 0.5, "minus_ap": -0.1}), by="minus_ap")
    assert (row["ap"], row["minus_ap"]) == (0.5, -0.1)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_a_front_is_the_same_whichever_way_it_is_told(drawn):
    found = rows(*({"minus_ap": -float(ap), "error": -float(ap), "macs": float(macs)} for ap, macs in drawn))
    front = query.pareto(found, ["ap", "macs"])
    assert names(front) == names(query.pareto(found, ["error", "macs"]))
    for a in front:
        assert not any(b["ap"] >= a["ap"] and b["macs"] < a["macs"] for b in front)
    volume, other = (
        query.front_volume(
            "x", query.front(found, [kept, "macs"]), [name, "macs"], [kept, "macs"], ([-4.0, 0.0], []), [worst, 4.0]
        )
        for name, kept, worst in (("ap", "minus_ap", 1.0), ("error", "error", -1.0))
    )
    assert volume["hypervolume"] == other["hypervolume"]
    assert (volume["objectives"], volume["reference"]) == ("ap,macs", [1.0, 4.0])


# Conditions.


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("macs < 3e6", ["a0", "a1"]),
        ("macs<=3000000 and error >= .2", ["a1", "a2"]),
        ("macs == 2e6 AND error != 9", ["a1"]),
        ("  macs > +1.5E6  and macs > -1 ", ["a1", "a2"]),
        ("macs < -1e-3", []),
    ],
)
def test_conditions_hold_all_of_them(where, kept):
    found = rows(*({"error": 0.1 * i, "macs": i * 1e6} for i in (1, 2, 3)))
    assert names(query.top(found, where=where)) == kept


@pytest.mark.parametrize(
    "where",
    [
        "",
        "macs",
        "macs <",
        "< 3",
        "3 < macs",
        "macs < x",
        "macs = 3",
        "macs < 3 and",
        "macs < 3 or error < 1",
        "macs < 3; drop table run",
        "__import__('os').system('true')",
        "macs < 3e",
        "a < b < 3",
        "macs < 3\nand\n",
    ],
)
def test_anything_else_is_answered_with_what_is_allowed(where):
    with pytest.raises(UsageError, match=r"such as 'macs < 3e6 and params <= 1e5'") as caught:
        parse_where(where)
    assert "\n" not in str(caught.value)


words = st.sampled_from(["macs", "error", "and", "<", "<=", "==", "!=", "3e6", "-1", ".", "(", "e", " ", "\n", "١"])


@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(words, max_size=9).map("".join),
        st.lists(words, max_size=9).map(" ".join),
    )
)
def test_no_text_can_crash_the_parser(text):
    with contextlib.suppress(UsageError):
        assert all(isinstance(number, float) for _, _, number in parse_where(text))


@given(
    st.lists(
        st.tuples(st.sampled_from(METRICS), st.sampled_from(list(OPERATORS)), st.floats(-1e9, 1e9)),
        min_size=1,
    )
)
def test_what_is_written_by_the_grammar_is_read_back(conditions):
    text = " and ".join(f"{name} {sign} {number!r}" for name, sign, number in conditions)
    assert parse_where(text) == [(name, OPERATORS[sign], number) for name, sign, number in conditions]


# The front.

points = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.tuples(*[st.one_of(st.integers(0, 4), st.just(math.nan))] * 3)),
    max_size=12,
)


@given(points)
@example([("a", (0, 2, 0)), ("b", (0, 0, 1)), ("b", (0, 1, 0))])
def test_no_row_of_the_front_is_dominated_and_every_other_is(drawn):
    objectives = ("error", "macs", "params")
    search = [
        trial(i, name, dict(zip(objectives, map(float, values), strict=True))) for i, (name, values) in enumerate(drawn)
    ]
    found = query.build_rows(search, [])
    front = query.pareto(found, objectives)
    assert len(set(names(front))) == len(front)
    assert front == sorted(front, key=lambda row: [row[name] for name in objectives])
    for row in front:
        assert not any(query.dominates(other, row, objectives) for other in front)
    for row in found:
        ranks = not any(math.isnan(row[name]) for name in objectives)
        if ranks and row["architecture"] not in names(front):
            # Perhaps by another row of an architecture of the front than the one that stands for it.
            of_front = [other for other in found if other["architecture"] in names(front)]
            assert any(query.dominates(other, row, objectives) for other in of_front)
        if not ranks:
            assert row not in front


def test_equals_are_both_on_the_front():
    found = rows({"error": 0.1, "macs": 5.0}, {"error": 0.1, "macs": 5.0}, {"error": 0.1, "macs": 6.0})
    assert names(query.pareto(found)) == ["a0", "a1"]


def test_a_front_needs_an_objective():
    with pytest.raises(UsageError, match="objectives=0 names must be 1 to 31"):
        query.pareto([], [])


def test_counts_of_parts_are_shown_as_those_of_the_whole_are():
    for name in ("macs", "neck_macs", "params", "head_params"):
        assert output.number(name, 1_523_000.0) == "1.52M"
