"""The shufflenet supernet against the PyTorch code it was published with: candidate evaluation, training, start.

    git clone https://github.com/megvii-model/SinglePathOneShot DIR
    python benchmarks/supernet.py --reference DIR [--torch-python PYTHON]

About 8 minutes on 2 cores. Nothing of the reference is part of this library: it is imported from DIR, in a process
of its own, by a Python that has PyTorch (`pip install torch`, or the extra `torch` of this project).

Both sides have the same weights, images, paths, batches and cores, and take turns: a round times one side and then
the other, so that whatever else the machine does meets both. Reported are the median over the rounds and, as the
ratio, the median and the range over the rounds of PyTorch's time divided by ours. More than 1 is faster than PyTorch.

The network is the one of 20 blocks at 32 pixels and 10 classes. Two changes to the reference, on the instance:
its 7 x 7 pooling becomes adaptive, because the last map is 1 x 1, and dropout is off, on both sides, so that numbers
can be compared. First of all it is checked that both sides compute the same: logits, and weights after a step.
"""

import argparse
import dataclasses
import json
import os
import statistics as stats
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import report
from flax import nnx

from nas.errors import UsageError
from nas.evaluators.supernet import SupernetEvaluator
from nas.inference import flatten, forward, on_path, split, unflatten
from nas.recipe import Recipe
from nas.sampling import uniform_paths
from nas.tasks.augment import normalise
from nas.tasks.base import Split, Task
from nas.train import Program, TrainState, train_step
from spaces import presets
from spaces.shufflenet import ShuffleNet

HERE = Path(__file__).parent
CLASSES, SIZE = 10, 32
RECIPE = Recipe(learning_rate=0.01, momentum=0.9, weight_decay=4e-5, clip=0, label_smoothing=0.1, crop=0, flip=False)
Paths = list[list[int]]


def main() -> None:
    options = _options()
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    os.sched_setaffinity(0, cores)  # before JAX starts its threads; both sides inherit it
    with tempfile.TemporaryDirectory() as folder:
        task = noise_task(max(options.images, *options.batches), options.valid_images)
        data = Path(folder) / "data.npz"
        save_task(task, data)
        reference = Reference(options.reference, options.torch_python, len(cores), data, Path(folder))
        found = {"machine": report.machine(("jax", "jaxlib", "flax", "numpy"), torch=reference.version)}
        found["options"] = {name: str(value) for name, value in vars(options).items()}
        ours = Ours(reference, task, options)
        found["same"] = same(reference, ours, options.batches[0])
        report.say(f"the same function: {found['same']}")
        found["rounds"] = rounds(reference, ours, options)
        reference.close()
        found["first_step"] = first_steps(options, data, Path(folder)) if options.first_step else {}
    print(summary(found, options))
    report.write(options.json, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR", help="a checkout of the reference")
    parser.add_argument("--torch-python", default=sys.executable, metavar="PYTHON", help="a Python with PyTorch")
    parser.add_argument("--rounds", type=int, default=7, help="how often each side is timed [7]")
    parser.add_argument("--candidates", type=int, default=4, help="candidates evaluated in a round [4]")
    parser.add_argument("--images", type=int, default=1024, help="recalibration images of a candidate [1024]")
    parser.add_argument("--valid-images", type=int, default=1024, help="validation images of a candidate [1024]")
    parser.add_argument("--batch", type=int, default=128, help="batch size of candidate evaluation [128]")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128], help="of the training step [32 128]")
    parser.add_argument("--steps", type=int, default=12, help="training steps in a round [12]")
    parser.add_argument("--cores", type=int, default=2, help="cores that each side has [2]")
    parser.add_argument("--first-step", action=argparse.BooleanOptionalAction, default=True, help="time the start too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    options = parser.parse_args()
    if not (options.reference / "src" / "Supernet" / "network.py").is_file():
        parser.error(f"--reference {options.reference} must be a checkout with src/Supernet/network.py")
    for name in ("images", "valid_images"):
        if getattr(options, name) % options.batch:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} must be a multiple of {options.batch}")
    return options


def noise_task(train: int, valid: int) -> Task:
    """Images of noise: what a step costs does not depend on what it sees."""
    rng = np.random.default_rng(0)

    def part(n: int) -> Split:
        images = rng.integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)
        return Split(images, (np.arange(n) % CLASSES).astype(np.int32))

    return Task("noise", part(train), part(valid), part(CLASSES), CLASSES, mean=(0.5,) * 3, std=(0.25,) * 3)


def save_task(task: Task, file: Path) -> None:
    parts = {"train": task.train, "valid": task.valid, "test": task.test}
    images = {f"{name}_images": part.images for name, part in parts.items()}
    labels = {f"{name}_labels": part.labels for name, part in parts.items()}
    np.savez(file, **images, **labels, mean=np.float32(task.mean), std=np.float32(task.std))


