"""Every strategy keeps the contract of `strategies.base.Strategy`; each then does what its paper says."""

import dataclasses
import functools
import itertools
import types
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import MINI, Toy, of_one_budget, small_strategy

from nas.engine.loop import _programs
from nas.engine.loop import ask as _ask
from nas.engine.loop import tell as _tell
from predictors.linear import Linear
from spaces.base import Space, feasible, sample, smallest
from strategies import STRATEGIES as NAMES
from strategies.base import Drawn, Observations, Proposals, Strategy
from strategies.bayesian import Bayesian
from strategies.evolution import Evolution
from strategies.guided import Guided
from strategies.nao import NAO
from strategies.nsga2 import _violation
from strategies.ppo import PPO, _log_probability
from strategies.prescreened import Prescreened
from strategies.random_search import RandomSearch
from strategies.region import region
from strategies.regularized_evolution import RegularizedEvolution
from strategies.reinforce import Reinforce
from strategies.screening import Screening
from strategies.visited import contains

AGEING = RegularizedEvolution(population_size=5, tournament_size=3, initial=5, budget=3)
EVOLUTION = Evolution(population_size=8, num_parents=3, num_mutations=3, num_crossovers=3, memory=128)
PRESCREENED = Prescreened(AGEING, Linear(), Screening(candidates=16, initial=4, memory=64))
TOY = Toy()
GUIDED = Guided(RandomSearch(), tuple((3.0, *[1.0] * (size - 1)) for size in TOY.cardinalities), strength=4.0)
# `seminas` is `nao` with other settings, and one of them is enough for these laws.
STRATEGIES = [*(small_strategy(name) for name in of_one_budget() if name != "nao"), AGEING, EVOLUTION, PRESCREENED]
STRATEGIES.append(GUIDED)
LIMITS = {"free": (), "limits": (("macs", 11.0), ("params", 27.0))}  # which leave 4 architectures of 256
N = 8  # one size for everything that is asked or told, because each is compiled


def name_of(strategy: Strategy) -> str:
    return f"{type(strategy).__name__} {getattr(strategy, 'population_size', '')}"


each = pytest.mark.parametrize("strategy", STRATEGIES, ids=name_of)
# Each pair is compiled. Where that takes longest, or another size has the same code, the harder half is the default.
LONG = ("NAO ", "Bayesian ", "Prescreened ", "Evolution 50", "RegularizedEvolution 10")
each_limited = pytest.mark.parametrize(
    ("strategy", "limits"),
    [
        pytest.param(
            strategy,
            limits,
            id=f"{name_of(strategy)}-{name}",
            marks=[pytest.mark.slow] if name == "free" and name_of(strategy) in LONG else [],
        )
        for strategy in STRATEGIES
        for name, limits in LIMITS.items()
    ],
)

start = functools.cache(lambda strategy, space, limits: strategy.init(space, limits))


def ask(strategy, state, key, pending, n: int = N) -> np.ndarray:
    return np.asarray(_ask(strategy, state, key, n, pending).encodings)


def pending(rows=(), slots: int = N, length: int = len(TOY.cardinalities)) -> Proposals:
    filled = np.full((slots, length), -1, np.int32)
    filled[: len(rows)] = np.reshape(rows, (-1, length))
    return Proposals(jnp.asarray(filled), jnp.zeros(slots, jnp.int32))


def observed(rows, objectives) -> Observations:
    rows = jnp.asarray(rows, jnp.int32)
    return Observations(rows, jnp.zeros(len(rows), jnp.int32), jnp.asarray(objectives, jnp.float32)[:, None])


def anything(seed: int, space: Space = TOY, n: int = N) -> Observations:
    """Points that were never asked, legal or not, of which some failed and some are equally good."""
    draw = np.random.default_rng(seed)
    objectives = draw.integers(0, 4, n).astype(float)
    objectives[draw.random(n) < 0.3] = np.nan
    return observed(draw.integers(0, space.cardinalities, (n, len(space.cardinalities))), objectives)


