"""Everything that reads what a user opens: by name a good sample, and the call that a command would make."""

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import UsageError
from tests.hostile import samples
from tests.hostile.samples import SPACE, Files


@dataclasses.dataclass(frozen=True)
class Reader:
    """`read` gives what must be finite numbers, or nothing."""

    name: str
    sample: Callable[[], Files]
    read: Callable[[Path], Any]
    share: int = 10  # of all cases, beside those of others


def table(folder: Path) -> Any:
    from nas.tables import read_table

    found = read_table(str(folder / "t.npz"))
    return [np.nan_to_num(values, nan=0, posinf=np.inf) for values in found.values.values()]


def records(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from nas.tables import natsbench

        try:
            natsbench.tabulate(str(folder / name), "me", natsbench.records(str(folder / name)))
        except UsageError as error:
            if "architectures of the space, such as" not in str(error):  # of a few there is no table, however good
                raise

    return read


def csv_table(folder: Path) -> Any:
    from nas.tables import build

    return [np.nan_to_num(values) for values in build.build(folder / "t.csv", "nasbench201", "me").values.values()]


def configuration(folder: Path) -> None:
    from nas import config
    from nas.config.yaml_files import read_yaml

    config.build(read_yaml(str(folder / "run.yaml")))


def conditions(folder: Path) -> Any:
    from nas.config.values import parse_limits
    from nas.store.conditions import parse_where

    text = (folder / "where.txt").read_text(errors="replace")
    found = [number for _, _, number in parse_where(text)]
    with contextlib.suppress(UsageError):
        parse_limits(text)
    return [0.0 for _ in found]  # a bound may be infinite


def architectures(folder: Path) -> None:
    from spaces import SPACES, presets

    lines = (folder / "architectures.txt").read_text(errors="replace").split("\n")
    said = []
    for name, line in zip(SPACES, lines, strict=False):
        space: Any = next(iter(presets(name).values()))
        try:
            space.parse(line)
        except ValueError as error:
            said.append(str(error))
    if said:
        raise UsageError(said[0])


def words(folder: Path) -> None:
    from nas.commands import cli

    lines = (folder / "words.txt").read_text(errors="replace").split("\n")
    before = os.getcwd()
    os.chdir(folder)
    try:
        for line in lines:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = cli.main([word for word in line.split(" ") if word])
            said = err.getvalue()
            if status not in (0, 1, 2) or said.count("\n") > 1 or "\x1b" in said + out.getvalue():
                raise AssertionError(f"status {status}: {said[:300]!r}")
    finally:
        os.chdir(before)


def latencies(folder: Path) -> Any:
    from nas.saved import latencies

    latency, _ = latencies.read(str(folder / "l.json"), SPACE)
    return [latency.fixed, *(number for row in latency.table for number in row)]


def comparison(folder: Path) -> Any:
    from nas.report import comparison

    return [each for curve in comparison.read(str(folder)).curves.values() for each in curve]


def predictor(folder: Path) -> Any:
    from nas.saved import predictors

    return predictors.load(folder / "p").predict(SPACE, samples.CELLS[:4])


def network(folder: Path) -> Any:
    from nas.saved.networks import load

    model = load(folder)
    size, channels = model.space.image_size, model.space.image_channels  # pyright: ignore
    if size > 64:
        return None
    return model.predict(np.zeros((1, size, size, channels), np.uint8))


def task(name: str, data_dir: bool = False, **options: Any) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from nas.tasks import load

        place = {"data_dir": str(folder)} if data_dir else {}
        found = load(name.replace("DIR", str(folder)), **place, **options)
        return [found.mean, found.std, found.train.labels.astype(float), found.test.labels.astype(float)]

    return read


def photo(folder: Path) -> None:
    from nas.saved.networks import opened

    said = []
    for path in sorted(folder.iterdir()):
        try:
            opened("image", path)
        except UsageError as error:
            said.append(error)
    if said:
        raise said[0]


def archived(folder: Path) -> None:
    from nas.commands.predict import _archived

    _archived(folder / "a.npz")


QUESTIONS = (
    "runs",
    "top it",
    "pareto it",
    "hypervolume it --objectives error,params",
    "show ARCHITECTURE",
    "report it --out r.html",
    "runs --all",
)


def store(folder: Path) -> None:
    """Every question, each of which is answered or refused in one line."""
    from nas.commands import cli

    said, before = "", os.getcwd()
    os.chdir(folder)
    try:
        for question in QUESTIONS:
            out, err = io.StringIO(), io.StringIO()
            asked = question.replace("ARCHITECTURE", "a")
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = cli.main([*asked.split(), "--store", f"sqlite:///{folder / 'nas.db'}"])
            said = said or err.getvalue()
            if status not in (0, 1, 2) or (status and err.getvalue().count("\n") != 1) or "\x1b" in out.getvalue():
                raise AssertionError(f"{question}: status {status}: {err.getvalue()[:300]!r}")
    finally:
        os.chdir(before)
    if said:
        raise UsageError(said.strip())


def resumed(folder: Path) -> None:
    from nas.job.run import search

    search({"store": f"sqlite:///{folder / 'nas.db'}", "workers": 0}, resume="it")


READERS = (
    Reader("table", samples.table, table, 20),
    Reader("NAS-Bench-201 as npz", samples.published_table, table, 6),
    Reader("NATS-Bench, one pickle", samples.nats_pickle, records("nats.pickle"), 30),
    Reader("NATS-Bench, a folder", samples.nats_folder, records("."), 20),
    Reader("NAS-Bench-201 of torch", samples.torch_file, records("nb201.pth"), 20),
    Reader("NAS-Bench-201 of torch, zip", samples.torch_zip, records("nb201.pth"), 10),
    Reader("CSV of a table", samples.csv_table, csv_table, 20),
    Reader("configuration", samples.configuration, configuration, 30),
    Reader("--where and --limit", samples.conditions, conditions, 20),
    Reader("architectures", samples.architectures, architectures, 20),
    Reader("command line", samples.words, words, 6),
    Reader("latencies", samples.latencies, latencies, 20),
    Reader("comparison", samples.comparison, comparison, 20),
    Reader("predictor", samples.predictor, predictor, 8),
    Reader("exported network", samples.real_network, network, 8),
    Reader("packed network", samples.packed_network, network, 2),
    Reader("folder of images", samples.classes, task("folder:DIR"), 20),
    Reader("folder, --skip-invalid", samples.classes, task("folder:DIR", skip_invalid=True), 10),
    Reader("tar.gz of images", samples.tars, task("folder:DIR/images.tar.gz"), 15),
    Reader("tar of images", samples.plain_tar, task("folder:DIR/images.tar"), 20),
    Reader("npz of images", samples.archive, task("npz:DIR/a.npz"), 30),
    Reader("npz to predict", samples.archive, archived, 15),
    Reader("IDX", samples.idx, task("fashion-mnist", data_dir=True), 20),
    Reader("CIFAR-10, binary", samples.binary_batches, task("cifar10", data_dir=True), 10),
    Reader("CIFAR-10, pickled", samples.pickled_batches, task("cifar10", data_dir=True), 15),
    Reader("VOC", samples.voc, task("voc:DIR", image_size=128), 20),
    Reader("COCO", samples.coco, task("coco:DIR/o.json,DIR/images", image_size=128), 20),
    Reader("photo", samples.photos, photo, 20),
    Reader("store", samples.store, store, 8),
    Reader("store, resumed", samples.store, resumed, 2),
)
