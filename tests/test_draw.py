"""Drawings: whatever a space draws is well-formed, legible and complete, as SVG and as DOT; `nas show` writes them."""

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from conftest import Toy

from nas.commands.cli import main
from nas.config import build_space
from nas.report import draw
from nas.store.sql import NewTrial, Store
from spaces import SPACES, presets, published
from spaces.abilities import Drawing, decisions
from spaces.base import architecture_id

TWISTED = Drawing('<"twisted">', ("a", "b", "c & d", "e"), ((0, 1, "x<y"), (1, 2, ""), (0, 2, "z"), (0, 3, "w\\")))


SHOWN = ("darts:DARTS_V2", "darts:AmoebaNet", "nas-fpn:NAS-FPN")


def drawings() -> dict[str, list[Drawing]]:
    found = {"twisted": [TWISTED], "alone": [Drawing("", ("one",), ())]}
    for name in SPACES:
        space = next(iter(presets(name).values()))
        rows = np.random.default_rng(0).integers(0, space.cardinalities, (3, len(space.cardinalities)))
        found |= {f"{name} {i}": space.drawings(row) for i, row in enumerate(rows)}
    return found | {name: published(*name.split(":")).drawings for name in SHOWN}


DRAWINGS = drawings()
every_drawing = pytest.mark.parametrize("graphs", DRAWINGS.values(), ids=DRAWINGS)


