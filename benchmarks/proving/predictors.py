"""How well predictors order the rows of made tables, beside plain ones of scikit-learn and LightGBM."""

import argparse
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import report
from predictor_quality import fit, predict
from scipy.stats import kendalltau

from predictors import predictor_class
from proving.family import Member
from proving.runs import split
from spaces.base import every, one_hot

SIZES = (20, 78, 200, 600)
OURS = ("auto", "gp", "linear", "boosted-trees")
MOST_ROWS = 4000  # of a table, by which predictions are judged


def _ridge() -> Any:
    from sklearn.linear_model import RidgeCV

    return RidgeCV(np.logspace(-3, 3, 13))


def _forest() -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(200, min_samples_leaf=2, random_state=0)


def _boosting() -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(random_state=0)


PLAIN: dict[str, Callable[[], Any]] = {"ridge": _ridge, "forest": _forest, "boosting": _boosting}


def league(members: list[Member], options: argparse.Namespace) -> tuple[str, Any]:
    names = split(options.entrants) if options.entrants else (*OURS, *PLAIN)
    members = [member for member in members if member.listed]
    found: dict[str, dict[str, list[list[float]]]] = {name: {} for name in names}
    for member in members:
        for name in names:
            found[name][member.name] = [
                [_tau(name, member, draw, size) for size in SIZES] for draw in range(options.seeds)
            ]
            means = np.mean(found[name][member.name], 0)
            report.say(f"{member.name}: {name}: " + " ".join(f"{tau:.3f}" for tau in means))
    text = f"Kendall's tau with the clean scores, mean of {options.seeds} draws.\n\n"
    for place, size in enumerate(SIZES):
        lines = []
        for name in names:
            means = [np.mean(found[name][member.name], 0)[place] for member in members]
            lines.append([name, *(f"{mean:.3f}" for mean in means), f"{np.mean(means):.3f}"])
        header = ["", *(member.name for member in members), "mean"]
        text += f"Of {size} rows:\n\n" + report.table(header, lines) + "\n\n"
    return text, found


def _tau(name: str, member: Member, number: int, size: int) -> float:
    table, draw = member.table(number), np.random.default_rng([number, size])
    usable = np.flatnonzero(member.legal() & np.isfinite(table))
    rows, chosen = every(member.space), draw.permutation(usable)[:size]
    noise = member.noise * np.nanstd(table)
    targets = (table[chosen] + noise * draw.normal(size=size)).astype(np.float32)
    judged = draw.permutation(np.setdiff1d(usable, chosen))[:MOST_ROWS]
    if name in PLAIN:
        model = PLAIN[name]().fit(np.asarray(one_hot(member.space, jnp.asarray(rows[chosen]))), targets)
        told = model.predict(np.asarray(one_hot(member.space, jnp.asarray(rows[judged]))))
    else:
        predictor = predictor_class(name)()
        params = fit(predictor, member.space, jnp.asarray(rows[chosen]), jnp.asarray(targets))
        told = np.asarray(predict(predictor, params, jnp.asarray(rows[judged])))
    return float(kendalltau(told, table[judged])[0])