def part(told: Observations, chosen: slice) -> Observations:
    return jax.tree.map(lambda leaf: leaf[chosen], told)


def same(first, second) -> bool:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in leaves)


def is_proposal(space: Space, limits, rows: np.ndarray) -> bool:
    """Legal encodings, canonical, within the limits."""
    inside = rows.dtype == np.int32 and ((rows >= 0) & (rows < np.array(space.cardinalities))).all()
    canonical = np.array_equal(space.canonical(jnp.asarray(rows)), rows)
    return bool(inside and canonical and feasible(space, jnp.asarray(rows), limits).all())


def every_architecture(space: Space, limits=()) -> set[tuple[int, ...]]:
    rows = jnp.array(list(itertools.product(*map(range, space.cardinalities))), jnp.int32)
    rows = space.canonical(rows)
    return {tuple(row) for row in np.asarray(rows[feasible(space, rows, limits)]).tolist()}


# Laws


@each_limited
def test_tell_is_a_fold(strategy, limits):
    state, told = start(strategy, TOY, limits), anything(0)
    at_once = _tell(strategy, state, told)
    halves = _tell(strategy, _tell(strategy, state, part(told, slice(4))), part(told, slice(4, 8)))
    assert same(at_once, halves)


def states(strategy, limits):
    """A state that has seen nothing, failures alone, a few points, and many."""
    yield (state := start(strategy, TOY, limits))
    failed = observed(anything(0).encodings, np.full(N, np.nan))
    yield _tell(strategy, state, failed)
    for seed in range(4):
        state = _tell(strategy, state, anything(seed))
        if seed in (0, 3):
            yield state


@each_limited
def test_proposals_are_legal_whatever_was_told_and_is_pending(strategy, limits):
    waiting = sorted(every_architecture(TOY, limits))[:N]
    for i, state in enumerate(states(strategy, limits)):
        for k, others in enumerate((pending(), pending(waiting[:3]), pending(waiting))):
            rows = ask(strategy, state, jr.key(10 * i + k), others)
            assert rows.shape == (N, len(TOY.cardinalities))
            assert is_proposal(TOY, limits, rows)


@each_limited
def test_ask_is_a_function_of_state_and_key_and_changes_neither(strategy, limits):
    state = _tell(strategy, start(strategy, TOY, limits), anything(1))
    before = [np.array(leaf) for leaf in jax.tree.leaves(state)]
    first = ask(strategy, state, jr.key(1), pending())
    others = [ask(strategy, state, jr.key(seed), pending()) for seed in range(2, 8)]
    assert any((first != other).any() for other in others)
    assert same(jax.tree.leaves(state), before)
    np.testing.assert_array_equal(ask(strategy, state, jr.key(1), pending()), first)


LARGE = Toy((4,) * 9)  # too large to look at all of it


@pytest.mark.parametrize("name", NAMES)
def test_no_key_is_used_twice(name, monkeypatch):
    strategy = small_strategy(name)
    state = start(strategy, LARGE, ())
    if name in ("nao", "seminas"):  # whose predictor is fitted with keys of its own
        params = strategy.predictor.fit(LARGE, state.archive.rows, state.archive.scores)
        monkeypatch.setattr(type(strategy.predictor), "fit", lambda *_: params)
    with jax.debug_key_reuse(True):
        jax.jit(lambda key: strategy.ask(state, key, 2, pending(length=9)))(jr.key(0))


