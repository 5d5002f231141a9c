"""What a run has come to, as pages and plots tell it: from its trials in the store, with numbers as people see them."""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from nas.errors import UsageError
from nas.metrics import outer, outward, seen
from nas.store import query
from nas.store.query import Row, Run, Trial
from nas.store.sql import Store

Words = tuple[tuple[str, tuple[str, ...]], ...]  # of each decision what it is called, and its choices
FEW = 20  # trials, below which nothing is said of the importance of decisions
WINDOWS = 12  # of time, in which the choices of proposals are counted


@dataclasses.dataclass(frozen=True)
class Facts:
    """The trials of one run at one moment. `unit` is what a trial of the search is: a trial, or an epoch."""

    run: Run
    search: list[Trial]
    finals: list[Trial]
    unit: str = "trial"
    words: Words = ()  # of a space that is not known here none

    @functools.cached_property
    def rows(self) -> list[Row]:
        """As they are kept: see `nas.store.query`."""
        return query.build_rows(self.search, self.finals)

    @property
    def objective(self) -> str:
        """The first, as people see it."""
        return outer(self.run.objective)

    @property
    def most(self) -> bool:
        """Whether more of it is better."""
        return self.objective != self.run.objective

    @functools.cached_property
    def finished(self) -> list[Trial]:
        """The search's, in the order in which they were reported."""
        return sorted((t for t in self.search if t.state == "finished"), key=lambda t: (t.order or 0, t.number))

    @property
    def given(self) -> Mapping[str, Any]:
        """The configuration; nothing where the store has none."""
        given = self.run.config.get("given")
        return given if isinstance(given, dict) else {}

    @property
    def asked(self) -> int | None:
        """How many trials of the search, or epochs, it is to have."""
        number = self.given.get("epochs" if self.unit == "epoch" else "trials")
        return number if isinstance(number, int) else None


def facts_of(store: Store, name: str, unit: str = "trial", words: Words = ()) -> Facts:
    """Raises UsageError for a run that there is not, or of which the store holds what no search wrote."""
    run = store.run(name)
    search, trained = store.trials(run.id), store.trials(run.id, "final")
    for trial in (*search, *trained):
        row: Any = trial.encoding
        if not isinstance(row, list) or any(type(choice) is not int or choice < 0 for choice in row):
            raise UsageError(f"run={run.name!r} is damaged: trial {trial.number} has no encoding")
    return Facts(run, search, trained, unit, words)


class Progress(NamedTuple):
    """The first objective of every finished trial, in the order in which they were reported."""

    numbers: list[int]
    values: list[float]
    best: list[float]  # of those so far
    architectures: list[str]
    failed: list[int]  # the numbers of others


def progress(facts: Facts) -> Progress:
    found = Progress([], [], [], [], [t.number for t in facts.search if t.state == "failed"])
    for trial in facts.finished:
        _, value = seen(facts.run.objective, trial.measurements.get(facts.run.objective))
        if is_number(value):
            found.numbers.append(trial.number)
            found.values.append(float(value))
            found.architectures.append(trial.architecture)
    lead = np.maximum if facts.most else np.minimum
    found.best.extend(lead.accumulate(found.values).tolist() if found.values else [])
    return found


class Front(NamedTuple):
    """The architectures that were measured in all objectives, and which of them no other dominates."""

    names: tuple[str, ...]  # of the objectives, as people see them
    most: tuple[bool, ...]  # of which more is better
    rows: list[Row]  # the best of each architecture
    front: list[Row]


def front(facts: Facts) -> Front | None:
    """Of the run's objectives, of one alone and the multiply-adds; None where no trial has both."""
    kept = objectives(facts)
    if len(kept) < 2:
        return None
    rows = [row for row in facts.rows if all(is_number(row.get(name)) for name in kept)]
    if not rows:
        return None
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: [row[name] for name in kept]):
        best.setdefault(row["architecture"], row)
    names = tuple(map(outer, kept))
    most = tuple(name != other for name, other in zip(names, kept, strict=True))
    return Front(names, most, [outward(row) for row in best.values()], query.pareto(list(best.values()), kept))


def objectives(facts: Facts) -> tuple[str, ...]:
    """As they are kept: the run's own, and of one alone the multiply-adds too where they are known."""
    own = facts.run.objectives
    if len(own) == 1 and own != ("macs",) and any(is_number(row.get("macs")) for row in facts.rows):
        return (*own, "macs")
    return own


def best(facts: Facts, limit: int = 10) -> list[Row]:
    """By the first objective, as people see it."""
    rows = [row for row in facts.rows if is_number(row.get(facts.run.objective))]
    return query.top(rows, facts.run.objective, limit) if rows else []


