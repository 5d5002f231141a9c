"""The records of the store, and questions to them: which is best, which are on the front.

Rows are plain dicts with one key a column, ready for `pandas.DataFrame`; what was not measured is None. They are built
as they are kept, every metric minimised; answers have them as people see them (`nas.metrics`), `minus_ap` as `ap`.
Questions may use either name.
"""

import dataclasses
import difflib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from nas.errors import UsageError, unknown
from nas.metrics import inner, outer, outward, seen
from nas.plain import shown
from nas.store.conditions import Condition, parse_where
from nas.store.fronts import MOST, nondominated
from nas.store.fronts import hypervolume as hypervolume

Row = dict[str, Any]
Kind = Literal["search", "final"]  # a final is a stand-alone training of what a search has found
Status = Literal["running", "finished", "failed", "interrupted", "stopped"]  # the last: whose process is gone

IDENTITY = ("architecture", "encoding", "description", "space", "trial")
METRICS = (
    "error",
    "test_error",
    "macs",
    "params",
    "seconds",
)  # every row has these, in this order, others after
PUBLISHED = re.compile(r"[\w.-]+:[^\s/]")  # SPACE:NAME; a description has a blank after its colon
RETRAIN = "retrain"  # the strategy of a run that trains one given architecture, and has no search
LONGEST_NAME = 150  # bytes, of the 255 that a folder's name may have
RUN_COLUMNS = ("name", "space", "strategy", "task", "status", "trials", "objective", "best", "started")


@dataclasses.dataclass(frozen=True)
class Run:
    id: int
    name: str
    space: str
    strategy: str
    task: str
    config: dict[str, Any]
    code_version: str
    seed: int
    status: Status
    reason: str | None
    started: str  # ISO 8601, UTC
    finished: str | None

    @property
    def identity(self) -> str | None:
        """What its checkpoints know it by, whatever it is called."""
        return self.config.get("identity")

    @property
    def mark(self) -> dict[str, Any]:
        """Beside each checkpoint: of which run it is, and a digest of all that decides what that computes.

        Files and a store may be copied, restored and deleted apart from each other.
        """
        fixed = {name: value for name, value in self.config.items() if name != "files"}
        digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()
        return {"run": self.identity, "configuration": digest}

    @property
    def given(self) -> dict[str, Any]:
        """The configuration that it began with. Raises UsageError where the store has none that could be one."""
        given = self.config.get("given")
        if not isinstance(given, dict):
            raise UsageError(f"run={self.name!r} is damaged: its configuration is not in the store")
        return given

    @property
    def objective(self) -> str:
        """The first of what it minimises, as it is kept."""
        return self.objectives[0]

    @property
    def objectives(self) -> tuple[str, ...]:
        """All that it minimises, as they are kept."""
        return objectives_of(self.strategy, self.config)

    @property
    def metric(self) -> str:
        """Of its task, such as error, as it is kept: finals have it as `standalone_error` and `test_error`."""
        return metric_of(self.config)


def objectives_of(strategy: str, config: dict[str, Any]) -> tuple[str, ...]:
    if strategy == RETRAIN:
        return (f"standalone_{metric_of(config)}",)
    given = config.get("given")
    names = given.get("objectives", "error") if isinstance(given, dict) else "error"
    return tuple(str(names).split(","))


def metric_of(config: dict[str, Any]) -> str:
    return str(config.get("metric", "error"))


@dataclasses.dataclass(frozen=True)
class NewTrial:
    number: int
    architecture: str
    encoding: Sequence[int]  # canonical
    description: str
    space: str
    budget: int
    seed: int
    drawn: dict[str, Any] | None = None  # how the strategy's policy drew it: see `strategies.base.Drawn`
    repeats: int | None = None  # the number of the earlier trial whose result it has


@dataclasses.dataclass(frozen=True)
class Finished:
    """The report of a trial, which failed where there is an `error`."""

    number: int
    metrics: Mapping[str, float] | None
    error: str | None
    seconds: float
    repeats: int | None = None


