"""Two objectives: how much of the best front's hypervolume a search found."""

import argparse
import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import moocore
import numpy as np
import report
from jax.tree_util import Partial
from scipy.stats import mannwhitneyu

from nas.engine import study
from proving import plain
from proving.family import Member
from proving.plain import Oracle
from proving.runs import TABLES, allowed, called, make, split
from spaces.base import costs, every, indices

AT = (100, 200, 300)
NAMES = ("random", "front mutation", "pymoo", "nsga2")


@functools.cache
def _both(member: Member) -> Callable[[Any, Any], Any]:
    """One function of a member, and so one program for all its tables."""

    def both(table: Any, rows: Any) -> Any:
        first = table[indices(member.space, rows)] if member.listed else table(rows)[:, 0]
        return jnp.stack([first, member.space.cost(rows)["macs"]], 1)

    return both


def league(members: list[Member], options: argparse.Namespace) -> tuple[str, Any]:
    names = split(options.entrants) if options.entrants else NAMES
    members = [member for member in members if "macs" in costs(member.space, [0] * len(member.space.cardinalities))]
    seeds = range(options.first, options.first + options.seeds)
    at = [n for n in AT if n <= options.trials]
    found: dict[str, Any] = {name: {} for name in names}
    for member in members:
        points = {name: _searched(name, member, seeds, options.trials) for name in names}
        for i, seed in enumerate(seeds):
            best = _front(member, seed % TABLES, [each[i] for each in points.values()])
            low, high = best.min(0), best.max(0)
            whole = _volume(best, low, high)
            for name in names:
                shares = [_volume(points[name][i][:n], low, high) / whole for n in at]
                found[name].setdefault(member.name, []).append(shares)
        for name in names:
            means = np.mean(found[name][member.name], 0)
            report.say(f"{member.name}: {name}: " + " ".join(f"{100 * share:.2f}" for share in means))
    text = f"{options.seeds} searches; share of the best front's hypervolume, reference 1.1 of its range, in %.\n\n"
    for place, n in enumerate(at):
        lines = []
        for name in names:
            cells = []
            for member in members:
                shares, random = (np.array(found[who][member.name])[:, place] for who in (name, names[0]))
                p = mannwhitneyu(shares, random).pvalue if name != names[0] else 1.0
                cells.append(f"{100 * shares.mean():.1f}" + ("" if p < 0.05 or name == names[0] else "~"))
            lines.append([name, *cells])
        text += f"After {n} trials:\n\n" + report.table(["", *(member.name for member in members)], lines) + "\n\n"
    return text, found


def _searched(name: str, member: Member, seeds: range, trials: int) -> list[np.ndarray]:
    """The objectives of each seed's trials."""
    theirs: dict[str, Callable[[Oracle], None]] = {"front mutation": plain.front_mutation, "pymoo": pymoo}
    found: dict[int, np.ndarray] = {}
    for number in sorted({seed % TABLES for seed in seeds}):
        group = [seed for seed in seeds if seed % TABLES == number]
        objective = _objectives(member, number)
        if name not in theirs:
            result = study.run(make(name), member.space, objective, group, trials, limits=member.limits)
            found |= dict(zip(group, result.objectives, strict=True))
            continue
        for seed in group:
            oracle = Oracle(
                member.space.cardinalities,
                lambda rows, objective=objective: np.asarray(called(objective, jnp.asarray(rows, jnp.int32))),
                allowed(member),
                None,
                trials,
                np.random.default_rng([seed, 3]),
            )
            theirs[name](oracle)
            found[seed] = np.array(oracle.values[:trials])
    return [found[seed] for seed in seeds]


def _objectives(member: Member, number: int) -> Partial:
    return Partial(_both(member), member.table(number))


def _front(member: Member, number: int, points: list[np.ndarray]) -> np.ndarray:
    """The best front there is, or of a space too large to list the best that all entrants met together."""
    if member.listed:
        everything = np.asarray(called(_objectives(member, number), jnp.asarray(every(member.space))))
        points = [everything[member.legal()]]
    together = np.concatenate(points).astype(float)
    together = together[np.isfinite(together).all(1)]
    return together[moocore.is_nondominated(together)]


def _volume(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    scaled = (points[np.isfinite(points).all(1)] - low) / np.maximum(high - low, 1e-12)
    return float(moocore.hypervolume(scaled.astype(float), ref=[1.1, 1.1]))


def pymoo(oracle: Oracle) -> None:
    """Its NSGA-II with whole numbers as genes, and what it was told already is not evaluated again."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    class Over(Exception):
        pass

    class Asked(Problem):
        def __init__(self):
            high = np.array(oracle.sizes) - 1
            super().__init__(n_var=len(high), n_obj=2, xl=0, xu=high, vtype=int)

        def _evaluate(self, x: np.ndarray, out: dict, *args: Any, **kwargs: Any) -> None:
            values = []
            for row in x:
                legal = oracle.legal(np.asarray(row)[None])[0]
                value = oracle.ask(row) if legal else np.full(2, np.nan)
                values.append(np.nan_to_num(value, nan=1e9))
                if oracle.over:
                    raise Over
            out["F"] = np.array(values)

    repair = {"repair": RoundingRepair(), "vtype": float}
    algorithm = NSGA2(
        pop_size=min(20, oracle.trials),
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=3.0, **repair),
        mutation=PM(prob=1.0, eta=3.0, **repair),
        eliminate_duplicates=True,
    )
    with contextlib.suppress(Over):
        minimize(Asked(), algorithm, ("n_gen", 10**6), seed=int(oracle.draw.integers(2**31)))
