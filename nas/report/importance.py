"""How much each decision of a space matters: functional analysis of variance of a random forest.

Hutter, Hoos & Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", 2014,
https://proceedings.mlr.press/v32/hutter14.html. A forest learns the score from one-hot rows. A leaf of a tree is a box:
of each decision the choices that lead to it. So over architectures drawn uniformly, the mean of a tree's prediction
where one decision is fixed is an exact sum over leaves, and the variance of these means over the choices, as a share of
the tree's whole variance, is the importance of the decision alone (of first order). The rest is of decisions together.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

TREES = 64
FOLDS = 5
MOST_ROWS = 2000  # of which a forest learns


class Importance(NamedTuple):
    shares: np.ndarray  # [decisions], of the variance over the whole space
    spread: np.ndarray  # [decisions], the deviation of it over trees
    agreement: float | None  # Spearman's correlation of scores with what forests say that have not seen them
    rows: int  # that it learned from
    seen: int  # architectures that there were


def importance(rows: np.ndarray, scores: np.ndarray, sizes: Sequence[int], seed: int = 0) -> Importance:
    """Of rows `[n, decisions]` with their scores `[n]`, and the number of choices at each decision."""
    seen = len(rows)
    if seen > MOST_ROWS:
        chosen = np.random.default_rng(seed).choice(seen, MOST_ROWS, replace=False)
        rows, scores = rows[chosen], scores[chosen]
    inputs = one_hot(rows, sizes)
    forest = _forest(seed).fit(inputs, scores)
    found = np.array([share for tree in forest.estimators_ if (share := first_order(tree.tree_, sizes)) is not None])
    if not len(found):
        found = np.zeros((1, len(sizes)))
    return Importance(found.mean(0), found.std(0), _agreement(inputs, scores, seed), len(rows), seen)


def one_hot(rows: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    decision, choice = columns(sizes)
    return (rows[:, decision] == choice[None]).astype(np.float32)


def columns(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Of each column of one-hot rows its decision and its choice."""
    return np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(size) for size in sizes])


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(TREES, max_features=1 / 3, min_samples_leaf=2, random_state=seed)


def _agreement(inputs: np.ndarray, scores: np.ndarray, seed: int) -> float | None:
    """None where it has no meaning: all scores or all guesses are equal."""
    from scipy.stats import spearmanr

    order = np.random.default_rng(seed).permutation(len(scores))
    guesses = np.zeros(len(scores))
    for fold in np.array_split(order, min(FOLDS, len(order))):
        kept = np.setdiff1d(order, fold)
        guesses[fold] = _forest(seed).fit(inputs[kept], scores[kept]).predict(inputs[fold])
    if np.ptp(guesses) == 0 or np.ptp(scores) == 0:
        return None
    found: Any = spearmanr(guesses, scores)
    return float(found.statistic)


def first_order(tree: Any, sizes: Sequence[int]) -> np.ndarray | None:
    """The importances `[decisions]` in a tree of scikit-learn; None for a tree of one value."""
    decision, _ = columns(sizes)
    boxes, values = _leaves(tree, decision)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    fractions = np.add.reduceat(boxes, starts, axis=1) / np.array(sizes, float)  # [leaves, decisions]
    weights = fractions.prod(1)
    mean = (weights * values).sum()
    variance = (weights * values**2).sum() - mean**2
    if variance <= 1e-12 * max(mean**2, 1e-300):
        return None
    # Where a choice is fixed, a leaf that has it weighs what the other decisions give it.
    others = weights[:, None] / fractions
    marginal = (boxes * (others * values[:, None])[:, decision]).sum(0)
    return np.add.reduceat((marginal - mean) ** 2, starts) / np.array(sizes, float) / variance


def _leaves(tree: Any, decision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of the leaves that some architecture reaches, as truths `[leaves, columns]`, and their values."""
    boxes, values = [], []
    waiting = [(0, np.ones(len(decision), bool))]
    while waiting:
        node, box = waiting.pop()
        if not np.bincount(decision, box).all():  # no choice is left: nothing comes here
            continue
        if tree.children_left[node] < 0:
            boxes.append(box)
            values.append(tree.value[node, 0, 0])
            continue
        column = tree.feature[node]
        without, with_it = box.copy(), box & ((decision != decision[column]) | (np.arange(len(box)) == column))
        without[column] = False
        waiting += [(tree.children_left[node], without), (tree.children_right[node], with_it)]
    return np.array(boxes), np.array(values)
