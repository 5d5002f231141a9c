"""Predictors and the strategies that learn by them, on NAS-Bench-201.

    python benchmarks/predictor_quality.py --table ../shared/benchmarks/nb201.npz            about two hours on 2 cores
    python benchmarks/predictor_quality.py --table FILE --only tau --draws 10
    python benchmarks/predictor_quality.py --table FILE --only queries --datasets cifar100 --strategies nao,seminas

`tau`: predictors are fitted on the validation accuracy on CIFAR-10 after 200 epochs of N random cells; Kendall's tau of
what they predict with the test accuracy of all 15,625, beside what was published (PINAT, AAAI 2023, table 1), from
encodings, the graph and costs alone, and for features with those of zero-cost scores. `queries`: searches by the
validation accuracy after 200 epochs, the test accuracy of the best found and the mean number of evaluations until the
best cell is met. `reuse`: `bayesian` on CIFAR-100, alone and from what predictors of elsewhere have learned: of a
search of 100 trials on CIFAR-10, of 300 random cells there, and of noise. `transfer`: from CIFAR-10 to ImageNet16-120.
`few`: 20 labels, alone and after scores that need no training. `rate`: a million architectures scored by a saved one.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report
from scipy.stats import kendalltau, rankdata

from nas.engine import study
from nas.saved import predictors
from nas.tables import Table, read_table
from nas.training.compilation import in_order, quick_start
from predictors import PREDICTORS, predictor_class
from spaces.base import Space, every, sample
from strategies import strategy_class
from strategies.prescreened import Prescreened

SIZES = (78, 156, 469, 781, 1563)
PUBLISHED = {
    "PINAT": (0.549, 0.631, 0.706, 0.761, 0.784),
    "nao": (0.467, 0.493, 0.470, 0.522, 0.526),
}
GOAL = (0.72, 0.76, 0.82, 0.84, 0.86)
ON_FEATURES = ("gp", "boosted-trees", "mlp-ensemble")
TRANSFERRED = ("gp", "gates", "nao", "mlp-ensemble")
TRIALS = {"nao": 150, "random": 150, "regularized-evolution": 150, "local-search": 150}  # of others 100


def main() -> None:
    options = _options()
    quick_start()
    table = read_table(options.table)
    parts = {"tau": tau, "queries": queries, "reuse": reuse, "transfer": transfer, "few": few, "rate": rate}
    questions = {name: functools.partial(parts[name], table, options) for name in options.only.split(",")}
    report.answer(questions, ("jax", "jaxlib", "numpy", "scipy", "lightgbm"), options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help="NAS-Bench-201")
    parser.add_argument("--only", default="tau,transfer,rate,queries", help="[%(default)s]")
    parser.add_argument("--draws", type=int, default=10, help="of `tau` and `transfer` [%(default)s]")
    parser.add_argument("--seeds", type=int, default=50, help="of `queries` [%(default)s]")
    parser.add_argument("--datasets", default="cifar100,cifar10,imagenet16_120", help="of `queries` [%(default)s]")
    parser.add_argument("--predictors", default=",".join(PREDICTORS), help="of all but `queries` [%(default)s]")
    strategies = "random,regularized-evolution,local-search,bayesian,prescreened,nao,seminas"
    parser.add_argument("--strategies", default=strategies, help="of `queries` [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    options = parser.parse_args()
    options.predictors = options.predictors.split(",")
    return options


fit = jax.jit(
    lambda predictor, space, *args: predictor.fit(space, *args), static_argnums=(0, 1), compiler_options=in_order()
)
predict = jax.jit(lambda predictor, *args: predictor.predict(*args)[0], static_argnums=0)


def cells(space: Space, draws: int, size: int) -> Iterator[np.ndarray]:
    """The places of `size` random cells, once a draw."""
    count = len(every(space))
    return (np.random.default_rng(draw).permutation(count)[:size] for draw in range(draws))


def tau(table: Table, options: argparse.Namespace) -> tuple[str, Any]:
    valid, test = (table.error("cifar10", split, 200) for split in ("valid", "test"))
    plain, scored = table.space, table.searchable(scores="cifar10")
    lines, found = [], {}
    kinds = [*((name, plain) for name in PREDICTORS), *((name, scored) for name in ON_FEATURES)]
    for name, space in (each for each in kinds if each[0] in options.predictors):
        label, predictor, rows = name + " + zero-cost" * (space is scored), predictor_class(name)(), every(plain)
        means = []
        for size in SIZES:
            taus = []
            for chosen in cells(plain, options.draws, size):
                params = fit(predictor, space, jnp.asarray(rows[chosen]), jnp.asarray(valid[chosen]))
                taus.append(kendalltau(np.asarray(predict(predictor, params, jnp.asarray(rows))), test)[0])
            means.append((float(np.mean(taus)), float(np.std(taus))))
        found[label] = means
        lines.append([label, *(f"{mean:.3f} ± {std:.3f}" for mean, std in means)])
        report.say(" ".join(lines[-1]))
    lines += [[f"*published {name}*", *(f"*{value:.3f}*" for value in row)] for name, row in PUBLISHED.items()]
    lines.append(["*goal*", *(f"*{value:.2f}*" for value in GOAL)])
    ceiling = kendalltau(valid, test)[0]
    text = f"Kendall's tau, mean and deviation of {options.draws} draws; validation itself reaches {ceiling:.3f}.\n\n"
    return text + report.table(["predictor", *(f"N={size}" for size in SIZES)], lines), found


def make(name: str) -> Any:
    if name == "prescreened":
        return Prescreened(strategy_class("regularized-evolution")(), predictor_class("gp")())
    return strategy_class(name)()


def queries(table: Table, options: argparse.Namespace) -> tuple[str, Any]:
    lines, found = [], {}
    for dataset in options.datasets.split(","):
        signal, test = (table.error(dataset, split, 200) for split in ("valid", "test"))
        for name in options.strategies.split(","):
            trials, start = TRIALS.get(name, 100), time.perf_counter()
            result = study.run(make(name), table.searchable(), signal, range(options.seeds), trials)
            seconds = time.perf_counter() - start
            reached = 100 * (1 - test[result.best()])
            met = result.rows == int(signal.argmin())
            until = np.where(met.any(1), met.argmax(1) + 1, trials)
            seen = met.cumsum(1) > 0
            points = {n: (float(reached[:, n - 1].mean()), float(seen[:, n - 1].mean())) for n in (50, 100, trials)}
            missed = int((~met.any(1)).sum())
            found[f"{dataset} {name}"] = {"points": points, "mean_queries": float(until.mean()), "missed": missed}
            cells = [f"{points[n][0]:.2f} ({100 * points[n][1]:.0f} %)" for n in (50, 100)]
            cells.append(f"{points[150][0]:.2f} ({100 * points[150][1]:.0f} %)" if 150 in points else "")
            mean = f"{until.mean():.0f}" if not missed else f"over {until.mean():.0f}"
            lines.append([dataset.replace("_", "-"), name, *cells, mean, f"{seconds / options.seeds:.1f}"])
            report.say(" ".join(lines[-1]))
    header = ["dataset", "strategy", "after 50", "after 100", "after 150", "evaluations until best", "seconds a search"]
    text = f"{options.seeds} seeds; test accuracy, and in brackets how many have met the best cell.\n\n"
    return text + report.table(header, lines), found


def reuse(table: Table, options: argparse.Namespace) -> tuple[str, Any]:
    space, rows, trials = table.searchable(), every(table.space), 100
    old, new = (table.error(name, "valid", 200) for name in ("cifar10", "cifar100"))
    strategy, kind = make("bayesian"), predictor_class("gp")()

    def labelled(source: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if source == "a search":
            found = study.run(strategy, space, old, [seed], 100).rows[0]
            return found, old[found]
        draw = np.random.default_rng(seed)
        found = draw.permutation(len(rows))[:300]
        return found, old[found] if source == "random cells" else draw.normal(size=len(found)).astype(np.float32)

    lines, found = [], {}
    for source in ("nothing", "a search", "random cells", "noise"):
        until = []
        for seed in range(options.seeds):
            start = None
            if source != "nothing":
                chosen, labels = labelled(source, seed)
                start = fit(kind, space, jnp.asarray(rows[chosen]), jnp.asarray(labels))
            met = study.run(strategy, space, new, [1000 + seed], trials, start=start).rows[0] == int(new.argmin())
            until.append(int(met.argmax()) + 1 if met.any() else trials)
        found[source] = until
        lines.append([source, f"{np.mean(until):.1f}", f"{np.median(until):.0f}", str(max(until))])
        report.say(" ".join(lines[-1]))
    text = f"Evaluations until the best cell of CIFAR-100 by validation, `bayesian`, {options.seeds} seeds.\n\n"
    return text + report.table(["started from", "mean", "median", "most"], lines), found


def transfer(table: Table, options: argparse.Namespace) -> tuple[str, Any]:
    """300 labels of CIFAR-10, then N of ImageNet16-120."""
    space, rows = table.space, every(table.space)
    old, new = (table.error(name, "valid", 200) for name in ("cifar10", "imagenet16_120"))
    test = table.error("imagenet16_120", "test", 200)
    lines, found = [], {}
    for name in (name for name in TRANSFERRED if name in options.predictors):
        predictor, cells_text = predictor_class(name)(), []
        for size in (20, 50, 100):
            taus = []
            for draw, chosen in enumerate(cells(space, options.draws, size)):
                first = np.random.default_rng(1000 + draw).permutation(len(rows))[:300]
                source = fit(predictor, space, jnp.asarray(rows[first]), jnp.asarray(old[first]))
                labels = jnp.asarray(rows[chosen]), jnp.asarray(new[chosen])
                each = fit(predictor, space, *labels), fit(predictor, space, *labels, source)
                everything = jnp.asarray(rows)
                taus.append([kendalltau(np.asarray(predict(predictor, it, everything)), test)[0] for it in each])
            alone, warm = np.mean(taus, 0)
            found[f"{name} {size}"] = [float(alone), float(warm)]
            cells_text.append(f"{alone:.3f} → {warm:.3f}")
        lines.append([name, *cells_text])
        report.say(" ".join(lines[-1]))
    text = f"Tau on ImageNet16-120 from N labels: alone → warm-started; {options.draws} draws.\n\n"
    return text + report.table(["predictor", "N=20", "N=50", "N=100"], lines), found


def few(table: Table, options: argparse.Namespace) -> tuple[str, Any]:
    """20 labels, alone and after scores that need none: of `scored` cells the ensemble of `nas.evaluators.zero_cost`,
    from the published scores."""
    valid, test = (table.error("cifar10", split, 200) for split in ("valid", "test"))
    parts = [np.asarray(table.values[name]) for name in ("cifar10_nwot", "cifar10_jacov", "params")]
    there = np.flatnonzero(np.isfinite(parts).all(0))
    space, rows, predictor = table.space, every(table.space), predictor_class("gp")()
    lines, found = [], {}
    for scored in (0, 300, 1000):
        before, after = [], []
        for draw, chosen in enumerate(cells(space, options.draws, 20)):
            source = None
            if scored:
                free = np.random.default_rng(1000 + draw).permutation(there)[:scored]
                shares = [rankdata(part[free]) / scored for part in parts]
                minus = jnp.asarray(-np.log(shares).sum(0), jnp.float32)
                source = fit(predictor, space, jnp.asarray(rows[free]), minus)
                before.append(kendalltau(np.asarray(predict(predictor, source, jnp.asarray(rows))), test)[0])
            labels = jnp.asarray(rows[chosen]), jnp.asarray(valid[chosen])
            fitted = fit(predictor, space, *labels) if source is None else fit(predictor, space, *labels, source)
            after.append(kendalltau(np.asarray(predict(predictor, fitted, jnp.asarray(rows))), test)[0])
        found[scored] = {"without labels": before, "with 20": after}
        spread = [f"{np.mean(taus):.3f} ± {np.std(taus):.3f}" if taus else "" for taus in (before, after)]
        lines.append([str(scored), *spread])
        report.say(" ".join(lines[-1]))
    text = f"Tau with the test accuracy of all cells on CIFAR-10, `gp`, {options.draws} draws.\n\n"
    return text + report.table(["cells scored without training", "no label", "20 labels"], lines), found


def rate(table: Table, options: argparse.Namespace) -> tuple[str, Any]:
    space, rows, errors = table.space, every(table.space), table.error("cifar10", "valid", 200)
    chosen = next(cells(space, 1, 300))
    million = np.asarray(sample(space, jax.random.key(0), 10**6))
    lines, found = [], {}
    for name in options.predictors:
        described = predictors.described("nasbench201", space)
        fitted = predictors.fit(name, predictor_class(name)(), described, rows[chosen], errors[chosen])
        with tempfile.TemporaryDirectory() as folder:
            predictors.write(fitted, Path(folder) / "saved")
            start = time.perf_counter()
            saved = predictors.load(Path(folder) / "saved")
            saved.predict(space, million)
        found[name] = time.perf_counter() - start
        lines.append([name, f"{found[name]:.1f}"])
        report.say(" ".join(lines[-1]))
    text = "Seconds to load a predictor of 300 rows and to score 1,000,000 architectures, compiling included.\n\n"
    return text + report.table(["predictor", "seconds"], lines), found


if __name__ == "__main__":
    main()
