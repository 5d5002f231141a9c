"""The strategies by name. Each is a module and a class, imported when it is chosen."""

import importlib

STRATEGIES = {
    "random": "strategies.random_search:RandomSearch",
    "regularized-evolution": "strategies.regularized_evolution:RegularizedEvolution",
    "evolution": "strategies.evolution:Evolution",
    "local-search": "strategies.local_search:LocalSearch",
    "reinforce": "strategies.reinforce:Reinforce",
    "nsga2": "strategies.nsga2:NSGA2",
    "ppo": "strategies.ppo:PPO",
    "bayesian": "strategies.bayesian:Bayesian",
}


def strategy_class(name: str) -> type:
    """The frozen dataclass of a strategy. Raises KeyError for a name that is not in `STRATEGIES`."""
    module, _, attribute = STRATEGIES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
