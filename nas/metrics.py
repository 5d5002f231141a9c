"""Metrics of which more is better: kept and searched as their negatives, and shown as what they are.

Inside, everything is minimised: `ap` is stored as `minus_ap`, also in `standalone_minus_ap` and `test_minus_ap`. For
people it is `ap`, `standalone_ap` and `test_ap`. Where something is shown it is turned to the outside; where a name is
typed, either spelling will do.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

INNER = re.compile(r"(standalone_|test_|predicted_|)minus_(\w+)")


def outer(name: str) -> str:
    """The name by which people know a metric."""
    match = INNER.fullmatch(name)
    return name if match is None else match[1] + match[2]


def inner(name: str, known: Collection[str]) -> str:
    """The one of the known metrics that a name stands for, in either spelling; the name itself where none does."""
    return name if name in known else next((each for each in known if outer(each) == name), name)


def seen(name: str, value: Any) -> tuple[str, Any]:
    """A metric as people see it: its name and its value, which may be None."""
    shown = outer(name)
    # Not -value, which makes of nothing a "-0".
    return shown, value if shown == name or value is None else 0.0 - value


def outward(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics, among other things, as people see it."""
    # Who measures both `x` and `minus_x` sees both.
    return dict((name, value) if outer(name) in row else seen(name, value) for name, value in row.items())
