"""The proving ground: made tables, plain baselines, and how a league counts."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from proving import plain, runs
from proving.family import MEMBERS

from predictors.features import features
from spaces.base import every, sample
from strategies import strategy_class
from strategies.base import Observations, Proposals, with_trials


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_is_drawn_from_its_number(name):
    member = MEMBERS[name]
    rows = sample(member.space, jax.random.key(0), 50)
    first, again, other = (
        runs.looked_up(member, member.table.__wrapped__(member, number), np.asarray(rows)) for number in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert np.isfinite(first).mean() > 0.5


@pytest.mark.parametrize("name", [name for name, member in MEMBERS.items() if member.listed])
def test_one_legal_row_of_a_table_is_the_best(name):
    member = MEMBERS[name]
    scores = np.sort(member.table(0)[member.legal()])
    if name != "cells":  # of which many rows are the same network
        assert scores[0] < scores[1]
    assert len(every(member.space)) == len(member.table(0))


def test_a_space_without_costs_has_features():
    space = MEMBERS["free"].space
    found = features(space, sample(space, jax.random.key(0), 5))
    assert found.shape == (5, sum(space.cardinalities))


@pytest.mark.parametrize("search", [*plain.BASELINES.values()], ids=[*plain.BASELINES])
def test_a_baseline_evaluates_nothing_twice_and_no_row_that_is_not_legal(search):
    member = MEMBERS["partial"]
    oracle = runs.oracle_of(member, 3, 30, every(member.space)[member.legal()][::50])
    search(oracle)
    assert len(oracle.rows) == len(set(oracle.rows)) == 30
    assert runs.allowed(member)(np.array(oracle.rows)).all()


def test_what_is_reached_is_the_clean_score_of_the_best_observed():
    observed = np.array([[[3.0], [np.nan], [1.0], [2.0]]])
    clean = np.array([[2.5, np.nan, 1.5, 0.5]])
    run = runs.Run([0], np.zeros((1, 4, 2), np.int32), observed, clean, 1.0)
    assert run.reached().tolist() == [[2.5, 2.5, 1.5, 1.5]]


def test_names_of_entrants_may_have_fields():
    names = runs.split("random,ppo(entropy=0.1,clip=0.3),plain gp")
    assert names == ["random", "ppo(entropy=0.1,clip=0.3)", "plain gp"]
    assert runs.make(names[1]) == strategy_class("ppo")(entropy=0.1, clip=0.3)


@pytest.mark.parametrize(("trials", "size"), [(8, 10), (50, 10), (240, 24), (5000, 50)])
def test_a_generation_of_evolution_follows_from_the_trials(trials, size):
    strategy = with_trials(strategy_class("evolution")(), trials)
    assert strategy.generation == size
    assert with_trials(strategy, 7) == strategy
    assert with_trials(strategy_class("evolution")(population_size=33), trials).generation == 33


def test_half_of_a_generation_of_evolution_are_crossovers():
    """Of two parents that differ everywhere a mutant is near one, and a crossover far from both."""
    space = MEMBERS["free"].space
    strategy = strategy_class("evolution")(population_size=10, num_parents=2)
    state = strategy.init(space, ())
    parents = jnp.stack([jnp.zeros(7, jnp.int32), jnp.full(7, 3, jnp.int32)] * 5)
    state = strategy.tell(state, Observations(parents, jnp.zeros(10, jnp.int32), jnp.arange(10.0)[:, None]))
    nobody = Proposals(jnp.full((1, 7), -1, jnp.int32), jnp.zeros(1, jnp.int32))
    rows = np.asarray(strategy.ask(state, jax.random.key(0), 10, nobody).encodings)
    both = ((rows == 0).any(1)) & ((rows == 3).any(1))
    assert both[5:].all()
    assert both[:5].sum() < 5