@dataclasses.dataclass(frozen=True)
class Trial:
    id: int
    run_id: int
    kind: Kind
    number: int
    architecture: str
    encoding: list[int]
    description: str
    space: str
    budget: int
    seed: int
    state: Literal["running", "finished", "failed"]
    error: str | None
    seconds: float | None
    order: int | None  # 0 for the report that arrived first, 1 for the next; None while running
    drawn: dict[str, Any] | None
    repeats: int | None
    measurements: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Artifact:
    id: int
    run_id: int
    architecture: str | None
    kind: str
    path: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Predictor:
    id: int
    name: str
    kind: str
    space: str  # the fingerprint
    path: str
    sha256: str
    created: str
    card: dict[str, Any]


def of_front(objectives: Sequence[str]) -> tuple[str, ...]:
    """What the front of a run is of: of one objective alone, and the multiply-adds."""
    return (*objectives, "macs") if len(objectives) == 1 and objectives[0] != "macs" else tuple(objectives)


def check_name(name: str) -> None:
    """Raises UsageError for what cannot name a run: a name is typed, printed, and the name of a folder."""
    odd = not name.isprintable() or any(c in name for c in "/\\") or name.strip() != name
    if odd or name[:1] in ("", ".", "-") or name == "latest" or len(name.encode()) > LONGEST_NAME:
        allowed = f"1 to {LONGEST_NAME} bytes that can be printed, without slashes, not beginning with a dot or a dash"
        raise UsageError(f"name={shown(name, 60)!r} must be {allowed}, and not be latest")


def usual_name(space: str, strategy: str, task: str, seed: int) -> str:
    """A name for a run that was given none: of a task that is a file, with the file's name, as far as it can be one."""
    kind, _, place = task.partition(":")
    parts = [space, strategy, kind, *([Path(place).stem] if place else [])]
    return "-".join([*(re.sub(r"[^\w.]+", "-", part)[:40].strip("-") for part in parts), str(seed)])


