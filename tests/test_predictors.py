"""Every listed predictor learns an additive score, knows what it does not know, and ignores failures."""

import importlib

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from predictors import PREDICTORS
from predictors.base import Predictor
from spaces.base import sample
from spaces.shufflenet import PRESETS

SPACE = PRESETS["tiny"]


def make(name: str) -> Predictor:
    module, _, attribute = PREDICTORS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)()


def score(encodings):
    """Additive: what each choice adds is drawn once."""
    table = np.random.default_rng(0).normal(size=(len(SPACE.cardinalities), 4))
    return jnp.asarray(table[np.arange(len(SPACE.cardinalities)), np.asarray(encodings)].sum(1), jnp.float32)


@pytest.mark.parametrize("name", PREDICTORS)
def test_learns_an_additive_score(key, name):
    predictor = make(name)
    assert isinstance(predictor, Predictor)
    seen, unseen = sample(SPACE, key, 200), sample(SPACE, jr.fold_in(key, 1), 500)
    noise = 0.1 * jr.normal(key, (200,))
    mean, std = predictor.predict(predictor.fit(SPACE, seen, score(seen) + noise), unseen)
    assert np.corrcoef(mean, score(unseen))[0, 1] > 0.98
    inside = np.abs(np.asarray(mean - score(unseen))) < 2 * np.asarray(std)
    assert inside.mean() > 0.9


@pytest.mark.parametrize("name", PREDICTORS)
def test_is_less_sure_after_fewer_rows(key, name):
    predictor, rows = make(name), sample(SPACE, key, 300)
    few = predictor.predict(predictor.fit(SPACE, rows[:10], score(rows[:10])), rows[10:])[1]
    many = predictor.predict(predictor.fit(SPACE, rows[:250], score(rows[:250])), rows[250:])[1]
    assert few.mean() > 2 * many.mean()


@pytest.mark.parametrize("name", PREDICTORS)
def test_failed_rows_are_left_out(key, name):
    predictor, rows = make(name), sample(SPACE, key, 60)
    failed = score(rows).at[40:].set(jnp.nan)
    with_failures = predictor.predict(predictor.fit(SPACE, rows, failed), rows)
    without = predictor.predict(predictor.fit(SPACE, rows[:40], failed[:40]), rows)
    np.testing.assert_allclose(with_failures, without, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", PREDICTORS)
def test_equal_targets_give_that_target(key, name):
    predictor, rows = make(name), sample(SPACE, key, 20)
    mean, std = predictor.predict(predictor.fit(SPACE, rows, jnp.full(20, 0.25)), rows)
    np.testing.assert_allclose(mean, 0.25, atol=1e-5)
    assert np.isfinite(std).all()
