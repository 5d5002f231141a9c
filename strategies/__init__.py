"""The strategies by name. Each is a module and a class, imported when it is chosen."""

import pkgutil
from collections.abc import Callable
from typing import Any

STRATEGIES = {
    "random": "strategies.random_search:RandomSearch",
    "regularized-evolution": "strategies.regularized_evolution:RegularizedEvolution",
    "evolution": "strategies.evolution:Evolution",
    "local-search": "strategies.local_search:LocalSearch",
    "reinforce": "strategies.reinforce:Reinforce",
    "nsga2": "strategies.nsga2:NSGA2",
    "ppo": "strategies.ppo:PPO",
    "bayesian": "strategies.bayesian:Bayesian",
    "successive-halving": "strategies.halving:SuccessiveHalving",
    "hyperband": "strategies.halving:Hyperband",
    "asha": "strategies.halving:ASHA",
    "bohb": "strategies.halving:BOHB",
    "nao": "strategies.nao:NAO",
    "seminas": "strategies.nao:SemiNAS",
}
# Those that learn by gradients through a mixture of all choices: `strategies.base.GradientStrategy`.
GRADIENT_STRATEGIES = {
    "darts": "strategies.differentiable:Differentiable",
    "pc-darts": "strategies.differentiable:pc_darts",
    "fair-darts": "strategies.differentiable:fair_darts",
    "gumbel-darts": "strategies.differentiable:gumbel_darts",
    "snas": "strategies.differentiable:snas",
    "bnas": "strategies.differentiable:bnas",
    "bats": "strategies.differentiable:bats",
    "bnas-beihang": "strategies.reducing:Reducing",
}

# How each trains the weights beside its logits, as published: fields of `nas.training.recipe.Recipe`. The steps follow
# from the epochs.
_DARTS = {
    "batch_size": 64,
    "learning_rate": 0.025,
    "min_learning_rate": 0.001,
    "weight_decay": 3e-4,
    "warmup": 0.0,
    "label_smoothing": 0.0,
}
RECIPES: dict[str, dict[str, Any]] = {
    "darts": _DARTS,
    # Its code stops at 0.001, the paper (section 4.2) at 0.
    "pc-darts": {**_DARTS, "batch_size": 256, "learning_rate": 0.1, "min_learning_rate": 0.0},
    "fair-darts": {**_DARTS, "batch_size": 128, "learning_rate": 0.005},
    # The setting of NAS-Bench-201.
    "gumbel-darts": {**_DARTS, "weight_decay": 5e-4, "nesterov": True},
    "snas": _DARTS,
    "bnas": _DARTS,
    "bats": _DARTS,
    "bnas-beihang": _DARTS,
}


def strategy_class(name: str) -> Callable[[], Any]:
    """What gives a strategy, a frozen dataclass, with its defaults. Raises KeyError for a name that is not listed."""
    return pkgutil.resolve_name({**STRATEGIES, **GRADIENT_STRATEGIES}[name])
