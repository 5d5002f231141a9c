"""A training step of a detector against the same network written plainly in PyTorch: agreement, time, start, memory.

    python benchmarks/detector.py [--torch-python PYTHON] [--batch 8] [--cores 2] [--rounds 9]

A few minutes on 2 cores. The detector is a ResNet-18 with three stacks of the published NAS-FPN at 64 channels and
the heads of this library, at 256 pixels; `detector_torch.py` has it in PyTorch (`pip install torch`), in a process of
its own. Both sides have the same weights, images, objects and cores, and take steps in turn: forward, loss, backward,
SGD with momentum. Their losses must agree, or nothing is reported. In turn with both goes a step of the supernet along
the path of the same neck, one program for all necks. Start is the time from the start of a process to the end of its
first step, with an empty cache of compiled programs and with a full one. Seconds of all cores are those in which a
core was at work on it: they tell more where other work takes turns on the cores.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import report

from nas.devices import everywhere
from nas.tasks.detection import CLASS, COLUMNS, SIDE
from nas.tasks.detection.boxes import anchors
from nas.tasks.kinds.detection import Detection
from nas.training.compilation import quick_start
from nas.training.net import alone, flatten, split, supernet
from nas.training.recipe import Recipe
from nas.training.sgd import Program, train_step
from spaces import presets
from spaces.pyramids import LEVELS

HERE = Path(__file__).parent
SPACE, NECK, KIND = presets("nas-fpn")["small"], "NAS-FPN", Detection(3)
RATE = 0.001  # so low that what is rounded otherwise does not soon lead elsewhere
RECIPE = Recipe(momentum=0.9, weight_decay=4e-5, clip=0, crop=0, flip=False)
SCALING = ((0.5,) * 3, (0.25,) * 3)
OBJECTS = 6  # of an image
WARM = 3  # starts with a warm cache
LATER = 3  # steps after which losses are compared again
APART, APART_LATER = 1e-4, 1e-2  # the most, as a share
FORMATS = ("contiguous_format", "channels_last")


def main() -> None:
    options = _options()
    if options.child is not None:
        return child(options.child)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    machine = report.machine(["jax", "flax"])
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        save(data, options.batch)
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        ours = [sys.executable, __file__, "--child", str(data)]
        starts = []
        for name in ("cold", *["warm"] * WARM):
            report.say(f"ours, cache {name} ...")
            starts.append(first_steps(ours, environment, ("static", "path")))
        theirs = [options.torch_python, str(HERE / "detector_torch.py"), str(data), str(options.cores)]
        report.say("PyTorch ...")
        starts_torch = [first_steps([*theirs, FORMATS[0]], environment, ("",)) for _ in range(WARM)]
        report.say("in turn ...")
        with (
            report.start(ours, environment) as us,
            report.start([*theirs, FORMATS[0]]) as them,
            report.start([*theirs, FORMATS[1]]) as them_last,
        ):
            sides = {"PyTorch": (them, ""), "channels last": (them_last, "")}
            sides |= {"static": (us, "static"), "path": (us, "path")}
            found = {name: [] for name in sides}
            for number in range(options.rounds + LATER):
                for name, (process, words) in sides.items():
                    found[name].append(report.ask(process, words))
                shown = ", ".join(f"{name} {each[-1]['seconds']:.2f} s" for name, each in found.items())
                report.say(f"step {number + 1}: {shown}")
    load = os.getloadavg()[0]
    machine |= {"torch": found["PyTorch"][0]["torch"], "load after": f"{load:.1f}"}
    apart = {name: agreement(found[name], found["PyTorch"]) for name in ("static", "path", "channels last")}

    def of(name: str, what: str) -> list[float]:
        return [each[what] for each in found[name][LATER:]]

    def ratio(one: str, other: str, what: str = "seconds") -> str:
        return report.spread([a / b for a, b in zip(of(one, what), of(other, what), strict=True)])

    cold, *warm = starts
    print(report.line(machine), end="\n\n")
    rows = [
        ["step, seconds", report.spread(of("static", "seconds")), report.spread(of("PyTorch", "seconds"))],
        ["PyTorch's as a multiple of ours, by rounds", ratio("PyTorch", "static"), ""],
        ["the same, with its channels last", ratio("channels last", "static"), ""],
        ["step, seconds of all cores", report.spread(of("static", "cpu")), report.spread(of("PyTorch", "cpu"))],
        ["PyTorch's as a multiple of ours, by rounds", ratio("PyTorch", "static", "cpu"), ""],
        ["step along a path, seconds", report.spread(of("path", "seconds")), ""],
        ["as a multiple of the step of that neck alone, by rounds", ratio("path", "static"), ""],
        ["the same, of seconds of all cores", ratio("path", "static", "cpu"), ""],
        ["loss of equal weights apart, as a share", f"{apart['static'][0]:.0e}, {apart['path'][0]:.0e}", ""],
        [f"after {LATER} steps", f"{apart['static'][1]:.0e}, {apart['path'][1]:.0e}", ""],
        ["start to the end of the first step, seconds, cold", f"{cold['start']:.1f}", ""],
        ["the same, cache warm", _spread(warm, "start"), _spread(starts_torch, "start")],
        ["the first step alone, cold", f"{cold['static']:.1f}", ""],
        ["the same, cache warm", _spread(warm, "static"), _spread(starts_torch, "")],
        ["the first step along a path, cold", f"{cold['path']:.1f}", ""],
        ["the same, cache warm", _spread(warm, "path"), ""],
        ["most memory, GiB", _spread([cold, *warm], "memory"), _spread(starts_torch, "memory")],
    ]
    print(report.table([f"batch {options.batch}", "ours", "PyTorch"], rows))
    report.write(options.json, {"machine": machine, "starts": starts, "starts_torch": starts_torch, "steps": found})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch-python", metavar="PYTHON", default=sys.executable)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _spread(starts: list[dict[str, float]], name: str) -> str:
    return report.spread([each[name] for each in starts])


def agreement(steps: list[dict], others: list[dict]) -> tuple[float, float]:
    """How far the losses are apart, as shares, of equal weights and some steps later."""
    first, later = (abs(steps[i]["loss"] / others[i]["loss"] - 1) for i in (0, LATER))
    if not (first <= APART and later <= APART_LATER):
        raise SystemExit(f"the losses are {first:.1e} apart, and {later:.1e} after {LATER} steps: not the same network")
    return first, later


def first_steps(line: list[str], environment: dict[str, str], words: tuple[str, ...]) -> dict[str, float]:
    """Seconds of the start of a process and of its first steps of some kinds, and its memory after the first."""
    start = time.time()
    with report.start(line, environment) as process:
        answers = [report.ask(process, each) for each in words]
    found = {each: answer["seconds"] for each, answer in zip(words, answers, strict=True)}
    return {**found, "start": answers[0]["end"] - start, "memory": answers[0]["memory"]}


def save(path: Path, batch: int) -> None:
    """In a process of its own: this one is not to start JAX's threads."""
    subprocess.run([sys.executable, __file__, "--child", f"{path}:{batch}"], check=True)


