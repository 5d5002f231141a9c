"""Whether what was found is better than random architectures by more than chance explains, in words."""

import math
from collections.abc import Sequence

from nas.report.output import number


def verdict(
    metric: str, found: float, random: Sequence[float], *, most: bool = False, images: int | None = None
) -> str | None:
    """Of values of `metric` in test, of which `most` says that more is better; `images` is how many the test has.
    None without random ones.

    The standard error of a share p of n images is sqrt(p (1 - p) / n); of its difference from the mean of k such shares
    it is sqrt(1 + 1 / k) times that. Of other metrics than `error` the spread of the random ones is all that is known.
    """
    if not random:
        return None
    name, mean = f"test_{metric}", sum(random) / len(random)
    best, worst = (max(random), min(random)) if most else (min(random), max(random))
    count = "the random one" if len(random) == 1 else f"the {len(random)} random ones"
    said = f"In test what was found has {metric} {number(name, found)}, {count} {number(name, mean)}"
    if len(random) > 1:
        said += f" in the mean ({number(name, best)} to {number(name, worst)})"
    favoured = "what was found" if (found > mean) == most and found != mean else "the random ones"
    if metric == "error" and images:
        p = (found + sum(random)) / (1 + len(random))
        chance = 2 * math.sqrt(p * (1 - p) / images * (1 + 1 / len(random)))
        within = abs(found - mean) <= chance
        side = "less than chance explains" if within else f"more than chance explains, in favour of {favoured}"
        gap = f"{abs(found - mean) * images:.1f} of {images} test images"
        return f"{said}. The difference is {gap}, {side} (two standard errors are {chance * images:.1f})."
    if len(random) < 3:
        return f"{said}. Whether that is chance, more random ones would tell (--baselines)."
    inside = min(random) <= found <= max(random)
    where = "within" if inside else f"in favour of {favoured}, outside of"
    return f"{said}. It lies {where} what the random ones span."
