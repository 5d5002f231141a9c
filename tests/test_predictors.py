"""Every listed predictor learns an additive score, knows what it does not know, and ignores failures."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import kendalltau

from predictors import PREDICTORS, predictor_class
from predictors.auto import kendall
from predictors.base import Predictor
from predictors.features import features
from spaces.base import sample
from spaces.costs import with_cost
from spaces.shufflenet import PRESETS

SPACE = PRESETS["tiny"]


# The networks among them, small enough for a test.
SMALL = {
    "nao": {"steps": 500, "batch_size": 32},
    "seminas": {"steps": 300, "batch_size": 32, "unlabelled": 300},
    "gates": {"steps": 400, "hidden": 32, "batch_size": 32},
}


def make(name: str) -> Predictor:
    return predictor_class(name)(**SMALL.get(name, {}))


_fit = jax.jit(lambda predictor, *args: predictor.fit(SPACE, *args), static_argnums=0)
_predict = jax.jit(lambda predictor, *args: predictor.predict(*args), static_argnums=0)
SIZE = 200  # of every fit, the rows beyond those that are given having failed: one program


def fit(name: str, rows, targets, start=None):
    room = SIZE - len(rows)
    rows = jnp.concatenate([rows, jnp.zeros((room, rows.shape[1]), jnp.int32)])
    return _fit(make(name), rows, jnp.concatenate([targets, jnp.full(room, jnp.nan, jnp.float32)]), start)


def predict(name: str, params, rows):
    room = SIZE - len(rows)
    rows = jnp.concatenate([rows, jnp.zeros((room, rows.shape[1]), jnp.int32)])
    return [each[: SIZE - room] for each in _predict(make(name), params, rows)]


def score(encodings):
    """Additive: what each choice adds is drawn once."""
    table = np.random.default_rng(0).normal(size=(len(SPACE.cardinalities), 4))
    return jnp.asarray(table[np.arange(len(SPACE.cardinalities)), np.asarray(encodings)].sum(1), jnp.float32)


# Each of these is compiled for minutes in all: by default they are held to the first law alone.
LONG = ("nao", "seminas", "gates")
others = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in PREDICTORS]
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in ("nao", "seminas") else []) for n in PREDICTORS]
)
def test_learns_an_additive_score_and_knows_what_it_does_not_know(key, name):
    assert isinstance(make(name), Predictor)
    seen, unseen = sample(SPACE, key, 200), sample(SPACE, jr.fold_in(key, 1), 200)
    params = fit(name, seen, score(seen) + 0.1 * jr.normal(key, (200,)))
    mean, std = predict(name, params, unseen)
    # Trees add up steps, and are the worse for it here.
    assert np.corrcoef(mean, score(unseen))[0, 1] > (0.95 if name == "boosted-trees" else 0.98)
    inside = np.abs(np.asarray(mean - score(unseen))) < 2 * np.asarray(std)
    assert inside.mean() > 0.9
    assert predict(name, fit(name, seen[:10], score(seen[:10])), unseen)[1].mean() > 2 * std.mean()


@others
def test_what_failed_does_not_matter(key, name):
    rows = sample(SPACE, key, 60)
    failed = score(rows).at[40:].set(jnp.nan)
    one = predict(name, fit(name, rows, failed), rows)
    other = predict(name, fit(name, rows.at[40:].set(0), failed), rows)
    np.testing.assert_array_equal(one, other)
    assert np.isfinite(np.stack(one)).all()


@others
def test_equal_targets_give_that_target(key, name):
    rows = sample(SPACE, key, 20)
    mean, std = predict(name, fit(name, rows, jnp.full(20, 0.25, jnp.float32)), rows)
    np.testing.assert_allclose(mean, 0.25, atol=1e-5)
    assert np.isfinite(std).all()


@others
def test_a_fit_that_goes_on_from_another_needs_fewer_rows(key, name):
    """Of a score that is the old one but for its unit, ten rows tell far more after a fit of that one."""
    old, unseen, new = (sample(SPACE, jr.fold_in(key, i), n) for i, n in enumerate((200, 200, 10)))
    before = fit(name, old, score(old))
    fits = fit(name, new, 3 + 0.1 * score(new)), fit(name, new, 3 + 0.1 * score(new), before)
    alone, warm = (np.corrcoef(predict(name, params, unseen)[0], score(unseen))[0, 1] for params in fits)
    assert warm > alone + 0.1


# Several together


def test_what_orders_unseen_rows_best_counts_most(key):
    """Of a score that no sum of choices tells, a line counts little."""
    rows = sample(SPACE, key, 200)
    crossed = jnp.asarray((np.asarray(rows)[:, -1] % 2) * 2 - 1) * score(rows)
    params = fit("auto", rows, crossed)
    shares = make("auto").shares(params)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert shares["linear"] < 0.1
    assert make("auto").shares(fit("auto", rows, score(rows)))["boosted-trees"] < 0.2


@pytest.mark.parametrize("name", ["boosted-trees", "auto"])
def test_few_known_rows_are_learned_from_as_far_as_they_go(name, key):
    rows = sample(SPACE, key, 20)
    for n in (0, 1, 2, 3, 4):
        mean, deviation = predict(name, fit(name, rows[:n], score(rows[:n])), rows)
        assert np.isfinite(mean).all(), n
        assert (np.asarray(deviation) >= 0).all(), n


def test_costs_from_outside_are_no_features(key):
    """A predictor is of its space, and goes on where a latency was measured too."""
    rows = sample(SPACE, key, 5)
    timed = with_cost(SPACE, lambda space, encodings: {"mine": np.asarray(encodings).sum(1)})
    assert "mine" in timed.cost(rows)
    np.testing.assert_array_equal(features(timed, rows), features(SPACE, rows))


def test_tau_of_known_rows_is_that_of_scipy(key):
    one, other = jr.normal(key, (2, 30))
    known = jnp.arange(30) < 20
    expected = kendalltau(one[:20], other[:20])[0]
    assert float(kendall(one, jnp.where(known, other, 0.0), known)) == pytest.approx(expected, abs=1e-5)
