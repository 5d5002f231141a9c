"""A search step of DARTS against the PyTorch code it was published with: agreement, time, start and memory.

    git clone https://github.com/quark0/darts DIR
    python benchmarks/darts.py --reference DIR [--torch-python PYTHON] [--batch 16] [--cores 2]

A few minutes on 2 cores. Nothing of the reference is part of this library: it is imported from DIR, in a process of
its own, by a Python that has PyTorch. Both sides have the same weights, logits, images and cores, and take steps in
turn; a step is one on the logits, of first order, and one on the weights. Compared are the loss, its gradient by the
logits, and the losses of successive steps. Start is the time from the start of a process to the end of its first search
step, with an empty cache of compiled programs and with a full one.
"""

import argparse
import itertools
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import report
from flax import nnx

from nas.devices import everywhere
from nas.tasks.kinds.classification import Classification
from nas.training.bilevel import Rule, begin, search_step
from nas.training.compilation import quick_start
from nas.training.hypergradient import MIXTURE, WEIGHTS, Batch, gradients
from nas.training.net import split
from nas.training.recipe import Recipe
from nas.training.sgd import Program
from spaces.cell_pairs import EDGES
from spaces.darts import Darts
from spaces.layers import BatchNorm
from strategies import RECIPES
from strategies.differentiable import Differentiable, Logits, gumbel_darts

HERE = Path(__file__).parent
SPACE = Darts()
RATE = 0.025
WARM = 5  # starts with a warm cache
GUMBEL = 4  # steps along a sampled path for each of DARTS
SCALING = ((0.5,) * 3, (0.25,) * 3)


def main() -> None:
    options = _options()
    if options.child is not None:
        return child(options.child, options.rounds)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    machine = report.machine(["jax", "flax"])
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        save(data, options.batch)
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        starts, line = [], [sys.executable, __file__, "--child", str(data), "--rounds"]
        for name in ("cold", *["warm"] * WARM):
            report.say(f"ours, cache {name} ...")
            start = time.time()
            with report.start([*line, "1"], environment) as process:
                report.ask(process)
                starts.append(report.ask(process))
            starts[-1]["start"] = starts[-1]["first"] - start
        report.say("ours and PyTorch in turn ...")
        line_torch = [options.torch_python, str(HERE / "darts_torch.py"), options.reference, str(data)]
        line_torch += [str(options.cores), str(options.rounds)]
        with (
            report.start([*line, str(options.rounds)], environment) as us,
            report.start(line_torch) as them,
        ):
            for _ in range(options.rounds):
                report.ask(us)
                report.ask(them)
            ours, theirs = report.ask(us), report.ask(them)
    cold, *warm = starts
    gradient = np.abs(np.array(ours["gradient"]) - theirs["gradient"]).max() / np.abs(theirs["gradient"]).max()
    apart = [abs(a - b) for a, b in zip(ours["losses"], theirs["losses"], strict=True)]
    steps, gumbel = ours["seconds"][1:], ours["gumbel"][GUMBEL:]
    faster = [b / a for a, b in zip(steps, theirs["seconds"][1:], strict=True)]
    print(report.line({**machine, "torch": theirs["torch"]}), end="\n\n")
    rows = [
        ["loss apart", f"{abs(ours['loss'] - theirs['loss']):.1e}", ""],
        ["gradient by the logits apart, as a share of its largest entry", f"{gradient:.1e}", ""],
        [f"losses of {options.rounds} steps apart", " ".join(f"{each:.0e}" for each in apart), ""],
        ["search step, seconds", report.spread(steps), report.spread(theirs["seconds"][1:])],
        ["PyTorch's as a multiple of ours, by rounds", report.spread(faster), ""],
        ["search step with one sampled operation an edge, seconds", report.spread(gumbel), ""],
        ["start to the end of the first step, seconds, cold", f"{cold['start']:.1f}", ""],
        ["the same, cache warm", report.spread([each["start"] for each in warm]), ""],
        ["most memory, GiB (cold, warm)", f"{cold['memory']:.2f}, {warm[0]['memory']:.2f}", f"{theirs['memory']:.2f}"],
    ]
    print(report.table([f"batch {options.batch}", "ours", "PyTorch"], rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", metavar="DIR", help="a checkout of quark0/darts")
    parser.add_argument("--torch-python", metavar="PYTHON", default=sys.executable)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference is None and options.child is None:
        parser.error("--reference DIR is needed")
    return options


def network():
    return SPACE.supernet(jax.random.key(0))


def save(path: Path, batch: int) -> None:
    """Images, logits, and the weights in the order of the reference's parameters."""
    draw = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {f"p{i}": each for i, each in enumerate(parameters(network()))}
    arrays |= {"count": np.array(len(arrays)), "width": np.array(SPACE.width), "cells": np.array(SPACE.cells)}
    arrays |= {name: draw.normal(0, 0.5, (len(EDGES), 8)).astype(np.float32) for name in ("normal", "reduce")}
    for part in "tv":
        images = draw.integers(0, 256, (batch, 32, 32, 3)).astype(np.uint8)
        scaled = (images / 255 - SCALING[0]) / np.array(SCALING[1])
        arrays[f"{part}_images"], arrays[f"{part}_y"] = images, draw.integers(0, 10, batch)
        arrays[f"{part}_x"] = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)
    np.savez(path, **arrays)


def parameters(supernet) -> list[np.ndarray]:
    found = [*kernels(supernet.stem.convs), *affine(supernet.stem.norms[0])]
    for run in supernet.runs:
        count = run.length
        for i in range(count):
            before = [run.enter[0], *run.second, *run.far][i]
            last = [run.enter[1], *run.near][i]
            found += kernels(before) + kernels(last)
            edges: dict[int, list[np.ndarray]] = {}
            for choice in run.core.choices:
                decisions = choice.weights.decisions
                each = len(decisions) // count
                for place in range(i * each, (i + 1) * each):
                    ops = [kernels(choice.branch(place, op)) for op in range(8)]
                    edges[decisions[place] % len(EDGES)] = [kernel for op in ops for kernel in op]
            found += [kernel for edge in range(len(EDGES)) for kernel in edges[edge]]
    return [*found, np.asarray(supernet.head.kernel.get_value()).T.copy(), np.asarray(supernet.bias.get_value())]


def kernels(module) -> list[np.ndarray]:
    """In the layout of PyTorch."""
    forms = {4: lambda k: k.transpose(3, 2, 0, 1), 3: lambda k: k.transpose(2, 0, 1)[:, None]}
    forms[2] = lambda k: k.T[:, :, None, None]
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))]
    return [np.ascontiguousarray(forms[leaf.ndim](leaf)) for leaf in leaves]


