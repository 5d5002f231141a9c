"""Plots as files. The only module that imports matplotlib."""

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import UsageError
from nas.metrics import outward
from nas.plain import write_whole
from nas.report import charts, facts, output
from nas.report.comparison import Comparison
from nas.report.facts import Facts
from nas.report.learned import MOST_BARS, measured_importance

BEST, REST = "#c2570c", "#8fa9c8"
PLATE = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5}  # behind small letters
MOST_LINES = 1000  # of parallel coordinates
MOST_LETTERS, MOST_NUMBERED = 30, 40  # of the name of a class, and classes of which numbers are written


def font() -> Path:
    """A file of letters of many alphabets, which Matplotlib brings with it."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def best_so_far(path: Path, found: Comparison) -> Path:
    return _saved(comparison(found), path)


def comparison(found: Comparison) -> Any:
    """Mean and 95 % confidence band of what each strategy has found, against simulated seconds. Nothing lies above what
    is possible: the band is cut there, and a line says where that is."""
    figure, axes = _figure((8, 5))
    most = np.inf if found.most is None else found.most
    for name, (seconds, mean, half) in found.curves.items():
        (line,) = axes.plot(seconds, mean, label=name)
        low, high = mean - half, np.minimum(mean + half, most)
        axes.fill_between(seconds, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    # The first few evaluations are far below all that matters.
    late = [mean[len(mean) // 10 :].min() for _, mean, _ in found.curves.values() if len(mean) > 10]
    if not late:
        late = [mean.min() for _, mean, _ in found.curves.values()]
    top = max((np.minimum(mean + half, most).max() for _, mean, half in found.curves.values()))
    if found.most is not None:
        axes.axhline(found.most, color="#55606a", linewidth=1, linestyle="--", label=f"best there is, {found.most:.2f}")
        top = max(top, found.most) if found.most - top < 2 * (top - min(late)) + 1e-9 else top
    room = 0.04 * (top - min(late)) or 0.05
    axes.set_ylim(min(late) - room, top + room)
    axes.set_xlabel("simulated seconds")
    axes.set_ylabel(found.label)
    axes.set_title(found.title, fontsize=11)
    axes.legend(loc="lower right", frameon=False)
    return figure


def history(path: Path, of: Facts) -> Path:
    """The first objective of every trial in the order of their reports, and the best so far."""
    found = facts.progress(of)
    if not found.values:
        raise _nothing(of, "has finished")
    figure, axes = _figure((8, 5))
    places = np.arange(1, len(found.values) + 1)
    axes.plot(places, found.values, "o", color=REST, markersize=4, alpha=0.8, label=f"each {of.unit}")
    axes.step(places, found.best, where="post", color=BEST, label="best so far")
    _named(axes, f"{of.unit}s reported", of.objective, of)
    axes.legend(frameon=False)
    return _saved(figure, path)


def pareto(path: Path, of: Facts) -> Path:
    """The first two objectives of every architecture, and those that no other dominates."""
    found = facts.front(of)
    if found is None:
        raise _nothing(of, f"has {' and '.join(facts.objectives(of))}, of which there must be two,")
    first, second = found.names[:2]
    x, y = (second, first) if second in output.COUNTS else (first, second)
    figure, axes = _figure((8, 5))
    axes.plot([row[x] for row in found.rows], [row[y] for row in found.rows], "o", color=REST, markersize=4, alpha=0.8)
    edge = sorted((row[x], row[y]) for row in found.front)
    after = found.most[found.names.index(x)]
    axes.step(*zip(*edge, strict=True), "o-", where="pre" if after else "post", color=BEST, markersize=6, label="front")
    _named(axes, x, y, of)
    axes.legend(frameon=False)
    return _saved(figure, path)


def importance(path: Path, of: Facts) -> Path:
    """The share of the variance that each decision explains by itself: see `nas.report.importance`."""
    found = measured_importance(of)
    if found is None:
        raise UsageError(
            f"run={of.run.name!r} has {len(facts.scored(of)[1])} scored architectures, or all scores are equal; "
            f"allowed: at least {facts.FEW}, that differ"
        )
    order = np.argsort(-found.shares)[:MOST_BARS][::-1]
    names = [charts.plain(facts.worded(of)[i][0]) for i in order]
    figure, axes = _figure((8, 1.4 + 0.28 * len(order)))
    axes.barh(names, 100 * found.shares[order], xerr=100 * found.spread[order], color="#2563a8", ecolor="#1c2329")
    axes.set_xlim(left=0)
    axes.set_xlabel(f"share of the variance of {of.objective}, %")
    agreement = "-" if found.agreement is None else f"{found.agreement:.2f}"
    said = f"first-order functional ANOVA of a random forest; held-out rank correlation {agreement}, n = {found.rows}"
    axes.set_title(f"{of.run.name}\n{said}", fontsize=10)
    return _saved(figure, path)


def parallel(path: Path, of: Facts) -> Path:
    """A line an architecture through its choices, its costs and its score: the better, the darker."""
    rows = [row for row in map(outward, of.rows) if facts.is_number(row.get(of.objective))]
    rows = sorted(rows, key=lambda row: row[of.objective], reverse=not of.most)[-MOST_LINES:]
    length = len(facts.sizes(of))
    rows = [row for row in rows if len(row["encoding"]) == length]
    if not rows:
        raise _nothing(of, "has finished")
    words, sizes = facts.worded(of), facts.sizes(of)
    costs = [name for name in ("macs", "params") if all(facts.is_number(row.get(name)) for row in rows)]
    lines = [np.array([row["encoding"][i] for row in rows]) / max(size - 1, 1) for i, size in enumerate(sizes)]
    lines += [_scaled([row[name] for row in rows]) for name in (*costs, of.objective)]
    names = [*(charts.plain(name) for name, _ in words), *costs, of.objective]
    figure, axes = _figure((max(8, 0.62 * len(names)), 5.5))
    quality = np.linspace(0.15, 1.0, len(rows))
    spread = np.random.default_rng(0).uniform(-0.025, 0.025, (len(lines), len(rows)))  # so that equal ones are seen
    spread[-len(costs) - 1 :] = 0
    for i, line in enumerate((np.array(lines) + spread).T):
        axes.plot(
            range(len(names)), line, color=_colours()(quality[i]), alpha=0.25 + 0.6 * quality[i] ** 3, linewidth=1
        )
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axes.set_yticks([])
    for place in range(len(names)):
        axes.axvline(place, color="#d9dfe5", zorder=0)
    for i, (_, choices) in enumerate(words if len(words) <= 24 else ()):
        for j, choice in enumerate(choices if len(choices) <= 8 else ()):
            axes.text(
                i, j / max(len(choices) - 1, 1), charts.plain(choice), fontsize=6, va="bottom", bbox=PLATE, zorder=5
            )
    best = "most" if of.most else "least"
    axes.set_title(f"{of.run.name}: the darker, the better by {of.objective} ({best} is best)", fontsize=11)
    return _saved(figure, path)


OF_RUNS: dict[str, Callable[[Path, Facts], Path]] = {
    "history": history,
    "pareto": pareto,
    "importance": importance,
    "parallel": parallel,
}


def _nothing(of: Facts, what: str) -> UsageError:
    return UsageError(f"run={of.run.name!r} cannot be plotted: no {of.unit} {what} yet")


def _scaled(values: list[float]) -> np.ndarray:
    found = np.array(values, float)
    return (found - found.min()) / (np.ptp(found) or 1.0)


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    matplotlib.rcParams["text.parse_math"] = False  # and a dollar in it begins no formula
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _colours() -> Any:
    import matplotlib

    return matplotlib.colormaps["Blues"]


def _named(axes: Any, x: str, y: str, of: Facts) -> None:
    """The names of the axes, their numbers as people read them, and the title."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(of.run.name, fontsize=11)
    for axis, name in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_major_formatter(lambda value, _, name=name: charts.brief(name, float(value)))


def _saved(figure: Any, path: Path) -> Path:
    return _written(figure, path, 150)


def _written(figure: Any, path: Path, dpi: int) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font does not have: they are boxes
        data = io.BytesIO()
        figure.savefig(data, dpi=dpi, format=path.suffix.removeprefix(".").lower() or "png")
    write_whole(path, data.getvalue())
    return path


def confusion(path: Path, counts: np.ndarray, names: Sequence[str]) -> Path:
    """How many images of the class of a row were taken for that of a column, dark where they are most of the row."""
    n = len(names)
    side = min(4 + 0.35 * n, 24)
    figure, axes = _figure((side, side))
    axes.grid(visible=False)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [str(name)[:MOST_LETTERS] for name in names]
    axes.set_xticks(range(n), labels, rotation=90)
    axes.set_yticks(range(n), labels)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    for row, column in np.argwhere(counts) if n <= MOST_NUMBERED else ():
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    return _written(figure, path, 100)
