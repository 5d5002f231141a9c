"""Short jobs of all kinds, as command lines, and the files that they are given."""

import csv
import dataclasses
from pathlib import Path

import numpy as np

TABLE, COUNTED, LOG = "made.npz", "counted.py", "NAS_FAULTS_LOG"
ROWS = 300  # of the table

# An evaluator that writes down what it evaluates, before it does.
EVALUATOR = f'''
import dataclasses
import os
import select
import time


@dataclasses.dataclass(frozen=True)
class Counted:
    seconds: float = 0.01
    metrics = ("error",)

    def prepare(self, space, task):
        def evaluate(encoding, budget, seed):
            line = f"{{time.monotonic_ns()}} {{budget}} {{','.join(map(str, encoding))}}\\n"
            file = os.open(os.environ["{LOG}"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, line.encode())
            os.close(file)
            select.select([], [], [], self.seconds)  # under libfaketime Python's sleep fails where the clock jumps
            return {{"error": sum((i + 2) * choice for i, choice in enumerate(encoding)) % 17 / 17}}

        return evaluate
'''


@dataclasses.dataclass(frozen=True)
class Job:
    """`words` follow `nas search`; `{files}` in them is the folder that `prepare` makes."""

    name: str
    words: str
    share: float = 1.0  # of all rounds, against that of others
    workers: int = 0
    counts: bool = False  # whether its evaluator writes down what it evaluates
    trains: bool = False  # whether there are checkpoints

    def line(self, files: Path) -> list[str]:
        words = self.words.replace("{files}", str(files)).split()
        return ["search", *words, "--workers", str(self.workers), "--name", "job", "--seed", "3"]


def _table(strategy: str, more: str = "", share: float = 1.0) -> Job:
    words = f"--space nasbench201 --task table:{{files}}/{TABLE} --strategy {strategy} --trials 60 --baselines 0 {more}"
    return Job(f"table, {strategy}", words, share)


SMALL = "--space.blocks (1,1) --space.widths (8,16) --space.strides (1,2) --space.stem-width 8 --space.last-width 16"
DATA = f"--space shufflenet {SMALL} --task digits --max-images 300 --baselines 1 --final.batch-size 16 "
OFTEN = "--training.batch-size 16 --training.checkpoint-seconds 0 --final.checkpoint-seconds 0 "
LARGE = "--space.blocks (2,2,2) --space.widths (8,16,32) --space.strides (1,2,2) --space.stem-width 8 "
SCORED = f"--evaluator {{files}}/{COUNTED}:Counted --finalists 0 --baselines 0 "
OWN = f"--space shufflenet {LARGE} --task digits --max-images 100 {SCORED}"
EVOLUTION = "--strategy evolution --strategy.population-size 8 --strategy.num-mutations 4 --strategy.num-crossovers 2 "
SHORT = "--strategy.initial 8 --strategy.batch-size 8 --strategy.num-seeds 4 --strategy.draws 3 --strategy.memory 64 "
SHORT += "--strategy.pool 60 --strategy.predictor.members 1 --strategy.predictor.hidden 8 "
SHORT += "--strategy.predictor.steps 10 --strategy.predictor.unlabelled 60"
JOBS = (
    _table("random", "--baselines 4"),
    _table("regularized-evolution"),
    _table("local-search"),
    _table("evolution"),
    _table("nsga2", "--objectives error,params"),
    _table("reinforce"),
    _table("ppo", "--trials 30"),
    _table("bayesian", "--trials 24"),
    _table("seminas", f"--trials 24 --save-predictor learned {SHORT}", 2.0),
    Job("own evaluator, evolution", f"{OWN} {EVOLUTION} --trials 60", 3.0, counts=True),
    Job("own evaluator, two Ray workers", f"{OWN} {EVOLUTION} --trials 60", 2.0, workers=2, counts=True),
    Job("untrained scores", f"{DATA} --strategy random --evaluator zero-cost --trials 10 --final.steps 10"),
    Job(
        "shared weights, evolution",
        f"{DATA} {OFTEN} {EVOLUTION} --trials 12 --training.steps 24 --final.steps 16",
        2.0,
        trains=True,
    ),
    Job(
        "gradients, gumbel-darts",
        f"{DATA} {OFTEN} --strategy gumbel-darts --epochs 4 --final.steps 16",
        2.0,
        trains=True,
    ),
)


def prepare(files: Path) -> None:
    """Makes the folder of the files that jobs are given."""
    import jax.numpy as jnp

    from nas.tables import write_table
    from nas.tables.build import build
    from spaces.base import every
    from spaces.nasbench201 import NasBench201

    files.mkdir()
    (files / COUNTED).write_text(EVALUATOR)
    space, draw = NasBench201(), np.random.default_rng(0)
    rows = np.unique(np.asarray(space.canonical(jnp.asarray(every(space)))), axis=0)
    with open(files / "made.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["architecture", "made_valid_error_e5", "made_test_error_e5", "made_seconds_e5", "params"])
        for row in draw.permutation(rows)[:ROWS]:
            error = 0.1 + 0.8 * draw.random()
            out.writerow([space.describe(row), round(error, 4), round(error + 0.01, 4), 10, 1 + int(row.sum())])
    write_table(files / TABLE, build(files / "made.csv", "nasbench201", "made"))
