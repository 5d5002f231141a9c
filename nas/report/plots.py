"""Plots. The only module that imports matplotlib."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np


def font() -> Path:
    """A file of letters of many alphabets, which Matplotlib brings with it."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def best_so_far(path: Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], label: str) -> Path:
    """Mean and 95 % confidence band of what each strategy has found, against simulated seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, (seconds, mean, half) in curves.items():
        (line,) = axes.plot(seconds, mean, label=name)
        axes.fill_between(seconds, mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel("simulated seconds")
    axes.set_ylabel(label)
    # The first few evaluations are far below all that matters.
    late = [mean[len(mean) // 10 :].min() for _, mean, _ in curves.values() if len(mean) > 10]
    if late:
        axes.set_ylim(bottom=min(late))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=150)
    return path