def _save(path: str, batch: int) -> None:
    draw = np.random.default_rng(0)
    size = SPACE.image_size
    low = draw.uniform(0, 0.7, (batch, OBJECTS, 2))
    sides = draw.uniform(0.03, 0.3, (batch, OBJECTS, 2))
    objects = np.zeros((batch, OBJECTS, COLUMNS), np.float32)
    objects[..., :4], objects[..., SIDE] = np.concatenate([low, low + sides], 2), size
    objects[..., CLASS] = draw.integers(0, KIND.num_classes, (batch, OBJECTS))
    network = alone(SPACE, KIND, SPACE.parse(NECK), jax.random.key(0))
    weights = {f"weights.{name}": array for name, array in flatten(split(network)[1]).items()}
    np.savez(
        path,
        images=draw.integers(0, 256, (batch, size, size, 3)).astype(np.uint8),
        objects=objects,
        anchors=anchors(tuple((size // 2**level,) * 2 for level in LEVELS)),
        classes=KIND.num_classes,
        mean=np.float32(SCALING[0]),
        std=np.float32(SCALING[1]),
        **weights,
    )


def child(data: str) -> None:
    """Takes a step for each line that comes in: `static` or `path`."""
    file, _, batch = data.partition(":")
    if batch:
        return _save(file, int(batch))
    quick_start()
    with np.load(data) as arrays:
        images, objects = jnp.asarray(arrays["images"]), jnp.asarray(arrays["objects"])
    sides: dict[str, Iterator[float]] = {}
    for line in sys.stdin:
        words = line.strip()
        if words not in sides:
            sides[words] = steps(words == "path", images, objects)
            next(sides[words])
        start, spent = time.perf_counter(), time.process_time()
        answer = {"loss": next(sides[words]), "seconds": time.perf_counter() - start, "end": time.time()}
        answer["cpu"] = time.process_time() - spent
        answer["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(answer), flush=True)


def steps(shared: bool, images: jax.Array, objects: jax.Array) -> Iterator[float]:
    """Nothing, when all is ready, then the loss of each step. Of one key, both networks have the same weights."""
    row, key = SPACE.parse(NECK), jax.random.key(0)
    network = supernet(SPACE, KIND, key, affine=True) if shared else alone(SPACE, KIND, row, key)
    graph, weights, statistics = split(network)
    program = Program(graph, RECIPE, KIND, SCALING, shared=shared)
    state, indices = everywhere(program.begin(weights)), np.arange(len(images), dtype=np.int32)
    yield 0.0
    step = 0
    while True:
        path = row if shared else ()
        state, loss = train_step(
            program, state, statistics, (images, objects), indices, path, np.float32(RATE), key, step
        )
        yield float(jax.block_until_ready((state, loss))[1])
        step += 1


if __name__ == "__main__":
    main()
