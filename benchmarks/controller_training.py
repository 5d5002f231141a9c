"""The controller of SemiNAS beside its PyTorch code: seconds an epoch of training, taking turns on the same cores.

    python benchmarks/controller_training.py --reference DIR --torch-python PYTHON       about 3 minutes on 2 cores

DIR is a checkout of renqianluo/SemiNAS, PYTHON an interpreter that has PyTorch. An epoch is that of the paper's
setting on NAS-Bench-101: 1,100 labelled architectures, up-sampled 10 times, and 10,000 that were told a score, in
batches of 100; sequences of 27 decisions with up to 7 choices, 64 hidden units. The code of the checkout loads and
trains as it does in `train_seminas.py`, on the CPU; ours trains as `predictors.nao` does.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import report

from predictors.nao import NAO
from spaces.base import sample

LENGTH, CHOICES, LABELLED, UNLABELLED, UP_SAMPLE, BATCH = 27, 7, 1100, 10_000, 10, 100
STEPS = (LABELLED * UP_SAMPLE + UNLABELLED) // BATCH

REFERENCE = """
import sys, time, types
sys.path.insert(0, sys.argv[1] + "/nasbench")
stub = types.ModuleType("nasbench"); stub.api = types.ModuleType("nasbench.api")
sys.modules["nasbench"], sys.modules["nasbench.api"] = stub, stub.api
import numpy as np, torch, torch.nn.functional as F
import utils
from controller import NAO
model = NAO(1, 1, 2, 64, 16, 7, 0.1, 27, 27, 27)
draw = np.random.default_rng(0)
rows, targets = draw.integers(0, 7, (21000, 27)).tolist(), draw.normal(size=21000).tolist()
queue = torch.utils.data.DataLoader(utils.ControllerDataset(rows, targets, True), batch_size=100, shuffle=True)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
model.train()
for line in sys.stdin:
    start = time.perf_counter()
    for sample in queue:
        optimizer.zero_grad()
        value, logp, _ = model(sample["encoder_input"], sample["decoder_input"])
        loss = 0.8 * F.mse_loss(value.squeeze(), sample["encoder_target"].squeeze())
        loss = loss + 0.2 * F.nll_loss(logp.contiguous().view(-1, logp.size(-1)), sample["decoder_target"].view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    print(time.perf_counter() - start, flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Of the length and the vocabulary of NAS-Bench-101's; no network belongs to them."""

    cardinalities: tuple[int, ...] = (CHOICES,) * LENGTH

    def identity(self) -> dict:
        return {"cardinalities": self.cardinalities}

    def canonical(self, encodings):
        return encodings

    def cost(self, encodings):
        return {"choices": encodings.sum(1).astype(jnp.float32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, metavar="DIR", help="a checkout of renqianluo/SemiNAS")
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter that has PyTorch [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each, in turns [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    options = parser.parse_args()
    machine = report.machine(["jax", "jaxlib"])
    theirs = report.start([options.torch_python, "-c", REFERENCE, options.reference])
    ours, compiling = epoch_of_ours()
    times: dict[str, list[float]] = {"PyTorch": [], "ours": []}
    for turn in range(options.rounds + 1):
        each = report.ask(theirs), ours()
        if turn:  # the first warms up
            for name, seconds in zip(times, each, strict=True):
                times[name].append(seconds)
            report.say(f"PyTorch {each[0]:.2f} s, ours {each[1]:.2f} s")
    theirs.communicate()
    ratios = [a / b for a, b in zip(*times.values(), strict=True)]
    cells = [report.spread(times["PyTorch"]), report.spread(times["ours"]), report.spread(ratios)]
    print(report.table(["seconds an epoch", "PyTorch", "ours", "ratio"], [["SemiNAS's controller", *cells]]))
    print(f"\nCompiling ours took {compiling:.1f} s.\n\n{report.line(machine)}")
    report.write(options.json, {"machine": machine, "times": times, "compiling": compiling})


def epoch_of_ours():
    space = Sequences()
    key, key_rows, key_latent, key_weights = jr.split(jr.key(0), 4)
    predictor = NAO(hidden=64, members=1, steps=STEPS, batch_size=BATCH, learning_rate=1e-3, bidirectional=True)
    rows = sample(space, key_rows, LABELLED + UNLABELLED)  # pyright: ignore[reportArgumentType]
    latent = jr.normal(key_latent, (len(rows),))
    draw = np.random.default_rng(0)
    weights = predictor.untrained(space, key_weights)

    @jax.jit
    def train(weights, places):
        return predictor.trained(space, weights, key, rows, latent, places)

    def once() -> float:
        # Each row as often as an epoch has it.
        order = np.concatenate([np.tile(np.arange(LABELLED), UP_SAMPLE), LABELLED + np.arange(UNLABELLED)])
        start = time.perf_counter()
        places = draw.permutation(order)[: STEPS * BATCH].reshape(1, STEPS, BATCH)
        jax.block_until_ready(train(weights, jnp.asarray(places)))
        return time.perf_counter() - start

    start = time.perf_counter()
    once()
    return once, time.perf_counter() - start


if __name__ == "__main__":
    main()
