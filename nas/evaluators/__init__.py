"""How candidates are scored, a file a way. Where the task is a table, they are looked up: `table.Tabular`."""

import pkgutil
from typing import Any

EVALUATORS = {
    "supernet": "nas.evaluators.supernet:Supernet",
    "train": "nas.evaluators.train:Scratch",
    "zero-cost": "nas.evaluators.zero_cost:ZeroCost",
    "predicted": "nas.evaluators.predicted:Predicted",
}


def evaluator_class(name: str) -> Any:
    return pkgutil.resolve_name(EVALUATORS[name])
