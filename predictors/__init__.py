"""The predictors by name. Each is a module and its default value, imported when it is chosen."""

import dataclasses
import pkgutil
from typing import Any

PREDICTORS = {
    "auto": "predictors.auto:Auto",
    "linear": "predictors.linear:Linear",
    "gp": "predictors.gaussian_process:GaussianProcess",
    "nao": "predictors.nao:NAO",
    "seminas": "predictors.nao:SemiNAS",
    "gates": "predictors.gates:GATES",
    "mlp-ensemble": "predictors.mlp_ensemble:MLPEnsemble",
    "boosted-trees": "predictors.boosted_trees:BoostedTrees",
}


def predictor_class(name: str) -> Any:
    """What makes a predictor of its fields. Raises KeyError for a name that is not in `PREDICTORS`."""
    return pkgutil.resolve_name(PREDICTORS[name])


def kind_of(predictor: Any) -> str:
    """The name of a predictor: of several names for its class the one of which the defaults are nearest."""

    def distance(name: str) -> int:
        other = predictor_class(name)()
        if type(other) is not type(predictor):
            return 10**6
        return sum(getattr(other, field.name) != getattr(predictor, field.name) for field in dataclasses.fields(other))

    return min(PREDICTORS, key=distance)
