"""How long a new process takes to its first training step: `supernet.py` starts this and reads what it prints.

    python benchmarks/first_step.py '{"space": "shufflenet:small", "task": "npz:data.npz"}'

The argument is a search job's configuration. Prints the times, in seconds of the clock, at which the libraries were
imported, the data and the network were there, and the first step was done.
"""

import dataclasses
import json
import sys
import time

import jax

from nas import config
from nas.job.subject import bind, load_task
from nas.training.compilation import quick_start
from nas.training.net import split
from nas.training.paths import uniform_paths
from nas.training.sgd import fit


def main() -> None:
    imported = time.time()
    quick_start()
    settings = config.build(json.loads(sys.argv[1]))
    task = load_task(settings)
    space, key = bind(settings.space, task), jax.random.key(0)
    recipe = dataclasses.replace(settings.training, steps=1)
    paths = uniform_paths(space, key, recipe.steps)
    network = split(space.supernet(key, affine=settings.evaluator.affine))
    built = time.time()
    fit(*network, task, recipe, seed=0, paths=paths)
    print(json.dumps({"imported": imported, "built": built, "stepped": time.time()}))


if __name__ == "__main__":
    main()
