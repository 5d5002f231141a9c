"""Draws from what keeps the limits: uniform where it can be listed, a walk elsewhere, and nothing twice."""

import collections
import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import Toy
from scipy import stats

from spaces.base import feasible, identify, mutate
from strategies.archive import empty, lowest
from strategies.region import draw, pick, region, repeat, walk
from strategies.visited import also, among, contains, hash_rows, nothing, visit

TOY = Toy()
LARGE = Toy((4,) * 20)  # 10^12 encodings


@dataclasses.dataclass(frozen=True)
class Shuffled(Toy):
    """A space whose costs say nothing of its decisions: the place in a random order."""

    cardinalities: tuple[int, ...] = (5,) * 6

    def canonical(self, encodings):
        return encodings

    def cost(self, encodings):
        order = np.random.default_rng(0).permutation(math.prod(self.cardinalities)).astype(np.float32)
        return {"macs": jnp.asarray(order)[encodings @ (5 ** jnp.arange(6))]}


def encodings(space, limits):
    """How many encodings each legal architecture has."""
    rows = jnp.array(list(itertools.product(*map(range, space.cardinalities))), jnp.int32)
    rows = space.canonical(rows)
    return collections.Counter(map(tuple, np.asarray(rows[feasible(space, rows, limits)]).tolist()))


def unlikely(rows, counts) -> float:
    """The p-value of the rows having been drawn in proportion to the counts."""
    found = collections.Counter(map(tuple, np.asarray(rows).tolist()))
    assert found.keys() <= counts.keys()
    expected = np.array(list(counts.values())) / counts.total() * len(rows)
    return stats.chisquare([found[row] for row in counts], expected).pvalue


@pytest.mark.parametrize("most", [11.0, 12.0, 15.0])
def test_draws_are_uniform_over_the_legal_encodings(most):
    limits = (("macs", most),)
    rows = draw(region(TOY, limits), jr.key(1), 4000)
    assert unlikely(rows, encodings(TOY, limits)) > 0.01


def test_draws_are_uniform_where_costs_know_nothing_of_the_decisions():
    where = region(Shuffled(), (("macs", 49.0),))
    rows = draw(where, jr.key(1), 2000)
    assert len(where.listed.rows) == 50
    assert unlikely(rows, encodings(Shuffled(), where.limits)) > 0.01


@pytest.mark.parametrize("limits", [(("macs", 12.0),), (("macs", 14.0), ("params", 24.0))])
def test_a_walk_is_uniform_over_the_legal_encodings(limits):
    rows = jax.jit(walk, static_argnums=2)(region(TOY, limits), jr.key(0), 4000)
    assert unlikely(TOY.canonical(rows), encodings(TOY, limits)) > 0.01


def test_in_a_large_space_draws_under_a_tight_limit_have_the_costs_of_the_uniform_distribution():
    limits = (("macs", 25.0),)  # which one of 10^4 random architectures keeps
    where = region(LARGE, limits)
    assert where.listed is None
    rows = jax.jit(draw, static_argnums=2)(where, jr.key(0), 1000)
    assert feasible(LARGE, rows, limits).all()
    # How many encodings have each cost: one decision after the other; of decision 1 what is inactive adds nothing.
    ways = np.array([1.0])
    for _ in range(18):
        ways = np.convolve(ways, np.ones(4))
    ways = np.convolve(ways, [4, 0, 0, 0]) + np.convolve(np.convolve(ways, [0, 1, 1, 1]), np.ones(4))[: len(ways) + 3]
    share = ways[:16] / ways[:16].sum()
    counts = np.bincount(np.asarray(LARGE.cost(rows)["macs"] - 10).astype(int), minlength=16)
    kept = share * 1000 >= 5
    found = np.append(counts[kept], counts[~kept].sum())
    expected = np.append(share[kept], share[~kept].sum()) * 1000
    assert stats.chisquare(found, expected).pvalue > 0.001


def test_what_is_legal_is_listed_in_a_large_space_too_where_it_is_little():
    where = region(LARGE, (("macs", 12.0),))
    # By the sum of the choices: nothing; one 1; one 2, or two 1. Decision 1 counts only beside decision 0.
    assert len(where.listed.rows) == 1 + 19 + (19 + math.comb(18, 2) + 18 + 1)
    rows = draw(where, jr.key(0), 3000)
    counts = {tuple(row): 4 if row[0] == 0 else 1 for row in np.asarray(where.listed.rows).tolist()}
    assert unlikely(rows, collections.Counter(counts)) > 0.01


