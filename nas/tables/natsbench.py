"""The official files of NATS-Bench (topology) and NAS-Bench-201, whose curves are averaged over seeds.

Dong et al., "NATS-Bench", 2021, https://arxiv.org/abs/2009.00437; Dong & Yang, "NAS-Bench-201", 2020,
https://arxiv.org/abs/2001.00326. The layout, and which numbers are meant, were read from the public code
https://github.com/D-X-Y/NATS-Bench (`api_utils.py`, `api_topology.py`, at 1d4a304) and
https://github.com/D-X-Y/NAS-Bench-201 (`api_201.py`, at eb6a5ae). The three architectures that are samples in the
former (`fake_torch_dir`) give the numbers of its own reader; no whole distribution was at hand.

| path | what it is |
|---|---|
| `NATS-tss-v1_0-3ffb9-simple` | a folder of one file for each architecture; read in little memory |
| `NATS-tss-v1_0-3ffb9.pickle.pbz2` | all of them in one, which takes as much memory as it took the official reader |
| `NAS-Bench-201-v1_1-096897.pth` | the same of before, where training for 12 epochs is `less` and for 200 `full` |
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import UsageError, one_line
from nas.plain import shown
from nas.tables.columns import Column, error_name, seconds_name
from nas.tables.table import Table, make_table
from nas.unpickle import DAMAGE, load
from spaces import presets

SPACE, EDGES = "nasbench201", 6
SOURCES = {
    "nats-bench": "NATS-Bench, topology (Dong et al., 2021)",
    "nas-bench-201": "NAS-Bench-201 (Dong & Yang, 2020)",
}
EPOCHS = {"12": 12, "less": 12, "200": 200, "full": 200}
# Where the official `get_more_info` looks. CIFAR-10 is trained twice: without the validation images, and with them.
RUNS = {
    ("cifar10", "valid"): ("cifar10-valid", "x-valid"),
    ("cifar10", "test"): ("cifar10", "ori-test"),
    ("cifar100", "valid"): ("cifar100", "x-valid"),
    ("cifar100", "test"): ("cifar100", "x-test"),
    ("imagenet16_120", "valid"): ("ImageNet16-120", "x-valid"),
    ("imagenet16_120", "test"): ("ImageNet16-120", "x-test"),
}
COSTS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16_120": "ImageNet16-120"}
TRUSTED_SEED = 888  # where seeds disagree on what an architecture costs: issue 36 of NATS-Bench

Results = Mapping[int, Mapping[str, Any]]  # by epochs of training, the state of the official `ArchResults`


def read(path: str, source: str) -> Table:
    """The table of a distribution. Raises UsageError, for one of which architectures are missing too."""
    return tabulate(path, source, records(path))


def tabulate(path: str, source: str, named: Iterable[tuple[str, Results]]) -> Table:
    space = next(iter(presets(SPACE).values()))
    encodings, rows = [], []
    for name, results in named:
        try:
            encodings.append(space.parse(name))
            rows.append(measurements(results))
        except DAMAGE as error:
            raise UsageError(f"table={path!r}: architecture {len(rows)} is damaged: {_said(error)}") from error
    values = {name: np.array([row[name] for row in rows], np.float32) for name in COLUMNS}
    values = {name: column for name, column in values.items() if not np.isnan(column).all()}
    columns = {name: COLUMNS[name] for name in values}
    return make_table(path, SPACE, source, columns, np.array(encodings, np.int32).reshape(-1, EDGES), values)


def records(path: str) -> Iterator[tuple[str, Results]]:
    """Every architecture's name in the notation of the space, and its results."""
    yield from _in_folder(path) if Path(path).is_dir() else _in_file(path)


