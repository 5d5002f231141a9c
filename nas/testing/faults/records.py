"""What is known of a run: what it acknowledged on the way, and all that it left in the end, compared bit by bit."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import UsageError
from nas.saved import checkpoint
from nas.store.query import Run, Trial
from nas.store.sql import Store

Key = tuple[str, int]  # the kind of a trial, and its number


class Broken(AssertionError):
    """What a job does, and none may."""


@dataclasses.dataclass(frozen=True)
class Known:
    """What a store says of the run; nothing where there is none yet."""

    status: str | None
    trials: dict[Key, Trial]

    @property
    def reported(self) -> dict[Key, Trial]:
        return {key: trial for key, trial in self.trials.items() if trial.state != "running"}


def known(store: Store | None) -> Known:
    run = None if store is None else of(store)
    if store is None or run is None:
        return Known(None, {})
    trials = [*store.trials(run.id), *store.trials(run.id, "final")]
    return Known(run.status, {(trial.kind, trial.number): trial for trial in trials})


def of(store: Store) -> Run | None:
    try:
        return store.run("job")
    except UsageError:
        return None


def lost(before: Known, after: Known) -> str | None:
    """What was known before and is not, or is otherwise, after; None where all is there."""
    for key, trial in before.trials.items():
        now = after.trials.get(key)
        if now is None:
            return f"{_named(key)} is gone"
        changed = [name for name, value in _fixed(trial).items() if _fixed(now)[name] != value]
        if trial.state == "running":
            changed = [name for name in changed if name not in REPORT]
        if changed:
            return f"{_named(key)} has another {changed[0]}"
    return None


REPORT = ("state", "error", "seconds", "order", "repeats", "measurements")


def _fixed(trial: Trial) -> dict[str, Any]:
    """Compared by what is written for it: no number equals NaN."""
    return {field.name: repr(getattr(trial, field.name)) for field in dataclasses.fields(trial)}


def _named(key: Key) -> str:
    return f"{key[0]} trial {key[1]}"


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A line of what an evaluator wrote down."""

    at: int  # nanoseconds of the monotonic clock
    budget: int
    encoding: tuple[int, ...]


def evaluated(path: Path) -> list[Evaluated]:
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        at, budget, encoding = line.split()
        found.append(Evaluated(int(at), int(budget), tuple(map(int, encoding.split(",")))))
    return found


def twice(left: Known, since: int, lines: list[Evaluated]) -> str | None:
    """What was evaluated from a moment on though it was acknowledged before; None where nothing was."""
    done = {(t.budget, tuple(t.encoding)): t.number for t in left.trials.values() if t.state == "finished"}
    for line in lines:
        if line.at > since and (line.budget, line.encoding) in done:
            return f"trial {done[line.budget, line.encoding]} was evaluated again"
    return None


def repeated(lines: list[Evaluated]) -> str | None:
    """What one undisturbed run has evaluated twice."""
    for key, count in Counter((line.budget, line.encoding) for line in lines).items():
        if count > 1:
            return f"{key[1]} was evaluated {count} times"
    return None


# The end of a run.


def end(store: Store, answer: str) -> dict[str, Any]:
    """All that a finished run has left, by what it is called; times, order of arrival and identities left out, which
    no two runs share."""
    run = of(store)
    if run is None:
        return {"run": None}
    left: dict[str, Any] = {"status": run.status, "answer": said(answer)}
    orders: dict[str, list[int | None]] = {"search": [], "final": []}
    for key, trial in known(store).trials.items():
        orders[key[0]].append(trial.order)
        for name, value in _fixed(trial).items():
            if name not in ("id", "run_id", "seconds", "order"):
                left[f"{name} of {_named(key)}"] = value
    for kind, found in orders.items():  # each was reported once
        left[f"reports of {kind}"] = sorted(found, key=lambda order: -1 if order is None else order)
    left["front"] = [{name: value for name, value in row.items() if name != "seconds"} for row in store.pareto("job")]
    for file in store.artifacts(run.id):
        left |= _file(f"{file.kind} {file.architecture}", Path(file.path), file.sha256)
    for row in store.predictors():
        left |= _file(f"predictor {row['name']}", Path(row["path"]) / "predictor.safetensors", None)
        left[f"card of predictor {row['name']}"] = row["card"].get("digest")
    left["other files"] = sorted(
        path.name
        for path in store.folder(run).rglob("*")
        if path.name.endswith((checkpoint.UNFINISHED, ".progress.safetensors"))
    )
    return left


def said(answer: str) -> str:
    """An answer without the name of its store, which each round has another of; nothing where it says how long
    something took."""
    if "seconds" in answer.split():
        return ""
    return "\n".join(line.partition(" --store")[0] for line in answer.splitlines() if not line.startswith("All of it"))


def _file(name: str, path: Path, sha256: str | None) -> dict[str, Any]:
    try:
        arrays = checkpoint.read(path)[0]
        same = sha256 is None or checkpoint.digest(path) == sha256
    except (UsageError, OSError) as error:
        return {name: str(error)}
    arrays = {f"{name}, {key}": (array.dtype.str, array.shape, array.tobytes()) for key, array in arrays.items()}
    return {f"{name}, sha256 as stored": same, **arrays}


def difference(end: dict[str, Any], undisturbed: dict[str, Any]) -> str | None:
    """The first thing that two ends differ in."""
    for name in {**undisturbed, **end}:
        if name not in end or name not in undisturbed:
            return f"{name} is {'missing' if name not in end else 'new'}"
        if end[name] != undisturbed[name]:
            return f"{name} differs: {_short(end[name])}, undisturbed {_short(undisturbed[name])}"
    return None


def _short(value: Any) -> str:
    if isinstance(value, tuple) and isinstance(value[-1], bytes):
        value = np.frombuffer(value[2], value[0]).ravel()[:3].tolist()
    return " ".join(str(value).split())[:200]
