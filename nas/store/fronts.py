"""Which points no other dominates, and how much these dominate. Every coordinate is minimised."""

import bisect
from collections.abc import Iterable, Sequence
from typing import Any

FIRST, BLOCK = 32, 512  # points that the others are compared with first, and at once


def nondominated(values: Any) -> Any:
    """Of points [n, m] of numbers, which are dominated by none: [n], true or false. Equal points are so together.

    Börzsönyi et al., "The Skyline Operator", 2001, with the strongest points first (Chomicki et al., "Skyline with
    Presorting", 2003): a point is dominated by none that comes after it in the order of the sums of ranks.
    """
    import numpy as np

    values = np.asarray(values, float)
    if not len(values):
        return np.zeros(0, bool)
    # By ranks, so that units do not matter, and infinity is a number.
    ranks = np.stack([np.unique(column, return_inverse=True)[1].reshape(-1) for column in values.T], 1)
    left = np.argsort(ranks.sum(1), kind="stable")
    front: list[Any] = []
    size = FIRST
    while len(left):
        head = ranks[left[:size]]
        kept = left[:size][~_dominated(head, head)]
        front.append(kept)
        left = left[size:]
        left = left[~_dominated(ranks[left], ranks[kept])]
        size = BLOCK
    found = np.zeros(len(values), bool)
    found[np.concatenate(front)] = True
    return found


def _dominated(points: Any, by: Any) -> Any:
    """Which of points [n, m] are dominated by one of others [k, m]: [n]."""
    import numpy as np

    found = np.zeros(len(points), bool)
    alive = np.arange(len(points))
    for other in by:
        mine = points[alive]
        beaten = (other <= mine).all(1) & (other < mine).any(1)
        if beaten.any():
            found[alive[beaten]] = True
            alive = alive[~beaten]
    return found


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume that is dominated by at least one point and dominates the reference. Exact.

    By slices along the last coordinate (Zitzler, "Hypervolume metric calculation", 2001). What a point adds to a slice
    is its box less what the points before it dominate of that (While et al., "A Fast Way of Calculating Exact
    Hypervolumes", 2012); in three dimensions a sweep over a staircase (Fonseca et al., "An Improved Dimension-Sweep
    Algorithm for the Hypervolume Indicator", 2006).
    """
    inside = sorted({tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))})
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - inside[0][0]
    inside = [point for point, kept in zip(inside, nondominated(inside), strict=True) if kept]
    if len(reference) == 2:
        return _area(inside, reference)
    if len(reference) == 3:
        return _volume(inside, reference)
    return _sliced(inside, reference)


def _area(points: list[tuple[float, ...]], reference: Sequence[float]) -> float:
    """Of points in order, none of which dominates another."""
    ends = [y for _, y in points[:-1]]
    return sum((reference[0] - x) * (top - y) for (x, y), top in zip(points, [reference[1], *ends], strict=True))


def _volume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """In three dimensions: from the best z on, points join a staircase in x and y, whose area is kept."""
    limit_x, limit_y, limit_z = reference
    xs, ys = [-float("inf"), limit_x], [limit_y, -float("inf")]  # x rises, y falls; both ends are guards
    area = total = 0.0
    below = None
    for x, y, z in sorted(points, key=lambda point: point[2]):
        if below is not None:
            total += area * (z - below)
        below = z
        i = bisect.bisect_right(xs, x)
        if ys[i - 1] <= y:
            continue  # the staircase has it
        first = i - 1 if xs[i - 1] == x else i  # of the same x and a greater y
        last = first
        edge, height = x, ys[first - 1]
        while ys[last] >= y:  # steps that the new one takes in
            area += (xs[last] - edge) * (height - y)
            edge, height = xs[last], ys[last]
            last += 1
        area += (xs[last] - edge) * (height - y)
        xs[first:last], ys[first:last] = [x], [y]
    return total + (area * (limit_z - below) if below is not None else 0.0)


def _sliced(points: list[tuple[float, ...]], reference: Sequence[float]) -> float:
    """In four dimensions or more: what each point adds to a slice along the last coordinate, times what is behind."""
    import numpy as np

    ordered = np.array(sorted(points, key=lambda point: point[-1]))
    bound = np.array(reference[:-1])
    total = 0.0
    for i, point in enumerate(ordered[:, :-1]):
        box = float(np.prod(bound - point))
        total += (box - _covered(ordered[:i, :-1], point, bound)) * (reference[-1] - ordered[i, -1])
    return total


def _covered(others: Any, point: Any, bound: Any) -> float:
    """How much of the box from a point to the bound others dominate."""
    import numpy as np

    clipped = np.maximum(others, point)
    if not len(clipped):
        return 0.0
    if (clipped == point).all(1).any():
        return float(np.prod(bound - point))
    clipped = clipped[nondominated(clipped)]
    return hypervolume(map(tuple, clipped.tolist()), bound.tolist())
