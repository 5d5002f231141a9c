"""Good files of every kind, as small as they can be: what is changed, case by case."""

import bz2
import csv
import gzip
import io
import json
import pickle  # noqa: TID251 - writes what the reader is to take or refuse
import sqlite3
import struct
import tarfile
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spaces.base import every
from spaces.nasbench201 import NasBench201

Files = dict[str, bytes]  # by their paths in a folder

SPACE = NasBench201()
CELLS: np.ndarray = np.asarray(every(SPACE))
TABLE = Path(tempfile.gettempdir()) / "hostile-table.npz"  # a run knows where its table lies
RUNS = {"cifar10-valid": ("x-valid", "ori-test"), "cifar10": ("ori-test",)}
RUNS |= dict.fromkeys(("cifar100", "ImageNet16-120"), ("x-valid", "x-test", "ori-test"))
TORCH = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photo(form: str = "png", seed: int = 0, size: int = 12) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed, size, size, 3)).save(file, "JPEG" if form == "jpg" else form)
    return file.getvalue()


def npz(save: Callable[..., None] = np.savez, **arrays: Any) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def written(write: Callable[[Path], Any]) -> Files:
    """What a function writes to a folder."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        paths = sorted(path for path in Path(name).rglob("*") if path.is_file())
        return {str(path.relative_to(name)): path.read_bytes() for path in paths}


# Tables


def table() -> Files:
    columns = {
        "cifar10_valid_error_e12": {"kind": "error", "unit": "share", "dataset": "cifar10", "split": "valid"},
        "cifar10_seconds_e12": {"kind": "seconds", "unit": "s", "dataset": "cifar10"},
        "params": {"kind": "cost", "unit": ""},
    }
    for name in ("cifar10_valid_error_e12", "cifar10_seconds_e12"):
        columns[name]["epochs"] = 12  # pyright: ignore[reportArgumentType]
    header = {"format": 1, "space": "nasbench201", "source": "me", "columns": columns}
    shares = np.linspace(0.1, 0.9, len(CELLS), dtype=np.float32)
    arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), "encodings": CELLS.astype(np.uint8)}
    return {"t.npz": npz(**arrays, **{name: shares for name in columns})}


def published_table() -> Files:
    shares = np.linspace(10, 90, len(CELLS), dtype=np.float16)
    arrays: dict[str, Any] = {"ops": CELLS.astype(np.uint8)}
    arrays |= dict.fromkeys(("params_M", "flops_M", "c10_epoch_s", "c10_test_eval_s"), shares)
    for short in ("c10", "c100", "in16"):
        arrays |= {f"{short}_{split}_e{epochs}": shares for split in ("valid", "test") for epochs in (12, 200)}
    arrays |= {"hw_names": np.array(["edge_latency"]), "hw": np.ones((3, len(CELLS), 1), np.float16)}
    arrays |= {"lat_help_names": np.array(["1080"]), "lat_help_ms": np.ones((len(CELLS), 1), np.float16)}
    arrays |= {"zc_names": np.array(["snip"]), "zc_c10": np.ones((len(CELLS), 1), np.float16)}
    return {"t.npz": npz(np.savez_compressed, **arrays, zc_in16=arrays["zc_c10"])}


def curve(run: str, seed: int) -> dict[str, Any]:
    epochs = OrderedDict((epoch, 10.0) for epoch in range(12))
    passes = {f"{part}@{epoch}": np.float64(2.0) for part in RUNS[run] for epoch in range(12)}
    accuracies = {f"{part}@11": 90.0 + k for k, part in enumerate(RUNS[run])}
    costs = {"params": 0.5, "flop": 1.0, "latency": [0.004], "seed": seed, "epochs": 12, "net_state_dict": None}
    return {"name": run, "eval_acc1es": accuracies, "train_times": epochs, "eval_times": passes, **costs}


def results(i: int) -> dict[str, Any]:
    curves = {(run, 777): curve(run, 777) for run in RUNS}
    name = SPACE.describe(CELLS[i])
    return {"arch_index": i, "arch_str": name, "all_results": curves, "dataset_seed": {run: [777] for run in RUNS}}


def distribution() -> dict[str, Any]:
    names = [SPACE.describe(CELLS[i]) for i in range(2)]
    return {"meta_archs": names, "arch2infos": {i: {"12": results(i), "200": results(i)} for i in range(2)}}


def nats_pickle() -> Files:
    return {"nats.pickle": pickle.dumps(distribution(), 4)}


def nats_folder() -> Files:
    names = {"meta_archs": distribution()["meta_archs"], "arch2infos": None}
    files = {"meta.pickle.pbz2": names, **{f"{i:06d}.pickle.pbz2": {"12": results(i)} for i in range(2)}}
    return {name: bz2.compress(pickle.dumps(data, 4), 1) for name, data in files.items()}


def torch_file() -> Files:
    start = b"".join(pickle.dumps(each, 2) for each in TORCH)
    return {"nb201.pth": start + pickle.dumps(distribution(), 2) + pickle.dumps([], 2)}


def torch_zip() -> Files:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(distribution(), 2))
    return {"nb201.pth": file.getvalue()}


def csv_table() -> Files:
    file = io.StringIO()
    rows = csv.writer(file)
    rows.writerow(["architecture", "cifar10_valid_error_e12", "cifar10_seconds_e12", "pixel_ms"])
    rows.writerows([SPACE.describe(CELLS[i]), 0.1 + i / 10, 12, ""] for i in range(4))
    return {"t.csv": file.getvalue().encode()}


# What is written in words


def configuration() -> Files:
    text = """space: {name: nasbench201, width: 8}
