"""Whether a store gives back a configuration as it is."""

import json

from nas.config.building import BUILDERS, to_data
from nas.config.values import PARTS, Config, Data
from nas.errors import UsageError
from nas.plain import shown


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