class Reference:
    """The other side, in its own process: `supernet_torch.py`."""

    def __init__(self, directory: Path, python: str, threads: int, data: Path, folder: Path):
        command = [python, str(HERE / "supernet_torch.py"), str(directory), str(threads), str(data), str(CLASSES)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._folder = folder
        found = self.ask("versions")
        assert found["threads"] == threads
        self.version = found["torch"]

    def ask(self, what: str, **arguments) -> dict:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": what, **arguments}), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise SystemExit(f"the PyTorch side ended with status {self._process.wait()}; see above") from None

    def load(self, what: str, **arguments) -> dict[str, np.ndarray]:
        """The arrays of an answer that comes in a file."""
        file = self._folder / "answer.npz"
        self.ask(what, file=str(file), **arguments)
        with np.load(file) as arrays:
            return dict(arrays)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def convert(space: ShuffleNet, arrays: dict[str, np.ndarray]) -> nnx.Module:
    """Our supernet with the reference's weights."""

    def conv(name: str, kernel: nnx.Param) -> None:
        weight = arrays[name]
        if weight.ndim == 4:
            weight = weight.transpose(2, 3, 1, 0)  # from [out, in, height, width]
        else:
            weight = weight.T
        kernel.set_value(weight.reshape(kernel.get_value().shape))

    def convs(prefix: str) -> list[str]:
        """The convolutions of a sequence, in order; normalisation has no weights here."""
        names = [name for name in arrays if name.startswith(prefix) and name.endswith(".weight")]
        return sorted(names, key=lambda name: int(name.removeprefix(prefix).removesuffix(".weight")))

    network = space.supernet(jax.random.key(0))
    conv("first_conv.0.weight", network.stem.kernel)
    conv("conv_last.0.weight", network.last.kernel)
    conv("classifier.0.weight", network.head.kernel)
    index = 0
    for blocks in network.blocks:  # each a `Choice`: of one or more blocks in a row
        rows = np.array(blocks.weights.get_value())
        for i, choice in np.ndindex(rows.shape[:2]):
            branch = blocks.branch(i, choice)
            for part, layers in (("main", branch.main), ("proj", branch.projection)):
                names = convs(f"features.{index + i}.{choice}.branch_{part}.")
                for name, layer in zip(names, layers, strict=True):
                    conv(name, layer.conv.kernel)
            layout = blocks.branches[choice][1]
            rows[i, choice] = layout.pack(nnx.state(branch, nnx.Param), rows.shape[2], np)
        blocks.weights.set_value(rows)
        index += len(rows)
    return network


class Ours:
    """This side, with the same requests."""

    def __init__(self, reference: Reference, task: Task, options: argparse.Namespace):
        fields = {"image_size": SIZE, "num_classes": CLASSES, "dropout": 0.0}
        self.space = dataclasses.replace(presets("shufflenet")["small"], **fields)
        self.task = task
        self.graph, self.weights, self.statistics = split(convert(self.space, reference.load("save")))
        self._evaluator = SupernetEvaluator(
            self.space, flatten(self.weights), task, options.images, batch_size=options.batch
        )
        self._program = Program(self.graph, RECIPE, CLASSES, (task.mean, task.std), shared=True)
        self._data = (jnp.asarray(task.train.images), jnp.asarray(task.train.labels))
        weights = jax.tree.map(jnp.array, self.weights)  # a step gives its buffers away
        self.state = TrainState(weights, self._program.optimiser().init(weights))
        self._on_device = jax.tree.map(jnp.asarray, self.statistics)
        self._step = 0

    def logits(self, path: list[int], n: int) -> np.ndarray:
        row = jnp.asarray(path, jnp.int32)
        images = normalise(jnp.asarray(self.task.train.images[:n]), self.task.mean, self.task.std)
        weights = on_path(self.weights, row)
        run = jax.jit(forward, static_argnums=0, static_argnames="train")
        return np.asarray(run(self.graph, weights, self.statistics, images, row, train=True)[0])

    def evaluate(self, paths: Paths) -> dict:
        start = time.perf_counter()
        errors = [self._evaluator(tuple(path), 0, 0).metrics["error"] for path in paths]
        return {"seconds": time.perf_counter() - start, "errors": errors}

    def steps(self, paths: Paths, indices: list[list[int]]) -> dict:
        losses, start = [], time.perf_counter()
        key, rate = jax.random.key(0), np.float32(RECIPE.learning_rate)
        for path, index in zip(paths, indices, strict=True):
            row, images = np.int32(path), np.int32(index)
            self.state, loss = train_step(
                self._program, self.state, self._on_device, self._data, images, row, rate, key, self._step
            )
            losses.append(loss)
            self._step += 1
        jax.block_until_ready(self.state)
        return {"seconds": time.perf_counter() - start, "losses": [float(loss) for loss in losses]}


def same(reference: Reference, ours: Ours, n: int) -> dict[str, float]:
    """How far our single precision is from the reference in double precision: in logits, and in a step of training."""
    path = [i % 4 for i in range(len(ours.space.cardinalities))]
    theirs = reference.load("check", path=path, n=n)
    logits = ours.logits(path, n)
    before, there = (flatten(weights) for weights in (ours.weights, split(convert(ours.space, theirs))[1]))
    ours.steps([path], [list(range(n))])
    here = flatten(ours.state.weights)
    step = {name: there[name] - before[name] for name in here}
    off = {name: there[name] - here[name] for name in here}
    return {
        "logits": float(np.abs(theirs["logits"] - logits).max()),
        "largest_logit": float(np.abs(theirs["logits"]).max()),
        "step": _norm(off) / _norm(step),
    }


def _norm(arrays: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(array)) for array in arrays.values())))