def _in_folder(path: str) -> Iterator[tuple[str, Results]]:
    names = _names(path, load(Path(path) / "meta.pickle.pbz2"))
    files = [_file(path, i) for i in range(len(names))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UsageError(f"table={path!r} lacks {len(missing)} of its {len(files)} files, such as {missing[0]}")
    for name, file in zip(names, files, strict=True):
        yield name, _results(str(file), name, load(file))


def _file(path: str, i: int) -> Path:
    short, usual = (Path(path) / f"{number}.pickle.pbz2" for number in (i, f"{i:06d}"))
    return short if short.is_file() else usual


def _in_file(path: str) -> Iterator[tuple[str, Results]]:
    data = load(path)
    names = _names(path, data)
    infos = data.get("arch2infos")
    if not isinstance(infos, dict):
        raise UsageError(f"table={path!r} has no results: it has no 'arch2infos'")
    for i, name in enumerate(names):
        if i in infos:
            yield name, _results(path, name, infos[i])


def _names(path: str, data: Any) -> Sequence[str]:
    names = data.get("meta_archs") if isinstance(data, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"table={path!r} is not of NATS-Bench or NAS-Bench-201: it has no list 'meta_archs'")
    return names


def _results(path: str, name: str, infos: Any) -> Results:
    states = {EPOCHS[key]: infos[key] for key in EPOCHS if key in infos} if isinstance(infos, dict) else {}
    if not states or not all(isinstance(state, dict) for state in states.values()):
        raise UsageError(f"table={path!r} has no results of {shown(name, 80)!r} by epochs")
    for state in states.values():
        text = state.get("arch_str")
        if not isinstance(text, str) or text != name:  # what is no text may take for ever to be written
            said = shown(text, 80) if isinstance(text, str) else f"a {type(text).__name__}"
            raise UsageError(f"table={path!r}: the results of {shown(name, 80)!r} are those of {said!r}")
    return states


def measurements(results: Results) -> dict[str, float]:
    """The numbers of one architecture by column, NaN where there are none."""
    found = dict.fromkeys(COLUMNS, math.nan)
    for epochs, state in results.items():
        for (dataset, split), (run, part) in RUNS.items():
            trials = _trials(state, run)
            accuracy = _mean([trial["eval_acc1es"].get(f"{part}@{epochs - 1}") for trial in trials.values()])
            found[error_name(dataset, split, epochs)] = 1 - accuracy / 100
            if split == "valid":
                seconds = [_seconds(trial, part, epochs) for trial in trials.values()]
                found[seconds_name(dataset, epochs)] = _mean(seconds)
    for epochs in sorted(results, reverse=True):  # of the shortest training, as the official `get_cost_info` does
        for dataset, run in COSTS.items():
            trials = _trials(results[epochs], run)
            latencies = [_mean(trial["latency"] or []) for trial in trials.values()]
            _put(found, f"{dataset}_latency_ms", 1e3 * _mean([each for each in latencies if each > 0]))
            if dataset == "cifar10":
                _put(found, "params", 1e6 * _agreed(trials, "params"))
                _put(found, "macs", 1e6 * _agreed(trials, "flop"))
    return found


def _trials(state: Mapping[str, Any], run: str) -> dict[int, Mapping[str, Any]]:
    """By seed."""
    return {seed: state["all_results"][run, seed] for seed in state["dataset_seed"].get(run, ())}


def _seconds(trial: Mapping[str, Any], part: str, epochs: int) -> float | None:
    """What the official `simulate_train_eval` charges: all of the training and one pass over the validation images."""
    train, passes = trial["train_times"] or {}, trial["eval_times"] or {}
    training = [train.get(epoch) for epoch in range(epochs)]
    validation = [passes.get(f"{part}@{epoch}") for epoch in range(epochs)]
    if None in training or None in validation:
        return None
    return epochs * _mean(training) + _mean(validation)


def _agreed(trials: Mapping[int, Mapping[str, Any]], name: str) -> float:
    numbers = {seed: float(trial[name]) for seed, trial in trials.items()}
    if len({f"{number:.5f}" for number in numbers.values()}) > 1:
        return numbers.get(TRUSTED_SEED, math.nan)
    return _mean(list(numbers.values()))


def _mean(numbers: Sequence[Any]) -> float:
    given = [float(number) for number in numbers if number is not None]
    return math.fsum(given) / len(given) if given else math.nan


def _put(found: dict[str, float], name: str, number: float) -> None:
    if not math.isnan(number):
        found[name] = number


def _said(error: BaseException) -> str:
    text = one_line(error)
    return f"it has no {text}" if isinstance(error, KeyError) else text


def _columns() -> dict[str, Column]:
    columns = {"params": Column("cost", "parameters"), "macs": Column("cost", "multiply-adds")}
    columns |= {f"{dataset}_latency_ms": Column("cost", "ms", dataset) for dataset in COSTS}
    for epochs in sorted(set(EPOCHS.values())):
        for dataset in COSTS:
            for split in ("valid", "test"):
                columns[error_name(dataset, split, epochs)] = Column("error", "share", dataset, split, epochs)
            columns[seconds_name(dataset, epochs)] = Column("seconds", "s", dataset, epochs=epochs)
    return columns


COLUMNS = _columns()