def winner(facts: Facts) -> str | None:
    """The architecture that was found: the one that was trained from scratch first, else where the search by gradients
    has come to, else the best."""
    finished = facts.finished
    if facts.finals:
        return facts.finals[0].architecture
    if facts.unit == "epoch" and finished:
        return finished[-1].architecture
    leading = best(facts, 1)
    return leading[0]["architecture"] if leading else None


class Final(NamedTuple):
    role: str  # found, given or random
    trial: Trial
    measured: Row  # as people see it


def finals(facts: Facts) -> list[Final]:
    """The trainings from scratch: what was found, and random architectures of no greater cost."""
    count = facts.given.get("finalists", 1)
    limit = count if isinstance(count, int) else 1
    searched = {trial.architecture for trial in facts.finished}
    is_given = facts.run.strategy == query.RETRAIN
    roles = ["given" if is_given else "found"] * (1 if is_given else min(limit, len(searched)))
    return [
        Final(roles[trial.number] if trial.number < len(roles) else "random", trial, outward(trial.measurements))
        for trial in facts.finals
    ]


class Ranks(NamedTuple):
    """Of the architectures that were trained from scratch, the score in the search and the one after."""

    pairs: list[tuple[float, float]]  # as people see them
    tau: float | None  # Kendall's: 1 where what is better in the search is better after, whether that is more or less
    p_value: float | None


def rank_agreement(facts: Facts) -> Ranks:
    search = {trial.architecture: trial.measurements.get(facts.run.objective) for trial in facts.finished}
    names = facts.run.objective, standalone(facts)
    pairs = [(search.get(t.architecture), t.measurements.get(names[1])) for t in facts.finals if t.state == "finished"]
    kept = [pair for pair in pairs if all(map(is_number, pair))]
    shown = [(float(seen(names[0], a)[1]), float(seen(names[1], b)[1])) for a, b in kept]
    if len(kept) < 3:
        return Ranks(shown, None, None)
    from scipy.stats import kendalltau

    found: Any = kendalltau(*zip(*kept, strict=True))
    tau = float(found.statistic)
    return Ranks(shown, tau if math.isfinite(tau) else None, float(found.pvalue))


def standalone(facts: Facts) -> str:
    """The name, as it is kept, of the score after training from scratch."""
    return f"standalone_{facts.run.metric}"


def test_images(facts: Facts) -> int | None:
    counts = facts.run.config.get("images")
    number = counts.get("test") if isinstance(counts, dict) else None
    return number if isinstance(number, int) and number > 0 else None


def shares(facts: Facts) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Of each decision the share of its choices among the proposals of a window of time, as `[choices, windows]`, and
    of each window its first and last trial."""
    rows = encodings(facts, [trial for trial in facts.search if len(trial.encoding) == len(sizes(facts))])
    if not len(rows):
        return [], []
    parts = [part for part in np.array_split(np.arange(len(rows)), min(WINDOWS, len(rows))) if len(part)]
    found = [
        np.stack([np.bincount(rows[part, i], minlength=size)[:size] / len(part) for part in parts], axis=1)
        for i, size in enumerate(sizes(facts))
    ]
    return found, [(int(part[0]), int(part[-1])) for part in parts]


def sizes(facts: Facts) -> list[int]:
    """The number of choices at each decision; where the space is not known, as many as were seen."""
    if facts.words:
        return [len(choices) for _, choices in facts.words]
    lengths = Counter(len(trial.encoding) for trial in facts.search)
    length = lengths.most_common(1)[0][0] if lengths else 0
    rows = [trial.encoding for trial in facts.search if len(trial.encoding) == length]
    return [max(column) + 1 for column in zip(*rows, strict=True)]


def encodings(facts: Facts, trials: Sequence[Trial]) -> np.ndarray:
    """`[trials, decisions]`, no choice out of range: a store may hold anything."""
    high = np.maximum(np.array(sizes(facts), np.int64) - 1, 0)
    rows = np.array([trial.encoding for trial in trials], np.int64).reshape(len(trials), len(high))
    return np.clip(rows, 0, high[None])


def worded(facts: Facts) -> Words:
    """What the decisions are called: by numbers where the space is not known."""
    return facts.words or tuple((f"decision {i}", tuple(map(str, range(size)))) for i, size in enumerate(sizes(facts)))


def scored(facts: Facts) -> tuple[np.ndarray, np.ndarray]:
    """The encodings of the finished trials, one an architecture, and their first objective."""
    found: dict[str, tuple[Trial, float]] = {}
    for trial in facts.finished:
        _, value = seen(facts.run.objective, trial.measurements.get(facts.run.objective))
        if is_number(value) and len(trial.encoding) == len(sizes(facts)):
            found[trial.architecture] = (trial, float(value))
    trials = [trial for trial, _ in found.values()]
    return encodings(facts, trials), np.array([value for _, value in found.values()])


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
