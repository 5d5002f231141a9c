"""The strategies by name. Each is a module and a class, imported when it is chosen."""

import importlib
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
    "nao": "strategies.nao:NAO",
    "seminas": "strategies.nao:SemiNAS",
}
# Those that learn by gradients through a mixture of all choices: `nas.types.GradientStrategy`.
GRADIENT_STRATEGIES = {
    "darts": "strategies.differentiable:Differentiable",
    "pc-darts": "strategies.differentiable:pc_darts",
    "fair-darts": "strategies.differentiable:fair_darts",
    "gumbel-darts": "strategies.differentiable:gumbel_darts",
    "snas": "strategies.differentiable:snas",
}


def strategy_class(name: str) -> Callable[[], Any]:
    """What gives a strategy, a frozen dataclass, with its defaults. Raises KeyError for a name that is not listed."""
    module, _, attribute = {**STRATEGIES, **GRADIENT_STRATEGIES}[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
