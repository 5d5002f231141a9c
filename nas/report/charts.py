"""Charts as SVG text, whose points may open something: an element with `data-open` names what."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from nas.report import output
from nas.report.draw import SUBSCRIPT, lowered

WIDTH, HEIGHT = 520.0, 300.0
NARROW = 440.0  # of bars, which are mostly text
LEFT, RIGHT, TOP, BOTTOM = 84.0, 14.0, 14.0, 46.0
MOST = 1e300  # of a value, so that what lies between two of them is finite
MOST_POINTS = 1500  # that are drawn; of more, some
PALETTE = ("#2563a8", "#c2570c", "#2f7d4f", "#8a4fb0", "#b3263a", "#6b6f76", "#0f8a8a", "#a07800", "#d0609a", "#4a5a20")


@dataclasses.dataclass(frozen=True)
class Axis:
    """What values lie between, and how they are read."""

    name: str
    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float, start: float, end: float) -> float:
        return start + (value - self.low) / (self.high - self.low) * (end - start)


def axis(name: str, values: Iterable[float], whole: bool = False) -> Axis:
    """From the least to the most of the values, with some room, and four to seven round ticks."""
    values = [value for value in values if abs(value) <= MOST] or [0.0]
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    # What is a share, a count or a time is never below 0, nor an error above 1.
    low, high = (max(low - room, 0.0) if low >= 0 else low - room), high + room
    if name.endswith("error") and max(values) <= 1:
        high = min(high, 1.0)
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (factor * step) <= 6)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    ticks = [step * i for i in range(first, first + 12) if step * i <= high + 1e-9 * abs(high)]
    return Axis(name, low, high, tuple(ticks))


def progress(
    values: Sequence[float], best: Sequence[float], opened: Sequence[str], name: str, unit: str, labels: Sequence[str]
) -> str:
    """A point a trial in the order of their reports, and a line of the best so far."""
    x, y = axis(f"{unit}s reported", [0.0, float(len(values))], whole=True), axis(name, values)
    better = [i for i in range(1, len(best)) if best[i] != best[i - 1]]
    points = [
        _point(_x(x, i + 1), _y(y, values[i]), 3.2, "dot", opened[i], labels[i])
        for i in sorted(_drawn(len(values), better))
    ]
    steps = [f"M{_x(x, 1):.1f},{_y(y, best[0]):.1f}"] if best else []
    for i in better:
        steps += [f"H{_x(x, i + 1):.1f}", f"V{_y(y, best[i]):.1f}"]
    steps += [f"H{_x(x, len(best)):.1f}"] if best else []
    line = f'<path class="best" d="{" ".join(steps)}"/>'
    said = f"{name} of {len(values)} {unit}s in the order of their reports, and the best so far"
    return _framed(x, y, [line, *points], said)


def scatter(
    points: Sequence[tuple[float, float]],
    names: tuple[str, str],
    front: Sequence[int],
    opened: Sequence[str],
    labels: Sequence[str],
    down: tuple[bool, bool],
) -> str:
    """Points, of which those of the front are joined by steps. `down` says of each axis whether less is better."""
    x, y = (axis(name, [point[i] for point in points]) for i, name in enumerate(names))
    on, rest = set(front), _drawn(len(points), front)
    order = sorted(front, key=lambda i: points[i])
    corners = []
    for i, j in itertools.pairwise(order):
        # The corner is what the two dominate together: the worse of each.
        worse_x, worse_y = max if down[0] else min, max if down[1] else min
        corner = worse_x(points[i][0], points[j][0]), worse_y(points[i][1], points[j][1])
        corners += [points[i], corner]
    corners += [points[order[-1]]] if order else []
    path = " ".join(f"{_x(x, a):.1f},{_y(y, b):.1f}" for a, b in corners)
    drawn = [f'<polyline class="best" points="{path}"/>'] if len(corners) > 1 else []
    for i, (a, b) in enumerate(points):
        if i not in on and i in rest:
            drawn.append(_point(_x(x, a), _y(y, b), 3.2, "dot", opened[i], labels[i]))
    drawn += [_point(_x(x, points[i][0]), _y(y, points[i][1]), 5.5, "top", opened[i], labels[i]) for i in order]
    said = f"{len(points)} architectures by {names[0]} and {names[1]}, {len(front)} of which no other dominates"
    return _framed(x, y, drawn, said)


def pairs(points: Sequence[tuple[float, float]], names: tuple[str, str]) -> str:
    x, y = (axis(name, [point[i] for point in points]) for i, name in enumerate(names))
    drawn = [
        _point(_x(x, a), _y(y, b), 5.0, "top", "", f"{reading(names[0], a)}, {reading(names[1], b)}") for a, b in points
    ]
    return _framed(x, y, drawn, f"{len(points)} architectures by {names[0]} and {names[1]}")


def bars(names: Sequence[str], values: Sequence[float], spread: Sequence[float], said: str) -> str:
    """Shares of 1 as bars from left to right, one below the other."""
    wide = max((len(plain(name)) for name in names), default=0) * 7.0 + 14
    wide, row = min(wide, 200.0), 24.0
    end = max([value + more for value, more in zip(values, spread, strict=True)] or [0.0]) or 1.0
    scale = (NARROW - wide - 58) / end
    lines = []
    for i, (name, value, more) in enumerate(zip(names, values, spread, strict=True)):
        y = 4 + row * i
        long, low, high = value * scale, max(value - more, 0) * scale, (value + more) * scale
        lines.append(f'<text x="{wide - 8:.0f}" y="{y + 15:.0f}" text-anchor="end">{lowered(_cut(name, 30))}</text>')
        lines.append(f'<rect class="bar" x="{wide:.1f}" y="{y + 3:.1f}" width="{long:.1f}" height="15"/>')
        lines.append(f'<path class="spread" d="M{wide + low:.1f},{y + 10.5:.1f} H{wide + high:.1f}"/>')
        text = f"{100 * value:.1f} %"
        lines.append(f'<text class="value" x="{wide + high + 6:.1f}" y="{y + 15:.0f}">{text}</text>')
    return _svg(NARROW, 8 + row * len(names), lines, said, "bars")


def stacked(names: Sequence[str], shares: np.ndarray, windows: Sequence[str], said: str) -> str:
    """Shares `[names, windows]` that sum to 1, as a column a window."""
    wide = (WIDTH - LEFT - RIGHT) / max(len(windows), 1)
    high, lines = HEIGHT - TOP - BOTTOM, []
    for tick in (0, 0.5, 1):
        y = TOP + high * (1 - tick)
        lines.append(f'<text x="{LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{100 * tick:.0f} %</text>')
    for j, window in enumerate(windows):
        below = 0.0
        for i, name in enumerate(names):
            share = float(shares[i, j])
            box = f'x="{LEFT + wide * j + 1:.1f}" width="{wide - 2:.1f}" y="{TOP + high * (1 - below - share):.1f}"'
            title = f"<title>{escape(f'{name}: {100 * share:.0f} % of trials {window}')}</title>"
            colour = PALETTE[i % len(PALETTE)]
            lines.append(f'<rect {box} height="{high * share:.1f}" fill="{colour}">{title}</rect>')
            below += share
    ends = [(0, "start"), (len(windows) - 1, "end")] if len(windows) > 1 else [(0, "start")]
    for j, anchor in ends:
        x = LEFT + wide * (j + (anchor == "end"))
        lines.append(f'<text x="{x:.1f}" y="{HEIGHT - 26:.0f}" text-anchor="{anchor}">trials {windows[j]}</text>')
    return _svg(WIDTH, HEIGHT - 10, lines, said)


def heat(names: Sequence[str], shares: np.ndarray, windows: Sequence[str], said: str) -> str:
    """Shares `[names, windows]` as cells, the darker the more."""
    label = min(max((len(plain(name)) for name in names), default=0) * 6.6 + 10, 128.0)
    wide, row = (300 - label) / max(len(windows), 1), 19.0
    lines = []
    for i, name in enumerate(names):
        y = 2 + row * i
        lines.append(f'<text x="{label - 6:.0f}" y="{y + 14:.0f}" text-anchor="end">{lowered(_cut(name, 20))}</text>')
        for j, window in enumerate(windows):
            share = float(shares[i, j])
            title = f"<title>{escape(f'{name}: {100 * share:.0f} % of trials {window}')}</title>"
            box = f'x="{label + wide * j:.1f}" y="{y:.1f}" width="{wide - 1:.1f}" height="{row - 1:.1f}"'
            lines.append(f'<rect {box} fill="{shade(share)}">{title}</rect>')
    return _svg(300, 4 + row * len(names), lines, said, "small")


def shade(share: float) -> str:
    """From nearly white to dark blue."""
    low, high = (238, 242, 247), (18, 64, 122)
    mixed = [round(a + (b - a) * min(max(share, 0.0), 1.0) ** 0.8) for a, b in zip(low, high, strict=True)]
    return "#" + "".join(f"{each:02x}" for each in mixed)


def reading(name: str, value: float) -> str:
    return f"{name} {output.number(name, value)}"


def plain(text: str) -> str:
    """A name of a decision or choice where there are no subscripts."""
    return SUBSCRIPT.sub(r"\1", text)


def brief(name: str, value: float) -> str:
    """Without zeros that say nothing: 8 % and 650k."""
    return re.sub(r"\.0+(?=\D|$)|(?<=\.\d)0+(?=\D|$)", "", output.number(name, value))


def _texts(over: Axis) -> list[str]:
    """Of its ticks, no two of which read alike."""
    texts = [brief(over.name, tick) for tick in over.ticks]
    return texts if len(set(texts)) == len(texts) else [f"{tick:,.7g}" for tick in over.ticks]


def _drawn(count: int, always: Iterable[int]) -> set[int]:
    """The indices of the points that are drawn: at most so many, and those that must be."""
    return (
        {*np.linspace(0, count - 1, MOST_POINTS).astype(int).tolist(), *always}
        if count > MOST_POINTS
        else {*range(count)}
    )


def _x(over: Axis, value: float) -> float:
    return over.place(value, LEFT, WIDTH - RIGHT)


def _y(over: Axis, value: float) -> float:
    return over.place(value, HEIGHT - BOTTOM, TOP)


def _point(x: float, y: float, radius: float, kind: str, opened: str, label: str) -> str:
    """A circle that says what it is, and opens what has this name."""
    opens = f' data-open="{escape(opened)}" tabindex="0" role="button" aria-label="{escape(label)}"' if opened else ""
    said = f"<title>{escape(label)}</title>"
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"{opens}>{said}</circle>'


def _framed(x: Axis, y: Axis, content: Sequence[str], said: str) -> str:
    """With the axes, their ticks and names."""
    lines = []
    for tick, text in zip(y.ticks, _texts(y), strict=True):
        at = _y(y, tick)
        lines.append(f'<path class="grid" d="M{LEFT},{at:.1f} H{WIDTH - RIGHT}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{at + 5:.1f}" text-anchor="end">{text}</text>')
    for tick, text in zip(x.ticks, _texts(x), strict=True):
        at = _x(x, tick)
        lines.append(f'<path class="grid" d="M{at:.1f},{TOP} V{HEIGHT - BOTTOM}"/>')
        lines.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    name = f'<text class="name" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.name)}</text>'
    turned = f"translate(14,{TOP + (HEIGHT - TOP - BOTTOM) / 2}) rotate(-90)"
    side = f'<text class="name" transform="{turned}" text-anchor="middle">{escape(y.name)}</text>'
    return _svg(WIDTH, HEIGHT, [*lines, name, side, *content], said)


def _svg(width: float, height: float, lines: Sequence[str], said: str, kind: str = "") -> str:
    box = f'viewBox="0 0 {width:.0f} {height:.0f}"'
    head = f'<svg class="chart {kind}" {box} role="group" aria-label="{escape(said)}">'
    return "\n".join([head, f"<desc>{escape(said)}</desc>", *lines, "</svg>"])


def _cut(text: str, most: int) -> str:
    return text if len(plain(text)) <= most else f"{plain(text)[: most - 1]}…"
