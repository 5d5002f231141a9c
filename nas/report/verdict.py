"""Whether what was found is better than random architectures by more than chance explains, in words."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from nas.report.output import number

LEVEL = 0.95  # of what chance explains


def verdict(
    metric: str, found: float, random: Sequence[float], *, most: bool = False, images: int | None = None
) -> str | None:
    """Of values of `metric` in test, of which `most` says that more is better; `images` is how many the test has.
    None without random ones.

    Chance has two parts, and a difference counts that is more than each of them.

    - Which images the test happens to have: the standard error of a share p of n images is sqrt(p (1 - p) / n), and of
      its difference from the mean of k such shares sqrt(1 + 1 / k) times that. Two of them are taken. All networks see
      the same images, so it is rather too much. It is known for `error` alone.
    - Which architectures happen to be drawn, and how their trainings went: of k random ones with the deviation s, 95 %
      of further ones lie within t s sqrt(1 + 1 / k) of the mean, with the quantile t of Student's distribution with
      k - 1 degrees of freedom (a prediction interval).
    """
    if not random:
        return None
    name, mean, k = f"test_{metric}", fmean(random), len(random)
    best, worst = (max(random), min(random)) if most else (min(random), max(random))
    said = f"In test what was found has {metric} {number(name, found)}, "
    said += f"{'the random one' if k == 1 else f'the {k} random ones'} {number(name, mean)}"
    said += f" in the mean ({number(name, best)} to {number(name, worst)})" if k > 1 else ""
    counted = metric == "error" and images is not None and images > 0
    unit = float(images or 1) if counted else 1.0

    def told(difference: float) -> str:
        return f"{difference * unit:.1f}" if counted else number(name, difference)

    explained: dict[str, float] = {}
    if counted:
        p = (found + sum(random)) / (1 + k)
        explained["the choice of test images"] = 2 * math.sqrt(p * (1 - p) / unit * (1 + 1 / k))
    if k > 1 and (deviation := stdev(random)) > 0:
        explained["the spread of the random ones"] = _quantile(k - 1) * deviation * math.sqrt(1 + 1 / k)
    tells = "Whether that is chance, more random ones would tell (--baselines)."
    if not explained:
        return f"{said}. {tells}"
    gap = abs(found - mean)
    favoured = "what was found" if (found > mean) == most and found != mean else "the random ones"
    less = gap <= max(explained.values())
    side = "less than chance explains" if less else f"more than chance explains, in favour of {favoured}"
    parts = "chance explains " + ", ".join(f"{told(size)} by {what}" for what, size in explained.items())
    of = f" of {images} test images" if counted else ""
    more = f" {tells}" if k == 1 and not less else ""
    if more:
        side = f"more than the images explain, in favour of {favoured}"
    return f"{said}. The difference is {told(gap)}{of}, {side} ({parts}).{more}"


def _quantile(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
