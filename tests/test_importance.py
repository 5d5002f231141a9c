"""The importance of decisions: exact on trees that can be enumerated, and what is planted in a function is found."""

import itertools

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from nas.report import importance as imp

SIZES = (2, 3, 4, 1, 3)
EVERY = np.array(list(itertools.product(*map(range, SIZES))))


def by_enumeration(predict) -> np.ndarray:
    values = predict(imp.one_hot(EVERY, SIZES))
    marginals = [[values[EVERY[:, i] == choice].mean() for choice in range(size)] for i, size in enumerate(SIZES)]
    return np.array([np.var(means) for means in marginals]) / values.var()


@pytest.mark.parametrize("depth", [1, 3, None])
def test_a_trees_importances_are_those_of_all_architectures(depth):
    rng = np.random.default_rng(0)
    rows = EVERY[rng.permutation(len(EVERY))[:40]]
    tree = DecisionTreeRegressor(max_depth=depth, random_state=0).fit(imp.one_hot(rows, SIZES), rng.normal(size=40))
    np.testing.assert_allclose(imp.first_order(tree.tree_, SIZES), by_enumeration(tree.predict), rtol=1e-6, atol=1e-9)


def test_a_tree_of_one_value_has_none():
    tree = DecisionTreeRegressor().fit(imp.one_hot(EVERY, SIZES), np.ones(len(EVERY)))
    assert imp.first_order(tree.tree_, SIZES) is None


def test_what_was_planted_is_found():
    rows = EVERY[np.random.default_rng(1).permutation(len(EVERY))[:60]]
    found = imp.importance(rows, 3.0 * rows[:, 2] + 0.5 * rows[:, 4], SIZES)
    assert found.shares.argmax() == 2
    assert found.shares[2] > 0.6
    assert found.shares[3] == pytest.approx(0)
    assert found.shares.sum() <= 1 + 1e-9
    assert found.agreement is not None
    assert found.agreement > 0.8
    assert (found.rows, found.seen) == (60, 60)


def test_equal_scores_have_no_agreement():
    found = imp.importance(EVERY[:30], np.ones(30), SIZES)
    assert found.agreement is None
    assert not found.shares.any()
