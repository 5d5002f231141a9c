"""Architectures as sequences: read, written again and improved, in every space; and the recurrent network below."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import MINI, Toy

from predictors import sequence
from predictors.ensemble import shown
from predictors.features import features
from predictors.lstm import _forward, lstm
from predictors.nao import NAO, unlabelled
from predictors.targets import quantiles, restore, scale
from spaces import SPACES, presets
from spaces.abilities import equivalents
from spaces.base import sample

TOY = Toy()
OTHERS = sorted(SPACES.keys() - {"nasbench201"})


def smallest_preset(name: str):
    values = presets(name)
    return values.get("tiny") or next(iter(values.values()))


@pytest.mark.parametrize("bidirectional", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", ["nasbench201", *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)])
def test_a_trained_pool_decodes_to_itself_and_steps_improve_it(key, name, bidirectional, optimised):
    space = smallest_preset(name)
    rows = sample(space, key, 200)
    errors = jr.normal(key, (200,)) + (rows == 1).sum(1)
    # Of long sequences more is to be remembered.
    long = len(space.cardinalities) > 10
    size = {"hidden": 96, "steps": 3000, "trade_off": 0.3} if long else {"steps": 2000}
    predictor = NAO(members=1, bidirectional=bidirectional, **size)
    params = jax.jit(predictor.fit, static_argnums=0)(space, rows, errors)
    weights = jax.tree.map(lambda leaf: leaf[0], params.weights)

    @jax.jit
    def again(rows):
        return sequence.decode(weights, space, *sequence.encode(weights, rows, features(space, rows)))

    assert (again(rows) == rows).all(1).mean() >= 0.95
    improved, before, after = jax.jit(lambda rows: sequence.improve(weights, space, rows, jnp.float32(1.0)))(rows)
    assert (after < before).mean() >= 0.9
    assert ((np.asarray(improved) >= 0) & (np.asarray(improved) < space.cardinalities)).all()


def test_nothing_but_choices_is_written(key):
    weights = sequence.initial(key, TOY, 8, bidirectional=True)
    outputs = 10 * jr.normal(key, (len(TOY.cardinalities), 500, 8))
    rows = np.asarray(sequence.decode(weights, TOY, outputs, jr.normal(key, (500, 8))))
    assert ((rows >= 0) & (rows < TOY.cardinalities)).all()
    assert len(np.unique(rows, axis=0)) > 1


def test_the_gradient_of_the_recurrent_network_is_that_of_its_loop(key):
    keys = jr.split(key, 4)
    inputs, weights = jr.normal(keys[0], (5, 3, 16)), jr.normal(keys[1], (4, 16))
    start, towards = jr.normal(keys[2], (3, 4)), jr.normal(keys[3], (5, 3, 4))
    ours = jax.grad(lambda *args: (towards * lstm(*args)).sum(), (0, 1, 2))(inputs, weights, start)
    plain = jax.grad(lambda *args: (towards * _forward(*args)[0]).sum(), (0, 1, 2))(inputs, weights, start)
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_what_is_told_a_score_was_not_evaluated(key):
    space = presets("nasbench201")["tiny"]
    evaluated = sample(space, key, 300)
    known = jnp.arange(300) < 200
    drawn, new = unlabelled(space, jr.fold_in(key, 1), evaluated, known, 2000)
    seen = {tuple(row) for row in np.asarray(space.canonical(evaluated[:200])).tolist()}
    assert [tuple(row) not in seen for row in np.asarray(drawn).tolist()] == np.asarray(new).tolist()
    assert 0 < (~new).sum() < len(drawn) / 2  # classes are drawn as often as they are large


def test_all_ways_to_write_a_network_have_one_target(key):
    """Augmentation: another way to write an architecture is the same network, and every way is met."""
    space = presets("nasbench201")["tiny"]
    rows = sample(space, key, 100)
    ways = np.stack([equivalents(space, rows, jnp.full(100, i)) for i in range(40)])
    canonical = np.asarray(space.canonical(rows))
    for way in ways:
        np.testing.assert_array_equal(space.canonical(jnp.asarray(way)), canonical)
    assert max(len(np.unique(ways[:, i], axis=0)) for i in range(100)) > 3


def test_a_member_is_judged_by_rows_that_it_was_not_shown():
    known = jnp.arange(40) % 4 != 0
    members = np.asarray(shown(known, 3))
    assert not members[:, ~np.asarray(known)].any()
    left_out = np.asarray(known)[None] & ~members
    assert (left_out.sum(1) == 3).all()
    assert left_out.sum(0).max() == 1
    assert shown(known, 1).sum() == known.sum()


def test_scores_that_hardly_differ_are_told_apart():
    """Quantiles of ranks do not depend on how small the range of the scores is, nor on how far off the worst one is."""
    known = jnp.ones(5, bool)
    near = jnp.array([0.1, 0.1001, 0.1002, 0.1003, 0.1004])
    far = jnp.array([0.1, 0.2, 0.3, 0.4, 90.0])
    np.testing.assert_allclose(quantiles(near, known), quantiles(far, known))
    way_back = scale(far, quantiles(far, known), known)
    np.testing.assert_allclose(restore(way_back, quantiles(far, known)), far, rtol=1e-5)
    beyond = restore(way_back, jnp.array([-9.0, -8.0, 8.0, 9.0]))
    assert (jnp.diff(beyond) > 0).all()


def test_long_chains_have_a_vocabulary_a_decision():
    weights = sequence.initial(jr.key(0), MINI, 8, bidirectional=False)
    assert weights["tokens"].shape == (len(MINI.cardinalities) * max(MINI.cardinalities), 8)
    assert "back" not in weights
