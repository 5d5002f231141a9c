"""A run as it is looked at: its facts, with what its space has to say, and what can be asked about it."""

import shlex
from typing import Any

import numpy as np

from nas import config, registry
from nas.commands.again import command
from nas.errors import UsageError
from nas.metrics import outer
from nas.report import facts
from nas.report.facts import Facts
from nas.report.outcome import Outcome, questions
from nas.report.views import Asked
from nas.store.query import RETRAIN, Run
from nas.store.sql import Store
from spaces.abilities import Drawable, Drawing, decisions
from spaces.base import Space, check_encoding
from strategies.base import GradientStrategy


def space_of(run: Run) -> Space:
    """The space of a run, bound to its data. A question runs no code that a store names: raises UsageError for a space
    of the user's own."""
    bound, given = run.config.get("architectures"), run.given.get("space", config.Config.space)
    try:
        return config.build_space(bound if isinstance(bound, dict) else given, given=False)
    except UsageError:
        return config.build_space(given, given=False)  # of an earlier version, with other fields


def looked_at(store: Store, name: str) -> tuple[Facts, Asked]:
    """Raises UsageError for a run that there is not."""
    run, space, why = store.run(name), None, ""
    try:
        space = space_of(run)
    except UsageError as error:
        why = f"There are no drawings: {error}."
    unit = "epoch" if _by_gradients(run) else "trial"
    words = () if space is None else tuple((name, tuple(choices)) for name, choices in decisions(space))
    of = facts.facts_of(store, run.name, unit, words)
    if space is not None and not isinstance(space, Drawable):
        why = "There are no drawings: the space has none."
    draws = None if space is None or why else lambda encoding: _drawn(space, encoding)
    return of, Asked(store.url, _again(run, store.url), _questions(store, of), draws, why)


def _drawn(space: Any, encoding: list[int]) -> list[Drawing]:
    """Nothing for what is no architecture of the space: a store may hold anything."""
    try:
        check_encoding(space, encoding)
    except ValueError:
        return []
    return space.drawings(np.array(encoding, np.int32))


def _by_gradients(run: Run) -> bool:
    given = run.config.get("given")
    name = given.get("strategy", "") if isinstance(given, dict) else ""
    name = name.get("name", "") if isinstance(name, dict) else name
    if run.strategy == RETRAIN or name not in registry.ours("strategy"):
        return False
    return isinstance(config.default_of("strategy", name), GradientStrategy)


def _again(run: Run, store: str) -> str:
    try:
        return command(run, store)
    except UsageError:
        return ""


def _questions(store: Store, of: Facts) -> list[str]:
    run, finals = of.run, facts.finals(of)
    with_weights = {file.architecture for file in store.artifacts(run.id, kind="weights")}
    trained = next((f.trial.architecture for f in finals if f.trial.architecture in with_weights), None)
    outcome = Outcome(
        run.name,
        store.url,
        of.objective,
        facts.best(of, 5),
        [{"architecture": final.trial.architecture, **final.measured} for final in finals],
        trained,
        objectives=",".join(map(outer, run.objectives)),
    )
    more = "" if store.url == config.Config.store else f" --store {shlex.quote(store.url)}"
    asked = [f"nas {words}{more}" for words in questions(outcome)] if facts.best(of, 1) or finals else []
    if run.status != "finished":
        asked.append(f"nas search --resume {shlex.quote(run.name)}{more}")
    return asked or [f"nas runs{more}"]
