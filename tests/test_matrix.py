"""Every space with every strategy, through the command line: what runs, what is refused, and what is said of faults."""

import dataclasses
import functools
import json
import re
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import bands

import nas
from nas import config, matrix
from nas.commands.cli import main
from nas.engine import gradient
from nas.errors import RunError, UsageError
from nas.job.subject import bind
from nas.matrix import PRODUCT, Result
from nas.store.sql import Store
from nas.tasks import load
from spaces import SPACES
from strategies import GRADIENT_STRATEGIES, STRATEGIES

ROOT = Path(nas.__file__).parents[1]
GRADIENT, BLACK_BOX = tuple(GRADIENT_STRATEGIES), tuple(STRATEGIES)
NO_MIXTURE = "has no network that mixes operations"
ONE_HOT = "this space has no mixtures but of one choice each"
WHOLE = "strategy.partial=4 must be 1 in this space"
# All pairs that are refused, and why. Whatever is not here runs.
REFUSED = {
    "nasnet": dict.fromkeys(GRADIENT, NO_MIXTURE),
    "binary-width": dict.fromkeys(GRADIENT, NO_MIXTURE),
    PRODUCT: dict.fromkeys(GRADIENT, NO_MIXTURE),
    "nas-fpn": dict.fromkeys([name for name in GRADIENT if name != "gumbel-darts"], ONE_HOT),
    "nasbench201": dict.fromkeys(["pc-darts", "bnas-beihang"], WHOLE),
}
MODE = "--evaluator train --final.steps 1"


@functools.cache
def task_of(space: str):
    return load("scenes", image_size=128, max_images=8) if "nas-fpn" in space else bands()


def test_the_matrix_is_of_all_that_there_is():
    assert matrix.spaces() == (*SPACES, PRODUCT)
    assert matrix.strategies() == (*BLACK_BOX, *GRADIENT)
    assert matrix.TINY.keys() == set(matrix.spaces())
    assert matrix.SMALL.keys() <= set(BLACK_BOX)


@pytest.mark.parametrize("space", matrix.spaces())
def test_a_gradient_strategy_is_refused_where_the_list_says(space):
    task, found = task_of(space), {}
    for strategy in GRADIENT:
        data, _ = config.parse(matrix.words(space, strategy))
        settings = dataclasses.replace(config.build(data), objectives=task.kind.metric)
        try:
            gradient.check(settings, bind(settings.space, task), task)
        except UsageError as refused:
            found[strategy] = str(refused)
    expected = REFUSED.get(space, {})
    assert found.keys() == expected.keys()
    assert all(expected[name] in said and "\n" not in said for name, said in found.items())


@pytest.mark.parametrize(("space", "strategy"), [("binary-width", "darts"), ("nasbench201", "pc-darts")])
def test_a_refused_pair_leaves_nothing(space, strategy, tmp_path):
    found = matrix.run(space, strategy, tmp_path)
    assert found.outcome == "refused"
    assert REFUSED[space][strategy] in str(found.why)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("space", "strategy"), [("shufflenet", "evolution"), ("shufflenet", "gumbel-darts")])
def test_a_pair_runs_as_a_user_would_run_it(space, strategy, tmp_path):
    found = matrix.run(space, strategy, tmp_path)
    assert (found.outcome, found.why) == ("ran", None)
    assert found.trials == (matrix.TRIALS if strategy in BLACK_BOX else 2)
    assert (found.metric, found.best is not None and 0 <= found.best <= 1) == ("error", True)
    with Store(f"sqlite:///{tmp_path / 'nas.db'}") as store:
        run = store.run(matrix.NAME)
        assert (run.space, run.strategy, run.status) == ("shufflenet", strategy, "finished")
        assert found.best == min(trial.measurements["error"] for trial in store.trials(run.id))


def test_parts_of_ones_own_are_pairs_too(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    own = ("examples/my_space.py:Chain", "examples/my_strategy.py:Greedy")
    for kind, name in zip(("space", "strategy"), own, strict=True):
        assert matrix.chosen(f"{kind}s", name, (), kind) == [name]
    found = matrix.run(*own, tmp_path, 3, MODE.split())
    assert (found.outcome, found.trials, found.why) == ("ran", 3, None)


def test_what_is_no_part_is_refused_by_its_name(capsys):
    assert main(["matrix", "--spaces", "dart"]) == 2
    assert "spaces='dart' is not one of" in capsys.readouterr().err
    assert main(["matrix", "--strategies", "ranodm"]) == 2
    assert "did you mean 'random'?" in capsys.readouterr().err
    assert main(["matrix", "--trials", "0"]) == 2
    assert "trials=0 must lie in 1..1000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "file", "outcome", "why"),
    [
        (2, None, "refused", "it is so"),
        (2, "nas.db", "failed", "refused after it was stored: it is so"),
        (1, "nas.db", "failed", "it is so"),
    ],
)
def test_only_what_stored_nothing_is_refused(status, file, outcome, why, tmp_path, monkeypatch):
    def command(words):
        if file:
            (tmp_path / file).touch()
        print("nas: error: it is so", file=sys.stderr)
        return status

    monkeypatch.setattr(matrix.pkgutil, "resolve_name", lambda name: command)
    found = matrix.run("darts", "random", tmp_path)
    assert (found.outcome, found.why) == (outcome, why)


