"""One entrant on one member, seed by seed."""

import ast
import dataclasses
import functools
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.engine import study
from predictors import predictor_class
from proving.family import Member
from proving.plain import Oracle
from spaces.base import every, place_values
from strategies import strategy_class
from strategies.prescreened import Prescreened

TABLES = 20  # of a member


@dataclasses.dataclass
class Run:
    numbers: list[int]  # the table of each seed
    encodings: np.ndarray  # int32 [seeds, trials, length]
    observed: np.ndarray  # float [seeds, trials, m]
    clean: np.ndarray  # float [seeds, trials], the first objective without noise; NaN for failures
    seconds: float  # of the searches, without compiling

    def reached(self) -> np.ndarray:
        """After each trial the clean score of the best observed, the earlier of equals."""
        reached = np.take_along_axis(self.clean, study.best_so_far(self.observed[:, :, 0]), axis=1)
        return np.where(np.isfinite(reached), reached, np.nanmax(self.clean))

    def different(self) -> float:
        """How many different rows a search evaluated, on average."""
        return float(np.mean([len(np.unique(rows, axis=0)) for rows in self.encodings]))


def split(names: str) -> list[str]:
    """At commas that are not within brackets."""
    return re.split(r",(?![^(]*\))", names)


def make(name: str) -> Any:
    """A strategy by its name, as `ppo(entropy=0.1)` with fields of its own; `prescreened` is regularized evolution
    with a Gaussian process before it."""
    name, _, fields = name.partition("(")
    if name == "prescreened":
        return Prescreened(strategy_class("regularized-evolution")(), predictor_class("gp")())
    words = ast.parse(f"f({fields.rstrip(')')})", mode="eval").body.keywords  # type: ignore[attr-defined]
    return strategy_class(name)(**{word.arg: ast.literal_eval(word.value) for word in words})


def ours(name: str, member: Member, seeds: range, trials: int) -> Run:
    strategy, parts, seconds = make(name), [], 0.0
    groups = [[seed for seed in seeds if seed % TABLES == number] for number in range(TABLES)]
    groups = [group for group in groups if group]
    for place, group in enumerate(groups):
        search = functools.partial(
            study.run, strategy, member.space, member.table(group[0] % TABLES), group, trials, limits=member.limits
        )
        noise = _noise(member, group[0] % TABLES)
        if place == 0 or len(group) != len(groups[place - 1]):
            search(noise=noise)  # compiles
        start = time.perf_counter()
        parts.append((group, search(noise=noise)))
        seconds += time.perf_counter() - start
    order = np.argsort([seed for group, _ in parts for seed in group])
    encodings, observed = (
        np.concatenate([getattr(found, what) for _, found in parts])[order] for what in ("encodings", "objectives")
    )
    numbers = [seed % TABLES for seed in seeds]
    return Run(numbers, encodings, observed, _clean(member, numbers, encodings), seconds)


def theirs(search: Callable[[Oracle], None], member: Member, seeds: range, trials: int) -> Run:
    rows = every(member.space)
    legal = None if rows is None else rows[member.legal()]
    encodings, observed, numbers, seconds = [], [], [seed % TABLES for seed in seeds], 0.0
    for seed in seeds:
        oracle = oracle_of(member, seed, trials, legal)
        start = time.perf_counter()
        search(oracle)
        seconds += time.perf_counter() - start
        encodings.append(np.array(oracle.rows[:trials], np.int32))
        observed.append(np.array(oracle.values[:trials]))
    stacked = np.stack(encodings)
    return Run(numbers, stacked, np.stack(observed), _clean(member, numbers, stacked), seconds)


def oracle_of(member: Member, seed: int, trials: int, every_legal: np.ndarray | None) -> Oracle:
    number = seed % TABLES
    table, noise = member.table(number), _noise(member, number)
    kept: dict[bytes, float] = {}
    draw = np.random.default_rng([seed, 1])

    def evaluate(rows: np.ndarray) -> np.ndarray:
        exact = looked_up(member, table, rows)
        for row in rows:  # a row has its own in each seed
            kept.setdefault(row.tobytes(), float(draw.normal()))
        return exact + noise * np.array([[kept[row.tobytes()]] for row in rows])

    sizes = member.space.cardinalities
    return Oracle(sizes, evaluate, allowed(member), every_legal, trials, np.random.default_rng([seed, 2]))


def allowed(member: Member) -> Callable[[np.ndarray], np.ndarray]:
    """What says of rows whether they keep the limits."""
    if not member.limits:
        return lambda rows: np.ones(len(rows), bool)
    legal, places = member.legal(), place_values(member.space)
    return lambda rows: legal[rows @ places]


def looked_up(member: Member, table: Any, rows: np.ndarray) -> np.ndarray:
    """The clean objectives of rows, [n, m]."""
    if callable(table):
        return np.asarray(called(table, jnp.asarray(rows, jnp.int32)))
    return np.asarray(table)[rows @ place_values(member.space)].reshape(len(rows), -1)


@jax.jit
def called(table: Any, rows: Any) -> Any:
    return table(rows)


def _noise(member: Member, number: int) -> float:
    if not member.noise:
        return 0.0
    table = member.table(number)
    return member.noise * (1.0 if callable(table) else float(np.nanstd(table)))


def _clean(member: Member, numbers: list[int], encodings: np.ndarray) -> np.ndarray:
    pairs = zip(numbers, encodings, strict=True)
    return np.stack([looked_up(member, member.table(number), rows)[:, 0] for number, rows in pairs])