@every_drawing
def test_a_drawing_has_every_node_edge_and_label(graphs):
    root = ET.fromstring(draw.svg(graphs))
    texts = sorted("".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text"))
    labels = [label for graph in graphs for *_, label in graph.edges if label]
    titles = [graph.title for graph in graphs if graph.title]
    notes = [note for graph in graphs for note in graph.notes]
    names = [draw.SUBSCRIPT.sub(r"\1", name) for graph in graphs for name in graph.nodes]
    assert texts == sorted(names + labels + titles + notes)
    lines = [element for element in root.iter() if element.tag.endswith("}path") and "marker-end" in element.attrib]
    assert len(lines) == sum(len(graph.edges) for graph in graphs)


@every_drawing
def test_nothing_overlaps_or_lies_outside(graphs):
    root = ET.fromstring(draw.svg(graphs))
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    rects = [element.attrib for element in root.iter() if element.tag.endswith("}rect")][1:]
    boxes = [[float(each[name]) for name in ("x", "y", "width", "height")] for each in rects]
    for x, y, wide, high in boxes:
        assert x >= 0
        assert y >= 0
        assert x + wide <= width
        assert y + high <= height
    for (x, y, wide, high), (u, v, wider, higher) in itertools.combinations(boxes, 2):
        assert x + wide <= u or u + wider <= x or y + high <= v or v + higher <= y


def test_the_rows_of_a_pyramid_are_its_levels_and_its_columns_the_cells():
    root = ET.fromstring(draw.svg(DRAWINGS["nas-fpn:NAS-FPN"]))
    texts = [element for element in root.iter() if element.tag.endswith("}text")]
    x, y = ({each.text: float(each.attrib[name]) for each in texts} for name in ("x", "y"))
    for level in range(3, 8):
        new = next(text for text in y if text and text.endswith((f"sum P{level}", f"attn P{level}")))
        assert y[new] == y[f"P{level}"]
    assert [y[f"P{level}"] for level in range(3, 8)] == sorted((y[f"P{level}"] for level in range(3, 8)), reverse=True)
    cells = ["attn at 4", "sum at 4", "sum P3", "sum P4", "attn P5", "attn P7", "attn P6"]
    assert [x[cell] for cell in cells] == sorted(x[cell] for cell in cells)


@every_drawing
def test_edges_lead_to_the_right(graphs):
    root = ET.fromstring(draw.svg(graphs))
    for element in root.iter():
        if "marker-end" in element.attrib and "d" in element.attrib:  # not what goes around to the next row
            numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", element.attrib["d"])]
            assert numbers[::2] == sorted(numbers[::2])


@every_drawing
def test_dot_has_as_many_nodes_and_edges(graphs):
    text = draw.dot(graphs)
    assert text.count(" -> ") == sum(len(graph.edges) + graph.follows for graph in graphs)
    assert len(re.findall(r"^ +n\d+_\d+ \[", text, re.MULTILINE)) == sum(len(graph.nodes) for graph in graphs)
    assert text.count("{") == text.count("}") == 1 + len(graphs)


@pytest.mark.parametrize("name", SPACES)
def test_every_decision_and_choice_has_a_name(name):
    for space in presets(name).values():
        words = decisions(space)
        assert [len(choices) for _, choices in words] == list(space.cardinalities)
        assert len({name for name, _ in words}) == len(words)
        assert all(len(set(choices)) == len(choices) for _, choices in words)


def test_a_product_has_the_words_of_both_and_other_spaces_have_numbers():
    space = build_space("shufflenet:small+nas-fpn:tiny")
    words = decisions(space)
    assert [len(choices) for _, choices in words] == list(space.cardinalities)
    assert (words[0].name, words[20].name) == ("backbone: stage 1, block 1", "neck: cell 0: first input")
    assert decisions(Toy())[1] == ("decision 1", ("0", "1", "2"))


def test_the_states_of_a_cell_have_their_numbers_below_the_line():
    text = draw.svg(DRAWINGS["darts:DARTS_V2"])
    assert 'c</tspan><tspan dy="4" font-size="75%">k-1</tspan>' in text
    assert "{" not in text
    assert "label=<c<SUB>k-2</SUB>>" in draw.dot(DRAWINGS["darts:DARTS_V2"])


def test_the_stages_of_a_chain_go_from_the_image_to_the_head():
    space = presets("shufflenet")["tiny"]
    graphs = space.drawings(np.zeros(9, np.int32))
    assert graphs[0].nodes[:2] == ("image 8 x 8 x 3", "3x3, 32")
    assert graphs[-1].nodes[-1] == "classifier, 1000"
    assert [graph.title for graph in graphs][1:] == [
        "stage 2: 64 channels, 4 x 4 pixels",
        "stage 3: 128 channels, 2 x 2 pixels",
    ]
    assert draw.svg(graphs).count("<polyline") == 2
    assert "depthwise" in draw.svg(graphs)


def test_quotes_are_escaped_in_dot():
    text = draw.dot([TWISTED])
    assert 'label="<\\"twisted\\">"' in text
    assert 'label="w\\\\"' in text


def answer(capsys, *words: str) -> str:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_published_architecture_is_shown_without_a_store(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = answer(capsys, "show", "darts:DARTS_V2", "--svg", "cell.svg", "--dot", "cell.dot")
    assert text.startswith("Genotype(normal=[('sep_conv_3x3', 0)")
    assert re.search(r"36 channels, 20 cells +3\.35M +528\.36M", text)
    assert re.search(r"48 channels, 14 cells +4\.72M +529\.91M", text)
    assert "normal cell" in (tmp_path / "cell.svg").read_text()
    assert "sep_conv_3x3" in (tmp_path / "cell.dot").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cell.dot", "cell.svg"]
    rows = answer(capsys, "show", "darts:DARTS_V1", "--format", "csv").splitlines()
    assert "3169414" in rows[1]


@pytest.mark.parametrize("name", ["darts:DARTS_V2", "nasnet:NASNet-A"])
def test_what_is_shown_of_a_published_architecture_is_shown_again(capsys, name):
    shown = answer(capsys, "show", name)
    text = shown.splitlines()[0]
    space = name.partition(":")[0]
    assert answer(capsys, "show", f"{space}:{text}") == shown
    if space == "darts":
        assert answer(capsys, "show", f"darts:DARTS_V2 = {text}") == shown


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("darts:DARTS_V3",), "did you mean 'darts:DARTS_V2'"),
        (("nowhere:DARTS_V2",), "darts:DARTS_V2"),
        (("shufflenet:SPOS",), "is not one of"),
        (("darts:Genotype(1)",), "has no normal_concat"),
        (("darts:DARTS_V2 = None()",), "is not of the form"),
        (("nasnet:normal: add(x~0, x~1)",), "is not two cells of 5 blocks"),
        (("darts:DARTS_V2", "--svg", "absent/cell.svg"), "cannot be written"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_the_reason(capsys, tmp_path, monkeypatch, words, reason):
    monkeypatch.chdir(tmp_path)
    assert main(("show", *words)) == 2
    assert reason in capsys.readouterr().err


def test_an_architecture_of_a_run_is_drawn(capsys, tmp_path):
    space, row = presets("nasbench201")["tiny"], np.array([3, 1, 2, 4, 0, 3])
    url, name = f"sqlite:///{tmp_path}/nas.db", architecture_id(space, row)
    with Store(url, create=True) as store:
        given = {"given": {"space": {"name": "nasbench201:tiny", "width": 8, "cells": 1}}}
        facts = {"space": "nasbench201", "strategy": "random", "task": "digits", "code_version": "0", "seed": 0}
        run = store.add_run(name=None, config=given, **facts)
        store.add_trials(run.id, [NewTrial(0, name, row.tolist(), space.describe(row), "nasbench201", 0, 0)])
        store.finish_trial(run.id, 0, metrics={"error": 0.5}, error=None, seconds=1)
    answer(capsys, "show", name[:6], "--store", url, "--svg", str(tmp_path / "cell.svg"))
    drawn = (tmp_path / "cell.svg").read_text()
    assert all(op in drawn for op in ("nor_conv_3x3", "skip_connect", "avg_pool_3x3"))
    assert "none" not in drawn.replace('fill="none"', "")