@each_limited
def test_nothing_is_proposed_twice_until_nothing_new_is_left(strategy, limits):
    """In rounds of 8, each of which is told, until all that is legal was proposed; the last round has no 8 left."""
    limits = limits or (("macs", 12.0),)  # which leave 15 architectures
    state, legal, found = start(strategy, TOY, limits), every_architecture(TOY, limits), []
    for i in range(-(-len(legal) // N)):
        rows = ask(strategy, state, jr.key(i), pending())
        state = _tell(strategy, state, observed(rows, [sum(row) for row in rows.tolist()]))
        found += map(tuple, rows.tolist())
    assert len(set(found[:-N])) == len(found) - N
    assert set(found) == legal


@each
def test_a_strategy_is_a_value(strategy):
    again = dataclasses.replace(strategy)
    assert isinstance(strategy, Strategy)
    assert again == strategy
    assert again is not strategy
    assert hash(again) == hash(strategy)
    inner = getattr(strategy, "strategy", strategy)
    longer = dataclasses.replace(inner, budget=inner.budget + 1)
    assert (longer if inner is strategy else dataclasses.replace(strategy, strategy=longer)) != strategy
    with pytest.raises(dataclasses.FrozenInstanceError):
        strategy.budget = 5


@each
def test_equal_strategies_share_one_compiled_program(strategy):
    limits = LIMITS["limits"]
    ask(strategy, start(strategy, TOY, limits), jr.key(0), pending())
    programs = _programs()[0]._cache_size()
    again = dataclasses.replace(strategy)
    ask(again, again.init(Toy(), limits), jr.key(3), pending())
    assert _programs()[0]._cache_size() == programs


@each
def test_every_proposal_carries_the_budget(strategy):
    budgets = _ask(strategy, start(strategy, TOY, LIMITS["limits"]), jr.key(0), N, pending()).budgets
    assert budgets.dtype == jnp.int32
    assert budgets.tolist() == [strategy.budget] * N


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomSearch(budget=-1), "budget=-1 must be at least 0"),
        (lambda: RegularizedEvolution(budget=-1), "budget=-1 must be at least 0"),
        (lambda: Evolution(budget=-1), "budget=-1 must be at least 0"),
        (lambda: RegularizedEvolution(population_size=0), "population_size=0"),
        (lambda: RegularizedEvolution(2, 0), "tournament_size=0 must be at least 1"),
        (lambda: RegularizedEvolution(initial=0), "initial=0 must be at least 1"),
        (lambda: Evolution(population_size=0), "population_size=0"),
        (lambda: Evolution(num_parents=0), "num_parents=0"),
        (lambda: Evolution(memory=0), "memory=0"),
        (lambda: Evolution(num_mutations=-1), "num_mutations=-1"),
        (lambda: Evolution(num_crossovers=-1), "num_crossovers=-1"),
        (lambda: Evolution(mutation_probability=0.0), "mutation_probability=0.0"),
        (lambda: Evolution(mutation_probability=float("nan")), "mutation_probability=nan"),
    ],
)
def test_impossible_settings_are_refused_with_the_field(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Evolution


def grow(seed: int, generations: int, strategy=EVOLUTION, space: Space = TOY, limits=(), objective=sum):
    """The generations, each asked while the one before is still being evaluated."""
    state, waiting = start(strategy, space, limits), np.zeros((0, len(space.cardinalities)), np.int32)
    found = []
    for i in range(generations):
        rows = ask(strategy, state, jr.fold_in(jr.key(seed), i), pending(waiting))
        if len(waiting):
            state = _tell(strategy, state, observed(waiting, [objective(row) for row in waiting.tolist()]))
        found.append(rows)
        waiting = rows
    return found


@pytest.mark.parametrize("seed", range(3))
def test_evolution_never_proposes_what_was_visited_or_is_pending(seed):
    rows = np.concatenate(grow(seed, 12))
    assert len(np.unique(rows, axis=0)) == len(rows) == 96
    assert len(every_architecture(TOY)) == 256  # so that there was always something else to propose


def test_evolution_fills_a_generation_though_hardly_anything_is_legal():
    limits = LIMITS["limits"]
    legal = every_architecture(TOY, limits)
    assert len(legal) == 4
    first, *later = ({tuple(row) for row in rows.tolist()} for rows in grow(0, 4, limits=limits))
    assert first == legal  # nothing is proposed twice before everything was proposed once
    assert all(rows <= legal for rows in later)


def test_the_parents_are_the_best_of_everything_seen():
    state, seen, best_so_far = start(EVOLUTION, TOY, ()), [], np.inf
    for seed in range(6):
        told = anything(seed)
        told = told.replace(objectives=told.objectives - 0.1 * seed)
        state = _tell(EVOLUTION, state, told)
        rows, objectives = np.asarray(told.encodings).tolist(), np.asarray(told.objectives)[:, 0]
        seen += [
            (value, i, row)
            for i, (value, row) in enumerate(zip(objectives, rows, strict=True), len(seen))
            if not np.isnan(value)
        ]
        seen_rows = sorted(seen)[:3]  # the earlier first among equals
        assert np.asarray(state.fitness).tolist() == [value for value, _, _ in seen_rows]
        assert np.asarray(state.parents).tolist() == [row for _, _, row in seen_rows]
        assert state.fitness[0] <= best_so_far
        best_so_far = float(state.fitness[0])


def test_failures_never_become_parents():
    state = _tell(EVOLUTION, start(EVOLUTION, TOY, ()), observed(anything(0).encodings, np.full(N, np.nan)))
    assert np.isinf(state.fitness).all()
    assert contains(state.visited, TOY.canonical(anything(0).encodings)).all()  # but are not tried again


def test_mutants_and_crossovers_come_from_the_parents():
    """With one parent, which has nothing to cross with, a child differs only where it mutated."""
    strategy = Evolution(8, num_parents=1, num_mutations=8, num_crossovers=0, mutation_probability=0.1, memory=128)
    rows = np.asarray(anything(5).encodings)
    state = _tell(strategy, start(strategy, TOY, ()), observed(rows, [3, 1, 2, 3, 3, 3, 3, 3]))
    children = np.concatenate([ask(strategy, state, jr.key(i), pending()) for i in range(10)])
    assert (children != np.asarray(TOY.canonical(jnp.asarray(rows)))[1]).sum(1).mean() < 2


# Regularised evolution


@pytest.mark.parametrize("births", [0, 3, 5, 6, 12, 23])
def test_the_population_is_the_last_to_be_born(births):
    state, rows, values = start(AGEING, TOY, ()), [], []
    for i in range(births):
        told = part(anything(i), slice(1))
        state = _tell(AGEING, state, told)
        rows.append(np.asarray(told.encodings)[0].tolist())
        values.append(float(np.nan_to_num(told.objectives[0, 0], nan=np.inf)))
    alive = min(births, 5)
    order = [(births - alive + i) % 5 for i in range(alive)]
    assert int(state.count) == births
    assert np.asarray(state.population)[order].tolist() == rows[births - alive :]
    assert np.asarray(state.fitness)[order].tolist() == values[births - alive :]
    assert np.isinf(np.delete(np.asarray(state.fitness), order)).all()


def distances(children: np.ndarray, parents: np.ndarray) -> np.ndarray:
    return (children[:, None] != parents[None]).sum(-1)


def test_a_child_is_one_mutation_away_from_a_member_of_the_population():
    population = np.asarray(sample(MINI, jr.key(1), 5))
    state = _tell(AGEING, start(AGEING, MINI, ()), observed(population, [4, 1, 3, 2, np.nan]))
    children = np.concatenate([ask(AGEING, state, jr.key(i), pending(length=4)) for i in range(10)])
    assert (distances(children, population) == 1).any(1).all()
    # The failure is nobody's parent.
    lonely = observed(population, [4, 1, np.nan, np.nan, np.nan])
    state = _tell(AGEING, start(AGEING, MINI, ()), lonely)
    children = np.concatenate([ask(AGEING, state, jr.key(i), pending(length=4)) for i in range(10)])
    assert (distances(children, population[:2]) == 1).any(1).all()


@pytest.mark.usefixtures("unchecked")  # what has costs here is no space
@pytest.mark.parametrize("most", [-6.0, 0.0, 1e-3, 3.0, 6.0, 7.0, 10.0, 1e8])
def test_what_keeps_a_limit_violates_nothing_and_what_does_not_more_the_farther_it_is(most):
    """Compiled, a division of a number by itself need not give 1."""
    values = most + abs(most or 1) * jnp.array([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0])
    space = types.SimpleNamespace(cost=lambda rows: {"some": values[rows[:, 0]]})
    where: Any = types.SimpleNamespace(space=space, limits=(("some", most),))
    found = np.asarray(jax.jit(lambda rows: _violation(where, rows))(jnp.arange(6)[:, None]))
    assert (found[:3] == 0).all()
    assert (np.diff(found[2:]) > 0).all()
    assert np.isfinite(found).all()


def test_mutants_of_the_best_are_candidates_once(key):
    space = dataclasses.replace(Toy(), cardinalities=(16,) * 6)
    strategy = Bayesian(num_candidates=200)
    state = strategy.init(space)
    rows = jnp.tile(jnp.arange(6, dtype=jnp.int32), (10, 1))
    told = Observations(rows, jnp.zeros(10, jnp.int32), jnp.arange(10.0)[:, None])
    candidates = strategy._drawn(strategy.tell(state, told), key)
    kept = np.asarray(candidates.rows)[np.asarray(candidates.legal)]
    assert len(kept) < len(candidates.rows)
    assert len(np.unique(kept, axis=0)) == len(kept) == len(np.unique(np.asarray(candidates.rows), axis=0))


def test_a_tournament_is_drawn_with_replacement():
    """So one of as many entrants as there are members may leave out the best."""
    strategy = RegularizedEvolution(population_size=5, tournament_size=5)
    population = np.tile(np.arange(5)[:, None], 8)
    space = Toy((5,) * 8)
    state = _tell(strategy, start(strategy, space, ()), observed(population, [4, 1, 3, 2, 0]))
    parents = np.asarray(strategy.parents(state, jr.key(0), 2000))
    won = np.bincount(parents[:, 0], minlength=5) / len(parents)
    ranks = np.array([4, 1, 3, 2, 0])  # how many members are better
    expected = ((5 - ranks) / 5) ** 5 - ((4 - ranks) / 5) ** 5
    np.testing.assert_allclose(won, expected, atol=0.05)


def test_the_first_population_is_random():
    state = _tell(AGEING, start(AGEING, MINI, ()), observed(np.zeros((3, 4)), [1, 2, 3]))
    waiting = pending(np.zeros((1, 4)), length=4)
    children = np.concatenate([ask(AGEING, state, jr.key(i), waiting) for i in range(40)])
    born_first, born_later = children[0::8], children[1::8]  # trial 4 is of the first five, trial 5 is a child
    assert (born_first != 0).sum(1).mean() > 2
    assert ((born_later != 0).sum(1) == 1).all()


# Policies

POLICIES = [
    Reinforce(),
    PPO(batch_size=N),
    Prescreened(Reinforce(), Linear(), Screening(candidates=16, initial=4, memory=64)),
]
policies = pytest.mark.parametrize("strategy", POLICIES, ids=lambda s: type(s).__name__)


@policies
@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("told", [0, 1])
def test_a_proposal_of_a_policy_carries_what_was_drawn(strategy, limits, told):
    state = start(strategy, TOY, limits)
    for seed in range(told):
        state = _tell(strategy, state, anything(seed))
    proposals = _ask(strategy, state, jr.key(0), 64, pending())
    drawn = proposals.drawn
    np.testing.assert_array_equal(TOY.canonical(drawn.rows), proposals.encodings)
    if not limits:  # under which this policy draws too little to see it
        assert (drawn.rows != proposals.encodings).any()
    if told == 0:
        uniform = -np.log(TOY.cardinalities).sum()
        np.testing.assert_allclose(drawn.log_probability, uniform, atol=0.1)


@pytest.mark.parametrize("strategy", POLICIES[:2], ids=lambda s: type(s).__name__)
def test_a_policy_learns_from_what_it_drew(strategy):
    """Not from the row that names the same network, whose inactive decisions it may never have made."""
    state = start(strategy, TOY, ())
    drawn = jnp.asarray(np.random.default_rng(0).integers(0, TOY.cardinalities, (N, 6)), jnp.int32)
    assert (TOY.canonical(drawn) != drawn).any()
    told = observed(TOY.canonical(drawn), np.arange(N))
    learned = _tell(strategy, state, told.replace(drawn=Drawn(drawn, jnp.full(N, jnp.nan))))
    assert same_policy(learned, _tell(strategy, state, observed(drawn, np.arange(N))))
    assert not same_policy(learned, _tell(strategy, state, told))


def policy(state) -> list[jax.Array]:
    return jax.tree.leaves(getattr(state, "weights", getattr(state, "logits", None)))


def same_policy(first, second) -> bool:
    """But for rounding, which differs between the programs that learn with and without what was drawn."""
    policies = policy(first), policy(second)
    return all(np.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(*policies, strict=True))


def test_a_step_is_clipped_against_the_policy_that_drew():
    """Where every ratio to it has gone as far as it may, the policy stays."""
    strategy = PPO(batch_size=N, epochs=1, entropy=0.0, imitation=0.0)
    state = start(strategy, TOY, ())
    told = observed(anything(0).encodings, np.arange(N))
    now = _log_probability(state.weights, TOY, told.encodings)[0]
    older = now + jnp.where(jnp.arange(N) < N / 2, -1.0, 1.0)  # which found the better half less likely
    stays = _tell(strategy, state, told.replace(drawn=Drawn(told.encodings, older)))
    assert same(stays.weights, state.weights)
    for log_probability in (now, jnp.full(N, jnp.nan)):  # where it is not known, the policy is its own
        moves = _tell(strategy, state, told.replace(drawn=Drawn(told.encodings, log_probability)))
        assert not same(moves.weights, state.weights)


@pytest.mark.parametrize("strategy", [Reinforce(), PPO(batch_size=7, entropy=0.0, imitation=0.0)], ids=str)
def test_a_policy_learns_nothing_where_all_are_equal(strategy):
    """However the mean of equal numbers is rounded."""
    rows = anything(0, n=7).encodings
    state = start(strategy, TOY, ())
    for objective in (0.9, 0.1, 0.7):
        learned = _tell(strategy, state, observed(rows, np.full(7, objective)))
        for one, first in zip(policy(learned), policy(state), strict=True):
            np.testing.assert_allclose(one, first, atol=1e-6)


@pytest.mark.parametrize(("scale", "offset"), [(2.0**-30, 0.0), (1e8, 1e9), (0.01, -3.0), (1.0, 3000.0)])
@pytest.mark.parametrize("strategy", [Reinforce(), PPO(batch_size=8)], ids=lambda s: type(s).__name__)
def test_a_policy_learns_alike_from_an_objective_in_any_unit(strategy, scale, offset):
    state, rows = start(strategy, TOY, ()), anything(0, n=32).encodings
    objectives = np.random.default_rng(1).integers(0, 4, 32)
    plain, other = (
        policy(_tell(strategy, state, observed(rows, each))) for each in (objectives, scale * objectives + offset)
    )
    assert not all(np.allclose(one, first, atol=0.1) for one, first in zip(plain, policy(state), strict=True))
    for one, same_one in zip(plain, other, strict=True):
        np.testing.assert_allclose(same_one, one, atol=1e-3)


def test_seeds_of_nao_are_what_was_measured_however_little():
    strategy = NAO(num_seeds=20)
    told = observed(anything(0).encodings, [3, np.nan, 1, 2, np.nan, np.nan, np.nan, np.nan])
    state = strategy.tell(strategy.init(TOY), told)
    seeds = strategy.seeds(state, None, jr.key(0))
    np.testing.assert_array_equal(seeds, told.encodings[jnp.array([2, 3, 0] * 7)[:20]])


@pytest.mark.parametrize("name", [name for name in of_one_budget() if small_strategy(name).generation > 1])
def test_less_than_a_generation_is_the_first_of_it(name):
    """The last trials of a search are the same ones, whether more would follow or not."""
    strategy, space = small_strategy(name), Toy((4,) * 8)
    state = start(strategy, space, ())
    for seed in range(3):
        told = anything(seed, space)
        state = _tell(strategy, state, told.replace(objectives=jr.uniform(jr.key(seed), (N, 2))))
    n, nobody = strategy.generation, pending(length=8)
    for key in jr.split(jr.key(0), 10):
        whole, fewer = (ask(strategy, state, key, nobody, number) for number in (n, n - 1))
        np.testing.assert_array_equal(whole[: n - 1], fewer)


# Known optimum


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def best_of(strategy, space, trials, first, keys):
    """The least objective after so many trials, for each key: the distance to a hidden architecture."""
    hidden = jnp.array([1, 3, 0, 2, 2, 1, 3, 0])
    n, length = strategy.generation, len(space.cardinalities)
    nothing = Proposals(jnp.full((1, length), -1, jnp.int32), jnp.zeros(1, jnp.int32))

    def study(key):
        def generation(state, i):
            proposals = strategy.ask(state, jr.fold_in(key, i), n, nothing)
            objective = jnp.abs(proposals.encodings - hidden[None]).sum(1).astype(jnp.float32)
            told = Observations(proposals.encodings, proposals.budgets, objective[:, None])
            return strategy.tell(state, told), objective.min()

        return jax.lax.scan(generation, first, jnp.arange(trials // n))[1].min()

    return jax.vmap(study)(keys)


def test_evolution_finds_a_known_optimum_better_than_random_search():
    space, keys = Toy((4,) * 8), jr.split(jr.key(0), 100)
    random, ageing, evolved = (
        np.asarray(best_of(strategy, space, 100, strategy.init(space), keys))
        for strategy in (
            RandomSearch(),
            RegularizedEvolution(population_size=20, tournament_size=10),
            Evolution(10, 5, 4, 4, memory=128),
        )
    )
    assert random.mean() > 3
    assert (random == 0).mean() < 0.1
    for evolving in (ageing, evolved):
        assert evolving.mean() < 1
        assert (evolving == 0).mean() > 0.4


# Limits


def test_a_limit_that_nobody_can_keep_is_refused_with_the_smallest_cost():
    with pytest.raises(ValueError, match="limit macs <= 9 excludes every architecture: the smallest macs is 10"):
        region(TOY, (("macs", 9.0),))
    least = float(MINI.cost(jnp.asarray(smallest(MINI, (("params", 1.0),)))[None])["params"][0])
    region(MINI, (("params", least),))
    with pytest.raises(ValueError, match=f"the smallest params is {least:.0f}"):
        region(MINI, (("params", least - 1),))


@pytest.mark.parametrize("most", [float("nan"), 0.0, -1.0, float("-inf")])
def test_a_limit_that_is_no_limit_is_refused(most):
    with pytest.raises(ValueError, match="excludes every architecture"):
        region(TOY, (("macs", most),))


def test_a_limit_on_an_unknown_cost_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'watts' is not one of the space's costs, macs, params"):
        region(TOY, (("watts", 1.0),))


def test_limits_that_exclude_each_other_are_refused_together():
    alone = (("macs", 13.0),), (("params", 20.0),)
    for limits in alone:
        region(TOY, limits)
    with pytest.raises(ValueError, match="limit macs <= 13 and params <= 20: no architecture was found"):
        region(TOY, alone[0] + alone[1])


@pytest.mark.parametrize("up", range(0, 13))
def test_limits_that_leave_a_narrow_gap_are_kept(up):
    limits = (("macs", 10.0 + up), ("params", 28.0 - up))
    assert feasible(TOY, jnp.array([region(TOY, limits).anchor], jnp.int32), limits).all()