def rounds(reference: Reference, ours: Ours, options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Seconds of a candidate or a step by kind: one pair a round, PyTorch's and ours."""
    rng = np.random.default_rng(1)
    seconds: dict[str, list[tuple[float, float]]] = {}
    for number in range(-1, options.rounds):  # the first warms up: compilers, allocators, every choice
        count = options.candidates if number >= 0 else 2
        paths = _paths(ours.space, number, count)
        pair = (
            reference.ask("evaluate", paths=paths, images=options.images, batch=options.batch),
            ours.evaluate(paths),
        )
        times = {"candidate": tuple(side["seconds"] / count for side in pair)}
        for batch in options.batches:
            count = options.steps if number >= 0 else 4
            paths = _paths(ours.space, 1000 + number, count)
            indices = [rng.permutation(len(ours.task.train))[:batch].tolist() for _ in paths]
            pair = reference.ask("steps", paths=paths, indices=indices), ours.steps(paths, indices)
            times[f"step {batch}"] = tuple(side["seconds"] / count for side in pair)
        shown = ", ".join(f"{name} {1e3 * a:.0f} / {1e3 * b:.0f} ms" for name, (a, b) in times.items())
        report.say(f"round {number + 1 or 'of warm-up'}: {shown}")
        if number >= 0:
            for name, both in times.items():
                seconds.setdefault(name, []).append(both)
    return seconds


def _paths(space: ShuffleNet, number: int, n: int) -> Paths:
    return uniform_paths(space, jax.random.key(2**20 + number), n).tolist()


def first_steps(options: argparse.Namespace, data: Path, folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds by part, of a process that finds an empty cache of compiled programs and of the next."""
    small = {"space": "shufflenet:small", "task": f"npz:{data}", "training": {"batch_size": options.batches[0]}}
    found = {}
    for name, config in {"small": small, "default job": {}}.items():
        cache = folder / f"cache-{name.replace(' ', '-')}"
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
        found[name] = {}
        for state in ("cold", "warm"):
            start = time.time()
            command = [sys.executable, str(HERE / "first_step.py"), json.dumps(config)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise SystemExit(f"first_step.py ended with status {done.returncode}; see above")
            times = [start, *json.loads(done.stdout).values()]
            parts = [b - a for a, b in zip(times, times[1:], strict=False)]
            found[name][state] = dict(zip(("import", "build", "compile and step"), parts, strict=True))
            found[name][state]["all"] = sum(parts)
            report.say(f"first step, {name}, {state}: {found[name][state]}")
    return found


def summary(found: dict, options: argparse.Namespace) -> str:
    names = {"candidate": f"candidate: {options.images} + {options.valid_images} images, batch {options.batch}"}
    names |= {f"step {batch}": f"training step, batch {batch}" for batch in options.batches}
    rows = []
    for name, pairs in found["rounds"].items():
        theirs, mine = (1e3 * stats.median(side) for side in zip(*pairs, strict=True))
        ratio = report.spread([a / b for a, b in pairs])
        rows.append((names[name], f"{theirs:.0f} ms", f"{mine:.0f} ms", ratio))
    same = found["same"]
    lines = [
        report.line(found["machine"]),
        "",
        report.table(("on the same cores", "PyTorch", "ours", "ratio (range over rounds)"), rows),
        "",
        f"The same function: logits differ from the reference in double precision by {same['logits']:.1e} at most (of "
        f"{same['largest_logit']:.2f}), a training step by {same['step']:.1e} of its length.",
    ]
    if found["first_step"]:
        columns = ("start to first training step, seconds", "import", "build", "compile and step", "all")
        rows = [
            (f"{name}, {'empty' if state == 'cold' else 'warm'} cache", *(f"{s:.1f}" for s in parts.values()))
            for name, states in found["first_step"].items()
            for state, parts in states.items()
        ]
        lines += ["", report.table(columns, rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        raise SystemExit(f"supernet.py: error: {error}") from error
