"""Plain baselines, each a few lines of NumPy and scikit-learn as anybody would write them: what is ours has to beat
these, not only random search.

A searcher is given the trial it stands at and what was observed, and says which rows come next. `Oracle` counts.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

INITIAL, BATCH, DRAWN = 10, 5, 2000


@dataclasses.dataclass
class Oracle:
    """What a baseline may ask for. `legal` says of rows `[n, length]` which may be evaluated."""

    sizes: tuple[int, ...]
    evaluate: Callable[[np.ndarray], np.ndarray]  # [n, length] to [n, m], NaN for a failure
    legal: Callable[[np.ndarray], np.ndarray]
    every: np.ndarray | None  # all legal rows where they can be listed
    trials: int
    draw: np.random.Generator
    rows: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    values: list[np.ndarray] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.seen: set[tuple[int, ...]] = set()

    @property
    def over(self) -> bool:
        return len(self.rows) >= self.trials

    def ask(self, row: Any) -> np.ndarray:
        row = tuple(int(choice) for choice in row)
        self.rows.append(row)
        self.values.append(np.asarray(self.evaluate(np.array([row], np.int32))[0]))
        self.seen.add(row)
        return self.values[-1]

    def random(self) -> np.ndarray:
        while True:
            row = self.draw.integers(self.sizes)
            if tuple(row) not in self.seen and self.legal(row[None])[0]:
                return row

    def mutant(self, parent: Any) -> np.ndarray:
        """A legal row that was not seen, one decision away, or more where there is none after 50 tries."""
        for attempt in range(200):
            row = np.array(parent)
            for i in self.draw.choice(len(row), 1 + attempt // 50, replace=False):
                row[i] = self.draw.integers(self.sizes[i])
            if tuple(row) not in self.seen and self.legal(row[None])[0]:
                return row
        return self.random()

    def one_hot(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([np.eye(size)[rows[:, i]] for i, size in enumerate(self.sizes)], 1)

    def candidates(self) -> np.ndarray:
        """All rows that were not seen, or random ones and mutants of the ten best."""
        if self.every is not None:
            return np.array([row for row in self.every if tuple(row) not in self.seen])
        best = np.argsort([np.nan_to_num(value[0], nan=np.inf) for value in self.values])[:10]
        mutants = [self.mutant(self.rows[self.draw.choice(best)]) for _ in range(DRAWN // 2)]
        return np.array([*mutants, *(self.random() for _ in range(DRAWN // 2))])


def regularized_evolution(oracle: Oracle, population: int = 30, sample: int = 10) -> None:
    """Of the textbook (Real et al., 2018), but that nothing is evaluated twice."""
    alive: list[tuple[float, Any]] = []
    while not oracle.over:
        if len(alive) < population:
            row = oracle.random()
        else:
            entrants = oracle.draw.integers(0, len(alive), sample)
            row = oracle.mutant(min((alive[i] for i in entrants), key=lambda each: each[0])[1])
        alive.append((float(np.nan_to_num(oracle.ask(row)[0], nan=np.inf)), row))
        alive = alive[-population:]


def _surrogate(oracle: Oracle, promise: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> None:
    while not oracle.over:
        if len(oracle.rows) < INITIAL:
            oracle.ask(oracle.random())
            continue
        values = np.array([value[0] for value in oracle.values])
        known = np.isfinite(values)
        if known.sum() < 2:
            oracle.ask(oracle.random())
            continue
        rows = oracle.candidates()
        gain = promise(oracle.one_hot(np.array(oracle.rows)[known]), values[known], oracle.one_hot(rows))
        for i in np.argsort(-gain)[: min(BATCH, oracle.trials - len(oracle.rows))]:
            if tuple(rows[i]) not in oracle.seen:
                oracle.ask(rows[i])


def gaussian_process(oracle: Oracle) -> None:
    """scikit-learn's, on one-hot rows, by an upper confidence bound."""

    def promise(x: np.ndarray, y: np.ndarray, there: np.ndarray) -> np.ndarray:
        kernel = ConstantKernel(1.0) * RBF(2.0) + WhiteKernel(0.1)
        with warnings.catch_warnings():  # that a hyperparameter ends at its bound
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = GaussianProcessRegressor(kernel, normalize_y=True).fit(x, y)
        mean, deviation = model.predict(there, return_std=True)
        return -(mean - deviation)

    _surrogate(oracle, promise)


def forest(oracle: Oracle) -> None:
    """A random forest, by the expected improvement with the spread of its trees."""
    from scipy.stats import norm

    def promise(x: np.ndarray, y: np.ndarray, there: np.ndarray) -> np.ndarray:
        model = RandomForestRegressor(100, min_samples_leaf=2, random_state=0).fit(x, y)
        each = np.stack([tree.predict(there) for tree in model.estimators_])
        mean, deviation = each.mean(0), each.std(0) + 1e-9
        z = (y.min() - mean) / deviation
        return deviation * (z * norm.cdf(z) + norm.pdf(z))

    _surrogate(oracle, promise)


def front_mutation(oracle: Oracle) -> None:
    """For several objectives: mutate a member of the front of all that was seen."""
    while not oracle.over:
        values = np.array(oracle.values)
        if len(values) < INITIAL:
            oracle.ask(oracle.random())
            continue
        better = (values[:, None] <= values[None]).all(2) & (values[:, None] < values[None]).any(2)
        front = np.flatnonzero(~better.any(0) & np.isfinite(values).all(1))
        oracle.ask(oracle.mutant(oracle.rows[oracle.draw.choice(front)]))


BASELINES: dict[str, Callable[[Oracle], None]] = {
    "plain evolution": regularized_evolution,
    "plain gp": gaussian_process,
    "plain forest": forest,
}
FRONTS: dict[str, Callable[[Oracle], None]] = {"front mutation": front_mutation}
