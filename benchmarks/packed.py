"""Convolutions of one bit on packed words against float ones of XLA and PyTorch, and whole networks of them.

    python benchmarks/packed.py [--torch-python PYTHON] [--rounds 9]

A few minutes, on one core. The sides take turns, and all seconds are those in which the core was at work: where other
work takes turns on it, they tell more. A ratio is the median over rounds of the other side's seconds by ours, and in
brackets its range.

Packed convolutions include the packing of their images. Float ones have the images as they are. PyTorch
(`pip install torch==2.13.0`, in any environment) is in a process of its own with one thread, and is asked in both of
its layouts, of which the faster counts; `--torch-python ""` leaves it out. Networks in floats have kernels of +1 and -1
that are made beforehand; both forms have the same logits, or nothing is reported.
"""

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CORE = max(os.sched_getaffinity(0))
os.sched_setaffinity(0, {CORE})  # before JAX starts its threads; the other side inherits it

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import report  # noqa: E402
from flax import nnx  # noqa: E402

from nas.training.compilation import same_bits  # noqa: E402
from spaces.binary_ops import BinaryConv  # noqa: E402
from spaces.dense import dense_conv  # noqa: E402
from spaces.layers import BatchNorm, Conv, Pointwise  # noqa: E402
from spaces.packed import binary_convs, pack, packed_conv  # noqa: E402

CONVS = [(n, size, channels) for size, channels in ((14, 256), (28, 128), (14, 128), (28, 256)) for n in (1, 8)]
GOAL, GOAL_NETWORK = 10, 4
Run = Callable[[], Any]


