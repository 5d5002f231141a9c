"""Drawings of architectures: graphs from left to right, as SVG and as DOT text.

The layers of a graph are those of Sugiyama, Tagawa & Toda, "Methods for Visual Understanding of Hierarchical System
Structures", 1981: an edge passes through a place of its own in every layer between its ends, and its label lies at
one of these. So labels have room, and lines go around nodes. Where the places of nodes mean something, they keep them,
and lines go along their rows, beside the nodes.
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from html import escape

from spaces.abilities import Drawing

LETTER, LINE = 7.2, 30.0  # the width of a letter and the height of a place, in pixels
GAP = 26.0  # between layers
LANE = 17.0  # between lines that go along a row
MARGIN = 16.0
INSET = 20.0  # of graphs, beside which a line may come down from the one above
NOTE = 18.0  # the height of a line below a graph
TITLE = 26.0
COLOURS = {"node": "#dbe9f6", "end": "#d5ecd4", "line": "#5b6770", "text": "#1c2329"}
SUBSCRIPT = re.compile(r"_\{([^{}]*)\}")  # c_{k-1} is a c with k-1 below it, as in TeX
SMALL = ' font-size="75%"'
FONT = 'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12"'


@dataclasses.dataclass(eq=False)
class Place:
    """Where a node lies, or where an edge passes a layer."""

    layer: int
    text: str = ""
    node: bool = False
    end: bool = False
    x: float = 0.0
    y: float = 0.0
    near: list["Place"] = dataclasses.field(default_factory=list)

    @property
    def width(self) -> float:
        return len(SUBSCRIPT.sub(r"\1", self.text)) * LETTER + (20 if self.node else 8) if self.text else 0.0


def svg(graphs: Sequence[Drawing], name: str = "arrow", title: str = "") -> str:
    """The graphs one below the other, as a file that browsers show. Of several in one page each needs a `name` of its
    own; `title` is for those who do not see it."""
    parts, top, wide = [], MARGIN, 0.0
    inset = INSET if any(graph.follows for graph in graphs) else 0.0
    before: Place | None = None  # the last node of the graph above
    for graph, after in itertools.zip_longest(graphs, graphs[1:]):
        places, lines = _laid_out(graph) if graph.places is None else _in_places(graph, graph.places)
        low = min(place.y for place in places)
        top += 2 * LANE if graph.follows and before else 0
        for place in places:
            place.x, place.y = place.x + MARGIN + inset, place.y - low + top + LINE / 2 + (TITLE if graph.title else 0)
        last = places[len(graph.nodes) - 1]
        last.end &= not (after and after.follows)
        if graph.follows and before:
            places[0].end = False
            parts.append(_around(before, places[0], top - LANE, name))
        if graph.title:
            parts.append(_text(MARGIN + inset, top + 12, graph.title, anchor="start", weight="bold"))
        parts += [_curve(line, name) for line in lines]
        parts += [_box(place) for place in places if place.text]
        wide = max(
            wide, *(place.x + place.width / 2 for place in places), MARGIN + inset + len(graph.title) * LETTER * 1.1
        )
        top = max(place.y for place in places) + LINE
        for note in graph.notes:
            parts.append(_text(MARGIN + inset, top + 8, note, anchor="start"))
            wide, top = max(wide, MARGIN + inset + len(note) * LETTER), top + NOTE
        before = last
    width, height = wide + MARGIN + inset, top + (NOTE / 2 if graphs and graphs[-1].notes else 0)
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    arrow = (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{COLOURS["line"]}"/></marker>'
    )
    said = f"<title>{escape(title)}</title>\n" if title else ""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{said}<defs>{arrow}</defs>\n'
    return head + '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"


def dot(graphs: Sequence[Drawing]) -> str:
    """The graphs in the language of Graphviz."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def label(text: str) -> str:
        parts = SUBSCRIPT.split(text)
        words = "".join(f"<SUB>{escape(part)}</SUB>" if i % 2 else escape(part) for i, part in enumerate(parts))
        return f"<{words}>" if len(parts) > 1 else quoted(text)

    lines = ["digraph architecture {", "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    for i, graph in enumerate(graphs):
        title = quoted(chr(10).join((graph.title, *graph.notes))).replace(chr(10), "\\n")
        lines += [f"  subgraph cluster_{i} {{", f"    label={title};"]
        lines += [f"    n{i}_{j} [label={label(name)}];" for j, name in enumerate(graph.nodes)]
        lines += [f"    n{i}_{a} -> n{i}_{b} [label={quoted(text)}];" for a, b, text in graph.edges]
        lines.append("  }")
        if graph.follows and i:
            lines.append(f"  n{i - 1}_{len(graphs[i - 1].nodes) - 1} -> n{i}_0 [constraint=false];")
    return "\n".join([*lines, "}"]) + "\n"


def _laid_out(graph: Drawing) -> tuple[list[Place], list[list[Place]]]:
    """All places, and for each edge those it passes."""
    depths = [0] * len(graph.nodes)
    for _ in graph.nodes:
        for a, b, _ in graph.edges:
            depths[b] = max(depths[b], depths[a] + 1)
    ends = {i for i in range(len(graph.nodes)) if i not in {a for a, *_ in graph.edges}}
    ends |= {i for i in range(len(graph.nodes)) if i not in {b for _, b, _ in graph.edges}}
    # Every second layer is one of nodes, so that an edge has a place for its label.
    nodes = [Place(2 * depths[i], name, True, i in ends) for i, name in enumerate(graph.nodes)]
    places, lines = list(nodes), []
    for a, b, label in graph.edges:
        between = [Place(layer) for layer in range(2 * depths[a] + 1, 2 * depths[b])]
        between[0].text = label
        line = [nodes[a], *between, nodes[b]]
        for one, other in itertools.pairwise(line):
            one.near.append(other)
            other.near.append(one)
        places, lines = places + between, [*lines, line]
    layers = [[p for p in places if p.layer == layer] for layer in range(2 * max(depths) + 1)]
    _spread(layers)
    x = 0.0
    for layer in layers:
        width = max((place.width for place in layer), default=0.0)
        for place in layer:
            place.x = x + width / 2
        x += width + GAP
    return places, lines


def _in_places(graph: Drawing, at: Sequence[tuple[int, int]]) -> tuple[list[Place], list[list[Place]]]:
    """All places, and for each edge those it passes; every edge leads to a later column. Between two columns lines
    change rows, and else they have a lane above or below a row."""
    ends = {i for i in range(len(graph.nodes)) if i not in {a for a, *_ in graph.edges}}
    ends |= {i for i in range(len(graph.nodes)) if i not in {b for _, b, _ in graph.edges}}
    nodes = [
        Place(column, name, True, i in ends) for i, (name, (column, _)) in enumerate(zip(graph.nodes, at, strict=True))
    ]
    half = max(place.width for place in nodes) / 2
    pitch = 2 * half + 2.5 * GAP
    lanes: dict[tuple[int, int], list[int]] = {}  # of a row and its side, the column at which each lane is free again
    runs: list[tuple[Place, Place, str, tuple[int, int], int]] = []
    for a, b, label in sorted(graph.edges, key=lambda edge: (at[edge[0]][0], at[edge[1]][0])):
        side = 1 if at[a][1] > at[b][1] else -1
        free = lanes.setdefault((at[b][1], side), [])
        lane = -1
        if at[b][0] - at[a][0] > 1:
            lane = next((i for i, column in enumerate(free) if column <= at[a][0]), len(free))
            free[lane : lane + 1] = [at[b][0] - 1]
        runs.append((nodes[a], nodes[b], label, (at[b][1], side), lane))
    y, heights = 0.0, {}
    for row in range(max(row for _, row in at) + 1):
        y += LANE * len(lanes.get((row, -1), ()))
        heights[row] = y
        y += LINE + LANE * (1 + len(lanes.get((row, 1), ())))
    for place, (column, row) in zip(nodes, at, strict=True):
        place.x, place.y = column * pitch + half, heights[row]
    places, lines = list(nodes), []
    for start, end, label, (row, side), lane in runs:
        between = []
        if lane >= 0:
            height = heights[row] + side * (LINE / 2 + 6 + LANE * lane)
            between = [Place(0, x=x, y=height) for x in (start.x + pitch - half, end.x - pitch + half)]
        if label:
            text = Place(0, label, x=(start.x + end.x) / 2, y=(start.y + end.y) / 2)
            if between:  # where lanes begin, for they may end at one node
                text.x, text.y = between[0].x + text.width / 2, between[0].y
            between.insert(1, text)
        places, lines = places + between, [*lines, [start, *between, end]]
    return places, lines


def _spread(layers: list[list[Place]]) -> None:
    """Heights: each place near the mean of those it is joined to, and no two of a layer closer than a line."""
    for layer in layers:
        for i, place in enumerate(layer):
            place.y = (i - (len(layer) - 1) / 2) * LINE
    for sweep in range(24):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            wish = {id(place): sum(p.y for p in place.near) / max(len(place.near), 1) for place in layer}
            layer.sort(key=lambda place: wish[id(place)])
            heights = [wish[id(place)] for place in layer]
            for i in range(1, len(layer)):
                heights[i] = max(heights[i], heights[i - 1] + LINE)
            # What was pushed down moves up again by half, so that the layer stays where it wishes to be.
            shift = sum(wish[id(place)] - y for place, y in zip(layer, heights, strict=True)) / max(len(layer), 1)
            for place, y in zip(layer, heights, strict=True):
                place.y = y + shift


def _curve(line: list[Place], name: str) -> str:
    start, end = line[0], line[-1]
    points = [(start.x + start.width / 2, start.y)]
    points += [(place.x + side * place.width / 2, place.y) for place in line[1:-1] for side in (-1, 1)]
    points.append((end.x - end.width / 2, end.y))
    text = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for (x, y), (u, v) in itertools.pairwise(points):
        text += f" C{(x + u) / 2:.1f},{y:.1f} {(x + u) / 2:.1f},{v:.1f} {u:.1f},{v:.1f}"
    return f'<path d="{text}" fill="none" stroke="{COLOURS["line"]}" marker-end="url(#{name})"/>'


def _around(start: Place, end: Place, y: float, name: str) -> str:
    """From the end of a graph to the beginning of the one below it, at this height between them."""
    right, left = start.x + start.width / 2, end.x - end.width / 2
    text = f"{right:.1f},{start.y:.1f} {right + INSET / 2:.1f},{start.y:.1f} {right + INSET / 2:.1f},{y:.1f} "
    text += f"{left - INSET:.1f},{y:.1f} {left - INSET:.1f},{end.y:.1f} {left:.1f},{end.y:.1f}"
    return f'<polyline points="{text}" fill="none" stroke="{COLOURS["line"]}" marker-end="url(#{name})"/>'


def _box(place: Place) -> str:
    fill = ("white", COLOURS["node"], COLOURS["end"])[place.node + (place.node and place.end)]
    height = LINE - (6 if place.node else 14)
    edge = f' rx="6" stroke="{COLOURS["line"]}"' if place.node else ""
    box = f'<rect x="{place.x - place.width / 2:.1f}" y="{place.y - height / 2:.1f}" width="{place.width:.1f}"'
    return f'{box} height="{height:.1f}" fill="{fill}"{edge}/>' + _text(place.x, place.y + 4, place.text)


def _text(x: float, y: float, text: str, anchor: str = "middle", weight: str = "normal") -> str:
    style = f'{FONT} text-anchor="{anchor}" font-weight="{weight}" fill="{COLOURS["text"]}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{lowered(text)}</text>'


def lowered(text: str) -> str:
    """Text for SVG, in which subscripts are below the line."""
    if not SUBSCRIPT.search(text):
        return escape(text)
    found, low = "", False
    for i, part in enumerate(SUBSCRIPT.split(text)):
        if not part:
            continue
        shift = f' dy="{4 if i % 2 else -4}"' if low != bool(i % 2) else ""
        found += f"<tspan{shift}{SMALL if i % 2 else ''}>{escape(part)}</tspan>"
        low = bool(i % 2)
    return found
