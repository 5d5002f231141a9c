"""How candidates are scored, a file a way. Where the task is a table, they are looked up: `table.Tabular`."""

import importlib
from typing import Any

EVALUATORS = {
    "supernet": "nas.evaluators.supernet:Supernet",
    "train": "nas.evaluators.train:Scratch",
    "zero-cost": "nas.evaluators.zero_cost:ZeroCost",
    "predicted": "nas.evaluators.predicted:Predicted",
}


def evaluator_class(name: str) -> Any:
    module, _, attribute = EVALUATORS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
