"""The commands that need no store: what there is, which version it is, and whose packages are run."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

import nas
from nas import registry
from nas.commands import parts
from nas.commands.cli import main
from nas.report import command_lines

ROOT = Path(nas.__file__).parents[1]


@pytest.mark.parametrize("kind", ["space", "strategy", "task", "evaluator", "predictor"])
def test_every_part_of_ours_has_a_line(kind):
    assert parts.LINES[kind].keys() == set(registry.ours(kind))


@pytest.mark.parametrize(
    "words", [["spaces"], ["strategies"], ["tasks"], ["evaluators"], ["predictors", "kinds"]], ids=" ".join
)
def test_a_list_names_all_that_there_is(words, capsys):
    kind = {"strategies": "strategy", "kinds": "predictor"}.get(words[-1], words[-1].removesuffix("s"))
    assert main([*words, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows][: len(registry.ours(kind))] == list(registry.ours(kind))
    assert all(row["what it is"] for row in rows)
    assert main(words) == 0
    text = capsys.readouterr().out
    assert all(line.startswith(name) for line, name in zip(text.splitlines(), registry.ours(kind), strict=False))


def test_the_version_is_that_of_the_installed_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nas-engine {nas.__version__}\n"
    assert importlib.metadata.version("nas-engine") == nas.__version__


def test_search_is_a_command(capsys):
    assert main(["search", "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: nas search")
    assert "what is searched:" in said
    assert main(["search", "--trials", "none"]) == 2
    assert capsys.readouterr().err.startswith("nas: error: trials='none'")


def test_a_run_is_gone_on_with_by_it():
    assert command_lines.resume("it's", command_lines.DEFAULT_STORE).endswith("""nas search --resume 'it'"'"'s'""")


@pytest.mark.parametrize("line", [["-m", "nas", "runs"], ["-m", "run_search"]], ids=["nas", "run_search"])
@pytest.mark.parametrize("place", ["strategies.py", "spaces/__init__.py"])
def test_a_file_that_hides_a_package_is_named(tmp_path, line, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("")
    done = subprocess.run([sys.executable, *line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert place in done.stderr
    assert "rename it" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["data", "check", f"folder:{'x' * 300}"],
        ["top", "latest", "--store", f"sqlite:///{'x' * 300}"],
        ["predict", "x" * 300, "a.jpg"],
        ["show", "nasbench201:x", "--svg", f"{'x' * 300}.svg"],
    ],
    ids=lambda words: words[0],
)
def test_a_name_that_no_file_can_have_is_refused_in_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