strategy:
  name: regularized-evolution
  population_size: 10
task: digits
trials: 20
limit: macs <= 3e6 and params <= 1e5
final: {steps: 10, learning_rate: 0.1, label_smoothing: 0.1}
max-macs: 1e9
seed: 0
time: 30m
"""
    return {"run.yaml": text.encode()}


def conditions() -> Files:
    return {"where.txt": b"macs < 3e6 and params <= 1e5 AND error != .5 and x >= -1.5e+3"}


def architectures() -> Files:
    from spaces import SPACES, presets

    texts = []
    for name in SPACES:
        space: Any = next(iter(presets(name).values()))
        texts.append(space.describe(np.zeros(len(space.cardinalities), np.int32)))
    return {"architectures.txt": "\n".join(texts).encode()}


def words() -> Files:
    lines = ["runs", "runs --format json", "top it --by error --limit 3", "top it --where error<1 --format csv"]
    lines += ["show ARCHITECTURE", "pareto it --objectives error,macs", "hypervolume it --reference 1,2", "plot it"]
    lines += ["table show t.npz", "compare --task t", "rename it other", "latency show x", "predictors list"]
    return {"words.txt": "\n".join(lines).encode()}


def latencies() -> Files:
    from nas.saved import latencies
    from spaces.latency import Latency, sizes

    measured = Latency(0.1, tuple((0.5,) * count for count in sizes(SPACE)))
    return written(lambda at: latencies.write(at / "l.json", "nasbench201", SPACE, measured, {"device": "x"}))


def comparison() -> Files:
    lines = ["strategy,simulated_seconds,mean,half_width"]
    lines += [f"{name},{second},{90 + second / 10},0.5" for name in ("random", "evolution") for second in range(5)]
    about = {"judged": "cifar10_test", "seeds": 5, "most": 94.4}
    return {"curves.csv": "\n".join(lines).encode(), "comparison.json": json.dumps(about).encode()}


# What was learned


def predictor() -> Files:
    from nas.saved import predictors
    from predictors import predictor_class

    rows = CELLS[:: len(CELLS) // 20]
    errors = (0.5 - 0.05 * (rows == 3).sum(1)).astype(np.float32)
    space = predictors.described("nasbench201", SPACE)
    fitted = predictors.fit("linear", predictor_class("linear")(), space, rows, errors)
    return written(lambda folder: predictors.write(fitted, folder / "p"))


def network(space: Any, name: str, packed: bool = False) -> Files:
    import jax

    from nas.saved import checkpoint
    from nas.saved.descriptions import DESCRIPTION, WEIGHTS
    from nas.saved.packed import packed_arrays
    from nas.saved.predictors import described
    from nas.tasks import kinds
    from nas.training.net import alone, flatten, split

    kind, row = kinds.kinds()["classification"](3), [1] * len(space.cardinalities)
    made = alone(space, kind, np.asarray(row, np.int32), jax.random.key(0))
    _, weights, statistics = split(made)
    description = {"format": 1, "space": described(name, space), "encoding": row, "architecture": "0" * 12}
    description |= {"mean": [0.5] * 3, "std": [0.25] * 3, "kind": kinds.described(kind), "classes": ["a", "b", "c"]}
    description |= {"resize": "crop"} | ({"packed": True} if packed else {})
    arrays = packed_arrays(made) if packed else {**flatten(weights), **flatten(statistics)}

    def write(folder: Path) -> None:
        checkpoint.write(folder / WEIGHTS, {key: np.asarray(each) for key, each in arrays.items()}, description)
        (folder / DESCRIPTION).write_text(json.dumps(description))

    return written(write)


def real_network() -> Files:
    return network(NasBench201(width=2, cells=1, image_size=8, num_classes=3), "nasbench201")


def packed_network() -> Files:
    from spaces.binary import Binary

    return network(Binary(width=8, cells=3, image_size=8, num_classes=3), "binary", packed=True)


# Images


def classes() -> Files:
    forms = ("png", "jpg", "bmp", "webp")
    return {f"{name}/{i}.{form}": photo(form, i) for name in ("ant", "bee") for i, form in enumerate(forms)}


def tarred(files: Files, mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.PAX_FORMAT) as tar:  # pyright: ignore
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), {"comment": "é"}
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def tars() -> Files:
    return {"images.tar.gz": tarred(classes(), "w:gz")}


def plain_tar() -> Files:
    return {"images.tar": tarred(classes(), "w")}


def archive() -> Files:
    labels = np.arange(12) % 2
    return {"a.npz": npz(images=pixels(0, 12, 6, 6, 3), labels=labels, classes=np.array(["ant", "bee"]))}


def idx() -> Files:
    files = {}
    for part, n in (("train", 20), ("t10k", 10)):
        images, labels = pixels(0, n, 4, 4), (np.arange(n) % 10).astype(np.uint8)
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, n, 4, 4) + bytes(images))
        files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, n) + bytes(labels))
    return files


BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def binary_batches() -> Files:
    rows = np.hstack([(np.arange(10, dtype=np.uint8) % 10)[:, None], pixels(0, 10, 3072)]).tobytes()
    return {f"{name}.bin": rows for name in BATCHES}


def pickled_batches() -> Files:
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\1J\x0a\0\0\0J\0\x0c\0\0\x86"
    array += b"cnumpy\ndtype\nU\x02u1K\0K\1\x87R(K\3U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T\0\x78\0\0"
    array += pixels(0, 10, 3072).tobytes() + b"tb"
    labels = b"](" + b"".join(b"K" + bytes([i]) for i in range(10)) + b"e"
    return dict.fromkeys(BATCHES, b"\x80\2}(U\x06labels" + labels + b"U\x04data" + array + b"u.")


def voc() -> Files:
    files: Files = {"ImageSets/Main/train.txt": b"a0\na1\na2\n", "ImageSets/Main/val.txt": b"a3\n"}
    for i in range(4):
        box = f"<xmin>1</xmin><ymin>2</ymin><xmax>{6 + i}</xmax><ymax>9</ymax>"
        parts = f"<object><name>ant</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
        parts = f"<size><width>12</width><height>12</height></size>{parts}"
        files[f"Annotations/a{i}.xml"] = f"<annotation>{parts}</annotation>".encode()
        files[f"JPEGImages/a{i}.jpg"] = photo("jpg", i)
    return files


def coco() -> Files:
    images = [{"id": i, "file_name": f"{i}.png", "width": 12, "height": 12} for i in range(4)]
    boxes: list[dict[str, Any]] = [
        {"id": i, "image_id": i, "category_id": 7, "iscrowd": 0, "bbox": [1, 2, 3.5, 4]} for i in range(4)
    ]
    data = {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "ant"}]}
    return {"o.json": json.dumps(data).encode(), **{f"images/{i}.png": photo("png", i) for i in range(4)}}


def photos() -> Files:
    return {"photo.png": photo("png"), "photo.jpg": photo("jpg"), "photo.tif": photo("tiff"), "p.webp": photo("webp")}


# The store


def store() -> Files:
    """A run of ten trials on a table."""
    from nas.job.run import search

    def write(folder: Path) -> None:
        TABLE.write_bytes(table()["t.npz"])
        asked = {"space": "nasbench201", "task": f"table:{TABLE}", "workers": 0, "seed": 1, "concurrency": 4}
        asked |= {"strategy": {"name": "regularized-evolution", "population_size": 4, "tournament_size": 2}}
        url = f"sqlite:///{folder / 'nas.db'}"
        search({**asked, "trials": 10, "name": "it", "store": url, "baselines": 1})
        database = sqlite3.connect(folder / "nas.db")
        database.execute("pragma wal_checkpoint(truncate)")
        database.execute("pragma journal_mode=delete")
        database.close()

    return {"nas.db": written(write)["nas.db"]}