def main() -> None:
    options = _options()
    machine = report.machine(["jax", "flax"])
    torch = None
    if options.torch_python:
        torch = report.start([options.torch_python, "-B", str(Path(__file__).parent / "packed_torch.py")])
        machine["torch"] = report.ask(torch, "{}")["torch"]
    found: dict[str, Any] = {"machine": machine}
    found["convolutions"] = {str(shape): convolutions(shape, torch, options) for shape in CONVS}
    print(_table("convolution 3 x 3 (images, side, channels)", found["convolutions"]) + "\n", flush=True)
    networks = {f"{name}, {n} images": (name, n) for name in NETWORKS for n in (1, 8)}
    found["networks"] = {text: network(*each, options) for text, each in networks.items()}
    print(_table("network", found["networks"]))
    print(f"\nThe goals were {GOAL} times for convolutions and {GOAL_NETWORK} times for networks.")
    print("\n" + report.line(machine))
    report.write(options.json, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", default=sys.executable, metavar="PYTHON", help="a Python with PyTorch")
    parser.add_argument("--rounds", type=int, default=9, help="how often each side is timed [9]")
    parser.add_argument("--seconds", type=float, default=0.1, help="how long a side is timed in a round [0.1]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    return parser.parse_args()


def _table(what: str, rows: dict[str, dict[str, list[float]]]) -> str:
    others = [name for name in next(iter(rows.values())) if name != "packed"]
    columns = [what, "packed", *(text for name in others for text in (name, f"{name} / packed"))]
    return report.table(columns, [[text, *_cells(each, others)] for text, each in rows.items()])


def _cells(seconds: dict[str, list[float]], others: list[str]) -> list[str]:
    cells = [_ms(seconds["packed"])]
    for name in others:
        ratios = [theirs / ours for theirs, ours in zip(seconds[name], seconds["packed"], strict=True)]
        cells += [_ms(seconds[name]), report.spread(ratios, "{:.1f}")]
    return cells


def _ms(seconds: list[float]) -> str:
    return f"{1e3 * float(np.median(seconds)):.2f} ms"


def in_turn(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds by side, one number a round."""
    found = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
    return found


def timed(run: Run, at_least: float) -> Callable[[], float]:
    """Seconds of the core, a call, when asked."""

    def side() -> float:
        start, calls = time.process_time(), 0
        while time.process_time() - start < at_least:
            jax.block_until_ready(run())
            calls += 1
        return (time.process_time() - start) / calls

    return side


def compiled(module: nnx.Module, *inputs: Any) -> Run:
    """A call of a module as an exported network is called: its weights are arguments of the program."""
    definition, state = nnx.split(module)

    def call(state, *inputs):
        return nnx.merge(definition, state, copy=True)(*inputs)

    program = jax.jit(call, compiler_options=same_bits()).lower(state, *inputs).compile()
    return lambda: program(state, *inputs)


def convolutions(shape: tuple[int, int, int], torch: Any, options: argparse.Namespace) -> dict[str, list[float]]:
    n, size, channels = shape
    draw = np.random.default_rng(0)
    conv = BinaryConv((3, 3), channels, channels, draw, scale="none")
    images = jnp.asarray(draw.standard_normal((n, size, size, channels), np.float32))
    kernel = jnp.asarray(conv.kernel.get_value())
    packed, whole = compiled(packed_conv(conv), images), compiled(conv, images)
    np.testing.assert_array_equal(packed(), whole())
    plain = jax.jit(dense_conv)
    sides = {"packed": packed, "XLA": lambda: plain(images, kernel)}
    timers = {name: timed(run, options.seconds) for name, run in sides.items()}
    if torch is not None:
        words = json.dumps({"shape": shape, "at_least": options.seconds})
        timers["PyTorch"] = lambda: report.ask(torch, words)
    found = in_turn(timers, options.rounds + 1)
    report.say(f"{shape}: {_cells(found, [name for name in found if name != 'packed'])}")
    return {name: seconds[1:] for name, seconds in found.items()}  # the first is to warm up


class Layer(nnx.Module, pytree=False):
    """Normalisation and a convolution of one bit, and around both the images, of half the resolution as means."""

    def __init__(self, width_in: int, width: int, draw: np.random.Generator):
        stride = width // width_in
        self.norm = BatchNorm(width_in, affine=True)
        self.conv = BinaryConv((3, 3), width_in, width, draw, strides=(stride, stride))
        self.halves = stride == 2

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.norm(x, False))
        if self.halves:
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
            x = jnp.concatenate([x, x], -1)
        return x + y


class ResNet18(nnx.Module, pytree=False):
    """The layers of a ResNet-18 for images of 32 pixels, each with a way around it, as in Bi-Real Net."""

    def __init__(self, draw: np.random.Generator):
        widths = [64] * 5 + [128] * 4 + [256] * 4 + [512] * 4
        self.stem = Conv((3, 3), 3, 64, draw, scale=0.2)
        self.layers = nnx.List([Layer(a, b, draw) for a, b in itertools.pairwise(widths)])
        self.norm, self.head = BatchNorm(512, affine=True), Pointwise(512, 10, draw)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.stem(images)
        for layer in self.layers:
            x = layer(x)
        return self.head(jnp.maximum(self.norm(x, False), 0).mean((1, 2)))


NETWORKS: dict[str, Callable[[], nnx.Module]] = {
    "ResNet-18, 32 pixels": lambda: ResNet18(np.random.default_rng(0)),
}


def network(name: str, n: int, options: argparse.Namespace) -> dict[str, list[float]]:
    report.say(f"{name}, {n} images ...")
    module = NETWORKS[name]()
    images = jnp.asarray(np.random.default_rng(0).standard_normal((n, 32, 32, 3), np.float32))
    runs = {"packed": compiled(pack(module, same_bits()), images), "floats": compiled(made_ready(module), images)}
    np.testing.assert_allclose(runs["packed"](), runs["floats"](), rtol=0, atol=1e-4)
    return in_turn({name: timed(run, options.seconds) for name, run in runs.items()}, options.rounds)


def made_ready(network: nnx.Module) -> nnx.Module:
    """In floats, with kernels and scales that no program has to make."""
    network = nnx.clone(network)
    for conv in binary_convs(network).values():
        packed = packed_conv(conv, same_bits())
        conv.kernel.set_value(jnp.where(packed.negative(), -1.0, 1.0))
        conv.scale = None if packed.scale is None else nnx.Param(packed.scale.get_value())
        conv.real = True
    return network


if __name__ == "__main__":
    main()
