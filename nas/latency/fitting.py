"""A table of latencies from those of whole networks: linear regression, with a penalty that is chosen by what it costs.

The features of a network are the choice at each of its places, and how often it makes each choice anywhere: few
networks say less of a single place than of an operation, which costs about the same wherever it is. Both are sums over
places, and so is what they give.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import spearmanr

from spaces.latency import Latency

POOLED = 3.0  # how much cheaper to the penalty it is to change an operation everywhere than at one place
PENALTIES = tuple(10.0**power for power in np.arange(-2, 3.1, 0.5))


class Agreement(NamedTuple):
    """How well the latencies of networks are told, of which nothing was learned."""

    networks: int
    spearman: float  # rank correlation of what was told with what was measured
    mean_relative_error: float


def fitted(
    rows: Int[np.ndarray, "n places"], milliseconds: Float[np.ndarray, "n"], sizes: tuple[int, ...], none: int | None
) -> Latency:
    """The table that fits best, each network by those without it. `none` is the choice that adds nothing."""
    features = _features(rows, sizes)
    mean, level = features.mean(0), float(milliseconds.mean())
    u, s, v = np.linalg.svd(features - mean, full_matrices=False)
    along = u.T @ (milliseconds - level)

    def error_without(penalty: float) -> float:
        """Mean squared error, of each network as if it had been left out (leave-one-out, in closed form)."""
        shrunk = s**2 / (s**2 + penalty)
        left = milliseconds - level - u @ (shrunk * along)
        own = 1 / len(rows) + (u**2 * shrunk).sum(1)
        return float(np.mean((left / np.maximum(1 - own, 1e-9)) ** 2))

    penalty = min(PENALTIES, key=error_without)
    weights = v.T @ (s / (s**2 + penalty) * along)
    return _table(weights, level - float(mean @ weights), sizes, none)


def _features(rows: Int[np.ndarray, "n places"], sizes: tuple[int, ...]) -> Float[np.ndarray, "n features"]:
    ones = [np.arange(size) == rows[:, [place]] for place, size in enumerate(sizes)]
    pooled = [(rows == choice).sum(1, keepdims=True) * POOLED for choice in range(max(sizes))]
    return np.concatenate([*ones, *pooled], 1).astype(np.float64)


def _table(weights: np.ndarray, fixed: float, sizes: tuple[int, ...], none: int | None) -> Latency:
    """What features weigh, as a table of places."""
    ends = np.cumsum(sizes)
    pooled, rows = weights[ends[-1] :] * POOLED, []
    for size, end in zip(sizes, ends, strict=True):
        row = weights[end - size : end] + pooled[:size]
        base = float(row[none]) if none is not None else float(row.min())
        fixed += base
        rows.append(tuple((row - base).tolist()))
    return Latency(fixed, tuple(rows))


def agreement(told: Float[np.ndarray, "n"], milliseconds: Float[np.ndarray, "n"]) -> Agreement:
    same = len(set(told.tolist())) < 2 or len(set(milliseconds.tolist())) < 2
    rank = 0.0 if same else float(spearmanr(told, milliseconds)[0])  # pyright: ignore[reportArgumentType]
    return Agreement(len(told), rank, float(np.mean(np.abs(told - milliseconds) / milliseconds)))
