"""NAS-Bench-201 as one compact npz: accuracies in percent, hardware measurements, zero-cost scores.

Dong & Yang, "NAS-Bench-201", 2020, https://arxiv.org/abs/2001.00326; latencies of HW-NAS-Bench
(https://arxiv.org/abs/2103.10584) and HELP (https://arxiv.org/abs/2106.08630).
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from nas.errors import UsageError, one_line
from nas.plain import shown
from nas.tables.columns import Column, error_name, seconds_name
from nas.tables.table import Table, make_table
from spaces.nasbench201 import NasBench201

DATASETS = {"c10": "cifar10", "c100": "cifar100", "in16": "imagenet16_120"}
SOURCE = "NAS-Bench-201 (Dong & Yang, 2020), HW-NAS-Bench (Li et al., 2021), HELP (Lee et al., 2021)"
CELLS, EDGES, MOST_COLUMNS = 5**6, 6, 1000
UNITS = {"latency": "ms", "energy": "mJ", "intensity": "operations a byte"}


def recognises(arrays: Mapping[str, np.ndarray]) -> bool:
    return {"ops", "c10_valid_e12", "c10_epoch_s", "params_M"} <= arrays.keys()


def read(path: str, arrays: Mapping[str, np.ndarray]) -> Table:
    """Raises UsageError where a member is missing, or is not what it is in the published file."""
    try:
        ops = np.asarray(arrays["ops"])
        if ops.dtype.kind not in "iu" or ops.shape != (CELLS, EDGES) or not ((ops >= 0) & (ops < 5)).all():
            raise ValueError(f"ops={ops.dtype} {list(ops.shape)} must be integers in 0..4, [{CELLS}, {EDGES}]")
        columns, values = _columns(arrays, ops)
    except KeyError as error:
        raise UsageError(f"table={path!r} is NAS-Bench-201 without {shown(str(error), 60)}") from error
    except (ValueError, TypeError, IndexError, ArithmeticError, AttributeError, MemoryError) as error:
        said = shown(one_line(error))
        raise UsageError(f"table={path!r} is not NAS-Bench-201 as it was published: {said}") from error
    return make_table(path, "nasbench201", SOURCE, columns, ops, values)


def _columns(arrays: Mapping[str, np.ndarray], ops: np.ndarray) -> tuple[dict[str, Column], dict[str, np.ndarray]]:
    columns: dict[str, Column] = {}
    values: dict[str, np.ndarray] = {}

    def add(name: str, numbers: Any, kind: Any, unit: str, **about: Any) -> None:
        if len(columns) == MOST_COLUMNS:
            raise ValueError(f"it has more than {MOST_COLUMNS} columns")
        columns[name] = Column(kind, unit, **about)
        with np.errstate(over="ignore"):
            values[name] = np.asarray(numbers, np.float32)

    add("params", 1e6 * np.asarray(arrays["params_M"], np.float64), "cost", "parameters")
    add("flops", 1e6 * np.asarray(arrays["flops_M"], np.float64), "cost", "operations")  # as NASLib counts
    costs = NasBench201().cost(jnp.asarray(ops.astype(np.int32)))
    add("macs", costs["macs"], "cost", "multiply-adds")
    for short, dataset in DATASETS.items():
        for epochs in (12, 200):
            for split in ("valid", "test"):
                error = 1 - arrays[f"{short}_{split}_e{epochs}"] / 100
                name = error_name(dataset, split, epochs)
                add(name, error, "error", "share", dataset=dataset, split=split, epochs=epochs)
            seconds = _seconds(arrays, short, epochs)
            add(seconds_name(dataset, epochs), seconds, "seconds", "s", dataset=dataset, epochs=epochs)
    for axis, (short, dataset) in enumerate(DATASETS.items()):
        prefix = "" if short == "c10" else f"{dataset}_"
        for k, name in enumerate(arrays["hw_names"].tolist()):
            numbers = np.asarray(arrays["hw"][axis, :, k], np.float32)
            unit = UNITS[name.rpartition("_")[2]]
            suffix = {"ms": "_ms", "mJ": "_mj"}.get(unit, "")
            # -1 marks what a device cannot run.
            add(f"{prefix}{name}{suffix}", np.where(numbers < 0, np.nan, numbers), "cost", unit, dataset=dataset)
    for k, name in enumerate(arrays["lat_help_names"].tolist()):
        word = f"gtx{name}" if name[0].isdigit() else name
        add(f"{word}_latency_ms", arrays["lat_help_ms"][:, k], "cost", "ms")
    for short in ("c10", "in16"):
        for k, name in enumerate(arrays["zc_names"].tolist()):
            add(f"{DATASETS[short]}_{name}", arrays[f"zc_{short}"][:, k], "score", "", dataset=DATASETS[short])
    return columns, values


def _seconds(arrays: Mapping[str, np.ndarray], short: str, epochs: int) -> np.ndarray:
    """Training, and one pass over the validation images, on the hardware of the paper.

    `c10_epoch_s` is an epoch of 50,000 images and `c10_test_eval_s` a pass over 10,000. In the search setting
    CIFAR-10 is trained on 25,000 and validated on the other 25,000; CIFAR-100 is validated on 5,000 images. An epoch
    of ImageNet16-120 takes 3.034 times as long; it is validated on 3,000 images.
    """
    epoch, valid = {"c10": (0.5, 2.5), "c100": (1.0, 0.5), "in16": (3.034, 0.3)}[short]
    return epochs * epoch * arrays["c10_epoch_s"] + valid * arrays["c10_test_eval_s"]
