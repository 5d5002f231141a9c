"""What a store keeps of a configuration, and whether what a user gives beside a stored run is what the run has already,
or the same from another place."""

import json
from collections.abc import Mapping
from typing import Any

from nas import registry
from nas.config.building import BUILDERS, absolute, build, named, of_factors, to_data
from nas.config.values import PARTS, Config, Data
from nas.errors import UsageError
from nas.plain import shown
from nas.tasks import PLACED, lasting_task


def check_kept(config: Config, given: Data) -> None:
    """Raises UsageError for a field of a part that would come back from a store as something else, or not at all."""
    data = to_data(config, given)
    for part in PARTS:
        kept = {}
        for name, value in data[part].items():
            try:
                kept[name] = json.loads(json.dumps(value))
            except (TypeError, ValueError, RecursionError) as error:
                allowed = "made of numbers, texts and truths, or a run could not be gone on with"
                raise UsageError(f"{part}.{name}={shown(value)} must be {allowed}") from error
        again = BUILDERS[part](kept)
        del kept["name"]
        for name in kept:
            was, found = getattr(getattr(config, part), name), getattr(again, name)
            if repr(found) != repr(was) and found != was:
                said = "in a run that is gone on with: give it a type that keeps it, such as tuple[int, ...]"
                raise UsageError(f"{part}.{name}={shown(repr(was))} would be {shown(repr(found))} {said}")


def same_part(part: str, given: Any, stored: Data) -> bool:
    """Whether a field gives the space, strategy or task that a stored run has, with no field that differs."""
    if part in ("cost", "prescreen"):
        return isinstance(given, str) and stored.get(part) in (given, registry.lasting(given))
    if part == "latency":
        return isinstance(given, str) and absolute(given) == stored.get("latency")
    if part == "pretrain":
        return isinstance(given, str) and stored.get("pretrain") in (given, lasting_task(given))
    if part not in (*PARTS, "task"):
        return _as_stored(part, given, stored)
    before = stored.get(part, getattr(Config, part))
    (name, fields), (kept_name, kept) = (named(each, part) for each in (given, before))
    if part == "task":
        return kept_name in (name, lasting_task(name))
    chosen = part == "space" and not fields and kept_name.partition(":")[0] == name  # the preset followed from the data
    if kept_name not in (name, of_factors(registry.lasting, part, name)) and not chosen:
        return False
    name = kept_name if chosen else name
    fields = {key.replace("-", "_"): value for key, value in fields.items()}
    build_part = BUILDERS[part]
    return build_part({"name": name, **kept, **fields}) == build_part({"name": name, **kept})


def _as_stored(field: str, given: Any, stored: Data) -> bool:
    """Whether a field is given the value that it has already. What it may be is said by whoever builds all of it."""
    before = stored.get(field)
    if isinstance(given, Mapping) and isinstance(before, Mapping):
        given = {**before, **{str(key).replace("-", "_"): value for key, value in given.items()}}
    try:
        return field in stored and getattr(build({**stored, field: given}), field) == getattr(build(stored), field)
    except (UsageError, AttributeError):
        return False


def moved(part: str, given: Any, stored: Data) -> bool:
    """Whether a field gives another place for what a stored run has: whoever reads it sees whether it is the same."""
    before = stored.get(part)
    if part == "latency":
        return isinstance(given, str) and before is not None
    if part not in ("task", "pretrain") or not (isinstance(given, str) and isinstance(before, str)):
        return False
    kind = given.partition(":")[0]
    return ":" in given and kind == before.partition(":")[0] and kind in (*PLACED, "table")
