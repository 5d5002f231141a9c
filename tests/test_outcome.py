"""What a finished job says of what it found: whether it is better than the random ones by more than chance explains."""

import math

import numpy as np
import pytest

from nas.report.outcome import Outcome, compared


def outcome(mine: float, others: list[float], metric: str = "error", **more) -> Outcome:
    rows = [{"role": "found", "architecture": "a", f"test_{metric}": mine}]
    rows += [{"role": "random", "architecture": "b", f"test_{metric}": value} for value in others]
    return Outcome("run", "sqlite://", metric, [], rows, metric=metric, **more)


def test_two_images_of_digits_are_chance():
    said = str(compared(outcome(4 / 360, [2 / 360], test_images=360)))
    assert "what was found has error 1.11 %, the random one 0.56 %" in said
    assert "The difference is 2.0 of 360 test images, less than chance explains" in said


def test_many_images_of_many_are_not():
    said = str(compared(outcome(0.10, [0.12, 0.13, 0.125], test_images=10_000)))
    assert "the 3 random ones 12.50 % in the mean (12.00 % to 13.00 %)" in said
    assert (
        "The difference is 250.0 of 10000 test images, more than chance explains, in favour of what was found" in said
    )
    said = str(compared(outcome(0.14, [0.12, 0.13, 0.125], test_images=10_000)))
    assert "more than chance explains, in favour of the random ones" in said


def test_two_standard_errors_cover_equal_networks():
    """Of networks that are equally good, drawn anew, one in twenty is said to differ by more than chance."""
    rng, n, p, k = np.random.default_rng(0), 2000, 0.1, 3
    shares = rng.binomial(n, p, (2000, 1 + k)) / n
    beyond = ["more than chance" in str(compared(outcome(mine, list(rest), test_images=n))) for mine, *rest in shares]
    assert np.mean(beyond) == pytest.approx(math.erfc(2 / math.sqrt(2)), abs=0.015)


def test_where_more_is_better_the_best_of_the_random_ones_is_the_highest():
    said = str(compared(outcome(0.5, [0.3, 0.4, 0.45], "ap", metric_most=True, test_images=50)))
    assert "(0.45 to 0.3)" in said
    assert said.endswith("It lies in favour of what was found, outside of what the random ones span.")


def test_one_random_one_tells_nothing_of_numbers():
    assert "more random ones would tell" in str(compared(outcome(0.5, [0.4], "rmse", test_images=50)))
    assert compared(outcome(0.5, [], "rmse")) is None
