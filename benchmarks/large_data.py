"""What a search on many images takes: the memory of all its processes together, and images a second.

    python benchmarks/large_data.py                                100,000 images of 64 pixels in an npz
    python benchmarks/large_data.py --form folder                  the same as JPEG files in a folder for each class
    NAS_IMAGE_CACHE=off python benchmarks/large_data.py            all of them in memory

The images are made: two crossed waves a class, under noise. A job trains a supernet for some steps, evaluates
candidates on two Ray workers and trains the best one from scratch; then the same job is run again, which finds the
images decoded. Both are processes of their own that begin with an empty cache of compiled programs.

Memory is sampled once a second over the job's process and all that it starts, Ray's daemons included. `in use` is
the proportional set size, in which shared memory counts once. A part of it are pages of files, among them the images
that are mapped: the kernel takes these back whenever it needs them. `held` is the rest, which it cannot take back.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import report
from PIL import Image

CLASSES, CHUNK = 10, 1000
KINDS: tuple[str, ...] = ("Pss", "Pss_Anon", "Pss_File", "Pss_Shmem")


def main() -> None:
    options = _options()
    if options.child:
        return job(json.loads(options.child))
    found: dict = {"machine": report.machine(("jax", "jaxlib", "flax", "numpy", "ray", "pillow"))}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        began = time.monotonic()
        task = made(Path(folder), options.form, options.images, options.size)
        report.say(f"made {options.images} images in {time.monotonic() - began:.0f} s")
        found["jobs"] = [measured(Path(folder), task, options, run) for run in ("first", "again")]
    rows = [
        (
            each["name"],
            f"{each['peak']['Pss']:.2f} GiB",
            f"{each['held']:.2f} GiB",
            f"{each['read']:.0f} s",
            f"{each['images_a_second']:.0f}",
            f"{each['seconds']:.0f} s",
        )
        for each in found["jobs"]
    ]
    heads = ("job", "most in use", "most held", "until the first stage", "images a second in training", "whole job")
    print(report.line(found["machine"]) + "\n\n" + report.table(heads, rows))
    report.write(options.json, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="how many [100000]")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side [64]")
    parser.add_argument("--form", choices=("npz", "folder"), default="npz", help="[npz]")
    parser.add_argument("--steps", type=int, default=200, help="of the supernet [200]")
    parser.add_argument("--trials", type=int, default=4, help="candidates [4]")
    parser.add_argument("--workers", type=int, default=2, help="Ray workers [2]")
    parser.add_argument(
        "--folder", type=Path, help="where the images are made; a folder for temporary files by default"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def images(count: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels, some at a time."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size
    for start in range(0, count, CHUNK):
        labels = (np.arange(start, min(start + CHUNK, count)) % CLASSES).astype(np.int32)
        shift = rng.uniform(0, 2 * np.pi, (len(labels), 1, 1, 3)).astype(np.float32)
        waves = (labels + 1)[:, None, None] * rows + (CLASSES - labels)[:, None, None] * columns
        bright = 128 + 40 * np.sin(4 * waves[..., None].astype(np.float32) + shift)
        noise = rng.integers(-60, 61, bright.shape, dtype=np.int16)
        yield (bright + noise).clip(0, 255).astype(np.uint8), labels


def made(folder: Path, form: str, count: int, size: int) -> str:
    """The name of the task whose images are then in the folder."""
    if form == "folder":
        number = 0
        for pixels, labels in images(count, size):
            for image, label in zip(pixels, labels, strict=True):
                place = folder / "images" / f"class{label}"
                if number < CLASSES:
                    place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(place / f"{number:07d}.jpg", quality=90)
                number += 1
        return f"folder:{folder / 'images'}"
    path = folder / "images.npz"
    header = io.BytesIO()
    shape = (count, size, size, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    labels = []
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for pixels, some in images(count, size):
                member.write(pixels.tobytes())
                labels.append(some)
        with archive.open("labels.npy", "w") as member:
            np.lib.format.write_array(member, np.concatenate(labels))
    return f"npz:{path}"


def measured(folder: Path, task: str, options: argparse.Namespace, run: str) -> dict:
    """What a job took."""
    given = {
        "space": "shufflenet:tiny",
        "task": task,
        "trials": options.trials,
        "workers": options.workers,
        "baselines": 0,
        "training": {"steps": options.steps},
        "final": {"steps": 20},
        "strategy": "random",
        "name": run,
        "store": f"sqlite:///{folder}/{run}.db",
    }
    command = [sys.executable, __file__, "--child", json.dumps(given)]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / f"compiled-{run}")}
    environment.setdefault("NAS_IMAGE_CACHE", str(folder / "cache"))
    began = time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        held, resident = 0.0, 0.0
        peak: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        while child.poll() is None:
            now = _memory(child.pid)
            peak = max(peak, now, key=lambda each: each["Pss"])
            held = max(held, now["Pss_Anon"] + now["Pss_Shmem"])
            resident = max(resident, now["Rss"])
            time.sleep(1.0)
        assert child.stdout is not None
        text = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"large_data.py: error: the job ended with status {child.returncode}; see above")
    said = json.loads(text.splitlines()[-1])
    found = {
        "name": run,
        "peak": peak,
        "held": held,
        "sum of RSS": resident,
        "seconds": time.monotonic() - began,
        **said,
    }
    report.say(json.dumps(found))
    return found


def _memory(pid: int) -> dict[str, float]:
    """GiB of a process and all that it started, by kind."""
    total: dict[str, float] = dict.fromkeys((*KINDS, "Rss"), 0.0)
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for each in processes:
        try:
            rows = Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has ended
        for row in rows:
            name, _, rest = row.partition(":")
            if name in total:
                total[name] += int(rest.split()[0]) / 2**20
    return total


class Clock:
    """Hears when stages begin and how fast the shared weights are trained."""

    def __init__(self):
        self.began = time.monotonic()
        self.read: float | None = None
        self.steps: list[tuple[int, float]] = []

    def show(self, stage: str, done: int, total: int, remark: str) -> None:
        now = time.monotonic()
        if stage != "Reading the data":
            self.read = self.read or now - self.began
        if stage == "Training shared weights" and done > 1:  # the first step compiles
            self.steps.append((done, now))

    def say(self, line: str) -> None:
        report.say(line)


def job(given: dict) -> None:
    from nas import config
    from nas.job.run import search

    clock = Clock()
    search(given, reporter=clock)
    (first, start), (last, end) = clock.steps[0], clock.steps[-1]
    batch = config.build(given).training.batch_size
    print(json.dumps({"read": clock.read, "images_a_second": (last - first) * batch / (end - start)}))


if __name__ == "__main__":
    main()