def results() -> list[Result]:
    return [
        Result("a", "x", "ran", "nas search", 1.25, 6, "error", 0.5),
        Result("a", "y", "refused", "nas search", 0.1, why="no mixtures"),
        Result("b", "x", "failed", "nas search", 2.0, why="a | b"),
        Result("b", "y", "refused", "nas search", 0.1, why="no mixtures"),
    ]


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(matrix, "matrix", lambda pairs, trials, more, limit, heard: results())
    return ["matrix", "--spaces", "darts"]


def test_a_pair_that_failed_is_told_by_the_exit_status(told, capsys, tmp_path):
    assert main(told) == 1
    said = capsys.readouterr()
    assert "1 ran, 2 refused, 1 failed, in 3 s" in said.out
    assert "1 of 4 pairs failed; the first: b with x: failed: a | b" in said.err
    out = tmp_path / "matrix.json"
    assert main([*told, "--format", "json", "--out", str(out)]) == 1
    rows = json.loads(out.read_text())
    assert [row["outcome"] for row in rows] == ["ran", "refused", "failed", "refused"]
    assert rows[0]["command"] == "nas search"


def test_a_table_that_cannot_be_written_is_printed(told, capsys, monkeypatch, tmp_path):
    def full(path, data):
        raise RunError(f"{path} cannot be written")

    monkeypatch.setattr("nas.commands.matrix.write_whole", full)
    assert main([*told, "--out", str(tmp_path / "matrix.md")]) == 1
    said = capsys.readouterr()
    assert "1 ran, 2 refused, 1 failed" in said.out
    assert "matrix.md cannot be written" in said.err


def test_as_markdown_reasons_stand_once_below_the_table(told, capsys):
    assert main([*told, "--format", "markdown"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| | `a` | `b` |"
    assert lines[2] == "| `x` | error 50.00 %, 6 trials, 1.2 s | failed (2) |"
    assert lines[3] == "| `y` | refused (1) | refused (1) |"
    assert lines[5:7] == ["1. no mixtures", "2. a | b"]


@pytest.mark.slow
def test_a_process_that_dies_or_hangs_takes_one_pair_along(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        textwrap.dedent("""
        import dataclasses, os, time

        @dataclasses.dataclass(frozen=True)
        class Dies:
            generation = 1
            def init(self, space, limits=()): os._exit(3)
            def ask(self, state, key, n, pending): ...
            def tell(self, state, observed): ...

        class Hangs(Dies):
            def init(self, space, limits=()): time.sleep(600)
        """)
    )
    space, names = f"{ROOT}/examples/my_space.py:Chain", ["random", f"{file}:Dies", "random"]
    found = matrix.matrix([(space, name) for name in names[:2]] + [(space, "local-search")], 2, MODE.split())
    assert [result.outcome for result in found] == ["ran", "failed", "ran"]
    assert found[1].why == "its process ended with status 3"
    slow = matrix.matrix([(space, f"{file}:Hangs")], 2, MODE.split(), limit=30.0)
    assert [result.why for result in slow] == ["it took more than 30 seconds"]


@pytest.mark.slow
@pytest.mark.parametrize("strategies", [BLACK_BOX, GRADIENT], ids=["black-box", "gradient"])
@pytest.mark.parametrize("space", matrix.spaces())
def test_each_pair_of_a_space_runs_or_is_refused(space, strategies, tmp_path, capsys):
    out = tmp_path / "matrix.json"
    words = ["--spaces", space, "--strategies", ",".join(strategies), "--format", "json", "--out", str(out)]
    status = main(["matrix", *words])
    rows = json.loads(out.read_text())
    failed = [(row["strategy"], row["why"]) for row in rows if row["outcome"] == "failed"]
    assert (failed, status) == ([], 0)
    assert [row["strategy"] for row in rows] == list(strategies)
    refused = {row["strategy"]: row["why"] for row in rows if row["outcome"] == "refused"}
    expected = {name: why for name, why in REFUSED.get(space, {}).items() if name in strategies}
    assert refused.keys() == expected.keys()
    assert all(expected[name] in why for name, why in refused.items())
    counts = {row["trials"] for row in rows if row["outcome"] == "ran"}
    assert counts <= ({matrix.TRIALS} if strategies == BLACK_BOX else {2})


def test_the_list_of_the_docs_is_that_of_what_is_refused():
    page = (ROOT / "docs/matrix.md").read_text()
    section = page.partition("## What is refused")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row.split("|")[1])}
    products = any("products" in row for row in rows)
    assert named & set(SPACES) | ({PRODUCT} if products else set()) == REFUSED.keys()
    assert {"gumbel-darts", *REFUSED["nasbench201"]} <= named