@pytest.mark.parametrize("space", [TOY, LARGE], ids=["small", "large"])
def test_what_was_seen_is_known_in_whatever_way_it_is_written(space):
    rows = jr.randint(jr.key(0), (40, len(space.cardinalities)), 0, jnp.asarray(space.cardinalities)[None])
    seen = also(visit(nothing(space, 64), rows[:20], jnp.int32(0)), rows[20:30].at[5:].set(-1))
    known = {tuple(row) for row in np.asarray(space.canonical(rows[:25])).tolist()}
    for row, found in zip(space.canonical(rows), contains(seen, space.canonical(rows)), strict=True):
        assert bool(found) == (tuple(np.asarray(row).tolist()) in known)


def test_of_a_large_space_the_last_are_remembered():
    rows = jr.randint(jr.key(0), (12, 20), 0, 4)
    seen = visit(visit(nothing(LARGE, 8), rows[:5], jnp.int32(0)), rows[5:], jnp.int32(5))
    assert contains(seen, LARGE.canonical(rows)).tolist() == [False] * 4 + [True] * 8
    assert (
        contains(visit(nothing(LARGE, 8), rows, jnp.int32(0)), LARGE.canonical(rows)).tolist()
        == [False] * 4 + [True] * 8
    )


@pytest.mark.parametrize("limits", [(), (("macs", 14.0),)], ids=["free", "limits"])
def test_nothing_is_picked_twice_until_nothing_new_is_left(limits):
    where, seen, count = region(TOY, limits), nothing(TOY, 1), 0
    legal = encodings(TOY, limits).keys()
    propose = jax.jit(lambda key, seen: pick(where, repeat(lambda k: draw(where, k, 7), key, 2), key, seen))
    found = []
    for i in range(-(-len(legal) // 7)):
        rows = propose(jr.key(i), seen)
        seen, count = visit(seen, rows, jnp.int32(count)), count + 7
        found += map(tuple, np.asarray(rows).tolist())
    assert len(set(found[: len(legal)])) == len(legal)
    assert set(found) == set(legal)


def test_what_is_not_legal_becomes_so_by_few_changes_and_in_many_ways():
    """Children of a legal parent in a narrow region stay near it, and do not all become the cheapest one."""
    where = region(LARGE, (("macs", 25.0),))
    parent = walk(where, jr.key(3), 1)
    children = repeat(lambda k: mutate(LARGE, k, jnp.repeat(parent, 200, 0), 3), jr.key(1), 1)
    rows = np.asarray(pick(where, children, jr.key(2)))
    assert feasible(LARGE, jnp.asarray(rows), where.limits).all()
    assert len(np.unique(rows, axis=0)) > 150
    assert np.median((rows != np.asarray(LARGE.canonical(parent))).sum(1)) < 8


def test_hashes_of_different_architectures_differ():
    rows = np.array(list(itertools.product(range(4), repeat=7)), np.int32)
    hashes = hash_rows(jnp.asarray(rows))
    assert len(np.unique(np.asarray(hashes), axis=0)) == len(rows)
    assert (np.asarray(hashes) > 0).all()
    assert among(hashes[:5], hashes[3:8]).tolist() == [True, True, False, False, False]


def test_the_lowest_are_filled_up_with_what_is_new_however_little_is_left():
    """The last new row is found wherever it is, though no candidate has it."""
    limits = (("macs", 11.0),)
    rows = np.array(sorted(encodings(TOY, limits)), np.int32)
    where = region(TOY, limits)
    for left in range(0, len(rows), 5):
        known = also(nothing(TOY, 8), jnp.asarray(np.delete(rows, [left, left - 1], axis=0)))
        given = jnp.asarray(rows[[left]] if left % 2 else rows[[left - 2]])  # one that is new, one that is not
        chosen = lowest(where, given, jnp.zeros(1), 4, jr.key(left), known)
        fresh = np.asarray(~contains(known, chosen))
        assert {tuple(row) for row in np.asarray(chosen)[fresh].tolist()} == {
            tuple(row) for row in rows[[left, left - 1]].tolist()
        }
        assert feasible(TOY, chosen, limits).all()


def test_what_little_is_learned_from_more_is_remembered():
    assert empty(LARGE, 32).scores.shape == (32,)
    assert empty(LARGE, 32).visited.ring.shape[0] >= 4096


@dataclasses.dataclass(frozen=True)
class Partly(Toy):
    """A space of which some costs are no numbers."""

    def cost(self, encodings):
        size = encodings.sum(1).astype(jnp.float32)
        return {"macs": jnp.where(size > 3, jnp.nan, size + 1)}


def test_what_costs_no_number_keeps_no_limit_and_is_no_trial():
    limited = region(Partly(), (("macs", 2.0),))
    rows = np.asarray(draw(limited, jr.key(0), 20))
    assert (rows.sum(1) <= 1).all()
    high = np.array([[size - 1 for size in Partly().cardinalities]], np.int32)
    with pytest.raises(ValueError, match=r"cost 'macs' of .* is nan: it must be a finite number"):
        identify(Partly(), high)
