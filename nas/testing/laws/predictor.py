"""The laws of predictors: see `predictors.base.Predictor`."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from nas.testing.laws.base import alike, anew, calls, first, foreseen, frozen, has, law
from nas.testing.laws.names import PREDICTOR, check_names
from nas.testing.laws.numbers import Numbers, score
from predictors.base import Composed
from spaces.base import Encodings, Space, sample

ROWS = 60
NEAR = 0.25  # of the deviation of the targets: how far apart fits are on average that differ in what should not matter


@foreseen()
def check_predictor(predictor: Any, space: Space | None = None, *, seed: int = 0) -> None:
    """The laws of a predictor: see `predictors.base.Predictor`. Raises Broken."""
    has(predictor, "fit predict")
    frozen(predictor)
    check_names(predictor, PREDICTOR)
    space = Numbers() if space is None else space
    key = jr.key(seed)
    rows = sample(space, key, ROWS)
    targets, order = 5 + score(rows), jr.permutation(jr.fold_in(key, 1), ROWS)
    tried = f"{ROWS} rows"

    def fit(rows: Encodings, targets: jax.Array, start: Any = None) -> Any:
        return predictor.fit(space, rows, targets, start)

    program, predict = anew(fit), anew(predictor.predict)
    fitted = calls("fit works in a jitted function", tried, program, rows, targets)
    mean, deviation = calls("predict works in a jitted function", tried, predict, fitted, rows)
    _check_predictions(rows, mean, deviation)
    any_predictor: Any = predictor
    if isinstance(any_predictor, Composed):
        shares = calls("shares says what each predictor counts", tried, any_predictor.shares, fitted)
        law(abs(sum(shares.values()) - 1) <= 1e-3, "the sum of shares is 1", tried, shares)
    again = anew(fit)(rows, targets)  # traced once more: what was drawn in Python would be a constant of the program
    law(alike(fitted, again), "the same rows give the same fit", tried, "another one")
    spread = targets.std()

    def near(one: jax.Array, other: jax.Array, said: str) -> None:
        apart = jnp.sqrt(((one - other) ** 2).mean())
        law(apart <= NEAR * spread, said, tried, f"predictions that are {float(apart):g} apart")

    near(mean, predict(program(rows[order], targets[order]), rows)[0], "rows may come in any order")
    there = jnp.arange(ROWS) % 2 > 0
    failed = jnp.where(there, targets, jnp.nan)
    left_out = "failed rows (NaN) are left out of the fit"
    mean, _ = predict(program(rows, failed), rows)
    first(jnp.isfinite(mean), left_out, rows, mean)
    others = jnp.where(there[:, None], rows, sample(space, jr.fold_in(key, 2), ROWS))
    law(alike(mean, predict(program(others, failed), rows)[0]), left_out, tried, "that what failed counts")
    near(mean, predict(program(rows[there], targets[there]), rows)[0], left_out)
    warm = calls("fit goes on from an earlier fit, its start", tried, program, rows, targets, fitted)
    _check_predictions(rows, *calls("predict takes a fit that went on", tried, predict, warm, rows))


def _check_predictions(rows: Encodings, mean: jax.Array, deviation: jax.Array) -> None:
    for name, values in (("mean", mean), ("standard deviation", deviation)):
        law(values.shape == (len(rows),), f"predict gives a {name} for each row", len(rows), values.shape)
        first(jnp.isfinite(values), f"the {name} is finite", rows, values)
    first(deviation >= 0, "the standard deviation is not negative", rows, deviation)
