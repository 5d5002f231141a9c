"""What a finished job says of what it found: whether it is better than the random ones by more than chance explains."""

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
    assert said.endswith("(chance explains 4.9 by the choice of test images).")


def test_many_images_of_many_are_not():
    said = str(compared(outcome(0.10, [0.12, 0.13, 0.125], test_images=10_000)))
    assert "the 3 random ones 12.50 % in the mean (12.00 % to 13.00 %)" in said
    # Two standard errors of 11.88 % of 10,000 images; 4.303 deviations of 0.5 %, both times sqrt(4 / 3).
    parts = "chance explains 74.7 by the choice of test images, 248.4 by the spread of the random ones"
    side = "more than chance explains, in favour of what was found"
    assert f"The difference is 250.0 of 10000 test images, {side} ({parts})." in said
    said = str(compared(outcome(0.16, [0.12, 0.13, 0.125], test_images=10_000)))
    assert "more than chance explains, in favour of the random ones" in said


def test_random_ones_that_differ_among_each_other_explain_as_much():
    said = str(compared(outcome(0.06, [0.05, 0.06, 0.07, 0.08, 0.09], test_images=10_000)))
    assert "The difference is 100.0 of 10000 test images, less than chance explains" in said
    assert "480.9 by the spread of the random ones" in said  # 2.776 times 1.581 % times sqrt(6 / 5)


def test_of_one_random_one_no_more_than_the_images_is_known():
    said = str(compared(outcome(0.10, [0.14], test_images=10_000)))
    assert "more than the images explain, in favour of what was found" in said
    assert said.endswith("Whether that is chance, more random ones would tell (--baselines).")


@pytest.mark.parametrize("spread", [0.0, 0.02])
@pytest.mark.parametrize("k", [3, 5])
def test_of_equal_networks_one_in_twenty_at_most_is_said_to_differ(spread, k):
    """Drawn anew, as networks whose true errors differ and as such that are equally good."""
    rng, n = np.random.default_rng(0), 2000
    true = np.clip(rng.normal(0.1, spread, (2000, 1 + k)), 0.01, 1)
    shares = rng.binomial(n, true) / n
    beyond = ["more than chance" in str(compared(outcome(mine, list(rest), test_images=n))) for mine, *rest in shares]
    assert np.mean(beyond) <= 0.05 + 0.01
    if spread:  # else the images leave less to the spread
        assert np.mean(beyond) == pytest.approx(0.05, abs=0.012)


def test_where_more_is_better_the_best_of_the_random_ones_is_the_highest():
    said = str(compared(outcome(0.8, [0.3, 0.4, 0.45], "ap", metric_most=True, test_images=50)))
    assert "(0.45 to 0.3)" in said
    assert "more than chance explains, in favour of what was found (chance explains 0.3795" in said


def test_one_random_one_tells_nothing_of_numbers():
    assert "more random ones would tell" in str(compared(outcome(0.5, [0.4], "rmse", test_images=50)))
    assert compared(outcome(0.5, [], "rmse")) is None
