"""Whether what a user gives beside a stored run is what the run has already, or the same from another place."""

from collections.abc import Mapping
from typing import Any

from nas import registry
from nas.config.building import BUILDERS, absolute, build, named, of_factors
from nas.config.values import PARTS, Config, Data
from nas.errors import UsageError
from nas.tasks import PLACED, lasting_task


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
