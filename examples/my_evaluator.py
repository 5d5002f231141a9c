"""An evaluator of one's own: how well the untrained network's features tell the classes apart, by a linear probe.

    python run_search.py --evaluator examples/my_evaluator.py:Probe --evaluator.images 200 --trials 20

`prepare` runs once in each worker, and what it returns once a candidate.
"""

import dataclasses

import jax
import numpy as np
from flax import nnx
from sklearn.linear_model import RidgeClassifier


@dataclasses.dataclass(frozen=True)
class Probe:
    images: int = 200
    """Training images, and at most as many validation images."""
    metrics = ("probe_error",)  # all are minimised; the first is the objective unless --objectives names another

    def prepare(self, space, task):
        train, valid = (
            (part.images[: self.images] / np.float32(255), part.labels[: self.images])
            for part in (task.train, task.valid)
        )

        def evaluate(encoding, budget, seed):
            network = space.build(np.asarray(encoding, np.int32), jax.random.key(seed))
            definition, state = nnx.split(network)
            run = jax.jit(lambda images: nnx.merge(definition, state, copy=True)(images, (), train=True))
            outputs = [np.asarray(run(images), np.float64) for images, _ in (train, valid)]
            probe = RidgeClassifier().fit(outputs[0], train[1])
            return {"probe_error": float((probe.predict(outputs[1]) != valid[1]).mean())}

        return evaluate
