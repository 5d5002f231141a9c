"""Conditions as people write them: `macs < 3e6 and params <= 1e5`."""

import operator
import re
from collections.abc import Callable
from typing import Any

from nas.errors import UsageError
from nas.plain import shown

MOST_TEXT = 10_000  # letters of conditions
Condition = tuple[str, Callable[[Any, Any], Any], float]

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
# No group is possessive: before 3.11.5 Python takes what such a group has tried for what it has matched.
CONDITION = re.compile(
    rf"\s*+([a-z_]\w{{0,99}}+)\s*+({'|'.join(OPERATORS)})\s*+([-+]?(?:\d{{1,100}}+\.?\d{{0,100}}+|\.\d{{1,100}}+)(?:e[-+]?\d{{1,9}})?)\s*+",
    re.ASCII | re.IGNORECASE,
)


def parse_where(text: str, field: str = "where") -> list[Condition]:
    """`name op number [and name op number ...]` as (name, comparison, number); all of them must hold."""
    if len(text) > MOST_TEXT:
        raise UsageError(f"{field}={shown(text, 60)!r} has {len(text)} letters; allowed: {MOST_TEXT}")
    conditions = []
    for part in re.split(r"\band\b", text, flags=re.IGNORECASE):
        match = CONDITION.fullmatch(part)
        if match is None:
            form = f"'METRIC OP NUMBER [and ...]' with OP one of {' '.join(OPERATORS)}"
            raise UsageError(f"{field}={shown(text)!r} must be {form}, such as 'macs < 3e6 and params <= 1e5'")
        conditions.append((match[1], OPERATORS[match[2]], float(match[3])))
    return conditions