def free_name(stem: str, taken: Collection[str]) -> str:
    """The first of `stem`, `stem-2`, `stem-3` and so on that is not taken."""
    names = (stem if i == 1 else f"{stem}-{i}" for i in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def build_rows(search: Iterable[Trial], finals: Iterable[Trial], others: Sequence[str] | None = None) -> list[Row]:
    """One row a finished search trial, with what the final training of its architecture measured besides.

    An architecture that has only a final has a row too, without a trial number. `others` are the metrics after those
    that every row has: by default all that were measured.
    """
    searched = [trial for trial in search if trial.state == "finished"]
    final = {trial.architecture: trial for trial in finals if trial.state == "finished"}
    known = {trial.architecture for trial in searched}
    rows = []
    for trial in [*searched, *(each for name, each in final.items() if name not in known)]:
        number = trial.number if trial.kind == "search" else None
        identity = (trial.architecture, trial.encoding, trial.description, trial.space, number)
        extra = final[trial.architecture].measurements if trial.architecture in final else {}
        metrics = {**extra, **trial.measurements, "seconds": trial.seconds}
        rows.append((dict(zip(IDENTITY, identity, strict=True)), metrics))
    if others is None:
        measured = {name for _, metrics in rows for name in metrics}.difference(METRICS, IDENTITY)
        others = sorted(measured, key=lambda name: (outer(name), name))  # as they will be shown
    return [identity | {name: metrics.get(name) for name in (*METRICS, *others)} for identity, metrics in rows]


def top(rows: list[Row], by: str = "error", limit: int = 10, where: str | None = None) -> list[Row]:
    """The `limit` best architectures by one metric, each by its best row; NaN and missing never rank."""
    check_limit(limit)
    kept_by = _as_kept("by", [by], rows)
    conditions = [] if where is None else parse_where(where)
    _as_kept("where", [name for name, _, _ in conditions], rows)
    fitting = [row for row in rows if fits(row, conditions)]
    return [outward(row) for row in _best_rows(fitting, kept_by)[:limit]]


def check_limit(limit: int) -> None:
    if limit < 1:
        raise UsageError(f"limit={limit} must be at least 1")


def fits(row: Row, conditions: Iterable[Condition]) -> bool:
    values = {**outward(row), **row}  # a number is of the name that stands beside it
    return all(is_number(values[name]) and holds(values[name], number) for name, holds, number in conditions)


def pareto(rows: list[Row], objectives: Iterable[str] = ("error", "macs")) -> list[Row]:
    """The architectures that no other dominates, each by a row that none dominates, by the first objective."""
    return [outward(row) for row in front(rows, _as_kept("objectives", objectives, rows))]


def front(rows: list[Row], objectives: list[str], is_front: bool = False) -> list[Row]:
    """See `pareto`; rows and names are as they are kept. With `is_front`, no row dominates another."""
    check_objectives(objectives)
    known = ranked(rows, objectives)
    if not is_front:
        kept = nondominated([[row[name] for name in objectives] for row in known])
        known = list(itertools.compress(known, kept))
    best: dict[str, Row] = {}
    for row in known:
        best.setdefault(row["architecture"], row)
    return list(best.values())


def check_objectives(objectives: Sequence[str]) -> None:
    if not 1 <= len(objectives) <= MOST:
        raise UsageError(f"objectives={len(objectives)} names must be 1 to {MOST} metrics, such as error,macs")


def front_volume(
    run: str,
    front: list[Row],
    objectives: Sequence[str],
    names: Sequence[str],
    bounds: tuple[list[float], list[float]],
    reference: Sequence[float] | None,
) -> Row:
    """How much of the space of objectives the front of a run dominates: in the product of their units, and as a share
    of the box between the reference and the ideal, the best of each objective in the run. `names` are the objectives as
    they are kept, `bounds` the best and the worst of each. A number of the reference belongs to the spelling of its
    objective."""
    if not front:
        raise UsageError(f"run={run!r} has no finished trial with {', '.join(objectives)}: there is no front")
    ideal, worst = bounds
    if reference is not None:
        if len(reference) != len(objectives):
            raise UsageError(f"reference={list(reference)} must have {len(objectives)} numbers, one an objective")
        worst = [
            number if given == name else 0.0 - number
            for number, given, name in zip(reference, objectives, names, strict=True)
        ]
    volume = hypervolume([[row[name] for name in names] for row in front], worst)
    box = math.prod(max(bad - good, 0.0) for bad, good in zip(worst, ideal, strict=True))
    said, limits = zip(*map(seen, names, worst), strict=True)
    best = [value for _, value in map(seen, names, ideal)]
    facts = {"objectives": ",".join(said), "ideal": best, "reference": list(limits), "front": len(front)}
    return {"run": run, **facts, "share": volume / box if box else 0.0, "hypervolume": volume}


def dominates(a: Row, b: Row, objectives: Iterable[str]) -> bool:
    """At least as good in all, and better in one. The rows are as they are kept, and so are the names."""
    pairs = [(a[name], b[name]) for name in objectives]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def pick(field: str, value: str, names: Iterable[str], place: str) -> str:
    """The one of `names` that `value` is, or is the beginning of."""
    names = sorted(names)
    matches = [value] if value in names else [name for name in names if value and name.startswith(value)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        some = ", ".join(matches[:4]) + (", ..." if len(matches) > 4 else "")
        raise UsageError(f"{field}={value!r} begins {len(matches)} names in {place}: {some}; give more of it")
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"{field}={value!r} is not in {place}{hint}")


def ranked(rows: list[Row], objectives: list[str]) -> list[Row]:
    """The rows that have all objectives, in lexicographic order; of equal ones the cheaper first, then the earlier."""
    known = [row for row in rows if all(is_number(row[name]) for name in objectives)]
    return sorted(known, key=lambda row: place(row, objectives))


def place(row: Row, objectives: Sequence[str]) -> list[float]:
    """What rows are ranked by."""
    macs = row.get("macs")
    return [*(row[name] for name in objectives), math.inf if macs is None or math.isnan(macs) else macs]


def _best_rows(rows: list[Row], objectives: list[str]) -> list[Row]:
    """In order of the objectives, one row an architecture, of those where all the objectives are numbers."""
    best: dict[str, Row] = {}
    for row in ranked(rows, list(objectives)):
        best.setdefault(row["architecture"], row)
    return list(best.values())


def is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _as_kept(field: str, names: Iterable[str], rows: list[Row]) -> list[str]:
    """The names of metrics as rows have them. Raises UsageError for one that no row has."""
    return as_kept(field, names, [name for name in rows[0] if name not in IDENTITY] if rows else METRICS)


def as_kept(field: str, names: Iterable[str], metrics: Sequence[str]) -> list[str]:
    kept = [inner(name, metrics) for name in names]
    for name in kept:
        if name not in metrics:
            raise unknown(field, name, map(outer, metrics))
    return kept
