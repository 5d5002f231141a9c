"""Peers that others wrote, on the same tables and seeds. Each is installed by its user; what is not is left out."""

import importlib.util
from collections.abc import Callable, Iterator

import numpy as np

from proving.plain import INITIAL, Oracle


def optuna_tpe(oracle: Oracle) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=int(oracle.draw.integers(2**31)), multivariate=True, n_startup_trials=10)
    study = optuna.create_study(sampler=sampler)
    names = [f"x{i:02d}" for i in range(len(oracle.sizes))]
    choices = {
        name: optuna.distributions.CategoricalDistribution(list(range(size)))
        for name, size in zip(names, oracle.sizes, strict=True)
    }
    while not oracle.over:
        trial = study.ask(choices)
        row = np.array([trial.params[name] for name in names])
        if not oracle.legal(row[None])[0]:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        value = float(oracle.ask(row)[0])
        if np.isfinite(value):
            study.tell(trial, value)
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)


def smac(oracle: Oracle) -> None:
    from ConfigSpace import Categorical, Configuration, ConfigurationSpace
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.runhistory import StatusType, TrialValue

    names = [f"x{i:02d}" for i in range(len(oracle.sizes))]
    space = ConfigurationSpace(seed=int(oracle.draw.integers(2**31)))
    space.add([Categorical(name, list(range(size))) for name, size in zip(names, oracle.sizes, strict=True)])
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            space, n_trials=10 * oracle.trials, seed=int(oracle.draw.integers(2**31)), output_directory=folder
        )
        design = HyperparameterOptimizationFacade.get_initial_design(scenario, n_configs=INITIAL)
        facade = HyperparameterOptimizationFacade(
            scenario, lambda config, seed: 0.0, initial_design=design, overwrite=True, logging_level=50
        )
        while not oracle.over:
            info = facade.ask()
            config: Configuration = info.config
            row = np.array([config[name] for name in names])
            value = float(oracle.ask(row)[0]) if oracle.legal(row[None])[0] else np.nan
            failed = not np.isfinite(value)
            facade.tell(info, TrialValue(1e9 if failed else value, status=StatusType.CRASHED if failed else 1))


def botorch(oracle: Oracle) -> None:
    """A mixed Gaussian process of categories, by the logarithm of the expected improvement over all or drawn rows."""
    import torch
    from botorch.acquisition import LogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import MixedSingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(int(oracle.draw.integers(2**31)))
    while not oracle.over:
        values = np.array([value[0] for value in oracle.values])
        known = np.isfinite(values) if len(values) else np.zeros(0, bool)
        if len(oracle.rows) < INITIAL or known.sum() < 2:
            oracle.ask(oracle.random())
            continue
        x = torch.tensor(np.array(oracle.rows)[known], dtype=torch.double)
        y = torch.tensor(-values[known], dtype=torch.double)[:, None]
        model = MixedSingleTaskGP(x, (y - y.mean()) / (y.std() + 1e-9), cat_dims=list(range(len(oracle.sizes))))
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        gain = LogExpectedImprovement(model, best_f=((y - y.mean()) / (y.std() + 1e-9)).max())
        rows = oracle.candidates()
        rows = rows[oracle.draw.permutation(len(rows))[:2000]]
        with torch.no_grad():
            promise = gain(torch.tensor(rows, dtype=torch.double)[:, None])
        for i in promise.argsort(descending=True)[: min(5, oracle.trials - len(oracle.rows))]:
            oracle.ask(rows[int(i)])


def hebo(oracle: Oracle) -> None:
    import pandas as pd
    from hebo.design_space.design_space import DesignSpace
    from hebo.optimizers.hebo import HEBO

    names = [f"x{i:02d}" for i in range(len(oracle.sizes))]
    space = DesignSpace().parse(
        [{"name": n, "type": "cat", "categories": list(range(s))} for n, s in zip(names, oracle.sizes, strict=True)]
    )
    found = HEBO(space, rand_sample=INITIAL, scramble_seed=int(oracle.draw.integers(2**31)))
    while not oracle.over:
        asked: pd.DataFrame = found.suggest(1)
        row = np.array([int(asked[name].iloc[0]) for name in names])
        value = float(oracle.ask(row)[0]) if oracle.legal(row[None])[0] else np.nan
        found.observe(asked, np.array([[value if np.isfinite(value) else 1e3]]))


PEERS: dict[str, Callable[[Oracle], None]] = {
    "optuna tpe": optuna_tpe,
    "smac": smac,
    "botorch": botorch,
    "hebo": hebo,
}
MODULES = {"optuna tpe": "optuna", "smac": "smac", "botorch": "botorch", "hebo": "hebo"}


def installed() -> Iterator[str]:
    return (name for name, module in MODULES.items() if importlib.util.find_spec(module) is not None)
