"""The laws of parts, for parts of one's own: call these in a test.

>>> nas.testing.check_space(MySpace())
>>> nas.testing.check_strategy(MyStrategy())

Each raises `Broken`, whose one line says which law does not hold, for what it was tried, and what came out. What whole
jobs promise is tried by `python -m nas.testing.faults`.
"""

from nas.testing.laws.base import Broken, lawful
from nas.testing.laws.predictor import check_predictor
from nas.testing.laws.space import check_build, check_space
from nas.testing.laws.strategy import check_fields_of_strategy, check_strategy
from nas.testing.laws.task import check_task

__all__ = [
    "Broken",
    "check_build",
    "check_fields_of_strategy",
    "check_predictor",
    "check_space",
    "check_strategy",
    "check_task",
    "lawful",
]
