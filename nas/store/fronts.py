"""Which points no other dominates, and how much these dominate. Every coordinate is minimised.

By the library of those who found the algorithms: López-Ibáñez et al., https://multi-objective.github.io/moocore.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

MOST = 31  # coordinates of a volume


def nondominated(values: Any) -> Any:
    """Of points [n, m] of numbers, which are dominated by none: [n], true or false. Equal points are so together.

    Kung et al., "On Finding the Maxima of a Set of Vectors", 1975, https://doi.org/10.1145/321906.321910.
    """
    import moocore  # not by those who ask for something else
    import numpy as np

    points = np.asarray(values, float)
    return np.asarray(moocore.is_nondominated(points, keep_weakly=True), bool) if len(points) else np.zeros(0, bool)


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume that is dominated by at least one point and dominates the reference. Exact, in time that grows as the
    square of the number of points in four dimensions, and as n log n in fewer.

    Guerreiro and Fonseca, "Computing and Updating Hypervolume Contributions in Up to Four Dimensions", 2018,
    https://doi.org/10.1109/TEVC.2017.2729550; in more dimensions Fonseca et al., "An Improved Dimension-Sweep Algorithm
    for the Hypervolume Indicator", 2006, https://doi.org/10.1109/CEC.2006.1688440.
    """
    import moocore
    import numpy as np

    bound = np.asarray(reference, float)
    inside = np.asarray(list(points), float).reshape(-1, len(bound))
    inside = inside[(inside < bound).all(1)]
    if not len(inside):
        return 0.0
    if not (np.isfinite(inside).all() and np.isfinite(bound).all()):
        return math.inf
    return float(moocore.hypervolume(inside, ref=bound))
