"""The command line that repeats a run, from what the store has of its configuration."""

import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from nas import config
from nas.config import Config
from nas.errors import UsageError
from nas.metrics import outer
from nas.report.command_lines import DEFAULT_STORE
from nas.store.query import Run
from nas.tasks import PHOTOGRAPHS
from spaces.abilities import Advised

RECIPES = ("training", "final", "pretraining")
# A run of this name is there already; and what was planned for a time is said, not to be planned anew elsewhere.
ELSEWHERE = ("name", "store", "time")


def command(run: Run, store: str) -> str:
    """What repeats a search: no flag for what is by default. Empty where the run is of an earlier version."""
    words = list(flags(run))
    if not words:
        return ""
    words += [] if store == DEFAULT_STORE else ["--store", store]
    return " ".join(["nas search", *map(shlex.quote, words)])


def flags(run: Run) -> Iterator[str]:
    """Flags and their values."""
    given = run.config.get("given")
    known = {field.name for field in dataclasses.fields(Config)}
    if not isinstance(given, dict) or set(given) - known:
        return
    parts = {part: config.named(given.get(part, getattr(Config, part)), part) for part in config.PARTS}
    for part, (name, _) in parts.items():
        yield from () if part == "evaluator" and name == Config.evaluator else (f"--{part}", name)
    usual = _plain(config.fields_of(config.defaults(parts["strategy"][0])))
    chosen = _chosen(run, str(given.get("task", Config.task)), parts["space"])
    for name, value in given.items():
        if name in ELSEWHERE:
            continue
        if name in parts:
            yield from _fields(parts[name][1], _own(name, parts[name][0]), f"{name}.")
        elif name == "objectives":
            shown = ",".join(map(outer, str(value).split(",")))
            yield from () if value == Config.objectives else ("--objectives", shown)
        elif isinstance(value, Mapping):
            if name != "pretraining" or given.get("pretrain"):
                known = usual.get(name, {})
                if name in RECIPES:
                    known = {} if chosen is None else {each: known[each] for each in known if each not in chosen}
                yield from _fields(value, known, f"{name}.")
        else:
            yield from _fields({name: value}, usual, "")


def _own(part: str, name: str) -> Mapping[str, Any]:
    """The fields of a part with their defaults; of one of the user's own, whose code is not run here, none."""
    try:
        return _plain(config.fields_of(config.default_of(part, name, given=False)))
    except UsageError:
        return {}


def _chosen(run: Run, task: str, space: tuple[str, Mapping[str, Any]]) -> set[str] | None:
    """The fields of recipes that follow from the data, the kind of the task or the space where nobody gives them: these
    are said, whatever they are. None where that is not known."""
    from nas.job.chosen import OF_PHOTOGRAPHS  # after what asks a store: these import jax
    from nas.tasks.kinds import kinds

    fields = set(OF_PHOTOGRAPHS if task.partition(":")[0] in PHOTOGRAPHS else ())
    advising: list[Any] = [kind for kind in kinds().values() if kind.metric == run.metric]
    try:
        built = config.build_space({**space[1], "name": space[0]}, given=False)
    except UsageError:
        return None
    advising += [built] if isinstance(built, Advised) else []
    return fields.union(*(recipe for each in advising for recipe in each.recipes.values()))


def _fields(values: Mapping[str, Any], usual: Mapping[str, Any], before: str) -> Iterator[str]:
    for name, value in values.items():
        flag = f"--{before}{name}".replace("_", "-")
        if isinstance(value, Mapping):
            inner = usual.get(name)
            yield from _fields(value, inner if isinstance(inner, Mapping) else {}, f"{before}{name}.")
        elif value is None or (name in usual and usual[name] == value):
            continue
        elif isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
        else:
            yield from (flag, _text(value))


def _text(value: Any) -> str:
    return "(" + ",".join(map(_text, value)) + ")" if isinstance(value, list) else str(value)


def _plain(value: Any) -> Any:
    """As a store keeps it, tuples as lists."""
    return json.loads(json.dumps(value))
