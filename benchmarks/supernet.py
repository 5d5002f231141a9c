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
import itertools
import json
import os
import statistics as stats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import report
from flax import nnx

from nas.devices import everywhere
from nas.errors import UsageError
from nas.evaluators.supernet import SupernetEvaluator
from nas.tasks.augment import normalise
from nas.tasks.base import Split, Task
from nas.tasks.kinds.classification import Classification
from nas.training.net import flatten, forward, on_path, split
from nas.training.paths import uniform_paths
from nas.training.recipe import Recipe
from nas.training.sgd import Program, train_step
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
        if options.first_step:
            found["first_step"] = first_steps(options, data, Path(folder))
            found["first_step"]["PyTorch"] = {"": {"all": first_step_torch(options, len(cores), data, Path(folder))}}
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

    return Task(
        "noise", part(train), part(valid), part(CLASSES), Classification(CLASSES), mean=(0.5,) * 3, std=(0.25,) * 3
    )


def save_task(task: Task, file: Path) -> None:
    parts = {"train": task.train, "valid": task.valid, "test": task.test}
    images = {f"{name}_images": part.images for name, part in parts.items()}
    labels = {f"{name}_labels": part.labels for name, part in parts.items()}
    np.savez(file, **images, **labels, mean=np.float32(task.mean), std=np.float32(task.std))


class Reference:
    """The other side, in its own process: `supernet_torch.py`."""

    def __init__(self, directory: Path, python: str, threads: int, data: Path, folder: Path):
        command = [python, str(HERE / "supernet_torch.py"), str(directory), str(threads), str(data), str(CLASSES)]
        self._process = report.start(command)
        self._folder = folder
        found = self.ask("versions")
        assert found["threads"] == threads
        self.version = found["torch"]

    def ask(self, what: str, **arguments) -> dict:
        return report.ask(self._process, json.dumps({"do": what, **arguments}))

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
        weight = arrays[name].T  # from [out, in] or [out, in, height, width]
        if weight.ndim == 4:
            weight = weight.transpose(1, 0, 2, 3)
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
        self._program = Program(self.graph, RECIPE, task.kind, (task.mean, task.std), shared=True)
        self._data = (jnp.asarray(task.train.images), jnp.asarray(task.train.labels))
        self.state = everywhere(self._program.begin(self.weights))
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
    """How far single precision is from the reference in double precision: in logits, and in a step of training."""
    path = [i % 4 for i in range(len(ours.space.cardinalities))]
    exact, single = (reference.load("check", path=path, n=n, precision=p) for p in ("float64", "float32"))
    logits = ours.logits(path, n)
    before = flatten(ours.weights)
    ours.steps([path], [list(range(n))])
    there, theirs = (flatten(split(convert(ours.space, arrays))[1]) for arrays in (exact, single))

    def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
        return float(np.sqrt(sum(np.sum(np.square(a[name] - b[name])) for name in a)))

    return {
        "largest_logit": float(np.abs(exact["logits"]).max()),
        "logits": float(np.abs(exact["logits"] - logits).max()),
        "logits_torch": float(np.abs(exact["logits"] - single["logits"]).max()),
        "step": distance(flatten(ours.state.weights), there) / distance(there, before),
        "step_torch": distance(theirs, there) / distance(there, before),
    }


def rounds(reference: Reference, ours: Ours, options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Seconds of a candidate or a step by kind: one pair a round, PyTorch's and ours."""
    length = len(ours.space.cardinalities)
    every_choice = [[choice] * length for choice in range(ours.space.cardinalities[0])]
    report.say("warm-up")
    _round(reference, ours, options, every_choice, every_choice)  # compilers, kernels made for a shape, allocators
    seconds: dict[str, list[tuple[float, float]]] = {}
    for number in range(options.rounds):
        paths = uniform_paths(ours.space, jax.random.key(number), options.candidates + options.steps).tolist()
        times = _round(reference, ours, options, paths[: options.candidates], paths[options.candidates :])
        for name, pair in times.items():
            seconds.setdefault(name, []).append(pair)
        shown = ", ".join(f"{name} {1e3 * a:.0f} / {1e3 * b:.0f} ms" for name, (a, b) in times.items())
        report.say(f"round {number + 1}: {shown}")
    return seconds


def _round(
    reference: Reference, ours: Ours, options: argparse.Namespace, candidates: Paths, paths: Paths
) -> dict[str, tuple[float, float]]:
    theirs = reference.ask("evaluate", paths=candidates, images=options.images, batch=options.batch)
    mine = ours.evaluate(candidates)
    times = {"candidate": (theirs["seconds"] / len(candidates), mine["seconds"] / len(candidates))}
    for batch in options.batches:
        starts = [i * batch % (len(ours.task.train) - batch + 1) for i in range(len(paths))]
        indices = [list(range(start, start + batch)) for start in starts]
        theirs, mine = reference.ask("steps", paths=paths, indices=indices), ours.steps(paths, indices)
        times[f"step {batch}"] = (theirs["seconds"] / len(paths), mine["seconds"] / len(paths))
    return times


def first_steps(options: argparse.Namespace, data: Path, folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds by part, of a process that finds an empty cache of compiled programs and of the next."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # Python's own cache is warm in any environment that has been used once.
    subprocess.run([sys.executable, "-c", "import first_step, sklearn.datasets"], env=environment, cwd=HERE, check=True)
    small = {"space": "shufflenet:small", "task": f"npz:{data}", "training": {"batch_size": options.batches[0]}}
    found = {}
    for name, config in {"small": small, "default job": {}}.items():
        environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / f"compiled for {name}")
        found[name] = {}
        for state in ("cold", "warm"):
            start = time.time()
            command = [sys.executable, str(HERE / "first_step.py"), json.dumps(config)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise SystemExit(f"first_step.py ended with status {done.returncode}; see above")
            times = [start, *json.loads(done.stdout).values()]
            parts = [b - a for a, b in itertools.pairwise(times)]
            found[name][state] = dict(zip(("import", "build", "compile and step"), parts, strict=True))
            found[name][state]["all"] = sum(parts)
            report.say(f"first step, {name}, {state}: {found[name][state]}")
    return found


def first_step_torch(options: argparse.Namespace, threads: int, data: Path, folder: Path) -> float:
    start = time.time()
    reference = Reference(options.reference, options.torch_python, threads, data, folder)
    reference.ask("steps", paths=[[0] * 20], indices=[list(range(options.batches[0]))])
    seconds = time.time() - start
    reference.close()
    return seconds


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
        "The same function: from the reference in double precision, logits (up to "
        f"{same['largest_logit']:.2f}) are at most {same['logits']:.1e} off, and a training step {same['step']:.1e} of "
        f"its length; PyTorch's own single precision is {same['logits_torch']:.1e} and {same['step_torch']:.1e} off.",
    ]
    if "first_step" in found:
        parts = ("import", "build", "compile and step", "all")
        rows = [
            (f"{name} {state}", *(f"{seconds[part]:.1f}" if part in seconds else "" for part in parts))
            for name, states in found["first_step"].items()
            for state, seconds in states.items()
        ]
        lines += ["", report.table(("seconds from process start to the first training step", *parts), rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        raise SystemExit(f"supernet.py: error: {error}") from error