def affine(norm: BatchNorm) -> list[np.ndarray]:
    assert norm.scale is not None
    assert norm.bias is not None
    return [np.asarray(norm.scale.get_value()), np.asarray(norm.bias.get_value())]


def child(data: str, rounds: int) -> None:
    quick_start()
    arrays = np.load(data)
    graph, weights, statistics = split(network())
    batch, key = len(arrays["t_y"]), jax.random.key(0)
    images = jnp.asarray(np.concatenate([arrays["t_images"], arrays["v_images"]]))
    labels = jnp.asarray(np.concatenate([arrays["t_y"], arrays["v_y"]]), jnp.int32)
    train, valid = (
        Batch(statistics, (images, labels), np.arange(batch, dtype=np.int32) + at, key, 0) for at in (0, batch)
    )
    recipe = Recipe(**{**RECIPES["darts"], "batch_size": batch}, crop=0)
    answer: dict = {}

    def steps(strategy: Differentiable) -> Iterator[tuple[float, float]]:
        """The loss of each step, and its seconds."""
        rule = Rule(strategy, SPACE, ())
        program = Program(graph, recipe, Classification(10), SCALING, shared=strategy.along_paths)
        state, key = everywhere(begin(rule, program, weights, given_logits(arrays), 1)), jax.random.key(0)
        for i in itertools.count():
            start = time.perf_counter()
            state, loss = search_step(rule, program, state, train, valid, jr.fold_in(key, i), 0.0, RATE)
            loss = float(jax.block_until_ready((state.train, loss))[1])
            yield loss, time.perf_counter() - start

    darts, gumbel = steps(Differentiable()), steps(gumbel_darts())
    found, sampled = [], []
    for _ in range(rounds):
        sys.stdin.readline()
        found.append(next(darts))
        answer.setdefault("first", time.time())
        sampled += [next(gumbel)[1] for _ in range(GUMBEL)]
        print(json.dumps(found[-1]), flush=True)
    answer["losses"], answer["seconds"] = zip(*found, strict=True)
    answer["gumbel"] = sampled
    answer["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    program = Program(graph, recipe, Classification(10), SCALING, shared=False)
    logits = given_logits(arrays)
    mixture, pull = jax.vjp(jax.nn.softmax, logits.ops)
    loss, (_, by_mixture) = gradients(program, (WEIGHTS, MIXTURE), weights, mixture, valid)
    answer |= {"loss": float(loss), "gradient": np.asarray(pull(by_mixture)[0]).tolist()}
    sys.stdin.readline()
    print(json.dumps(answer))


def given_logits(arrays) -> Logits:
    ops = jnp.asarray(np.concatenate([arrays["normal"], arrays["reduce"]]))
    return Logits(ops, jnp.zeros(len(ops)))


if __name__ == "__main__":
    main()
