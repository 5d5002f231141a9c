"""What a belief about choices is worth before a search: one that is right, and one that is wrong.

An expert knows the choice that the best row has in half of the decisions, and gives it five times the weight of others;
the wrong belief gives as much to another choice of these decisions.
"""

import argparse
from typing import Any

import numpy as np
import report

from nas.engine import study
from proving.family import Member
from proving.runs import make, split
from spaces.base import every
from strategies.base import with_trials
from strategies.guided import Guided

TABLES = 10  # of a member: each has a belief of its own, and so a program of its own
WEIGHT, SHARE = 5.0, 0.1  # the strength is that of a search job: a tenth of the trials
AT = (25, 50, 100, 300)
BELIEFS = ("none", "right", "wrong")


def league(members: list[Member], options: argparse.Namespace) -> tuple[str, Any]:
    names = split(options.entrants) if options.entrants else ["random", "regularized-evolution"]
    members = [member for member in members if member.listed]
    seeds = range(options.first, options.first + options.seeds)
    at = [n for n in AT if n <= options.trials]
    found: dict[str, dict[str, list[float]]] = {}
    for name in names:
        for belief in BELIEFS:
            label = name if belief == "none" else f"{name}, {belief} belief"
            found[label] = {each.name: _hits(name, belief, each, seeds, options.trials, at) for each in members}
            report.say(f"{label}: " + " ".join(f"{key} {value}" for key, value in found[label].items()))
    lines = [
        [label, *(" / ".join(f"{100 * hit:.0f}" for hit in hits[each.name]) for each in members)]
        for label, hits in found.items()
    ]
    text = (
        f"{options.seeds} searches; how many evaluated the best row after {', '.join(map(str, at))} trials, in %.\n\n"
    )
    return text + report.table(["", *(each.name for each in members)], lines), found


def _hits(name: str, belief: str, member: Member, seeds: range, trials: int, at: list[int]) -> list[float]:
    hits = []
    for number in range(TABLES):
        group = [seed for seed in seeds if seed % TABLES == number]
        if not group:
            continue
        table = member.table(number)
        lowest = float(np.nanmin(np.where(member.legal(), table, np.nan)))
        strategy = with_trials(make(name), trials)
        if belief != "none":
            strategy = Guided(strategy, _weights(member, table, number, right=belief == "right"), SHARE * trials)
        noise = member.noise * float(np.nanstd(table))
        result = study.run(strategy, member.space, table, group, trials, limits=member.limits, noise=noise)
        rows = np.ravel_multi_index(np.moveaxis(result.encodings, -1, 0), member.space.cardinalities)
        hits.append(np.logical_or.accumulate(table[rows] <= lowest, axis=1))
    return [float(np.concatenate(hits)[:, n - 1].mean()) for n in at]


def _weights(member: Member, table: np.ndarray, number: int, *, right: bool) -> tuple[tuple[float, ...], ...]:
    rows, draw = every(member.space), np.random.default_rng([number, 3])
    assert rows is not None
    best = rows[int(np.nanargmin(np.where(member.legal(), table, np.nan)))]
    known = draw.permutation(len(best))[: len(best) // 2]
    weights = [np.ones(size) for size in member.space.cardinalities]
    for i in known:
        others = [choice for choice in range(len(weights[i])) if choice != best[i]]
        weights[i][best[i] if right or not others else draw.choice(others)] = WEIGHT
    return tuple(tuple(map(float, row)) for row in weights)
