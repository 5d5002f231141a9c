"""What is done with saved predictors: fitted from runs, measured on others, asked for scores, handed on."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.config import build_predictor, build_space
from nas.errors import UsageError
from nas.metrics import inner, outer
from nas.saved import checkpoint, predictors
from nas.saved.predictors import ARRAYS, Fitted
from nas.store.query import Row, Run
from nas.store.sql import Store
from nas.streams import SAMPLE, stream
from predictors import kind_of
from predictors.base import Predictor
from spaces.base import Space, architecture_id, every, sample

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(store: Store, name: str) -> None:
    """Raises UsageError for what cannot name a new predictor."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"predictor={name!r} must be letters, digits, dots, dashes and underscores, and begin with one"
        )
    if name in {row["name"] for row in store.predictors()}:
        raise UsageError(f"predictor={name!r} is already one of store={store.url}; choose another name")


def save(store: Store, name: str, fitted: Fitted) -> Path:
    check_name(store, name)
    folder = store.new_folder(name, within=".predictors")
    predictors.write(fitted, folder)
    store.add_predictor(
        name=name,
        kind=fitted.card["kind"],
        space=fitted.card["fingerprint"],
        path=folder,
        sha256=checkpoint.digest(folder / ARRAYS),
        card=fitted.card,
    )
    return folder


def opened(url: str, name: str) -> tuple[Fitted, str]:
    """The saved predictor of a store by name, and the sha256 of its arrays."""
    with Store(url) as store:
        return open_saved(store, name), store.predictor(name).sha256


def open_saved(store: Store, name: str) -> Fitted:
    record = store.predictor(name)
    fitted = predictors.load(record.path)
    if checkpoint.digest(Path(record.path) / ARRAYS) != record.sha256:
        raise UsageError(f"predictor={record.name!r}: {record.path} is not what was saved: its sha256 differs")
    return fitted


def fit_from_runs(
    store: Store, kind: str, runs: Sequence[str], *, objective: str | None = None, start: Fitted | None = None
) -> Fitted:
    """A predictor of what runs have measured. Raises UsageError where they differ in space or data."""
    predictor = build_predictor(kind) if start is None else start.predictor
    found = [store.run(name) for name in runs]
    for run in found[1:]:
        for what in ("space", "task"):
            if run.config.get(what) != found[0].config.get(what):
                raise UsageError(f"from-runs: {run.name!r} has another {what} than {found[0].name!r}")
    objective = objective or found[0].objective
    names, rows, targets = zip(*(measured(store, run, objective) for run in found), strict=True)
    return fit_on(predictor, found, np.concatenate(rows), np.concatenate(targets), names[0], start)


def fit_on(
    predictor: Predictor,
    runs: Sequence[Run],
    rows: np.ndarray,
    targets: np.ndarray,
    objective: str,
    start: Fitted | None,
) -> Fitted:
    fitted = predictors.fit(
        kind_of(predictor),
        predictor,
        space_data(runs[0]),
        rows,
        targets,
        start=start,
        task=runs[0].task,
        objective=objective,
        unit="share" if objective.endswith("error") else objective,
    )
    fitted.card["runs"] = [run.name for run in runs]
    if start is not None and not set(fitted.card["runs"]).isdisjoint(start.card.get("runs", ())):
        fitted.card["quality"] = {}  # it has begun with what was held out
    return fitted


def space_data(run: Run) -> dict[str, Any]:
    """The space that a run's architectures are of, with the input and output of its task."""
    if "architectures" not in run.config:
        raise UsageError(f"run={run.name!r} was made by an older version, which did not note its whole space")
    return run.config["architectures"]


def measured(store: Store, run: Run, objective: str) -> tuple[str, np.ndarray, np.ndarray]:
    """An objective, in either spelling, as a run has it minimised: its name; the architectures of the finished trials,
    and what it is of each."""
    trials = [t for t in store.trials(run.id) if t.state == "finished"]
    if not trials:
        raise UsageError(f"run={run.name!r} has no finished trial to learn from")
    objective = inner(objective, trials[0].measurements)
    if objective not in trials[0].measurements:
        known = ", ".join(sorted(map(outer, trials[0].measurements)))
        raise UsageError(f"objective={objective!r} was not measured in run={run.name!r}; it has {known}")
    rows = np.array([t.encoding for t in trials], np.int32)
    return objective, rows, np.array([t.measurements.get(objective, np.nan) for t in trials], np.float32)


def evaluate(store: Store, name: str, run_name: str) -> Row:
    """How well a predictor tells what a run has measured. `learned_from` says whether it was fitted on that run."""
    fitted, run = open_saved(store, name), store.run(run_name)
    space = build_space(space_data(run), given=False)
    _, rows, truth = measured(store, run, fitted.card["objective"])
    quality = predictors.quality(*fitted.predict(space, rows), truth)
    quality["rows"] = int(quality["rows"])
    return {"predictor": name, "run": run.name, "learned_from": run.name in fitted.card.get("runs", [])} | quality


def score(fitted: Fitted, space: Space | None, count: int, top: int, seed: int = 0) -> list[Row]:
    """The architectures of best predicted score, of `count` random ones or of all there are."""
    if space is not None:
        predictors.check_space(fitted.card, space)
    space = fitted.space
    rows = every(space)
    if rows is None or count < len(rows):
        rows = np.asarray(jax.jit(lambda key: sample(space, key, count))(stream(seed, SAMPLE)))
    mean, deviation = fitted.predict(space, rows)
    order, canonical = np.argsort(mean, kind="stable"), np.asarray(space.canonical(jnp.asarray(rows)))
    # The same network may have been drawn twice, or be written in several ways.
    _, first = np.unique(canonical[order], axis=0, return_index=True)
    chosen = order[np.sort(first)[:top]]
    costs = {name: np.asarray(values) for name, values in space.cost(jnp.asarray(canonical[chosen])).items()}
    return [
        {
            "architecture": architecture_id(space, row),
            f"predicted_{fitted.card['objective']}": float(mean[i]),
            "std": float(deviation[i]),
            **{name: float(values[k]) for name, values in costs.items()},
            "description": space.describe(row),
        }
        for k, (i, row) in enumerate(zip(chosen, canonical[chosen], strict=True))
    ]


def export(store: Store, name: str, out: Path) -> None:
    predictors.write(open_saved(store, name), out)


def import_folder(store: Store, folder: Path, name: str | None) -> str:
    """Reads, checks and keeps a predictor that somebody handed over."""
    fitted = predictors.load(folder)
    name = name or folder.resolve().name
    save(store, name, fitted)
    return name
