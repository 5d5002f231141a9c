"""The laws of parts, for parts of one's own: call these in a test.

>>> nas.testing.check_space(MySpace())
>>> nas.testing.check_strategy(MyStrategy())

Each raises `Broken`, whose one line says which law does not hold, for what it was tried, and what came out. What whole
jobs promise is tried by `python -m nas.testing.faults`.
"""

from nas.testing.laws import (
    Broken,
    check_fields_of_strategy,
    check_predictor,
    check_space,
    check_strategy,
    check_task,
    lawful,
)

__all__ = [
    "Broken",
    "check_fields_of_strategy",
    "check_predictor",
    "check_space",
    "check_strategy",
    "check_task",
    "lawful",
]
