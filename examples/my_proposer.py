"""Optuna proposes, a run evaluates: `pip install optuna`, then

    nas search --ask-and-tell --name mine --space shufflenet:tiny --trials 40 --workers 0
    python examples/my_proposer.py mine 40
    nas search --resume mine

Whoever else proposes needs `nas.tell` alone.
"""

import sys

import optuna

import nas
from nas.config import build_space

run, trials = sys.argv[1], int(sys.argv[2])
sizes = build_space("shufflenet:tiny").cardinalities  # how many choices each decision has
study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
for _ in range(trials):
    trial = study.ask()
    choices = [trial.suggest_categorical(f"decision {i}", range(size)) for i, size in enumerate(sizes)]
    (found,) = nas.tell(run, [{"architecture": choices}], workers=0)
    study.tell(trial, found.get("error"), None if "error" in found else optuna.trial.TrialState.FAIL)
print(f"Optuna's best error is {study.best_value:.4f}")
