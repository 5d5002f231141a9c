"""What `nas compare --out` wrote, read again: how what each strategy has found grows with time.

The files are CSV and JSON, and come from anywhere: what is read is bounded, and every number checked.
"""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nas.errors import UsageError
from nas.plain import from_json, read_bounded, write_whole

CURVES, ABOUT = "curves.csv", "comparison.json"
MOST_BYTES = 2**26
MOST_STRATEGIES = 100
COLUMNS = ("strategy", "simulated_seconds", "mean", "half_width")

Curve = tuple[np.ndarray, np.ndarray, np.ndarray]  # seconds, mean, half of the 95 % confidence interval


class Comparison(NamedTuple):
    curves: dict[str, Curve]
    label: str  # of what is compared
    title: str
    most: float | None = None  # what no strategy can exceed: the best in the table


def titled(what: str, seeds: int | None) -> str:
    return (
        f"{what}, mean of {seeds} seeds and its 95 % confidence band"
        if seeds
        else f"{what}, mean over seeds and its 95 % band"
    )


def write(folder: Path, judged: str, seeds: int, most: float) -> Path:
    """What the curves are of, beside them."""
    path = folder / ABOUT
    write_whole(path, (json.dumps({"judged": judged, "seeds": seeds, "most": most}) + "\n").encode())
    return path


def read(folder: str) -> Comparison:
    """Raises UsageError where the folder is none that `nas compare --out` wrote."""
    about = _about(Path(folder) / ABOUT, folder)
    rows = csv.DictReader(_text(Path(folder) / CURVES, folder).splitlines())
    try:
        points = _points(rows, folder)
    except csv.Error as error:
        raise UsageError(f"run={folder!r}: {CURVES} is not CSV that nas compare wrote: {error}") from error
    curves: dict[str, Curve] = {}
    for name, each in points.items():
        seconds, mean, half = np.array(each).T
        curves[name] = (seconds, mean, half)
    judged = str(about.get("judged", "accuracy"))[:100]
    seeds, most = about.get("seeds"), about.get("most")
    bound = float(most) if isinstance(most, int | float) and abs(most) <= 100 else None
    return of(curves, judged, seeds if type(seeds) is int else None, bound)


def of(curves: dict[str, Curve], judged: str, seeds: int | None, most: float | None) -> Comparison:
    """`judged` is the column of the table by which what was found is told, in percent, `most` the best in it."""
    label = f"{judged.replace('_', ' ')} accuracy of what was found so far, %"
    return Comparison(curves, label, titled("Strategies side by side", seeds), most)


def _points(rows: "csv.DictReader[str]", folder: str) -> dict[str, list[tuple[float, ...]]]:
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise UsageError(f"run={folder!r}: {CURVES} must have the columns {', '.join(COLUMNS)}")
    points: dict[str, list[tuple[float, ...]]] = {}
    for row in rows:
        try:
            values = tuple(float(row[name]) for name in COLUMNS[1:])
        except (TypeError, ValueError):
            values = (math.nan,)
        if not all(map(math.isfinite, values)) or (row["strategy"] not in points and len(points) == MOST_STRATEGIES):
            raise UsageError(f"run={folder!r}: line {rows.line_num} of {CURVES} is no point of a curve")
        points.setdefault(row["strategy"], []).append(values)
    if not points:
        raise UsageError(f"run={folder!r}: {CURVES} has no curves")
    return points


def _about(path: Path, folder: str) -> Mapping[str, object]:
    """Nothing where an earlier version wrote the folder."""
    if not path.exists():
        return {}
    try:
        found = from_json(_text(path, folder))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"run={folder!r}: {ABOUT} is not JSON that nas compare wrote")
    return found


def _text(path: Path, folder: str) -> str:
    try:
        return read_bounded(f"run={folder!r}: {path.name}", path, MOST_BYTES, "comparison").decode()
    except UnicodeDecodeError:
        raise UsageError(f"run={folder!r}: {path.name} is not text") from None
