"""The plot of `nas compare`, also of the folder that it wrote: what it is of is said, and nothing is impossible."""

import json

import numpy as np
import pytest
from conftest import refusal

from nas.commands.cli import main
from nas.report import comparison, plots

ROWS = "strategy,simulated_seconds,mean,half_width\n"


@pytest.fixture
def folder(tmp_path):
    seconds = np.linspace(0, 100, 50)
    lines = [f"random,{t},{94 - 5 / (1 + t)},{3.0 / (1 + t)}" for t in seconds]
    lines += [f"other,{t},{94.2 - 4 / (1 + t)},0.4" for t in seconds]
    (tmp_path / comparison.CURVES).write_text(ROWS + "\n".join(lines) + "\n")
    comparison.write(tmp_path, "cifar10_test", 500, 94.37)
    return tmp_path


def test_nothing_is_drawn_above_what_is_possible(folder):
    (axes,) = plots.comparison(comparison.read(str(folder))).axes
    assert axes.get_ylim()[1] < 94.6
    bands = [path.vertices[:, 1].max() for each in axes.collections for path in each.get_paths()]
    assert max(bands) <= 94.37
    assert 93 < axes.get_ylim()[0] < 94  # nor are the first evaluations, which are far below what matters


def test_the_plot_says_what_it_is_of(folder):
    (axes,) = plots.comparison(comparison.read(str(folder))).axes
    assert "mean of 500 seeds" in axes.get_title()
    assert axes.get_ylabel() == "cifar10 test accuracy of what was found so far, %"
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["random", "other", "best there is, 94.37"]


def test_a_folder_of_an_earlier_version_is_plotted(capsys, folder):
    (folder / comparison.ABOUT).unlink()
    assert main(["plot", str(folder), "--kind", "compare", "--out", str(folder / "x.svg")]) == 0
    assert (folder / "x.svg").stat().st_size > 5000
    assert "compare" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "must have the columns"),
        (ROWS, "has no curves"),
        (ROWS + "random,1,2\n", "line 2 of curves.csv is no point"),
        (ROWS + "random,1,nan,0\n", "line 2 of curves.csv is no point"),
        (ROWS + "".join(f"s{i},1,1,1\n" for i in range(200)), "is no point of a curve"),
    ],
)
def test_what_is_no_comparison_is_refused(folder, text, said):
    (folder / comparison.CURVES).write_text(text)
    assert said in refusal(comparison.read, str(folder))


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_what_is_said_of_it_must_be_ours(folder, text):
    (folder / comparison.ABOUT).write_text(text)
    assert "is not JSON that nas compare wrote" in refusal(comparison.read, str(folder))


def test_a_long_file_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(comparison, "MOST_BYTES", 100)
    assert "is longer than 100 bytes" in refusal(comparison.read, str(folder))


@pytest.mark.parametrize("about", [{"seeds": "many", "most": None}, {"judged": 5, "most": True}])
def test_what_is_said_oddly_is_left_out(folder, about):
    (folder / comparison.ABOUT).write_text(json.dumps(about))
    plots.comparison(comparison.read(str(folder)))


def test_no_folder_is_one_line(capsys, tmp_path):
    assert main(["plot", str(tmp_path / "none"), "--kind", "compare", "--out", str(tmp_path / "x.png")]) == 2
    assert "cannot be read" in capsys.readouterr().err
